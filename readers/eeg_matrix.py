"""Samples of channels stored as plain numbers in a file: windows of them, and patches in a copy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.file_bytes import fill
from readers.patching import Int64, checked, last_values
from readers.schema import Axes, Channel, Event, Patch, ReadError
from readers.signals import Float64, SignalRecording

# Numbers held in memory at once while a recording is read or checked, and bytes while it is patched.
STEP = 1_000_000
_PATCHED_BYTES = 1 << 18
MAX_CHANNELS = 4096
MAX_RATE_HZ = 1e7


@dataclass(frozen=True)
class Block:
    """Samples start..stop of every channel, from ``offset`` bytes on in a file."""

    path: Path
    offset: int
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Where the numbers are: blocks in order of time, gaps between them allowed, all of one dtype.

    ``multiplexed``: the channels of one sample lie together; else the samples of one channel do.
    """

    blocks: tuple[Block, ...]
    dtype: np.dtype
    n_channels: int
    multiplexed: bool = True

    @property
    def n_samples(self) -> int:
        """Samples of each channel, gaps included."""
        return self.blocks[-1].stop if self.blocks else 0

    @cached_property
    def _starts(self) -> list[int]:
        return [block.start for block in self.blocks]

    def overlapping(self, start: int, stop: int) -> Sequence[Block]:
        """Blocks that hold a sample of start..stop."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        found = self.blocks[first : max(bisect_right(self._starts, stop - 1), first)]
        return [block for block in found if block.start < stop and block.stop > start]

    def place(self, block: Block, channel: int) -> tuple[int, int]:
        """Where a channel's numbers begin in a block's file, in bytes, and the step from one to the next, in numbers."""
        first = channel if self.multiplexed else channel * (block.stop - block.start)
        return block.offset + first * self.dtype.itemsize, self.n_channels if self.multiplexed else 1

    def numbers(self, block: Block, channels: Sequence[int], start: int, stop: int) -> NDArray:
        """Stored numbers of samples start..stop, which the block holds, as (channels, samples). Raises ReadError."""
        first, width = start - block.start, self.dtype.itemsize
        try:
            with block.path.open("rb") as file:
                if self.multiplexed:
                    table = np.empty((stop - start, self.n_channels), self.dtype)
                    fill(block.path, file, block.offset + first * self.n_channels * width, table)
                    return table.T[channels]
                found = np.empty((len(channels), stop - start), self.dtype)
                for row, channel in zip(found, channels, strict=True):
                    fill(block.path, file, self.place(block, channel)[0] + first * width, row)
                return found
        except OSError as error:
            raise ReadError(f"{block.path.name} cannot be read: {error.strerror or error}") from error

    def read(self, channels: Sequence[int], start: int, stop: int) -> Float64:
        """Stored numbers as float64 (channels, samples), NaN in gaps. Raises ReadError."""
        values = np.full((len(channels), stop - start), np.nan)
        rows = max(STEP // max(self.n_channels, 1), 1)
        for block in self.overlapping(start, stop):
            first, last = max(start, block.start), min(stop, block.stop)
            for at in range(first, last, rows):
                end = min(at + rows, last)
                values[:, at - start : end - start] = self.numbers(block, channels, at, end)
        return values


class MatrixRecording(SignalRecording):
    """Channels of one rate whose physical values are (stored number - baseline) * gain; a subclass reads the header."""

    layout: Layout
    gains: tuple[float, ...]
    baselines: tuple[float, ...] = ()  # none: all 0

    def _describe(
        self,
        channels: Sequence[Channel],
        events: Sequence[Event],
        start_date: str | None,
        ids: Mapping[str, str],
        notes: Sequence[str],
    ) -> None:
        """Set what follows from the channels and the layout, with the side files beside the recording."""
        from readers.bids import details
        from readers.edf_record import domain_of

        n_samples, rate = self.layout.n_samples, channels[0].rate_hz
        assert rate is not None
        found = details(self.path, channels, sorted(events, key=lambda event: event.onset_s))
        self.channels = found.channels
        self.domain = domain_of(channel.kind for channel in found.channels)
        self.axes = Axes((len(channels), n_samples), rate, n_samples / rate, start_date)
        self._events = found.events
        self.ids = {**ids, **found.ids}
        self.warnings = (*notes, *found.warnings)

    @property
    def events(self) -> Sequence[Event]:
        """Markers of the file and the side files, in order of onset."""
        return self._events

    def verify(self) -> tuple[str, ...]:
        """Read every number; name what is not finite, and events outside the recording."""
        bad = np.zeros(len(self.channels), np.int64)
        rows = max(STEP // len(self.channels), 1)
        for start in range(0, self.layout.n_samples, rows):
            for block in self.layout.overlapping(start, start + rows):
                first, last = max(start, block.start), min(start + rows, block.stop)
                part = self.layout.numbers(block, range(len(self.channels)), first, last)
                bad += np.count_nonzero(~np.isfinite(part), axis=1)
        problems = [f"{n} samples of {c.name} are not finite" for n, c in zip(bad, self.channels, strict=True) if n]
        outside = sum(not 0 <= event.onset_s <= (self.axes.duration_s or 0) for event in self._events)
        return (*problems, f"{outside} events lie outside the recording") if outside else tuple(problems)

    def _length(self, channel: int) -> int:
        return self.layout.n_samples

    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        found: dict[int, Float64] = {}
        for span in set(spans):
            rows = [row for row, own in enumerate(spans) if own == span]
            picked = [channels[row] for row in rows]
            stored = self.layout.read(picked, *span) if span[1] > span[0] else np.empty((len(rows), 0))
            if self.baselines:
                stored -= np.array([self.baselines[c] for c in picked])[:, None]
            found |= {row: stored[k] * self.gains[channels[row]] for k, row in enumerate(rows)}
        return [found[row] for row in range(len(spans))]


@dataclass
class Tally:
    """What patches did."""

    changed: int = 0
    clipped: int = 0
    notes: tuple[str, ...] = ()


def apply(recording: MatrixRecording, patches: Sequence[Patch], copies: Mapping[Path, Path]) -> Tally:
    """Set patched samples in copies of the recording's files (file -> its copy). Raises ReadError.

    For recordings without baselines. A value becomes value / gain, rounded for integers and limited to the dtype's
    range. NaN is stored in a file of floats; in one of integers the stored number stays.
    """
    checked(recording, patches)
    layout, tally = recording.layout, Tally()
    left: dict[str, int] = {}
    for patch in patches:
        index, values = last_values(patch)
        numbers, known, clipped = digital(values / recording.gains[patch.channel], layout.dtype)
        name = recording.channels[patch.channel].name
        if not known.all():
            left[f"{{}} NaN of {name} cannot be stored as {layout.dtype.name}: the old values stay"] = int((~known).sum())
        tally.clipped += clipped
        index, numbers = index[known], numbers[known]
        held = 0
        for block in layout.overlapping(int(index[0]), int(index[-1]) + 1) if index.size else ():
            lo, hi = np.searchsorted(index, [block.start, block.stop])
            if hi > lo:
                held += int(hi - lo)
                place = layout.place(block, patch.channel)
                tally.changed += _set(block.path, copies[block.path], place, index[lo:hi] - block.start, numbers[lo:hi])
        if held < index.size:
            left[f"{{}} samples of {name} lie where the recording stores none"] = index.size - held
    tally.notes = tuple(text.format(count) for text, count in left.items())
    return tally


def digital(wanted: Float64, dtype: np.dtype) -> tuple[NDArray, NDArray[np.bool_], int]:
    """Numbers of the dtype, which of them are known, and how many had to be limited."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    known = ~np.isnan(wanted) | (dtype.kind == "f")
    whole = np.rint(wanted) if dtype.kind in "iu" else wanted
    limited = np.clip(whole, float(limits.min), float(limits.max))
    clipped = int(np.count_nonzero((limited != whole) & ~np.isnan(wanted)))
    return np.where(known, limited, 0).astype(dtype), known, clipped


def _set(source: Path, copy: Path, place: tuple[int, int], index: Int64, new: NDArray) -> int:
    """Set numbers of a channel in a file's copy, at ``index`` (ascending) of those that lie at ``place``; how many changed."""
    (offset, step), width = place, new.dtype.itemsize
    rows, changed, at = max(_PATCHED_BYTES // (step * width), 1), 0, 0
    with copy.open("r+b") as file:
        while at < index.size:
            first = int(index[at])
            end = int(np.searchsorted(index, first + rows))
            held = np.empty((int(index[end - 1]) - first) * step + 1, new.dtype)
            fill(source, file, offset + first * step * width, held)
            own, part = (index[at:end] - first) * step, new[at:end]
            same = (held[own] == part) | ((held[own] != held[own]) & (part != part))
            if not same.all():
                held[own[~same]] = part[~same]
                file.seek(offset + first * step * width)
                file.write(held.view(np.uint8).data)
                changed += int(np.count_nonzero(~same))
            at = end
    return changed
