"""Point clouds in text: what is a row, what the columns are, which files are clouds at all."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.points_rows import MARK_ROWS, find_rows, index_rows
from readers.schema import ReadError
from tests.points_files import opened, reader_of

LINES = st.sampled_from(["1 2 3", " -1.5\t2e3 nan", "", "   ", "# note", "  // note", "7,8,9", "\t", "%", "0 0 0 "])


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(LINES, max_size=60),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    repeat=st.sampled_from([1, 1, 300]),
)
def test_rows_are_the_lines_that_say_something(lines, end, last, repeat):
    lines = lines * repeat
    text = end.join(lines) + (end if last else "")
    expected = [line.strip() for line in lines if line.strip() and line.strip()[0] not in "#/%"]
    found = find_rows(text.encode()) if text else None
    assert found is None or [text[s:e].strip() for s, e in zip(found.starts, found.ends, strict=True)] == expected
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.xyz"
        path.write_bytes(text.encode())
        index = index_rows(path, 0)
        assert index.count == len(expected) and len(index.marks) == -(-len(expected) // MARK_ROWS)
        for k, mark in enumerate(index.marks):
            assert text[mark:].startswith(expected[k * MARK_ROWS])
        if len(expected) > 2:
            assert index_rows(path, 0, limit=2).count == 2


def test_a_long_text_is_read_in_windows(tmp_path):
    rows = 3 * MARK_ROWS + 17
    values = np.arange(rows * 4).reshape(rows, 4) / 8
    path = tmp_path / "a.xyz"
    lines = [" ".join(map(str, row)) + "\n" + ("# note\n\n" if k % 1000 == 0 else "") for k, row in enumerate(values)]
    path.write_text("".join(lines))
    recording = opened(path)
    assert recording.axes.points == rows
    for start, stop in [(0, 5), (MARK_ROWS - 1, MARK_ROWS + 1), (rows - 3, rows), (100, 2 * MARK_ROWS + 100), (0, rows)]:
        sample = recording.read(start, stop, channels=[3])
        assert np.array_equal(sample.coords + np.float32(recording.axes.offset), values[start:stop, :3].astype(np.float32))
        assert np.array_equal(sample.values[0], values[start:stop, 3].astype(np.float32))


@pytest.mark.parametrize(
    ("text", "names", "warned"),
    [
        ("x y z intensity\n1 2 3 4\n", ["x", "y", "z", "intensity"], 0),
        ("//X Y Z R G B\n1 2 3 4 50 6\n", ["X", "Y", "Z", "R", "G", "B"], 0),
        ("# made in 2020\n# label;z;y;x\n1;2;3;4\n", ["x", "y", "z", "label"], 0),
        ("x,y,z\n1,2,3,4\n", ["x", "y", "z", "intensity"], 1),
        ("2\n1 2 3 0.5 255 0 9\n1 2 3 0.5 255 0 9\n", ["x", "y", "z", "intensity", "red", "green", "blue"], 0),
        ("1\n1 2 3\n4 5 6\n", ["x", "y", "z"], 1),
        ("\ufeff1 2 3\n", ["x", "y", "z"], 0),
    ],
)
def test_names_and_counts(tmp_path, text, names, warned):
    path = tmp_path / "a.xyz"
    path.write_text(text, encoding="utf-8")
    recording = opened(path)
    assert [c.name for c in recording.channels] == names and len(recording.warnings) == warned
    if "label" in names:
        sample = recording.read(0, 1, channels=[3])
        assert sample.coords.tolist() == [[4, 3, 2]] and sample.values.tolist() == [[1]]
    assert {c.kind for c in recording.channels[-3:]} == {"rgb"} or len(names) < 6


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.xyz", "1 2 3\n4 5\n7 8 9\n", "point 1 has 2 columns, the first has 3"),
        ("a.xyz", "1 2 3\n4 5 six\n", "'six' in point 1 is not a number"),
        ("a.xyz", "1 2 3\n4 5 6 7\n7 8\n", "point 1 has 4 columns"),
        ("a.xyz", "1,,3\n4,5,6\n", "2 columns"),
        ("a.xyz", "1,5;2,5;3,5\n", "decimal commas"),
        ("a.xyz", "1 2\n", "2 columns"),
        ("a.xyz", "", "is empty"),
        ("a.xyz", "# nothing\n", "does not begin with rows"),
        ("a.xyz", "1 2 3\0\n", "no text"),
        ("a.pts", "5\n1 2 3\n", "claims 5 points, and holds 1 rows"),
        ("a.off", "OFF\n3 0 0\n1 2 3\n", "claims 3 vertices, and holds 1"),
        ("a.off", "OFF\n-3 0 0\n1 2 3\n", "numbers of vertices"),
        ("a.off", "nOFF\n3\n1 0 0\n1 2 3\n", "three dimensions"),
        ("a.off", "PLY\n", "does not begin with OFF"),
        ("a.off", "COFF\n1 0 0\n1 2 3\n", "vertices of 3 numbers, its COFF asks for 6"),
        ("a.obj", "f 1 2 3\n", "no vertices"),
        ("a.obj", "v 1 2 3\nv 1 2\n", "point 1 has 2 columns"),
    ],
)
def test_broken_files_say_which_row(tmp_path, name, text, reason):
    path = tmp_path / name
    path.write_bytes(text.encode())
    with pytest.raises(ReadError, match=reason):
        opened(path).read(0, 10)


def test_off_and_obj_of_every_kind(tmp_path):
    cases = {
        "a.off": ("OFF\n2 1 0\n1 2 3\n4 5 6\n3 0 1 0\n", []),
        "joined.off": ("OFF2 1 0\n1 2 3\n4 5 6\n3 0 1 0\n", []),
        "line.off": ("OFF 2 1 0 # note\n\n# note\n1 2 3\n4 5 6\n3 0 1 0\n", []),
        "points.off": ("OFF\n2 0 0\n1 2 3\n4 5 6", []),
        "c.off": ("COFF\n2 0 0\n1 2 3 9 8 70 255\n4 5 6 9 8 70 255\n", ["red", "green", "blue", "alpha"]),
        "n.off": ("NOFF\n2 0 0\n1 2 3 0 0 1\n4 5 6 0 1 0\n", ["nx", "ny", "nz"]),
        "a.obj": ("mtllib a\no b\n v 1 2 3\nvn 0 0 1\nv\t4 5 6\nvt 0 0\nf 1 2 1\n", []),
        "c.obj": ("v 1 2 3 0.5 0 1\nv 4 5 6 0.5 0 1\n", ["red", "green", "blue"]),
    }
    for name, (text, attributes) in cases.items():
        path = tmp_path / name
        path.write_text(text)
        recording = opened(path)
        assert recording.read(0, 9).coords.tolist() == [[1, 2, 3], [4, 5, 6]], name
        assert [c.canonical for c in recording.channels[3:]] == attributes, name
        assert bool(recording.warnings) == ("\n3 0" in text or "\nf " in text), name
    high = {c.name: c.high for c in opened(tmp_path / "c.off").channels} | {
        c.name: c.high for c in opened(tmp_path / "c.obj").channels
    }
    assert high["alpha"] == 255 and high["red"] == 1.0


def test_which_text_files_are_clouds(tmp_path):
    cases = {
        "cloud.txt": ("1 2 3\n4 5 6\n", "xyz"),
        "named.txt": ("x;y;z;label\n1;2;3;4\n", "xyz"),
        "notes.txt": ("Recorded in June, 3 sites.\n", None),
        "two.txt": ("1 2\n3 4\n", None),
        "raven.txt": ("Selection\tView\tChannel\n1\t2\t3\n", None),
        "labels.txt": ("1.0\t2.0\tblackbird\n", None),
        "ragged.txt": ("1 2 3\n4 5 6 7\n", None),
        "empty.txt": ("", None),
        "sound.txt": ("1.0\t2.0\t3\n", None),
        "water.xyz": ("3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n", None),
        "face.pts": ("version: 1\nn_points: 68\n{\n1 2\n", None),
        "broken.xyz": ("what\n", "xyz"),
        "well.las": ("~VERSION INFORMATION\n", None),
        "broken.las": ("what", "las"),
    }
    (tmp_path / "sound.WAV").write_bytes(b"RIFF")
    for name, (text, expected) in cases.items():
        (tmp_path / name).write_text(text)
        reader = reader_of(tmp_path / name)
        assert (reader.name if reader else None) == expected, name


def test_which_arrays_and_bare_files_are_clouds(tmp_path):
    shapes = {"cloud": (9, 3), "labels": (9,), "images": (4, 9, 9), "features": (9, 384), "pairs": (9, 2)}
    for name, shape in shapes.items():
        np.save(tmp_path / f"{name}.npy", np.zeros(shape))
        assert (reader_of(tmp_path / f"{name}.npy") is not None) == (name == "cloud"), name
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    with pytest.raises(ReadError, match="Python objects"):
        opened(tmp_path / "objects.npy")
    np.savez(tmp_path / "a.mask.npz", changed=np.zeros(3))
    assert reader_of(tmp_path / "a.mask.npz") is None
    np.savez(tmp_path / "a.npz", one=np.zeros((3, 3)), two=np.zeros((3, 3)))
    with pytest.raises(ReadError, match="its arrays: one, two"):
        opened(tmp_path / "a.npz")
    for folder, size, expected in [
        ("velodyne", 32, True),
        ("velodyne_points/data", 32, True),
        ("velodyne", 30, False),
        ("x", 32, False),
    ]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        path = tmp_path / folder / f"{size}.bin"
        path.write_bytes(bytes(size))
        assert (reader_of(path) is not None) == expected
    recording = opened(tmp_path / "velodyne" / "32.bin")
    assert recording.axes.unit == "m" and recording.channels[0].unit == "m" and recording.axes.points == 2


def test_an_endless_line_is_refused_soon(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(b"1 2 3\n" + b"1 " * 5_000_000)
    start = time.perf_counter()
    with pytest.raises(ReadError, match="line of more than"):
        opened(path)
    assert time.perf_counter() - start < 5
