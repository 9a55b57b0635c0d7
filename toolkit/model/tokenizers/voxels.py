"""Cubes of voxels that count points: point clouds as volumes, for models that need a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.corpus.batches import Batch
from toolkit.model.tokenizers.base import UNSCALED, GridTokenizer
from toolkit.model.tokenizers.descriptors import descriptors
from toolkit.model.tokenizers.identities import spread
from toolkit.model.tokenizers.volume import middles
from toolkit.model.tokens import TokenSet
from toolkit.recipe import VoxelTokens


class VoxelGrid(GridTokenizer):
    """(B, 3, N) points to (B, (side / patch)^3, patch^3) tokens that tile the cube from -1 to 1 around the unit sphere.

    A voxel of n points holds log(1 + n) / log 2: 0 for none, 1 for one, 2 for three. It depends on its own points
    only, so what is hidden does not show in what is visible, as it would through a mean over the cloud.
    """

    def __init__(self, table: VoxelTokens) -> None:
        super().__init__((table.patch,) * 3)
        self.side, self.steps = table.side, table.side // table.patch

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """Counts of points in cubes; coordinates are the cubes' middles in the cloud's unit.

        Empty cubes are valid: that nothing is there is what the cloud says of them, and were they left out, the
        places of the hidden ones would show where its points are. Only a cloud without any point has no valid token.
        """
        points, known = torch.from_numpy(batch.values), torch.from_numpy(batch.valid).all(1)
        points, known = (points, known) if device is None else (points.to(device), known.to(device))
        patches = self.cut((1 + self.counts(points, known)).log()[:, None] / math.log(2))
        size, tokens = patches.shape[:2]
        none = torch.zeros(size, tokens, dtype=torch.int64, device=points.device)
        place = middles((self.steps,) * 3, 2 / self.steps).to(points.device)
        return TokenSet(
            patches,
            place.expand(size, -1, -1),
            none,
            spread(descriptors([c[:1] for c in batch.channels], device=points.device), tokens),
            known.any(1, keepdim=True).expand(-1, tokens),
            none + UNSCALED,
            (1, self.steps, self.steps, self.steps),
        )

    def counts(self, points: Tensor, known: Tensor) -> Tensor:
        """Known points (B, 3, N) in each voxel, float (B, side, side, side); those outside the cube count at its edge."""
        cells = ((points.masked_fill(~known[:, None], 0.0) + 1) * (self.side / 2)).long().clamp(0, self.side - 1)
        number = (cells[:, 0] * self.side + cells[:, 1]) * self.side + cells[:, 2]
        found = torch.zeros(len(points), self.side**3, device=points.device)
        return found.scatter_add_(1, number, known.to(found.dtype)).unflatten(1, (self.side,) * 3)
