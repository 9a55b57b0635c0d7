"""Damaged volumes: only ReadError comes out, quickly and in little memory."""

from __future__ import annotations

import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from readers.mri import NiftiReader
from readers.schema import Box, Patch, ReadError
from readers.volumes import foreground
from tests.mri_files import FORMATS, compress, volume

READER = NiftiReader()
NUMBERS = [struct.pack("<h", n) for n in (-1, 0, 32767, -32768)] + [struct.pack(">i", n) for n in (-1, 2**31 - 1)]
NUMBERS += [struct.pack("<f", n) for n in (np.nan, np.inf, -np.inf, 0, -1, 1e38, 1e-38)] + [b"\xff\xfe\xc3\x28", bytes(8)]


def damage(rng: random.Random, raw: bytes) -> bytes:
    content = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(["number", "number", "bytes", "cut", "zero", "grow"])
        at = rng.randrange(min(len(content), 560) or 1) if rng.random() < 0.8 else rng.randrange(len(content) or 1)
        if kind == "number":
            value = rng.choice(NUMBERS)
            content[at : at + len(value)] = value
        elif kind == "bytes":
            content[at : at + 8] = rng.randbytes(8)
        elif kind == "cut":
            del content[at:]
        elif kind == "zero":
            content[at : at + 40] = bytes(40)
        else:
            content += rng.randbytes(50)
    return bytes(content)


def use(path: Path, out: Path) -> bool:
    """Everything that is done with a recording; whether it could be opened."""
    if not READER.claims(path, path.read_bytes()[:4096]):
        return False
    list(READER.members(path))
    try:
        recording = READER.open(path)
    except ReadError as error:
        assert path.stem.split(".")[0] in str(error)
        return False
    shape, _ = recording.grid()
    assert np.isfinite(recording.axes.affine).all() and min(recording.axes.spacing_mm) > 0
    steps: list[Callable[[], object]] = [
        lambda: recording.read(Box((0, 0, 0), tuple(min(n, 24) for n in shape))),
        lambda: recording.read(Box((-4, -4, 2), (8, 8, 9)), spacing_mm=2.0),
        lambda: foreground(recording, 3.0),
        recording.verify,
        lambda: list(recording.events),
        lambda: READER.write(recording, [Patch(0, np.array([0, 5]), np.array([1.0, 7.0]))], out / path.name),
    ]
    for step in steps:
        try:
            step()
        except ReadError as error:
            assert str(error)
    return True


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_damaged_files_raise_nothing_but_read_errors(tmp_path, name):
    rng = random.Random(name)
    handle = FORMATS[name](tmp_path / "in")
    files = sorted(handle.parent.iterdir())
    clean = {file: file.read_bytes() for file in files}
    assert use(handle, tmp_path / "out")
    opened = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the whole run of tests
    for _ in range(100):
        victim = rng.choice(files)
        victim.write_bytes(damage(rng, clean[victim]))
        opened += use(handle, tmp_path / "out")
        victim.write_bytes(clean[victim])
    assert 10 < opened < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_every_length_of_a_cut_file_is_refused(tmp_path):
    for packed in (False, True):
        path = volume(tmp_path, "cut_T1w", np.arange(60).reshape(3, 4, 5), compressed=packed)
        raw = path.read_bytes()
        for length in range(0, len(raw), 7):
            path.write_bytes(raw[:length])
            with pytest.raises(ReadError, match="cut_T1w"):
                READER.open(path).read(Box((0, 0, 0), (3, 4, 5)))


def test_a_small_file_that_decodes_to_much_more_is_stopped(tmp_path):
    path = volume(tmp_path, "bomb_T1w", np.zeros((4, 4, 4)))
    with path.open("ab") as file:
        file.truncate(20 * 2**20)
    path = compress(path)
    recording = READER.open(path)
    assert recording.read(Box((0, 0, 0), (4, 4, 4))).valid.all()
    with pytest.raises(ReadError, match="decodes to more than"):
        READER.write(recording, [Patch(0, np.array([0]), np.array([1.0]))], tmp_path / "out" / path.name)
