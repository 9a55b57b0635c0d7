"""The table of formats in the README: each cell is decided by the format's own library.

``python -m tests.readers.test_formats`` prints it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from readers import open_recording, write
from readers.schema import Box, Patch, PointsLike, ReadError, Recording, SignalLike, VolumeLike
from tests.format_rows import ROWS, Float64, Row, Truth

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- formats:begin -->\n", "<!-- formats:end -->"
N_PATCHED = 7
RELATIVE = 1e-12


def is_float32_of(got: NDArray[np.float32], want: Float64, relative: float) -> bool:
    """Whether these are the library's values as float32, and 0 where it has none."""
    known = np.isfinite(want)
    room = relative * np.abs(want[known]).max(initial=0.0)
    low, high = (want[known] - room).astype(np.float32), (want[known] + room).astype(np.float32)
    return got.shape == want.shape and bool(((got[known] >= low) & (got[known] <= high)).all() and not got[~known].any())


def channels_of(recording: Recording, truth: Truth) -> list[int]:
    """For each channel the library's number of it: points go by name, the rest by order."""
    if isinstance(recording, PointsLike):
        names = [c.name for c in recording.channels]
        assert sorted(names) == sorted(truth.header["names"])
        return [truth.header["names"].index(name) for name in names]
    assert len(recording.channels) == len(truth.values)
    return list(range(len(truth.values)))


def scales(recording: Recording, truth: Truth) -> list[float]:
    """What the library's values of each channel are divided by to be in the channel's unit."""
    return [c.si_factor or 1.0 if truth.header.get("si") else 1.0 for c in recording.channels]


def agrees(recording: Recording, truth: Truth) -> None:
    """The header: rate, names and units, or the grid."""
    if isinstance(recording, SignalLike):
        assert {c.rate_hz for c in recording.channels} == {recording.axes.rate_hz} == {truth.header["rate"]}
        assert recording.axes.shape == (len(truth.values), len(truth.values[0]))
        if "names" in truth.header:
            assert [c.name for c in recording.channels] == truth.header["names"]
        units = truth.header.get("units", [])
        if isinstance(units, list) and units:
            assert [c.unit for c in recording.channels] == units
    elif isinstance(recording, VolumeLike):
        assert recording.axes.shape == truth.header["shape"] and recording.channels[0].dtype == truth.header["type"]
        assert np.allclose(recording.affine_of(0), truth.header["affine"], rtol=RELATIVE, atol=RELATIVE)
        assert np.allclose(recording.grid()[1], truth.header["grid"], rtol=RELATIVE, atol=RELATIVE)
        assert np.allclose(recording.axes.spacing_mm or (), truth.header["spacing"], rtol=1e-6)  # float32 there
    else:
        assert recording.axes.points == len(truth.values[0])


def window_agrees(recording: Recording, truth: Truth, rng: np.random.Generator | None) -> None:
    """A random window, or everything, is the library's."""
    if isinstance(recording, VolumeLike):
        assert truth.grid is not None
        box = _random_box(truth.grid.shape, rng)
        spans = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        cube = recording.read(box)
        assert cube.valid.all() and is_float32_of(cube.values[0], truth.grid[spans], truth.relative)
        return
    length = len(truth.values[0])
    start, stop = (0, length) if rng is None else sorted(rng.choice(length + 1, 2, replace=False).tolist())
    order = channels_of(recording, truth)
    wanted = [truth.values[k][start:stop] / scale for k, scale in zip(order, scales(recording, truth), strict=True)]
    if isinstance(recording, SignalLike):
        window = recording.read(start, stop)
        assert np.array_equal(window.valid, np.isfinite(wanted))
        assert all(is_float32_of(got, want, truth.relative) for got, want in zip(window.values, wanted, strict=True))
        return
    assert isinstance(recording, PointsLike) and recording.axes.offset is not None
    rows = recording.read(start, stop, channels=range(len(recording.channels)))
    assert rows.known.all() and rows.valid.all()
    assert all(is_float32_of(got, want, truth.relative) for got, want in zip(rows.values, wanted, strict=True))
    for got, want, offset in zip(rows.coords.T, wanted, recording.axes.offset, strict=False):
        assert is_float32_of(got, want - offset, truth.relative)


def _random_box(shape: tuple[int, ...], rng: np.random.Generator | None) -> Box:
    ends = [(0, n) if rng is None else sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in shape]
    x, y, z = ends
    return Box((x[0], y[0], z[0]), (x[1], y[1], z[1]))


def check_read(row: Row, folder: Path) -> None:
    path = row.make(folder)
    recording, truth = open_recording(path), row.truth(path)
    agrees(recording, truth)
    window_agrees(recording, truth, None)


def check_window(row: Row, folder: Path) -> None:
    path, rng = row.make(folder), np.random.default_rng(1)
    recording, truth = open_recording(path), row.truth(path)
    for _ in range(5):
        window_agrees(recording, truth, rng)


def check_write(row: Row, folder: Path) -> None:
    """Some elements of every channel take the values of others; the library finds those, and all else as it was."""
    (folder / "in").mkdir()
    path, rng = row.make(folder / "in"), np.random.default_rng(2)
    recording, truth = open_recording(path), row.truth(path)
    patches, wanted = [], [values.copy() for values in truth.values]
    for channel, (k, scale) in enumerate(zip(channels_of(recording, truth), scales(recording, truth), strict=True)):
        stored = np.flatnonzero(np.isfinite(truth.values[k]))
        index, others = rng.choice(stored, (2, N_PATCHED), replace=False)
        patches.append(Patch(channel, index.astype(np.int64), truth.values[k][others] / scale))
        wanted[k][index] = truth.values[k][others]
    copy = folder / "out" / path.relative_to(folder / "in")
    copy.parent.mkdir(parents=True)
    if row.refused:
        with pytest.raises(ReadError, match="cannot write"):
            write(recording, patches, copy)
        assert not list(copy.parent.iterdir())
        return
    written = write(recording, patches, copy)
    assert written.clipped == 0 and (written.changed > 0 or not _different(truth.values, wanted))
    found = (row.written or row.truth)(written.path)
    assert len(found.values) == len(wanted) and _different(truth.values, wanted)
    if row.written is None:
        assert written.path == copy and found.header == truth.header
        assert all(np.array_equal(got, want, equal_nan=True) for got, want in zip(found.values, wanted, strict=True))
        return
    assert written.notes and written.path != copy and found.header["rate"] == truth.header["rate"]
    assert found.header.get("names") == truth.header.get("names")
    size = 1.0 if "FLAC" in row.note else max(np.abs(want).max() for want in wanted)
    assert all(np.abs(got - want).max() <= row.slack * size for got, want in zip(found.values, wanted, strict=True))


def _different(before: list[Float64], after: list[Float64]) -> bool:
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))


CHECKS: dict[str, Callable[[Row, Path], None]] = {"read": check_read, "window": check_window, "write back": check_write}


def passes(row: Row, check: Callable[[Row, Path], None]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(row, Path(folder))
        except Exception:
            return False
    return True


def line_of(row: Row) -> str:
    ticks = ["✓" if passes(row, check) else "✗" for check in CHECKS.values()]
    ticks[-1] = "–" if row.refused and ticks[-1] == "✓" else ticks[-1]
    return f"| {row.title} | {' | '.join(ticks)} | {row.library} | {row.note} |"


def heading() -> list[str]:
    return [f"| format | {' | '.join(CHECKS)} | compared with | |", "|---|" + ":---:|" * len(CHECKS) + "---|---|"]


@pytest.mark.parametrize("column", CHECKS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_the_library_agrees(tmp_path: Path, row: Row, column: str) -> None:
    if not row.available:
        pytest.skip(f"{row.library} is not installed")
    CHECKS[column](row, tmp_path)


def test_the_readme_holds_this_table() -> None:
    told = README.read_text("utf-8").split(BEGIN)[1].split(END)[0].splitlines()
    assert told[:2] == heading() and len(told) == 2 + len(ROWS)
    for row, line in zip(ROWS, told[2:], strict=True):
        assert line == line_of(row) if row.available else line.startswith(f"| {row.title} | ")


if __name__ == "__main__":
    print("\n".join([*heading(), *(line_of(row) for row in ROWS if row.available)]))
