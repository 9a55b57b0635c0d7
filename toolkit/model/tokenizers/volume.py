"""Cubes of voxels in each contrast: volumes to tokens and back.

Tokens are contrast-major, then x, y, z. Coordinates are mm from the middle of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.corpus.batches import Batch
from toolkit.model.tokenizers.base import GridTokenizer
from toolkit.model.tokenizers.descriptors import descriptors
from toolkit.model.tokenizers.identities import Identities, spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import VolumeTokens


class VolumePatches(GridTokenizer):
    """Cuts (B, C, X, Y, Z) into (B, C * X' * Y' * Z', patch^3) tokens without overlap; exactly invertible."""

    def __init__(self, table: VolumeTokens, spacing_mm: float) -> None:
        super().__init__((table.patch,) * 3)
        self.patch, self.spacing_mm = table.patch, spacing_mm
        self.identities = Identities(table.channels)

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A token is valid when all its voxels are. Raises ValueError when a side is not a multiple of the patch."""
        values, valid = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        if any(side % self.patch for side in values.shape[2:]):
            raise ValueError(f"{tuple(values.shape[2:])} voxels are not multiples of the patch of {self.patch} voxels")
        whole = self.cut(valid).all(-1)
        grid = tuple(side // self.patch for side in values.shape[2:])
        size, channels = values.shape[:2]
        steps = whole.shape[1] // channels
        tokens = TokenSet(
            self.cut(values).masked_fill(~whole[..., None], 0.0),
            middles(grid, self.patch * self.spacing_mm).repeat(channels, 1).expand(size, -1, -1),
            spread(torch.tensor([self.identities.of(c) for c in batch.channels]), steps),
            spread(descriptors(batch.channels), steps),
            whole,
            spread(torch.arange(channels).expand(size, -1), steps),
            (channels, *grid),
        )
        return tokens.to(device) if device is not None else tokens


def middles(grid: Sequence[int], side: float) -> Tensor:
    """Middles of the cubes of a grid of 3 numbers around 0, in the unit of their side, time 0: (N, 4)."""
    axes = [(torch.arange(n) + 0.5 - n / 2) * side for n in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    return torch.cat([places, torch.zeros(len(places), 1)], dim=1)
