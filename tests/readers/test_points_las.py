"""LAS and LAZ against laspy."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from readers import points_laz, points_laz_child
from readers.points_las import read_header
from readers.schema import ReadError
from tests import points_files as made
from tests.points_files import cloud, opened, written

laspy = pytest.importorskip("laspy")
pytest.importorskip("lazrs")

VARIANTS = [("las", 0, "1.2"), ("las", 3, "1.3"), ("laz", 3, "1.2"), ("las", 7, "1.4"), ("laz", 6, "1.4"), ("laz", 8, "1.4")]


@pytest.mark.parametrize(("suffix", "point_format", "version"), VARIANTS)
@pytest.mark.parametrize("extra", [False, True])
def test_every_dimension_is_laspys(tmp_path, suffix, point_format, version, extra):
    path = made.las(tmp_path / f"a.{suffix}", cloud(200, far=480_000), point_format=point_format, version=version, extra=extra)
    theirs = laspy.read(path)
    recording = opened(path)
    sample = recording.read(0, 200, channels=range(3, len(recording.channels)))
    assert np.abs(sample.coords + np.array(recording.axes.offset) - theirs.xyz).max() < 1e-3
    names = [c.name for c in recording.channels]
    known = {"X": "x", "Y": "y", "Z": "z"}
    assert names == [known.get(name, name) for name in _laspy_names(theirs, names)]
    for channel, values in zip(sample.channels, sample.values, strict=True):
        assert np.array_equal(values, np.asarray(theirs[channel.name], np.float64).astype(np.float32)), channel.name
    assert recording.axes.offset == (*theirs.header.offsets[:2], 0.0) and recording.verify() == ()


def _laspy_names(theirs, ours):
    """laspy's dimensions in our order: the same ones, whatever the order inside a byte."""
    names = list(theirs.point_format.dimension_names)
    assert {n.lower() for n in names} == {n.lower() for n in ours}
    return ours


@pytest.mark.parametrize(("suffix", "point_format", "version"), VARIANTS)
def test_copies_change_what_was_asked(tmp_path, suffix, point_format, version):
    path = made.las(tmp_path / f"a.{suffix}", cloud(300, far=480_000), point_format=point_format, version=version, extra=True)
    recording = opened(path)
    names = [c.name for c in recording.channels]
    out = tmp_path / "out" / f"b.{suffix}"
    new_x = [480_001.2345, 479_000.0]
    patches = [
        (0, [5, 250], new_x),
        (names.index("intensity"), [0, 1, 2], [7.4, 1e6, np.nan]),
        (names.index("return_number"), [3], [2]),
        (names.index("classification"), [4], [3]),
        (names.index("reflect"), [6], [0.5]),
    ]
    result = written(recording, patches, out)
    old, new = laspy.read(path), laspy.read(out)
    expected = {name: np.array(old[name]) for name in old.point_format.dimension_names}
    expected["X"][[5, 250]] = np.rint((np.array(new_x) - old.header.offsets[0]) / 0.001)
    expected["intensity"][:2] = [7, 65535]
    expected["return_number"][3], expected["classification"][4], expected["reflect"][6] = 2, 3, 0.5
    changed = sum(int((np.array(old[name]) != values).sum()) for name, values in expected.items())
    for name, values in expected.items():
        assert np.array_equal(np.array(new[name]), values), name
    assert result.changed == changed and result.clipped == 1
    assert any("intensity are NaN" in note for note in result.notes)
    assert new.header.mins[0] == pytest.approx(479_000.0) and np.array_equal(new.header.maxs[1:], old.header.maxs[1:])
    assert [v.record_data_bytes() for v in new.header.vlrs] == [v.record_data_bytes() for v in old.header.vlrs]
    if suffix == "las":
        a, b = path.read_bytes(), out.read_bytes()
        places = [k for k, (left, right) in enumerate(zip(a, b, strict=True)) if left != right]
        data = read_header(path).data
        assert len(a) == len(b) and all(179 <= k < 227 or k >= data for k in places)


def test_extended_records_follow_compressed_points(tmp_path):
    path = made.las(tmp_path / "a.laz", cloud(100), point_format=6, version="1.4")
    with laspy.open(path) as reader:
        data = reader.read()
    data.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("toolkit", 7, "note", b"what follows the points")])
    data.write(str(path))
    recording = opened(path)
    out = tmp_path / "b.laz"
    written(recording, [(2, range(100), np.random.default_rng(0).normal(size=100))], out)
    new = laspy.read(out)
    assert [v.record_data for v in new.evlrs] == [b"what follows the points"] and len(new.points) == 100
    assert out.stat().st_size != path.stat().st_size


def test_several_chunks(tmp_path):
    columns = cloud(120_000)
    path = made.las(tmp_path / "a.laz", columns)
    theirs = laspy.read(path).xyz
    recording = opened(path)
    for start, stop in [(0, 120_000), (49_990, 50_010), (119_999, 120_000), (60_000, 60_001)]:
        assert np.abs(recording.read(start, stop).coords - theirs[start:stop]).max() < 1e-6
    out = tmp_path / "b.laz"
    written(recording, [(2, [10, 50_000, 119_999], [1, 2, 3])], out)
    after = laspy.read(out).xyz
    assert after[[10, 50_000, 119_999], 2].tolist() == [1, 2, 3]
    after[[10, 50_000, 119_999], 2] = theirs[[10, 50_000, 119_999], 2]
    assert np.array_equal(after, theirs)


def test_windows_over_several_blocks(tmp_path, monkeypatch):
    path = made.las(tmp_path / "a.laz", cloud(230_000))
    theirs = laspy.read(path).xyz
    recording = opened(path)
    monkeypatch.setattr(points_laz, "BLOCK_BYTES", 110_000 * recording.table.row_bytes)
    assert recording.table.step() == 100_000
    rng = np.random.default_rng(3)
    windows = [sorted(int(row) for row in rng.integers(0, 230_001, 2)) for _ in range(20)]
    for start, stop in [*windows, (99_999, 100_001), (199_000, 230_000), (100_000, 200_000), (229_999, 230_000)]:
        if start < stop:
            assert np.abs(recording.read(start, stop).coords - theirs[start:stop]).max(initial=0) < 1e-6


def test_a_file_that_was_replaced_is_decoded_anew(tmp_path):
    path = made.las(tmp_path / "a.laz", cloud(50))
    recording = opened(path)
    before = recording.read(0, 50).coords
    made.las(path, cloud(50, seed=9))
    os.utime(path, ns=(1, 1))
    after = recording.read(0, 50).coords
    assert np.abs(after - laspy.read(path).xyz).max() < 1e-6 and not np.allclose(before, after)


def test_a_stream_that_ends_the_decoder_is_refused(tmp_path):
    path = made.FORMATS["laz"](tmp_path)
    raw = bytearray(path.read_bytes())
    raw[524], raw[638:738] = 0x31, b"\xff" * 100  # ends lazrs 0.8.2 by a fault of memory
    path.write_bytes(raw)
    with pytest.raises(ReadError, match=r"a\.laz cannot be decoded: "):
        opened(path).read(0, 40)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (f"os.kill(os.getpid(), {int(signal.SIGABRT)})", r"damaged \(the decoder crashed\)"),
        ("child.CPU_S = 1; child.bound()\nwhile True: pass", "processor time"),
        ("print('no sense in it'); sys.exit(child.REFUSED)", "cannot be decoded: no sense in it"),
        ("print('few')", "gives 4 bytes"),
    ],
    ids=["crash", "time", "refusal", "short"],
)
def test_the_end_of_a_decoder_is_a_reason(tmp_path, monkeypatch, end, reason):
    recording = opened(made.las(tmp_path / "a.laz", cloud(1000)))
    stand_in = tmp_path / "child.py"
    own = str(Path(points_laz_child.__file__).parent)
    stand_in.write_text(f"import os, sys\nsys.path.append({own!r})\nimport points_laz_child as child\n{end}\n")
    monkeypatch.setattr(points_laz_child, "__file__", str(stand_in))
    os.utime(recording.path, ns=(1, 1))  # no block that is kept
    for use in (lambda: recording.read(0, 10), lambda: written(recording, [(2, [1], [3.0])], tmp_path / "out" / "b.laz")):
        with pytest.raises(ReadError, match=reason):
            use()
    assert not list((tmp_path / "out").iterdir())


def test_without_the_decoder_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = made.las(tmp_path / "a.laz", cloud())
    monkeypatch.setitem(sys.modules, "lazrs", None)
    with pytest.raises(ReadError, match=r"masked-recordings\[las\]"):
        opened(path)


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_counts_are_checked_against_the_file(tmp_path, suffix):
    path = made.las(tmp_path / f"a.{suffix}", cloud())
    raw = bytearray(path.read_bytes())
    raw[107:111] = (2**31).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(ReadError, match="claims 2147483648 points"):
        opened(path)


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_points_outside_the_bounds_are_named(tmp_path, suffix):
    path = made.las(tmp_path / f"a.{suffix}", cloud())
    raw = bytearray(path.read_bytes())
    raw[195:203] = np.float64(0.5).tobytes()  # the largest y
    path.write_bytes(raw)
    (problem,) = opened(path).verify()
    assert " has y from -2." in problem and problem.endswith("to 0.5")
