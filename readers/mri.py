"""MRI volumes: the reader for NIfTI-1, NIfTI-2 and Analyze 7.5, one file a contrast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from readers.mri_names import groups_of, ids_of, parts_of
from readers.mri_write import write_nifti
from readers.nifti_header import looks_like_header
from readers.nifti_store import NiftiVolume, data_file, open_volume
from readers.schema import Axes, Channel, Event, Patch, ReadError, Recording, Written
from readers.volume_grid import STEP_VOXELS, Float64, Size
from readers.volumes import VolumeRecording, describe_grids

# Integers up to this are exact in float32.
_EXACT = 2**24


class NiftiRecording(VolumeRecording):
    """One volume, or the contrasts of one session, each in a file of its own; the first is the handle."""

    format = "nifti"
    domain = "mri"

    def __init__(self, path: Path, parts: Sequence[Path] = ()) -> None:
        """Read and check the headers of ``path`` and ``parts``, in this order; no voxel is read. Raises ReadError."""
        self.path = path
        self.volumes: tuple[NiftiVolume, ...] = tuple(open_volume(Path(p)) for p in (path, *parts))
        self.channels = tuple(_channel(volume) for volume in self.volumes)
        first = self.volumes[0].header
        self.axes = Axes(
            shape=first.shape,
            spacing_mm=first.spacing_mm,
            orientation=_axis_codes(np.array(first.affine)),
            affine=first.affine,
            unit="mm",
        )
        self.ids = ids_of(path)
        several = len(self.volumes) > 1
        notes = [(v.path.name, note) for v in self.volumes for note in (*v.header.warnings, *_beside(v))]
        grids = [self._turned(channel) for channel in range(len(self.volumes))]
        self.warnings = (*(f"{name}: {note}" if several else note for name, note in notes), *describe_grids(self, grids))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NiftiRecording) and self.volumes == other.volumes

    def __hash__(self) -> int:
        return hash(self.volumes)

    @property
    def events(self) -> Sequence[Event]:
        """None: a volume has no time."""
        return ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of every contrast, the handle first."""
        return tuple(dict.fromkeys(file for volume in self.volumes for file in volume.files))

    def shape_of(self, channel: int) -> Size:
        """Stored shape of a contrast."""
        return self.volumes[channel].header.shape

    def affine_of(self, channel: int) -> Float64:
        """Affine (4, 4) from a contrast's stored voxel indices to RAS mm."""
        return np.array(self.volumes[channel].header.affine)

    def verify(self) -> tuple[str, ...]:
        """Read every voxel; name what is not finite, a volume of one value, integers that float32 rounds, damage."""
        problems: list[str] = []
        for volume in self.volumes:
            try:
                problems += [f"{volume.data.name} {problem}" for problem in _disagreements(volume)]
            except ReadError as error:
                problems.append(str(error))
        return tuple(problems)

    def _native(self, channel: int, start: Size, stop: Size) -> Float64:
        return self.volumes[channel].values(start, stop)


class NiftiReader:
    """NIfTI-1, NIfTI-2 and Analyze 7.5 volumes; a pair is handled by its .hdr file."""

    name = "nifti"
    domains: tuple[str, ...] = ("mri",)
    suffixes: tuple[str, ...] = (".nii", ".nii.gz", ".hdr")
    companions: tuple[str, ...] = (".img", ".img.gz")
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether a .hdr, which other formats use too, begins a header; .nii is no one else's, damaged or not."""
        return path.suffix.lower() != ".hdr" or looks_like_header(head)

    def members(self, path: Path) -> Iterator[Path]:
        """The .img of a pair."""
        with suppress(ReadError):  # a pair without its .img says so when it is opened
            if (data := data_file(path)) != path:
                yield data

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Contrasts of one session, told by their names; see ``mri_names.groups_of``."""
        return groups_of(paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a volume, with the other contrasts of its session. Raises ReadError."""
        return NiftiRecording(path, parts)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched voxels; see ``mri_write.write_nifti``. Raises ReadError."""
        assert isinstance(recording, NiftiRecording)
        return write_nifti(recording.volumes, [c.name for c in recording.channels], patches, path)


def _channel(volume: NiftiVolume) -> Channel:
    parts = parts_of(volume.path)
    return Channel(
        name=parts.word,
        canonical=parts.contrast,
        kind=parts.contrast,
        unit=None,
        si_factor=None,
        rate_hz=None,
        dtype=volume.header.dtype.name,
        low=volume.header.low,
        high=volume.header.high,
    )


def _axis_codes(affine: Float64) -> str:
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))


def _beside(volume: NiftiVolume) -> list[str]:
    """What lies beside a pair and is not read."""
    matrix = volume.path.with_suffix(".mat")
    if volume.header.version == "Analyze 7.5" and matrix.is_file():
        return [f"{matrix.name} beside it, which may move the volume, is not read"]
    return []


def _disagreements(volume: NiftiVolume) -> Iterator[str]:
    shape = volume.header.shape
    low, high, n_unknown, n_inexact = np.inf, -np.inf, 0, 0
    planes = max(STEP_VOXELS // (shape[0] * shape[1]), 1)
    for k in range(0, shape[2], planes):
        start, stop = (0, 0, k), (shape[0], shape[1], min(k + planes, shape[2]))
        block = volume.block(start, stop)
        values = volume.physical(block)
        known = values[np.isfinite(values)]
        n_unknown += values.size - known.size
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
        if volume.header.dtype.kind in "iu" and volume.header.dtype.itemsize > 2:
            n_inexact += int(np.count_nonzero(np.abs(block.astype(np.float64)) > _EXACT))
    if n_unknown:
        yield f"holds {n_unknown} voxels that are not finite"
    if n_inexact:
        yield f"holds {n_inexact} integers beyond {_EXACT}, which float32 rounds"
    if low == high:
        yield f"holds nothing but {low:g}"
    if not volume.compressed:
        spare = volume.data.stat().st_size - volume.header.offset - volume.header.nbytes
        if spare > 0:
            yield f"holds {spare} bytes after its last voxel"
