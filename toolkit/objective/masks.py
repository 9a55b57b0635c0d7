"""Mask sampling: a score per token, then exactly as many hidden tokens as asked.

Constant counts keep every tensor dense. Four ways to hide, mixed within a batch by the recipe's odds:

- random: each token on its own;
- spans: runs of time (the last axis of the tokens' grid) hidden in each group of channels on its own;
- gaps: the same runs hidden in all channels, as when the whole device drops out;
- groups: whole groups of channels.

A group is a channel, or channels that the recipe names together: the six limb leads are linear
combinations of two of them (III = II - I, aVR = -(I + II) / 2, ...), so one alone would be given away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.model.tokens import TokenSet
from toolkit.recipe import MaskTable

RAGGED = 1e-12  # breaks ties between the rows of one time step at random


@dataclass(frozen=True)
class Mask:
    """Token indices int64: ``visible`` (B, v) enters the encoder, ``hidden`` (B, h) is to be predicted."""

    visible: Tensor
    hidden: Tensor


def num_visible(tokens: int, ratio: float) -> int:
    """Visible tokens of ``tokens``, at least one, at most all but one."""
    return min(max(1, round(tokens * (1 - ratio))), max(1, tokens - 1))


class MaskSampler:
    """Draws masks on the CPU, a pure function of the generator's state and the tokens' layout."""

    def __init__(self, table: MaskTable, identities: tuple[str, ...]) -> None:
        self.table = table
        self.odds = torch.tensor([table.random, table.spans, table.gaps, table.groups])
        self.group_of = torch.full((len(identities),), -1)  # most are groups of their own
        for number, group in enumerate(table.groups_of_channels):
            self.group_of[[identities.index(name) for name in group]] = number

    def sample(self, tokens: TokenSet, generator: torch.Generator) -> Mask:
        """Split the tokens. Tokens that are not valid come last among the hidden ones. The mask is on the CPU."""
        channels, *rows_of, steps = tokens.grid
        size, rows = tokens.channel.shape[0], math.prod(rows_of)
        shape = (size, channels, rows, steps)
        way = torch.multinomial(self.odds, size, replacement=True, generator=generator)
        first = first_of_group(self._groups(tokens.channel.cpu().view(size, channels, -1)[:, :, 0]))  # (B, C)
        apart = self._runs(size, channels, steps, generator).gather(1, first[..., None].expand(-1, -1, steps))
        together = self._runs(size, 1, steps, generator).expand(-1, channels, -1)
        whole = _noise((size, channels), generator).argsort(1).gather(1, first)[..., None] + apart
        # Ties between groups (a gap that is cut off at the count) are broken at random, not by place.
        ties = 1e-9 * _noise((size, channels), generator).gather(1, first)[..., None]
        score = torch.stack([apart, together, whole])[(way - 1).clamp(min=0), torch.arange(size)] + ties  # (B, C, T')
        each = _noise(shape, generator)
        score = torch.where((way == 0)[:, None, None, None], each, score[:, :, None] + RAGGED * each)
        return split(score.flatten(1), tokens.valid.cpu(), num_visible(channels * rows * steps, self.table.ratio))

    def _groups(self, identity: Tensor) -> Tensor:
        """The group of each channel (B, C) by its identity; a channel that no group names is a group of its own."""
        own = -1 - torch.arange(identity.shape[1]).expand_as(identity)
        if not len(self.group_of):
            return own
        known = len(self.group_of)
        named = torch.where(identity < known, self.group_of[identity.clamp(max=known - 1)], -1)
        return torch.where(named >= 0, named, own)

    def _runs(self, size: int, rows: int, steps: int, generator: torch.Generator) -> Tensor:
        """Noise in [0, 1) that is constant over runs of random length: (B, rows, steps), jittered against ties in time."""
        low, high = self.table.span_patches
        length = torch.randint(low, high + 1, (size, 1, 1), generator=generator)
        shift = torch.randint(0, high, (size, rows, 1), generator=generator)
        run = (torch.arange(steps) + shift) // length
        noise = _noise((size, rows, steps + high), generator).gather(2, run)
        return 0.999 * noise + 0.001 * _noise((size, rows, steps), generator)


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform noise in float64, where no two scores of a sample come out equal by rounding."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def first_of_group(groups: Tensor) -> Tensor:
    """For each channel the place of the first channel of its group, groups int64 (B, C) -> int64 (B, C)."""
    return (groups[:, :, None] == groups[:, None, :]).int().argmax(2)


def split(score: Tensor, valid: Tensor, visible: int) -> Mask:
    """Hide the tokens with the highest scores; ties by place. ``score`` and ``valid`` are (B, N)."""
    order = score.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    return Mask(order[:, :visible], order[:, visible:])
