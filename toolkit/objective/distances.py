"""The loss of a term, and beside it what would be had for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.objective.entropy import entropy_loss, gaussian_level
from toolkit.objective.losses import LOSSES, cross_entropy, focal, nce, pairs, sce, swapped
from toolkit.objective.scale import step_generator
from toolkit.objective.targets import Compared
from toolkit.recipe import TermTable
from toolkit.recipe.objective import PER_SAMPLE

GAMMA, TEMPERATURE, PROTOTYPES = 2.0, 0.1, 256
Elementwise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """A loss and its trivial level, scalars."""

    loss: Tensor
    trivial: Tensor


class Distance(nn.Module):
    """The loss that a term names."""

    def __init__(self, term: TermTable, patch_kind: str, width: int) -> None:
        super().__init__()
        self.term, self.kind = term, patch_kind if term.loss == "patch" else term.loss
        self.prototypes = nn.Parameter(torch.randn(term.prototypes or PROTOTYPES, width)) if term.loss == "sinkhorn" else None

    def forward(self, compared: Compared) -> Measured:
        """Loss and trivial level over what counts; both 0 when nothing does."""
        other = {
            "ce": self._codes,
            "focal": self._codes,
            "nce": self._nce,
            "sinkhorn": self._sinkhorn,
            "pairs": self._pairs,
            "entropy": self._entropy,
        }
        return other.get(self.kind, self._elementwise)(compared)

    def elementwise(self) -> Elementwise | None:
        """The distance of single tokens, where this is one."""
        if self.kind == "sce":
            return lambda predicted, target: sce(predicted, target, self.term.gamma or GAMMA)
        return LOSSES.get(self.kind)

    def _elementwise(self, compared: Compared) -> Measured:
        measure = self.elementwise()
        assert measure is not None
        predicted, target, counts = compared.predicted.float(), compared.target.float(), compared.counts
        directed = self.kind in ("cosine", "sce")  # zero has no direction
        guess = torch.zeros_like(target) if compared.zero and not directed else _mean_of(target, counts)
        loss, level = measure(predicted, target), measure(guess, target.detach())
        return Measured(mean(loss, counts, compared.channels), mean(level, counts, compared.channels).detach())

    def _codes(self, compared: Compared) -> Measured:
        """The trivial level is the entropy of the codes in the batch: always saying how frequent each is."""
        logits, codes = compared.predicted.float(), compared.target
        frequencies = _frequencies(codes[compared.counts], logits.shape[-1])
        gamma = 0.0 if self.kind == "ce" else self.term.gamma or GAMMA
        each = cross_entropy(logits, codes) if not gamma else focal(logits, codes, gamma)
        level = -(frequencies * (1 - frequencies).pow(gamma) * frequencies.clamp(min=1e-12).log()).sum(-1).mean()
        return Measured(mean(each, compared.counts), level.nan_to_num())

    def _nce(self, compared: Compared) -> Measured:
        """Candidates are the tokens of the sample, or, where a sample has one target, those of the batch."""
        predicted, target, counts = compared.predicted, compared.target, compared.counts
        if self.term.target in PER_SAMPLE:
            predicted, target, counts = predicted.transpose(0, 1), target.transpose(0, 1), counts.T
        each = nce(predicted, target, counts, self.term.temperature or TEMPERATURE)
        candidates = counts.sum(1, keepdim=True).clamp(min=1).float().log().expand(counts.shape)
        return Measured(mean(each, counts), mean(candidates, counts))

    def _sinkhorn(self, compared: Compared) -> Measured:
        assert self.prototypes is not None
        each = swapped(
            compared.predicted, compared.target, self.prototypes, compared.counts, self.term.temperature or TEMPERATURE
        )
        return Measured(mean(each, compared.counts), each.new_tensor(math.log(len(self.prototypes))))

    def _pairs(self, compared: Compared) -> Measured:
        """The trivial level: the tokens of a sample compared with one another."""
        each = pairs(compared.predicted, compared.target, compared.counts, self.term.partners or "same")
        level = pairs(compared.predicted.detach(), compared.target.detach(), compared.counts, "all")
        return Measured(mean(each, compared.counts), mean(level, compared.counts))

    def _entropy(self, compared: Compared) -> Measured:
        z = compared.predicted[:, 0]
        level = gaussian_level(len(z), z.shape[1], step_generator(0, 0))
        return Measured(entropy_loss(z).loss, level.loss.to(z.device))


def mean(each: Tensor, counts: Tensor, channels: Tensor | None = None) -> Tensor:
    """Mean of (B, q) over what counts; 0 when nothing does.

    ``channels`` int64 (B, q): the sum over them of the mean of each; one of which nothing counts adds 0.
    """
    if channels is not None:
        return torch.stack([mean(each, counts & (channels == number)) for number in channels.unique()]).sum()
    return each.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)


def _frequencies(codes: Tensor, size: int) -> Tensor:
    """How frequent each of ``size`` codes is at each level of codes int64 (n, L): (L, size), NaN for no codes."""
    level = torch.arange(codes.shape[1], device=codes.device) * size
    counts = torch.bincount((codes + level).flatten(), minlength=codes.shape[1] * size)
    return counts.view(-1, size) / len(codes)


def _mean_of(target: Tensor, counts: Tensor) -> Tensor:
    weight = counts[..., None].type_as(target)
    return ((target * weight).sum((0, 1)) / weight.sum().clamp(min=1)).expand_as(target)
