"""Point clouds read: every format against open3d, numpy and the numbers that were written."""

from __future__ import annotations

import os
import pickle
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.points_columns import guessed, offset_of
from readers.points_lzf import expand_bytes, wrap
from readers.schema import ReadError
from tests import points_files as made
from tests.points_files import FORMATS, cloud, coordinates, opened


def far(recording, sample):
    """Coordinates as the file means them, float64."""
    return sample.coords.astype(np.float64) + recording.axes.offset


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_cloud_back(tmp_path, name):
    recording = opened(FORMATS[name](tmp_path))
    expected = np.stack(coordinates(cloud()), axis=1)
    sample = recording.read(0, 10**9)
    exact = 0.006 if name.startswith("la") else 0
    assert np.abs(far(recording, sample) - expected).max() <= exact
    assert [c.canonical for c in recording.channels[:3]] == ["x", "y", "z"]
    assert all(c.kind == "xyz" for c in recording.channels[:3])
    assert recording.axes.shape == (40, len(recording.channels)) and recording.axes.points == recording.stored(0) == 40
    assert recording.axes.offset == (0, 0, 0) and sample.known.all() and sample.values.shape == (0, 40)
    assert recording.verify() == () and recording.events == () and recording.files == (recording.path,)
    again = pickle.loads(pickle.dumps(recording))
    assert np.array_equal(again.read(3, 9).coords, sample.coords[3:9])


@pytest.mark.parametrize("name", FORMATS)
def test_windows_agree_with_the_whole(tmp_path, name):
    recording = opened(FORMATS[name](tmp_path))
    channels = list(range(len(recording.channels)))[::-1]
    whole = recording.read(0, 40, channels=channels)
    for start, stop in [(0, 0), (0, 1), (39, 40), (7, 21), (30, 99), (40, 41), (-5, 2)]:
        part = recording.read(start, stop, channels=channels)
        own = slice(max(start, 0), max(stop, 0))
        assert np.array_equal(part.coords, whole.coords[own]) and np.array_equal(part.values, whole.values[:, own])
        assert (part.window.start, part.window.stop) == (min(max(start, 0), 40), min(max(stop, 0), 40))
    assert [c.name for c in whole.channels] == [c.name for c in recording.channels][::-1]
    with pytest.raises(ReadError, match="no channel"):
        recording.read(0, 1, channels=[99])


@pytest.mark.parametrize("name", ["ply-ascii", "ply-little", "ply-big", "pcd-ascii", "pcd-binary", "pcd-compressed"])
def test_attributes_are_those_that_open3d_reads(tmp_path, name):
    open3d = pytest.importorskip("open3d")
    path = FORMATS[name](tmp_path)
    theirs = open3d.t.io.read_point_cloud(str(path)).point
    recording = opened(path)
    sample = recording.read(0, 40, channels=range(len(recording.channels)))
    own = {c.canonical: values for c, values in zip(sample.channels, sample.values, strict=True)}
    assert np.array_equal(sample.coords, theirs["positions"].numpy())
    assert np.array_equal(np.stack([own[c] for c in ("red", "green", "blue")], 1), theirs["colors"].numpy())
    for key in set(theirs) - {"positions", "colors", "normals"}:
        assert np.array_equal(own[key], theirs[key].numpy()[:, 0]), key
    if "normals" in theirs:
        assert np.array_equal(np.stack([own[f"n{a}"] for a in "xyz"], 1), theirs["normals"].numpy())
    kinds = {c.canonical: (c.kind, c.dtype, c.low, c.high) for c in recording.channels}
    assert kinds["red"] == ("rgb", "uint8", 0.0, 255.0) and kinds["label"] == ("attribute", "int32", None, None)


def test_float64_and_16_bit_colours_are_kept(tmp_path):
    columns = cloud(far=500_550)
    columns = {**columns, "red": columns["red"].astype(np.uint16) * 257}
    for encoding in ("ascii", "binary_little_endian", "binary_big_endian"):
        recording = opened(
            made.ply(tmp_path / f"{encoding}.ply", columns, encoding, before="element head 1\nproperty uchar a\nproperty uchar b")
        )
        sample = recording.read(0, 40, channels=[6])
        assert recording.axes.offset == (500_000.0, 5_005_000.0, 0.0)
        assert np.abs(far(recording, sample) - np.stack(coordinates(columns), 1)).max() < 1e-4
        assert (recording.channels[6].name, recording.channels[6].high) == ("red", 65535.0)
        assert np.array_equal(sample.values[0], columns["red"])
        assert "'head'" in recording.warnings[0]


def test_the_offset_rule():
    head = [np.array([5e5 + 1234, 5e5, np.nan, 5e5 + 9]), np.array([-12_345.0, -12_345.0]), np.array([9_999.0])]
    assert offset_of(head) == (500_000.0, -13_000.0, 0.0)
    assert offset_of(head, (499_500.25, 0.0, 5.0)) == (499_500.25, -13_000.0, 0.0)
    assert offset_of([np.array([np.nan]), np.array([np.inf]), np.array([])]) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30), order=st.sampled_from("<>"), where=st.integers(0, 3), types=st.lists(
        st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]), max_size=6), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_ply_of_numbers(rows, order, where, types, seed):
    rng = np.random.default_rng(seed)
    columns = {f"a{k}": rng.integers(0, 100, rows).astype(kind) for k, kind in enumerate(types)}
    names = list(columns)
    names[where:where] = ["z", "x", "y"]
    columns |= {axis: rng.normal(size=rows) for axis in "xyz"}
    columns = {name: columns[name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        encoding = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
        recording = opened(made.ply(Path(folder) / "a.ply", columns, encoding, faces=2))
        sample = recording.read(0, rows, channels=range(3, len(names)))
        assert np.allclose(sample.coords, np.stack(coordinates(columns), 1).astype(np.float32), atol=0)
        attributes = [name for name in names if name not in "xyz"]
        assert [c.name for c in sample.channels] == attributes
        assert [c.dtype for c in sample.channels] == [columns[name].dtype.name for name in attributes]
        assert all(np.array_equal(v, columns[n]) for n, v in zip(attributes, sample.values, strict=True))


def test_pcd_fields_of_several_numbers_padding_and_organised(tmp_path):
    columns = cloud(12)
    fields = {**{a: columns[a] for a in "xyz"}, "_": np.zeros((12, 3), np.uint8), "fpfh": np.arange(24.0).reshape(12, 2)}
    fields |= {"rgba": made.pack_rgb(columns) | np.uint32(7 << 24)}
    fields["x"] = np.where(np.arange(12) == 5, np.nan, columns["x"]).astype(np.float32)
    for storage in ("ascii", "binary", "binary_compressed"):
        path = made.pcd(tmp_path / f"{storage}.pcd", fields, storage, counts={"_": 3, "fpfh": 2}, height=3)
        recording = opened(path)
        assert [c.name for c in recording.channels[3:]] == ["fpfh[0]", "fpfh[1]", "red", "green", "blue", "alpha"]
        assert recording.warnings == ("organised as 4 x 3 points",)
        sample = recording.read(0, 12, channels=[3, 4, 5, 6, 7, 8])
        assert np.array_equal(sample.values[:2].T, fields["fpfh"])
        assert np.array_equal(sample.values[2:5], [columns[c] for c in ("red", "green", "blue")])
        assert (sample.values[5] == 7).all()
        assert np.flatnonzero(~sample.known).tolist() == [5] and (sample.coords[5] == 0).all()
        assert recording.verify() == ()


def test_packed_float_colours_in_text(tmp_path):
    columns = cloud(9)
    rgb = made.pack_rgb(columns).view(np.float32)
    path = made.pcd(tmp_path / "a.pcd", {**{a: columns[a] for a in "xyz"}, "rgb": rgb}, "ascii")
    sample = opened(path).read(0, 9, channels=[3, 4, 5])
    assert np.array_equal(sample.values, [columns[c] for c in ("red", "green", "blue")])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600), repeat=st.integers(1, 40))
def test_lzf_expands_what_was_packed(data, repeat):
    data = data * repeat
    assert expand_bytes(made.lzf(data), len(data), "a") == data
    assert expand_bytes(wrap(data), len(data), "a") == data


@settings(max_examples=200, deadline=None)
@given(packed=st.binary(max_size=80), size=st.integers(0, 300))
def test_lzf_stays_inside_its_bounds(packed, size):
    try:
        assert len(expand_bytes(packed, size, "a")) == size
    except ReadError as error:
        assert "broken compressed data" in str(error)


def test_arrays_of_every_layout(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 5)).astype(np.float64) + 2e5
    for k, array in enumerate([table, np.asfortranarray(table), table.astype(">f4"), np.rint(table).astype(np.int32)]):
        for suffix, save in (("npy", np.save), ("npz", np.savez), ("z.npz", np.savez_compressed)):
            path = tmp_path / f"{k}.{suffix}"
            save(path, array)
            recording = opened(path)
            sample = recording.read(10, 40, channels=[3, 4])
            assert np.abs(far(recording, sample) - array[10:40, :3]).max() < 1e-4
            assert np.array_equal(sample.values, array[10:40, 3:].T.astype(np.float32))
            assert recording.channels[3].name == "column 4" and recording.channels[3].dtype == array.dtype.newbyteorder("=").name
    named = np.zeros(5, [("label", "u1"), ("x", "<f4"), ("y", "<f4"), ("z", ">f8"), ("name", "S3")])
    named["z"], named["label"] = np.arange(5), 9
    np.save(tmp_path / "s.npy", named)
    recording = opened(tmp_path / "s.npy")
    assert [c.name for c in recording.channels] == ["x", "y", "z", "label"]
    sample = recording.read(0, 5, channels=[3])
    assert sample.coords[:, 2].tolist() == [0, 1, 2, 3, 4] and (sample.values == 9).all()


def test_verify_reads_every_row_and_the_checksums(tmp_path):
    path = made.text(tmp_path / "a.xyz", [np.arange(20_000)] * 3)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"\n15000 ", b"\n15o00 "))
    assert opened(path).verify() == ("a.xyz: '15o00' in point 15000 is not a number",)
    np.savez(tmp_path / "a.npz", np.zeros((9000, 3)))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    place = opened(tmp_path / "a.npz").table.stored_at
    raw[place + 100_000] ^= 1
    (tmp_path / "a.npz").write_bytes(raw)
    assert "Bad CRC-32" in opened(tmp_path / "a.npz").verify()[0]


def test_what_columns_look_like():
    rng = np.random.default_rng(0)
    xyz, normals = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colours = rng.integers(0, 256, (60, 3))

    def kinds(*parts):
        return [c.kind for c in guessed(np.hstack([xyz, *parts]), "float64")[3:]]

    assert kinds(xyz[:, :1]) == ["intensity"]
    assert kinds(normals) == ["normal"] * 3 and kinds(colours) == ["rgb"] * 3 and kinds(xyz) == ["attribute"] * 3
    assert kinds(xyz[:, :1], colours) == ["intensity"] + ["rgb"] * 3
    assert kinds(colours, normals) == ["rgb"] * 3 + ["normal"] * 3
    assert kinds(xyz[:, :2]) == ["attribute"] * 2 and kinds(np.full((60, 3), np.nan)) == ["attribute"] * 3


def test_a_cloud_of_nan_opens(tmp_path):
    columns = {axis: np.full(5, np.nan, np.float32) for axis in "xyz"}
    for path in (made.ply(tmp_path / "a.ply", columns), made.text(tmp_path / "a.xyz", coordinates(columns))):
        recording = opened(path)
        sample = recording.read(0, 5)
        assert not sample.known.any() and (sample.coords == 0).all() and recording.axes.offset == (0, 0, 0)
        assert recording.verify() == ()


def test_memory_does_not_grow_with_the_cloud(tmp_path):
    rows = 20_000_000
    names = "".join(f"property double {axis}\n" for axis in "xyz")
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {rows}\n{names}end_header\n"
    path = tmp_path / "big.ply"
    path.write_text(head)
    os.truncate(path, len(head) + 24 * rows)  # 480 MB that take no room
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recording = opened(path)
    for start in np.random.default_rng(0).integers(0, rows, 50):
        assert recording.read(int(start), int(start) + 5000).known.all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 30


def test_real_clouds(shared):
    open3d = pytest.importorskip("open3d")
    files = sorted((shared / "points" / "unlabelled_pcd").glob("*.pcd"))
    for path in files:
        recording = opened(path)
        sample = recording.read(0, recording.axes.points)
        theirs = open3d.t.io.read_point_cloud(str(path)).point.positions.numpy()
        assert np.array_equal(far(recording, sample), theirs.astype(np.float64)), path.name
    assert files
    for path in sorted((shared / "points" / "dales").glob("*.xyz"))[::25]:
        recording = opened(path)
        theirs = np.loadtxt(path)
        assert recording.axes.points == len(theirs)
        assert np.array_equal(recording.read(0, len(theirs)).coords, theirs.astype(np.float32))
