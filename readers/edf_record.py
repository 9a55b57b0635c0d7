"""An EDF, EDF+, BDF or BDF+ file as a recording: its channels, its samples, its checks."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import numpy as np

from readers.edf_events import read_events, record_onsets
from readers.edf_header import EdfHeader, count_records, read_header
from readers.edf_samples import read_spans, stored_blocks
from readers.edf_timeline import SLACK_S, with_gaps, without_gaps
from readers.leads import si_factor
from readers.schema import Axes, Channel, Event
from readers.signals import Float64, SignalRecording

CARDIAC_KINDS = frozenset(("ecg", "ppg", "resp", "abp"))
_BODY_KINDS = frozenset(("eeg", "eog", "emg", "meg"))


class EdfRecording(SignalRecording):
    """An EDF, EDF+, BDF or BDF+ file; each signal keeps its own rate.

    Time 0 is the start of the first data record. The gaps of a discontinuous file are samples that are not valid.
    """

    format = "edf"

    def __init__(self, path: Path) -> None:
        """Parse the header and check the file's size; in a discontinuous file read when each record begins too.

        Raises ReadError.
        """
        self.path = path
        self.header = read_header(path)
        self.n_records, notes = count_records(path, self.header)
        header = self.header
        self.start_s = next(record_onsets(path, header, 1), None) or 0.0
        if header.discontinuous:
            self.timeline, gaps = with_gaps(path, header, self.n_records, record_onsets(path, header, self.n_records))
        else:
            self.timeline, gaps = without_gaps(header, self.n_records), ()
        self.channels = _channels(header)
        self._lengths = tuple(self.timeline.length(signal.samples) for signal in header.signals)
        self.domain = domain_of(channel.kind for channel in self.channels)
        fastest = self.timeline.fastest
        length = self.timeline.length(fastest)
        self.axes = Axes(
            shape=(len(self.channels), length),
            rate_hz=float(fastest / header.record_s),
            duration_s=float(length * header.record_s / fastest),
            start_date=_start_date(header, self.start_s),
        )
        self.ids: Mapping[str, str] = header.ids()
        self.warnings = (*header.notes, *notes, *gaps, *_remarks(self.channels))
        self._told: tuple[Event, ...] | None = None

    @property
    def events(self) -> Sequence[Event]:
        """Annotations inside the file, or those that were given instead, in order of onset. Raises ReadError."""
        return self._events

    @cached_property
    def _events(self) -> tuple[Event, ...]:
        told = self._told
        if told is None:
            told = tuple(read_events(self.path, self.header, self.n_records, self.start_s)[0])
        return tuple(sorted(told, key=lambda event: event.onset_s))

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def with_details(
        self,
        *,
        channels: Sequence[Channel] | None = None,
        events: Sequence[Event] | None = None,
        ids: Mapping[str, str] | None = None,
        warnings: Sequence[str] | None = None,
    ) -> EdfRecording:
        """The same recording described further by files beside it.

        What is given replaces ``channels`` (as many, in the same order, at the same rates), ``events``, ``ids`` or
        ``warnings``. The domain follows the channels. Raises ValueError.
        """
        new = copy.copy(self)
        new.__dict__.pop("_events", None)
        if channels is not None:
            if [c.rate_hz for c in channels] != [c.rate_hz for c in self.channels]:
                raise ValueError("the channels of a recording keep their number and their rates")
            new.channels = tuple(channels)
            new.domain = domain_of(channel.kind for channel in new.channels)
        new._told = self._told if events is None else tuple(events)
        new.ids = self.ids if ids is None else dict(ids)
        new.warnings = self.warnings if warnings is None else tuple(warnings)
        return new

    def verify(self) -> tuple[str, ...]:
        """Read every record and annotation; name what disagrees with the header.

        Those are: another number of records than the header claims, samples outside a signal's digital range,
        records of a continuous file that do not follow on, and broken annotations. Raises ReadError.
        """
        header, size = self.header, self.path.stat().st_size
        found = (size - header.n_bytes) // header.record_bytes
        problems = []
        if found != header.claimed:
            problems.append(f"{self.path.name} claims {header.claimed} records and holds {found}")
        outside: Counter[str] = Counter()
        for signal, stored in stored_blocks(self.path, header, self.n_records):
            low, high = sorted(signal.digital)
            outside[signal.label] += int(np.count_nonzero((stored < low) | (stored > high)))
        for label, count in outside.items():
            if count:
                problems.append(f"{self.path.name}: {count} samples of {label} lie outside its digital range")
        problems.extend(self._time_problems())
        _, broken = read_events(self.path, header, self.n_records, self.start_s)
        if broken:
            problems.append(f"{self.path.name}: {broken} broken annotations were skipped")
        return tuple(problems)

    def _time_problems(self) -> list[str]:
        """Records of a continuous EDF+ file that begin elsewhere than where the one before ends."""
        if not self.header.variant.endswith("+C"):
            return []
        record_s = float(self.header.record_s)
        slack = max(SLACK_S, record_s / self.timeline.fastest)
        off = silent = 0
        for record, onset in enumerate(record_onsets(self.path, self.header, self.n_records)):
            silent += onset is None
            off += onset is not None and abs(onset - self.start_s - record * record_s) > slack
        problems = []
        if off:
            problems.append(f"{self.path.name}: {off} records of a continuous file do not follow on the one before")
        if silent:
            problems.append(f"{self.path.name}: {silent} records do not say when they begin")
        return problems

    def _length(self, channel: int) -> int:
        return self._lengths[channel]

    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        return read_spans(self.path, self.header, self.timeline, [self.header.signals[c] for c in channels], spans)


def domain_of(kinds: Iterable[str]) -> str:
    """``cardiac`` where a heart, pulse or breathing signal is the most a file holds, else ``eeg``.

    Any EEG, EOG, EMG or MEG channel makes it ``eeg``, as in a polysomnogram; so does a file without any signal of
    these kinds.
    """
    present = set(kinds)
    return "cardiac" if present & CARDIAC_KINDS and not present & _BODY_KINDS else "eeg"


def _channels(header: EdfHeader) -> tuple[Channel, ...]:
    from readers.electrodes import identify

    found = identify([signal.label for signal in header.signals], [signal.unit for signal in header.signals])
    return tuple(
        Channel(
            name=signal.label or f"signal {number}",
            canonical=identity.canonical or f"signal {number}",
            kind=identity.kind,
            unit=signal.unit,
            si_factor=si_factor(signal.unit),
            rate_hz=float(signal.samples / header.record_s),
            position=identity.position,
            position_frame=identity.position_frame,
            position_source=identity.position_source,
            reference=identity.reference,
            dtype="int16" if header.width == 2 else "int24",
            low=min(signal.physical),
            high=max(signal.physical),
        )
        for number, (signal, identity) in enumerate(zip(header.signals, found, strict=True))
    )


def _start_date(header: EdfHeader, start_s: float) -> str | None:
    if header.start is None:
        return None
    try:
        return (header.start + timedelta(seconds=start_s)).isoformat()
    except OverflowError:
        return header.start.isoformat()


def _remarks(channels: Sequence[Channel]) -> list[str]:
    """Warnings about the channels."""
    notes = [f"{count} signals are called {name}" for name, count in Counter(c.name for c in channels).items() if count > 1]
    rates = sorted({c.rate_hz for c in channels if c.rate_hz is not None})
    if len(rates) > 1:
        notes.append(f"mixed rates: {', '.join(f'{rate:g}' for rate in rates)} Hz")
    odd = [f"{c.name} ({c.unit or 'none'})" for c in channels if c.kind in _BODY_KINDS and c.si_factor is None]
    if odd:
        notes.append(f"unit is no voltage: {', '.join(odd)}")
    return notes
