"""BrainVision recordings (.vhdr, .vmrk and binary data): the recording and its reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from readers.brainvision_header import Header, read_header, read_markers
from readers.eeg_matrix import Block, Layout, MatrixRecording
from readers.electrodes import identify
from readers.leads import si_factor
from readers.schema import Channel, Event, Patch, ReadError, Recording, Written

# Of a channel whose line has no unit; ``n/a`` says that it has none.
DEFAULT_UNIT = "µV"


class BrainVisionRecording(MatrixRecording):
    """A BrainVision recording: channels of one rate in one binary file."""

    format = "brainvision"

    def __init__(self, path: Path) -> None:
        """Parse header and markers and check the data file's size; no sample is read. Raises ReadError."""
        self.path = path
        self.header = header = read_header(path)
        notes: list[str] = []
        self.layout = _layout(path, header, notes)
        self.gains = tuple(line.resolution for line in header.channels)
        self.markers = header.markers
        if header.markers and not header.markers.is_file():
            sibling = path.with_suffix(".vmrk")
            self.markers = sibling if sibling.is_file() else None
            notes.append(f"{header.markers.name} is missing: {'its markers are' if self.markers is None else 'took'} "
                         f"{'not there' if self.markers is None else sibling.name}")  # fmt: skip
        events: list[Event] = []
        date = None
        if self.markers:
            events, date, odd = read_markers(self.markers, header.rate_hz, [line.name for line in header.channels])
            if odd:
                notes.append(f"{odd} lines of {self.markers.name} are no markers")
        self._describe(_channels(header), events, date, {}, notes)

    @property
    def files(self) -> tuple[Path, ...]:
        """Header, data, markers."""
        return (self.path, self.header.data, *([self.markers] if self.markers else []))


def _layout(path: Path, header: Header, notes: list[str]) -> Layout:
    data, n_channels, dtype = header.data, len(header.channels), np.dtype(header.dtype)
    if not data.is_file():
        raise ReadError(f"{data.name}, named by {path.name}, is {'no file' if data.exists() else 'missing'}")
    n_bytes, per_sample = data.stat().st_size, n_channels * dtype.itemsize
    n_samples = n_bytes // per_sample
    if n_samples == 0:
        raise ReadError(f"{data.name} holds {n_bytes} bytes, less than one sample of {n_channels} channels")
    claimed = header.n_points or n_samples
    if not header.multiplexed and claimed > n_samples:
        raise ReadError(f"{data.name} holds {n_samples} samples of {n_channels} channels, {path.name} claims {claimed}")
    if claimed != n_samples:
        notes.append(f"{path.name} claims {claimed} samples, {data.name} holds {n_samples}")
    if n_bytes % per_sample:
        notes.append(f"{data.name} ends in the middle of a sample")
    if not header.multiplexed:
        n_samples = claimed
    return Layout((Block(data, 0, 0, n_samples),), dtype, n_channels, header.multiplexed)


def _channels(header: Header) -> list[Channel]:
    units = [None if line.unit == "n/a" else line.unit or DEFAULT_UNIT for line in header.channels]
    identities = identify([line.name for line in header.channels], units)
    found = []
    for number, (line, unit, identity) in enumerate(zip(header.channels, units, identities, strict=True)):
        place, frame, source = identity.position, identity.position_frame, identity.position_source
        # Coordinates of radius 1 are a drawing of the cap; a named electrode has a better place.
        if place is None and number in header.places and identity.kind == "eeg":
            place, frame, source = header.places[number], "head", "file (unit sphere)"
        found.append(
            Channel(
                name=line.name,
                canonical=identity.canonical,
                kind=identity.kind,
                unit=unit,
                si_factor=si_factor(unit),
                rate_hz=header.rate_hz,
                position=place,
                position_frame=frame,
                position_source=source,
                reference=identity.reference or line.reference,
                dtype=np.dtype(header.dtype).name,
            )
        )
    return found


class BrainVisionReader:
    """BrainVision files, handled by their .vhdr."""

    name = "brainvision"
    domains: tuple[str, ...] = ("eeg", "cardiac")
    suffixes: tuple[str, ...] = (".vhdr",)
    companions: tuple[str, ...] = (".eeg", ".vmrk", ".dat")
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """True: the suffix is no other format's, and a file that is damaged is reported with its reason."""
        return True

    def members(self, path: Path) -> Iterator[Path]:
        """Data and marker file. Reads the header only."""
        try:
            header = read_header(path)
        except ReadError:
            return  # reported when the recording is opened
        yield header.data
        if header.markers:
            yield header.markers

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every recording stands alone."""
        return ((path,) for path in paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a recording. Raises ReadError."""
        return BrainVisionRecording(path)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched samples; see ``brainvision_write``. Raises ReadError."""
        from readers.brainvision_write import write_brainvision

        assert isinstance(recording, BrainVisionRecording)
        return write_brainvision(recording, patches, path)
