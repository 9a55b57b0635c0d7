"""The loss on recordings of subjects that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toolkit.corpus.batches import BatchSampler, Source
from toolkit.errors import UsageError
from toolkit.objective.objective import Objective
from toolkit.objective.scale import seed_step
from toolkit.recipe import Recipe

BATCHES = 8  # that the loss is the mean of


def split(sources: Sequence[Source], share: float, seed: int) -> tuple[list[Source], list[Source]]:
    """Recordings to train on, and those of a ``share`` of the subjects, one at least, to be held out; by the seed.

    Raises UsageError where there are fewer than two subjects.
    """
    subjects = sorted({source.subject for source in sources})
    if len(subjects) < 2:
        raise UsageError(f"--held-out keeps whole subjects back, and all {len(sources)} recordings are of one: {subjects[0]}.")
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    chosen = set(np.random.default_rng([seed, len(subjects)]).permutation(subjects)[:count].tolist())
    return [s for s in sources if s.subject not in chosen], [s for s in sources if s.subject in chosen]


@dataclass(frozen=True)
class HeldOut:
    """Mean loss and its trivial level over batches of recordings that were not trained on."""

    loss: float
    trivial: float
    recordings: int
    subjects: int


@torch.no_grad()
def score(objective: Objective, sources: Sequence[Source], recipe: Recipe, device: torch.device, *, bf16: bool) -> HeldOut:
    """Score recordings that were held out, with masks no step had. Raises ReadError when none of them can be read."""
    sampler, training = BatchSampler(sources, recipe), objective.training
    objective.eval()
    found = []
    for number in range(BATCHES):
        step = recipe.training.steps + number
        seed_step(recipe.training.seed, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            scored = objective(sampler.batch(step), step, device)
        found.append((float(scored.loss), float(scored.trivial)))
    objective.train(training)
    loss, trivial = (sum(column) / BATCHES for column in zip(*found, strict=True))
    return HeldOut(loss, trivial, len(sources), len(sampler.subjects))
