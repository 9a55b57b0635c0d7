"""Encoders trained on labelled intervals, whole or through adapters, fold by fold, and what they then predict."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from toolkit.embedding.encoder import Options
from toolkit.errors import ToolkitError, UsageError
from toolkit.model import lora, masked
from toolkit.model.masked import MaskedModel
from toolkit.probing.folds import Fold
from toolkit.probing.task import Task
from toolkit.probing.tune_model import Tuned, target
from toolkit.probing.tune_train import Plan, train
from toolkit.probing.tune_windows import Windows
from toolkit.progress import Progress
from toolkit.recipe import TransformerTable

FROZEN = "frozen"  # a head on embeddings: the row that needs no training of the encoder
DEFAULT_RANK = 8


@dataclass(frozen=True)
class Mode:
    """A way of training: its highest ``rate``, the factor of that a layer down (``decay``), and what it begins with."""

    rate: float
    decay: float = 1.0
    pretrained: bool = True
    adapters: bool = False


# 0.75 a layer as in BEiT and MAE. Random weights have nothing that slower layers would keep: from scratch all learn alike.
MODES = {"lora": Mode(2e-3, adapters=True), "full": Mode(5e-4, decay=0.75), "scratch": Mode(5e-4, pretrained=False)}


@dataclass(frozen=True)
class Schedule:
    """What can be asked for: passes over the training part and the highest rate (None: the default), rank of adapters."""

    epochs: int | None = None
    learning_rate: float | None = None
    rank: int = DEFAULT_RANK


@dataclass(frozen=True)
class Tuning:
    """Out-of-fold predictions (N, K), or (N,) for regression, NaN where no fold tests; numbers that learned in a fold."""

    predictions: NDArray[np.float64]
    parameters: int


class Tuner:
    """Trains a model in one of the ``MODES``. All take the same steps on the same draws of a fold's training part.

    How long is fixed beforehand: nothing is chosen on rows that are held out. Raises UsageError for adapters of an
    encoder without attention, or of a rank that its matrices do not have.
    """

    def __init__(
        self, model: MaskedModel, options: Options, schedule: Schedule, modes: Sequence[str], device: torch.device
    ) -> None:
        self.model, self.options, self.schedule = model, options, schedule
        self.modes, self.device = tuple(modes), device
        if any(MODES[mode].adapters for mode in modes):
            _check_adapters(model, schedule.rank)

    def row(self, mode: str) -> str:
        """The name of a mode's row: of training from random weights it does not say whose model."""
        return f"{self.model.recipe.name}-{mode}" if MODES[mode].pretrained else mode

    def run(
        self, mode: str, windows: Windows, y: NDArray, task: Task, folds: Sequence[Fold], *, seed: int, progress: Progress
    ) -> Tuning:
        """Train on the first part of each fold and predict its second. On the CPU a function of the arguments alone.

        Raises ToolkitError where a training part has nothing to train on, or the loss is no longer finite.
        """
        predictions = np.full((len(y),) if task.kind == "regression" else (len(y), len(task.classes)), np.nan)
        usable = np.array([len(of) > 0 for of in windows.of])
        parts = [(rows[usable[rows]], test) for rows, test in folds]
        if empty := [number for number, (rows, _) in enumerate(parts, start=1) if not len(rows)]:
            raise ToolkitError(f"Fold {empty[0]} of {len(folds)} has no training row whose recording can be read.")
        plans = [Plan.of(len(rows), self.schedule.epochs) for rows, _ in parts]
        progress.total = sum(plan.steps for plan in plans)
        learned = 0
        for (rows, test), plan in zip(parts, plans, strict=True):
            aim = target(y, rows, task, self.device)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # adapters and dropout
                tuned = self._start(mode, windows, aim.outputs, rows)
                learned = train(
                    tuned,
                    windows,
                    aim,
                    rows,
                    plan,
                    rate=self.schedule.learning_rate or MODES[mode].rate,
                    decay=MODES[mode].decay,
                    seed=seed,
                    said=lambda line: progress.update(progress.done + 1, line),
                )
            lora.merge(tuned.model)
            predictions[test] = aim.predict(tuned.eval().outputs(windows, [windows.of[row] for row in test]))
        return Tuning(predictions, learned)

    def _start(self, mode: str, windows: Windows, outputs: int, rows: NDArray[np.int64]) -> Tuned:
        """The model before the first step on ``rows``."""
        model = copy.deepcopy(self.model) if MODES[mode].pretrained else masked.build(self.model.recipe)
        if MODES[mode].adapters:
            model.requires_grad_(False)
            lora.adapt(model.encoder, self.schedule.rank)
        tuned = Tuned(model, self.options, outputs).to(self.device).train(not MODES[mode].pretrained)
        tuned.settle(windows, [windows.of[row] for row in rows])  # from scratch batch norms find their first statistics here
        tuned.train(not MODES[mode].adapters)  # beside adapters the encoder stays what it was, without dropout
        if MODES[mode].pretrained:
            # Statistics of pretraining stay: a few steps on a few recordings would leave them halfway to others.
            for part in tuned.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return tuned


def _check_adapters(model: MaskedModel, rank: int) -> None:
    table = model.recipe.encoder
    if not isinstance(table, TransformerTable):
        raise UsageError(
            f"--tune lora puts adapters on attention, and the encoder of recipe '{model.recipe.name}' is a convnet without any. "
            "Use --tune frozen,full,scratch."
        )
    most = min(table.width, table.heads * table.head_width)
    if rank > most:
        raise UsageError(f"--lora-rank {rank} is more than the matrices of this encoder's attention have: at most {most}.")
