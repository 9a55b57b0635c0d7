"""Groups of neighbouring points: point clouds to tokens and back.

Centres by farthest-point sampling (Eldar et al., 1997), groups by nearest neighbours, and a small PointNet as
the patch embedding, as in Point-BERT and Point-MAE (2203.06604).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.corpus.batches import Batch
from toolkit.model.tokenizers.base import LAGS, STYLE, UNSCALED, Tokenizer
from toolkit.model.tokenizers.descriptors import descriptors
from toolkit.model.tokenizers.identities import spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import PointTokens

FAR = 1e4  # where points that are not valid are put: neighbours of nothing in the unit sphere
LEAST_RADIUS = 1e-3  # of a group or cloud, in the unit of the sphere; smaller ones count as single points
FLOOR_RADIUS = 0.01  # distances that are shorter no longer count in a spectrum
EXACT = "donot_use_mm_for_euclid_dist"  # by products of matrices, small distances lose their digits


class PointGroups(Tokenizer):
    """(B, 3, N) points to (B, centres, 3 * neighbours) tokens: neighbours relative to their centre, nearest first.

    A sample with fewer different points than centres has tokens that are not valid. Points come back at their
    places (:meth:`untokenize`), several times where groups overlap.
    """

    def __init__(self, table: PointTokens) -> None:
        self.centres, self.neighbours, self.norm = table.centres, table.neighbours, table.norm
        self.values, self.least = 3 * table.neighbours, max(table.centres, table.neighbours)
        self.spectrum_size = table.neighbours + 3
        self.changes_size = 3 * sum(table.neighbours - lag for lag in LAGS if lag < table.neighbours)

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """Groups of points; a token is valid when its centre is a valid point of its own."""
        points = torch.from_numpy(batch.values).transpose(1, 2).contiguous()
        known = torch.from_numpy(batch.valid).all(1)
        points, known = (points, known) if device is None else (points.to(device), known.to(device))
        points = points.masked_fill(~known[..., None], 0.0)
        chosen, valid = farthest_points(points, known, self.centres)
        centres = points.gather(1, chosen[..., None].expand(-1, -1, 3))
        distance = torch.cdist(centres, points.masked_fill(~known[..., None], FAR), compute_mode=EXACT)
        nearest = distance.topk(self.neighbours, dim=2, largest=False)
        index = nearest.indices
        # A cloud of fewer points than neighbours: its nearest point stands in for those that are not there.
        index = torch.where(known[:, None].expand_as(distance).gather(2, index), index, index[:, :, :1])
        groups = points[:, None].expand(-1, self.centres, -1, -1).gather(2, index[..., None].expand(-1, -1, -1, 3))
        patches = (groups - centres[:, :, None]).flatten(2).masked_fill(~valid[..., None], 0.0)
        size = len(points)
        none = torch.zeros(size, self.centres, dtype=torch.int64, device=points.device)
        coords = torch.cat([centres, torch.zeros_like(centres[..., :1])], dim=2)
        codes = spread(descriptors([c[:1] for c in batch.channels], device=points.device), self.centres)
        return TokenSet(patches, coords, none, codes, valid, none + UNSCALED, (1, self.centres))

    def untokenize(self, patches: Tensor, coords: Tensor) -> Tensor:
        """(B, n, 3 * neighbours) of groups around ``coords`` (B, n, 4) back to points (B, n * neighbours, 3)."""
        return (patches.unflatten(2, (self.neighbours, 3)) + coords[:, :, None, :3]).flatten(1, 2)

    def embedder(self, width: int) -> nn.Module:
        """The small PointNet."""
        if self.norm == "batch":
            return BatchPointEmbedding(self.neighbours, width)
        return PointEmbedding(self.neighbours, width)

    def normalised(self, patches: Tensor) -> Tensor:
        """Each group over the root of its mean squared distance from the centre."""
        return patches / (3 * patches.square().mean(-1, keepdim=True) + LEAST_RADIUS**2).sqrt()

    def spectrum(self, patches: Tensor) -> Tensor:
        """Squared distances from the centre in rising order, then the group's variances along its principal axes.

        Each as log(1 + x / FLOOR_RADIUS^2). It says how far the group reaches and how flat it is, not which way it lies.
        """
        group = patches.unflatten(-1, (self.neighbours, 3))
        squares = torch.cat([group.square().sum(-1).sort(-1).values, torch.linalg.eigvalsh(covariance(group))], dim=-1)
        return (squares.clamp(min=0) / FLOOR_RADIUS**2).log1p()

    def changes(self, patches: Tensor) -> Tensor:
        """Points less those 1, 2 and 4 before, the nearest to the centre first."""
        group = patches.unflatten(-1, (self.neighbours, 3))
        parts = [(group[..., lag:, :] - group[..., :-lag, :]).flatten(-2) for lag in LAGS if lag < self.neighbours]
        return torch.cat(parts, dim=-1) if parts else patches[..., :0]

    def restyle(self, tokens: TokenSet, partner: Tensor, share: float = STYLE) -> TokenSet:
        """Extents of the cloud of centres along its principal axes become the partner's, the longest for the longest.

        Directions stay. All of it is style, whatever the ``share``: three numbers have no lower part. An axis along
        which either cloud is flat stays.
        """
        centres, weight = tokens.coords[..., :3], tokens.valid[..., None].to(tokens.coords.dtype)
        middle = (centres * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        variance, axes = torch.linalg.eigh(covariance(centres, tokens.valid))
        flat = torch.minimum(variance, variance[partner]) < LEAST_RADIUS**2
        factor = torch.where(flat, 1.0, (variance[partner] / variance).sqrt())
        stretch = (axes[:, :, None] * factor[:, None, None] * axes[:, None]).sum(-1)[:, None]  # symmetric (B, 1, 3, 3)
        coords = torch.cat([middle + _times(stretch, centres - middle), tokens.coords[..., 3:]], dim=-1)
        patches = _times(stretch[:, None], tokens.patches.unflatten(2, (self.neighbours, 3))).flatten(2)
        valid = tokens.valid[..., None]
        return replace(
            tokens, coords=torch.where(valid, coords, tokens.coords), patches=torch.where(valid, patches, tokens.patches)
        )


class PointEmbedding(nn.Module):
    """Two shared layers, a maximum over the group beside each point, two more, a maximum: independent of the points' order."""

    def __init__(self, neighbours: int, width: int) -> None:
        super().__init__()
        self.neighbours, inner = neighbours, max(32, width // 2)
        self.first = nn.Sequential(nn.Linear(3, inner), nn.LayerNorm(inner), nn.ReLU(), nn.Linear(inner, inner))
        self.second = nn.Sequential(nn.Linear(2 * inner, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, patches: Tensor) -> Tensor:
        """(B, N, 3 * neighbours) -> (B, N, width)."""
        each = self.first(patches.unflatten(2, (self.neighbours, 3)))
        together = each.amax(2, keepdim=True).expand_as(each)
        return self.second(torch.cat([together, each], dim=-1)).amax(2)


class BatchPointEmbedding(nn.Module):
    """The same with norms over the batch, and Point-MAE's widths (128, 256, 512 for 384 features, else in proportion).

    Groups that are not there, which are zeros, have no part in the statistics.
    """

    def __init__(self, neighbours: int, width: int) -> None:
        super().__init__()
        self.neighbours, unit = neighbours, max(8, width // 3)
        self.first = nn.Sequential(nn.Linear(3, unit), nn.BatchNorm1d(unit), nn.ReLU(), nn.Linear(unit, 2 * unit))
        self.second = nn.Sequential(
            nn.Linear(4 * unit, 4 * unit), nn.BatchNorm1d(4 * unit), nn.ReLU(), nn.Linear(4 * unit, width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """(B, N, 3 * neighbours) -> (B, N, width); zero for groups that are not there."""
        there = (patches != 0).any(-1)
        groups = patches[there].unflatten(1, (self.neighbours, 3))  # (M, k, 3)
        each = self.first(groups.flatten(0, 1)).unflatten(0, groups.shape[:2])
        together = each.amax(1, keepdim=True).expand_as(each)
        both = self.second(torch.cat([together, each], dim=-1).flatten(0, 1)).unflatten(0, groups.shape[:2])
        found = both.amax(1)
        return found.new_zeros(*there.shape, found.shape[-1]).masked_scatter(there[..., None], found)


def _times(matrix: Tensor, points: Tensor) -> Tensor:
    """A matrix (..., 1, 3, 3) by points (..., n, 3); a product of matrices autocast would do in bfloat16."""
    return (matrix * points[..., None, :]).sum(-1)


def covariance(points: Tensor, counts: Tensor | None = None) -> Tensor:
    """Covariance of points (..., n, 3), of those that count (..., n) if given: (..., 3, 3)."""
    weight = torch.ones_like(points[..., :1]) if counts is None else counts[..., None].to(points.dtype)
    total = weight.sum(-2, keepdim=True).clamp(min=1)
    around = (points - (points * weight).sum(-2, keepdim=True) / total) * weight
    return (around[..., :, None] * around[..., None, :]).sum(-3) / total


def farthest_points(points: Tensor, known: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (B, count) of points (B, N, 3), each the farthest from those before, and whether each is a new valid point.

    The first is the one farthest from the centroid: nothing is random, and the order of the points does not matter.
    """
    size = len(points)
    weight = known[..., None].to(points.dtype)
    centroid = (points * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    distance = (points - centroid).square().sum(-1).masked_fill(~known, -1.0)
    last = distance.argmax(1)
    nearest = torch.full_like(distance, torch.inf).masked_fill(~known, -1.0)
    chosen = torch.zeros(size, count, dtype=torch.int64, device=points.device)
    fresh = torch.zeros(size, count, dtype=torch.bool, device=points.device)
    for place in range(count):
        chosen[:, place] = last
        fresh[:, place] = nearest.gather(1, last[:, None])[:, 0] > 0
        here = points.gather(1, last[:, None, None].expand(-1, -1, 3))
        nearest = torch.minimum(nearest, (points - here).square().sum(-1)).masked_fill(~known, -1.0)
        last = nearest.argmax(1)
    return chosen, fresh
