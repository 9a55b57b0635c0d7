"""Where the data records of an EDF or BDF file lie in time: one run without gaps, or several with gaps between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.edf_header import MAX_SECONDS, EdfHeader
from readers.schema import ReadError

Int64 = NDArray[np.int64]

MAX_RUNS = 1_000_000
# Onsets are often written in milliseconds: a record may begin this much (or a sample, if that is more) too early.
SLACK_S = 1e-3
# A deviation from the sample grid that is not worth a warning, in seconds.
_NEGLIGIBLE_S = 1e-6


@dataclass(frozen=True)
class Timeline:
    """Runs of records that follow each other without a gap.

    For each run its first record, its number of records, and where it begins: samples of the fastest signals,
    ``fastest`` in each record, since the start of the first record.
    """

    records: Int64
    counts: Int64
    ticks: Int64
    fastest: int

    def starts(self, samples: int) -> Int64:
        """Where each run begins for a signal of ``samples`` in each record, in samples of its own, rounded.

        Halves go up, so that the ends of runs never cross.
        """
        whole, part = np.divmod(self.ticks, self.fastest)
        return whole * samples + (2 * part * samples + self.fastest) // (2 * self.fastest)

    def length(self, samples: int) -> int:
        """Samples of such a signal on the timeline, gaps included."""
        return int(self.starts(samples)[-1] + self.counts[-1] * samples)


def without_gaps(header: EdfHeader, n_records: int) -> Timeline:
    """The timeline of records that all follow each other."""
    one = np.zeros(1, np.int64)
    return Timeline(one, one + n_records, one, max(signal.samples for signal in header.signals))


def with_gaps(path: Path, header: EdfHeader, n_records: int, onsets: Iterable[float | None]) -> tuple[Timeline, tuple[str, ...]]:
    """The timeline that the records' onsets (seconds) give, and remarks about gaps and rounding.

    A record lies at the nearest sample of the fastest signals; one that begins up to a sample or a millisecond
    too early, or has no onset, follows on. Raises ReadError where records overlap or go backwards, and for a recording that
    would last longer than ``MAX_SECONDS``.
    """
    fastest = max(signal.samples for signal in header.signals)
    rate = fastest / float(header.record_s)
    records, ticks = [0], [0]
    origin = 0.0
    end = silent = 0
    worst = 0.0
    for record, onset in enumerate(onsets):
        if record == 0:
            origin, silent, end = onset or 0.0, int(onset is None), fastest
            continue
        if onset is None:
            silent, end = silent + 1, end + fastest
            continue
        where = (onset - origin) * rate
        if where < end - max(1.0, SLACK_S * rate):
            raise ReadError(
                f"{path.name}: record {record + 1} begins at {onset:g} s, "
                f"before the record ahead of it ends at {origin + end / rate:g} s"
            )
        if where > MAX_SECONDS * rate:
            raise ReadError(f"{path.name}: record {record + 1} begins at {onset:g} s; {MAX_SECONDS} s are accepted")
        tick = max(end, math.floor(where + 0.5))
        worst = max(worst, abs(where - tick) / rate)
        if tick > end:
            records.append(record)
            ticks.append(tick)
            if len(records) > MAX_RUNS:
                raise ReadError(f"{path.name} has more than {MAX_RUNS} gaps")
        end = tick + fastest
    first = np.array(records, np.int64)
    timeline = Timeline(first, np.diff(first, append=n_records), np.array(ticks, np.int64), fastest)
    return timeline, _remarks(header, timeline, n_records, silent, worst)


def _remarks(header: EdfHeader, timeline: Timeline, n_records: int, silent: int, worst: float) -> tuple[str, ...]:
    notes = []
    record_s = float(header.record_s)
    gaps = len(timeline.ticks) - 1
    if gaps:
        missing = timeline.length(timeline.fastest) / timeline.fastest - n_records
        notes.append(f"{gaps} gap{'s' if gaps > 1 else ''} of {missing * record_s:g} s in all")
    if silent:
        notes.append(f"{silent} of {n_records} records do not say when they begin; they are taken to follow on")
    begin = timeline.ticks / timeline.fastest
    for samples in sorted({signal.samples for signal in header.signals}):
        off = np.abs(timeline.starts(samples) / samples - begin).max() * record_s
        worst = max(worst, float(off))
    if worst > _NEGLIGIBLE_S:
        notes.append(f"records do not begin on the grid of samples; moved by up to {worst * 1e3:.3g} ms")
    return tuple(notes)
