"""The stored samples of one WFDB segment: its header, its signal files, and reading a span of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.schema import ReadError
from readers.wfdb_header import Header, SignalLine, parse_header
from readers.wfdb_matlab import check_matlab
from readers.wfdb_packing import PACKINGS, Int64, unpack

Float64 = NDArray[np.float64]
FLAC_INVALID = {"508": -(1 << 7), "516": -(1 << 15), "524": -(1 << 23)}
NOT_STORED = "~"  # file name of a signal (or segment) that stores nothing
_BLOCK_SAMPLES = 1_000_000


@dataclass(frozen=True)
class SignalFile:
    """One signal file: its signals (numbers in the header) and where they begin within a frame."""

    path: Path
    format: str
    byte_offset: int
    signals: tuple[int, ...]
    places: tuple[int, ...]
    frame_samples: int


@dataclass(frozen=True)
class Segment:
    """A single-segment record, or one segment of a larger one; ``n_frames`` counts its frames."""

    path: Path
    header: Header
    files: tuple[SignalFile, ...]
    n_frames: int

    def physical(self, signals: Sequence[int], start: int, stop: int) -> dict[int, Float64]:
        """Physical values of frames start..stop of each signal, skew undone, NaN for what is not stored."""
        values: dict[int, Float64] = {}
        for file in self.files:
            wanted = [signal for signal in file.signals if signal in signals]
            if wanted:
                values |= self._physical_of(file, wanted, start, stop)
        for signal in set(signals) - set(values):
            values[signal] = np.full((stop - start) * self.header.signals[signal].samples_per_frame, np.nan)
        return values

    def _physical_of(self, file: SignalFile, wanted: Sequence[int], start: int, stop: int) -> dict[int, Float64]:
        skews = [self.header.signals[signal].skew for signal in wanted]
        first = min(start + min(skews), self.n_frames)
        last = min(stop + max(skews), self.n_frames)
        stored = self.stored(file, first, last)
        values = {}
        for signal, skew in zip(wanted, skews, strict=True):
            line = self.header.signals[signal]
            per_frame = line.samples_per_frame
            part = stored[signal][(start + skew - first) * per_frame : (stop + skew - first) * per_frame]
            out = np.full((stop - start) * per_frame, np.nan)
            out[: part.size] = (part - line.baseline) / line.gain
            invalid = invalid_value(line)
            if invalid is not None:
                out[: part.size][part == invalid] = np.nan
            values[signal] = out
        return values

    def stored(self, file: SignalFile, start: int, stop: int) -> dict[int, Int64]:
        """Stored integers of frames start..stop of every signal of a file, in file order, skew not undone."""
        if file.format in FLAC_INVALID:
            return self._stored_in_flac(file, start, stop)
        frames = _flat(file, start, stop).reshape(stop - start, file.frame_samples)
        base = self._before(file, start) if PACKINGS[file.format].differences else {}
        stored = {}
        for signal, place in zip(file.signals, file.places, strict=True):
            samples = frames[:, place : place + self.header.signals[signal].samples_per_frame].reshape(-1)
            stored[signal] = np.cumsum(samples) + base[signal] if base else samples
        return stored

    def _before(self, file: SignalFile, stop: int) -> dict[int, int]:
        """Format 8 stores differences: the value of each signal just before frame ``stop``."""
        base = {signal: self.header.signals[signal].initial or 0 for signal in file.signals}
        for start, end in blocks(stop, file.frame_samples):
            frames = _flat(file, start, end).reshape(end - start, file.frame_samples)
            for signal, place in zip(file.signals, file.places, strict=True):
                per_frame = self.header.signals[signal].samples_per_frame
                base[signal] += int(frames[:, place : place + per_frame].sum())
        return base

    def _stored_in_flac(self, file: SignalFile, start: int, stop: int) -> dict[int, Int64]:
        if stop <= start:
            return {signal: np.empty(0, np.int64) for signal in file.signals}
        import wfdb

        try:
            record = wfdb.rdrecord(
                str(self.path.with_suffix("")),
                sampfrom=start,
                sampto=stop,
                channels=list(file.signals),
                physical=False,
                smooth_frames=False,
                ignore_skew=True,
            )
        except Exception as error:  # of wfdb, soundfile or the codec
            raise ReadError(f"{file.path.name} cannot be read: {error}") from error
        return {signal: np.asarray(d, np.int64) for signal, d in zip(file.signals, record.e_d_signal, strict=True)}


def invalid_value(line: SignalLine) -> int | None:
    """The stored integer that stands for "no value" in a signal's format."""
    packing = PACKINGS.get(line.format)
    return FLAC_INVALID[line.format] if packing is None else packing.invalid


def blocks(n_frames: int, frame_samples: int) -> Iterator[tuple[int, int]]:
    """Spans of frames that cover 0..n_frames, each of about a million samples."""
    step = max(1, _BLOCK_SAMPLES // frame_samples)
    for start in range(0, n_frames, step):
        yield start, min(start + step, n_frames)


def read_header(path: Path) -> Header:
    """Read and parse a header file. Raises ReadError."""
    try:
        return parse_header(path.read_bytes(), path.name)
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror}") from error


def open_segment(path: Path, header: Header, claimed: int | None) -> tuple[Segment, list[str]]:
    """Check the signal files of a header against it; no sample is read.

    ``claimed``: frames that the record takes of it; None: deduced from the files. Returns the segment and
    warnings. Raises ReadError for a missing, unknown or short signal file.
    """
    files = _signal_files(path, header)
    held = {file.path.name: _frames_held(file, path) for file in files}
    if claimed is None:
        known = [frames for frames, _ in held.values() if frames is not None]
        if not known:
            raise ReadError(f"{path.name} states no length, and its signal files do not tell it")
        claimed = min(known)
    warnings = []
    for file in files:
        frames, size = held[file.path.name]
        if frames is None:
            continue
        if frames < claimed:
            raise ReadError(f"{file.path.name} holds {frames} of the {claimed} samples its header claims")
        end = file.byte_offset + PACKINGS[file.format].span(0, claimed * file.frame_samples)[1]
        if size > end and header.n_frames is not None:
            warnings.append(f"{file.path.name} is longer than its header claims ({frames} samples, not {claimed})")
    return Segment(path, header, files, claimed), warnings


def _signal_files(path: Path, header: Header) -> tuple[SignalFile, ...]:
    by_name: dict[str, list[int]] = {}
    for signal, line in enumerate(header.signals):
        if line.file != NOT_STORED:
            by_name.setdefault(line.file, []).append(signal)
    files = []
    for name, signals in by_name.items():
        lines = [header.signals[signal] for signal in signals]
        formats = {line.format for line in lines}
        if len(formats) > 1 or not formats <= {*PACKINGS, *FLAC_INVALID}:
            raise ReadError(f"{path.name} gives {name} the format {' and '.join(sorted(formats))}, which is not readable")
        sizes = [line.samples_per_frame for line in lines]
        places = tuple(sum(sizes[:k]) for k in range(len(sizes)))
        offset = lines[0].byte_offset
        files.append(SignalFile(path.parent / name, lines[0].format, offset, tuple(signals), places, sum(sizes)))
    return tuple(files)


def _frames_held(file: SignalFile, header_path: Path) -> tuple[int | None, int]:
    """Whole frames in a signal file (None for FLAC, whose size does not tell) and its size in bytes."""
    if not file.path.is_file():
        gone = "no file" if file.path.exists() else "missing"
        raise ReadError(f"{file.path.name}, named by {header_path.name}, is {gone}")
    try:
        size = file.path.stat().st_size
        check_matlab(file.path, file.format, file.byte_offset, file.frame_samples)
    except OSError as error:
        raise ReadError(f"{file.path.name} cannot be read: {error.strerror}") from error
    if file.format in FLAC_INVALID:
        return None, size
    return PACKINGS[file.format].samples_in(size - file.byte_offset) // file.frame_samples, size


def _flat(file: SignalFile, start: int, stop: int) -> Int64:
    """All samples of frames start..stop in file order."""
    packing = PACKINGS[file.format]
    first, last = start * file.frame_samples, stop * file.frame_samples
    begin, end = packing.span(first, last)
    try:
        with file.path.open("rb") as handle:
            handle.seek(file.byte_offset + begin)
            raw = handle.read(end - begin)
    except OSError as error:
        raise ReadError(f"{file.path.name} cannot be read: {error.strerror}") from error
    skip = first % len(packing.pieces)
    if packing.samples_in(len(raw)) < skip + last - first:
        raise ReadError(f"{file.path.name} ends before sample {stop}")
    return unpack(raw, packing, skip, last - first)
