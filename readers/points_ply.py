"""PLY: the header, and the vertices as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from readers.points_columns import MAX_COLUMNS, named
from readers.points_record import PointsRecording, Table
from readers.points_rows import Field, TextTable, index_rows
from readers.points_stored import Slot, interleaved
from readers.schema import ReadError

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 1 << 20
_MAX_COUNT = 10**12


@dataclass(frozen=True)
class Element:
    """An element of the header: its properties as (name, type), the type ``list`` where it is one."""

    name: str
    count: int
    properties: tuple[tuple[str, str], ...]

    @property
    def has_list(self) -> bool:
        """Whether its rows differ in length."""
        return any(kind == "list" for _, kind in self.properties)

    @property
    def stride(self) -> int:
        """Bytes of a row without lists."""
        return sum(int(kind[1]) for _, kind in self.properties)


@dataclass(frozen=True)
class PlyHeader:
    """Format (``ascii``, ``binary_...``), elements in file order, and the first byte of the data."""

    encoding: str
    elements: tuple[Element, ...]
    data: int


def read_header(path: Path) -> PlyHeader:
    """Parse the header. Raises ReadError."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER_BYTES)
    if not head:
        raise ReadError(f"{path.name} is empty")
    encoding, elements, at = "", [], 0
    while True:
        end = head.find(b"\n", at)
        if end < 0:
            raise ReadError(f"{path.name} has no end_header within its first {len(head)} bytes")
        words = head[at:end].decode("latin1").split()
        first = at == 0
        at = end + 1
        if first and words != ["ply"]:
            raise ReadError(f"{path.name} does not begin with the line 'ply'")
        if words == ["end_header"]:
            break
        if words[:1] == ["format"]:
            encoding = words[1] if len(words) > 1 else ""
        elif words[:1] == ["element"]:
            elements.append(_element(path, words))
        elif words[:1] == ["property"]:
            elements[-1:] = [_with_property(path, elements, words)]
        elif words and not first and words[0] not in ("comment", "obj_info"):
            raise ReadError(f"{path.name} has the header line '{' '.join(words)[:60]}', which PLY does not know")
    if encoding not in _ORDERS:
        raise ReadError(f"{path.name} has the format '{encoding[:30]}', expected one of {', '.join(_ORDERS)}")
    return PlyHeader(encoding, tuple(elements), at)


def _element(path: Path, words: list[str]) -> Element:
    count = int(words[2]) if len(words) == 3 and words[2].isascii() and words[2].isdigit() and len(words[2]) < 16 else -1
    if not 0 <= count <= _MAX_COUNT:
        raise ReadError(f"{path.name} has the header line '{' '.join(words)[:60]}', expected 'element NAME COUNT'")
    return Element(words[1], count, ())


def _with_property(path: Path, elements: list[Element], words: list[str]) -> Element:
    if not elements or len(words) != (5 if words[1:2] == ["list"] else 3):
        raise ReadError(f"{path.name} has the header line '{' '.join(words)[:60]}', expected 'property TYPE NAME' of an element")
    kinds = words[2:4] if words[1] == "list" else words[1:2]
    for kind in kinds:
        if kind not in _TYPES:
            raise ReadError(f"{path.name} has a property {words[-1][:30]} of type '{kind[:30]}', which PLY does not know")
    last = elements[-1]
    if len(last.properties) >= MAX_COLUMNS:
        raise ReadError(f"{path.name} has more than {MAX_COLUMNS} properties in its element {last.name}")
    kind = "list" if words[1] == "list" else _TYPES[words[1]]
    return Element(last.name, last.count, (*last.properties, (words[-1], kind)))


def open_ply(path: Path) -> PointsRecording:
    """Open the vertices of a PLY file; other elements are not read. Raises ReadError."""
    header = read_header(path)
    number = next((k for k, element in enumerate(header.elements) if element.name == "vertex"), None)
    if number is None:
        have = ", ".join(element.name for element in header.elements) or "none"
        raise ReadError(f"{path.name} has no element 'vertex'; it has {have}")
    vertex = header.elements[number]
    if vertex.has_list:
        name = next(name for name, kind in vertex.properties if kind == "list")
        raise ReadError(f"{path.name} has a list, {name}, among the properties of its vertices; only single numbers are read")
    if not vertex.count:
        raise ReadError(f"{path.name} holds no points")
    before = header.elements[:number]
    table = _ascii(path, header, vertex, before) if header.encoding == "ascii" else _binary(path, header, vertex, before)
    others = [f"{e.count} rows of '{e.name}' are kept and not read" for e in header.elements if e is not vertex and e.count]
    return PointsRecording(path, "ply", table, warnings=others)


def _binary(path: Path, header: PlyHeader, vertex: Element, before: tuple[Element, ...]) -> Table:
    start = header.data
    for element in before:
        if element.has_list and element.count:
            raise ReadError(f"{path.name} stores lists of '{element.name}' before its vertices, whose place is then unknown")
        start += element.count * element.stride
    slots, lane = [], 0
    for name, kind in vertex.properties:
        column = named(name, np.dtype(kind).name)
        slots.append(Slot(column, 0, lane, _ORDERS[header.encoding] + kind))
        lane += int(kind[1])
    return interleaved(path, start, lane, slots, vertex.count)


def _ascii(path: Path, header: PlyHeader, vertex: Element, before: tuple[Element, ...]) -> Table:
    start = header.data
    skipped = sum(element.count for element in before)
    if skipped:
        start = index_rows(path, start, limit=skipped).stop
    index = index_rows(path, start, limit=vertex.count)
    if index.count < vertex.count:
        raise ReadError(f"{path.name} claims {vertex.count} points, and holds {index.count} lines of them")
    fields = [Field(named(name, np.dtype(kind).name), k) for k, (name, kind) in enumerate(vertex.properties)]
    return TextTable(path, index, fields, len(fields))
