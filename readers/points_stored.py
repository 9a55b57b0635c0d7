"""Rows of binary numbers in a file: read a block of them, change some in a copy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.points_columns import Column
from readers.points_record import Table
from readers.points_write import Edit, Tally, in_type, integer_limits
from readers.schema import ReadError

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Plane:
    """Records of ``stride`` bytes, one a row, the first at byte ``at``."""

    at: int
    stride: int


@dataclass(frozen=True)
class Slot:
    """Where a column lies: ``lane`` bytes into the records of a plane, as ``dtype`` (with its byte order).

    With ``bits`` it is that many bits of the integer, from bit ``shift``. The value is stored * scale + offset.
    """

    column: Column
    plane: int
    lane: int
    dtype: str
    shift: int = 0
    bits: int = 0
    scale: float = 1.0
    offset: float = 0.0

    def raw(self, records: Bytes) -> NDArray[Any]:
        """The stored numbers inside records (n, stride), as a view."""
        return np.ndarray((len(records),), self.dtype, records, self.lane, (records.shape[1],))

    def values(self, records: Bytes) -> NDArray[Any]:
        """The column's values (n,)."""
        raw = self.raw(records)
        if self.bits:
            raw = (raw >> self.shift) & ((1 << self.bits) - 1)
        if raw.dtype.kind == "b":
            return raw.view(np.uint8)
        return raw if self.scale == 1 and self.offset == 0 else raw * self.scale + self.offset


class StoredTable(Table):
    """Rows in one plane (interleaved) or several (one column, or field, after the other)."""

    def __init__(self, path: Path, planes: Sequence[Plane], slots: Sequence[Slot], rows: int) -> None:
        """The caller has checked that the file holds all rows."""
        self.path = path
        self.planes = tuple(planes)
        self.slots = tuple(slots)
        self.rows = rows
        self.columns = tuple(slot.column for slot in slots)
        self.row_bytes = sum(plane.stride for plane in planes)

    def read(self, start: int, stop: int, columns: Sequence[int]) -> list[NDArray[Any]]:
        """Rows of each column; planes that are not asked for are not read. Raises ReadError."""
        records: dict[int, Bytes] = {}
        for number in {self.slots[k].plane for k in columns}:
            plane = self.planes[number]
            raw = self._bytes(plane.at + start * plane.stride, (stop - start) * plane.stride)
            if len(raw) < (stop - start) * plane.stride:
                raise ReadError(f"{self.path.name} ends before point {stop}; its header claims {self.rows}")
            records[number] = np.frombuffer(raw, np.uint8).reshape(stop - start, plane.stride)
        return [self.slots[k].values(records[self.slots[k].plane]) for k in columns]

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy the bytes and change the edited numbers in the copy."""
        shutil.copyfile(self.path, part)
        self.change_file(part, edits, tally)

    def change_file(self, path: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Change numbers in a file that holds the planes at their places."""
        with path.open("r+b") as file:
            for number, plane in enumerate(self.planes):
                own = [edit for edit in edits if self.slots[edit.column].plane == number]
                row = -1
                while (first := _next_row(own, row)) is not None:
                    row = _last_row(own, first + self.step())
                    file.seek(plane.at + first * plane.stride)
                    raw = bytearray(file.read((row + 1 - first) * plane.stride))
                    if len(raw) < (row + 1 - first) * plane.stride:
                        raise ReadError(f"{self.path.name} ends before point {row + 1}")
                    self.change(np.frombuffer(raw, np.uint8).reshape(-1, plane.stride), first, own, tally)
                    file.seek(plane.at + first * plane.stride)
                    file.write(raw)

    def change(self, records: Bytes, first: int, edits: Sequence[Edit], tally: Tally) -> None:
        """Change numbers in the records of rows from ``first`` on, in place."""
        for edit in edits:
            low, high = np.searchsorted(edit.rows, [first, first + len(records)])
            if high > low:
                self._set(self.slots[edit.column], records, edit.rows[low:high] - first, edit.values[low:high], tally)

    def _set(self, slot: Slot, records: Bytes, rows: NDArray[np.int64], values: NDArray[np.float64], tally: Tally) -> None:
        raw = slot.raw(records)
        before = raw[rows]
        limits = (0.0, float((1 << slot.bits) - 1)) if slot.bits else integer_limits(raw.dtype)
        new, fits, clipped = in_type((values - slot.offset) / slot.scale, raw.dtype, limits)
        if slot.bits:
            mask = ((1 << slot.bits) - 1) << slot.shift
            new = (before & ~np.array(mask, raw.dtype)) | (new << slot.shift).astype(raw.dtype)
        new = np.where(fits, new, before)
        raw[rows] = new
        same = (before == new) | ((before != before) & (new != new))
        tally.changed += int(np.count_nonzero(~same))
        tally.clipped += clipped
        tally.keep(slot.column.name, int(np.count_nonzero(~fits)))

    def _bytes(self, at: int, count: int) -> bytes:
        """Bytes of the planes; fewer where they end."""
        with self.path.open("rb") as file:
            file.seek(at)
            return file.read(count)


def _next_row(edits: Sequence[Edit], row: int) -> int | None:
    """The first edited row after ``row``."""
    found = [int(edit.rows[k]) for edit in edits if (k := np.searchsorted(edit.rows, row, "right")) < edit.rows.size]
    return min(found, default=None)


def _last_row(edits: Sequence[Edit], stop: int) -> int:
    """The last edited row before ``stop``, which follows one."""
    return max(int(edit.rows[k - 1]) for edit in edits if (k := np.searchsorted(edit.rows, stop)) > 0)


def interleaved(path: Path, at: int, stride: int, slots: Sequence[Slot], rows: int) -> StoredTable:
    """Records one after the other from byte ``at``. Raises ReadError where the file holds fewer than ``rows``."""
    size = path.stat().st_size
    if at + rows * stride > size:
        held = max(size - at, 0) // max(stride, 1)
        raise ReadError(f"{path.name} claims {rows} points of {stride} bytes, and holds {held}")
    return StoredTable(path, [Plane(at, stride)], slots, rows)
