"""What every writer of signals does: check patches, put them in order, and write under temporary names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.schema import Patch, ReadError
from readers.signals import Float64, SignalRecording

Int64 = NDArray[np.int64]


def checked(recording: SignalRecording, patches: Sequence[Patch]) -> None:
    """Raise ReadError for a patch that is not of this recording."""
    for patch in patches:
        if not 0 <= patch.channel < len(recording.channels):
            raise ReadError(f"{recording.path.name} has no channel {patch.channel}")
        name, length = recording.channels[patch.channel].name, recording.stored(patch.channel)
        if patch.index.shape != patch.values.shape or patch.index.ndim != 1:
            raise ReadError(f"a patch of {name} has {patch.index.shape} indices and {patch.values.shape} values")
        if patch.index.size and not (patch.index.min() >= 0 and patch.index.max() < length):
            raise ReadError(f"a patch of {name} lies outside its {length} samples")


def last_values(patch: Patch) -> tuple[Int64, Float64]:
    """Indices in ascending order, and their values; where an index is given twice, the last one counts."""
    index, last = np.unique(patch.index[::-1], return_index=True)
    return index.astype(np.int64), np.asarray(patch.values, np.float64)[::-1][last]


class Scratch:
    """Files written under temporary names beside their places, put there together; what is left over is removed."""

    def __init__(self, sources: Sequence[Path]) -> None:
        """``sources`` must not be overwritten."""
        self._sources = {path.resolve() for path in sources}
        self._parts: dict[Path, Path] = {}

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts.values():
            part.unlink(missing_ok=True)

    def part(self, target: Path, source: Path | None = None) -> Path:
        """The temporary name for a target, holding a copy of ``source``. Raises ReadError where target is a source."""
        if target.resolve() in self._sources:
            raise ReadError(f"the copy would overwrite {target.name}, which belongs to the recording itself")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._parts[target] = target.with_name(f".{target.name}.part")
        if source:
            shutil.copyfile(source, self._parts[target])
        return self._parts[target]

    def finish(self) -> None:
        """Rename, in the order in which the parts were asked for: the handle last."""
        for target, part in list(self._parts.items()):
            os.replace(part, target)
            del self._parts[target]
