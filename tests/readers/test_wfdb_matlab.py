"""Records whose signals are a MATLAB matrix, against the wfdb library and scipy.io.loadmat."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import scipy.io
import wfdb

from readers import claim, open_recording, scan, write
from readers.schema import Patch, ReadError
from tests.ecg import TWELVE
from tests.wfdb_files import MATLAB_FORMATS, matlab


def values_of(dtype, channels=3, samples=400):
    low, high = {"int16": (-32767, 32767), "int32": (-(2**31) + 1, 2**31 - 1), "uint8": (-127, 127), "uint16": (-32767, 32767)}[
        dtype
    ]
    return np.random.default_rng(1).integers(low, high, (channels, samples))


def test_a_challenge_record_reads_as_wfdb_and_matlab_read_it(tmp_path):
    path = matlab(tmp_path)
    recording = open_recording(path)
    matrix = scipy.io.loadmat(path.with_suffix(".mat"))["val"]
    truth = wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T
    sample = recording.read(0, 500)
    assert np.array_equal(sample.values, truth.astype(np.float32))
    assert np.array_equal(sample.values, (matrix / 1000).astype(np.float32)) and sample.valid.all()
    for start, stop in ((0, 1), (137, 260), (499, 500)):
        assert np.array_equal(recording.read(start, stop).values, sample.values[:, start:stop])
    assert [c.canonical for c in recording.channels] == list(TWELVE)
    assert recording.ids == {"record": "A0001", "age": "74", "sex": "male"}
    assert recording.warnings == () and recording.verify() == ()
    assert recording.files == (path, path.with_suffix(".mat"))


@pytest.mark.parametrize("dtype", MATLAB_FORMATS)
def test_every_number_type_that_wfdb_has_a_format_for(tmp_path, dtype):
    stored = values_of(dtype)
    path = matlab(tmp_path, "m", stored, dtype=dtype, names=["I", "II", "V1"])
    recording = open_recording(path)
    assert np.array_equal(recording.read(0, 400).values, (stored / 1000).astype(np.float32))
    assert np.allclose(wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T, stored / 1000)
    assert recording.verify() == ()


def test_a_big_endian_matrix_is_format_61(tmp_path):
    stored = values_of("int16")
    path = matlab(tmp_path, "m", stored, names=["I", "II", "V1"])
    path.write_text(path.read_text().replace(" 16+24 ", " 61+24 "))
    big = struct.pack(">5i", 1030, 3, 400, 0, 4) + b"val\0" + stored.T.astype(">i2").tobytes()
    path.with_suffix(".mat").write_bytes(big)
    assert np.array_equal(scipy.io.loadmat(path.with_suffix(".mat"))["val"], stored)
    assert np.array_equal(open_recording(path).read(0, 400).values, (stored / 1000).astype(np.float32))


@pytest.mark.parametrize("dtype", MATLAB_FORMATS)
def test_only_patched_numbers_of_the_matrix_change(tmp_path, dtype):
    stored = values_of(dtype)
    path = matlab(tmp_path / "in", "m", stored, dtype=dtype, names=["I", "II", "V1"])
    recording, out = open_recording(path), tmp_path / "out" / "m.hea"
    index = np.array([0, 5, 399])
    written = write(recording, [Patch(1, index, np.array([0.05, -0.1, 0.12]))], out)
    assert (written.changed, written.clipped) == (3, 0)
    before, after = (scipy.io.loadmat(p.with_suffix(".mat"))["val"].astype(np.int64) for p in (path, out))
    before[1, index] = np.array([50, -100, 120]) + {"uint8": 128, "uint16": 32768}.get(dtype, 0)
    assert np.array_equal(before, after)
    assert open_recording(out).verify() == ()
    assert out.with_suffix(".mat").read_bytes()[:24] == path.with_suffix(".mat").read_bytes()[:24]


def test_a_matrix_that_its_header_does_not_fit_says_why(tmp_path):
    stored = values_of("int16")
    path = matlab(tmp_path, "m", stored, names=["I", "II", "V1"])
    file, text = path.with_suffix(".mat"), path.read_text()

    def reason() -> str:
        with pytest.raises(ReadError) as caught:
            open_recording(path)
        return str(caught.value)

    scipy.io.savemat(file, {"val": stored.astype(np.int16)})
    assert "level 5" in reason() and "16+24" in reason()
    scipy.io.savemat(file, {"val": stored.astype(np.float64)}, format="4")
    assert "holds float64 numbers" in reason()
    scipy.io.savemat(file, {"val": stored.T.astype(np.int16)}, format="4")
    assert "400 x 3, expected 3 signals x samples" in reason()
    scipy.io.savemat(file, {"sig": stored.astype(np.int16)}, format="4")
    assert np.array_equal(open_recording(path).read(0, 400).values, (stored / 1000).astype(np.float32))
    scipy.io.savemat(file, {"signals": stored.astype(np.int16)}, format="4")
    assert "from byte 28 on, format 16+24 says 24" in reason()
    path.write_text(text.replace("+24", "+28"))
    assert open_recording(path).verify() == ()
    file.write_bytes(file.read_bytes()[:900])
    assert "m.mat holds 145 of the 400 samples" in reason()
    file.write_bytes(b"")
    assert "m.mat holds 0 of the 400 samples" in reason()


def test_one_signal_may_be_a_row_or_a_column(tmp_path):
    stored = values_of("int16", channels=1)
    path = matlab(tmp_path, "m", stored, names=["I"])
    scipy.io.savemat(path.with_suffix(".mat"), {"val": stored.T.astype(np.int16)}, format="4")
    assert np.array_equal(open_recording(path).read(0, 400).values, (stored / 1000).astype(np.float32))


def test_a_matrix_without_a_header_belongs_to_nobody(tmp_path, shared):
    path = matlab(tmp_path / "a")
    scipy.io.savemat(tmp_path / "other.mat", {"sig": np.zeros((6, 9))})
    found, others = scan(tmp_path)
    assert found == [(path,)] and others == [tmp_path / "other.mat"]
    assert all(claim(other) is None for other in (shared / "ppg" / "troika_mat").glob("*.mat"))
