"""A faithful copy of an EDF or BDF file in which only the patched samples change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.edf_header import EdfSignal
from readers.edf_record import EdfRecording
from readers.edf_timeline import Int64
from readers.patching import checked, last_values
from readers.schema import Patch, ReadError, Written

# Stored samples between the first and the last that one step of patching holds in memory.
_STEP_SAMPLES = 1_000_000


class _Job(NamedTuple):
    """New stored integers of one channel: where they lie, in samples from the first record, ascending."""

    flat: Int64
    digital: Int64


@dataclass
class _Tally:
    """What the patches did; ``notes`` name what was left alone."""

    changed: int = 0
    clipped: int = 0
    notes: list[str] = field(default_factory=list)


def write_edf(recording: EdfRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Copy the file to ``path`` and set the patched samples in the copy; every other byte stays.

    A value becomes the nearest integer of the signal's scale, limited to its digital range. Where an index is
    given twice the last value counts; NaN and samples in a gap are left alone and noted. The copy appears under
    its name when it is whole. Memory does not grow with the file. Raises ReadError for the recording's own path, a
    patch outside the recording, and a failing disk.
    """
    path = Path(path)
    checked(recording, patches)
    tally = _Tally()
    jobs = [_job(recording, channel, patches, tally) for channel in sorted({patch.channel for patch in patches})]
    scratch = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.samefile(recording.path):
            raise ReadError(f"the copy of {recording.path.name} cannot take its own place")
        shutil.copyfile(recording.path, scratch)
        needed = recording.header.n_bytes + recording.n_records * recording.header.record_bytes
        if scratch.stat().st_size < needed:
            raise ReadError(f"{recording.path.name} has become shorter since it was opened")
        with scratch.open("r+b") as copy:
            used = [job for job in jobs if job.flat.size]
            tally.changed = _patch(copy, recording.header.n_bytes, recording.header.width, used)
        os.replace(scratch, path)
    except OSError as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()
    return Written(path, tally.changed, tally.clipped, tuple(tally.notes))


def _job(recording: EdfRecording, channel: int, patches: Sequence[Patch], tally: _Tally) -> _Job:
    """What all patches of a channel come to."""
    own = [patch for patch in patches if patch.channel == channel]
    joined = (np.concatenate([patch.index for patch in own]), np.concatenate([patch.values for patch in own]))
    index, values = last_values(Patch(channel, *joined))
    signal = recording.header.signals[channel]
    flat, inside = _places(recording, signal, index)
    known = ~np.isnan(values)
    name = recording.channels[channel].name
    if not inside.all():
        tally.notes.append(f"{np.count_nonzero(~inside)} samples of {name} lie in gaps, where the file stores none")
    if not known[inside].all():
        tally.notes.append(f"{np.count_nonzero(inside & ~known)} samples of {name} have no value and keep the stored one")
    chosen = inside & known
    digital, clipped = _digital(values[chosen], signal, recording.header.width)
    tally.clipped += clipped
    return _Job(flat[chosen], digital)


def _places(recording: EdfRecording, signal: EdfSignal, index: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """Where samples on the timeline lie in the file, in samples from the first record, and which do at all."""
    timeline, samples = recording.timeline, signal.samples
    starts = timeline.starts(samples)
    run = np.searchsorted(starts, index, side="right") - 1
    record, within = np.divmod(index - starts[run], samples)
    flat = (timeline.records[run] + record) * recording.header.record_samples + signal.place + within
    return flat, record < timeline.counts[run]


def _digital(values: NDArray[np.float64], signal: EdfSignal, width: int) -> tuple[Int64, int]:
    """Stored integers of physical values, and how many had to be limited."""
    wanted = np.rint((values - signal.physical[0]) / signal.gain + signal.digital[0])
    limit = 2 ** (8 * width - 1)
    limited = np.clip(wanted, max(min(signal.digital), -limit), min(max(signal.digital), limit - 1))
    return limited.astype(np.int64), int(np.count_nonzero(limited != wanted))


def _patch(copy: BinaryIO, origin: int, width: int, jobs: Sequence[_Job]) -> int:
    """Set the samples of all jobs, in file order and in steps of bounded size; returns how many were others before."""
    changed = 0
    heads = [0] * len(jobs)
    while any(head < job.flat.size for head, job in zip(heads, jobs, strict=True)):
        first = min(int(job.flat[head]) for head, job in zip(heads, jobs, strict=True) if head < job.flat.size)
        ends = [int(np.searchsorted(job.flat, first + _STEP_SAMPLES)) for job in jobs]
        touched = [(job, head, end) for job, head, end in zip(jobs, heads, ends, strict=True) if end > head]
        last = max(int(job.flat[end - 1]) for job, _, end in touched) + 1
        copy.seek(origin + first * width)
        raw = np.frombuffer(copy.read((last - first) * width), np.uint8).reshape(-1, width).copy()
        for job, head, end in touched:
            # Little-endian two's complement: the lower bytes of eight.
            new = job.digital[head:end].astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
            places = job.flat[head:end] - first
            changed += int((raw[places] != new).any(axis=1).sum())
            raw[places] = new
        copy.seek(origin + first * width)
        copy.write(raw.tobytes())
        heads = ends
    return changed
