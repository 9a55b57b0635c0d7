"""Damaged point clouds: only ReadError comes out, soon, and nothing large is allocated."""

from __future__ import annotations

import os
import random
import re
import struct
import time
import tracemalloc

import numpy as np
import pytest

from readers.schema import ReadError
from tests import points_files as made
from tests.points_files import FORMATS, cloud, opened, reader_of, written

NUMBERS = [b"-1", b"0", b"999999999999", b"1e400", b"nan", b"inf", b"4294967295", b"2147483648", b"\xff\xfe", b"x", b"", b"1_0"]


def damaged(good: bytes, rng: random.Random) -> bytes:
    raw = bytearray(good)
    kind, at = rng.randrange(6), rng.randrange(len(raw))
    if kind == 0:
        return bytes(raw[:at])
    if kind == 1:
        raw[at : at + 8] = rng.choice([b"\xff", b"\0", b"\x7f"]) * rng.choice([1, 2, 4, 8])
    if kind == 2:
        for _ in range(4):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    if kind == 3:
        word = rng.choice(list(re.finditer(rb"[^\s]+", bytes(raw[:600]))))
        raw[word.start() : word.end()] = rng.choice(NUMBERS)
    if kind == 4:
        at = rng.randrange(min(len(raw), 400))
        raw[at : at + rng.choice([1, 2, 4, 8])] = rng.randbytes(4)
    if kind == 5:
        raw[at:at] = raw[max(at - 30, 0) : at] * 3
    return bytes(raw)


def use(path) -> bool:
    """Open, read, check and patch; False where that was refused."""
    reader = reader_of(path)
    if reader is None:
        return False
    try:
        recording = opened(path)
        sample = recording.read(0, 10**15, channels=range(len(recording.channels)))
        assert sample.coords.shape == (recording.axes.points, 3)
        assert np.isfinite(sample.coords).all() and np.isfinite(sample.values).all()
        assert sample.values.shape == sample.valid.shape and recording.events == ()
        recording.verify()
        written(recording, [(0, [0], [7.5]), (len(recording.channels) - 1, [0], [1e300])], path.parent / "out" / path.name)
    except ReadError as error:
        assert path.name in str(error)
        return False
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_refused_or_read(tmp_path, name):
    path = FORMATS[name](tmp_path)
    good, rng = path.read_bytes(), random.Random(name)
    start, used = time.perf_counter(), 0
    for _ in range(120):
        path.write_bytes(damaged(good, rng))
        used += use(path)
    path.write_bytes(good)
    # Everything in a compressed archive is under a checksum.
    assert use(path) and (used > 0 or name == "npz")
    assert time.perf_counter() - start < 30
    for raw in (b"", b"\0" * 5000, os.urandom(3000)):
        path.write_bytes(raw)
        if name != "kitti" or not raw:
            with pytest.raises((ReadError, AssertionError)):
                opened(path)


CLAIMS = {
    "ply-little": (b"vertex 40", b"vertex 900000000000"),
    "ply-ascii": (b"vertex 40", b"vertex 900000000"),
    "pcd-binary": (b"WIDTH 40\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 40", b"POINTS 900000000"),
    "pcd-ascii": (b"WIDTH 40\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 40", b"POINTS 900000000"),
    "pcd-compressed": (b"WIDTH 40\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 40", b"POINTS 900000000"),
    "pts": (b"40\n", b"900000000\n"),
    "off": (b"40 0 0", b"900000000 0 0"),
    "npy": (b"(40, 3)", b"(900000000, 3)"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_of_more_points_names_both_numbers(tmp_path, name):
    path = FORMATS[name](tmp_path)
    raw = path.read_bytes()
    assert CLAIMS[name][0] in raw
    path.write_bytes(raw.replace(*CLAIMS[name], 1))
    tracemalloc.start()
    with pytest.raises(ReadError, match=r"claims .*900000000.*\d+"):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("ply-little", b"property float x", b"property quad x", "type 'quad'"),
        ("ply-little", b"property float x", b"property float q", "no column called x"),
        ("ply-little", b"vertex 40", b"vertex -4", "expected 'element NAME COUNT'"),
        ("ply-little", b"vertex 40", b"vertex 0", "holds no points"),
        ("ply-little", b"element vertex", b"element corner", "no element 'vertex'; it has corner"),
        ("ply-little", b"binary_little_endian", b"binary_middle", "format 'binary_middle'"),
        ("ply-little", b"property int label", b"property list uchar int label", "a list, label"),
        ("ply-little", b"end_header", b"end_heade", "header"),
        ("pcd-binary", b"TYPE F", b"TYPE Q", "TYPE Q and SIZE 4"),
        ("pcd-binary", b"SIZE 4", b"SIZE 3", "TYPE F and SIZE 3"),
        ("pcd-binary", b"COUNT 1", b"COUNT -1", "COUNT -1"),
        ("pcd-binary", b"WIDTH 40", b"WIDTH 41", "WIDTH 41 x HEIGHT 1 are 41"),
        ("pcd-binary", b"DATA binary", b"DATA brotli", "DATA 'brotli'"),
        ("pcd-binary", b"FIELDS x y z", b"FIELDS y z", "4 names, 5 sizes"),
    ],
)
def test_headers_say_what_is_wrong(tmp_path, name, old, new, reason):
    path = FORMATS[name](tmp_path)
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))
    with pytest.raises(ReadError, match=re.escape(reason)):
        opened(path)


def test_lists_before_the_vertices_are_refused_and_fixed_rows_skipped(tmp_path):
    columns = cloud(5)
    path = made.ply(tmp_path / "a.ply", columns, before="element head 1\nproperty list uchar uchar a")
    with pytest.raises(ReadError, match="lists of 'head' before its vertices"):
        opened(path)


def test_a_bomb_is_not_expanded(tmp_path):
    head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 300000000\nHEIGHT 1\nPOINTS 300000000\nDATA binary_compressed\n"
    path = tmp_path / "a.pcd"
    path.write_bytes(head.encode() + struct.pack("<II", 8, 3_600_000_000) + bytes(8))
    with pytest.raises(ReadError, match="at most 256 are read"):
        opened(path)
    path.write_bytes(head.replace("300000000", "20000000").encode() + struct.pack("<II", 8, 240_000_000) + bytes(8))
    tracemalloc.start()
    with pytest.raises(ReadError, match="broken compressed data"):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
