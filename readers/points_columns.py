"""What the columns of a point cloud are: kinds by name, kinds by looking at the numbers, and the offset of coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from readers.schema import Channel, ReadError

Float64 = NDArray[np.float64]

# Rows that an offset, and a guess what a column is, are taken from.
HEAD_ROWS = 512
# More columns than this are no point cloud (a spherical descriptor has 1344 and no x, y, z).
MAX_COLUMNS = 1024
# Coordinates below this keep a step of 0.001 in float32; larger ones lose more than that.
_LARGE = 1e4
_ROUND = 1000.0

_COLOURS = {
    "red": "red", "green": "green", "blue": "blue", "r": "red", "g": "green", "b": "blue",
    "diffuse_red": "red", "diffuse_green": "green", "diffuse_blue": "blue",
}  # fmt: skip
_NORMALS = {f"{prefix}{axis}": f"n{axis}" for prefix in ("n", "normal_", "normal") for axis in "xyz"}
_INTENSITY = ("intensity", "scalar_intensity", "reflectance", "i")


@dataclass(frozen=True)
class Column:
    """A column as the file stores it. ``kind`` and ``canonical`` as in ``Channel``; ``low``, ``high``: its range."""

    name: str
    dtype: str
    kind: str = "attribute"
    canonical: str = ""
    low: float | None = None
    high: float | None = None


def named(name: str, dtype: str) -> Column:
    """A column whose name says what it is. The range of a colour or intensity is that of its unsigned type."""
    plain = name.strip().lower()
    if plain in ("x", "y", "z"):
        return Column(name, dtype, "xyz", plain)
    if plain in _COLOURS:
        kind, canonical = "rgb", _COLOURS[plain]
    elif plain in _NORMALS:
        return Column(name, dtype, "normal", _NORMALS[plain], -1.0, 1.0)
    elif plain in _INTENSITY:
        kind, canonical = "intensity", "intensity"
    else:
        return Column(name, dtype, "attribute", plain)
    high = float(np.iinfo(dtype).max) if dtype in ("uint8", "uint16") else None
    return Column(name, dtype, kind, canonical, None if high is None else 0.0, high)


def guessed(head: Float64, dtype: str) -> tuple[Column, ...]:
    """Columns of an unnamed table (n, C) from its first rows: x, y, z and then what the numbers look like.

    The fourth of 4 or 7 columns is the intensity. Threes that follow are normals where they have length 1, colours
    where they are integers of 0..255, else plain attributes; two left over are attributes as well.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return tuple(_guessed(head, dtype))


def _guessed(head: Float64, dtype: str) -> list[Column]:
    count = head.shape[1]
    columns = [named(axis, dtype) for axis in "xyz"]
    if count in (4, 7):
        columns.append(named("intensity", dtype))
    while count - len(columns) >= 3:
        at = len(columns)
        three = head[:, at : at + 3]
        three = three[np.isfinite(three).all(1)]
        if _unit_length(three):
            columns += [named(name, dtype) for name in ("nx", "ny", "nz")]
        elif three.size and _are_bytes(three):
            stored = "uint8" if dtype == "float64" else dtype
            names = ("red", "green", "blue")
            columns += [replace(named(name, stored), low=0.0, high=255.0) for name in names]
        else:
            columns += [named(f"column {at + k + 1}", dtype) for k in range(3)]
    return columns + [named(f"column {at + 1}", dtype) for at in range(len(columns), count)]


def _unit_length(three: Float64) -> bool:
    return bool(three.size and (np.abs(np.linalg.norm(three, axis=1) - 1) < 1e-2).mean() > 0.95)


def _are_bytes(three: Float64) -> bool:
    return bool(((three >= 0) & (three <= 255) & (three == np.rint(three))).all() and three.max() > 1)


def axes_first(name: str, columns: Sequence[Column]) -> tuple[int, ...]:
    """Column numbers in the order of channels: x, y, z, then the rest in file order. Raises ReadError without x, y, z."""
    places = []
    for axis in "xyz":
        found = [k for k, column in enumerate(columns) if column.kind == "xyz" and column.canonical == axis]
        if not found:
            have = ", ".join(column.name for column in columns[:12]) or "none"
            raise ReadError(f"{name} has no column called {axis}, which a point cloud needs; it has {have}")
        places.append(found[0])
    return (*places, *(k for k in range(len(columns)) if k not in places))


def channel(column: Column, unit: str | None) -> Channel:
    """A column as a channel; ``unit`` of coordinates."""
    coordinate = column.kind == "xyz"
    return Channel(
        name=column.name,
        canonical=column.canonical or column.name,
        kind=column.kind,
        unit=unit if coordinate else None,
        si_factor=1.0 if coordinate and unit == "m" else None,
        rate_hz=None,
        dtype=column.dtype,
        low=column.low,
        high=column.high,
    )


def offset_of(head: Sequence[Float64], preferred: Sequence[float] | None = None) -> tuple[float, float, float]:
    """What to take from x, y, z so that float32 keeps them: from the first rows (``HEAD_ROWS``) of a cloud.

    Per axis the median m of the finite values decides: 0 where |m| < 10000; else ``preferred`` (the offset in a
    file's own header) where it leaves |m| < 10000; else m rounded down to a multiple of 1000.
    """
    found = []
    for axis, values in enumerate(head):
        finite = values[np.isfinite(values)]
        middle = float(np.median(finite)) if finite.size else 0.0
        own = 0.0 if preferred is None else float(preferred[axis])
        if not np.isfinite(middle):  # the mean of two middle values can overflow
            middle = float(finite[0])
        if abs(middle) < _LARGE:
            found.append(0.0)
        elif np.isfinite(own) and abs(middle - own) < _LARGE:
            found.append(own)
        else:
            found.append(float(np.floor(middle / _ROUND) * _ROUND))
    return found[0], found[1], found[2]
