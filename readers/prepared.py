"""Prepared corpora: recordings decoded once onto a recipe's grid, read from shards. Needs numpy and pyarrow only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.prepared_store import ITEM, Entry, Prepared, Size
from readers.schema import (
    BoolArray,
    Box,
    FloatArray,
    PointSample,
    PointsLike,
    ReadError,
    SignalLike,
    SignalSample,
    VolumeLike,
    VolumeSample,
    Window,
)


def open_entry(entry: Entry) -> PreparedSignal | PreparedVolume | PreparedPoints:
    """Open a recording of a corpus. Raises ReadError."""
    try:
        match entry.row["axes_kind"]:
            case "signal":
                return PreparedSignal(entry)
            case "volume":
                return PreparedVolume(entry)
            case "points":
                return PreparedPoints(entry)
        raise ValueError(f"it knows no {entry.row['axes_kind']}")
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ReadError(f"{entry.path.name}: the index of the corpus '{entry.folder}' is damaged, {problem}") from None


class PreparedSignal(Prepared, SignalLike):
    """Channels over time at one rate."""

    def __init__(self, entry: Entry) -> None:
        self.rate_hz = float(entry.row["rate_hz"])
        self._rows, self._length = (int(n) for n in entry.row["shape"])
        self._offset = int(entry.row["offset"])
        super().__init__(entry)

    def _extents(self) -> list[tuple[int, int]]:
        return [(self._offset, self._offset + self._rows * self._length * ITEM)]

    def read(self, start: int, stop: int, *, rate_hz: float | None = None, channels: Sequence[int] | None = None) -> SignalSample:
        """Read samples start..stop at the prepared rate: exactly what the file gives on that grid.

        Raises ReadError for another rate, and for channels that were not prepared.
        """
        rate = self.axes.rate_hz if rate_hz is None else rate_hz
        if rate != self.rate_hz:
            raise self._other_grid(f"{self.rate_hz:g} Hz", f"{rate:g} Hz")
        if stop < start:
            raise ReadError(f"{self.path.name} cannot be read from sample {start} to sample {stop}")
        picked = tuple(range(len(self.channels)) if channels is None else channels)
        self._check(picked)
        values: FloatArray = np.empty((len(picked), stop - start), np.float32)
        first = min(max(start, 0), max(stop, 0), self._length)
        last = min(max(stop, first), self._length)
        inside = slice(first - start, last - start) if last > first else slice(0, 0)
        values[:, : inside.start] = np.nan
        values[:, inside.stop :] = np.nan
        with self._opened() as file:
            for row, channel in enumerate(picked):
                if self.channels[channel].missing:
                    values[row] = np.nan
                else:
                    self._take(file, self._offset + (self._row_of(channel) * self._length + first) * ITEM, values[row, inside])
        return SignalSample(
            values=values,
            valid=_cleared(values),
            rate_hz=float(rate),
            channels=tuple(self.channels[channel] for channel in picked),
            window=Window(start, stop),
        )


class PreparedVolume(Prepared, VolumeLike):
    """Contrasts over space, on cubes of one or two spacings."""

    def __init__(self, entry: Entry) -> None:
        self._grids: list[dict[str, Any]] = json.loads(entry.row["grids"])
        self._base = int(entry.row["offset"])
        super().__init__(entry)

    def _extents(self) -> list[tuple[int, int]]:
        starts = [(self._base + int(g["at"]), math.prod(g["shape"])) for g in self._grids]
        return [(first, first + count * ITEM) for first, count in starts]

    def _held(self, spacing_mm: float | None) -> dict[str, Any]:
        for grid in self._grids:
            if grid["spacing_mm"] == spacing_mm:
                return grid
        held = " and ".join(f"{g['spacing_mm']:g} mm" for g in self._grids)
        raise self._other_grid(held, "the voxels of the file" if spacing_mm is None else f"{spacing_mm:g} mm")

    def grid(self, spacing_mm: float | None = None) -> tuple[Size, NDArray[np.float64]]:
        """Shape and affine (4, 4) to RAS mm of the file's own grid, or of one that was prepared. Raises ReadError."""
        grid = self._native["grid"] if spacing_mm is None else self._held(spacing_mm)
        x, y, z = grid["shape"][-3:]
        return (x, y, z), np.array(grid["affine"], np.float64)

    def read(self, box: Box, *, spacing_mm: float | None = None, channels: Sequence[int] | None = None) -> VolumeSample:
        """Read a box of a prepared grid: exactly what the file gives there. Raises ReadError for another spacing."""
        grid = self._held(spacing_mm)
        if any(b < a for a, b in zip(box.start, box.stop, strict=True)):
            raise ReadError(f"{self.path.name} cannot be read from voxel {box.start} to voxel {box.stop}")
        picked = tuple(range(len(self.channels)) if channels is None else channels)
        self._check(picked)
        shape, affine = self.grid(spacing_mm)
        values: FloatArray = np.full((len(picked), *box.shape), np.nan, np.float32)
        start = [max(a, 0) for a in box.start]
        stop = [min(b, n) for b, n in zip(box.stop, shape, strict=True)]
        with self._opened() as file:
            for row, channel in enumerate(picked):
                at = self._base + int(grid["at"]) + self._row_of(channel) * math.prod(shape) * ITEM
                if all(b > a for a, b in zip(start, stop, strict=True)):
                    own = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, box.start, strict=True))
                    self._fill(file, at, shape, start, stop, values[row][own])
        affine[:3, 3] += affine[:3, :3] @ box.start
        named = tuple(self.channels[channel] for channel in picked)
        return VolumeSample(values=values, valid=_cleared(values), channels=named, window=box, affine=affine)

    def _fill(self, file: FileIO, at: int, shape: Size, start: Sequence[int], stop: Sequence[int], into: FloatArray) -> None:
        """Read plane by plane the lines that the box touches."""
        _, rows, deep = shape
        lines = np.empty((stop[1] - start[1], deep), np.float32)
        for x in range(start[0], stop[0]):
            self._take(file, at + (x * rows + start[1]) * deep * ITEM, lines)
            into[x - start[0]] = lines[:, start[2] : stop[2]]

    def affine_of(self, channel: int) -> NDArray[np.float64]:
        """Affine (4, 4) from a contrast's stored voxel indices to RAS mm."""
        return np.array(self._native["affines"][channel], np.float64)

    def shape_of(self, channel: int) -> Size:
        """Stored shape of a contrast."""
        x, y, z = self._native["shapes"][channel]
        return x, y, z


class PreparedPoints(Prepared, PointsLike):
    """A point cloud: coordinates (N, 3), and behind them the attributes (A, N)."""

    def __init__(self, entry: Entry) -> None:
        self._points = int(entry.row["shape"][0])
        self._offset = int(entry.row["offset"])
        self._kept = len(entry.row["stored"])
        super().__init__(entry)

    def _extents(self) -> list[tuple[int, int]]:
        return [(self._offset, self._offset + self._points * (3 + self._kept) * ITEM)]

    def read(self, start: int, stop: int, *, channels: Sequence[int] = ()) -> PointSample:
        """Read rows start..stop, clipped to the rows there are: exactly what the file gives. Raises ReadError."""
        self._check(channels)
        start = min(max(start, 0), self._points)
        stop = min(max(stop, start), self._points)
        coords: FloatArray = np.empty((stop - start, 3), np.float32)
        values: FloatArray = np.empty((len(channels), stop - start), np.float32)
        with self._opened() as file:
            self._take(file, self._offset + start * 3 * ITEM, coords)
            for row, channel in enumerate(channels):
                at = (3 + self._row_of(channel)) * self._points + start
                self._take(file, self._offset + at * ITEM, values[row])
        flags = _cleared(coords)
        known: BoolArray = np.ones(len(coords), bool) if flags.all() else np.all(flags, axis=1)
        asked = tuple(self.channels[index] for index in channels)
        return PointSample(values, _cleared(values), asked, Window(start, stop), coords, known)


def _cleared(values: FloatArray) -> BoolArray:
    """Which values are valid; the others become 0."""
    valid: BoolArray = np.equal(values, values)  # False for NaN alone, and faster than asking for it
    if not valid.all():
        values[~valid] = 0
    return valid
