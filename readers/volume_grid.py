"""Grids of voxels in space: turning axes to RAS, cubes over a field of view, resampling from one grid to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.schema import BoolArray, ReadError

RESAMPLER = (
    "trilinear; before going coarser a Gaussian of sigma 0.4247 sqrt(f^2 - 1) voxels, f the ratio of spacings, cut at 4 sigma"
)

Float64 = NDArray[np.float64]
Size = tuple[int, int, int]
Load = Callable[[Size, Size], Float64]

# Width of a Gaussian whose blur makes a voxel of spacing 1 look like one of spacing f: sqrt(f^2 - 1) / (2 sqrt(2 ln 2)),
# the two point spread functions matched by their half widths (Cardoso et al. 2015, "Scale factor point spread
# function matching").
_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
_TRUNCATE = 4.0
# Ratios up to the first are not worth a filter; a filter for more than the second would cost more than it is worth.
_FINE, _COARSE = 1.05, 64.0
# Positions are rounded to a voxel's centre within this part of a voxel, so that grids that meet, meet exactly.
_SNAP = 1e-6
SAME_GRID_MM = 1e-3
# Voxels, read or made, that one step holds.
STEP_VOXELS = 2**23
MAX_GRID_VOXELS = 2**34


class Grid(NamedTuple):
    """Voxels in space: how many along each axis, and the affine (4, 4) from indices to RAS mm."""

    shape: Size
    affine: Float64


class Turn(NamedTuple):
    """For each RAS axis: the stored axis that runs along it, and whether it runs the other way."""

    axes: Size
    flipped: tuple[bool, bool, bool]


@lru_cache(maxsize=256)
def _turn(rows: tuple[float, ...]) -> Turn:
    from nibabel.orientations import io_orientation

    found = io_orientation(np.reshape(rows, (4, 4)))
    order = np.argsort(found[:, 0])
    x, y, z = (int(axis) for axis in order)
    a, b, c = (bool(found[axis, 1] < 0) for axis in order)
    return Turn((x, y, z), (a, b, c))


def turn_of(affine: Float64) -> Turn:
    """How to permute and flip the axes of a grid so that they run, as nearly as they can, to the right, front and top."""
    return _turn(tuple(affine.ravel().tolist()))


def turned_grid(shape: Size, affine: Float64, turn: Turn) -> Grid:
    """The same voxels with their axes permuted and flipped."""
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for ras, (axis, flipped) in enumerate(zip(*turn, strict=True)):
        back[axis, ras] = -1 if flipped else 1
        back[axis, 3] = shape[axis] - 1 if flipped else 0
    x, y, z = (shape[axis] for axis in turn.axes)
    return Grid((x, y, z), affine @ back)


def stored_box(start: Size, stop: Size, shape: Size, turn: Turn) -> tuple[Size, Size]:
    """A box of the turned grid as a box of the stored array of the given shape."""
    first, last = [0, 0, 0], [0, 0, 0]
    for ras, (axis, flipped) in enumerate(zip(*turn, strict=True)):
        size = shape[axis]
        first[axis] = size - stop[ras] if flipped else start[ras]
        last[axis] = size - start[ras] if flipped else stop[ras]
    return (first[0], first[1], first[2]), (last[0], last[1], last[2])


def turned(block: NDArray, turn: Turn) -> NDArray:
    """A block of the stored array with its axes permuted and flipped (a view)."""
    view = block.transpose(turn.axes)
    return view[tuple(slice(None, None, -1 if flipped else 1) for flipped in turn.flipped)]


def spacing_of(affine: Float64) -> Float64:
    """Lengths (3,) of an affine's columns: mm from voxel to voxel."""
    with np.errstate(over="ignore"):
        return np.sqrt((affine[:3, :3] ** 2).sum(0))


def cubes(grid: Grid, spacing_mm: float, name: str) -> Grid:
    """A grid of cubes over the same field of view, along the same axes and around the same centre.

    Along an axis of n voxels s mm apart there are ceil(n * s / spacing) of them, so the outermost centres lie inside
    the field of view. Raises ReadError for a spacing that is no length or makes more than 2^34 voxels.
    """
    if not (math.isfinite(spacing_mm) and spacing_mm > 0):
        raise ReadError(f"{name} cannot be read at a spacing of {spacing_mm} mm")
    own = spacing_of(grid.affine)
    counts = np.maximum(np.ceil(np.array(grid.shape) * own / spacing_mm - 1e-3), 1)
    if counts.prod() > MAX_GRID_VOXELS:
        raise ReadError(f"{name} spans {' x '.join(f'{n:g}' for n in grid.shape * own)} mm: too many voxels of {spacing_mm} mm")
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] / own * spacing_mm
    centre = grid.affine @ [*((np.array(grid.shape) - 1) / 2), 1]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((counts - 1) / 2)
    x, y, z = (int(n) for n in counts)
    return Grid((x, y, z), affine)


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same voxels in the same places, within 1e-3 mm."""
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in one.shape], [1], indexing="ij")).reshape(4, -1)
    return bool(np.abs((one.affine - other.affine) @ corners).max() <= SAME_GRID_MM)


class Mapping(NamedTuple):
    """From a wanted grid's indices to a source's: u = matrix @ v + shift; ``sigma`` of the filter, in source voxels."""

    matrix: Float64
    shift: Float64
    sigma: Float64
    source: Size

    def span(self, start: Size, stop: Size) -> tuple[Size, Size]:
        """The box of the source that a box of the wanted grid feels."""
        ends = np.stack([self.matrix * np.array(start), self.matrix * (np.array(stop) - 1)])
        low = np.clip(self.shift + ends.min(0).sum(1), 0, np.array(self.source) - 1)
        high = np.clip(self.shift + ends.max(0).sum(1), 0, np.array(self.source) - 1)
        reach = np.ceil(_TRUNCATE * self.sigma) + 1
        x, y, z = (int(v) for v in np.maximum(np.floor(low) - reach, 0))
        a, b, c = (int(v) for v in np.minimum(np.ceil(high) + reach + 1, self.source))
        return (x, y, z), (a, b, c)


def mapping(wanted: Grid, source: Grid) -> Mapping:
    """How to find a wanted grid's voxels in a source."""
    found = np.linalg.solve(source.affine, wanted.affine).astype(np.float64)
    matrix, shift = found[:3, :3], found[:3, 3]
    # Axes that run along each other are interpolated one after the other.
    aside = (np.abs(matrix - np.diag(np.diag(matrix))) * np.array(wanted.shape)).sum(1)
    if aside.max() < SAME_GRID_MM:
        matrix = np.diag(np.diag(matrix))
    ratio = np.minimum(np.sqrt((matrix**2).sum(1)), _COARSE)
    sigma = np.where(ratio > _FINE, _SIGMA * np.sqrt(np.maximum(ratio**2 - 1, 0)), 0.0)
    return Mapping(matrix, shift, sigma, source.shape)


def steps(start: Size, stop: Size, cost: Callable[[Size, Size], int]) -> Iterator[tuple[Size, Size]]:
    """Cut a box until no part costs more than ``STEP_VOXELS``."""
    sizes = [b - a for a, b in zip(start, stop, strict=True)]
    longest = int(np.argmax(sizes))
    if min(sizes) <= 0:
        return
    if sizes[longest] == 1 or max(cost(start, stop), math.prod(sizes)) <= STEP_VOXELS:
        yield start, stop
        return
    middle = (start[longest] + stop[longest]) // 2
    yield from steps(start, _with(stop, longest, middle), cost)
    yield from steps(_with(start, longest, middle), stop, cost)


def resample(way: Mapping, start: Size, stop: Size, load: Load) -> tuple[Float64, BoolArray]:
    """Values and validity of a box of the wanted grid; ``load(start, stop)`` gives a box of the source, NaN where unknown.

    A voxel is valid where its centre lies in the source's field of view and every source voxel that it is interpolated
    from is known. Nothing depends on where the box begins.
    """
    first, last = way.span(start, stop)
    block = load(first, last)
    unknown = ~np.isfinite(block)
    gaps = unknown if unknown.any() else None
    known = block if gaps is None else np.where(gaps, 0.0, block)
    straight = not np.any(way.matrix - np.diag(np.diag(way.matrix)))
    values, valid = (_along_axes if straight else _anywhere)(way, start, stop, first, known, gaps)
    values[~valid] = 0.0
    return values, valid


def _with(where: Size, axis: int, value: int) -> Size:
    x, y, z = (value if k == axis else v for k, v in enumerate(where))
    return x, y, z


def _smooth(block: Float64, gaps: BoolArray | None, sigma: Float64) -> Float64:
    """Low-pass; where there are gaps, by the known voxels alone."""
    from scipy.ndimage import gaussian_filter

    block = gaussian_filter(block, sigma, mode="nearest", truncate=_TRUNCATE)
    if gaps is None:
        return block
    return _weighted(block, gaussian_filter((~gaps).astype(np.float64), sigma, mode="nearest", truncate=_TRUNCATE))


def _weighted(sums: Float64, weights: Float64) -> Float64:
    """Means of known voxels. One that feels no gap keeps its sum: what it holds must not depend on the block."""
    return np.divide(sums, weights, out=sums.copy(), where=(weights < 1 - 1e-9) & (weights > 1e-9))


def _kernel(sigma: float) -> Float64:
    """The Gaussian that scipy takes: cut at ``_TRUNCATE`` sigma, of sum 1."""
    reach = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, _SNAP)) ** 2)
    return np.asarray(weights / weights.sum(), np.float64)


def _snapped(position: Float64, size: int) -> tuple[Float64, BoolArray]:
    """Positions rounded where they meet a centre and held inside the source; whether they are in its field of view."""
    centre = np.rint(position)
    position = np.where(np.abs(position - centre) < _SNAP, centre, position)
    inside = (position >= -0.5 - _SNAP) & (position <= size - 0.5 + _SNAP)
    return np.clip(position, 0, size - 1), inside


def _along_axes(
    way: Mapping, start: Size, stop: Size, first: Size, block: Float64, gaps: BoolArray | None
) -> tuple[Float64, BoolArray]:
    """Axis by axis, filter and interpolation in one, the axis that becomes shortest first."""
    valid: BoolArray = np.ones((1, 1, 1), bool)
    weights = None if gaps is None or not way.sigma.any() else (~gaps).astype(np.float64)
    block = np.ascontiguousarray(block)
    for axis in np.argsort(-np.abs(np.diag(way.matrix)), kind="stable").tolist():
        position = way.matrix[axis, axis] * np.arange(start[axis], stop[axis]) + way.shift[axis]
        position, inside = _snapped(position, way.source[axis])
        low = np.floor(position).astype(int)
        share = position - low
        kernel = np.pad(_kernel(way.sigma[axis]), 1)
        # Source voxels of each output voxel, and their weights: the kernel at `low`, and the same one further on.
        taps = np.arange(kernel.size - 1)[:, None]
        index = np.clip(low + taps - (kernel.size - 3) // 2, 0, way.source[axis] - 1) - first[axis]
        parts = kernel[taps + 1] * (1 - share) + kernel[taps] * share
        block = _sum_along(block, axis, index, parts)
        weights = None if weights is None else _sum_along(weights, axis, index, parts)
        along = tuple(-1 if k == axis else 1 for k in range(3))
        valid = valid & inside.reshape(along)
        if gaps is not None:
            above = np.minimum(low + 1, way.source[axis] - 1) - first[axis]
            gaps = gaps.take(low - first[axis], axis) | (gaps.take(above, axis) & (share > 0).reshape(along))
    block = block if weights is None else _weighted(block, weights)
    return block, np.broadcast_to(valid, block.shape) if gaps is None else valid & ~gaps


def _sum_along(block: Float64, axis: int, index: NDArray[np.int64], parts: Float64) -> Float64:
    """Weighted sums of the voxels ``index`` (taps, n) along an axis."""
    along = tuple(-1 if k == axis else 1 for k in range(3))
    total = block.take(index[0], axis) * parts[0].reshape(along)
    for places, weights in zip(index[1:], parts[1:], strict=True):
        if weights.any():
            total += block.take(places, axis) * weights.reshape(along)
    return total


def _anywhere(
    way: Mapping, start: Size, stop: Size, first: Size, block: Float64, gaps: BoolArray | None
) -> tuple[Float64, BoolArray]:
    from scipy.ndimage import map_coordinates

    i, j, k = np.ogrid[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    places = np.empty((3, *(b - a for a, b in zip(start, stop, strict=True))))
    valid: BoolArray = np.ones(places.shape[1:], bool)
    for axis, (a, b, c) in enumerate(way.matrix):
        position, inside = _snapped(a * i + b * j + c * k + way.shift[axis], way.source[axis])
        valid &= inside
        places[axis] = position - first[axis]
    values = map_coordinates(
        _smooth(block, gaps, way.sigma) if way.sigma.any() else block, places, order=1, mode="nearest", prefilter=False
    )
    if gaps is not None:
        valid &= map_coordinates(gaps.astype(np.float64), places, order=1, mode="nearest", prefilter=False) == 0
    return values, valid
