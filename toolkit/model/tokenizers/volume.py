"""Cubes of voxels in each contrast: volumes to tokens and back.

Tokens are contrast-major, then x, y, z. Coordinates are mm from the middle of the sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.corpus.batches import Batch
from toolkit.model.tokenizers.base import Identities, Tokenizer, spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import VolumeTokens


class VolumePatches(Tokenizer):
    """Cuts (B, C, X, Y, Z) into (B, C * X' * Y' * Z', patch^3) tokens without overlap; exactly invertible."""

    def __init__(self, table: VolumeTokens, spacing_mm: float) -> None:
        self.patch, self.spacing_mm = table.patch, spacing_mm
        self.values = table.patch**3
        self.identities = Identities(table.channels, table.unknown_channels)
        self.num_identities = len(self.identities)

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A token is valid when all its voxels are. Raises ValueError when a side is not a multiple of the patch."""
        values, valid = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        if any(side % self.patch for side in values.shape[2:]):
            raise ValueError(f"{tuple(values.shape[2:])} voxels are not multiples of the patch of {self.patch} voxels")
        whole = self._cut(valid).all(-1)
        patches = self._cut(values).masked_fill(~whole[..., None], 0.0)
        grid = tuple(side // self.patch for side in values.shape[2:])
        size, channels = values.shape[:2]
        steps = patches.shape[1] // channels
        tokens = TokenSet(
            patches,
            self._coords(grid).repeat(channels, 1).expand(size, -1, -1),
            spread(torch.tensor([self.identities.of(c) for c in batch.channels]), steps),
            whole,
            spread(torch.arange(channels).expand(size, -1), steps),
            (channels, *grid),
        )
        return tokens.to(device) if device is not None else tokens

    def _cut(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to (B, N, patch^3)."""
        p = self.patch
        cubes = volume.unflatten(4, (-1, p)).unflatten(3, (-1, p)).unflatten(2, (-1, p))  # B C X' p Y' p Z' p
        return cubes.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(1, 4)

    def _coords(self, grid: tuple[int, ...]) -> Tensor:
        """Middles of the cubes of one contrast, (N, 4)."""
        axes = [(torch.arange(n) + 0.5 - n / 2) * (self.patch * self.spacing_mm) for n in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
        return torch.cat([places, torch.zeros(len(places), 1)], dim=1)

    def untokenize(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, N, patch^3) back to (B, C, X, Y, Z)."""
        p = self.patch
        cubes = patches.unflatten(2, (p, p, p)).unflatten(1, grid)  # B C X' Y' Z' p p p
        return cubes.permute(0, 1, 2, 5, 3, 6, 4, 7).flatten(6).flatten(4, 5).flatten(2, 3)
