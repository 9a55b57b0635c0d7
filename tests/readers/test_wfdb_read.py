"""Reading WFDB records, against the wfdb library as the independent truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from readers import open_recording
from readers.cardiac import create_wfdb
from readers.schema import ReadError

FORMATS = ["8", "16", "24", "32", "61", "80", "160", "212", "310", "311"]


def integers(fmt, size, seed=0):
    bits = {"8": 6, "80": 7, "212": 11, "310": 9, "311": 9, "24": 23, "32": 30}.get(fmt, 15)
    if fmt == "8":
        return np.random.default_rng(seed).integers(-100, 100, size).cumsum() + 40
    return np.random.default_rng(seed).integers(-(2**bits) + 1, 2**bits, size)


def assert_reads_as_wfdb(path: Path, **options) -> None:
    recording = open_recording(path)
    truth = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False, **options).e_p_signal
    for channel, expected in enumerate(truth):
        rate = recording.channels[channel].rate_hz
        sample = recording.read(0, len(expected), rate_hz=rate, channels=[channel])
        known = np.isfinite(expected)
        assert np.array_equal(sample.valid[0], known)
        assert np.array_equal(sample.values[0], np.where(known, expected, 0).astype(np.float32))
        part = recording.read(5, 12, rate_hz=rate, channels=[channel])
        assert np.array_equal(part.values[0], sample.values[0, 5:12])


@pytest.mark.parametrize("offset", [0, 17])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_of_fixed_size(tmp_path, write_record, signal_line, fmt, offset):
    for n_signals in (1, 2, 3):
        signals = [signal_line(integers(fmt, 41, s), name=f"V{s + 1}") for s in range(n_signals)]
        path = write_record(tmp_path, f"r{n_signals}", fmt, signals, offset=offset)
        assert_reads_as_wfdb(path)
        assert open_recording(path).verify() == ()


@pytest.mark.parametrize("fmt", ["508", "516", "524"])
def test_flac(tmp_path, fmt):
    bits = int(fmt) - 500
    signals = np.random.default_rng(1).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (300, 2))
    wfdb.wrsamp(
        "f", 100, ["mV"] * 2, ["I", "II"], d_signal=signals, fmt=[fmt] * 2, adc_gain=[3.0] * 2, baseline=[1] * 2,
        write_dir=str(tmp_path),
    )  # fmt: skip
    assert_reads_as_wfdb(tmp_path / "f.hea")
    assert open_recording(tmp_path / "f.hea").verify() == ()


@pytest.mark.parametrize("fmt", ["16", "212", "311"])
def test_several_rates_in_several_files(tmp_path, write_record, signal_line, fmt):
    signals = [
        signal_line(integers(fmt, 160, 0), "II", per_frame=4),
        signal_line(integers(fmt, 40, 1), "RESP", gain="10/NU"),
        signal_line(integers(fmt, 80, 2), "PLETH", per_frame=2, file="m.xyz"),
    ]
    path = write_record(tmp_path, "m", fmt, signals, rate="62.5")
    assert_reads_as_wfdb(path)
    recording = open_recording(path)
    assert [c.rate_hz for c in recording.channels] == [250.0, 62.5, 125.0]
    assert (recording.axes.shape, recording.axes.rate_hz, recording.axes.duration_s) == ((3, 160), 250.0, 0.64)
    assert any("mixed rates" in warning for warning in recording.warnings)
    assert recording.read(0, 160).valid.all()
    assert recording.files == (path, tmp_path / "m.dat", tmp_path / "m.xyz")
    assert recording.verify() == ()


def test_skew(tmp_path, write_record, signal_line):
    one = [signal_line(integers("16", 50, 0), "I"), signal_line(integers("16", 50, 1), "II", skew=3)]
    assert_reads_as_wfdb(write_record(tmp_path, "one", "16", one))
    # Two different skews are more than the library can read, so here each signal is its own truth.
    two = [signal_line(integers("212", 50, s), f"V{s + 1}", skew=2 * s) for s in range(3)]
    sample = open_recording(write_record(tmp_path, "two", "212", two)).read(0, 50)
    for s, signal in enumerate(two):
        expected = ((signal.samples[2 * s :] - 3) / 200).astype(np.float32)
        assert np.array_equal(sample.values[s, : 50 - 2 * s], expected)
        assert sample.valid[s].sum() == 50 - 2 * s


def test_invalid_samples_and_a_lead_of_nothing(tmp_path):
    signals = np.random.default_rng(0).normal(size=(500, 2))
    signals[100:110, 0] = np.nan
    signals[:, 1] = np.nan
    path = create_wfdb(tmp_path, "n", signals, rate_hz=250, names=["I", "II"], units=["mV", "mV"])
    sample = open_recording(path).read(0, 500)
    assert np.array_equal(sample.valid, np.isfinite(signals.T))
    assert np.abs(sample.values - np.nan_to_num(signals.T)).max() < 1e-4
    assert (sample.values[~sample.valid] == 0).all()
    assert open_recording(path).verify() == ()


def test_created_records_keep_annotations_comments_and_offsets(tmp_path):
    signals = np.stack([np.linspace(1e5, 1e5 + 1, 300), np.full(300, -2.5)], axis=1)
    path = create_wfdb(
        tmp_path / "new", "c1", signals, rate_hz=62.5, names=["PPG", "ECG"], units=["NU", "mV"],
        comments=["subject: 7", "age: 30 sex: F"], annotations=[(2.0, "V"), (0.4, "N")],
    )  # fmt: skip
    recording = open_recording(path)
    assert recording.ids == {"record": "c1", "subject": "7", "age": "30", "sex": "female"}
    assert [(e.onset_s, e.label, e.extra["annotator"]) for e in recording.events] == [
        (0.4, "N", "atr"),
        (2.0, "V", "atr"),
    ]
    assert [(c.kind, c.unit, c.si_factor) for c in recording.channels] == [("ppg", "NU", None), ("ecg", "mV", 1e-3)]
    assert np.allclose(recording.read(0, 300).values, signals.T, rtol=1e-6)
    assert recording.warnings == () and recording.verify() == ()


def segments(folder, write_record, signal_line):
    lengths, parts = (30, 20, 25), []
    for k, length in enumerate(lengths):
        two = [signal_line(integers("16", length, 10 * k + s), f"V{s + 1}") for s in range(2)]
        write_record(folder, f"s{k}", "16", two)
        parts.append(np.stack([signal.samples for signal in two]))
    return lengths, parts


def test_segments_of_fixed_layout(tmp_path, write_record, signal_line):
    lengths, parts = segments(tmp_path, write_record, signal_line)
    path = tmp_path / "multi.hea"
    path.write_text("multi/3 2 100 75\n" + "".join(f"s{k} {n}\n" for k, n in enumerate(lengths)))
    assert_reads_as_wfdb(path)
    recording = open_recording(path)
    assert np.array_equal(recording.read(0, 75).values, ((np.hstack(parts) - 3) / 200).astype(np.float32))
    assert recording.verify() == ()
    assert [file.name for file in recording.files][:4] == ["multi.hea", "s0.hea", "s1.hea", "s2.hea"]


def test_segments_of_variable_layout(tmp_path, write_record, signal_line):
    write_record(tmp_path, "a", "212", [signal_line(integers("212", 40, 1), "II", gain="100(5)/mV")])
    write_record(tmp_path, "b", "16", [signal_line(integers("16", 30, s), n) for s, n in enumerate(["V", "II"])])
    layout = "".join(f"~ 0 200/mV 0 0 0 0 0 {name}\n" for name in ("II", "V", "PLETH"))
    (tmp_path / "lay.hea").write_text(f"lay 3 100 0\n{layout}")
    path = tmp_path / "var.hea"
    path.write_text("var/5 3 100 90\nlay 0\na 40\n~ 15\nb 30\n~ 5\n")
    recording = open_recording(path)
    assert [c.missing for c in recording.channels] == [False, False, True]
    assert "2 gaps of 0.2 s in all" in recording.warnings
    truth = wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T
    sample = recording.read(0, 90)
    assert np.array_equal(sample.valid, np.isfinite(truth))
    assert np.array_equal(sample.values, np.nan_to_num(truth).astype(np.float32))
    assert np.array_equal(recording.read(35, 60, channels=[1]).values, sample.values[1:2, 35:60])
    assert recording.verify() == ()


def test_annotations_of_several_annotators(tmp_path):
    path = create_wfdb(tmp_path, "a", np.zeros((1000, 1)), rate_hz=100, names=["II"], units=["mV"])
    where = {"write_dir": str(tmp_path)}
    wfdb.wrann("a", "atr", np.array([100, 300]), ["N", "+"], aux_note=["", "(AFIB"], **where)
    wfdb.wrann("a", "qrs", np.array([200]), ["N"], subtype=np.array([2]), chan=np.array([1]), num=np.array([3]), **where)
    events = open_recording(path).events
    assert [(e.onset_s, e.label, e.duration_s) for e in events] == [(1.0, "N", 0.0), (2.0, "N", 0.0), (3.0, "+", 0.0)]
    assert events[1].extra == {"subtype": 2, "chan": 1, "num": 3, "aux_note": "", "annotator": "qrs"}
    assert events[2].extra["aux_note"] == "(AFIB"
    (tmp_path / "a.ann").write_text("x")
    assert open_recording(path).events == events
    assert len(open_recording(path).verify()) == 1
    (tmp_path / "a.atr").write_text("x")
    with pytest.raises(ReadError, match=r"a\.atr"):
        _ = open_recording(path).events


def test_annotations_with_their_own_clock_and_labels_read_as_wfdb_reads_them(tmp_path):
    path = create_wfdb(tmp_path, "a", np.zeros((1000, 1)), rate_hz=100, names=["II"], units=["mV"])
    own = pd.DataFrame({"label_store": [45], "symbol": ["%"], "description": ["my own"]})
    wfdb.wrann("a", "atr", np.array([10, 720]), ["N", "%"], fs=360, custom_labels=own, write_dir=str(tmp_path))
    truth = wfdb.rdann(str(path.with_suffix("")), "atr")
    events = open_recording(path).events
    assert truth.fs == 360 and truth.symbol == ["N", "%"]
    assert [(e.onset_s, e.label) for e in events] == [(10 / 360, "N"), (2.0, "%")]
    assert path.with_suffix(".atr").read_bytes().count(b"## annotation type definitions") == 1


def test_damaged_definitions_of_annotations_do_not_hang(tmp_path):
    # wfdb 4.3.1 never returns from a note that begins as a definition and is none.
    path = create_wfdb(
        tmp_path, "a", np.zeros((1000, 1)), rate_hz=100, names=["II"], units=["mV"], annotations=[(0.5, "N"), (2.0, "V")]
    )
    file = path.with_suffix(".atr")
    file.write_bytes(file.read_bytes().replace(b"## time resolution", b"## tame resolution"))
    assert b"## tame" in file.read_bytes()
    assert [(e.onset_s, e.label) for e in open_recording(path).events] == [(0.5, "N"), (2.0, "V")]
    file.write_bytes(file.read_bytes().replace(b"## tame resolution: 100", b"## time resolution: 0.0"))
    with pytest.raises(ReadError, match=r"a\.atr .*time resolution of 0\.0 Hz"):
        _ = open_recording(path).events


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        ("# 69 M 1085 1629 x1\n", {"age": "69", "sex": "male"}),
        ("# <age>: 44 <sex>: F <diagnoses>\n", {"age": "44", "sex": "female"}),
        ("# age: 81\n# sex: female\n", {"age": "81", "sex": "female"}),
        ("# TROIKA DATA_05: subject 05, running\n", {"subject": "05"}),
        ("# Patient ID: p-12\n", {"subject": "p-12"}),
        ("# the subject was resting; subjects 3 and 4 were not\n# age: n/a\n", {}),
        ("# Subject: n/a\n", {}),
    ],
)
def test_ids_come_from_explicit_comments_only(tmp_path, write_record, signal_line, comments, expected):
    path = write_record(tmp_path, "subject12", "16", [signal_line(np.arange(9))], comments=comments)
    assert open_recording(path).ids == {"record": "subject12", **expected}


def test_unit_and_rate_that_are_not_written(tmp_path):
    (tmp_path / "x.hea").write_text("x 2\nx.dat 16\nx.dat 16 0 16 5\n")
    (tmp_path / "x.dat").write_bytes(np.arange(20, dtype="<i2").tobytes())
    recording = open_recording(tmp_path / "x.hea")
    assert recording.axes.shape == (2, 10) and recording.axes.rate_hz == 250.0
    assert [c.unit for c in recording.channels] == ["mV", "mV"] and next(c.name for c in recording.channels) == "signal 0"
    assert np.allclose(recording.read(0, 2).values, [[0, 2 / 200], [-4 / 200, -2 / 200]])
    assert any("unit assumed" in w for w in recording.warnings) and any("rate assumed" in w for w in recording.warnings)


def test_broken_records_say_why(tmp_path, write_record, signal_line):
    path = write_record(tmp_path, "101", "212", [signal_line(integers("212", 600, s)) for s in range(2)])
    data = (tmp_path / "101.dat").read_bytes()

    def reason() -> str:
        with pytest.raises(ReadError) as caught:
            open_recording(path)
        return str(caught.value)

    (tmp_path / "101.dat").write_bytes(data[:900])
    assert reason() == "101.dat holds 300 of the 600 samples its header claims"
    (tmp_path / "101.dat").write_bytes(data + b"12345")
    assert any("longer" in warning for warning in open_recording(path).warnings)
    (tmp_path / "101.dat").unlink()
    assert reason() == "101.dat, named by 101.hea, is missing"
    (tmp_path / "101.dat").write_bytes(b"")
    path.write_text(path.read_text().replace(" 100 600", " 100 0"))
    assert reason() == "101.hea holds no samples"
    path.write_text("101 0 100 600\n")
    assert reason() == "101.hea holds no signals"
    path.write_text("101 1 100 600\n101.dat 99 200\n")
    assert "format 99" in reason()
    path.write_text("101/2 1 100 600\ngone 300\ngone2 300\n")
    assert reason() == "gone.hea, named by 101.hea, is missing"
    path.write_bytes(b"")
    assert reason() == "101.hea is empty"
    path.write_bytes(b"\x00\x01garbage")
    assert "101.hea" in reason()
    path.unlink()
    path.mkdir()
    assert reason() == "101.hea is a folder"


def test_a_file_that_shrinks_after_opening(tmp_path, write_record, signal_line):
    path = write_record(tmp_path, "x", "16", [signal_line(np.arange(100))])
    recording = open_recording(path)
    (tmp_path / "x.dat").write_bytes(b"1234")
    with pytest.raises(ReadError, match=r"x\.dat"):
        recording.read(50, 60)


def test_verify_names_what_disagrees(tmp_path, write_record, signal_line):
    path = write_record(tmp_path, "x", "16", [signal_line(np.arange(100), "II"), signal_line(np.arange(100), "V5")])
    data = bytearray((tmp_path / "x.dat").read_bytes())
    data[2] = 9  # first sample of V5, 0 before
    (tmp_path / "x.dat").write_bytes(data)
    assert open_recording(path).verify() == (
        "x.hea: V5 has the checksum 4959, the header says 4950",
        "x.hea: V5 begins with 9, the header says 0",
    )


def test_real_records(shared):
    paths = sorted(path for kind in ("ecg", "ppg") for path in (shared / kind).rglob("*.hea"))
    for path in paths:
        recording = open_recording(path)
        truth = wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T
        sample = recording.read(0, truth.shape[1])
        assert np.array_equal(sample.valid, np.isfinite(truth)), path
        assert np.array_equal(sample.values, np.nan_to_num(truth).astype(np.float32)), path
        assert recording.verify() == (), path
        if path.with_suffix(".atr").exists():
            marks = wfdb.rdann(str(path.with_suffix("")), "atr")
            assert [e.onset_s for e in recording.events] == (marks.sample / truth_rate(path)).tolist()
            assert [e.label for e in recording.events] == marks.symbol


def truth_rate(path: Path) -> float:
    return float(wfdb.rdheader(str(path.with_suffix(""))).fs)
