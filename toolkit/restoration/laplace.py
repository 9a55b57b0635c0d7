"""Smooth fields over holes in arrays: Laplace's equation with the visible values around a hole as its border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
TOLERANCE = 1e-7  # of the residual, relative to the right-hand side
MOST_STEPS = 2000


def harmonic(values: Float64, hole: NDArray[np.bool_], spacing: Sequence[float]) -> Float64:
    """``values`` (X, Y, Z) with the voxels of ``hole`` set to the harmonic function that meets the known voxels around it.

    Each hole voxel is the mean of its known or hole neighbours, weighted by one over the squared spacing along each axis; a
    function that is linear in space stays exactly. NaN outside the hole and the border of the array count for nothing.
    NaN where a hole voxel reaches no known one. Conjugate gradients on the seven-point stencil.
    """
    known = ~hole & np.isfinite(values)
    reached = _reached(hole, known)
    degree, border = np.zeros(values.shape), np.zeros(values.shape)
    filled = np.where(known, values, 0.0)
    pairs = []
    for axis, step in enumerate(spacing):
        weight = 1.0 / step**2
        for here, there in (_sides(axis), _sides(axis)[::-1]):
            degree[here] += weight * (known | reached)[there]
            border[here] += weight * filled[there]
            pairs.append((here, there, weight))
    degree[~reached] = 1.0
    found = _solve(degree, np.where(reached, border, 0.0), pairs, reached, _mean(values, known))
    return np.where(hole, np.where(reached, found, np.nan), values)


def _mean(values: Float64, known: NDArray[np.bool_]) -> float:
    return float(values[known].mean()) if known.any() else 0.0


def _sides(axis: int) -> tuple[Any, Any]:
    """Every voxel but the last along an axis, and its neighbour."""
    here: list[slice] = [slice(None)] * 3
    there: list[slice] = [slice(None)] * 3
    here[axis], there[axis] = slice(None, -1), slice(1, None)
    return tuple(here), tuple(there)


def _reached(hole: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Hole voxels of the connected parts that touch a known voxel."""
    from scipy import ndimage

    parts, _ = ndimage.label(hole)
    beside = parts[hole & ndimage.binary_dilation(known)]
    touched = np.zeros(int(parts.max()) + 1, bool)
    touched[beside] = True
    touched[0] = False
    return touched[parts]


def _solve(
    degree: Float64, border: Float64, pairs: list[tuple[Any, Any, float]], free: NDArray[np.bool_], start: float
) -> Float64:
    """Conjugate gradients for degree * u - sum of neighbours = border over the free voxels, by their diagonal."""

    def apply(u: Float64) -> Float64:
        product = degree * u
        for here, there, weight in pairs:
            product[here] -= weight * u[there]
        return np.where(free, product, 0.0)

    u = np.where(free, start, 0.0)
    residual = border - apply(u)
    scaled = residual / degree
    way, energy = scaled.copy(), float((residual * scaled).sum())
    limit = TOLERANCE**2 * max(float((border**2 / degree).sum()), 1e-300)
    for _ in range(MOST_STEPS):
        if energy <= limit:
            break
        image = apply(way)
        length = energy / float((way * image).sum())
        u += length * way
        residual -= length * image
        scaled = residual / degree
        energy, before = float((residual * scaled).sum()), energy
        way = scaled + (energy / before) * way
    return u
