"""Opening LAS files, and the table of compressed ones (LAZ), which needs the ``lazrs`` package."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from readers.points_las import LasHeader, LasTable, outside, read_header, slots_of, widen
from readers.points_record import PointsRecording
from readers.points_stored import Plane, Slot, StoredTable, interleaved
from readers.points_write import Edit, Tally, copy_bytes
from readers.schema import ReadError

INSTALL = "pip install 'masked-recordings[las]'"
# Even constant points take more than a byte in this many.
_MAX_POINTS_PER_BYTE = 64
# Points of a chunk in memory; chunks have 50,000 points as a rule.
_MAX_CHUNK_BYTES = 1 << 28
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
        _check_packing(path, header)
        table: StoredTable = LazTable(path, header)
    else:
        plain = interleaved(path, header.data, header.record_bytes, slots_of(header), header.points)
        table = LasTable(path, plain.planes, plain.slots, plain.rows)
    return PointsRecording(path, "las", table, offset=header.offset)


def _lazrs(path: Path) -> Any:
    """The decoder's package. Raises ReadError where it is not installed."""
    try:
        import lazrs
    except ImportError as error:
        raise ReadError(f"{path.name} is compressed (LAZ), which needs lazrs: {INSTALL}") from error
    return lazrs


def _check_packing(path: Path, header: LasHeader) -> None:
    """Every size that the decoder would allocate has to fit the file: it ends the process otherwise. Raises ReadError."""
    size, packing = path.stat().st_size, header.packing
    if header.points > (size - header.data) * _MAX_POINTS_PER_BYTE:
        raise ReadError(f"{path.name} claims {header.points} points in {size - header.data} compressed bytes")
    if len(packing) < 34 or len(packing) < 34 + 6 * struct.unpack_from("<H", packing, 32)[0]:
        raise ReadError(f"{path.name} has no whole description of its compression")
    compressor, chunk_points = struct.unpack_from("<H", packing, 0)[0], struct.unpack_from("<I", packing, 12)[0]
    items = [struct.unpack_from("<HHH", packing, at) for at in range(34, 34 + 6 * struct.unpack_from("<H", packing, 32)[0], 6)]
    if sum(item[1] for item in items) != header.record_bytes:
        raise ReadError(
            f"{path.name} compresses records of {sum(item[1] for item in items)} bytes, its header has {header.record_bytes}"
        )
    if compressor not in (2, _LAYERED) or not chunk_points:
        raise ReadError(f"{path.name} is compressed in a way (compressor {compressor}) that is not read")
    if chunk_points != _VARIABLE and chunk_points * header.record_bytes > _MAX_CHUNK_BYTES:
        raise ReadError(f"{path.name} claims chunks of {chunk_points} points")
    lazrs = _lazrs(path)
    with path.open("rb") as file:
        end = _chunk_table(path, file, header, size)
        file.seek(header.data)
        with _decoding(path):
            chunks = lazrs.read_chunk_table(file, lazrs.LazVlr(packing))
        _check_chunks(path, header, chunks, end)
        if compressor == _LAYERED:
            _check_layers(path, file, header, [length for _, length in chunks], items)


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


def _check_chunks(path: Path, header: LasHeader, chunks: Sequence[tuple[int, int]], end: int) -> None:
    points, length = sum(count for count, _ in chunks), sum(length for _, length in chunks)
    if points < header.points or header.data + 8 + length > end:
        held = end - header.data - 8
        raise ReadError(f"{path.name} claims {header.points} points, its chunks {points} in {length} of {held} bytes")
    if max(count for count, _ in chunks) * header.record_bytes > _MAX_CHUNK_BYTES:
        raise ReadError(f"{path.name} claims a chunk of {max(count for count, _ in chunks)} points")


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
    """Compressed point records: a window costs the chunks (50,000 points, as a rule) that it touches."""

    def __init__(self, path: Path, header: LasHeader) -> None:
        """The caller has checked the sizes."""
        slots: list[Slot] = slots_of(header)
        super().__init__(path, [Plane(0, header.record_bytes)], slots, header.points)
        self.data, self.packing = header.data, header.packing

    def step(self) -> int:
        """Rows to read at a time: a chunk, which is decoded from its beginning."""
        chunk = int(struct.unpack_from("<I", self.packing, 12)[0])
        return chunk if chunk != _VARIABLE else super().step()

    def check(self) -> Sequence[str]:
        """Bounds of x, y, z in the header that points leave."""
        return outside(self)

    def _bytes(self, at: int, count: int) -> bytes:
        lazrs, raw = _lazrs(self.path), bytearray(count)
        with _decoding(self.path), self.path.open("rb") as file:
            file.seek(self.data)
            decoder = lazrs.LasZipDecompressor(file, self.packing)
            decoder.seek(at // self.row_bytes)
            decoder.decompress_many(raw)
        return bytes(raw)

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy the file; with edits, compress the points anew between the bytes that precede and follow them."""
        if not edits:
            shutil.copyfile(self.path, part)
            return
        lazrs = _lazrs(self.path)
        with self.path.open("rb") as source, part.open("wb") as target:
            copy_bytes(source, target, self.data)
            source.seek(self.data)
            with _decoding(self.path):
                decoder = lazrs.LasZipDecompressor(source, self.packing)
                encoder = lazrs.LasZipCompressor(target, lazrs.LazVlr(self.packing))
                for first in range(0, self.rows, self.step()):
                    raw = bytearray((min(first + self.step(), self.rows) - first) * self.row_bytes)
                    decoder.decompress_many(raw)
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
            if not count or not self.data < start <= self.path.stat().st_size:
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
def _decoding(path: Path) -> Iterator[None]:
    """Turns whatever the decoder raises into ReadError; a panic of its Rust code is no Exception."""
    try:
        yield
    except (ReadError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise ReadError(f"{path.name} cannot be decoded: {reason}") from error
