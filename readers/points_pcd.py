"""PCD (Point Cloud Library): the header, and the points as a table, whichever way they are stored."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from readers.points_columns import MAX_COLUMNS, Column, named
from readers.points_lzf import expand, wrap
from readers.points_record import PointsRecording, Table
from readers.points_rows import Field, TextTable, index_rows
from readers.points_stored import Plane, Slot, StoredTable, interleaved
from readers.points_write import Edit, Tally, copy_bytes
from readers.schema import ReadError

_TYPES = {"F4": "f4", "F8": "f8", **{f"{t}{n}": f"{t.lower()}{n}" for t in "IU" for n in (1, 2, 4, 8)}}
_KEYS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_MAX_HEADER_BYTES = 1 << 18
# A compressed file has to be expanded as a whole; a larger one than this is refused.
_MAX_EXPANDED = 1 << 28


@dataclass(frozen=True)
class PcdField:
    """A field: ``count`` numbers of one type, ``""`` for a type and size that do not go together."""

    name: str
    dtype: str
    count: int

    @property
    def size(self) -> int:
        """Bytes in a point."""
        return int(self.dtype[1]) * self.count


@dataclass(frozen=True)
class PcdHeader:
    """Fields in file order, points, the storage (``ascii``, ``binary``, ``binary_compressed``), the data's first byte."""

    fields: tuple[PcdField, ...]
    points: int
    storage: str
    data: int
    warnings: tuple[str, ...]


def read_header(path: Path) -> PcdHeader:
    """Parse the header. Raises ReadError."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER_BYTES)
    if not head:
        raise ReadError(f"{path.name} is empty")
    entries: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in entries:
        end = head.find(b"\n", at)
        if end < 0:
            raise ReadError(f"{path.name} has no line DATA within its first {len(head)} bytes")
        words = head[at:end].decode("latin1").split()
        at = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in _KEYS:
            raise ReadError(f"{path.name} has the header line '{' '.join(words)[:60]}', which PCD does not know")
        entries[words[0]] = words[1:]
    fields = _fields(path, entries)
    points, warnings = _points(path, entries)
    storage = " ".join(entries["DATA"])
    if storage not in ("ascii", "binary", "binary_compressed"):
        raise ReadError(f"{path.name} has DATA '{storage[:30]}', expected ascii, binary or binary_compressed")
    return PcdHeader(fields, points, storage, at, tuple(warnings))


def _fields(path: Path, entries: dict[str, list[str]]) -> tuple[PcdField, ...]:
    names = entries.get("FIELDS") or entries.get("COLUMNS") or []
    sizes, types = entries.get("SIZE", []), entries.get("TYPE", [])
    counts = entries.get("COUNT") or ["1"] * len(names)
    if not names or not len(names) == len(sizes) == len(types) == len(counts):
        numbers = f"{len(names)} names, {len(sizes)} sizes, {len(types)} types and {len(counts)} counts"
        raise ReadError(f"{path.name} has a header with {numbers} of fields")
    fields = []
    for name, size, kind, count in zip(names, sizes, types, counts, strict=True):
        if kind + size not in _TYPES:
            raise ReadError(
                f"{path.name} has a field {name[:30]} of TYPE {kind[:10]} and SIZE {size[:10]}, which PCD does not know"
            )
        number = _whole(count)
        if number is None or not 1 <= number <= MAX_COLUMNS:
            raise ReadError(f"{path.name} has a field {name[:30]} with COUNT {count[:20]}, expected 1 to {MAX_COLUMNS}")
        fields.append(PcdField(name, _TYPES[kind + size], number))
    if sum(field.count for field in fields) > MAX_COLUMNS:
        raise ReadError(f"{path.name} has more than {MAX_COLUMNS} numbers in a point")
    return tuple(fields)


def _points(path: Path, entries: dict[str, list[str]]) -> tuple[int, list[str]]:
    """The number of points, and warnings about their arrangement."""
    numbers = {key: _whole(entries[key][0] if entries[key] else "") for key in ("WIDTH", "HEIGHT", "POINTS") if key in entries}
    for key, number in numbers.items():
        if number is None:
            raise ReadError(f"{path.name} has {key} '{' '.join(entries[key])[:30]}', expected a number of points")
    width, height = numbers.get("WIDTH"), numbers.get("HEIGHT", 1)
    points = numbers.get("POINTS")
    if points is None and width is not None and height is not None:
        points = width * height
    if points is None:
        raise ReadError(f"{path.name} says neither POINTS nor WIDTH")
    if width is not None and height is not None and width * height != points:
        raise ReadError(f"{path.name} claims {points} points, but WIDTH {width} x HEIGHT {height} are {width * height}")
    warnings = [f"organised as {width} x {height} points"] if height is not None and height > 1 else []
    view = entries.get("VIEWPOINT", [])
    if view and view != ["0", "0", "0", "1", "0", "0", "0"]:
        warnings.append(f"seen from VIEWPOINT {' '.join(view)[:80]}, which is kept and not applied")
    return points, warnings


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 14 else None


def _parts(field: PcdField) -> Iterator[tuple[Column, int, str, int | None]]:
    """(column, byte inside the field, type, byte inside a packed colour) of a field's numbers; padding has none."""
    if field.name == "_":
        return
    if field.name in ("rgb", "rgba") and field.dtype in ("f4", "u4", "i4") and field.count == 1:
        # The 32 bits are alpha, red, green, blue from the highest byte down: in a file, blue comes first.
        for name, byte in (("red", 2), ("green", 1), ("blue", 0)):
            yield named(name, "uint8"), byte, "u1", byte
        if field.name == "rgba":
            yield replace(named("alpha", "uint8"), low=0.0, high=255.0), 3, "u1", 3
        return
    dtype = np.dtype("<" + field.dtype)
    for k in range(field.count):
        name = field.name if field.count == 1 else f"{field.name}[{k}]"
        yield named(name, dtype.name), k * dtype.itemsize, dtype.str, None


def open_pcd(path: Path) -> PointsRecording:
    """Open a PCD file. Raises ReadError."""
    header = read_header(path)
    if not header.points:
        raise ReadError(f"{path.name} holds no points")
    if header.storage == "ascii":
        table: Table = _ascii(path, header)
    elif header.storage == "binary":
        slots, lane = [], 0
        for field in header.fields:
            slots += [Slot(column, 0, lane + byte, dtype) for column, byte, dtype, _ in _parts(field)]
            lane += field.size
        table = interleaved(path, header.data, lane, slots, header.points)
    else:
        table = _compressed(path, header)
    return PointsRecording(path, "pcd", table, warnings=header.warnings)


def _ascii(path: Path, header: PcdHeader) -> Table:
    fields, token = [], 0
    for field in header.fields:
        for k, (column, _, _, byte) in enumerate(_parts(field)):
            fields.append(Field(column, token + (k if byte is None else 0), byte, byte is not None and field.dtype == "f4"))
        token += field.count
    index = index_rows(path, header.data, limit=header.points)
    if index.count < header.points:
        raise ReadError(f"{path.name} claims {header.points} points, and holds {index.count} lines of them")
    return TextTable(path, index, fields, token)


def _compressed(path: Path, header: PcdHeader) -> Table:
    with path.open("rb") as file:
        file.seek(header.data)
        sizes = file.read(8)
    held = path.stat().st_size - header.data - 8
    if len(sizes) < 8:
        raise ReadError(f"{path.name} ends before its compressed data")
    packed, size = struct.unpack("<II", sizes)
    expected = header.points * sum(field.size for field in header.fields)
    if size != expected:
        raise ReadError(f"{path.name} claims {header.points} points, {expected} bytes, and holds {size} bytes expanded")
    if packed > held:
        raise ReadError(f"{path.name} claims {packed} bytes of compressed data, and holds {held}")
    if size > _MAX_EXPANDED:
        raise ReadError(
            f"{path.name} expands to {size >> 20} MiB, at most {_MAX_EXPANDED >> 20} are read; store it as DATA binary"
        )
    planes, slots, at = [], [], 0
    for number, field in enumerate(header.fields):
        planes.append(Plane(at, field.size))
        slots += [Slot(column, number, byte, dtype) for column, byte, dtype, _ in _parts(field)]
        at += field.size * header.points
    return CompressedTable(path, planes, slots, header.points, header.data, packed, size)


class CompressedTable(StoredTable):
    """Fields one after the other, compressed as a whole."""

    def __init__(
        self, path: Path, planes: Sequence[Plane], slots: Sequence[Slot], rows: int, data: int, packed: int, size: int
    ) -> None:
        """``data``: the byte of the two sizes that precede ``packed`` bytes, which expand to ``size``."""
        super().__init__(path, planes, slots, rows)
        self.data, self.packed, self.size = data, packed, size

    def _bytes(self, at: int, count: int) -> bytes:
        stamp = self.path.stat().st_mtime_ns
        return expand(self.path, stamp, self.data + 8, self.packed, self.size)[at : at + count]

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy the file; the compressed data is written anew, as literal runs, only where something changes in it."""
        if not edits:
            super().copy(part, edits, tally)
            return
        plain = part.with_name(part.name + ".plain")
        try:
            plain.write_bytes(self._bytes(0, self.size))
            self.change_file(plain, edits, tally)
            changed = wrap(plain.read_bytes())
        finally:
            plain.unlink(missing_ok=True)
        if not tally.changed:
            super().copy(part, [], tally)
            return
        with self.path.open("rb") as source, part.open("wb") as target:
            copy_bytes(source, target, self.data)
            target.write(struct.pack("<II", len(changed), self.size) + changed)
            source.seek(self.data + 8 + self.packed)
            copy_bytes(source, target, self.path.stat().st_size)
        tally.notes.append("the compressed points are written as literal runs: the same format, without the saving")
