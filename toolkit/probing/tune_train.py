"""The steps of one training on labelled intervals: AdamW, warm-up and cosine, a rate of its own for each layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.probing.tune_model import Target, Tuned, layer_numbers
from toolkit.probing.tune_windows import Windows

STEPS, MOST_EPOCHS = 300, 40  # where no number of epochs is asked for: as many as make so many steps, at most so many
SMALLEST_BATCH, LARGEST_BATCH, BATCHES = 4, 16, 8  # intervals a step: an eighth of the training part, 4 to 16
MOST_WINDOWS = 8  # of an interval in one step, drawn anew each time; predictions take all
WARMUP, FINAL = 0.1, 0.01
WEIGHT_DECAY, BETAS, CLIP_NORM = 0.05, (0.9, 0.999), 1.0


@dataclass(frozen=True)
class Plan:
    """How long a training part is trained on: passes over it, and steps in each."""

    epochs: int
    per_epoch: int

    @classmethod
    def of(cls, rows: int, epochs: int | None) -> Plan:
        """The plan for so many rows; None: the default number of epochs."""
        per_epoch = max(1, round(rows / min(LARGEST_BATCH, max(SMALLEST_BATCH, rows // BATCHES))))
        return cls(epochs or max(1, min(MOST_EPOCHS, round(STEPS / per_epoch))), per_epoch)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * self.per_epoch


def train(
    tuned: Tuned,
    windows: Windows,
    aim: Target,
    rows: NDArray[np.int64],
    plan: Plan,
    *,
    rate: float,
    decay: float,
    seed: int,
    said: Callable[[str], None],
) -> int:
    """Carry out a plan on ``rows``; returns how many numbers learned: those that the loss has a gradient in.

    ``rate``: the highest, of the head; ``decay``: its factor a layer down. ``said`` hears of each step. Draws of rows and
    windows are those of ``seed``. Raises ToolkitError where the loss is no longer finite.
    """
    rng = np.random.default_rng(seed)
    parts = (part for _ in range(plan.epochs) for part in np.array_split(rng.permutation(rows), plan.per_epoch))
    optimizer: torch.optim.Optimizer | None = None
    for step, part in enumerate(parts):
        loss = aim.loss(tuned(windows, [_some(windows.of[row], rng) for row in part]), part)
        tuned.zero_grad(set_to_none=True)
        loss.backward()
        if optimizer is None:  # which parameters take part is known once they have gradients
            optimizer = optimizer_of(tuned, decay)
        _step(optimizer, loss.detach(), rate * share(step, plan.steps), step)
        said(f"loss {float(loss.detach()):.3f}")
    assert optimizer is not None
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, step: int) -> None:
    norm = float(nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], CLIP_NORM))
    if not (torch.isfinite(loss) and math.isfinite(norm)):
        raise ToolkitError(
            f"The loss is {float(loss):g} and its gradient {norm:g} at step {step + 1} of --tune, at a rate of {rate:g}. "
            "Lower it with --learning-rate."
        )
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
    optimizer.step()


def _some(of: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return of if len(of) <= MOST_WINDOWS else rng.choice(of, size=MOST_WINDOWS, replace=False)


def optimizer_of(tuned: Tuned, decay: float) -> torch.optim.AdamW:
    """AdamW of all parameters that have a gradient, matrices with weight decay; ``factor`` of a group: its share of the rate."""
    numbers, top = layer_numbers(tuned)
    reached = [p for p in tuned.parameters() if p.grad is not None]
    head = 1 + max((numbers[p] for p in reached if numbers[p] < top), default=top - 1)  # just above the last block in use
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for parameter in reached:
        below = max(0, head - numbers[parameter])
        groups.setdefault((below, WEIGHT_DECAY if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": found, "weight_decay": wd, "factor": decay**below} for (below, wd), found in groups.items()], betas=BETAS
    )


def share(step: int, steps: int) -> float:
    """Of the highest rate, at a step from 0: linear over the warm-up, then cosine to ``FINAL``."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
