"""Cardiac recordings (ECG, PPG and what is recorded with them): the WFDB reader, and writing new records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.schema import Patch, ReadError, Recording, Written
from readers.wfdb_header import Header, looks_like_header
from readers.wfdb_notes import ANNOTATORS
from readers.wfdb_record import WfdbRecording
from readers.wfdb_store import NOT_STORED, read_header
from readers.wfdb_write import write_wfdb


class WfdbReader:
    """WFDB records (PhysioNet), handled by their .hea file."""

    name = "wfdb"
    domains: tuple[str, ...] = ("cardiac",)
    suffixes: tuple[str, ...] = (".hea",)
    companions: tuple[str, ...] = (".dat", ".xyz", ".mat", ".flac", *(f".{annotator}" for annotator in ANNOTATORS))
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the first bytes read as a WFDB header; an empty file is claimed, to be reported as empty."""
        return not head.strip() or looks_like_header(head)

    def members(self, path: Path) -> Iterator[Path]:
        """Files that a header names: signal files, segment headers and their signal files. Reads headers only."""
        header = _parsed(path)
        if header is None:
            return
        yield from _signal_files(path, header)
        for name in dict.fromkeys(name for name, _ in header.segments if name not in (NOT_STORED, path.stem)):
            segment = path.parent / f"{name}.hea"
            yield segment
            if (inner := _parsed(segment)) is not None:
                yield from _signal_files(segment, inner)

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every record stands alone."""
        yield from ((path,) for path in paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a record. Raises ReadError."""
        return WfdbRecording(path)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched samples; see ``wfdb_write.write_wfdb``. Raises ReadError."""
        assert isinstance(recording, WfdbRecording)
        return write_wfdb(recording, patches, path)


def _parsed(path: Path) -> Header | None:
    try:
        return read_header(path)
    except ReadError:
        return None  # reported when the record is opened


def _signal_files(path: Path, header: Header) -> list[Path]:
    return [path.parent / name for name in dict.fromkeys(line.file for line in header.signals) if name != NOT_STORED]


def create_wfdb(
    folder: Path,
    name: str,
    signals: NDArray[np.float64],
    *,
    rate_hz: float,
    names: Sequence[str],
    units: Sequence[str],
    comments: Sequence[str] = (),
    annotations: Sequence[tuple[float, str]] | None = None,
) -> Path:
    """Write a new record of format 16; ``signals`` (T, C) in the given units, NaN where there is no value.

    Each channel gets the gain and baseline that spread its range over 40000 of the 65535 steps.
    ``annotations``: (seconds, WFDB symbol), written as .atr. Returns the header's path. Raises what the
    wfdb library raises for a name, unit or symbol that the format cannot hold.
    """
    import wfdb

    signals = np.asarray(signals, np.float64)
    scales = [_scale(signals[:, c]) for c in range(signals.shape[1])]
    gains, baselines = [gain for gain, _ in scales], [baseline for _, baseline in scales]
    digital = np.clip(np.rint(signals * gains + baselines), -32767, 32767)
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=rate_hz,
        units=list(units),
        sig_name=list(names),
        d_signal=np.where(np.isnan(digital), -32768, digital).astype(np.int64),
        fmt=["16"] * len(scales),
        adc_gain=gains,
        baseline=baselines,
        comments=list(comments) or None,
        write_dir=str(folder),
    )
    if annotations:
        marks = sorted(annotations)
        samples = np.array([round(onset * rate_hz) for onset, _ in marks], np.int64)
        wfdb.wrann(name, "atr", samples, symbol=[symbol for _, symbol in marks], fs=rate_hz, write_dir=str(folder))
    return folder / f"{name}.hea"


def _scale(values: NDArray[np.float64]) -> tuple[float, int]:
    """Gain (stored units per physical unit) and baseline for one channel, with room for larger values."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return 200.0, 0
    low, high = float(known.min()), float(known.max())
    if low == high:
        return float(f"{min(16_000 / abs(low), 1e12):.6g}") if low else 200.0, 0
    middle = (high + low) / 2
    # The baseline has to fit the C library's 32 bits.
    gain = float(f"{min(40_000 / (high - low), 2e9 / max(abs(middle), 1e-300)):.6g}")
    return gain, round(-gain * middle)
