"""Opening LAS files, and the table of compressed ones (LAZ), which needs the ``lazrs`` package."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from readers.points_las import LasHeader, LasTable, outside, read_header, slots_of, widen
from readers.points_laz_decode import BLOCK_BYTES, Packed, block, chunk_table, package
from readers.points_record import PointsRecording
from readers.points_stored import Plane, Slot, StoredTable, interleaved
from readers.points_write import Edit, Tally, copy_bytes
from readers.schema import ReadError

# Even constant points take more than a byte in this many.
_MAX_POINTS_PER_BYTE = 64
# Points of a chunk in memory; chunks have 50,000 points as a rule.
_MAX_CHUNK_BYTES = 1 << 28
_MAX_ITEMS = 100
_LAYERED = 3
_VARIABLE = 0xFFFFFFFF
# Layers of a chunk by item type: points of format 6, colour, colour with infrared, wave packets. 14: one a byte.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_EXTRA_BYTES_ITEM = 14
_WAVES_AT, _RECORDS_AT = 227, 235


def open_las(path: Path) -> PointsRecording:
    """Open a LAS or LAZ file. Raises ReadError, also for LAZ without the package that reads it."""
    header = read_header(path)
    if not header.points:
        raise ReadError(f"{path.name} holds no points")
    if header.compressed:
        package(path)
        packed = Packed(path, path.stat().st_mtime_ns, header.data, _checked_packing(path, header), header.record_bytes)
        _check_chunks_of(packed, header)
        table: StoredTable = LazTable(packed, header)
    else:
        plain = interleaved(path, header.data, header.record_bytes, slots_of(header), header.points)
        table = LasTable(path, plain.planes, plain.slots, plain.rows)
    return PointsRecording(path, "las", table, offset=header.offset)


def _checked_packing(path: Path, header: LasHeader) -> bytes:
    """The description of the compression, in which every size that the decoder would allocate fits the file. Raises ReadError."""
    size, packing = path.stat().st_size, header.packing
    if header.points > (size - header.data) * _MAX_POINTS_PER_BYTE:
        raise ReadError(f"{path.name} claims {header.points} points in {size - header.data} compressed bytes")
    if len(packing) < 34 or len(packing) < 34 + 6 * struct.unpack_from("<H", packing, 32)[0]:
        raise ReadError(f"{path.name} has no whole description of its compression")
    compressor, chunk_points = struct.unpack_from("<H", packing, 0)[0], struct.unpack_from("<I", packing, 12)[0]
    items = _items(packing)
    if len(items) > _MAX_ITEMS or sum(item[1] for item in items) != header.record_bytes:
        held = f"{len(items)} parts with {sum(item[1] for item in items)} bytes"
        raise ReadError(f"{path.name} compresses records of {held}, its header has records of {header.record_bytes}")
    if compressor not in (2, _LAYERED) or not chunk_points:
        raise ReadError(f"{path.name} is compressed in a way (compressor {compressor}) that is not read")
    if chunk_points != _VARIABLE and chunk_points * header.record_bytes > _MAX_CHUNK_BYTES:
        raise ReadError(f"{path.name} claims chunks of {chunk_points} points")
    return packing[: 34 + 6 * len(items)]


def _items(packing: bytes) -> list[tuple[int, int, int]]:
    """Kind, bytes and version of each part of a record."""
    return [struct.unpack_from("<HHH", packing, 34 + 6 * k) for k in range(struct.unpack_from("<H", packing, 32)[0])]


def _check_chunks_of(packed: Packed, header: LasHeader) -> None:
    path = packed.path
    with path.open("rb") as file:
        end = _chunk_table(path, file, header, path.stat().st_size)
        chunks = chunk_table(packed)
        _check_chunks(path, header, chunks, end)
        if struct.unpack_from("<H", packed.packing, 0)[0] == _LAYERED:
            _check_layers(path, file, header, chunks[:, 1].tolist(), _items(packed.packing))


def _chunk_table(path: Path, file: BinaryIO, header: LasHeader, size: int) -> int:
    """The byte of the table of chunks, which lies in the file and claims no more chunks than points. Raises ReadError."""
    place = _integer(file, header.data, "<q")
    if place == -1:  # a streamed file has the place at its end
        place = _integer(file, size - 8, "<q")
    chunks = _integer(file, place + 4, "<I") if header.data + 8 <= place <= size - 8 else 0
    if not 1 <= chunks <= min(header.points, size):
        raise ReadError(f"{path.name} has no sound table of its compressed chunks")
    return place


def _integer(file: BinaryIO, at: int, kind: str) -> int:
    file.seek(at)
    return int(struct.unpack(kind, file.read(struct.calcsize(kind)).ljust(struct.calcsize(kind), b"\0"))[0])


def _check_chunks(path: Path, header: LasHeader, chunks: NDArray[np.uint64], end: int) -> None:
    counts = chunks[:, 0].tolist()  # integers without bounds: a damaged table has sums that wrap around
    points, length = sum(counts), sum(chunks[:, 1].tolist())
    if points < header.points or header.data + 8 + length > end:
        held = end - header.data - 8
        raise ReadError(f"{path.name} claims {header.points} points, its chunks {points} in {length} of {held} bytes")
    if max(counts) * header.record_bytes > _MAX_CHUNK_BYTES:
        raise ReadError(f"{path.name} claims a chunk of {max(counts)} points")


def _check_layers(
    path: Path, file: BinaryIO, header: LasHeader, lengths: Sequence[int], items: Sequence[tuple[int, int, int]]
) -> None:
    """A chunk: its first point, the number of points, the sizes of its layers, the layers."""
    layers = sum(size if kind == _EXTRA_BYTES_ITEM else _LAYERS.get(kind, 0) for kind, size, _ in items)
    at = header.data + 8
    for length in lengths:
        file.seek(at + header.record_bytes + 4)
        sizes = np.frombuffer(file.read(4 * layers).ljust(4 * layers, b"\xff"), "<u4")
        if int(sizes.sum(dtype=np.int64)) > length:
            raise ReadError(f"{path.name} has a broken chunk: its layers claim more than its {length} bytes")
        at += length


class LazTable(StoredTable):
    """Compressed point records: a window costs the blocks of chunks (50,000 points each, as a rule) that it touches."""

    def __init__(self, packed: Packed, header: LasHeader) -> None:
        """The caller has checked the sizes."""
        slots: list[Slot] = slots_of(header)
        super().__init__(packed.path, [Plane(0, header.record_bytes)], slots, header.points)
        self.packed = packed

    def step(self) -> int:
        """Rows to read at a time: a block of whole chunks, because a chunk is decoded from its beginning."""
        chunk, most = int(struct.unpack_from("<I", self.packed.packing, 12)[0]), max(BLOCK_BYTES // self.row_bytes, 1)
        return most // chunk * chunk or most

    def check(self) -> Sequence[str]:
        """Bounds of x, y, z in the header that points leave."""
        return outside(self)

    def _bytes(self, at: int, count: int) -> bytes:
        packed = replace(self.packed, stamp=self.path.stat().st_mtime_ns)
        step, parts = self.step(), []
        start, stop = at // self.row_bytes, min((at + count) // self.row_bytes, self.rows)
        for first in range(start // step * step, stop, step):
            raw = block(packed, first, min(step, self.rows - first))
            low, high = max(start - first, 0), min(stop - first, step)
            parts.append(memoryview(raw)[low * self.row_bytes : high * self.row_bytes])
        return b"".join(parts)

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy the file; with edits, compress the points anew between the bytes that precede and follow them."""
        if not edits:
            shutil.copyfile(self.path, part)
            return
        import lazrs

        with self.path.open("rb") as source, part.open("wb") as target:
            copy_bytes(source, target, self.packed.data)
            with _encoding(self.path):
                encoder = lazrs.LasZipCompressor(target, lazrs.LazVlr(self.packed.packing))
                for first in range(0, self.rows, self.step()):
                    rows = min(first + self.step(), self.rows) - first
                    raw = bytearray(self._bytes(first * self.row_bytes, rows * self.row_bytes))
                    self.change(np.frombuffer(raw, np.uint8).reshape(-1, self.row_bytes), first, edits, tally)
                    encoder.compress_many(raw)
                encoder.done()
        self._append_records(part)
        widen(part, edits, self.slots, tally)

    def _append_records(self, part: Path) -> None:
        """Copy the extended records (LAS 1.4) that follow the points, and say in the header where they now are."""
        with self.path.open("rb") as source, part.open("r+b") as target:
            head = source.read(375)
            if head[25] < 4 or len(head) < 375:
                return
            start, count = struct.unpack_from("<QI", head, _RECORDS_AT)
            if not count or not self.packed.data < start <= self.path.stat().st_size:
                return
            target.seek(0, 2)
            place = target.tell()
            source.seek(start)
            copy_bytes(source, target, self.path.stat().st_size - start)
            target.seek(_RECORDS_AT)
            target.write(struct.pack("<Q", place))
            waves = struct.unpack_from("<Q", head, _WAVES_AT)[0]
            if waves >= start:
                target.seek(_WAVES_AT)
                target.write(struct.pack("<Q", waves - start + place))


@contextmanager
def _encoding(path: Path) -> Iterator[None]:
    """Turns whatever the encoder raises into ReadError; a panic of its Rust code is no Exception."""
    try:
        yield
    except (ReadError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise ReadError(f"{path.name} cannot be compressed anew: {reason}") from error
