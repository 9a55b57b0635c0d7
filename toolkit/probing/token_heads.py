"""Heads that read the frozen tokens of a row, not one pooled vector: a short call among noise is lost in a mean.

Each is fitted by AdamW on the training part of one fold, with nothing to choose: steps and rates are fixed. Tokens are
standardised on the training part first, because states of masked models share an offset that makes every cosine 0.999.
A head is a function; TOKEN_HEADS is the table that ``--head`` chooses from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from readers.schema import FloatArray
from toolkit.probing.heads import Effort
from toolkit.probing.task import Task

Array = NDArray[np.float64]

PROTOTYPES = 20  # a class
SOFTENED = 1.01  # by which similarities are divided
FIRST_BIAS = -2.0
HEAD_WIDTH = 64  # of attention
EPOCHS, LEAST_STEPS, MOST_STEPS = 30, 300, 2000
BATCH = 32
WARM_UP = 0.067  # share of the steps
CLIP_NORM = 2.0
WEIGHT_DECAY = 3e-4
PROTOTYPE_RATE, ATTENTIVE_RATE = 0.04, 3e-3
FIRST_DEVIATION = 0.02  # of prototypes: short ones turn quickly


@dataclass(frozen=True)
class Tokens:
    """Frozen tokens of N rows: ``rows`` are N arrays float32 (t, D), t may be 0; ``class_state`` float32 (N, D) or None."""

    rows: Sequence[FloatArray]
    class_state: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D."""
        return self.rows[0].shape[1]

    def take(self, index: NDArray) -> Tokens:
        """The rows at ``index``, not copied."""
        state = None if self.class_state is None else self.class_state[index]
        return Tokens([self.rows[i] for i in index], state)

    def focal(self) -> Tokens:
        """Each token less the class state of its row; as they are without one."""
        if self.class_state is None:
            return self
        return Tokens([row - state for row, state in zip(self.rows, self.class_state, strict=True)])

    def pooled(self) -> FloatArray:
        """The mean of each row's tokens (N, D), NaN where it has none: what a linear probe reads."""
        gap = np.full(self.width, np.nan, np.float32)
        return np.stack([row.mean(axis=0) if len(row) else gap for row in self.rows])


class TokenHead(Protocol):
    """``x`` tokens of N rows, ``y`` as ``encode`` gives it with at least two classes, ``x_test`` tokens of M rows.

    Returns probabilities (M, K), or numbers (M,) for regression; a function of its inputs and the ``seed`` alone.
    """

    def __call__(self, x: Tokens, y: NDArray, x_test: Tokens, task: Task, seed: Sequence[int], effort: Effort) -> Array:
        """Fit and predict."""


def prototypes(x: Tokens, y: NDArray, x_test: Tokens, task: Task, seed: Sequence[int], effort: Effort) -> Array:
    """The prototypical probe of Bird-MAE (2504.12880): which of 20 learned directions of a class some token points along.

    After the paper: tokens less the class state where there is one; the maximum over tokens of the cosine, floored at 0 and
    over 1.01; non-negative weights that start at 1 and a bias at -2, each class reading only its own prototypes; asymmetric loss
    for multilabel; AdamW, 0.04 for prototypes, cosine with warm-up. Ours: cross-entropy of balanced classes otherwise;
    standardised tokens; prototypes that start about zero (the paper's, from 0 to 1, start alike); the rate of the prototypes for
    weights and bias too, a hundred times the paper's, as a fit here is short: with the paper's they hardly leave their start; the
    orthogonality loss is the mean square of what should be 0, since the norm over the count, as in the code, hardly acts. The
    map of tokens is not enlarged twofold, which the authors call removable.
    Not for regression.
    """
    return _fitted(Prototypes, x.focal(), y, x_test.focal(), task, seed, effort)


def attentive(x: Tokens, y: NDArray, x_test: Tokens, task: Task, seed: Sequence[int], effort: Effort) -> Array:
    """One learned query reads all tokens by attention; then a norm and a linear layer (AIM, 2401.08541, as in Bird-MAE).

    Keys and values are linear in the tokens, without biases; the query has no projection. Heads are 64 wide, or one head where
    64 does not divide the width. Cross-entropy of balanced classes, asymmetric loss for multilabel, squared error for numbers.
    """
    return _fitted(Attentive, x, y, x_test, task, seed, effort)


TOKEN_HEADS: dict[str, TokenHead] = {"prototypes": prototypes, "attentive": attentive}


class Reader(nn.Module):
    """Tokens (B, T, D) and which of them count, bool (B, T), to ``outputs`` numbers a row; ``rate`` of learning."""

    rate: float

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        return torch.zeros(())


class Prototypes(Reader):
    """J directions for each output, and how much each counts."""

    rate = PROTOTYPE_RATE

    def __init__(self, width: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(FIRST_DEVIATION * torch.randn(outputs, PROTOTYPES, width, generator=generator))
        self.weight = nn.Parameter(torch.ones(outputs, PROTOTYPES))
        self.bias = nn.Parameter(torch.full((outputs,), FIRST_BIAS))

    def forward(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Logits (B, outputs)."""
        directions = functional.normalize(self.prototypes, dim=-1).flatten(0, 1)
        cosine = functional.normalize(tokens, dim=-1) @ directions.T  # (B, T, outputs * J)
        best = cosine.relu().masked_fill(~counts[..., None], 0.0).amax(1) / SOFTENED
        return (best.unflatten(1, self.weight.shape) * self.weight.relu()).sum(-1) + self.bias

    def penalty(self) -> Tensor:
        """Mean square of the cosines between different prototypes of an output."""
        directions = functional.normalize(self.prototypes, dim=-1)
        return (directions @ directions.transpose(1, 2) - torch.eye(PROTOTYPES)).square().mean()


class Attentive(Reader):
    """Attention pooling by one query, and a linear layer."""

    rate = ATTENTIVE_RATE

    def __init__(self, width: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.query = nn.Parameter(torch.randn(width, generator=generator) * 0.02)
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)
        for layer in (self.key, self.value, self.out):
            nn.init.trunc_normal_(layer.weight, std=width**-0.5, generator=generator)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """(B, outputs); a row without tokens is read as zeros."""
        key, value = (part.unflatten(-1, (self.heads, -1)) for part in (self.key(tokens), self.value(tokens)))
        scores = torch.einsum("bthd,hd->bth", key, self.query.view(self.heads, -1)) / math.sqrt(key.shape[-1])
        share = scores.masked_fill(~counts[..., None], -torch.inf).softmax(1).nan_to_num(0.0)
        return self.out(self.norm(torch.einsum("bth,bthd->bhd", share, value).flatten(1)))


@dataclass(frozen=True)
class Answer:
    """What a head is fitted to: ``outputs`` numbers a row, their ``loss`` against the rows of ``target`` (N, ...), and
    what they say of M rows, ``read`` (M, outputs) -> prediction."""

    outputs: int
    target: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    read: Callable[[Tensor], Array]


def _classes(y: NDArray, task: Task) -> Answer:
    """Classes of the training rows, each with the same weight in all; the others keep probability 0."""
    present, target = np.unique(y, return_inverse=True)
    weight = torch.from_numpy(len(y) / (len(present) * np.bincount(target))).float()

    def read(logits: Tensor) -> Array:
        full = np.zeros((len(logits), len(task.classes)))
        full[:, present] = logits.double().softmax(1).numpy()
        return full

    return Answer(len(present), torch.from_numpy(target), lambda a, b: functional.cross_entropy(a, b, weight), read)


def _labels(y: NDArray, task: Task) -> Answer:
    """Labels that some training rows have and some have not; the others keep what all rows have."""
    varies = y.min(axis=0) != y.max(axis=0)

    def read(logits: Tensor) -> Array:
        full = np.tile(y[0].astype(np.float64), (len(logits), 1))
        full[:, varies] = logits.double().sigmoid().numpy()
        return full

    return Answer(int(varies.sum()), torch.from_numpy(y[:, varies]).float(), asymmetric, read)


def _number(y: NDArray, task: Task) -> Answer:
    """The number, standardised on the training rows."""
    mean, deviation = float(np.mean(y)), float(np.std(y)) or 1.0
    target = torch.from_numpy((y - mean) / deviation).float()[:, None]
    return Answer(1, target, functional.mse_loss, lambda out: out[:, 0].double().numpy() * deviation + mean)


ANSWERS: dict[str, Callable[[NDArray, Task], Answer]] = {
    "binary": _classes,
    "multiclass": _classes,
    "multilabel": _labels,
    "regression": _number,
}


def asymmetric(logits: Tensor, target: Tensor) -> Tensor:
    """Asymmetric loss (Ridnik et al., 2009.14119), focusing 1 and 4, margin 0.05; the mean over all entries."""
    hit = logits.sigmoid()
    miss = (1 - hit + 0.05).clamp(max=1)
    terms = target * (1 - hit) * hit.clamp(min=1e-8).log() + (1 - target) * (1 - miss) ** 4 * miss.clamp(min=1e-8).log()
    return -terms.mean()


def _fitted(
    make: Callable[[int, int, torch.Generator], Reader],
    x: Tokens,
    y: NDArray,
    x_test: Tokens,
    task: Task,
    seed: Sequence[int],
    effort: Effort,
) -> Array:
    """Standardise, fit by AdamW on the training rows that have tokens, and predict."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
    useful = np.array([len(row) > 0 for row in x.rows])
    answer = ANSWERS[task.kind](y[useful], task)
    rows = [row for row in x.rows if len(row)]
    mean, deviation = _moments(rows)
    head = make(x.width, answer.outputs, generator)
    effort.fits += 1
    effort.parameters = sum(each.numel() for each in head.parameters())
    _train(head, rows, answer, mean, deviation, generator)
    with torch.inference_mode():
        parts = [head(*_padded(x_test.rows[a : a + BATCH], mean, deviation)) for a in range(0, len(x_test), BATCH)]
    return answer.read(torch.cat(parts))


def _train(
    head: Reader, rows: Sequence[FloatArray], answer: Answer, mean: FloatArray, deviation: FloatArray, generator: torch.Generator
) -> None:
    steps = min(max(EPOCHS * math.ceil(len(rows) / BATCH), LEAST_STEPS), MOST_STEPS)
    warm = max(1, round(WARM_UP * steps))
    optimizer = torch.optim.AdamW(head.parameters(), lr=head.rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: min((at + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, at - warm) / max(1, steps - warm)))
    )
    head.train()
    for _, index in zip(range(steps), _batches(len(rows), generator), strict=False):
        logits = head(*_padded([rows[i] for i in index], mean, deviation))
        loss = answer.loss(logits, answer.target[index]) + head.penalty()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
    head.eval()


def _batches(count: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Row numbers, each row once an epoch, in an order of its own each time."""
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        yield from (order[a : a + BATCH] for a in range(0, count, BATCH))


def _moments(rows: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation (D,) of all tokens; a deviation of 0 becomes 1."""
    count = sum(len(row) for row in rows)
    mean = sum(row.sum(axis=0, dtype=np.float64) for row in rows) / count
    variance = sum(((row - mean) ** 2).sum(axis=0) for row in rows) / count
    deviation = np.sqrt(variance)
    return mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)


def _padded(rows: Sequence[FloatArray], mean: FloatArray, deviation: FloatArray) -> tuple[Tensor, Tensor]:
    """Standardised tokens (B, T, D), zero beyond a row's own, and which count, bool (B, T); T at least 1."""
    longest = max(1, *(len(row) for row in rows)) if rows else 1
    tokens = np.zeros((len(rows), longest, len(mean)), np.float32)
    counts = np.zeros((len(rows), longest), bool)
    for at, row in enumerate(rows):
        tokens[at, : len(row)], counts[at, : len(row)] = (row - mean) / deviation, True
    return torch.from_numpy(tokens), torch.from_numpy(counts)
