"""Decoding LAZ points in a process of its own: what damaged points do to the decoder ends that process only."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers import points_laz_child
from readers.schema import ReadError

INSTALL = "pip install 'masked-recordings[las]'"
BLOCK_BYTES = 1 << 23
# The processor time is limited to far less; a process that waits for its file or its turn takes longer.
_WALL_S = 600


@dataclass(frozen=True)
class Packed:
    """Compressed points: they begin at byte ``data`` and are described by ``packing``; ``stamp``: when the file changed."""

    path: Path
    stamp: int
    data: int
    packing: bytes
    row_bytes: int


def chunk_table(packed: Packed) -> NDArray[np.uint64]:
    """Points and bytes of every chunk (n, 2). Raises ReadError."""
    return np.frombuffer(_child(packed, "table"), "<u8").reshape(-1, 2)


# The windows of a file are mostly read one after the other, and a process for each would cost more than its points.
@lru_cache(maxsize=16)
def block(packed: Packed, first: int, count: int) -> bytes:
    """The records of ``count`` points from ``first`` on, at most about ``BLOCK_BYTES``. Raises ReadError."""
    raw = _child(packed, "points", first, count, packed.row_bytes)
    if len(raw) != count * packed.row_bytes:
        raise ReadError(f"{packed.path.name} gives {len(raw)} bytes for {count} points of {packed.row_bytes} bytes")
    return raw


def package(path: Path) -> Path:
    """The folder in which the decoder's package lies. Raises ReadError where it is not installed."""
    try:
        import lazrs
    except ImportError as error:
        raise ReadError(f"{path.name} is compressed (LAZ), which needs lazrs: {INSTALL}") from error
    return Path(lazrs.__file__).parents[1]


def _child(packed: Packed, *words: str | int) -> bytes:
    name = packed.path.name
    program = [sys.executable, "-I", "-S", points_laz_child.__file__]
    command = [*program, str(package(packed.path)), str(packed.data), packed.packing.hex(), *map(str, words)]
    try:
        with packed.path.open("rb") as file:
            done = subprocess.run(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_WALL_S)
    except subprocess.TimeoutExpired as error:
        raise ReadError(f"{name} cannot be decoded within {_WALL_S} s") from error
    except OSError as error:
        raise ReadError(f"{name} cannot be decoded: {error.strerror or error}") from error
    if done.returncode == 0:
        return done.stdout
    if done.returncode == points_laz_child.REFUSED:
        raise ReadError(f"{name} cannot be decoded: {done.stdout.decode('utf-8', 'replace')}")
    if done.returncode == -getattr(signal, "SIGXCPU", 0):
        raise ReadError(f"{name} cannot be decoded within {points_laz_child.CPU_S} s of processor time")
    raise ReadError(f"{name} cannot be decoded: its compressed points are damaged (the decoder crashed)")
