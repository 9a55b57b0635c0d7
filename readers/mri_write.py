"""A faithful copy of NIfTI volumes in which only the patched voxels change."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from readers.mri_names import ENDINGS
from readers.nifti_header import NiftiHeader
from readers.nifti_store import CHUNK_BYTES, SLACK_BYTES, NiftiVolume, opened, reading, voxel_chunks
from readers.schema import Patch, ReadError, Written

Int64 = NDArray[np.int64]


@dataclass
class _Tally:
    """What the patches did; ``kept``: of each channel, NaN that an integer file cannot hold."""

    changed: int = 0
    clipped: int = 0
    kept: dict[str, int] = field(default_factory=dict)


def write_nifti(volumes: Sequence[NiftiVolume], names: Sequence[str], patches: Sequence[Patch], path: Path) -> Written:
    """Copy the first volume to ``path`` and every other beside it under its own name, with patched voxels changed.

    An integer voxel becomes round((value - inter) / slope), limited to its type; NaN leaves it as it is. Header,
    extensions and every other voxel keep their bytes; a compressed file is compressed anew, without name and time. The
    first volume comes last, so a copy that was cut short does not look finished. Memory does not grow with the volumes.
    Raises ReadError for a path with another ending, a target that is one of the recording's own files, a patch outside
    its contrast, a damaged file, and a failing disk.
    """
    path = Path(path)
    for patch in patches:
        _check(volumes, names, patch)
    targets = _targets(volumes, path)
    tally = _Tally()
    scratch: dict[Path, Path] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for channel in reversed(range(len(volumes))):
            mine = [patch for patch in patches if patch.channel == channel]
            for source, target in reversed(targets[channel]):
                scratch[target] = target.with_name(f"{target.name}.part")
                if source == volumes[channel].data and mine:
                    _patched_copy(volumes[channel], names[channel], mine, scratch[target], tally)
                else:
                    shutil.copyfile(source, scratch[target])
        for target, part in scratch.items():
            os.replace(part, target)
    except OSError as error:
        raise ReadError(f"the copy of {volumes[0].path.name} cannot be written: {error.strerror or error}") from error
    finally:
        for part in scratch.values():
            part.unlink(missing_ok=True)
    notes = tuple(
        f"{count} voxels of {name} were to be NaN, which the file cannot hold, and stay" for name, count in tally.kept.items()
    )
    return Written(path, tally.changed, tally.clipped, notes)


def _check(volumes: Sequence[NiftiVolume], names: Sequence[str], patch: Patch) -> None:
    if not 0 <= patch.channel < len(volumes):
        raise ReadError(f"{volumes[0].path.name} has no channel {patch.channel}")
    name, voxels = names[patch.channel], volumes[patch.channel].header.voxels
    if patch.index.shape != patch.values.shape or patch.index.ndim != 1:
        raise ReadError(f"a patch of {name} has {patch.index.shape} indices and {patch.values.shape} values")
    if patch.index.size and not (patch.index.min() >= 0 and patch.index.max() < voxels):
        raise ReadError(f"a patch of {name} lies outside its {voxels} voxels")


def _targets(volumes: Sequence[NiftiVolume], path: Path) -> list[list[tuple[Path, Path]]]:
    """For each volume its files, (source, target), the handle first."""
    own = {file.resolve() for volume in volumes for file in volume.files}
    found = []
    for k, volume in enumerate(volumes):
        handle = path if k == 0 else path.parent / volume.path.name
        ending = next(e for e in ENDINGS if volume.path.name.lower().endswith(e))
        if not handle.name.lower().endswith(ending):
            raise ReadError(f"the copy of {volume.path.name} has to end in {ending}, not be called {handle.name}")
        files = [(volume.path, handle)]
        if volume.data != volume.path:
            rest = volume.data.name[len(volume.path.stem) :]
            files.append((volume.data, handle.with_name(handle.stem + rest)))
        found.append(files)
    targets = [target for files in found for _, target in files]
    if len(set(targets)) < len(targets):
        raise ReadError(f"the copy of {volumes[0].path.name} cannot be called {path.name}, as another contrast is")
    if own & {target.resolve() for target in targets}:
        raise ReadError(f"the copy of {volumes[0].path.name} would replace the recording's own files in {path.parent}")
    return found


def _patched_copy(volume: NiftiVolume, name: str, patches: Sequence[Patch], target: Path, tally: _Tally) -> None:
    header = volume.header
    # Where an index is given twice, the last one counts.
    index = np.concatenate([patch.index for patch in patches])[::-1]
    values = np.concatenate([np.asarray(patch.values, np.float64) for patch in patches])[::-1]
    place, last = np.unique(_file_order(index, header), return_index=True)
    voxels, given, clipped = _to_stored(values[last], header)
    place, voxels = place[given], voxels[given]
    tally.clipped += clipped
    if not given.all():
        tally.kept[name] = tally.kept.get(name, 0) + int(np.count_nonzero(~given))
    done = 0
    with reading(volume.data), opened(volume.data) as source, _created(target, volume.compressed) as copy:
        _pass_on(volume, source, copy, header.offset)
        for chunk in voxel_chunks(volume, source):
            held = np.frombuffer(chunk, header.dtype)
            lo, hi = np.searchsorted(place, [done, done + held.size])
            at = place[lo:hi] - done
            bits = f"V{header.dtype.itemsize}"
            before = held[at].view(bits)
            held[at] = voxels[lo:hi]
            tally.changed += int(np.count_nonzero(before != voxels[lo:hi].view(bits)))
            copy.write(chunk)
            done += held.size
        _pass_on(volume, source, copy, None)


def _file_order(index: Int64, header: NiftiHeader) -> Int64:
    """Places in the file, first axis fastest, of indices that count the first axis slowest."""
    places = np.unravel_index(index, header.shape)
    return np.asarray(np.ravel_multi_index(places, header.shape, order="F"), np.int64)


def _to_stored(values: NDArray[np.float64], header: NiftiHeader) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
    """Stored voxels of physical values, which of them the type can hold, and how many had to be limited."""
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = (values - header.inter) / header.slope
    if header.dtype.kind == "f":
        low, high = float(np.finfo(header.dtype).min), float(np.finfo(header.dtype).max)
        finite = np.isfinite(values)
        limited = np.where(finite, np.clip(wanted, low, high), wanted)
        return limited.astype(header.dtype), np.ones(wanted.shape, bool), int(np.count_nonzero(finite & (limited != wanted)))
    given = ~np.isnan(wanted)
    wanted = np.rint(np.where(given, wanted, 0.0))
    low, high = float(np.iinfo(header.dtype).min), float(np.iinfo(header.dtype).max)
    if header.dtype.itemsize == 8:
        high = float(np.nextafter(high, 0))  # the largest float64 that the type holds
    limited = np.clip(wanted, low, high)
    return limited.astype(header.dtype), given, int(np.count_nonzero(limited != wanted))


@contextmanager
def _created(target: Path, compressed: bool) -> Iterator[IO[bytes]]:
    with target.open("wb") as raw:
        if not compressed:
            yield raw
            return
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file:
            yield file  # type: ignore[misc]  # typeshed's GzipFile is no IO


def _pass_on(volume: NiftiVolume, source: IO[bytes], copy: IO[bytes], count: int | None) -> None:
    """Copy ``count`` bytes as they are, or the rest."""
    left = SLACK_BYTES if count is None and volume.compressed else volume.stamp[0] if count is None else count
    while left and (chunk := source.read(min(left, CHUNK_BYTES))):
        copy.write(chunk)
        left -= len(chunk)
    if count is not None and left:
        raise ReadError(f"{volume.data.name} ends before its first voxel")
    if count is None and source.read(1):
        raise ReadError(f"{volume.data.name} decodes to more than {SLACK_BYTES} bytes after its last voxel")
