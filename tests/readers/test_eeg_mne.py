"""EEGLAB, FIF, GDF and CNT: MNE reads the same samples and events, copies differ in the patched samples only."""

from __future__ import annotations

import os
import pickle
import random
import re
import struct
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
import scipy.io

from readers.brainvision import BrainVisionReader
from readers.eeg import CntReader, GdfReader
from readers.eeglab import SetReader
from readers.fif import FifReader
from readers.schema import Patch, ReadError
from tests import eeg_mne_files as files

READERS = {".vhdr": BrainVisionReader(), ".set": SetReader(), ".fif": FifReader(), ".gdf": GdfReader(), ".cnt": CntReader()}
LIBRARY = {".set": mne.io.read_raw_eeglab, ".fif": mne.io.read_raw_fif, ".gdf": mne.io.read_raw_gdf, ".cnt": mne.io.read_raw_cnt}
SETS = {
    "inside": {}, "flat": {"flat": True}, "compressed": {"compressed": True},
    "flat-compressed": {"flat": True, "compressed": True},
    "double": {"dtype": "f8", "compressed": True}, "beside": {"beside": True}, "whole": {"dtype": "i2", "flat": True},
}  # fmt: skip


def reader(path: Path):
    return READERS[path.suffix]


def library(path: Path) -> mne.io.BaseRaw:
    return LIBRARY[path.suffix](path, verbose="error")


def patch(channel: int, index, values) -> Patch:
    return Patch(channel, np.asarray(index, np.int64), np.asarray(values, np.float64))


def agrees(path: Path, unit: float, onsets: bool = True) -> Any:
    recording, raw = reader(path).open(path), library(path)
    want = raw.get_data() / unit
    got = recording.read(0, recording.axes.shape[1]).values
    assert got.shape == want.shape
    assert np.allclose(got, want, rtol=2e-7, atol=1e-9 if unit == 1e-6 else 0)
    assert [c.name for c in recording.channels] == raw.ch_names
    assert recording.axes.rate_hz == raw.info["sfreq"]
    if onsets:
        shift = raw.first_time if raw.annotations.orig_time else 0
        marks = [(a["onset"] - shift, a["description"]) for a in raw.annotations]
        assert np.allclose([e.onset_s for e in recording.events], [onset for onset, _ in marks])
        # scipy gives MNE a number of EEGLAB as a float.
        assert [e.label for e in recording.events] == [label.removesuffix(".0") for _, label in marks]
    again = pickle.loads(pickle.dumps(recording))
    assert np.array_equal(again.read(77, 130).values, got[:, 77:130])
    assert np.array_equal(recording.read(-5, 5).valid[0], np.arange(-5, 5) >= 0)
    assert recording.verify() == ()
    return recording


# --- EEGLAB


@pytest.mark.parametrize("kind", SETS)
def test_eeglab_is_read_as_by_the_library(tmp_path, kind):
    recording = agrees(files.eeglab(tmp_path, **SETS[kind]), 1e-6)
    assert [c.kind for c in recording.channels] == ["eeg", "eeg", "eeg", "eog"]
    assert [c.canonical for c in recording.channels] == ["Fp1", "Cz", "T7", "VEOG"]
    assert recording.channels[0].reference == "average" and recording.ids == {"subject": "S07"}
    first = recording.events[0]
    assert (first.onset_s, first.duration_s, first.label, first.extra["colour"]) == (0.1, 0.2, "boundary", "red")


def fields(path: Path, flat: bool) -> dict[str, Any]:
    content = scipy.io.loadmat(path, squeeze_me=False)
    if flat:
        return {key: value for key, value in content.items() if not key.startswith("__")}
    return {key: content["EEG"][key][0, 0] for key in content["EEG"].dtype.names}


@pytest.mark.parametrize("name", ["rec", "another"])
@pytest.mark.parametrize("kind", SETS)
def test_every_other_field_of_a_set_stays(tmp_path, kind, name):
    path = files.eeglab(tmp_path / "in", **SETS[kind])
    recording = READERS[".set"].open(path)
    # The last value is beyond 32-bit floats and 16-bit integers.
    written = READERS[".set"].write(recording, [patch(1, [3, 9, 499], [1.0, 2.25, 1e300])], tmp_path / "out" / f"{name}.set")
    flat, beside, dtype = SETS[kind].get("flat", False), "beside" in SETS[kind], SETS[kind].get("dtype", "f4")
    old, new = fields(path, flat), fields(written.path, flat)
    assert old.keys() == new.keys()
    links = {"data", "datfile"} if beside else {"data"}
    for key in old.keys() - links:
        assert repr(old[key]) == repr(new[key]) and old[key].dtype == new[key].dtype
    wanted = np.asarray((files.numbers() / 8).astype(dtype))
    if beside:
        stored = np.fromfile(written.path.with_suffix(".fdt"), "<f4").reshape(-1, 4).T
        assert new["data"].item() == new["datfile"].item() == f"{name}.fdt"
    else:
        stored = new["data"]
        assert stored.dtype == old["data"].dtype
    limits = np.iinfo(dtype) if dtype == "i2" else np.finfo(dtype)
    wanted[1, [3, 9, 499]] = [1, 2, limits.max] if dtype == "i2" else [1.0, 2.25, min(1e300, float(limits.max))]
    assert np.array_equal(stored, wanted)
    assert written.clipped == (dtype != "f8") and written.changed == 3
    assert np.allclose(library(written.path).get_data(), wanted * 1e-6)


def test_whole_numbers_that_matlab_stores_narrowly_are_widened(tmp_path):
    # MATLAB writes an array of doubles that hold small whole numbers as 16-bit integers.
    path = files.eeglab(tmp_path / "in", data=files.numbers(), dtype="f8", flat=True)
    raw = path.read_bytes()
    data = np.ascontiguousarray(files.numbers().T, "<f8").tobytes()
    at = raw.index(data)
    small = np.ascontiguousarray(files.numbers().T, "<i2").tobytes()
    begin = raw.rindex(b"\x0e\0\0\0", 0, at)
    body = raw[begin + 8 : at - 8] + struct.pack("<II", 3, len(small)) + small
    path.write_bytes(raw[:begin] + struct.pack("<II", 14, len(body)) + body + raw[at + len(data) :])
    assert np.array_equal(scipy.io.loadmat(path)["data"], files.numbers())
    recording = READERS[".set"].open(path)
    assert np.array_equal(recording.read(0, 500).values, files.numbers())
    wanted = files.numbers()
    for value in (7.0, 7.5):
        wanted[0, 5] = value
        written = READERS[".set"].write(recording, [patch(0, [5], [value])], tmp_path / "out" / "rec.set")
        assert np.array_equal(scipy.io.loadmat(written.path)["data"], wanted)
        assert np.array_equal(READERS[".set"].open(written.path).read(0, 500).values, wanted.astype(np.float32))


def test_places_of_eeglab(tmp_path):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(4, 3)) * 30 + [10, 0, 60]
    path = files.eeglab(tmp_path, places=places)
    recording, raw = READERS[".set"].open(path), library(path)
    for channel, info in zip(recording.channels[:3], raw.info["chs"], strict=False):
        assert np.allclose(channel.position, info["loc"][:3], atol=1e-9)
        assert (channel.position_source, channel.position_frame) == ("file", "eeglab")
    sphere = places / np.linalg.norm(places, axis=1)[:, None]
    path = files.eeglab(tmp_path, "ball", places=sphere, names=["Fp1", "Cz", "E7", "VEOG"])
    fp1, _, other, _ = READERS[".set"].open(path).channels
    assert fp1.position_source == "standard_1005"
    assert other.position_source == "file (unit sphere)"


def test_places_with_fiducials_are_put_into_the_head_frame(tmp_path):
    rng = np.random.default_rng(1)
    head = rng.normal(size=(4, 3)) * 0.03 + [0, 0.01, 0.06]
    marks = {"nz": (0.0, 0.1, 0.0), "lpa": (-0.08, 0.0, 0.0), "rpa": (0.07, 0.0, 0.0)}
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    to_file = lambda p: ((np.asarray(p) @ turn.T + [0.01, 0.02, -0.03]) * 1000)[..., [1, 0, 2]] * np.array([1, -1, 1])  # noqa: E731
    nodatchans = np.zeros((1, 3), [(key, object) for key in ("labels", "type", "X", "Y", "Z")])
    for k, (label, place) in enumerate(marks.items()):
        nodatchans[0, k] = (label, "FID", *map(float, to_file(place)))
    chaninfo = {"nodatchans": nodatchans}
    path = files.eeglab(tmp_path, places=to_file(head), chaninfo=chaninfo)
    for channel, place in zip(READERS[".set"].open(path).channels[:3], head, strict=False):
        assert channel.position_frame == "head" and np.allclose(channel.position, place, atol=1e-9)


def test_what_eeglab_files_cannot_be_read_say_why(tmp_path):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"trials": 3.0}, "holds 3 epochs, not a continuous recording"),
        ({"pnts": 400.0}, "data of 4 x 500, its header says 4 x 400"),
        ({"srate": -1.0}, "sampling rate -1"),
        ({"instead": "old.dat"}, "old.dat, an old format"),
        ({"instead": "gone.fdt"}, "gone.fdt, named by rec.set, is missing"),
    ]
    for changes, reason in cases:
        with pytest.raises(ReadError, match=reason):
            READERS[".set"].open(files.eeglab(tmp_path, flat=True, compressed=True, **changes))
    path = files.eeglab(tmp_path, beside=True)
    path.with_suffix(".fdt").write_bytes(b"1234")
    with pytest.raises(ReadError, match=r"holds 4 bytes, rec.set claims 8000"):
        READERS[".set"].open(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b" ") + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ReadError, match=r"rec.set is a MATLAB 7.3 file \(HDF5\): save it again"):
        READERS[".set"].open(path)
    scipy.io.savemat(path, {"other": 1.0}, appendmat=False)
    with pytest.raises(ReadError, match="holds no EEG structure, but other"):
        READERS[".set"].open(path)


def test_objects_of_newer_matlab_versions_are_passed_over(tmp_path):
    path = files.eeglab(tmp_path, extra=np.arange(3.0).reshape(1, 3))
    raw = path.read_bytes()
    numbers = struct.pack("<II3d", 9, 24, 0, 1, 2)
    head = struct.pack("<6I", 6, 8, 6, 0, 5, 8) + struct.pack("<2i", 1, 3)
    at = raw.index(head)
    assert raw.count(head) >= 1 and numbers in raw[at:]
    # Class 17 has no dimensions: other bytes lie in their place.
    path.write_bytes(raw[:at] + struct.pack("<6I", 6, 8, 17, 0, 5, 8) + b"\xff" * 8 + raw[at + 32 :])
    recording = READERS[".set"].open(path)
    assert np.array_equal(recording.read(0, 500).values, (files.numbers() / 8).astype(np.float32))


def test_text_of_16_bits_is_read(tmp_path):
    # As MATLAB writes characters; scipy writes UTF-8.
    path = files.eeglab(tmp_path, subject="ABCD")
    raw = path.read_bytes()
    old = struct.pack("<II", 16 | 4 << 16, int.from_bytes(b"ABCD", "little"))
    at = raw.index(old)  # behind the array's dimensions and its empty name
    assert raw.count(old) == 1 and raw[at - 16 : at - 8] == struct.pack("<2i", 1, 4)
    new = struct.pack("<II", 4 | 4 << 16, int.from_bytes("Aé".encode("utf-16-le"), "little"))
    path.write_bytes(raw[: at - 16] + struct.pack("<2i", 1, 2) + raw[at - 8 : at] + new + raw[at + 8 :])
    assert READERS[".set"].open(path).ids == {"subject": "Aé"}


# --- FIF


@pytest.mark.parametrize("fmt", ["single", "double", "int", "short"])
def test_fif_is_read_and_patched_as_it_is_stored(tmp_path, fmt):
    path = files.fif(tmp_path / "in", fmt=fmt)
    recording = agrees(path, 1.0)
    assert [c.kind for c in recording.channels] == ["eeg", "eeg", "eeg", "eog", "stim"]
    assert [c.bad for c in recording.channels] == [False, True, False, False, False]
    assert recording.axes.start_date == "2020-01-02T03:04:05.500000+00:00" and recording.events[1].channels == ("Cz",)
    index = np.arange(95, 305)  # over several buffers
    values = np.linspace(-900, 900, index.size) * (1 if fmt in ("int", "short") else 1e-7)
    written = READERS[".fif"].write(recording, [patch(2, index, values)], tmp_path / "out" / "copy_raw.fif")
    before, after = library(path), library(written.path)
    assert after.orig_format == before.orig_format == fmt
    changed = before.get_data() != after.get_data()
    assert written.changed == changed.sum() <= index.size and not np.delete(changed, 2, axis=0).any()
    assert not changed[2, : index[0]].any() and not changed[2, index[-1] + 1 :].any()
    assert np.allclose(after.get_data()[2, index], values, rtol=1e-6, atol=0.5 if fmt in ("int", "short") else 0)
    assert written.path.stat().st_size == path.stat().st_size
    same = np.frombuffer(path.read_bytes(), "u1") == np.frombuffer(written.path.read_bytes(), "u1")
    assert (~same).sum() <= index.size * recording.layout.dtype.itemsize


def test_a_split_recording_is_one(tmp_path):
    path = files.fif(tmp_path / "in", n_samples=70_000, split="2MB")
    recording = agrees(path, 1.0)
    assert len(recording.files) == 2 and list(READERS[".fif"].members(path)) == [recording.files[1]]
    with pytest.raises(ReadError, match="keep its name"):
        READERS[".fif"].write(recording, [], tmp_path / "out" / "other_raw.fif")
    places = np.array([5, 69_999])
    written = READERS[".fif"].write(recording, [patch(0, places, [1.0, 2.0])], tmp_path / "out" / path.name)
    want = library(path).get_data()
    want[0, places] = [1.0, 2.0]
    assert np.array_equal(library(written.path).get_data(), want)
    recording.files[1].unlink()
    with pytest.raises(ReadError, match=r"rec_raw-1.fif, which continues rec_raw.fif, is missing"):
        READERS[".fif"].open(path)


def test_gaps_in_fif_are_not_valid(tmp_path):
    raw = library(files.fif(tmp_path)).load_data()
    raw.save(tmp_path / "gap_raw.fif", drop_small_buffer=False, overwrite=True, verbose="error")
    # A skip of one buffer between the first and the second: 100 samples.
    path = tmp_path / "rec_raw.fif"
    content, tags, at = path.read_bytes(), [], 0
    while at >= 0:
        kind, type_, size, follow = struct.unpack_from(">4i", content, at)
        tags.append((kind, type_, size, at))
        at = -1 if follow < 0 else follow or at + 16 + size
    second = [tag for tag in tags if tag[0] == 300][1][3]
    pointer = next(tag for tag in tags if tag[0] == 101)[3] + 16
    skip = struct.pack(">4ii", 301, 3, 4, 0, 1)
    without_directory = content[:pointer] + struct.pack(">i", -1) + content[pointer + 4 :]
    path.write_bytes(without_directory[:second] + skip + without_directory[second:])
    recording, raw = READERS[".fif"].open(path), library(path)
    sample = recording.read(0, 600)
    assert recording.axes.shape[1] == len(raw.times) == 600
    assert np.array_equal(sample.valid[0], (np.arange(600) < 100) | (np.arange(600) >= 200))
    assert np.allclose(sample.values, raw.get_data(), rtol=2e-7, atol=0)
    assert "BAD_ACQ_SKIP" in [e.label for e in recording.events] and recording.warnings == ("gaps of 1 s in all",)
    written = READERS[".fif"].write(recording, [patch(0, [99, 150, 200], [1, 2, 3])], tmp_path / "out" / "rec_raw.fif")
    assert written.changed == 2 and written.notes == ("1 samples of Fp1 lie where the recording stores none",)


def test_what_fif_files_cannot_be_read_say_why(tmp_path):
    raw = library(files.fif(tmp_path))
    epochs = mne.make_fixed_length_epochs(raw, 1.0, preload=True, verbose="error")
    epochs.save(tmp_path / "x-epo.fif", verbose="error")
    epochs.average(picks="all").save(tmp_path / "x-ave.fif", verbose="error")
    for name, reason in (("x-epo.fif", "holds epochs"), ("x-ave.fif", "holds averages")):
        with pytest.raises(ReadError, match=f"{reason}, not a continuous recording"):
            READERS[".fif"].open(tmp_path / name)
    (tmp_path / "x_raw.fif.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ReadError, match="compressed"):
        READERS[".fif"].open(tmp_path / "x_raw.fif.gz")


# --- GDF and CNT


@pytest.mark.parametrize("version", ["1.25", "1.94", "2.20"])
def test_gdf_is_read_as_by_the_library(tmp_path, version):
    recording = agrees(files.gdf(tmp_path, version=version), 1e-6)
    assert recording.ids == {"subject": "P3"} and recording.axes.start_date.startswith("2020-01-02T03:04:0")
    assert [e.duration_s for e in recording.events] == [0.2, 0.0]
    assert {c.unit for c in recording.channels} <= {"uV", "µV"} and recording.channels[0].high == 1000.0


def test_gdf_channels_keep_their_rates(tmp_path):
    path = files.gdf(tmp_path, per_record=[100, 50, 100, 20])
    recording = READERS[".gdf"].open(path)
    assert [c.rate_hz for c in recording.channels] == [100, 50, 100, 20] and "mixed rates" in recording.warnings[0]
    for channel, count in enumerate([100, 50, 100, 20]):
        sample = recording.read(0, 5 * count, rate_hz=count, channels=[channel])
        assert np.array_equal(sample.values[0], files.numbers(1, 5 * count, channel)[0] / 2)
    with pytest.raises(ReadError, match="several rates"):
        READERS[".gdf"].write(recording, [], tmp_path / "out" / "rec.gdf")


@pytest.mark.parametrize("dtype", ["<i2", "<i4"])
@pytest.mark.parametrize("together", [0, 50])
@pytest.mark.parametrize("event_type", [1, 2, 3])
def test_cnt_is_read_as_by_the_library(tmp_path, dtype, together, event_type):
    path = files.cnt(tmp_path, dtype=dtype, together=together, event_type=event_type, bad="Cz")
    # MNE takes the header's bytes from the sample numbers of type 3.
    recording = agrees(path, 1e-6, onsets=event_type != 3)
    assert [(e.onset_s, e.duration_s, e.label) for e in recording.events] == [(0.1, 0, "5"), (1.0, 0, "6"), (2.0, 1.0, "BAD_0")]
    assert [c.bad for c in recording.channels] == [False, True, False, False]
    assert recording.ids == {"subject": "P04"} and recording.axes.start_date == "2020-01-02T03:04:05"


@pytest.mark.parametrize("dtype", ["<i2", "<i4"])
@pytest.mark.parametrize("claimed", [470, 520])
def test_the_place_of_the_event_table_counts_more_than_the_number_of_samples(tmp_path, dtype, claimed):
    path = files.cnt(tmp_path, dtype=dtype, claimed=claimed)
    recording = READERS[".cnt"].open(path)
    kind = {"<i2": "int16", "<i4": "int32"}[dtype]
    raw = mne.io.read_raw_cnt(path, data_format=kind, recompute_n_samples=True, verbose="error")
    assert np.allclose(recording.read(0, 500).values * 1e-6, raw.get_data(), rtol=2e-7)
    assert recording.warnings == (f"the header claims {claimed} samples, the file holds 500",)


@pytest.mark.parametrize("make", [files.gdf, files.cnt])
def test_what_has_no_writer_becomes_brainvision_and_says_so(tmp_path, make):
    path = make(tmp_path / "in")
    recording = reader(path).open(path)
    written = reader(path).write(recording, [patch(1, [5, 6], [1.5, np.nan])], tmp_path / "out" / path.name)
    kind = path.suffix[1:].upper()
    assert written.path == tmp_path / "out" / "rec.vhdr" and written.changed == 2
    assert written.notes == (f"{kind} has no writer; {path.name} is written as BrainVision rec.vhdr",)
    copy = BrainVisionReader().open(written.path)
    old, new = recording.read(0, 500), copy.read(0, 500)
    assert not new.valid[1, 6] and new.values[1, 5] == 1.5 and new.valid.sum() == 1999
    same = np.ones((4, 500), bool)
    same[1, [5, 6]] = False
    assert np.array_equal(old.values[same], new.values[same])
    assert [c.name for c in copy.channels] == list(files.NAMES) and [c.unit for c in copy.channels] == [
        c.unit for c in recording.channels
    ]
    assert np.allclose([e.onset_s for e in copy.events], [e.onset_s for e in recording.events])
    assert np.allclose(
        mne.io.read_raw_brainvision(written.path, verbose="error").get_data()[0], library(path).get_data()[0], rtol=1e-6
    )


def test_an_ant_recording_is_no_neuroscan_one(tmp_path):
    path = tmp_path / "x.cnt"
    path.write_bytes(b"RIFF" + bytes(2000))
    assert READERS[".cnt"].claims(path, path.read_bytes()[:100])
    with pytest.raises(ReadError, match="ANT Neuro"):
        READERS[".cnt"].open(path)


# --- All formats


@pytest.mark.parametrize("name", files.FORMATS)
def test_formats_are_claimed_and_nothing_is_overwritten(tmp_path, name):
    path = files.FORMATS[name](tmp_path)
    assert reader(path).claims(path, path.read_bytes()[:4096]) and reader(path).claims(path, b"")
    alone = path.suffix in (".vhdr", ".fif", ".gdf")  # suffixes of one format only
    assert reader(path).claims(path, b"PNG and so on, for sure") is alone
    assert path.suffix != ".gdf" or not reader(path).claims(path, b"nodedef>name VARCHAR")
    assert list(reader(path).groups([path])) == [(path,)]
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    if path.suffix not in (".gdf", ".cnt"):
        with pytest.raises(ReadError, match="overwrite"):
            reader(path).write(reader(path).open(path), [], path)
    with pytest.raises(ReadError, match="outside"):
        reader(path).write(reader(path).open(path), [patch(0, [-1], [0.0])], tmp_path / "o" / path.name)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.is_file()} == before


def test_the_domain_follows_the_channels(tmp_path):
    assert reader(files.gdf(tmp_path)).open(tmp_path / "rec.gdf").domain == "eeg"
    path = files.gdf(tmp_path, names=["ECG I", "ECG II", "PLETH", "RESP"])
    recording = reader(path).open(path)
    assert recording.domain == "cardiac" and [c.canonical for c in recording.channels[:2]] == ["I", "II"]
    path = files.brainvision(tmp_path, names=["ECG I", "V1", "PLETH", "RESP"])
    assert reader(path).open(path).domain == "cardiac" and "cardiac" in reader(path).domains


def test_a_window_of_a_long_file_is_not_the_whole_file(tmp_path):
    path = files.brainvision(tmp_path / "a", data=np.zeros((4, 1)), fmt="IEEE_FLOAT_32")
    with path.with_suffix(".eeg").open("r+b") as file:
        file.truncate(4 * 4 * 200_000_000)  # 3.2 GB of a sparse file
    import tracemalloc

    recording = READERS[".vhdr"].open(path)
    tracemalloc.start()
    sample = recording.read(199_000_000, 199_001_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.valid.all() and peak < 2_000_000


def mutated(raw: bytes, rng: random.Random) -> bytes:
    out = bytearray(raw)
    region = min(len(out), rng.choice([len(out), 2000, 400]))
    at, way = rng.randrange(region), rng.randrange(6)
    if way == 0:
        return bytes(out[:at])
    if way == 1:
        for _ in range(rng.randrange(1, 20)):
            out[rng.randrange(region)] = rng.randrange(256)
    elif way == 2:
        out[at : at + 4] = struct.pack(rng.choice("<>") + "i", rng.choice([-1, 0, 2**31 - 1, -(2**31), 0x7F800000, 0x7FC00000]))
    elif way == 3:
        out[at : at + 60] = bytes(len(out[at : at + 60]))
    elif way == 4:
        out[at : at + 8] = struct.pack("<d", rng.choice([np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0]))
    else:
        digits = [k for k in range(region) if chr(out[k]).isdigit()]
        at = rng.choice(digits) if digits else at
        out[at : at + 1] = rng.choice([b"-1", b"99999999999999999999", b"0", b"1e400", b"nan", b"\xff\xfe", b"", b","])
    return bytes(out)


@pytest.mark.parametrize("name", files.FORMATS)
def test_only_read_errors_come_out_of_broken_files(tmp_path, name):
    handle = files.FORMATS[name](tmp_path / "good")
    good = {file.name: file.read_bytes() for file in handle.parent.iterdir()}
    rng, outcomes = random.Random(name), []
    for _ in range(60):
        victim = handle.name if rng.random() < 0.6 else rng.choice(sorted(good))
        for file, raw in good.items():
            (tmp_path / file).write_bytes(mutated(raw, rng) if file == victim else raw)
        path = tmp_path / handle.name
        try:
            list(reader(path).members(path))
            recording = reader(path).open(path)
            recording.read(-5, 50)
            recording.read(recording.axes.shape[1] - 20, recording.axes.shape[1] + 5)
            recording.verify()
            assert all(np.isfinite(event.onset_s) for event in recording.events)
            reader(path).write(recording, [patch(0, [0], [1e6])], tmp_path / "out" / path.name)
            outcomes.append(True)
        except ReadError as error:
            assert str(error)
            outcomes.append(False)
    assert any(outcomes) and not all(outcomes)


# --- Files that change, and reading in small steps

STORED = {
    **files.FORMATS,
    "eeglab-beside": lambda folder: files.eeglab(folder, beside=True),
    "eeglab-plain": lambda folder: files.eeglab(folder, dtype="f8"),
    "gdf-mixed": lambda folder: files.gdf(folder, per_record=(100, 50, 100, 25)),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("left", [0.0, 0.7])
def test_a_file_that_becomes_shorter_is_named(tmp_path, name, left):
    path = STORED[name](tmp_path)
    recording = reader(path).open(path)
    stored = max(recording.files, key=lambda file: file.stat().st_size)
    os.truncate(stored, int(stored.stat().st_size * left))
    jobs = [lambda: recording.read(0, recording.axes.shape[1]), lambda: reader(path).open(path)]
    channel = len(recording.channels) - 1
    last = patch(channel, [recording.stored(channel) - 1], [1.0])
    for job in [*jobs, recording.verify, lambda: reader(path).write(recording, [last], tmp_path / "out" / path.name)]:
        try:
            job()
        except ReadError as error:
            assert stored.name in str(error) or path.name in str(error)
    with pytest.raises(ReadError, match=re.escape(stored.name)):
        jobs[0]()
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", STORED)
def test_small_steps_read_and_write_the_same(tmp_path, monkeypatch, name):
    path = STORED[name](tmp_path)
    recording = reader(path).open(path)
    n_samples = recording.axes.shape[1]
    truth, checked = recording.read(0, n_samples), recording.verify()
    patches = [patch(1, [0, 3, 4, 99, n_samples - 1], [1.0, 2.0, 3.0, 4.0, 5.0]), patch(0, range(50), np.arange(50.0))]
    one_rate = len({channel.rate_hz for channel in recording.channels}) == 1  # others are not written
    large = reader(path).write(recording, patches, tmp_path / "large" / path.name) if one_rate else None
    for step in (1, 64):
        monkeypatch.setattr("readers.gdf._BLOCK_BYTES", step)
        monkeypatch.setattr("readers.gdf.STEP", step)
        monkeypatch.setattr("readers.eeg_matrix.STEP", step)
        monkeypatch.setattr("readers.eeg_matrix._PATCHED_BYTES", step)
        monkeypatch.setattr("readers.file_bytes._AHEAD_BYTES", step)
        again = reader(path).open(path)
        assert np.array_equal(again.read(0, n_samples).values, truth.values, equal_nan=True) and again.verify() == checked
        assert np.array_equal(again.read(7, 91).values, truth.values[:, 7:91], equal_nan=True)
        if large is None:
            continue
        small = reader(path).write(again, patches, tmp_path / f"small{step}" / path.name)
        assert (small.changed, small.clipped, small.notes) == (large.changed, large.clipped, large.notes)
        for file in (tmp_path / "large").iterdir():
            assert file.read_bytes() == (small.path.parent / file.name).read_bytes()
