"""Rows of numbers in a text file: find them in one pass, read a block of them, change fields and nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from readers.points_columns import Column
from readers.points_record import MARK_ROWS, Table
from readers.points_write import Edit, Tally, copy_bytes, in_type, integer_limits
from readers.schema import ReadError

Int64 = NDArray[np.int64]

_BLOCK_BYTES = 1 << 22
_MAX_LINE_BYTES = 1 << 20
_BLANK = np.isin(np.arange(256), list(b" \t\r\v\f"))
# What a line that is no row begins with: nothing at all, or the sign of a comment.
_NOT_ROW = np.isin(np.arange(256), list(b"\n#/%!"))
_TOKEN = re.compile(rb"[^\s,;]+")
_SPACES = bytes.maketrans(b",;\t", b"   ")


@dataclass(frozen=True)
class Field:
    """A column of a text table: the ``token``-th field of a row.

    ``byte``: it is that byte of the 32-bit pattern that the field writes (a packed colour), as an integer or, where
    ``packed_float``, as the float of that pattern.
    """

    column: Column
    token: int
    byte: int | None = None
    packed_float: bool = False


@dataclass(frozen=True)
class Lines:
    """Rows inside a block of whole lines: the first byte of the row's text, and the byte after its line's end."""

    starts: Int64
    ends: Int64


def find_rows(block: bytes, prefix: bytes = b"") -> Lines:
    """Rows of a block. A row is a line that is neither blank nor a comment, or one that begins with the word ``prefix``."""
    array = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(array == 10) + 1
    if not len(ends) or ends[-1] < len(block):
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends[:-1]])
    first = _skip_blanks(block, array, starts, ends)
    code = np.where(first < ends, array[np.minimum(first, len(block) - 1)], 10)
    if not prefix:
        rows = ~_NOT_ROW[code]
    else:
        after = array[np.minimum(first + 1, len(block) - 1)]
        rows = (code == prefix[0]) & _BLANK[after] & (first + 1 < ends)
    return Lines(first[rows], ends[rows])


def _skip_blanks(block: bytes, array: NDArray[np.uint8], starts: Int64, ends: Int64) -> Int64:
    """The first byte of each line that is not blank, its end where all are."""
    first = starts.copy()
    pending = np.flatnonzero(first < ends)
    for _ in range(64):
        pending = pending[(first[pending] < ends[pending])]
        pending = pending[_BLANK[array[first[pending]]]]
        if not pending.size:
            return first
        first[pending] += 1
    for k in pending:  # lines indented further than that are rare
        line = block[first[k] : ends[k]]
        first[k] = ends[k] - len(line.lstrip(b" \t\r\v\f"))
    return first


def blocks(file: BinaryIO, begin: int, name: str, size: int = _BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """(place, whole lines) of about ``size`` bytes from byte ``begin`` to the end. Raises ReadError for an endless line."""
    file.seek(begin)
    rest = b""
    while True:
        read = file.read(size)
        block = rest + read
        cut = block.rfind(b"\n") + 1 if read else len(block)
        if cut:
            yield begin, block[:cut]
        begin, rest = begin + cut, block[cut:]
        if not read:
            return
        if len(rest) > _MAX_LINE_BYTES:
            raise ReadError(f"{name} has a line of more than {_MAX_LINE_BYTES} bytes, which no point has")


@dataclass(frozen=True)
class Index:
    """Where rows lie: how many, the byte of every ``MARK_ROWS``-th one, and the byte after the last."""

    count: int
    marks: tuple[int, ...]
    stop: int


def index_rows(path: Path, begin: int, *, prefix: bytes = b"", limit: int | None = None) -> Index:
    """Count rows from byte ``begin`` on, at most ``limit``; reads the file once, in blocks. Raises ReadError."""
    count, marks, stop = 0, [], begin
    with path.open("rb") as file:
        for at, block in blocks(file, begin, path.name):
            found = find_rows(block, prefix)
            take = len(found.starts) if limit is None else min(len(found.starts), limit - count)
            marks += [at + int(s) for s in found.starts[-count % MARK_ROWS : take : MARK_ROWS]]
            count += take
            if take:
                stop = at + int(found.ends[take - 1])
            if count == limit:
                break
    return Index(count, tuple(marks), stop)


class TextTable(Table):
    """Rows of a text file, each with ``width`` fields."""

    def __init__(self, path: Path, index: Index, fields: Sequence[Field], width: int, *, prefix: bytes = b"") -> None:
        """``prefix``: the word that a row begins with, not counted as a field."""
        self.path = path
        self.index = index
        self.fields = tuple(fields)
        self.width = width
        self.prefix = prefix
        self.rows = index.count
        self.columns = tuple(field.column for field in fields)
        first = index.marks[0] if index.marks else index.stop
        self.row_bytes = max((index.stop - first) // max(index.count, 1), 8 * width)

    def read(self, start: int, stop: int, columns: Sequence[int]) -> list[NDArray[Any]]:
        """Rows of each column; reads from the mark before them. Raises ReadError naming a row that is no numbers."""
        tables = [self._numbers(*piece) for piece in self._pieces(start, stop)]
        table = np.concatenate(tables) if tables else np.empty((0, self.width))
        if len(table) < stop - start:
            raise ReadError(f"{self.path.name} ends before point {stop}; it held {self.rows} when it was opened")
        return [_column(table[:, self.fields[k].token], self.fields[k]) for k in columns]

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, bytes, Lines]]:
        """(number of the first row, block, its rows) of rows start..stop."""
        if stop <= start:
            return
        number = start // MARK_ROWS
        row = number * MARK_ROWS
        last = -(-stop // MARK_ROWS)
        until = self.index.marks[last] if last < len(self.index.marks) else self.index.stop
        size = int(np.clip(until - self.index.marks[number], 1 << 16, _BLOCK_BYTES))
        with self.path.open("rb") as file:
            for _, block in blocks(file, self.index.marks[number], self.path.name, size):
                found = find_rows(block, self.prefix)
                low, high = max(start - row, 0), min(stop - row, len(found.starts))
                if high > low:
                    yield row + low, block, Lines(found.starts[low:high], found.ends[low:high])
                row += len(found.starts)
                if row >= stop:
                    return

    def _numbers(self, first: int, block: bytes, lines: Lines) -> NDArray[np.float64]:
        """The numbers (rows, width) of some rows of a block."""
        skip = len(self.prefix)
        if not skip and np.array_equal(lines.ends[:-1], lines.starts[1:]):
            text = block[lines.starts[0] : lines.ends[-1]]
        else:
            text = b"".join(block[s + skip : e].rstrip() + b"\n" for s, e in zip(lines.starts, lines.ends, strict=True))
        text = text.translate(_SPACES)
        try:
            table = np.empty((0, 0))
            if text.strip():
                table = np.loadtxt(io.BytesIO(text), np.float64, comments=None, ndmin=2, encoding="latin1")
        except ValueError:
            pass  # named below
        if table.shape != (len(lines.starts), self.width):
            raise self._bad_row(first, block, lines)
        return table

    def _bad_row(self, first: int, block: bytes, lines: Lines) -> ReadError:
        for row, (start, end) in enumerate(zip(lines.starts, lines.ends, strict=True), first):
            tokens = _TOKEN.findall(block[start + len(self.prefix) : end])
            bad = next((t for t in tokens if not is_number(t)), None)
            if bad is not None:
                return ReadError(f"{self.path.name}: {_shown(bad)} in point {row} is not a number")
            if len(tokens) != self.width:
                return ReadError(f"{self.path.name}: point {row} has {len(tokens)} columns, the first has {self.width}")
        return ReadError(f"{self.path.name}: points from {first} on are not rows of {self.width} numbers")

    def copy(self, part: Path, edits: Sequence[Edit], tally: Tally) -> None:
        """Copy every byte but those of the edited fields."""
        begin = self.index.marks[0]
        with self.path.open("rb") as source, part.open("wb") as target:
            copy_bytes(source, target, begin)
            row = 0
            for _, block in blocks(source, begin, self.path.name):
                if row >= self.rows or not edits:
                    target.write(block)
                    continue
                found = find_rows(block, self.prefix)
                count = min(len(found.starts), self.rows - row)
                target.write(self._edited(block, found, row, row + count, edits, tally))
                row += count

    def _edited(self, block: bytes, lines: Lines, start: int, stop: int, edits: Sequence[Edit], tally: Tally) -> bytes:
        """A block with the edits of its rows, start..stop."""
        wanted: dict[int, list[tuple[Field, float]]] = {}
        for edit in edits:
            low, high = np.searchsorted(edit.rows, [start, stop])
            for row, value in zip(edit.rows[low:high].tolist(), edit.values[low:high].tolist(), strict=True):
                wanted.setdefault(row, []).append((self.fields[edit.column], value))
        pieces, done = [], 0
        for row in sorted(wanted):
            begin, end = int(lines.starts[row - start]) + len(self.prefix), int(lines.ends[row - start])
            pieces += [block[done:begin], self._edited_row(block[begin:end], row, wanted[row], tally)]
            done = end
        return b"".join([*pieces, block[done:]])

    def _edited_row(self, line: bytes, row: int, wanted: Sequence[tuple[Field, float]], tally: Tally) -> bytes:
        places = [match.span() for match in _TOKEN.finditer(line)]
        texts = [line[a:b] for a, b in places]
        if len(texts) != self.width or not all(map(is_number, texts)):
            raise self._bad_row(row, line, Lines(np.array([-len(self.prefix)]), np.array([len(line)])))
        for field, value in wanted:
            old = texts[field.token]
            new = _field_text(old, field, value, tally)
            tally.changed += int(not _same(old, new))
            texts[field.token] = new
        pieces, done = [], 0
        for (begin, end), text in zip(places, texts, strict=True):
            pieces += [line[done:begin], text]
            done = end
        return b"".join([*pieces, line[done:]])


def is_number(text: bytes) -> bool:
    """Whether a field is written as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


def _shown(text: bytes) -> str:
    return repr(text[:24].decode("latin1"))


def _same(old: bytes, new: bytes) -> bool:
    before, after = float(old), float(new)
    return before == after or (before != before and after != after)


def _bits(values: NDArray[np.float64], field: Field) -> NDArray[np.uint32]:
    """The 32-bit patterns of packed colours; 0 where there are none."""
    with np.errstate(over="ignore", invalid="ignore"):
        if field.packed_float:
            return np.ascontiguousarray(values, np.float32).view(np.uint32)
        inside = np.isfinite(values) & (np.abs(values) < 2.0**32)
        return np.where(inside, values, 0).astype(np.int64).astype(np.uint32)


def _column(values: NDArray[np.float64], field: Field) -> NDArray[Any]:
    if field.byte is None:
        return values
    return ((_bits(values, field) >> (8 * field.byte)) & 255).astype(np.uint8)


def _field_text(old: bytes, field: Field, value: float, tally: Tally) -> bytes:
    """The text of a new value, with at least the decimals of the old one."""
    dtype = np.dtype(field.column.dtype)
    limits = integer_limits(dtype)
    array, fits, clipped = in_type(np.array([value]), dtype, limits)
    tally.clipped += clipped
    if not fits[0]:
        tally.keep(field.column.name, 1)
        return old
    if field.byte is not None:
        bits = int(_bits(np.array([float(old)]), field)[0])
        bits = bits & ~(255 << 8 * field.byte) | int(array[0]) << 8 * field.byte
        return str(np.array([bits], np.uint32).view(np.float32)[0] if field.packed_float else bits).encode()
    if dtype.kind != "f":
        return str(int(array[0])).encode()
    text = str(array[0]) if dtype.itemsize < 8 else repr(float(value))
    if not np.isfinite(value) or "e" in text or b"e" in old.lower():
        return text.encode()
    decimals = len(old.partition(b".")[2])
    whole, _, own = text.partition(".")
    own = own.rstrip("0").ljust(decimals, "0")
    return (f"{whole}.{own}" if own else whole).encode()
