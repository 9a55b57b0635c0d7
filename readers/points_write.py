"""Writing point clouds back: which elements change, what they become in the stored type, and the copy's way to its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from readers.schema import Patch, ReadError, Written

if TYPE_CHECKING:
    from readers.points_record import PointsRecording

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_COPY_BYTES = 1 << 22
_PLY_TYPES = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double",
}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """New values of one stored column: ``rows`` (K,) ascending, each once; ``values`` (K,)."""

    column: int
    rows: Int64
    values: Float64


@dataclass
class Tally:
    """What a write did so far; ``kept``: NaN meant for a column of integers, by its name."""

    changed: int = 0
    clipped: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def keep(self, name: str, count: int) -> None:
        """Count values that the column cannot hold."""
        if count:
            self.kept[name] = self.kept.get(name, 0) + count


def write_points(recording: PointsRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Write a copy of the file at ``path`` in which the patched elements change and every other byte stays.

    A value is brought to the stored type: rounded and limited where it is an integer, limited where it is a
    shorter float. Integers for which NaN is given stay, and a note names them. ``changed`` counts elements whose
    stored value became another one. Raises ReadError for the file itself, another suffix, a patch outside the
    cloud and a failing disk.
    """
    if path.suffix.lower() != recording.path.suffix.lower():
        raise ReadError(
            f"the copy of {recording.path.name} has to end in {recording.path.suffix}, not {path.suffix or 'nothing'}"
        )
    if path.resolve() == recording.path.resolve():
        raise ReadError(f"the copy of {recording.path.name} cannot take its place; give it another name or folder")
    edits = [_edit(recording, patch) for patch in patches]
    part = path.with_name(path.name + ".part")
    tally = Tally()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with np.errstate(over="ignore", invalid="ignore"):
            recording.table.copy(part, [edit for edit in edits if edit.rows.size], tally)
        os.replace(part, path)
    except OSError as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    kept = (f"{count} values of {name} are NaN, which its integers cannot hold; they stay" for name, count in tally.kept.items())
    return Written(path, tally.changed, tally.clipped, (*tally.notes, *kept))


def _edit(recording: PointsRecording, patch: Patch) -> Edit:
    if not 0 <= patch.channel < len(recording.channels):
        raise ReadError(f"{recording.path.name} has no channel {patch.channel}; it has {len(recording.channels)}")
    name, rows = recording.channels[patch.channel].name, recording.table.rows
    if patch.index.shape != patch.values.shape or patch.index.ndim != 1:
        raise ReadError(f"a patch of {name} has {patch.index.shape} indices and {patch.values.shape} values")
    if patch.index.size and not (patch.index.min() >= 0 and patch.index.max() < rows):
        raise ReadError(f"a patch of {name} lies outside the {rows} points of {recording.path.name}")
    # Where an index is given twice, the last one counts.
    index, last = np.unique(patch.index[::-1], return_index=True)
    return Edit(recording.order[patch.channel], index, np.asarray(patch.values, np.float64)[::-1][last])


def in_type(values: Float64, dtype: np.dtype[Any], limits: tuple[float, float]) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
    """Values in a stored type: (array, which of them it can hold, how many were limited)."""
    if dtype.kind == "f":
        high = float(np.finfo(dtype).max)
        limited = np.where(np.isfinite(values), np.clip(values, -high, high), values)
        return limited.astype(dtype), np.ones(values.shape, bool), int(np.count_nonzero(np.abs(values - limited) > 0))
    unknown = np.isnan(values)
    wanted = np.rint(np.where(unknown, 0.0, values))
    # float64 has no 2**63 - 1: the largest value below it.
    high = limits[1] if limits[1] < 2.0**53 else float(np.nextafter(limits[1], 0))
    limited = np.clip(wanted, limits[0], high)
    return limited.astype(dtype), ~unknown, int(np.count_nonzero(limited != wanted))


def integer_limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Smallest and largest value of an integer type; (0, 1) of bool, unbounded for floats."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind == "f":
        return -np.inf, np.inf
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)


def copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copy the next ``count`` bytes in blocks; fewer where the source ends."""
    while count > 0:
        block = source.read(min(count, _COPY_BYTES))
        if not block:
            return
        target.write(block)
        count -= len(block)


def create_ply(
    path: Path,
    columns: Mapping[str, NDArray[Any]],
    *,
    encoding: str = "binary_little_endian",
    comments: Sequence[str] = (),
) -> Path:
    """Write a new PLY file of vertices; ``columns``: name to values (N,), whose types are kept (float16 and 64-bit
    integers, which PLY has not, become float and double).

    ``encoding``: ``ascii``, ``binary_little_endian`` or ``binary_big_endian``. Returns the path. Raises ReadError for
    columns of different lengths and without x, y, z.
    """
    arrays = {name: _for_ply(np.asarray(values)) for name, values in columns.items()}
    lengths = {len(values) for values in arrays.values()}
    if len(lengths) != 1 or not {"x", "y", "z"} <= set(arrays):
        raise ReadError(
            f"{path.name} needs columns x, y, z of one length, not {', '.join(arrays) or 'none'} of {sorted(lengths)}"
        )
    rows = lengths.pop()
    lines = ["ply", f"format {encoding} 1.0", *(f"comment {text}" for text in comments), f"element vertex {rows}"]
    lines += [f"property {_PLY_TYPES[values.dtype.str[1:]]} {name}" for name, values in arrays.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write("\n".join([*lines, "end_header", ""]).encode())
        if encoding == "ascii":
            texts = [[str(value) for value in values] for values in arrays.values()]
            file.write("".join(" ".join(row) + "\n" for row in zip(*texts, strict=True)).encode())
        else:
            order = ">" if encoding == "binary_big_endian" else "<"
            table = np.empty(rows, [(name, order + values.dtype.str[1:]) for name, values in arrays.items()])
            for name, values in arrays.items():
                table[name] = values
            table.tofile(file)
    os.replace(part, path)
    return path


def _for_ply(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.str[1:] in _PLY_TYPES:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)
