"""MATLAB files of level 5 (``-v6``, ``-v7``), walked without decoding what is not asked for, and changed in place.

After the text of "MAT-File Format" (The MathWorks). Nothing is unpickled; every size is checked against the bytes there are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.file_bytes import Stretch
from readers.schema import ReadError

HEADER_BYTES = 128
# A compressed variable is refused beyond this: it has to be held in memory as a whole.
MAX_INFLATED_BYTES = 768 * 2**20
_PEEK_BYTES = 4096
_MAX_DEPTH = 12
_MAX_ITEMS = 600_000
# Small variables are inflated anew: the one kept in memory is the data.
_SMALL_BYTES = 256 * 1024
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODES = {dtype: code for code, dtype in _NUMBERS.items()}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _OBJECT, _CHAR = 1, 2, 3, 4
_COMPLEX = 8


Buffer = memoryview | Stretch


@dataclass(frozen=True)
class Variable:
    """A variable of the file: its element's place there, its name and dimensions. ``compressed``: by zlib, as a whole."""

    name: str
    start: int
    stop: int
    compressed: bool
    dims: tuple[int, ...]


@dataclass
class Node:
    """An array inside a buffer.

    ``span``: its element, tag included. ``part``: place and dtype of its numbers or characters there; None for the
    other classes. ``dtype``: of the class, which the numbers may be stored more narrowly than.
    """

    dims: tuple[int, ...]
    span: tuple[int, int]
    dtype: str | None = None
    part: tuple[int, int, str] | None = None
    is_text: bool = False
    items: list[dict[str, Node]] = field(default_factory=list)
    parents: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Elements of the array."""
        return int(np.prod([float(n) for n in self.dims])) if self.dims else 0


def byte_order(head: bytes) -> str:
    """``<`` or ``>`` for a level 5 file. Raises ReadError, with advice for the HDF5 files of MATLAB 7.3."""
    if head[:10] == b"MATLAB 7.3" or head[:8] == b"\x89HDF\r\n\x1a\n":
        raise ReadError("is a MATLAB 7.3 file (HDF5): save it again from EEGLAB as version 7, or with its data in a .fdt")
    if not head:
        raise ReadError("is empty")
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        raise ReadError("is no MATLAB file of version 5 to 7")
    return order


def variables(path: Path) -> tuple[str, list[Variable]]:
    """Byte order and the variables of a file; reads tags only. Raises ReadError with a reason that lacks the name."""
    size, found = path.stat().st_size, []
    with path.open("rb") as file:
        order = byte_order(file.read(HEADER_BYTES))
        at = HEADER_BYTES
        while at + 8 <= size:
            file.seek(at)
            kind, length = struct.unpack(f"{order}II", file.read(8))
            if kind not in (_MATRIX, _COMPRESSED) or length > size - at - 8:
                raise ReadError(f"is cut short or broken at byte {at} of {size}")
            raw = file.read(min(length, _PEEK_BYTES))
            head = _peeked(raw) if kind == _COMPRESSED else struct.pack(f"{order}II", kind, length) + raw
            name, dims = _head(head, order)
            found.append(Variable(name, at, at + 8 + length, kind == _COMPRESSED, dims))
            at += 8 + length
    return order, found


def _peeked(raw: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(raw, _PEEK_BYTES)
    except zlib.error as error:
        raise ReadError(f"holds a variable that cannot be decompressed: {error}") from error


@lru_cache(maxsize=1)
def _inflated(path: Path, stamp: tuple[int, int], start: int, stop: int) -> bytes:
    """The decompressed element; ``stamp`` (size, time of change) makes a file that was rewritten another one."""
    with path.open("rb") as file:
        file.seek(start + 8)
        raw = file.read(stop - start - 8)
    try:
        machine = zlib.decompressobj()
        found = machine.decompress(raw, MAX_INFLATED_BYTES)
        if machine.unconsumed_tail:
            raise ReadError(
                f"holds a compressed variable of more than {MAX_INFLATED_BYTES >> 20} MiB: "
                "save it from EEGLAB with its data in a .fdt file, which is read in pieces"
            )
    except zlib.error as error:
        raise ReadError(f"holds a variable that cannot be decompressed: {error}") from error
    return found


def buffer_of(path: Path, variable: Variable) -> Buffer:
    """The bytes of a variable's element, tag included: inflated, or read from the file as they are asked for."""
    if variable.compressed:
        info = path.stat()
        if variable.stop - variable.start < _SMALL_BYTES:
            return memoryview(_inflated.__wrapped__(path, (0, 0), variable.start, variable.stop))
        return memoryview(_inflated(path, (info.st_size, info.st_mtime_ns), variable.start, variable.stop))
    return Stretch(path, variable.start, variable.stop)


def parse(buffer: Buffer, order: str) -> Node:
    """The array that begins with the buffer, numbers not decoded. Raises ReadError."""
    return _Walker(buffer, order).matrix(0, len(buffer), (), 0)[0]


def numbers(buffer: Buffer, node: Node, order: str) -> NDArray:
    """The numbers of a node, in file order (first dimension fastest), as stored."""
    if node.part is None:
        return np.empty(0)
    offset, length, dtype = node.part
    width = np.dtype(dtype).itemsize
    return np.frombuffer(buffer[offset : offset + length // width * width], f"{order}{dtype}")


def text(buffer: Buffer, node: Node | None, order: str) -> str:
    """The characters of a one-line text node; empty for any other."""
    if node is None or not node.is_text or node.part is None or node.part[1] > 1_000_000:
        return ""
    offset, length, dtype = node.part
    raw = bytes(buffer[offset : offset + length])
    if dtype == "utf":
        return raw.decode("utf-8", "replace")
    if dtype[0] == "f":
        return ""
    codes = np.frombuffer(raw, f"{order}{dtype}").tolist()
    return "".join(chr(code) if 0 <= code < 0xD800 else "\ufffd" for code in codes)


def scalar(buffer: Buffer, node: Node | None, order: str) -> float | None:
    """The first number of a node; None where it has none."""
    if node is None or node.is_text:
        return None
    found = None if node.part is None else (node.part[0], min(node.part[1], np.dtype(node.part[2]).itemsize), node.part[2])
    first = numbers(buffer, Node(node.dims, node.span, part=found), order)
    return float(first[0]) if first.size else None


def with_element(buffer: Buffer, node: Node, new: bytes, order: str) -> bytes:
    """The buffer with a node's element exchanged for another, the sizes of what holds it corrected."""
    grown = len(new) - (node.span[1] - node.span[0])
    changed = bytearray(buffer[:])
    for parent in node.parents:
        length = struct.unpack_from(f"{order}I", changed, parent + 4)[0]
        struct.pack_into(f"{order}I", changed, parent + 4, length + grown)
    changed[node.span[0] : node.span[1]] = new
    return bytes(changed)


def element(buffer: Buffer, node: Node, part: NDArray, order: str, dims: Sequence[int] | None = None) -> bytes:
    """The node's element with other numbers (or UTF-16 characters) and, where they are given, other dimensions."""
    start = node.span[0] + 8
    pieces, at = [], start
    for _ in range(3):  # flags, dimensions, name
        _, _, end = _tag(buffer, at, node.span[1], order)
        pieces.append(bytes(buffer[at:end]))
        at = end
    if dims is not None:
        pieces[1] = _packed(np.array(dims, f"{order}i4"), order)
    body = b"".join([*pieces, _packed(part, order)])
    return struct.pack(f"{order}II", _MATRIX, len(body)) + body


def _packed(part: NDArray, order: str) -> bytes:
    raw = part.astype(f"{order}{part.dtype.str[1:]}").tobytes()
    return struct.pack(f"{order}II", _CODES[part.dtype.str[1:]], len(raw)) + raw + bytes(-len(raw) % 8)


def _tag(view: Buffer, at: int, end: int, order: str) -> tuple[int, tuple[int, int], int]:
    """Type, place of the data, and where the next element begins (small elements: type and data in eight bytes)."""
    if end - at < 8:
        raise ReadError("holds an array that is cut short")
    kind, length = struct.unpack(f"{order}II", view[at : at + 8])
    if kind >> 16:
        kind, length = kind & 0xFFFF, kind >> 16
        if length > 4:
            raise ReadError("holds a broken array")
        return kind, (at + 4, at + 4 + length), at + 8
    if length > end - at - 8:
        raise ReadError("holds an array that is cut short")
    padded = length if kind == _MATRIX else length + -length % 8
    return kind, (at + 8, at + 8 + length), min(at + 8 + padded, end)


def _head(raw: bytes, order: str) -> tuple[str, tuple[int, ...]]:
    """Name and dimensions from the first bytes of a matrix element."""
    view, end = memoryview(raw), len(raw)
    try:
        _, _, at = _tag(view, 8, end, order)
        _, dims, at = _tag(view, at, end, order)
        _, name, _ = _tag(view, at, end, order)
    except ReadError:
        return "", ()
    return bytes(view[slice(*name)]).decode("latin-1"), _dims(view, dims, order)


def _dims(view: Buffer, span: tuple[int, int], order: str) -> tuple[int, ...]:
    n_bytes = (span[1] - span[0]) // 4 * 4
    return tuple(int(n) for n in np.frombuffer(view[span[0] : span[0] + n_bytes], f"{order}i4"))


class _Walker:
    def __init__(self, view: Buffer, order: str) -> None:
        self.view, self.order, self.seen = view, order, 0

    def matrix(self, at: int, end: int, parents: tuple[int, ...], depth: int) -> tuple[Node, int]:
        """The array at a place and where the next begins."""
        self.seen += 1
        if depth > _MAX_DEPTH or self.seen > _MAX_ITEMS:
            raise ReadError(f"holds more than {_MAX_ITEMS} arrays, or arrays within arrays deeper than {_MAX_DEPTH} levels")
        kind, span, after = _tag(self.view, at, end, self.order)
        if kind != _MATRIX:
            raise ReadError("holds a broken array")
        if span[0] == span[1]:
            return Node((0, 0), (at, after), parents=parents), after
        _, flags, here = _tag(self.view, span[0], span[1], self.order)
        if flags[1] - flags[0] < 4:
            raise ReadError("holds a broken array")
        (word,) = struct.unpack(f"{self.order}I", self.view[flags[0] : flags[0] + 4])
        kind = word & 0xFF
        if kind not in (_CELL, _STRUCT, _OBJECT, _CHAR, *_CLASSES):
            return Node((), (at, after), parents=parents), after  # of its own build: sparse, strings, function handles
        _, dims, here = _tag(self.view, here, span[1], self.order)
        _, _, here = _tag(self.view, here, span[1], self.order)
        node = Node(_dims(self.view, dims, self.order), (at, after), parents=parents)
        if min(node.dims, default=0) < 0 or len(node.dims) > 32:
            raise ReadError("holds an array of impossible dimensions")
        inner = (*parents, at)
        if kind in (_STRUCT, _OBJECT):
            self._struct(node, kind, here, span[1], inner, depth)
        elif (kind in _CLASSES or kind == _CHAR) and not (word >> 8) & _COMPLEX:
            self._numbers(node, kind, here, span[1])
        return node, after

    def _numbers(self, node: Node, kind: int, at: int, end: int) -> None:
        if at >= end:
            return
        stored, span, _ = _tag(self.view, at, end, self.order)
        node.is_text, node.dtype = kind == _CHAR, _CLASSES.get(kind)
        dtype = {16: "utf", 17: "u2", 18: "u4"}.get(stored) if node.is_text and stored >= 16 else _NUMBERS.get(stored)
        if dtype is None:
            raise ReadError(f"holds an array of the unknown type {stored}")
        if dtype != "utf" and (span[1] - span[0]) // np.dtype(dtype).itemsize < node.size:
            raise ReadError("holds an array with fewer numbers than its dimensions say")
        node.part = (span[0], span[1] - span[0], dtype)

    def _struct(self, node: Node, kind: int, at: int, end: int, parents: tuple[int, ...], depth: int) -> None:
        if kind == _OBJECT:
            at = _tag(self.view, at, end, self.order)[2]
        _, length, at = _tag(self.view, at, end, self.order)
        _, names, at = _tag(self.view, at, end, self.order)
        (width,) = struct.unpack(f"{self.order}i", self.view[length[0] : length[0] + 4]) if length[1] - length[0] >= 4 else (0,)
        if not 0 < width <= 1024:
            raise ReadError("holds a structure with broken field names")
        raw = bytes(self.view[slice(*names)])
        fields = [raw[k : k + width].split(b"\0")[0].decode("latin-1") for k in range(0, len(raw) - width + 1, width)]
        if node.size * len(fields) * 8 > end - at:
            raise ReadError("holds a structure with fewer fields than its dimensions say")
        for _ in range(node.size if fields else 0):
            item: dict[str, Node] = {}
            for name in fields:
                item[name], at = self.matrix(at, end, parents, depth + 1)
            node.items.append(item)
