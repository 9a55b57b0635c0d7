"""Damaged spans: which samples of which channel are to be repaired, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from readers.schema import Recording, SignalLike
from toolkit.errors import UsageError, did_you_mean

FLAT_S = 1.0  # a stored value that does not move for this long is a lead that is off
BLOCK_S = 60.0  # seconds read at once when looking for damage
BOX = ("x0", "x1", "y0", "y1", "z0", "z1")  # columns of a table of boxes of voxels


@dataclass(frozen=True, order=True)
class Span:
    """Samples start..stop (exclusive) of one channel's own grid, and why they are to be repaired."""

    channel: int
    start: int
    stop: int
    why: str = "asked"


def rate_of(recording: SignalLike, span: Span) -> float:
    """Rate of the span's channel in Hz."""
    return recording.channels[span.channel].rate_hz or 1.0


def seconds(recording: SignalLike, span: Span) -> tuple[float, float]:
    """Start and stop of a span in seconds."""
    rate = rate_of(recording, span)
    return span.start / rate, span.stop / rate


def stored_values(recording: SignalLike, channel: int, start: int, stop: int) -> NDArray[np.float64]:
    """Stored samples start..stop of a channel (T,), NaN where they are not valid."""
    sample = recording.read(start, stop, rate_hz=recording.channels[channel].rate_hz or 1.0, channels=[channel])
    return np.where(sample.valid[0], sample.values[0].astype(np.float64), np.nan)


def visible_values(recording: SignalLike, hidden: Iterable[Span], channel: int, start: int, stop: int) -> NDArray[np.float64]:
    """Stored samples start..stop of a channel (T,), NaN where they are hidden by a span or not valid."""
    values = stored_values(recording, channel, start, stop)
    for span in hidden:
        if span.channel == channel:
            values[max(0, span.start - start) : max(0, span.stop - start)] = np.nan
    return values


def whole_channels(recording: SignalLike, names: Sequence[str]) -> list[Span]:
    """The whole of each named channel (as in the file, or canonical). Raises UsageError for an unknown name."""
    return [Span(i, 0, recording.stored(i), "asked") for name in names for i in named(recording, name)]


def named(recording: Recording, name: str) -> list[int]:
    """Channels of that name, as in the file or canonical. Raises UsageError."""
    found = [i for i, c in enumerate(recording.channels) if name in (c.name, c.canonical)]
    if not found:
        known = [c.name for c in recording.channels]
        raise UsageError(f"'{recording.path.name}' has no channel '{name}'. {did_you_mean(name, known)}")
    return found


def from_table(table: pd.DataFrame, recording: SignalLike, channels: Sequence[int]) -> list[Span]:
    """Rows with start, stop in seconds and an optional channel; without one, all of ``channels``. Raises UsageError."""
    expect(table, ("start", "stop"), recording.path.name, "a signal")
    spans = []
    for row in table.to_dict("records"):
        name = str(row.get("channel") or "")
        hit = named(recording, name) if name else channels
        spans += [clip(recording, i, float(row["start"]), float(row["stop"]), "asked") for i in hit]
    return [s for s in spans if s.stop > s.start]


def clip(recording: SignalLike, channel: int, start_s: float, stop_s: float, why: str) -> Span:
    """Seconds to a span inside the recording."""
    rate = recording.channels[channel].rate_hz or 0.0
    length = recording.stored(channel)
    return Span(channel, min(max(round(start_s * rate), 0), length), min(max(round(stop_s * rate), 0), length), why)


def read_table(path: Path) -> pd.DataFrame:
    """A --spans CSV: path, an optional channel, and start, stop or (volumes) x0,x1,y0,y1,z0,z1. Raises UsageError."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as problem:
        raise UsageError(f"Spans '{path}' cannot be read: {problem}.") from None
    ends = BOX if set(BOX) & set(table.columns) and not {"start", "stop"} & set(table.columns) else ("start", "stop")
    if missing := [c for c in ("path", *ends) if c not in table.columns]:
        raise UsageError(f"Spans '{path}' have no column '{missing[0]}'; the columns are {', '.join(table.columns)}.")
    wanted = "a number of voxels" if ends is BOX else "seconds (rows in point clouds)"
    for name in ends:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if (bad := ~np.isfinite(numbers) | ((numbers % 1 != 0) & (ends is BOX))).any():
            row = int(np.flatnonzero(bad)[0])
            raise UsageError(f"Spans '{path}', row {row + 2}: {name} is '{table[name].iloc[row]}', expected {wanted}.")
        table[name] = numbers.astype(float)
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    wrong = (table["path"] == "") | np.logical_or.reduce([table[stop] <= table[start] for start, stop in pairs])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        later = ", ".join(f"{stop} later than {start}" for start, stop in pairs)
        given = ", ".join(f"{table[name].iloc[row]:g}" for name in ends)
        raise UsageError(
            f"Spans '{path}', row {row + 2}: expected a path, and {later}; got '{table['path'].iloc[row]}', {given}."
        )
    return table


def expect(table: pd.DataFrame, columns: Sequence[str], name: str, what: str) -> None:
    """Raises UsageError where the rows for a recording are not told by the columns that its kind takes."""
    if len(table) and columns[0] not in table.columns:
        raise UsageError(f"--spans: '{name}' is {what}, whose spans have the columns path,{','.join(columns)}.")


def detect(recording: SignalLike, channels: Sequence[int]) -> list[Span]:
    """Samples the file marks invalid, and flat lines of a second or longer. Reads the recording in blocks."""
    return [span for channel in channels for span in merge(_detect_channel(recording, channel))]


def _detect_channel(recording: SignalLike, channel: int) -> Iterator[Span]:
    rate = recording.channels[channel].rate_hz or 0.0
    length, block, flat = recording.stored(channel), round(BLOCK_S * rate), round(FLAT_S * rate)
    for first in range(0, length, block):
        # Blocks overlap by the shortest flat run, so that one across a border is still seen.
        sample = recording.read(first, min(length, first + block + flat), rate_hz=rate, channels=[channel])
        values, valid = sample.values[0], sample.valid[0]
        yield from (Span(channel, first + a, first + b, "invalid") for a, b in runs(~valid))
        still = np.concatenate([[False], (values[1:] == values[:-1]) & valid[1:] & valid[:-1]])
        yield from (Span(channel, first + a - 1, first + b, "flat") for a, b in runs(still) if b - a >= flat - 1)


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def merge(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, with those of one channel that touch or overlap made one."""
    merged: list[Span] = []
    for span in sorted(spans):
        last = merged[-1] if merged else None
        if last and last.channel == span.channel and span.start <= last.stop:
            merged[-1] = Span(span.channel, last.start, max(last.stop, span.stop), last.why)
        elif span.stop > span.start:
            merged.append(span)
    return merged
