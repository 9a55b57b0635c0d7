"""Patches on a grid, and the pictures they tile, or cover with overlaps."""

from __future__ import annotations

import torch
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


def covered(cells: int, side: int, step: int) -> int:
    """Samples under ``cells`` patches of ``side`` samples, one every ``step``."""
    return (cells - 1) * step + side


def overlapping(pictures: Tensor, patch_shape: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    """Pictures (B, C, *samples) to patches (B, C * cells, P), one every ``steps`` samples; what no patch reaches is dropped."""
    for axis, (side, step) in enumerate(zip(patch_shape, steps, strict=True), 2):
        pictures = pictures.unfold(axis, side, step)
    return pictures.flatten(2 + len(patch_shape)).flatten(1, 1 + len(patch_shape))


def averaged(patches: Tensor, grid: tuple[int, ...], patch_shape: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    """Patches (B, C * cells, P) to the pictures they cover, (B, C, *samples); samples of several patches are their mean."""
    tiles = patches.unflatten(2, patch_shape).unflatten(1, grid)  # (B, C, *cells, *sides)
    for axis, (cells, side, step) in enumerate(zip(grid[1:], patch_shape, steps, strict=True), 2):
        # The axes before this one are samples already; its cells are at ``axis``, its sides the first of those left.
        spread = tiles.movedim(len(grid) + 1, -1).movedim(axis, -2)
        place = (torch.arange(cells)[:, None] * step + torch.arange(side)).flatten().to(patches.device)
        sums = spread.new_zeros(*spread.shape[:-2], covered(cells, side, step)).index_add(-1, place, spread.flatten(-2))
        tiles = (sums / place.bincount().to(sums.dtype)).movedim(-1, axis)
    return tiles
