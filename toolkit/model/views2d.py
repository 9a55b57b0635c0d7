"""Pictures of a point cloud: depth maps along the three axes, and picture features brought back to points.

I2P-MAE (2212.06785) shows clouds to a model of pictures in this way. There a pixel holds the sigmoid of the depth and
every point takes part in every view; here pixels hold nearness from ``FARTHEST`` to 1, points are drawn as squares, so
that surfaces close, and a point takes features of the views in which nothing hides it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

AXES = ((1, 2), (0, 2), (0, 1))  # rows and columns of the views along x, y and z
FARTHEST = 0.25  # value of the farthest point; 0 is no point


@dataclass(frozen=True)
class Views:
    """``images`` (B, 3, S, S): nearness seen from +x, +y and +z, 0 where there is no point; ``half`` (B,): half the side of
    each view, in the unit of the points; ``margin``: how many pixels a point reaches beyond its own."""

    images: Tensor
    half: Tensor
    margin: int

    @property
    def side(self) -> int:
        """Pixels a side."""
        return self.images.shape[-1]

    @property
    def pixel(self) -> Tensor:
        """Side of a pixel, in the unit of the points (B,)."""
        return 2 * self.half / self.side


def project(points: Tensor, valid: Tensor, side: int, margin: int | None = None) -> Views:
    """Draw clouds (B, N, 3), of which points ``valid`` (B, N) count, in views of ``side`` pixels that just hold them.

    ``margin``: see :class:`Views`; by default 1 pixel in 64.
    """
    margin = max(1, side // 64) if margin is None else margin
    size = len(points)
    half = points.abs().amax(2).masked_fill(~valid, 0.0).amax(1).float()
    half = torch.where(half > 0, half, 1.0)
    nearness = _nearness(points, half).masked_fill(~valid[:, None], 0.0)  # (B, 3, N)
    place = _pixels(points, half, side)
    images = nearness.new_zeros(size, 3, side * side).scatter_reduce(2, place, nearness, "amax")
    images = functional.max_pool2d(images.view(size, 3, side, side), 2 * margin + 1, 1, margin)
    return Views(images, half, margin)


def visible(views: Views, points: Tensor) -> Tensor:
    """Whether each point (B, N, 3) is seen in each view, bool (B, 3, N): none in its pixel is much nearer.

    Neighbours on a surface are drawn over one another, so as much as a slope of 2 makes of ``margin`` is allowed.
    """
    place = _pixels(points, views.half, views.side)
    nearest = views.images.flatten(2).gather(2, place)
    slack = (2 * views.margin + 2) * (1 - FARTHEST) / views.side
    return _nearness(points, views.half) >= nearest - slack


def back_project(views: Views, maps: Tensor, points: Tensor, *, smooth: bool = True) -> Tensor:
    """Features (B, N, C) of points (B, N, 3): the mean of their places in ``maps`` (B, 3, C, h, w) over views that see them.

    A point that no view sees takes the mean of all three. ``smooth``: between cells of the map, else of the cell it is in.
    """
    at = (points.float() / views.half[:, None, None]).clamp(-1, 1)
    grid = torch.stack([at[..., [column, row]] for row, column in AXES], dim=1)  # (B, 3, N, 2)
    mode = "bilinear" if smooth else "nearest"
    found = functional.grid_sample(
        maps.float().flatten(0, 1), grid.flatten(0, 1)[:, None], mode=mode, padding_mode="border", align_corners=False
    )
    found = found[:, :, 0].unflatten(0, (-1, 3)).transpose(2, 3)  # (B, 3, N, C)
    seen = visible(views, points)
    seen = (seen | ~seen.any(1, keepdim=True))[..., None]
    return found.masked_fill(~seen, 0.0).sum(1) / seen.sum(1)


def _pixels(points: Tensor, half: Tensor, side: int) -> Tensor:
    """Number of the pixel of each point in each view, int64 (B, 3, N), row by row."""
    cell = ((points.float() / half[:, None, None] + 1) / 2 * side).floor().long().clamp(0, side - 1)
    return torch.stack([cell[..., row] * side + cell[..., column] for row, column in AXES], dim=1)


def _nearness(points: Tensor, half: Tensor) -> Tensor:
    """``FARTHEST`` to 1 along each axis, (B, 3, N)."""
    depth = (points.float() / half[:, None, None] + 1) / 2
    return FARTHEST + (1 - FARTHEST) * depth.transpose(1, 2)
