"""A faithful copy of a WFDB record in which only the patched samples change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.patching import checked, last_values
from readers.schema import Patch, ReadError, Written
from readers.wfdb_header import Header, SignalLine, with_fields
from readers.wfdb_packing import PACKINGS, Int64, Packing, repack
from readers.wfdb_record import Part, WfdbRecording
from readers.wfdb_store import SignalFile

# Stored samples between the first and the last that one step of patching holds in memory.
_STEP_SAMPLES = 500_000


@dataclass
class _Tally:
    """What the patches did: totals, and per header the new fields of its signals."""

    changed: int = 0
    clipped: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    sums: dict[Path, dict[int, int]] = field(default_factory=dict)
    firsts: dict[Path, dict[int, int]] = field(default_factory=dict)


def write_wfdb(recording: WfdbRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Copy every file of the record beside ``path`` (its .hea) and patch the stored integers in the copy.

    A value becomes round(value * gain + baseline), limited to the format's range; NaN becomes the
    format's invalid code. Checksums and initial values follow; every other byte stays. The headers come
    last, so a copy that was cut short does not look finished. Memory does not grow with the record.
    Raises ReadError for a path in the record's own folder, another record name, a patch outside the
    recording, a signal format that cannot be patched, and a failing disk.
    """
    path = Path(path)
    if path.name != recording.path.name:
        raise ReadError(f"the copy of {recording.path.name} has to keep its name, not become {path.name}")
    for patch in patches:
        _check(recording, patch)
    scratch: dict[Path, Path] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.resolve() == recording.path.parent.resolve():
            raise ReadError(f"the copy of {recording.path.name} has to go to another folder than the record's own")
        # Headers last, and among them the handle very last.
        sources = [f for f in recording.files if f not in recording.headers] + list(reversed(recording.headers))
        for source in sources:
            scratch[source] = path.parent / f".{source.name}.part"
            shutil.copyfile(source, scratch[source])
        tally = _Tally()
        for patch in patches:
            _apply(recording, patch, scratch, tally)
        _update_headers(recording, scratch, tally)
        path.unlink(missing_ok=True)
        for source in sources:
            os.replace(scratch[source], path.parent / source.name)
    except OSError as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
    finally:
        for rest in scratch.values():
            rest.unlink(missing_ok=True)
    notes = tuple(f"{count} samples of {name} lie where the record stores none" for name, count in tally.left_out.items())
    return Written(path, tally.changed, tally.clipped, notes)


def _check(recording: WfdbRecording, patch: Patch) -> None:
    checked(recording, [patch])
    name = recording.channels[patch.channel].name
    for part in recording.parts:
        signal = part.signals[patch.channel]
        fmt = "" if signal is None else part.segment.header.signals[signal].format
        if signal is not None and (fmt not in PACKINGS or PACKINGS[fmt].differences):
            raise ReadError(f"restore cannot write WFDB format {fmt}, which holds {name} of {recording.path.name}")


def _apply(recording: WfdbRecording, patch: Patch, scratch: dict[Path, Path], tally: _Tally) -> None:
    index, values = last_values(patch)
    per_frame = recording.per_frame[patch.channel]
    done = 0
    for part in recording.parts:
        signal = part.signals[patch.channel]
        lo, hi = np.searchsorted(index, [part.start * per_frame, part.stop * per_frame])
        if signal is not None and hi > lo:
            file = next(f for f in part.segment.files if signal in f.signals)
            local = index[lo:hi] - part.start * per_frame
            done += _apply_part(part, file, signal, local, values[lo:hi], scratch[file.path], tally)
    if done < index.size:
        name = recording.channels[patch.channel].name
        tally.left_out[name] = tally.left_out.get(name, 0) + index.size - done


def _apply_part(
    part: Part,
    file: SignalFile,
    signal: int,
    index: Int64,
    values: NDArray[np.float64],
    copy: Path,
    tally: _Tally,
) -> int:
    """Patch one signal of one segment (``index``: its samples, skew undone); how many of them are stored."""
    line = part.segment.header.signals[signal]
    per_frame = line.samples_per_frame
    frame, within = np.divmod(index + line.skew * per_frame, per_frame)
    stored = frame < part.segment.n_frames
    place = file.places[file.signals.index(signal)]
    flat = (frame * file.frame_samples + place + within)[stored]
    digital, clipped = _digital(values[stored], line, PACKINGS[file.format])
    tally.clipped += clipped
    changed, total = _patch_file(copy, file, flat, digital)
    tally.changed += changed
    sums = tally.sums.setdefault(part.segment.path, {})
    sums[signal] = sums.get(signal, 0) + total
    # The initial value follows where it is the first stored sample; some headers hold a frame's mean there.
    if flat.size and flat[0] == place and line.initial == part.segment.stored(file, 0, 1)[signal][0]:
        tally.firsts.setdefault(part.segment.path, {})[signal] = int(digital[0])
    return int(flat.size)


def _digital(values: NDArray[np.float64], line: SignalLine, packing: Packing) -> tuple[Int64, int]:
    """Stored integers of physical values, and how many had to be limited."""
    wanted = np.rint(values * line.gain + line.baseline)
    low, high = packing.limits
    unknown = np.isnan(wanted)
    limited = np.clip(wanted, low, high)
    assert packing.invalid is not None  # formats without an invalid code are refused before
    digital = np.where(unknown, packing.invalid, limited).astype(np.int64)
    return digital, int(np.count_nonzero((limited != wanted) & ~unknown))


def _patch_file(copy: Path, file: SignalFile, flat: Int64, digital: Int64) -> tuple[int, int]:
    """Set the samples ``flat`` (ascending, in file order); returns how many changed and the sum of changes."""
    packing = PACKINGS[file.format]
    per_block = len(packing.pieces)
    changed = total = at = 0
    with copy.open("r+b") as handle:
        while at < flat.size:
            end = int(np.searchsorted(flat, flat[at] + _STEP_SAMPLES))
            first, last = packing.span(int(flat[at]), int(flat[end - 1]) + 1)
            handle.seek(file.byte_offset + first)
            raw = handle.read(last - first)
            origin = first // packing.block_bytes * per_block
            raw, before = repack(raw, packing, flat[at:end] - origin, digital[at:end])
            handle.seek(file.byte_offset + first)
            handle.write(raw)
            changed += int(np.count_nonzero(before != digital[at:end]))
            total += int((digital[at:end] - before).sum())
            at = end
    return changed, total


def _update_headers(recording: WfdbRecording, scratch: dict[Path, Path], tally: _Tally) -> None:
    headers = {part.segment.path: part.segment.header for part in recording.parts}
    for path, sums in tally.sums.items():
        checksums = {
            signal: _moved(old, total, headers[path])
            for signal, total in sums.items()
            if (old := headers[path].signals[signal].checksum) is not None and total % 65536
        }
        copy = scratch[path]
        copy.write_bytes(with_fields(copy.read_bytes(), tally.firsts.get(path, {}), checksums))


def _moved(checksum: int, total: int, header: Header) -> int:
    """A 16-bit checksum after the samples' sum grew by ``total``, signed or not as the header writes it."""
    # The WFDB C library writes -32768..32767, the Python library 0..65535; small numbers fit both.
    known = [line.checksum for line in header.signals if line.checksum is not None]
    unsigned = checksum > 32767 or (checksum >= 0 and max(known) > 32767)
    new = (checksum + total) % 65536
    return new if unsigned or new < 32768 else new - 65536
