"""Clouds as another laser scanner would have sampled them (the beam patterns of PSA-SSL, 2503.13914).

A scanner that stands beside the cloud has so many rings and measures at so many angles along each. Of what the cloud
shows it would have seen the points that lie on its rings, one in each direction. Nothing was released of the paper, so
the ranges are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolkit.corpus.batches import Batch
from toolkit.objective.boxes import turned

DIRECTIONS = (1.0, 5.0)  # of the scanner that cross the cloud, for each of its points: rings times azimuths
RINGS = (0.1, 1.0)  # for each azimuth: rings are coarser than what is measured along them
WIDTH = (0.4, 1.0)  # share of the angle between two rings within which a point counts as on one
DISTANCE = (1.5, 4.0)  # of the scanner, in the unit of the sphere
HEIGHT = (-0.5, 2.0)  # of the scanner above the cloud's middle; airborne scanners look down
SCALE = (2 / 3, 3 / 2)  # Point-MAE's range
LEAST = 0.2  # a pattern that leaves fewer than this share of the points is not applied


@dataclass(frozen=True)
class Sample:
    """What a pass looks at. ``batch``: what is seen; ``whole``: what it is of, before points were left out, and before the
    clouds were turned by ``turn`` (B,) radians about z and scaled by ``scale`` (B,). Points keep their rows."""

    batch: Batch
    whole: Batch
    turn: Tensor
    scale: Tensor

    @classmethod
    def plain(cls, batch: Batch) -> Sample:
        """A batch as it is."""
        return cls(batch, batch, torch.zeros(len(batch.values)), torch.ones(len(batch.values)))

    def points(self) -> tuple[Tensor, Tensor]:
        """The points of the clouds (B, N, 3) and which of them are there (B, N)."""
        return torch.from_numpy(self.batch.values).transpose(1, 2), torch.from_numpy(self.batch.valid).all(1)


def resampled(batch: Batch, generator: torch.Generator, least: int = 1) -> Sample:
    """Each cloud (3, N) of a batch from a scanner of its own, turned about z and scaled at random.

    A cloud that would be left with fewer than ``least`` points, or a fifth of its own, keeps all of them.
    """
    points, valid = Sample.plain(batch).points()
    size = len(points)
    turn = 2 * torch.pi * torch.rand(size, generator=generator)
    scale = _geometric(SCALE, size, generator)
    kept = Scanners.drawn(points, valid, generator).see(points, valid)
    enough = kept.sum(1) >= torch.clamp(LEAST * valid.sum(1), min=least)
    kept = torch.where(enough[:, None], kept, valid)
    moved = (scale[:, None, None] * turned(points, turn)).masked_fill(~kept[..., None], 0.0)
    mask = kept[:, None].expand(-1, 3, -1)
    changed = replace(batch, values=moved.transpose(1, 2).contiguous().numpy(), valid=mask.contiguous().numpy())
    return Sample(changed, batch, turn, scale)


@dataclass(frozen=True)
class Scanners:
    """One scanner a cloud: where it stands (B, 3), its ``rings`` and ``azimuths`` (B, 1) that cross the cloud, the share
    of the angle between two rings that a ring takes, and where the lowest begins, ``width`` and ``phase`` (B, 1)."""

    place: Tensor
    rings: Tensor
    azimuths: Tensor
    width: Tensor
    phase: Tensor

    @classmethod
    def drawn(cls, points: Tensor, valid: Tensor, generator: torch.Generator) -> Scanners:
        """Scanners for clouds (B, N, 3), with about as many directions as a cloud has points."""
        size = len(points)
        side = 2 * torch.pi * torch.rand(size, generator=generator)
        far, high = _between(DISTANCE, size, generator), _between(HEIGHT, size, generator)
        place = _middle(points, valid) + torch.stack([far * side.cos(), far * side.sin(), high], dim=-1)
        cells, ratio = valid.sum(1) * _geometric(DIRECTIONS, size, generator), _geometric(RINGS, size, generator)
        rings = (cells * ratio).sqrt().round().clamp(min=2)
        azimuths = (cells / rings).round().clamp(min=2)
        width, phase = _between(WIDTH, size, generator), torch.rand(size, generator=generator)
        return cls(place, *(each[:, None] for each in (rings, azimuths, width, phase)))

    def see(self, points: Tensor, valid: Tensor) -> Tensor:
        """Which of the points (B, N, 3) they see, bool (B, N): in each direction the valid one nearest to the ring's middle."""
        elevation, azimuth = self._angles(points, valid)
        height = _over(elevation, valid) * self.rings + self.phase
        off = (height - height.floor() - 0.5).abs()
        off = off.masked_fill(~valid | (off > self.width / 2), 2.0)  # more than any
        cell = (height.floor() * (self.azimuths + 1) + (_over(azimuth, valid) * self.azimuths).floor()).long()
        nearest = torch.full((len(points), int(cell.max()) + 1), 2.0).scatter_reduce(1, cell, off, "amin")
        return (off < 2) & (off <= nearest.gather(1, cell))

    def _angles(self, points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Elevation and azimuth (B, N) of each point, radians; azimuth counts from the cloud's middle."""
        ahead = _middle(points, valid) - self.place
        ray = turned(points - self.place[:, None], -torch.atan2(ahead[:, 1], ahead[:, 0]))
        return torch.atan2(ray[..., 2], ray[..., :2].norm(dim=-1)), torch.atan2(ray[..., 1], ray[..., 0])


def _middle(points: Tensor, valid: Tensor) -> Tensor:
    """Centroid (B, 3) of the valid points."""
    weight = valid[..., None].to(points.dtype)
    return (points * weight).sum(1) / weight.sum(1).clamp(min=1)


def _over(angle: Tensor, valid: Tensor) -> Tensor:
    """Angles (B, N) as shares of the range that the cloud takes, from 0 to 1."""
    low = angle.masked_fill(~valid, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
    high = angle.masked_fill(~valid, -torch.inf).amax(1, keepdim=True).nan_to_num(neginf=0.0)
    return ((angle - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def _between(span: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    return span[0] + (span[1] - span[0]) * torch.rand(count, generator=generator)


def _geometric(span: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    return span[0] * (span[1] / span[0]) ** torch.rand(count, generator=generator)
