"""Point clouds in NumPy's files and in KITTI's bare float32: NPY, NPZ, BIN."""

from __future__ import annotations

import shutil
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from readers.points_columns import HEAD_ROWS, MAX_COLUMNS, Column, guessed, named
from readers.points_record import PointsRecording
from readers.points_stored import Plane, Slot, StoredTable
from readers.points_write import Edit, Tally
from readers.schema import ReadError

# More unnamed columns than this are features or signals, not a point cloud.
MAX_UNNAMED = 64
_KEYS = ("xyz", "points", "coords", "pos")
# Deflate cannot save more than this.
_MAX_RATIO = 1100
_ZIPPED_STEP_BYTES = 1 << 26
# What zipfile raises for broken archives; OSError for a place before the file's beginning.
_BROKEN = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    OSError,
    struct.error,
    zlib.error,
)
KITTI_BYTES = 16


@dataclass(frozen=True)
class Layout:
    """An array's header: shape, type, whether columns lie one after the other, and its first byte."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool
    data: int

    @property
    def is_cloud(self) -> bool:
        """Whether it is a table of points: (N, 3 or more) numbers, or (N,) records."""
        if self.dtype.names is not None:
            return len(self.shape) == 1
        return len(self.shape) == 2 and 3 <= self.shape[1] <= MAX_UNNAMED


def read_layout(file: IO[bytes], name: str, size: int) -> Layout:
    """The header of an array of ``size`` bytes with its header. Raises ReadError; nothing is unpickled."""
    try:
        version = npy_format.read_magic(file)
        read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}[version]
        shape, by_column, dtype = read(file)
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # the header is Python source: a broken one raises anything
        raise ReadError(f"{name} has no readable NPY header: {' '.join(str(error).split())[:100]}") from error
    if dtype.hasobject:
        raise ReadError(f"{name} holds Python objects, which are not loaded: they could run code")
    if dtype.names is None and (dtype.kind not in "biuf" or dtype.itemsize > 8):
        raise ReadError(f"{name} holds {dtype}, expected integers or floats of at most 64 bits")
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise ReadError(f"{name} has the shape {shape}")
    wanted = dtype.itemsize
    for n in shape:
        wanted *= n
    if wanted > size - file.tell():
        raise ReadError(f"{name} claims an array of {wanted} bytes, shape {shape}, and holds {size - file.tell()}")
    return Layout(tuple(shape), dtype, bool(by_column) and len(shape) == 2, file.tell())


def _planes(layout: Layout, name: str) -> tuple[list[Plane], list[Slot]]:
    """Where the columns lie; unnamed ones are called x, y, z, column 4, ... Raises ReadError."""
    dtype = layout.dtype
    if not layout.is_cloud:
        raise ReadError(f"{name} holds an array of shape {layout.shape}, expected (points, 3 to {MAX_UNNAMED})")
    if not layout.shape[0]:
        raise ReadError(f"{name} holds no points")
    if dtype.names is not None:
        fields = [(field, *dtype.fields[field][:2]) for field in dtype.names if dtype.fields is not None]
        plain = [(f, d, at) for f, d, at in fields if d.shape == () and d.kind in "biuf" and d.itemsize <= 8]
        if len(plain) > MAX_COLUMNS:
            raise ReadError(f"{name} has {len(plain)} fields, at most {MAX_COLUMNS} are read")
        return [Plane(layout.data, dtype.itemsize)], [Slot(named(f, _name(d)), 0, at, d.str) for f, d, at in plain]
    rows, width = layout.shape
    columns = [named("xyz"[k] if k < 3 else f"column {k + 1}", _name(dtype)) for k in range(width)]
    if layout.by_column:
        planes = [Plane(layout.data + k * rows * dtype.itemsize, dtype.itemsize) for k in range(width)]
        return planes, [Slot(column, k, 0, dtype.str) for k, column in enumerate(columns)]
    lanes = [Slot(column, 0, k * dtype.itemsize, dtype.str) for k, column in enumerate(columns)]
    return [Plane(layout.data, width * dtype.itemsize)], lanes


def _name(dtype: np.dtype) -> str:
    return "uint8" if dtype.kind == "b" else dtype.newbyteorder("=").name


def _with_guess(table: StoredTable) -> list[Slot]:
    """The slots of an unnamed array with what its first rows say of the columns."""
    stored = table.read(0, min(table.rows, HEAD_ROWS), range(len(table.slots)))
    with np.errstate(invalid="ignore"):
        head = np.stack([values.astype(np.float64) for values in stored], axis=1)
    columns = guessed(head, table.columns[0].dtype)
    return [Slot(column, s.plane, s.lane, s.dtype) for column, s in zip(columns, table.slots, strict=True)]


def open_npy(path: Path) -> PointsRecording:
    """Open an array (N, 3 or more), or records with fields x, y, z. Raises ReadError."""
    size = path.stat().st_size
    if not size:
        raise ReadError(f"{path.name} is empty")
    with path.open("rb") as file:
        layout = read_layout(file, path.name, size)
    planes, slots = _planes(layout, path.name)
    table = StoredTable(path, planes, slots, layout.shape[0])
    if layout.dtype.names is None:
        table = StoredTable(path, planes, _with_guess(table), layout.shape[0])
    return PointsRecording(path, "npy", table)


def open_npz(path: Path) -> PointsRecording:
    """Open the points of an archive: its only array, or the one called xyz, points, coords or pos. Raises ReadError."""
    if not path.stat().st_size:
        raise ReadError(f"{path.name} is empty")
    try:
        with zipfile.ZipFile(path) as archive:
            info, others = _member(path, archive)
            with archive.open(info) as file:
                layout = read_layout(file, f"{path.name}: {info.filename}", info.file_size)
    except _BROKEN as error:
        raise ReadError(f"{path.name} is no readable NPZ archive: {error}") from error
    planes, slots = _planes(layout, f"{path.name}: {info.filename}")
    table = ZippedTable(path, planes, slots, layout.shape[0], info)
    if layout.dtype.names is None:
        table = ZippedTable(path, planes, _with_guess(table), layout.shape[0], info)
    warnings = [f"other arrays are kept and not read: {', '.join(others)[:200]}"] if others else []
    return PointsRecording(path, "npz", table, warnings=warnings)


def _member(path: Path, archive: zipfile.ZipFile) -> tuple[zipfile.ZipInfo, list[str]]:
    """The array of points, and the names of the others. Raises ReadError."""
    arrays = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
    key = next(iter(arrays)) if len(arrays) == 1 else next((key for key in _KEYS if key in arrays), None)
    if key is None:
        have = ", ".join(arrays)[:200] or "none"
        raise ReadError(f"{path.name} has no array called {', '.join(_KEYS)}, and not only one; its arrays: {have}")
    info = arrays[key]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise ReadError(f"{path.name} stores {key} in a way that NumPy does not write")
    if info.file_size > info.compress_size * _MAX_RATIO:
        raise ReadError(f"{path.name} claims {info.file_size} bytes for {key}, stored in {info.compress_size}")
    return info, [name for name in arrays if name != key]


class ZippedTable(StoredTable):
    """An array inside an archive. Compressed ones are read from their beginning to the end of the window."""

    def __init__(self, path: Path, planes: Sequence[Plane], slots: Sequence[Slot], rows: int, info: zipfile.ZipInfo) -> None:
        """Planes count from the beginning of the member."""
        super().__init__(path, planes, slots, rows)
        self.member = info.filename
        self.stored_at = _place(path, info) if info.compress_type == zipfile.ZIP_STORED else None

    def step(self) -> int:
        """Rows to read at a time: many of a compressed member, each step of which begins at its beginning."""
        return super().step() if self.stored_at is not None else max(_ZIPPED_STEP_BYTES // self.row_bytes, 1)

    def _bytes(self, at: int, count: int) -> bytes:
        if self.stored_at is not None:
            return super()._bytes(self.stored_at + at, count)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                file.seek(at)
                return file.read(count)
        except _BROKEN as error:
            raise ReadError(f"{self.path.name} is a broken archive: {error}") from error

    def check(self) -> Sequence[str]:
        """Read every row; the archive's checksum of the array."""
        super().check()
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                while file.read(1 << 20):
                    pass
        except _BROKEN as error:
            return [f"{self.path.name} is a broken archive: {error}"]
        return ()

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy the file; with edits, write its members anew, the others with their contents unchanged."""
        if not edits:
            shutil.copyfile(self.path, part)
            return
        plain = part.with_name(part.name + ".npy")
        try:
            with zipfile.ZipFile(self.path) as source, zipfile.ZipFile(part, "w") as target:
                with source.open(self.member) as file, plain.open("wb") as out:
                    shutil.copyfileobj(file, out)
                self.change_file(plain, edits, tally)
                for info in source.infolist():
                    with source.open(info) if info.filename != self.member else plain.open("rb") as file:
                        fresh = zipfile.ZipInfo(info.filename, info.date_time)
                        fresh.compress_type, fresh.external_attr = info.compress_type, info.external_attr
                        with target.open(fresh, "w", force_zip64=True) as out:
                            shutil.copyfileobj(file, out)
        except _BROKEN as error:
            raise ReadError(f"{self.path.name} is a broken archive: {error}") from error
        finally:
            plain.unlink(missing_ok=True)


def _place(path: Path, info: zipfile.ZipInfo) -> int:
    """The first byte of a stored member, after its local header. Raises ReadError."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise ReadError(f"{path.name} is a broken archive: {info.filename} is not where its directory says")
    place = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if place + info.file_size > path.stat().st_size:
        raise ReadError(f"{path.name} claims {info.file_size} bytes for {info.filename}, more than the archive holds")
    return place


def open_kitti(path: Path) -> PointsRecording:
    """Open a KITTI scan: float32 x, y, z in metres and intensity, without a header. Raises ReadError."""
    size = path.stat().st_size
    if not size or size % KITTI_BYTES:
        raise ReadError(f"{path.name} has {size} bytes, expected a multiple of {KITTI_BYTES} (x, y, z, intensity)")
    columns = [*(named(axis, "float32") for axis in "xyz"), Column("intensity", "float32", "intensity", "intensity")]
    slots = [Slot(column, 0, 4 * k, "<f4") for k, column in enumerate(columns)]
    return PointsRecording(path, "kitti", StoredTable(path, [Plane(0, KITTI_BYTES)], slots, size // KITTI_BYTES), unit="m")
