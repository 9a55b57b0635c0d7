"""Recordings that are not trained on, and what they cost."""

from dataclasses import replace

import pytest
import torch

from toolkit.corpus.batches import BatchSampler
from toolkit.errors import UsageError
from toolkit.model import masked, tokenizers
from toolkit.objective.objective import Objective
from toolkit.training import held_out

CPU = torch.device("cpu")


def named(sources, names):
    return [replace(source, given_subject=name) for source, name in zip(sources * len(names), names, strict=False)]


def test_whole_subjects_are_held_out_at_least_one_never_all(sources):
    both = named(sources, ["a", "b", "a", "c", "b", "d"])
    for share, count in ((0.01, 1), (0.5, 2), (0.9, 3)):
        train, held = held_out.split(both, share, seed=3)
        assert len({s.subject for s in held}) == count
        assert not {s.subject for s in train} & {s.subject for s in held} and len(train) + len(held) == len(both)
    assert held_out.split(both, 0.5, seed=3) == held_out.split(both, 0.5, seed=3)
    assert len({held_out.split(both, 0.3, seed=seed)[1][0].subject for seed in range(20)}) > 1
    with pytest.raises(UsageError, match="all 2 recordings are of one: a"):
        held_out.split(named(sources, ["a", "a"]), 0.5, seed=0)


def test_the_score_is_the_mean_over_batches_no_step_had_and_leaves_the_model_as_it_was(sources, tiny):
    recipe = tiny(encoder__dropout=0.5)
    objective = Objective(recipe, masked.build(recipe), tokenizers.build(recipe), ("a",)).train()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    found = held_out.score(objective, sources, recipe, CPU, bf16=False)
    assert objective.training and all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    sampler, objective = BatchSampler(sources, recipe), objective.eval()
    with torch.no_grad():
        steps = range(recipe.training.steps, recipe.training.steps + held_out.BATCHES)
        expected = [objective(sampler.batch(step), step, CPU) for step in steps]
    assert found.loss == pytest.approx(sum(float(s.loss) for s in expected) / len(expected), rel=1e-6)
    assert found.trivial == pytest.approx(sum(float(s.trivial) for s in expected) / len(expected), rel=1e-6)
