"""A WFDB record as a recording: its segments on one time axis, its channels, its checks."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from readers.leads import describe, lead_axis, si_factor
from readers.schema import Axes, Channel, Event, ReadError
from readers.signals import Float64, SignalRecording
from readers.wfdb_header import DEFAULT_UNIT, MAX_FRAMES, Header, SignalLine
from readers.wfdb_notes import annotation_files, ids_of, read_annotations
from readers.wfdb_store import NOT_STORED, Segment, blocks, open_segment, read_header


@dataclass(frozen=True)
class Part:
    """A segment in its place, in frames of the record; for each channel its signal there (None: not stored)."""

    start: int
    stop: int
    segment: Segment
    signals: tuple[int | None, ...]


class WfdbRecording(SignalRecording):
    """A WFDB record, single-segment or multi-segment, of fixed or variable layout.

    Each channel keeps its own rate, the frame rate times its samples per frame.
    """

    format = "wfdb"
    domain = "cardiac"

    def __init__(self, path: Path) -> None:
        """Parse the header(s) and check the signal files' sizes; no sample is read. Raises ReadError."""
        self.path = path
        self.header = read_header(path)
        if self.header.n_signals == 0:
            raise ReadError(f"{path.name} holds no signals")
        notes = [] if self.header.rate_written else [f"sampling rate assumed to be {self.header.rate_hz:g} Hz"]
        if self.header.name != path.stem:
            notes.append(f"the header calls the record {self.header.name}")
        lines, self.parts, self.n_frames, found = _segments(path, self.header)
        if self.n_frames == 0:
            raise ReadError(f"{path.name} holds no samples")
        if self.n_frames > MAX_FRAMES:
            raise ReadError(f"{path.name} claims {self.n_frames} samples; at most {MAX_FRAMES} are accepted")
        self.per_frame = tuple(line.samples_per_frame for line in lines)
        self.channels = _channels(path, lines, self.parts, self.header.rate_hz)
        fastest = max(self.per_frame)
        self.axes = Axes(
            shape=(len(lines), self.n_frames * fastest),
            rate_hz=self.header.rate_hz * fastest,
            duration_s=self.n_frames / self.header.rate_hz,
            start_date=self.header.start_date,
        )
        self.ids = ids_of(self.header, path.stem)
        self.warnings = (*notes, *found, *_remarks(self.channels, lines, self.parts))

    @property
    def events(self) -> Sequence[Event]:
        """Annotations of every annotation file beside the record, in order of onset.

        Raises ReadError for a broken reference annotation (.atr). A file of another annotator's suffix that
        is no annotation file is passed over; ``verify`` names it.
        """
        return self._events

    @cached_property
    def _events(self) -> tuple[Event, ...]:
        found: list[Event] = []
        for file in self._annotation_files:
            try:
                found.extend(read_annotations(file, self.header.rate_hz))
            except ReadError:
                if file.suffix == ".atr":
                    raise
        return tuple(sorted(found, key=lambda event: event.onset_s))

    @property
    def _annotation_files(self) -> tuple[Path, ...]:
        signal_files = [file.path for part in self.parts for file in part.segment.files]
        return annotation_files(self.path, signal_files)

    @cached_property
    def headers(self) -> tuple[Path, ...]:
        """Every header file of the record, the handle first."""
        segments = [self.path.parent / f"{name}.hea" for name, _ in self.header.segments if name != NOT_STORED]
        return tuple(dict.fromkeys([self.path, *segments]))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that belongs to the record, the handle first."""
        signal_files = [file.path for part in self.parts for file in part.segment.files]
        return tuple(dict.fromkeys([*self.headers, *signal_files, *self._annotation_files]))

    def verify(self) -> tuple[str, ...]:
        """Read every sample and annotation; name each checksum, initial value or file that disagrees."""
        segments = {part.segment.path: part.segment for part in self.parts}
        problems = [problem for segment in segments.values() for problem in _disagreements(segment)]
        for file in self._annotation_files:
            try:
                read_annotations(file, self.header.rate_hz)
            except ReadError as error:
                problems.append(str(error))
        return tuple(problems)

    def _length(self, channel: int) -> int:
        return self.n_frames * self.per_frame[channel]

    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        wanted = [(c, span) for c, span in zip(channels, spans, strict=True) if span[1] > span[0]]
        if not wanted:
            return [np.empty(0)] * len(channels)
        first = min(start // self.per_frame[c] for c, (start, _) in wanted)
        last = max(-(-stop // self.per_frame[c]) for c, (_, stop) in wanted)
        frames = self._frames([c for c, _ in wanted], first, last)
        found = []
        for channel, (start, stop) in zip(channels, spans, strict=True):
            origin = first * self.per_frame[channel]
            found.append(frames[channel][start - origin : stop - origin] if stop > start else np.empty(0))
        return found

    def _frames(self, channels: Sequence[int], first: int, last: int) -> dict[int, Float64]:
        """Physical values of frames first..last of each channel, NaN in gaps."""
        values = {c: np.full((last - first) * self.per_frame[c], np.nan) for c in channels}
        begin = max(bisect_right(self.parts, first, key=lambda part: part.start) - 1, 0)
        for part in self.parts[begin:]:
            start, stop = max(first, part.start), min(last, part.stop)
            if part.start >= last:
                break
            held = {c: s for c in channels if (s := part.signals[c]) is not None}
            if start >= stop or not held:
                continue
            read = part.segment.physical(list(held.values()), start - part.start, stop - part.start)
            for c, signal in held.items():
                values[c][(start - first) * self.per_frame[c] : (stop - first) * self.per_frame[c]] = read[signal]
        return values


def _segments(path: Path, header: Header) -> tuple[tuple[SignalLine, ...], tuple[Part, ...], int, list[str]]:
    """The record's signals, its stored parts, its length in frames, and warnings."""
    if header.segments:
        return _many_segments(path, header)
    # A written length of 0 means "not stated", as no length does.
    segment, notes = open_segment(path, header, header.n_frames or None)
    if not header.n_frames:
        notes.append("length deduced from the size of the signal file")
    own = tuple(s if line.file != NOT_STORED else None for s, line in enumerate(header.signals))
    return header.signals, (Part(0, segment.n_frames, segment, own),), segment.n_frames, notes


def _many_segments(path: Path, header: Header) -> tuple[tuple[SignalLine, ...], tuple[Part, ...], int, list[str]]:
    stored = [name for name, _ in header.segments if name != NOT_STORED]
    if not stored:
        raise ReadError(f"{path.name} holds gaps only")
    headers: dict[str, Header] = {}
    for name in stored:
        if not (path.parent / f"{name}.hea").is_file():
            raise ReadError(f"{name}.hea, named by {path.name}, is missing")
        headers[name] = read_header(path.parent / f"{name}.hea")
        if headers[name].segments:
            raise ReadError(f"{name}.hea, a segment of {path.name}, has segments of its own")
        if headers[name].rate_hz != header.rate_hz:
            raise ReadError(f"{name}.hea runs at {headers[name].rate_hz:g} Hz, {path.name} at {header.rate_hz:g} Hz")
    lines = headers[stored[0]].signals
    if len(lines) != header.n_signals:
        raise ReadError(f"{stored[0]}.hea lists {len(lines)} signals, {path.name} claims {header.n_signals}")
    parts: list[Part] = []
    notes: list[str] = []
    start = missing = gaps = 0
    for name, length in header.segments:
        if length and name == NOT_STORED:
            missing, gaps = missing + length, gaps + 1
        elif length:
            parts.append(_part(path, name, headers[name], length, start, lines, header.variable_layout, notes))
        start += length
    if gaps:
        notes.append(f"{gaps} gaps of {missing / header.rate_hz:g} s in all")
    if header.n_frames not in (None, 0, start):
        notes.append(f"the header claims {header.n_frames} samples, its segments {start}")
    return lines, tuple(parts), start, notes


def _part(
    path: Path,
    name: str,
    header: Header,
    length: int,
    start: int,
    lines: Sequence[SignalLine],
    variable: bool,
    notes: list[str],
) -> Part:
    if header.n_frames and header.n_frames < length:
        raise ReadError(f"{name}.hea holds {header.n_frames} of the {length} samples that {path.name} claims")
    segment, found = open_segment(path.parent / f"{name}.hea", header, header.n_frames or length)
    notes.extend(found)
    if segment.n_frames > length:
        notes.append(f"{name} holds {segment.n_frames} samples, {path.name} takes {length}")
    signals = _matched(lines, header.signals) if variable else tuple(range(len(header.signals)))
    if len(signals) != len(lines):
        raise ReadError(f"{name}.hea lists {len(signals)} signals, {path.name} claims {len(lines)}")
    for line, signal in zip(lines, signals, strict=True):
        if signal is not None and header.signals[signal].samples_per_frame != line.samples_per_frame:
            raise ReadError(f"{name}.hea stores {line.name} at another rate than the rest of {path.name}")
    stored = tuple(s if s is not None and header.signals[s].file != NOT_STORED else None for s in signals)
    return Part(start, start + length, segment, stored)


def _matched(lines: Sequence[SignalLine], own: Sequence[SignalLine]) -> tuple[int | None, ...]:
    """For each signal of the layout, its number in a segment: the same name, the n-th for the n-th."""
    places: dict[str | None, list[int]] = {}
    for signal, line in enumerate(own):
        places.setdefault(line.name, []).append(signal)
    return tuple(places[line.name].pop(0) if places.get(line.name) else None for line in lines)


def _channels(path: Path, lines: Sequence[SignalLine], parts: Sequence[Part], rate_hz: float) -> tuple[Channel, ...]:
    channels = []
    for number, line in enumerate(lines):
        own = [p.segment.header.signals[s] for p in parts if (s := p.signals[number]) is not None]
        units = {stored.unit or DEFAULT_UNIT for stored in own} or {line.unit or DEFAULT_UNIT}
        name = line.name or f"signal {number}"
        if len(units) > 1:
            raise ReadError(f"{path.name} stores {name} in several units: {', '.join(sorted(units))}")
        unit = units.pop()
        canonical, kind = describe(name, unit)
        axis = lead_axis(canonical) if kind == "ecg" else None
        channels.append(
            Channel(
                name=name,
                canonical=canonical,
                kind=kind,
                unit=unit,
                si_factor=si_factor(unit),
                rate_hz=rate_hz * line.samples_per_frame,
                position=axis,
                position_frame="lead-axis" if axis else None,
                position_source="standard" if axis else None,
                missing=not own,
            )
        )
    return tuple(channels)


def _remarks(channels: Sequence[Channel], lines: Sequence[SignalLine], parts: Sequence[Part]) -> list[str]:
    """Warnings about the channels."""
    notes = [f"{count} signals are called {name}" for name, count in Counter(c.name for c in channels).items() if count > 1]
    rates = sorted({c.rate_hz for c in channels if c.rate_hz is not None})
    if len(rates) > 1:
        notes.append(f"mixed rates: {', '.join(f'{rate:g}' for rate in rates)} Hz")
    assumed = [
        channel.name
        for number, channel in enumerate(channels)
        if any(p.segment.header.signals[s].unit is None for p in parts if (s := p.signals[number]) is not None)
    ]
    if assumed:
        notes.append(f"unit assumed to be {DEFAULT_UNIT}: {', '.join(assumed)}")
    if any(file.format == "8" for part in parts for file in part.segment.files):
        notes.append("format 8 stores differences: a window is read from the beginning of the record")
    return notes


def _disagreements(segment: Segment) -> list[str]:
    """Checksums (16-bit sums of the stored integers) and initial values that are not the header's."""
    problems = []
    for file in segment.files:
        sums = dict.fromkeys(file.signals, 0)
        firsts: dict[int, int] = {}
        for start, stop in blocks(segment.n_frames, file.frame_samples):
            for signal, samples in segment.stored(file, start, stop).items():
                sums[signal] += int(samples.sum())
                firsts.setdefault(signal, int(samples[0]))
        for signal in file.signals:
            line = segment.header.signals[signal]
            where = f"{segment.path.name}: {line.name or f'signal {signal}'}"
            if line.checksum is not None and (line.checksum - sums[signal]) % 65536:
                problems.append(f"{where} has the checksum {sums[signal] % 65536}, the header says {line.checksum % 65536}")
            # With several samples per frame some writers put the frame's mean; differences start from it.
            plain = line.samples_per_frame == 1 and file.format != "8"
            if plain and line.initial is not None and line.initial != firsts[signal]:
                problems.append(f"{where} begins with {firsts[signal]}, the header says {line.initial}")
    return problems
