"""LZF, the compression of PCD files: expanding, and wrapping bytes so that any LZF program expands them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from readers.schema import ReadError

_RUN = 32


def expand_bytes(packed: bytes, size: int, name: str) -> bytes:
    """The ``size`` bytes that an LZF stream stands for. Raises ReadError; never makes more than ``size`` + 264 bytes."""
    out = bytearray()
    at, end = 0, len(packed)
    try:
        while at < end and len(out) <= size:
            control = packed[at]
            at += 1
            if control < _RUN:  # a literal run of control + 1 bytes
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            back = ((control & 31) << 8 | packed[at]) + 1
            at += 1
            length += 2
            start = len(out) - back
            if start < 0:
                raise ReadError(f"{name} has broken compressed data: it refers to bytes before its beginning")
            if back >= length:
                out += out[start : start + length]
            else:  # the copy runs into what it writes
                out += (out[start:] * (length // back + 1))[:length]
    except IndexError:
        raise ReadError(f"{name} has broken compressed data: it ends inside a reference") from None
    if len(out) != size or at > end:
        raise ReadError(f"{name} has broken compressed data: it expands to {len(out)} bytes, its header claims {size}")
    return bytes(out)


# One file is kept expanded: its windows are read one after the other, and each would cost the whole file.
@lru_cache(maxsize=1)
def expand(path: Path, stamp: int, at: int, packed: int, size: int) -> bytes:
    """The expanded data of a file that was changed at ``stamp``: ``packed`` bytes from ``at``. Raises ReadError."""
    with path.open("rb") as file:
        file.seek(at)
        return expand_bytes(file.read(packed), size, path.name)


def wrap(data: bytes) -> bytes:
    """An LZF stream of literal runs: a control byte before every 32 bytes."""
    whole = len(data) // _RUN * _RUN
    runs = bytearray(whole + whole // _RUN)
    for k in range(_RUN):
        runs[k + 1 :: _RUN + 1] = data[k:whole:_RUN]
    runs[:: _RUN + 1] = bytes([_RUN - 1]) * (whole // _RUN)
    rest = data[whole:]
    return bytes(runs) + (bytes([len(rest) - 1]) + rest if rest else b"")
