"""The EEG formats that are read here and written as BrainVision: GDF and Neuroscan CNT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from readers.brainvision_write import create_brainvision
from readers.eeg_matrix import STEP
from readers.patching import checked, last_values
from readers.schema import FloatArray, Patch, ReadError, Recording, Written
from readers.signals import SignalRecording


class _BrainVisionInstead:
    """What the two readers share."""

    name: str
    domains: tuple[str, ...] = ("eeg", "cardiac")
    suffixes: tuple[str, ...]
    companions: tuple[str, ...] = ()
    copy_suffix: str | None = ".vhdr"

    def members(self, path: Path) -> Iterator[Path]:
        """None: everything is in the file."""
        return iter(())

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every recording stands alone."""
        return ((path,) for path in paths)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write the recording with patched samples as BrainVision, 32-bit floats; see ``write_as_brainvision``."""
        assert isinstance(recording, SignalRecording)
        return write_as_brainvision(recording, patches, path)


class GdfReader(_BrainVisionInstead):
    """GDF files."""

    name = "gdf"
    suffixes: tuple[str, ...] = (".gdf",)

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the file is no graph, whose format has the same suffix; one that is damaged is reported with its reason."""
        return not head.startswith(b"nodedef>")

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a recording. Raises ReadError."""
        from readers.gdf import GdfRecording

        return GdfRecording(path)


class CntReader(_BrainVisionInstead):
    """Neuroscan CNT files."""

    name = "cnt"
    suffixes: tuple[str, ...] = (".cnt",)

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the file begins as one of Neuroscan, or of ANT Neuro, which is refused with its reason."""
        return not head.strip(b"\0") or head[:7] == b"Version" or head[:4] == b"RIFF"

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a recording. Raises ReadError."""
        from readers.cnt import CntRecording

        return CntRecording(path)


def write_as_brainvision(recording: SignalRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Write a recording as BrainVision beside ``path``, in its own units, and say so in the notes.

    Samples that are not patched keep their float32 values. ``Written.clipped`` is 0: floats have no range to leave.
    Raises ReadError for channels of several rates, which BrainVision cannot hold.
    """
    checked(recording, patches)
    rates = {channel.rate_hz for channel in recording.channels}
    if len(rates) > 1 or recording.axes.rate_hz is None:
        raise ReadError(f"{recording.path.name} has channels of several rates, which BrainVision, its written form, cannot hold")
    target = Path(path).with_suffix(".vhdr")
    patched = [(patch.channel, *last_values(patch)) for patch in patches]
    n_samples, changed = recording.axes.shape[1], 0
    rows = max(STEP // len(recording.channels), 1)

    def blocks() -> Iterator[FloatArray]:
        nonlocal changed
        for start in range(0, n_samples, rows):
            stop = min(start + rows, n_samples)
            span = [(start, stop)] * len(recording.channels)
            with np.errstate(over="ignore", invalid="ignore"):
                block = np.stack(recording._native(range(len(recording.channels)), span)).astype(np.float32)
            for channel, index, values in patched:
                lo, hi = np.searchsorted(index, [start, stop])
                new = values[lo:hi].astype(np.float32)
                old = block[channel, index[lo:hi] - start]
                changed += int(np.count_nonzero(~((old == new) | (np.isnan(old) & np.isnan(new)))))
                block[channel, index[lo:hi] - start] = new
            yield block

    create_brainvision(
        target,
        blocks(),
        rate_hz=recording.axes.rate_hz,
        names=[channel.name for channel in recording.channels],
        units=[channel.unit for channel in recording.channels],
        events=recording.events,
        start_date=recording.axes.start_date,
        comment=f"Written from {recording.path.name}",
    )
    kind = recording.format.upper()
    return Written(target, changed, 0, (f"{kind} has no writer; {recording.path.name} is written as BrainVision {target.name}",))
