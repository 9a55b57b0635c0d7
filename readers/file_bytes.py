"""Bytes of files that may become shorter while they are read. Nothing is mapped: the process would end there."""

from __future__ import annotations

from errno import EIO
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.schema import ReadError

# Read at once where little is asked for: what follows is mostly asked for next.
_AHEAD_BYTES = 1 << 16


def fill(path: Path, file: BufferedIOBase, offset: int, found: NDArray) -> None:
    """Fill an array with what a file holds from ``offset`` bytes on. Raises ReadError where it ends before, and OSError."""
    file.seek(offset)
    held = file.readinto(found.reshape(-1).view(np.uint8).data) if found.size else 0
    if held < found.nbytes:
        raise ReadError(f"{path.name} became shorter: it holds {held} of {found.nbytes} bytes from byte {offset} on")


class Stretch:
    """Bytes of a file that are read when they are asked for, by slices; what follows a small slice is read with it."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        """``start`` and ``stop``: of the stretch in the file."""
        self._path, self._start, self._length = path, start, stop - start
        self._at, self._held = 0, b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        """The bytes of a slice. Raises OSError where the file has become shorter."""
        first, last, _ = part.indices(self._length)
        if not self._at <= first <= last <= self._at + len(self._held):
            wanted = min(max(last - first, _AHEAD_BYTES), self._length - first)
            with self._path.open("rb") as file:
                file.seek(self._start + first)
                held = file.read(wanted)
            if len(held) < wanted:
                raise OSError(EIO, f"it became shorter and ends at byte {self._start + first + len(held)}")
            if wanted > _AHEAD_BYTES:
                return held
            self._at, self._held = first, held
        return self._held[first - self._at : last - self._at]
