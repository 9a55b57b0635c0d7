"""A point cloud as a recording: a table of rows, read in blocks, whose first channels are x, y and z."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.points_columns import HEAD_ROWS, Column, axes_first, channel, offset_of
from readers.points_write import Edit, Tally
from readers.schema import Axes, BoolArray, Event, FloatArray, PointSample, PointsLike, ReadError, Window

# Bytes of stored rows that one step of a read holds in memory.
_STEP_BYTES = 1 << 20
# Every so many rows a text table keeps the place in its file; steps end there.
MARK_ROWS = 4096


class Table(ABC):
    """Rows of numbers in a file: what a format's own module provides. Immutable, holds no open file."""

    rows: int
    row_bytes: int
    columns: tuple[Column, ...]

    @abstractmethod
    def read(self, start: int, stop: int, columns: Sequence[int]) -> list[NDArray[Any]]:
        """Rows start..stop of each column, (stop - start,) of a numeric type. Raises ReadError."""

    @abstractmethod
    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Write the whole file at ``part`` with the edited elements changed. Raises ReadError."""

    def check(self) -> Sequence[str]:
        """Read every row; what the file says of its rows and they do not keep. Raises ReadError."""
        for _ in self.walk():
            pass
        return ()

    def walk(self) -> Iterator[list[NDArray[Any]]]:
        """All rows of every column, in steps. Raises ReadError."""
        for first in range(0, self.rows, self.step()):
            yield self.read(first, min(first + self.step(), self.rows), range(len(self.columns)))

    def step(self) -> int:
        """Rows to read at a time."""
        rows = int(np.clip(_STEP_BYTES // max(self.row_bytes, 1), 64, 1 << 18))
        return rows // MARK_ROWS * MARK_ROWS or rows


class PointsRecording(PointsLike):
    """A point cloud in one file.

    ``Axes.shape`` is (rows, channels). ``Axes.offset`` follows ``points_columns.offset_of``: (0, 0, 0) for small
    coordinates, so that float32 is exact enough for projected ones.
    """

    domain = "points"

    def __init__(
        self,
        path: Path,
        format: str,
        table: Table,
        *,
        unit: str | None = None,
        offset: Sequence[float] | None = None,
        head: Sequence[NDArray[Any]] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Take the offset from the first rows; ``offset`` is the header's own.

        ``head``: every column of the first ``HEAD_ROWS`` rows, where they were read already. Raises ReadError.
        """
        if table.rows < 1:
            raise ReadError(f"{path.name} holds no points")
        self.path = path
        self.format = format
        self.table = table
        self.order = axes_first(path.name, table.columns)
        self.channels = tuple(channel(table.columns[k], unit) for k in self.order)
        axes = self.order[:3]
        with np.errstate(over="ignore", invalid="ignore"):
            xyz = table.read(0, min(table.rows, HEAD_ROWS), axes) if head is None else [head[k] for k in axes]
            own = offset_of([values.astype(np.float64) for values in xyz], offset)
        self.axes = Axes(shape=(table.rows, len(self.channels)), points=table.rows, unit=unit, offset=own)
        self.ids: dict[str, str] = {}
        names = [c.name for c in self.channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        self.warnings = (*warnings, *(f"several columns are called {name}" for name in twice))

    @property
    def events(self) -> Sequence[Event]:
        """Point clouds have none."""
        return ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def stored(self, channel: int) -> int:
        """Rows of the cloud."""
        return self.table.rows

    def read(self, start: int, stop: int, *, channels: Sequence[int] = ()) -> PointSample:
        """Read rows start..stop in file order, clipped to the rows there are.

        ``known``: x, y and z are finite in float32; ``valid``: the attribute itself is. ``values`` of x, y, z
        themselves, where they are asked for, keep their offset. Raises ReadError.
        """
        for index in channels:
            if not 0 <= index < len(self.channels):
                raise ReadError(f"{self.path.name} has no channel {index}; it has {len(self.channels)}")
        start = min(max(start, 0), self.table.rows)
        stop = min(max(stop, start), self.table.rows)
        coords = np.empty((stop - start, 3), np.float32)
        values = np.empty((len(channels), stop - start), np.float32)
        wanted = [*self.order[:3], *(self.order[index] for index in channels)]
        assert self.axes.offset is not None
        offsets = [*self.axes.offset, *([0.0] * len(channels))]
        known, valid = np.ones(stop - start, bool), np.ones(values.shape, bool)
        first, step = start, self.table.step()
        with np.errstate(over="ignore", invalid="ignore"):
            while first < stop:
                last = min((first // step + 1) * step, stop)
                with self._reading():
                    stored = self.table.read(first, last, wanted)
                own = slice(first - start, last - start)
                for target, offset, column in zip([*coords[own].T, *values[:, own]], offsets, stored, strict=True):
                    target[:] = column if offset == 0 else column.astype(np.float64) - offset
                _blank(coords[own], known[own, None])
                for target, flags in zip(values[:, own], valid[:, own], strict=True):
                    _blank(target[:, None], flags[:, None])
                first = last
        asked = tuple(self.channels[index] for index in channels)
        return PointSample(values, valid, asked, Window(start, stop), coords, known)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what an unreadable file makes of reading it into a ReadError."""
        try:
            yield
        except OSError as error:
            raise ReadError(f"{self.path.name} cannot be read: {error.strerror or error}") from error

    def verify(self) -> tuple[str, ...]:
        """Read every row; name the first that cannot be read, and what disagrees with the file's header or checksum."""
        try:
            with self._reading():
                return tuple(self.table.check())
        except ReadError as error:
            return (str(error),)


def _blank(rows: FloatArray, flags: BoolArray) -> None:
    """Set rows (n, k) with a number that is not finite to 0, and their flag (n, 1) to False."""
    if np.isfinite(rows.sum()):  # one pass; a sum that overflows only costs the next one
        return
    broken = ~np.isfinite(rows).all(axis=1)
    rows[broken] = 0
    flags[broken] = False
