"""Point clouds written back: only the patched elements change, and the formats' own programs agree."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.points import create_ply
from readers.schema import ReadError
from tests import points_files as made
from tests.points_files import FORMATS, cloud, coordinates, opened, written


def table(path):
    """Every channel of a file as float64 (C, N), coordinates with their offset."""
    recording = opened(path)
    sample = recording.read(0, 10**9, channels=range(3, len(recording.channels)))
    return np.vstack([(sample.coords.astype(np.float64) + recording.axes.offset).T, sample.values])


@pytest.mark.parametrize("name", FORMATS)
def test_a_copy_without_patches_is_the_same_file(tmp_path, name):
    path = FORMATS[name](tmp_path)
    out = path.parent / "out" / path.name
    result = written(opened(path), [], out)
    assert out.read_bytes() == path.read_bytes()
    assert (result.path, result.changed, result.clipped, result.notes) == (out, 0, 0, ())
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("name", FORMATS)
def test_only_patched_elements_change(tmp_path, name):
    path = FORMATS[name](tmp_path)
    recording = opened(path)
    out = path.parent / "out" / path.name
    before = table(path)
    last = len(recording.channels) - 1
    rows = np.array([7, 0, 39, 7])
    result = written(recording, [(1, rows, [9.0, -2.25, 3.5, 1.75]), (last, [4, 5], [3.0, 1.0])], out)
    expected = before.copy()
    expected[1, [7, 0, 39]] = [1.75, -2.25, 3.5]
    expected[last, [4, 5]] = [3.0, 1.0]
    after = table(out)
    assert np.allclose(after, expected, rtol=0, atol=1e-6)
    same = np.ones(before.shape, bool)
    same[1, rows], same[last, [4, 5]] = False, False
    assert np.array_equal(after[same], before[same])
    assert result.changed == int((before != expected).sum()) and result.clipped == 0
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("name", ["ply-little", "ply-big", "pcd-binary", "kitti", "npy"])
def test_binary_copies_differ_in_the_patched_bytes_only(tmp_path, name):
    path = FORMATS[name](tmp_path)
    out = path.parent / "out" / path.name
    written(opened(path), [(2, [11], [-7.5])], out)
    old, new = np.frombuffer(path.read_bytes(), np.uint8), np.frombuffer(out.read_bytes(), np.uint8)
    places = np.flatnonzero(old != new)
    assert len(old) == len(new) and len(places) >= 1 and places[-1] - places[0] < 4


@pytest.mark.parametrize("name", ["ply-ascii", "pcd-ascii", "xyz", "txt", "pts", "off", "obj"])
def test_text_copies_keep_every_other_row(tmp_path, name):
    path = FORMATS[name](tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    out = path.parent / "out" / path.name
    written(opened(path), [(0, [11, 12], [0.5, 1e-9])], out)
    old, new = path.read_bytes().split(b"\n"), out.read_bytes().split(b"\n")
    changed = [k for k, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert len(changed) == 2 and changed[1] == changed[0] + 1
    before, after = old[changed[0]].split(), new[changed[0]].split()
    assert [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [1 if name == "obj" else 0]
    assert new[changed[0]].endswith(b"\r")


@settings(max_examples=30, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]))
def test_values_become_what_the_type_can_hold(data, kind):
    dtype = np.dtype(kind)
    rows = data.draw(st.integers(1, 20))
    columns = {**{a: np.zeros(rows) for a in "xyz"}, "a": np.full(rows, 5, dtype)}
    values = data.draw(st.lists(st.floats(width=64), min_size=rows, max_size=rows))
    encoding = data.draw(st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]))
    with tempfile.TemporaryDirectory() as folder:
        recording = opened(made.ply(Path(folder) / "a.ply", columns, encoding))
        out = Path(folder) / "b.ply"
        result = written(recording, [(3, range(rows), values)], out)
        got = opened(out).table.read(0, rows, [3])[0]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    clipped = 0
    for value, stored in zip(values, got, strict=True):
        if np.isnan(value):
            assert stored == 5 if dtype.kind != "f" else np.isnan(stored)
            continue
        limited = value if np.isinf(value) and dtype.kind == "f" else min(max(value, float(limits.min)), float(limits.max))
        clipped += limited != value and (dtype.kind == "f" or round(value) != limited if np.isfinite(value) else True)
        # Text of a float32 has the digits that tell it from its neighbours, and reads as another float64.
        assert dtype.type(stored) == (dtype.type(limited) if dtype.kind == "f" else round(limited))
    assert result.clipped == clipped
    unknown = sum(np.isnan(values))
    assert bool(result.notes) == (unknown > 0 and dtype.kind != "f")


def test_open3d_reads_the_copies(tmp_path):
    open3d = pytest.importorskip("open3d")
    for name in ("ply-ascii", "ply-little", "ply-big", "pcd-ascii", "pcd-binary", "pcd-compressed"):
        path = FORMATS[name](tmp_path)
        recording = opened(path)
        names = [c.canonical for c in recording.channels]
        out = tmp_path / name / path.name
        written(recording, [(0, [3], [8.125]), (names.index("green"), [5, 6], [7, 300]), (names.index("label"), [9], [4.4])], out)
        old, new = (open3d.t.io.read_point_cloud(str(p)).point for p in (path, out))
        xyz, colors, label = (old[key].numpy().copy() for key in ("positions", "colors", "label"))
        xyz[3, 0], colors[[5, 6], 1], label[9] = 8.125, [7, 255], 4
        assert np.array_equal(new["positions"].numpy(), xyz)
        assert np.array_equal(new["colors"].numpy(), colors) and np.array_equal(new["label"].numpy(), label)


def test_real_compressed_clouds_are_patched(shared, tmp_path):
    open3d = pytest.importorskip("open3d")
    path = shared / "points" / "unlabelled_pcd" / "milk.pcd"
    out = tmp_path / path.name
    result = written(opened(path), [(2, [100, 200], [0.5, 0.25])], out)
    old, new = (open3d.t.io.read_point_cloud(str(p)).point for p in (path, out))
    xyz = old["positions"].numpy().copy()
    xyz[[100, 200], 2] = [0.5, 0.25]
    assert np.array_equal(new["positions"].numpy(), xyz, equal_nan=True)
    assert np.array_equal(new["colors"].numpy(), old["colors"].numpy())
    assert result.changed == 2 and "literal runs" in result.notes[0]


def test_digits_follow_the_row_and_are_enough(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(b"# made\n1.500  2 -3.25e+01\t7\n\n  4,5,6,8 \n7;8;9;9")
    recording = opened(path)
    out = tmp_path / "b.xyz"
    third = 1 / 3
    result = written(recording, [(0, [0, 1], [2.5, third]), (1, [0, 2], [3, 0.1]), (2, [0], [-1]), (3, [2], [np.nan])], out)
    assert out.read_bytes() == b"# made\n2.500  3 -1.0\t7\n\n  0.3333333333333333,5,6,8 \n7;0.1;9;nan"
    assert result.changed == 6


def test_archives_keep_their_other_arrays(tmp_path):
    points, others = np.stack(coordinates(cloud()), 1), {"faces": np.arange(9), "name": np.array(["a", "b"])}
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / "a.npz"
        save(path, points=points, **others)
        out = tmp_path / "b.npz"
        written(opened(path), [(1, [3], [2.5])], out)
        expected = points.copy()
        expected[3, 1] = 2.5
        with np.load(out, allow_pickle=False) as loaded:
            assert set(loaded) == {"points", "faces", "name"} and np.array_equal(loaded["points"], expected)
            assert all(np.array_equal(loaded[key], value) for key, value in others.items())
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(out) as new:
            assert new.testzip() is None
            assert [i.compress_type for i in old.infolist()] == [i.compress_type for i in new.infolist()]


def test_a_patch_across_many_blocks(tmp_path):
    rows = 150_000
    rng = np.random.default_rng(0)
    columns = {axis: rng.normal(size=rows).astype(np.float32) for axis in "xyz"}
    index = rng.choice(rows, 5000, replace=False)
    values = rng.normal(size=5000).astype(np.float32)
    for path in (create_ply(tmp_path / "a.ply", columns), made.text(tmp_path / "a.xyz", coordinates(columns))):
        out = tmp_path / "out" / path.name
        result = written(opened(path), [(1, index, values)], out)
        expected = np.stack(coordinates(columns), 1)
        expected[index, 1] = values
        assert np.array_equal(opened(out).read(0, rows).coords, expected) and result.changed == 5000


def test_what_cannot_be_written_says_why(tmp_path):
    path = FORMATS["ply-little"](tmp_path)
    recording = opened(path)
    before = path.read_bytes()
    for patches, target, reason in [
        ([], path, "cannot take its place"),
        ([], tmp_path / "b.pcd", "has to end in .ply"),
        ([(99, [0], [0])], tmp_path / "b.ply", "no channel 99"),
        ([(0, [40], [0])], tmp_path / "b.ply", "outside the 40 points"),
        ([(0, [-1], [0])], tmp_path / "b.ply", "outside the 40 points"),
        ([(0, [1, 2], [0])], tmp_path / "b.ply", "indices"),
    ]:
        with pytest.raises(ReadError, match=reason):
            written(recording, patches, target)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ply"]
    path.unlink()
    with pytest.raises(ReadError, match="cannot be written"):
        written(recording, [(0, [0], [0])], tmp_path / "b.ply")
    with pytest.raises(ReadError, match="cannot be read"):
        recording.read(0, 5)
    assert list(tmp_path.iterdir()) == []


def test_new_ply_files(tmp_path):
    open3d = pytest.importorskip("open3d")
    columns = cloud(7)
    for encoding in ("ascii", "binary_little_endian", "binary_big_endian"):
        path = create_ply(tmp_path / f"{encoding}.ply", columns, encoding=encoding, comments=["made"])
        theirs = open3d.t.io.read_point_cloud(str(path)).point
        assert np.array_equal(theirs["positions"].numpy(), np.stack(coordinates(columns), 1))
        assert np.array_equal(theirs["label"].numpy()[:, 0], columns["label"])
    with pytest.raises(ReadError, match="x, y, z of one length"):
        create_ply(tmp_path / "a.ply", {**columns, "x": columns["x"][:3]})
