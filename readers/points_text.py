"""Point clouds in plain text: XYZ, TXT and PTS tables, OFF and OBJ vertices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.points_columns import HEAD_ROWS, MAX_COLUMNS, Column, guessed, named
from readers.points_record import PointsRecording
from readers.points_rows import Field, Index, TextTable, blocks, find_rows, index_rows, is_number
from readers.schema import ReadError

_HEAD_BYTES = 1 << 16
_SPLIT = re.compile(r"[\s,;]+")
_COMMENT = ("#", "/", "%", "!")
_BOM = b"\xef\xbb\xbf"
# Geomview's prefixes, in its order: texture, colour, normal, homogeneous, any dimension.
_OFF = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF(.*)", re.DOTALL)


@dataclass(frozen=True)
class Preamble:
    """What precedes the rows: their first byte, the names and the count where there are some, the first row's fields."""

    begin: int
    names: tuple[str, ...]
    count: int | None
    row: tuple[str, ...]


def preamble(head: bytes, *, cut: bool) -> Preamble | None:
    """What precedes the rows of a table, from the first bytes of its file; None where it does not begin as a table.

    Comments and blank lines, then possibly a line of names that has x, y and z, or a line with a count. ``cut``: the
    file goes on, so that the last line may not be whole. A comment can hold the names.
    """
    if b"\0" in head:
        return None
    names: tuple[str, ...] = ()
    count: int | None = None
    at = len(_BOM) if head.startswith(_BOM) else 0
    while at < len(head):
        begin, at = at, head.find(b"\n", at) + 1 or len(head)
        line = head[begin:at]
        if cut and not line.endswith(b"\n"):
            return None
        text = line.decode("latin1").strip()
        words = tuple(word for word in _SPLIT.split(text.lstrip("#/%! ")) if word)
        if {"x", "y", "z"} <= {word.lower() for word in words}:
            names = words
        elif not text or text.startswith(_COMMENT):
            continue
        elif not all(is_number(word.encode("latin1")) for word in words):
            return None
        elif len(words) == 1 and count is None and words[0].isdigit():
            count = int(words[0][:15])
        else:
            return Preamble(begin, names, count, words)
    return None


def looks_like_table(head: bytes, cut: bool) -> bool:
    """Whether the first lines are rows of the same number, three or more, of numbers."""
    begin = preamble(head, cut=cut)
    if begin is None or len(begin.row) < 3:
        return False
    text = head[begin.begin :]
    text = text[: text.rfind(b"\n") + 1] if cut else text
    found = find_rows(text)
    rows = [_SPLIT.split(text[s:e].decode("latin1").strip(" \t\r\n,;")) for s, e in zip(found.starts, found.ends, strict=True)]
    return all(len(row) == len(begin.row) and all(is_number(word.encode("latin1")) for word in row) for row in rows)


def open_xyz(path: Path) -> PointsRecording:
    """Open a table of x y z and attributes, separated by blanks, tabs, commas or semicolons; PTS begins with a count.

    Reads the file once, in blocks, to count its rows. Raises ReadError.
    """
    head = _head(path)
    begin = preamble(head, cut=len(head) == _HEAD_BYTES)
    if begin is None:
        raise ReadError(f"{path.name} does not begin with rows of numbers x y z")
    width = len(begin.row)
    if not 3 <= width <= MAX_COLUMNS:
        raise ReadError(f"{path.name} has rows of {width} columns, expected x, y, z and at most {MAX_COLUMNS - 3} more")
    line = head[begin.begin :].split(b"\n", 1)[0]
    if b";" in line and b"," in line:
        raise ReadError(f"{path.name} mixes commas and semicolons; decimal commas are not read, write decimal points")
    index = index_rows(path, begin.begin)
    warnings = []
    if begin.count is not None and begin.count > index.count:
        raise ReadError(f"{path.name} claims {begin.count} points, and holds {index.count} rows")
    if begin.count is not None and begin.count < index.count:
        warnings.append(f"the first line claims {begin.count} points, the file holds {index.count} rows")
    if begin.names and len(begin.names) != width:
        warnings.append(f"{len(begin.names)} names for {width} columns; the names are not used")
    names = begin.names if len(begin.names) == width else ()
    return _recording(path, "xyz", index, names, width, warnings)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip():
        raise ReadError(f"{path.name} is empty")
    if b"\0" in head:
        raise ReadError(f"{path.name} is no text")
    return head


def _recording(
    path: Path, format: str, index: Index, names: Sequence[str], width: int, warnings: Sequence[str], prefix: bytes = b""
) -> PointsRecording:
    """A recording of a table whose columns are named, or guessed from the first rows."""
    plain = [Field(named(f"column {k + 1}", "float64"), k) for k in range(width)]
    table = TextTable(path, index, plain, width, prefix=prefix)
    first = table.read(0, min(index.count, HEAD_ROWS), range(width))
    head = np.stack(first, axis=1)
    columns = _ranged([named(name, "float64") for name in names], head) if names else guessed(head, "float64")
    table = TextTable(path, index, [Field(column, k) for k, column in enumerate(columns)], width, prefix=prefix)
    return PointsRecording(path, format, table, head=first, warnings=warnings)


def _ranged(columns: Sequence[Column], head: NDArray[np.float64]) -> list[Column]:
    """Columns in which colours have their range: integers 0 to 255, or 0 to 1."""
    colours = [k for k, column in enumerate(columns) if column.kind == "rgb" or column.canonical == "alpha"]
    numbers = head[:, colours]
    if not colours or not np.isfinite(numbers).all() or numbers.min() < 0 or numbers.max() > 255:
        return list(columns)
    if numbers.max() > 1 and (numbers != np.rint(numbers)).any():
        return list(columns)
    dtype, high = ("uint8", 255.0) if numbers.max() > 1 else ("float64", 1.0)
    return [replace(c, dtype=dtype, low=0.0, high=high) if k in colours else c for k, c in enumerate(columns)]


def open_off(path: Path) -> PointsRecording:
    """Open the vertices of an OFF file, also of ModelNet's, whose counts follow OFF at once. Raises ReadError."""
    lines = _off_lines(_head(path))
    first, at = next(lines, ("", 0))
    match = _OFF.fullmatch(first)
    if match is None:
        raise ReadError(f"{path.name} does not begin with OFF")
    texture, colour, normal, four, other, rest = match.groups()
    if other or "BINARY" in rest:
        raise ReadError(f"{path.name} begins with '{first[:30]}'; only OFF files of text in three dimensions are read")
    if not rest.strip():
        rest, at = next(lines, ("", 0))
    counts = rest.split()
    if not 1 <= len(counts) <= 3 or not all(count.isascii() and count.isdigit() and len(count) < 14 for count in counts):
        raise ReadError(f"{path.name} has '{rest[:30].strip()}' where the numbers of vertices, faces and edges are expected")
    vertices = int(counts[0])
    if not vertices:
        raise ReadError(f"{path.name} holds no points")
    index = index_rows(path, at, limit=vertices)
    if index.count < vertices:
        raise ReadError(f"{path.name} claims {vertices} vertices, and holds {index.count} lines of them")
    width = len(_first_row(path, index))
    names = ["x", "y", "z", *(["w"] if four else []), *(["nx", "ny", "nz"] if normal else [])]
    if colour:
        left = width - len(names) - (2 if texture else 0)
        names += ["red", "green", "blue", "alpha"][: max(left, 3)]
    names += ["s", "t"] if texture else []
    if width < 3 or (len(names) != width and len(names) > 3):
        raise ReadError(f"{path.name} has vertices of {width} numbers, its {first[:12].split()[0]} asks for {len(names)}")
    faces = len(counts) > 1 and int(counts[1])
    warnings = [f"only the vertices are used, not the {faces} faces"] if faces else []
    return _recording(path, "off", index, names if len(names) == width else (), width, warnings)


def _off_lines(head: bytes) -> Iterator[tuple[str, int]]:
    """(text, the byte after the line) of the lines that say something."""
    at = 0
    for line in head.splitlines(keepends=True):
        at += len(line)
        text = line.decode("latin1").partition("#")[0].strip()
        if text:
            yield text, at


def _first_row(path: Path, index: Index, prefix: bytes = b"") -> list[bytes]:
    with path.open("rb") as file:
        file.seek(index.marks[0])
        line = file.readline(1 << 20)
    return re.findall(rb"[^\s,;]+", line)[1 if prefix else 0 :][: MAX_COLUMNS + 1]


def open_obj(path: Path) -> PointsRecording:
    """Open the vertices (lines ``v``) of an OBJ file. Raises ReadError."""
    _head(path)
    index = index_rows(path, 0, prefix=b"v")
    if not index.count:
        raise ReadError(f"{path.name} holds no vertices (lines that begin with v)")
    width = len(_first_row(path, index, b"v"))
    if not 3 <= width <= MAX_COLUMNS:
        raise ReadError(f"{path.name} has vertices of {width} numbers, expected at least 3")
    names = {
        3: ("x", "y", "z"), 4: ("x", "y", "z", "w"), 6: ("x", "y", "z", "red", "green", "blue"),
        7: ("x", "y", "z", "red", "green", "blue", "alpha"),
    }.get(width, ())  # fmt: skip
    warnings = ["only the vertices are used, not the faces"] if _has_faces(path) else []
    return _recording(path, "obj", index, names, width, warnings, b"v")


def _has_faces(path: Path) -> bool:
    with path.open("rb") as file:
        return any(
            block.startswith((b"f ", b"f\t")) or b"\nf " in block or b"\nf\t" in block for _, block in blocks(file, 0, path.name)
        )
