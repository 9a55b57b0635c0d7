"""Volume recordings: boxes of contrasts with different grids, brought onto one; and the way back to stored voxels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.schema import BoolArray, Box, FloatArray, Patch, ReadError, Recording, VolumeLike, VolumeSample
from readers.volume_grid import (
    RESAMPLER,
    Float64,
    Grid,
    Mapping,
    Size,
    cubes,
    mapping,
    resample,
    same_grid,
    spacing_of,
    steps,
    stored_box,
    turn_of,
    turned,
    turned_grid,
)

__all__ = ["RESAMPLER", "VolumeRecording", "foreground", "patch_of"]

# Voxels along the longest axis of the grid on which the foreground is looked for: 4 mm for 256 mm.
_COARSE_AXIS = 64


class VolumeRecording(VolumeLike):
    """Contrasts over space; a subclass supplies the stored voxels, each contrast on its own grid.

    Values of a contrast that lies on the grid that is read are exactly the float32 of the physical value, its axes
    permuted and flipped; otherwise they pass ``RESAMPLER``, so that boxes that overlap agree.
    """

    @abstractmethod
    def _native(self, channel: int, start: Size, stop: Size) -> Float64:
        """Physical values of a box of a contrast's stored array, NaN where the file holds none.

        The box lies inside ``shape_of(channel)``. Raises ReadError.
        """

    def stored(self, channel: int) -> int:
        """Voxels of a contrast on its own grid."""
        return math.prod(self.shape_of(channel))

    def grid(self, spacing_mm: float | None = None) -> tuple[Size, Float64]:
        """Shape, and affine (4, 4) to RAS mm, of the grid that :meth:`read` reads on.

        Without ``spacing_mm`` the first contrast's voxels, their axes permuted and flipped to the closest RAS; else
        cubes along the same axes around the same centre, ceil(field of view / spacing) of them. Raises ReadError.
        """
        shape, affine = self._grid(spacing_mm)
        return shape, affine.copy()

    def read(self, box: Box, *, spacing_mm: float | None = None, channels: Sequence[int] | None = None) -> VolumeSample:
        """Read a box of that grid, which may reach outside it: values float32 (C, X, Y, Z). Raises ReadError.

        A voxel is valid where it lies in the contrast's field of view and the stored voxels that it comes from are
        finite in float32.
        """
        grid = self._grid(spacing_mm)
        if any(b < a for a, b in zip(box.start, box.stop, strict=True)):
            raise ReadError(f"{self.path.name} cannot be read from voxel {box.start} to voxel {box.stop}")
        picked = tuple(range(len(self.channels)) if channels is None else channels)
        values: FloatArray = np.zeros((len(picked), *box.shape), np.float32)
        valid: BoolArray = np.zeros((len(picked), *box.shape), bool)
        start = _size(max(a, 0) for a in box.start)
        stop = _size(min(b, n) for b, n in zip(box.stop, grid.shape, strict=True))
        for row, channel in enumerate(picked):
            self._fill(channel, grid, (start, stop), box.start, values[row], valid[row])
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ box.start
        named = tuple(self.channels[channel] for channel in picked)
        return VolumeSample(values=values, valid=valid, channels=named, window=box, affine=affine)

    def _grid(self, spacing_mm: float | None) -> Grid:
        native = self._turned(0)
        return native if spacing_mm is None else cubes(native, spacing_mm, self.path.name)

    def _turned(self, channel: int) -> Grid:
        affine = self.affine_of(channel)
        return turned_grid(self.shape_of(channel), affine, turn_of(affine))

    def _fill(
        self, channel: int, grid: Grid, inside: tuple[Size, Size], origin: Size, values: FloatArray, valid: BoolArray
    ) -> None:
        """Write the part of a box that lies inside the grid."""
        own = self._turned(channel)
        way = None if same_grid(own, grid) else mapping(grid, own)
        cost = _volume if way is None else lambda a, b: _volume(*way.span(a, b))
        for start, stop in steps(*inside, cost):
            at = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, origin, strict=True))
            if way is None:
                found, known = self._turned_block(channel, start, stop), None
            else:
                found, known = resample(way, start, stop, lambda a, b: self._turned_block(channel, a, b))
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is not valid
                values[at] = found
            valid[at] = np.isfinite(values[at]) if known is None else known & np.isfinite(values[at])
            values[at][~valid[at]] = 0.0

    def _turned_block(self, channel: int, start: Size, stop: Size) -> Float64:
        """A box of a contrast's own grid, axes permuted and flipped."""
        turn = turn_of(self.affine_of(channel))
        return turned(self._native(channel, *stored_box(start, stop, self.shape_of(channel), turn)), turn)


def patch_of(
    recording: VolumeRecording, channel: int, box: Box, values: NDArray[np.floating], *, spacing_mm: float | None = None
) -> Patch:
    """The way back: stored voxels of a contrast from ``values`` (X, Y, Z) on a box of the grid at ``spacing_mm``.

    NaN means: leave this voxel. On the contrast's own grid every value goes to its voxel as it is; from another grid
    each stored voxel whose centre lies in the box is interpolated by ``RESAMPLER``, and left where a NaN has part in it.
    Raises ReadError for values that do not have the box's shape.
    """
    if values.shape != box.shape:
        raise ReadError(f"{recording.path.name}: values of shape {values.shape} for a box of {box.shape} voxels")
    shape, affine = recording.grid(spacing_mm)
    affine[:3, 3] += affine[:3, :3] @ box.start
    given = Grid(box.shape, affine)
    data = np.asarray(values, np.float64)
    turn = turn_of(recording.affine_of(channel))
    own = recording._turned(channel)
    if same_grid(own, recording._grid(spacing_mm)):
        start = _size(max(a, 0) for a in box.start)
        stop = _size(max(min(b, n), a) for a, b, n in zip(start, box.stop, shape, strict=True))
        pieces = [(start, data[tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, box.start, strict=True))])]
    else:
        pieces = _brought_back(mapping(own, given), own, given, data)
    stored = recording.shape_of(channel)
    index, found = [np.empty(0, np.int64)], [np.empty(0)]
    for start, piece in pieces:
        places = np.nonzero(~np.isnan(piece))
        at = [np.empty(0, np.int64)] * 3
        for ras, (axis, flipped) in enumerate(zip(*turn, strict=True)):
            position = places[ras] + start[ras]
            at[axis] = stored[axis] - 1 - position if flipped else position
        index.append(np.ravel_multi_index((at[0], at[1], at[2]), stored).astype(np.int64))
        found.append(piece[places])
    return Patch(channel, np.concatenate(index), np.concatenate(found))


def foreground(recording: VolumeRecording, spacing_mm: float | None = None, channel: int = 0) -> Box:
    """The box around the head, in voxels of ``recording.grid(spacing_mm)``.

    Found at a 64th of the longest axis: the largest connected part above the 1st percentile and a tenth of the way
    to the 99th; the whole grid where nothing stands out. Remembered for recordings that are equal. Raises ReadError.
    """
    coarse, start, stop = _head(recording, channel)
    shape, affine = recording.grid(spacing_mm)
    # Both grids have the same axes and centre, so edges go to edges, axis by axis.
    way = mapping(Grid(recording.grid(coarse)[0], recording.grid(coarse)[1]), Grid(shape, affine))
    ratio = np.diag(way.matrix)
    low = np.floor((np.array(start) - 0.5) * ratio + way.shift + 0.5 + 1e-6)
    high = np.ceil((np.array(stop) - 0.5) * ratio + way.shift + 0.5 - 1e-6)
    return Box(_size(np.clip(low, 0, np.array(shape) - 1)), _size(np.clip(high, 1, shape)))


@lru_cache(maxsize=1024)
def _head(recording: VolumeRecording, channel: int) -> tuple[float, Size, Size]:
    """Spacing of the coarse grid, and the box of the head on it."""
    from scipy.ndimage import find_objects, label

    shape, affine = recording.grid()
    extent = spacing_of(affine) * shape
    spacing = float(extent.max()) / _COARSE_AXIS
    whole = Box((0, 0, 0), recording.grid(spacing)[0])
    sample = recording.read(whole, spacing_mm=spacing, channels=[channel])
    values, valid = sample.values[0], sample.valid[0]
    if not valid.any():
        return spacing, whole.start, whole.stop
    low, high = np.percentile(values[valid], [1, 99])
    parts, n_parts = label(valid & (values > low + 0.1 * (high - low)))
    if n_parts == 0:
        return spacing, whole.start, whole.stop
    largest = int(np.argmax(np.bincount(parts.ravel())[1:]))
    found = find_objects(parts)[largest]
    return spacing, _size(part.start for part in found), _size(part.stop for part in found)


def describe_grids(recording: Recording, grids: Sequence[Grid]) -> list[str]:
    """A sentence for each contrast that does not lie on the first one's grid."""
    notes = []
    for channel, grid in zip(recording.channels[1:], grids[1:], strict=True):
        if not same_grid(grid, grids[0]):
            notes.append(
                f"{channel.name} has another grid ({_describe(grid)}) than {recording.channels[0].name} "
                f"({_describe(grids[0])}) and is resampled to it by the headers' positions"
            )
    return notes


def _brought_back(way: Mapping, own: Grid, given: Grid, data: Float64) -> list[tuple[Size, Float64]]:
    """Pieces of a contrast's own grid, interpolated from values on another; NaN where those say nothing."""
    back = mapping(given, own)
    ends = np.stack([back.matrix * -0.5, back.matrix * (np.array(given.shape) - 0.5)])
    low = np.clip(np.ceil(back.shift + ends.min(0).sum(1) - 1e-6), 0, own.shape)
    high = np.clip(np.floor(back.shift + ends.max(0).sum(1) + 1e-6) + 1, low, own.shape)
    pieces = []
    for start, stop in steps(_size(low), _size(high), lambda a, b: _volume(*way.span(a, b))):
        values, valid = resample(way, start, stop, lambda a, b: data[tuple(slice(x, y) for x, y in zip(a, b, strict=True))])
        pieces.append((start, np.where(valid, values, np.nan)))
    return pieces


def _describe(grid: Grid) -> str:
    return f"{' x '.join(str(n) for n in grid.shape)} voxels of {' x '.join(f'{s:.3g}' for s in spacing_of(grid.affine))} mm"


def _volume(start: Size, stop: Size) -> int:
    return math.prod(b - a for a, b in zip(start, stop, strict=True))


def _size(values: Iterable[Any]) -> Size:
    x, y, z = (int(v) for v in values)
    return x, y, z
