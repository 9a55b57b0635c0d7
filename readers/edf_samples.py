"""The samples of an EDF or BDF file: which records a window touches, and reading no others."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.edf_header import EdfHeader, EdfSignal
from readers.edf_timeline import Timeline
from readers.schema import ReadError
from readers.signals import Float64

Stored = NDArray[np.int16] | NDArray[np.int32]

# Data records are read in blocks of about this size.
_BLOCK_BYTES = 1 << 21


class _Stretch(NamedTuple):
    """Signals that lie side by side in a record, with the same number of samples, and what is wanted of them."""

    signals: tuple[EdfSignal, ...]
    start: int
    stop: int
    values: Float64  # (signals, stop - start), to be filled

    @property
    def samples(self) -> int:
        return self.signals[0].samples


class _Piece(NamedTuple):
    """Records first..last, which a stretch needs; the first one's samples begin at ``origin`` of its values."""

    stretch: _Stretch
    first: int
    last: int
    origin: int


def read_spans(
    path: Path, header: EdfHeader, timeline: Timeline, signals: Sequence[EdfSignal], spans: Sequence[tuple[int, int]]
) -> list[Float64]:
    """Physical values of a span of each signal, on its own grid on the timeline, NaN in gaps. Raises ReadError."""
    stretches = _stretches(signals, spans)
    pieces = [piece for stretch in stretches for piece in _pieces(timeline, stretch)]
    try:
        with path.open("rb", buffering=0) as file:
            if header.record_bytes > _BLOCK_BYTES:
                for piece in pieces:
                    _read_wide(path, header, file, piece)
            else:
                _read_blocks(path, header, file, pieces)
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
    for stretch in stretches:
        ends = [(signal.digital[0], signal.gain, signal.physical[0]) for signal in stretch.signals]
        low, gain, physical = (np.array(column, np.float64)[:, None] for column in zip(*ends, strict=True))
        stretch.values[...] -= low
        stretch.values[...] *= gain
        stretch.values[...] += physical
    return [row for stretch in stretches for row in stretch.values]


def stored_blocks(path: Path, header: EdfHeader, n_records: int) -> Iterator[tuple[EdfSignal, Stored]]:
    """All stored integers of all signals, in blocks of bounded size. Raises ReadError."""
    size, width = header.record_bytes, header.width
    step, part = max(1, _BLOCK_BYTES // size), max(1, _BLOCK_BYTES // width)
    try:
        with path.open("rb", buffering=0) as file:
            for record in range(0, n_records, step):
                count, origin = min(step, n_records - record), header.n_bytes + record * size
                if size <= _BLOCK_BYTES:
                    block = _bytes(path, file, origin, count * size).reshape(count, size)
                    yield from ((signal, decode(block, signal.place, signal.samples, width)) for signal in header.signals)
                    continue
                for signal in header.signals:
                    for at in range(0, signal.samples, part):
                        n = min(part, signal.samples - at)
                        data = _bytes(path, file, origin + (signal.place + at) * width, n * width)
                        yield signal, decode(data[None], 0, n, width)
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error


def decode(block: NDArray[np.uint8], place: int, count: int, width: int) -> Stored:
    """Stored integers (records, count) from bytes (records, n), beginning with sample ``place`` of each record."""
    data = block[:, place * width : (place + count) * width]
    if width == 2:
        return np.ascontiguousarray(data).view("<i2")
    # The three bytes become the upper ones of four, and a shift brings them down with their sign.
    three = data.reshape(len(data), count, 3)
    four = np.empty((len(data), count, 4), np.uint8)
    four[:, :, 0] = 0
    for byte in range(3):  # much faster than all three at once
        four[:, :, byte + 1] = three[:, :, byte]
    whole: NDArray[np.int32] = four.view("<i4")[:, :, 0]
    whole >>= 8
    return whole


def _read_blocks(path: Path, header: EdfHeader, file: BinaryIO, pieces: Sequence[_Piece]) -> None:
    """Fill the pieces, reading each record once, those between them not at all."""
    size = header.record_bytes
    step = _BLOCK_BYTES // size
    queue, active = deque(sorted(pieces, key=lambda piece: piece.first)), list[_Piece]()
    at = 0
    while queue or active:
        at = at if active else queue[0].first
        end = max((piece.last for piece in active), default=at)
        # Up to where the records that are wanted without a break end.
        while queue and queue[0].first <= end and queue[0].first < at + step:
            active.append(queue.popleft())
            end = max(end, active[-1].last)
        end = min(end, at + step)
        block = _bytes(path, file, header.n_bytes + at * size, (end - at) * size).reshape(end - at, size)
        for piece in active:
            _take(piece, block, at, end, header.width)
        active = [piece for piece in active if piece.last > end]
        at = end


def _take(piece: _Piece, block: NDArray[np.uint8], at: int, end: int, width: int) -> None:
    """Copy what a piece needs from a block of the records at..end."""
    first, last = max(piece.first, at), min(piece.last, end)
    samples, signals = piece.stretch.samples, piece.stretch.signals
    rows = decode(block[first - at : last - at], signals[0].place, samples * len(signals), width)
    rows = rows.reshape(last - first, len(signals), samples).swapaxes(0, 1).reshape(len(signals), -1)
    _fill(piece.stretch.values, rows, piece.origin + (first - piece.first) * samples)


def _read_wide(path: Path, header: EdfHeader, file: BinaryIO, piece: _Piece) -> None:
    """Fill a piece from records that are too large to read whole."""
    size, width, samples = header.record_bytes, header.width, piece.stretch.samples
    for record in range(piece.first, piece.last):
        origin = piece.origin + (record - piece.first) * samples
        first, last = max(0, -origin), min(samples, piece.stretch.values.shape[1] - origin)
        for row, signal in zip(piece.stretch.values, piece.stretch.signals, strict=True):
            place = header.n_bytes + record * size + (signal.place + first) * width
            data = _bytes(path, file, place, (last - first) * width)[None]
            _fill(row[None], decode(data, 0, last - first, width), origin + first)


def _bytes(path: Path, file: BinaryIO, place: int, count: int) -> NDArray[np.uint8]:
    file.seek(place)
    data = file.read(count)
    if len(data) < count:
        raise ReadError(f"{path.name} has become shorter since it was opened")
    return np.frombuffer(data, np.uint8)


def _stretches(signals: Sequence[EdfSignal], spans: Sequence[tuple[int, int]]) -> list[_Stretch]:
    """Signals in the given order, those that can be read as one block together."""
    groups: list[tuple[list[EdfSignal], tuple[int, int]]] = []
    for signal, span in zip(signals, spans, strict=True):
        if groups:
            members, own = groups[-1]
            last = members[-1]
            if own == span and last.samples == signal.samples and last.place + last.samples == signal.place:
                members.append(signal)
                continue
        groups.append(([signal], span))
    return [_Stretch(tuple(m), a, b, np.full((len(m), max(b - a, 0)), np.nan)) for m, (a, b) in groups]


def _pieces(timeline: Timeline, stretch: _Stretch) -> Iterator[_Piece]:
    """The records of each run that a stretch touches."""
    if stretch.stop <= stretch.start:
        return
    samples = stretch.samples
    starts = timeline.starts(samples)
    stops = starts + timeline.counts * samples
    for run in range(int(np.searchsorted(stops, stretch.start, side="right")), len(starts)):
        start, stop = max(int(starts[run]), stretch.start), min(int(stops[run]), stretch.stop)
        if start >= stop:
            return
        skipped = (start - int(starts[run])) // samples
        n_records = math.ceil((stop - int(starts[run])) / samples) - skipped
        first = int(timeline.records[run]) + skipped
        yield _Piece(stretch, first, first + n_records, int(starts[run]) + skipped * samples - stretch.start)


def _fill(values: Float64, rows: Stored, origin: int) -> None:
    """Put rows (C, n) at column ``origin`` of values (C, T), leaving out what lies outside."""
    first, last = max(origin, 0), min(origin + rows.shape[1], values.shape[1])
    if first < last:
        values[:, first:last] = rows[:, first - origin : last - origin]
