"""LAS, the format of laser scanning: the header, and uncompressed point records as a table."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from readers.points_columns import named
from readers.points_stored import Slot, StoredTable
from readers.points_write import Edit, Tally
from readers.schema import ReadError

# Bytes of a record of each point format, without extra ones.
_SIZES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
_EXTRA_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
_BOUNDS_AT = 179

# (name, byte, type, first bit, bits) of formats 0 to 5, and of 6 to 10.
_OLD: tuple[tuple[str, int, str, int, int], ...] = (
    ("intensity", 12, "<u2", 0, 0), ("return_number", 14, "u1", 0, 3), ("number_of_returns", 14, "u1", 3, 3),
    ("scan_direction_flag", 14, "u1", 6, 1), ("edge_of_flight_line", 14, "u1", 7, 1), ("classification", 15, "u1", 0, 5),
    ("synthetic", 15, "u1", 5, 1), ("key_point", 15, "u1", 6, 1), ("withheld", 15, "u1", 7, 1),
    ("scan_angle_rank", 16, "i1", 0, 0), ("user_data", 17, "u1", 0, 0), ("point_source_id", 18, "<u2", 0, 0),
)  # fmt: skip
_NEW: tuple[tuple[str, int, str, int, int], ...] = (
    ("intensity", 12, "<u2", 0, 0), ("return_number", 14, "u1", 0, 4), ("number_of_returns", 14, "u1", 4, 4),
    ("synthetic", 15, "u1", 0, 1), ("key_point", 15, "u1", 1, 1), ("withheld", 15, "u1", 2, 1), ("overlap", 15, "u1", 3, 1),
    ("scanner_channel", 15, "u1", 4, 2), ("scan_direction_flag", 15, "u1", 6, 1), ("edge_of_flight_line", 15, "u1", 7, 1),
    ("classification", 16, "u1", 0, 0), ("user_data", 17, "u1", 0, 0), ("scan_angle", 18, "<i2", 0, 0),
    ("point_source_id", 20, "<u2", 0, 0), ("gps_time", 22, "<f8", 0, 0),
)  # fmt: skip
# Where GPS time, colour and near infrared lie, by point format.
_TIME_AT = {1: 20, 3: 20, 4: 20, 5: 20}
_COLOUR_AT = {2: 20, 3: 28, 5: 28, 7: 30, 8: 30, 10: 30}
_NIR_AT = {8: 36, 10: 36}


@dataclass(frozen=True)
class LasHeader:
    """The public header block as far as it is needed; ``point_format`` without the bits that mark compression.

    ``packing``: the record that describes the compression, empty without one.
    """

    point_format: int
    compressed: bool
    record_bytes: int
    points: int
    data: int
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    extra: tuple[tuple[str, str, float, float], ...]
    packing: bytes


def read_header(path: Path) -> LasHeader:
    """Parse the header and the description of extra bytes. Raises ReadError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(375)
        if not head:
            raise ReadError(f"{path.name} is empty")
        if len(head) < 227 or head[:4] != b"LASF":
            raise ReadError(f"{path.name} has no LAS header")
        if head[24] != 1 or head[25] > 4:
            raise ReadError(f"{path.name} is LAS {head[24]}.{head[25]}, expected 1.0 to 1.4")
        header_bytes, data, n_notes = struct.unpack_from("<HII", head, 94)
        if not 227 <= header_bytes <= data <= size:
            raise ReadError(f"{path.name} places its points at byte {data} of {size}, behind a header of {header_bytes}")
        file.seek(header_bytes)
        notes = file.read(min(data - header_bytes, 1 << 24))
    number, record_bytes, points = struct.unpack_from("<BHI", head, 104)
    if head[25] == 4 and header_bytes >= 375 and len(head) == 375:
        points = struct.unpack_from("<Q", head, 247)[0] or points
    scale, offset = struct.unpack_from("<3d", head, 131), struct.unpack_from("<3d", head, 155)
    if not all(np.isfinite(scale)) or 0 in scale or not all(np.isfinite(offset)):
        raise ReadError(f"{path.name} has the scales {scale} and offsets {offset}, expected finite ones and scales other than 0")
    if (number & 63) >= len(_SIZES) or record_bytes < _SIZES[number & 63]:
        raise ReadError(
            f"{path.name} has point format {number & 63} with records of {record_bytes} bytes, which LAS does not know"
        )
    described = _records(notes, n_notes)
    extra = _extra_bytes(described, record_bytes - _SIZES[number & 63])
    packing = next((body for user, record, body in described if (user, record) == (b"laszip encoded", 22204)), b"")
    return LasHeader(number & 63, number > 63, record_bytes, points, data, scale, offset, extra, packing)


def _records(notes: bytes, count: int) -> list[tuple[bytes, int, bytes]]:
    """(user, number, body) of the variable-length records between header and points."""
    at = 0
    found: list[tuple[bytes, int, bytes]] = []
    while at + 54 <= len(notes) and len(found) < count:
        record, length = struct.unpack_from("<HH", notes, at + 18)
        found.append((notes[at + 2 : at + 18].rstrip(b"\0"), record, notes[at + 54 : at + 54 + length]))
        at += 54 + length
    return found


def _extra_bytes(records: Sequence[tuple[bytes, int, bytes]], room: int) -> tuple[tuple[str, str, float, float], ...]:
    """(name, type, scale, offset) of each extra dimension; none where they are not described or do not fit."""
    bodies = [body for user, record, body in records if (user, record) == (b"LASF_Spec", 4)]
    found = [_extra(body[at : at + 192]) for body in bodies for at in range(0, len(body) - 191, 192)]
    used = sum(np.dtype(kind).itemsize for _, kind, _, _ in found)
    return tuple(found) if used <= room else ()


def _extra(note: bytes) -> tuple[str, str, float, float]:
    kind, options = note[2], note[3]
    name = note[4:36].split(b"\0")[0].decode("latin1") or "extra"
    if not 1 <= kind <= 10:  # bytes without a meaning, or one of the old pairs and triples: room to leave
        size = np.dtype(_EXTRA_TYPES[(kind - 1) % 10]).itemsize * ((kind - 1) // 10 + 1) if 10 < kind <= 30 else options
        return "", f"V{size}", 1.0, 0.0
    scale = struct.unpack_from("<d", note, 112)[0] if options & 8 else 1.0
    offset = struct.unpack_from("<d", note, 136)[0] if options & 16 else 0.0
    sound = np.isfinite(scale) and scale != 0 and np.isfinite(offset)
    return name, "<" + _EXTRA_TYPES[kind - 1], *((scale, offset) if sound else (1.0, 0.0))


def slots_of(header: LasHeader) -> list[Slot]:
    """Every dimension of the point format, wave packets left out."""
    number = header.point_format
    slots = [
        Slot(named(axis, "int32"), 0, 4 * k, "<i4", scale=header.scale[k], offset=header.offset[k])
        for k, axis in enumerate("xyz")
    ]
    for name, lane, dtype, shift, bits in _OLD if number < 6 else _NEW:
        slots.append(Slot(named(name, np.dtype(dtype).name), 0, lane, dtype, shift, bits))
    if number in _TIME_AT:
        slots.append(Slot(named("gps_time", "float64"), 0, _TIME_AT[number], "<f8"))
    if number in _COLOUR_AT:
        slots += [Slot(named(c, "uint16"), 0, _COLOUR_AT[number] + 2 * k, "<u2") for k, c in enumerate(("red", "green", "blue"))]
    if number in _NIR_AT:
        slots.append(Slot(named("nir", "uint16"), 0, _NIR_AT[number], "<u2"))
    lane = _SIZES[number]
    for name, dtype, scale, offset in header.extra:
        if name:
            slots.append(Slot(named(name, np.dtype(dtype).name), 0, lane, dtype, scale=scale, offset=offset))
        lane += np.dtype(dtype).itemsize
    return slots


class LasTable(StoredTable):
    """Uncompressed point records."""

    def check(self) -> Sequence[str]:
        """Bounds of x, y, z in the header that points leave."""
        return outside(self)

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy the bytes, change the edited numbers, and widen the header's bounds where a point left them."""
        super().copy(part, edits, tally)
        widen(part, edits, self.slots, tally)


def widen(path: Path, edits: Sequence[Edit], slots: Sequence[Slot], tally: Tally) -> None:
    """Extend the bounds of x, y, z in a header to the edited coordinates, as they were stored."""
    with path.open("r+b") as file:
        file.seek(_BOUNDS_AT)
        bounds = np.array(struct.unpack("<6d", file.read(48)))
        wider = bounds.copy()
        for edit in edits:
            finite = edit.values[np.isfinite(edit.values)]
            if edit.column < 3 and finite.size:
                slot = slots[edit.column]
                low, high = 2 * edit.column + 1, 2 * edit.column
                ends = np.clip(np.rint((np.array([finite.min(), finite.max()]) - slot.offset) / slot.scale), -(2**31), 2**31 - 1)
                ends = np.sort(ends * slot.scale + slot.offset)
                wider[low], wider[high] = min(wider[low], ends[0]), max(wider[high], ends[1])
        if not np.array_equal(bounds, wider, equal_nan=True):
            file.seek(_BOUNDS_AT)
            file.write(struct.pack("<6d", *wider))
            tally.notes.append("the header's bounds of x, y, z are widened to the changed points")


def outside(table: StoredTable) -> list[str]:
    """Read every point; the axes on which some lie more than a step outside the bounds in the header."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for columns in table.walk():
        xyz = columns[:3]
        low, high = np.minimum(low, [v.min() for v in xyz]), np.maximum(high, [v.max() for v in xyz])
    with table.path.open("rb") as file:
        file.seek(_BOUNDS_AT)
        bounds = struct.unpack("<6d", file.read(48))
    problems = []
    for k, axis in enumerate("xyz"):
        largest, smallest, step = bounds[2 * k], bounds[2 * k + 1], abs(table.slots[k].scale)
        if not (smallest - step <= low[k] and high[k] <= largest + step):
            own, said = f"{low[k]:.10g} to {high[k]:.10g}", f"{smallest:.10g} to {largest:.10g}"
            problems.append(f"{table.path.name} has {axis} from {own}, its header says {said}")
    return problems
