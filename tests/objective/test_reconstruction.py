"""The plainest objective, one pass and one term: hide tokens, predict them, score the hidden ones in the data's unit."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from readers.schema import Channel
from tests.models import talking
from toolkit.corpus.batches import Batch, collate
from toolkit.corpus.windows import load, plan
from toolkit.model import masked, tokenizers
from toolkit.objective.objective import Objective
from toolkit.objective.scale import LEAST_SCALE, step_generator, visible_scale

FORMULAS = {
    "l1": np.abs,
    "l2": np.square,
    "smooth_l1": lambda d: np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5),
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(sources, tiny):
    source = next(s for s in sources if len(s.channels) == 12)
    return collate([load(source.recording, w, tiny().data, source.channels) for w in plan(source.length, 200, 100)[:4]])


@pytest.fixture(scope="module")
def gappy(batch):
    """The batch with part of it not valid, so that some hidden tokens are not."""
    valid = batch.valid.copy()
    valid[0, 3:, :70] = False
    valid[1:, 4] = False
    return dataclasses.replace(batch, values=np.where(valid, batch.values, 0).astype(np.float32), valid=valid)


def objective_of(recipe, model=None, tokens=None):
    """The recipe's objective; ``tokens`` stand in for those of any batch."""
    tokenizer = tokenizers.build(recipe)
    if tokens is not None:
        tokenizer.tokenize = lambda batch, device=None: tokens
    return Objective(recipe, model or masked.build(recipe), tokenizer)


def score(batch, recipe, model, step):
    scored = objective_of(recipe, model)(batch, step, CPU)
    return float(scored.loss.detach()), float(scored.trivial)


def looked(objective, batch, step):
    """The score of a step, and what its pass saw and predicted: (scored, look, prediction)."""
    looks, predictions = [], []
    look, predict = objective.model.look, objective.model.predictions
    objective.model.look = lambda *given: looks.append(look(*given)) or looks[-1]
    objective.model.predictions = lambda *given: predictions.extend(predict(*given)) or predictions
    scored = objective(batch, step, CPU)
    return scored, looks[0], predictions[0]


def test_the_term_is_a_function_of_the_step_and_not_of_the_random_state(batch, tiny):
    model = masked.build(tiny())
    torch.manual_seed(0)
    first = score(batch, tiny(), model, 5)
    torch.manual_seed(1)
    assert score(batch, tiny(), model, 5) == first != score(batch, tiny(), model, 6)


def test_a_step_does_not_depend_on_those_before_it(batch, tiny):
    objective = objective_of(tiny())
    after = [float(objective(batch, step, CPU).loss.detach()) for step in (3, 4, 5)][-1]
    assert after == score(batch, tiny(), masked.build(tiny()), 5)[0]


def test_another_seed_hides_other_tokens_at_the_same_step(batch, tiny):
    model = masked.build(tiny())
    assert score(batch, tiny(), model, 5) != score(batch, tiny(training__seed=4), model, 5)


def test_generators_differ_by_each_of_their_numbers():
    numbers = [(0, 0), (0, 1), (1, 0), (2**32 - 1, 0), (0, 2**40), (0, 0, 1), (0, 0, 2, 1), (0, 1, 1)]
    drawn = [tuple(torch.rand(4, generator=step_generator(*n)).tolist()) for n in numbers]
    assert len(set(drawn)) == len(numbers)
    assert drawn == [tuple(torch.rand(4, generator=step_generator(*n)).tolist()) for n in numbers]


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_the_loss_is_that_of_hidden_valid_patches_and_the_trivial_level_that_of_predicting_zero(gappy, tiny, kind):
    """In the unit of the data, against patches cut from the signals by hand and a scale computed in float64."""
    recipe = tiny(loss__kind=kind)
    scored, look, prediction = looked(objective_of(recipe), gappy, 2)
    channels, steps, patch = 12, 20, recipe.tokenizer.patch
    patches = gappy.values.astype(np.float64).reshape(4, channels * steps, patch)
    valid = gappy.valid.reshape(4, channels * steps, patch).all(-1)
    losses, levels, skipped = [], [], 0
    for b in range(4):
        seen = [t for t in look.visible[b].tolist() if valid[b, t]]
        unit = max(np.sqrt(np.square(patches[b, seen]).mean()), LEAST_SCALE)  # twelve leads share one scale
        for place, t in enumerate(look.hidden[b].tolist()):
            if not valid[b, t]:
                skipped += 1
                continue
            guess = unit * prediction.values[b, place].detach().double().numpy()
            losses.append(FORMULAS[kind](guess - patches[b, t]).mean())
            levels.append(FORMULAS[kind](patches[b, t]).mean())
    assert skipped > 10 and look.hidden.shape == (4, 180)  # 0.75 of 240
    assert math.isclose(float(scored.loss.detach()), np.mean(losses), rel_tol=1e-4)
    assert math.isclose(float(scored.trivial), np.mean(levels), rel_tol=1e-4)
    assert list(scored.terms) == ["reconstruction"] and scored.terms["reconstruction"].loss == scored.loss


def test_what_a_pass_predicts_is_what_the_model_completes(batch, tiny):
    """One way through the model: what training scores is what restoration gets."""
    objective = objective_of(tiny())
    _, look, prediction = looked(objective, batch, 1)
    with torch.no_grad():
        torch.testing.assert_close(objective.model(look.tokens, look.visible, look.hidden), prediction.values.detach())


def test_what_is_not_valid_changes_neither_loss_nor_gradients(batch, tiny):
    recipe = tiny()
    valid = batch.valid.copy()
    valid[:, 4] = False
    results = []
    for junk in (0.0, np.nan):
        model = masked.build(recipe)
        values = np.where(valid, batch.values, np.float32(junk))
        scored = objective_of(recipe, model)(dataclasses.replace(batch, values=values, valid=valid), 0, CPU)
        scored.loss.backward()
        results.append([scored.loss.detach(), *(p.grad for p in model.parameters())])
        assert all(torch.isfinite(r).all() for r in results[-1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_amplitude_of_what_is_hidden_does_not_reach_the_model(batch, tiny):
    """Scaled up together, hidden patches must not be seen in the input: the model's predictions stay what they were."""
    recipe = tiny()
    tokens = tokenizers.build(recipe).tokenize(batch)
    plain, look, before = looked(objective_of(recipe, talking(recipe), tokens), batch, 0)
    hidden = torch.zeros_like(tokens.valid).scatter(1, look.hidden, True)
    louder = dataclasses.replace(tokens, patches=torch.where(hidden[..., None], tokens.patches * 100, tokens.patches))
    scored, _, after = looked(objective_of(recipe, talking(recipe), louder), batch, 0)
    assert torch.equal(before.values, after.values) and float(scored.loss.detach()) > 100 * float(plain.loss.detach())
    spoilt = dataclasses.replace(tokens, patches=torch.where(hidden[..., None], tokens.patches, tokens.patches * 100 + 1))
    assert not torch.equal(looked(objective_of(recipe, talking(recipe), spoilt), batch, 0)[2].values, before.values)


# The unit in which the model sees a sample.


def some_tokens(tiny, scale):
    """Twelve leads of 20 tokens with these numbers of scale groups (one a lead), some tokens not valid."""
    generator = torch.Generator().manual_seed(0)
    names = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    channels = tuple(Channel(n, n, "ecg", "mV", 1e-3, 100.0) for n in names)
    values = np.random.default_rng(0).normal(size=(3, 12, 200)) * np.linspace(0.05, 4, 12)[:, None]
    tokens = tokenizers.build(tiny()).tokenize(Batch(values.astype(np.float32), np.ones((3, 12, 200), bool), (channels,) * 3))
    valid = torch.rand(tokens.valid.shape, generator=generator) < 0.8
    return dataclasses.replace(tokens, valid=valid, scale=torch.tensor(scale).repeat_interleave(20).expand(3, -1))


def test_the_unit_is_the_rms_of_what_is_visible_and_valid_in_each_group(tiny):
    tokens = some_tokens(tiny, [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2])
    visible = torch.stack([torch.randperm(240, generator=torch.Generator().manual_seed(s))[:60] for s in range(3)])
    factor = visible_scale(tokens, visible)
    for b in range(3):
        for group in range(3):
            inside = tokens.scale[b] == group
            seen = [t for t in visible[b].tolist() if inside[t] and tokens.valid[b, t]]
            want = max(np.sqrt(np.square(tokens.patches[b, seen].double().numpy()).mean()), LEAST_SCALE)
            np.testing.assert_allclose(factor[b, inside].numpy(), want, rtol=1e-5)
    assert (factor[:, :20] == LEAST_SCALE).all()  # a lead of deviation 0.05: a part without a beat is not blown up


def test_a_group_of_which_nothing_is_visible_and_tokens_of_a_fixed_unit_keep_the_scale_they_have(tiny):
    tokens = some_tokens(tiny, [0] * 6 + [1] * 3 + [-1] * 3)
    visible = torch.cat([torch.arange(0, 40), torch.arange(180, 240)]).expand(3, -1)
    factor = visible_scale(tokens, visible)
    assert (factor[:, 120:] == 1).all() and (factor[:, :120] != 1).all()


def test_one_sample_can_be_overfitted(tiny):
    """Forty steps on one sine with one mask must at least halve the loss: gradients flow through every part."""
    recipe = tiny(data__kinds=("ecg",))
    time = np.arange(200, dtype=np.float32) / 100
    values = np.stack([np.sin(2 * np.pi * time), np.cos(2 * np.pi * time)])[None].astype(np.float32) * np.float32(2**0.5)
    channels = tuple(Channel(n, n, "ecg", "mV", 1e-3, 100.0) for n in ("I", "V2"))
    given = Batch(values, np.ones(values.shape, bool), (channels,))
    objective = objective_of(recipe)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        scored = objective(given, 0, CPU)
        optimizer.zero_grad()
        scored.loss.backward()
        assert all(p.grad is not None for p in objective.parameters())
        optimizer.step()
        losses.append(float(scored.loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
