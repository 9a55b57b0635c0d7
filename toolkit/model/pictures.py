"""Patches on a grid, and the pictures they tile."""

from __future__ import annotations

from torch import Tensor


def fold(patches: Tensor, grid: tuple[int, ...], patch_shape: tuple[int, ...]) -> Tensor:
    """Patches (B, C * cells, P) on ``grid`` (C, *cells) to pictures (B * C, 1, *samples), one a channel."""
    dims = len(patch_shape)
    tiles = patches.unflatten(2, patch_shape).unflatten(1, grid)
    order = [place for axis in range(dims) for place in (2 + axis, 2 + dims + axis)]
    samples = [cells * side for cells, side in zip(grid[1:], patch_shape, strict=True)]
    return tiles.permute(0, 1, *order).reshape(-1, 1, *samples)


def unfold(pictures: Tensor, grid: tuple[int, ...], patch_shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``fold``: pictures (B * C, 1, *samples) to patches (B, C * cells, P)."""
    dims = len(patch_shape)
    sides = [n for pair in zip(grid[1:], patch_shape, strict=True) for n in pair]
    tiles = pictures.reshape(-1, grid[0], *sides)
    cells, values = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return tiles.permute(0, 1, *cells, *values).flatten(2 + dims).flatten(1, 1 + dims)
