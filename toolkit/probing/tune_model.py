"""An encoder with a linear head on pooled windows, and what its training needs: losses and rates of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from toolkit.embedding.encoder import Options
from toolkit.embedding.pooling import pooled_width, vectors
from toolkit.model.convnet import ConvEncoder
from toolkit.model.masked import MaskedModel
from toolkit.probing.task import Task
from toolkit.probing.tune_windows import Windows

LEAST_DEVIATION = 1e-6
AT_ONCE = 64  # windows in a pass of the encoder


class Tuned(nn.Module):
    """Intervals to the outputs of a task: the mean of their windows' vectors, standardised, then one linear layer.

    The head begins at zero. Mean and deviation are those of the vectors that the encoder gives the training rows before
    any training, and stay: features of masked models share a large offset, on which a head would spend its steps.
    """

    def __init__(self, model: MaskedModel, options: Options, outputs: int) -> None:
        super().__init__()
        self.model, self.options = model, options
        width = pooled_width(options.pool, model.recipe.encoder.width)
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.mean, self.deviation = nn.Buffer(torch.zeros(width)), nn.Buffer(torch.ones(width))

    def forward(self, windows: Windows, of: Sequence[NDArray[np.int64]]) -> Tensor:
        """Outputs (n, K) of n intervals, each shown by the windows of these numbers; one without windows has the head's bias."""
        means, there = self._means(windows, of)
        return self.head(((means - self.mean) / self.deviation).masked_fill(~there[:, None], 0.0))

    @torch.no_grad()
    def outputs(self, windows: Windows, of: Sequence[NDArray[np.int64]]) -> Tensor:
        """As :meth:`forward`, without gradients."""
        return self(windows, of)

    @torch.no_grad()
    def settle(self, windows: Windows, of: Sequence[NDArray[np.int64]]) -> None:
        """Take mean and deviation of these intervals' vectors for the standardisation."""
        means, there = self._means(windows, of)
        deviation = means[there].std(0, correction=0)
        self.mean.copy_(means[there].mean(0))
        self.deviation.copy_(torch.where(deviation > LEAST_DEVIATION, deviation, 1.0))

    def _means(self, windows: Windows, of: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        """Mean vector of each interval (n, D), and which of them have a window, bool (n,). A few windows at a time."""
        device = self.mean.device
        count = torch.tensor([len(each) for each in of], device=device)
        owner = torch.repeat_interleave(torch.arange(len(of), device=device), count)
        numbers = np.concatenate(of).tolist()
        total = self.mean.new_zeros(len(of), len(self.mean))
        for first in range(0, len(numbers), AT_ONCE):
            for group in windows.groups(numbers[first : first + AT_ONCE], device):
                states = self.model.features(group.tokens, self.options.layer, self.options.layers)
                found = vectors(self.model, self.options.pool, self.options.layer, group.tokens, states, group.inside)
                total = total.index_add(0, owner[first + group.at], found)
        return total / count.clamp(min=1)[:, None], count > 0


@dataclass(frozen=True)
class Target:
    """A task's labels for training: how many ``outputs``, the ``loss`` of outputs (n, K) at rows, what outputs predict."""

    outputs: int
    loss: Callable[[Tensor, NDArray[np.int64]], Tensor]
    predict: Callable[[Tensor], NDArray[np.float64]]


def target(y: NDArray, train: NDArray[np.int64], task: Task, device: torch.device) -> Target:
    """The target of labels ``y`` (as ``encode`` gives them, all rows); shares and scales are those of the rows ``train``.

    Classes: cross-entropy, each class as heavy as the others together are on average. Multilabel: a cross-entropy for
    each label, its positives as heavy as its negatives. Regression: smooth L1 of the standardised number.
    """
    if task.kind == "regression":
        return _regression(y, train, device)
    if task.kind == "multilabel":
        return _multilabel(y, train, device)
    counts = np.bincount(y[train], minlength=len(task.classes))
    weight = torch.tensor(len(train) / (np.count_nonzero(counts) * np.maximum(counts, 1)), dtype=torch.float32, device=device)
    numbers = torch.tensor(y, device=device)
    return Target(
        len(task.classes),
        # Divided by the rows, not by their weights: a batch of one class would count as much as a balanced one.
        lambda out, rows: cross_entropy(out, numbers[rows], weight, reduction="none").mean(),
        lambda out: out.double().softmax(1).cpu().numpy(),
    )


def _regression(y: NDArray, train: NDArray[np.int64], device: torch.device) -> Target:
    mean, deviation = float(y[train].mean()), float(y[train].std()) or 1.0
    numbers = torch.tensor((y - mean) / deviation, dtype=torch.float32, device=device)
    return Target(
        1,
        lambda out, rows: smooth_l1_loss(out[:, 0], numbers[rows]),
        lambda out: out[:, 0].double().cpu().numpy() * deviation + mean,
    )


def _multilabel(y: NDArray, train: NDArray[np.int64], device: torch.device) -> Target:
    positive = y[train].sum(0)
    yes, no = (len(train) / (2 * np.maximum(n, 1)) for n in (positive, len(train) - positive))
    labels = torch.tensor(y, dtype=torch.float32, device=device)
    weight = torch.tensor(np.where(y == 1, yes, no), dtype=torch.float32, device=device)
    return Target(
        y.shape[1],
        lambda out, rows: binary_cross_entropy_with_logits(out, labels[rows], weight[rows]),
        lambda out: out.double().sigmoid().cpu().numpy(),
    )


def layer_numbers(tuned: Tuned) -> tuple[dict[nn.Parameter, int], int]:
    """The layer of each parameter: 0 what embeds tokens, 1 the first block, ...; the number of what comes after the last.

    As in BEiT's code (2106.08254), from which MAE's fine-tuning has it. Of a convnet a scale is a layer.
    """
    encoder = tuned.model.encoder
    if isinstance(encoder, ConvEncoder):
        stacks, last = [encoder.net.down, encoder.net.blocks], list(encoder.net.mix.parameters())
    else:
        stacks, last = [encoder.blocks], list(encoder.norm.parameters())
    top = len(stacks[0]) + 1
    numbers = dict.fromkeys(tuned.parameters(), top) | dict.fromkeys(encoder.parameters(), 0) | dict.fromkeys(last, top)
    numbers |= {p: n for stack in stacks for n, part in enumerate(stack, start=1) for p in part.parameters()}
    return numbers, top
