"""Where a NIfTI or Analyze volume keeps its voxels, and reading a box of them."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from readers.nifti_header import HEADER_BYTES, NiftiHeader, parse
from readers.schema import ReadError
from readers.volume_grid import Float64, Size

# Decoded bytes up to which a compressed volume is held in memory, and what all such volumes may take together;
# larger ones are decoded once into files of this many bytes together.
HELD_BYTES = 256 * 2**20
ALL_HELD_BYTES = 512 * 2**20
ON_DISK_BYTES = 10 * 2**30
# What may follow the voxels of a compressed file.
SLACK_BYTES = 2**20
CHUNK_BYTES = 2**20
# Deflate turns at most 1032 bytes into one.
MAX_DEFLATE = 1032

_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class NiftiVolume:
    """One volume: its handle, the file with the voxels (the handle itself, or the .img of a pair), its header.

    ``stamp`` is the size and the time of change of the voxels' file when it was opened.
    """

    path: Path
    data: Path
    header: NiftiHeader
    compressed: bool
    stamp: tuple[int, int]

    @property
    def files(self) -> tuple[Path, ...]:
        """The volume's files, the handle first."""
        return (self.path,) if self.data == self.path else (self.path, self.data)

    def block(self, start: Size, stop: Size) -> NDArray[Any]:
        """Stored voxels of a box inside the volume, in their own type. Raises ReadError."""
        if not self.compressed:
            return _planes(self, self.data, self.header.offset, start, stop)
        if self.header.nbytes <= HELD_BYTES:
            at = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            return _HELD.get(self)[at]
        copy = _decoded_copy(self)
        return _streamed(self, start, stop) if copy is None else _planes(self, copy, 0, start, stop)

    def values(self, start: Size, stop: Size) -> Float64:
        """Physical values of a box, as float64. Raises ReadError."""
        return self.physical(self.block(start, stop))

    def physical(self, block: NDArray[Any]) -> Float64:
        """Physical values of stored voxels."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = block.astype(np.float64)
            if (self.header.slope, self.header.inter) != (1.0, 0.0):
                values *= self.header.slope
                values += self.header.inter
        return values


def open_volume(path: Path) -> NiftiVolume:
    """Read and check a volume's header, and the size of its file against it. Raises ReadError."""
    data = data_file(path)
    with reading(path):
        raw = _head(path)
        status = data.stat()
        compressed = _is_gzip(data)
    room = status.st_size * (MAX_DEFLATE if compressed else 1)
    header = parse(raw, path.name, pair=data != path, room=room)
    return NiftiVolume(path, data, header, compressed, (status.st_size, status.st_mtime_ns))


def data_file(path: Path) -> Path:
    """The file that holds a handle's voxels. Raises ReadError where a .hdr has no .img."""
    if path.suffix.lower() != ".hdr":
        return path
    for suffix in (".img", ".img.gz", ".IMG", ".IMG.GZ"):
        if (found := path.with_name(path.stem + suffix)).is_file():
            return found
    raise ReadError(f"{path.name} has no {path.stem}.img beside it, which holds its voxels")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed where it is compressed."""
    with path.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raw.seek(0)
            yield raw
            return
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) as file:
            yield file  # type: ignore[misc]  # typeshed's GzipFile is no IO


def voxel_chunks(volume: NiftiVolume, file: IO[bytes]) -> Iterator[bytearray]:
    """The voxels' bytes in order, in chunks of whole voxels, from a file that stands at the first. Raises ReadError."""
    left = volume.header.nbytes
    while left:
        chunk = bytearray(min(left, CHUNK_BYTES))
        _read_into(volume, file, memoryview(chunk))
        left -= len(chunk)
        yield chunk


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged or unreadable file makes of reading it into a ReadError."""
    try:
        yield
    except _DAMAGED as error:
        raise ReadError(f"{path.name} is damaged: {error}") from error
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _head(path: Path) -> bytes:
    with opened(path) as file:
        head = file.read(HEADER_BYTES)
    if not head:
        raise ReadError(f"{path.name} is empty")
    return head


def _read_into(volume: NiftiVolume, file: IO[bytes], view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + CHUNK_BYTES])  # type: ignore[attr-defined]
        if not count:
            raise ReadError(f"{volume.data.name} ends before the {volume.header.nbytes} bytes of voxels that its header asks for")
        done += count


def _skip(volume: NiftiVolume, file: IO[bytes], count: int) -> None:
    scratch = memoryview(bytearray(min(count, CHUNK_BYTES)))
    while count:
        _read_into(volume, file, scratch[: min(count, CHUNK_BYTES)])
        count -= min(count, CHUNK_BYTES)


def _planes(volume: NiftiVolume, path: Path, offset: int, start: Size, stop: Size) -> NDArray[Any]:
    """A box from a file that is not compressed: of each plane the rows that the box needs."""
    dtype, (nx, ny, _) = volume.header.dtype, volume.header.shape
    found = np.empty(tuple(b - a for a, b in zip(start, stop, strict=True)), dtype, order="F")
    raw = np.empty((stop[1] - start[1]) * nx * dtype.itemsize, np.uint8)
    rows = raw.view(dtype).reshape(-1, nx)
    with reading(path), path.open("rb", buffering=0) as file:
        for k in range(start[2], stop[2]):
            file.seek(offset + (k * ny + start[1]) * nx * dtype.itemsize)
            _read_into(volume, file, raw.data)
            found[:, :, k - start[2]] = rows[:, start[0] : stop[0]].T
    return found


def _streamed(volume: NiftiVolume, start: Size, stop: Size) -> NDArray[Any]:
    """A box from a compressed file, decoded from its beginning."""
    dtype, (nx, ny, _) = volume.header.dtype, volume.header.shape
    found = np.empty(tuple(b - a for a, b in zip(start, stop, strict=True)), dtype, order="F")
    raw = np.empty(ny * nx * dtype.itemsize, np.uint8)
    plane = raw.view(dtype).reshape(ny, nx)
    with reading(volume.data), opened(volume.data) as file:
        _skip(volume, file, volume.header.offset + start[2] * raw.nbytes)
        for k in range(stop[2] - start[2]):
            _read_into(volume, file, raw.data)
            found[:, :, k] = plane[start[1] : stop[1], start[0] : stop[0]].T
    return found


def _decode(volume: NiftiVolume) -> NDArray[Any]:
    """All voxels of a compressed file; a wrong checksum at its end is an error."""
    raw = np.empty(volume.header.nbytes, np.uint8)
    with reading(volume.data), opened(volume.data) as file:
        _skip(volume, file, volume.header.offset)
        _read_into(volume, file, raw.data)
        file.read(SLACK_BYTES)  # reaches the checksum
    voxels = raw.view(volume.header.dtype).reshape(volume.header.shape, order="F")
    voxels.flags.writeable = False
    return voxels


class _Held:
    """The volumes decoded last, up to ``ALL_HELD_BYTES``."""

    def __init__(self) -> None:
        self._volumes: OrderedDict[NiftiVolume, NDArray[Any]] = OrderedDict()
        self.forget()

    def forget(self) -> None:
        """Drop everything; also what a forked process does, whose lock may be held by nobody."""
        self._lock = threading.Lock()
        self._volumes.clear()

    def get(self, volume: NiftiVolume) -> NDArray[Any]:
        with self._lock:
            if volume in self._volumes:
                self._volumes.move_to_end(volume)
                return self._volumes[volume]
        voxels = _decode(volume)
        with self._lock:
            self._volumes[volume] = voxels
            while sum(held.nbytes for held in self._volumes.values()) > ALL_HELD_BYTES and len(self._volumes) > 1:
                self._volumes.popitem(last=False)
        return voxels


_HELD = _Held()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD.forget)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "masked-recordings" / "volumes"


def _decoded_copy(volume: NiftiVolume) -> Path | None:
    """The file with a large volume's decoded voxels, made where there is none; None where none can be written."""
    folder = _cache_folder()
    key = hashlib.sha256(repr((os.path.realpath(volume.data), volume.stamp, volume.header.offset)).encode()).hexdigest()
    copy = folder / f"{key[:32]}.voxels"
    try:
        if copy.is_file() and copy.stat().st_size == volume.header.nbytes:
            os.utime(copy)  # used last
            return copy
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, volume.header.nbytes)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
    except OSError:
        return None
    try:
        with os.fdopen(handle, "wb") as target:
            if not _copy_voxels(volume, target):
                return None
        os.replace(name, copy)
    except OSError:
        return None
    finally:
        Path(name).unlink(missing_ok=True)
    return copy


def _copy_voxels(volume: NiftiVolume, target: IO[bytes]) -> bool:
    """Decode into a file; False where the disk cannot take it. Raises ReadError for a damaged source."""
    with reading(volume.data), opened(volume.data) as file:
        _skip(volume, file, volume.header.offset)
        for chunk in voxel_chunks(volume, file):
            try:
                target.write(chunk)
            except OSError:
                return False
        file.read(SLACK_BYTES)
    return True


def _make_room(folder: Path, wanted: int) -> None:
    """Remove the copies used longest ago until a new one fits."""
    copies = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in folder.glob("*.voxels"))
    total = wanted + sum(size for _, size, _ in copies)
    for _, size, path in copies:
        if total <= ON_DISK_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size
