"""Writing WFDB records back: only the patched samples change, and the wfdb library agrees."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from readers import open_recording, write
from readers.cardiac import create_wfdb
from readers.schema import Patch, ReadError

BITS = {"16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}


def stored(path: Path) -> list[np.ndarray]:
    """The stored integers, as the library reads them."""
    name, options = str(path.with_suffix("")), {"smooth_frames": False, "ignore_skew": True}
    if wfdb.rdheader(name).fmt[0] != "61":
        return wfdb.rdrecord(name, physical=False, **options).e_d_signal
    # wfdb 4.3.1 fails on the integers of format 61: recover them from the physical values.
    record = wfdb.rdrecord(name, **options)
    known = [p * g + b for p, g, b in zip(record.e_p_signal, record.adc_gain, record.baseline, strict=True)]
    return [np.where(np.isnan(d), -(2**15), np.rint(d)).astype(np.int64) for d in known]


def patch(recording, channel, index, values) -> Patch:
    return Patch(channel, np.asarray(index, np.int64), np.asarray(values, np.float64))


@settings(max_examples=120, deadline=None)
@given(data=st.data(), fmt=st.sampled_from(sorted(BITS)), seed=st.integers(0, 1000))
def test_only_patched_samples_change(write_record, signal_line, data, fmt, seed):
    rng = np.random.default_rng(seed)
    limit = 2 ** (BITS[fmt] - 1)
    n_frames, n_signals = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    per_frame = [data.draw(st.integers(1, 3)) for _ in range(n_signals)]
    skews = [data.draw(st.sampled_from([0, 0, 1, 3])) for _ in range(n_signals)]
    split = data.draw(st.booleans())
    signals = [
        signal_line(
            rng.integers(-limit, limit, n_frames * p),
            f"V{s}",
            p,
            skews[s],
            "100(7)/mV",
            "b.xyz" if split and s else None,
        )
        for s, p in enumerate(per_frame)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        path = write_record(source, "b", fmt, signals, offset=data.draw(st.sampled_from([0, 5])), end="\r\n")
        recording = open_recording(path)
        expected = [signal.samples.copy() for signal in signals]
        clipped = changed = 0
        patches = []
        for channel in data.draw(st.lists(st.integers(0, n_signals - 1), unique=True)):
            p, skew = per_frame[channel], skews[channel]
            index = rng.permutation(n_frames * p)[: data.draw(st.integers(0, n_frames * p))]
            digital = rng.integers(int(-1.2 * limit), int(1.2 * limit), index.size)
            patches.append(patch(recording, channel, index, (digital - 7) / 100))
            inside = index + skew * p < n_frames * p
            limited = np.clip(digital, 1 - limit, limit - 1)[inside]
            places = index[inside] + skew * p
            clipped += int((limited != digital[inside]).sum())
            changed += int((expected[channel][places] != limited).sum())
            expected[channel][places] = limited
        out = Path(folder) / "out" / "b.hea"
        written = write(recording, patches, out)
        assert (written.path, written.changed, written.clipped) == (out, changed, clipped)
        for want, got in zip(expected, stored(out), strict=True):
            assert np.array_equal(want, got)
        header = wfdb.rdheader(str(out.with_suffix("")))
        assert [c % 65536 for c in header.checksum] == [int(e.sum()) % 65536 for e in expected]
        assert all(-32768 <= c <= 32767 for c in header.checksum)
        assert header.init_value == [e[0] for e in expected]
        assert open_recording(out).verify() == ()
        if not changed:
            assert all((out.parent / f.name).read_bytes() == f.read_bytes() for f in recording.files)
        for f in recording.files[1:]:
            assert (out.parent / f.name).stat().st_size == f.stat().st_size
        assert sorted(f.name for f in out.parent.iterdir()) == sorted(f.name for f in recording.files)


def test_a_long_patch_is_done_in_steps(tmp_path):
    signals = np.random.default_rng(0).normal(size=(700_000, 2))
    path = create_wfdb(tmp_path / "in", "long", signals, rate_hz=500, names=["I", "II"], units=["mV"] * 2)
    recording = open_recording(path)
    index = np.arange(3, 700_000, 2)
    out = tmp_path / "out" / "long.hea"
    write(recording, [patch(recording, 1, index, np.full(index.size, 0.5))], out)
    before, after = stored(path), stored(out)
    assert np.array_equal(before[0], after[0])
    same = np.ones(700_000, bool)
    same[index] = False
    assert np.array_equal(before[1][same], after[1][same])
    assert np.allclose(open_recording(out).read(0, 700_000).values[1, index], 0.5, atol=1e-4)
    assert open_recording(out).verify() == ()


def test_segments_are_patched_where_the_samples_are(tmp_path, write_record, signal_line):
    source = tmp_path / "in"
    write_record(source, "a", "212", [signal_line(np.arange(40), "II", gain="100(5)/mV")])
    two = [signal_line(np.arange(30), "V"), signal_line(np.arange(30) - 9, "II")]
    write_record(source, "b", "16", two)
    layout = "".join(f"~ 0 200/mV 0 0 0 0 0 {name}\n" for name in ("II", "V"))
    (source / "lay.hea").write_text(f"lay 2 100 0\n{layout}")
    (source / "v.hea").write_text("v/4 2 100 85\nlay 0\na 40\n~ 15\nb 30\n")
    recording = open_recording(source / "v.hea")
    out = tmp_path / "out" / "v.hea"
    written = write(recording, [patch(recording, 0, [0, 39, 45, 55, 84], [1, 2, 3, 4, 5])], out)
    assert written.changed == 4 and written.notes == ("1 samples of II lie where the record stores none",)
    before = wfdb.rdrecord(str(source / "v")).p_signal
    after = wfdb.rdrecord(str(out.with_suffix(""))).p_signal
    before[[0, 39, 55, 84], 0] = [1, 2, 4, 5]
    assert np.allclose(before, after, equal_nan=True)
    assert open_recording(out).verify() == ()
    assert (out.parent / "v.hea").read_bytes() == (source / "v.hea").read_bytes()


def test_nan_becomes_the_invalid_code_and_the_last_of_two_values_counts(tmp_path):
    path = create_wfdb(tmp_path / "in", "x", np.ones((50, 1)), rate_hz=100, names=["I"], units=["mV"])
    recording = open_recording(path)
    out = tmp_path / "out" / "x.hea"
    write(recording, [patch(recording, 0, [4, 9, 9], [np.nan, 0.5, 0.25])], out)
    sample = open_recording(out).read(0, 50)
    assert np.flatnonzero(~sample.valid[0]).tolist() == [4]
    assert sample.values[0, 9] == pytest.approx(0.25, abs=1e-4)
    assert open_recording(out).verify() == ()


def test_unsigned_checksums_stay_unsigned(tmp_path):
    # The library writes checksums of 0..65535, the C library and our test records -32768..32767.
    path = create_wfdb(tmp_path / "in", "x", -np.ones((2, 1)), rate_hz=100, names=["I"], units=["mV"])
    recording = open_recording(path)
    assert recording.header.signals[0].checksum == -2 * 16_000 % 65536 > 32767
    for k, value in enumerate(np.linspace(-1, 1, 9)):
        out = tmp_path / str(k) / "x.hea"
        write(recording, [patch(recording, 0, [1], [value])], out)
        assert open_recording(out).header.signals[0].checksum == int(stored(out)[0].sum()) % 65536


def test_annotations_and_comments_travel_with_the_copy(tmp_path):
    path = create_wfdb(
        tmp_path / "in", "x", np.ones((50, 1)), rate_hz=100, names=["I"], units=["mV"],
        comments=["subject: 3"], annotations=[(0.1, "N")],
    )  # fmt: skip
    out = tmp_path / "out" / "x.hea"
    write(open_recording(path), [], out)
    assert open_recording(out).ids == open_recording(path).ids
    assert [e.label for e in open_recording(out).events] == ["N"]


def test_what_cannot_be_written_says_why(tmp_path, write_record, signal_line):
    path = create_wfdb(tmp_path / "in", "x", np.ones((50, 1)), rate_hz=100, names=["I"], units=["mV"])
    recording = open_recording(path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    out = tmp_path / "out" / "x.hea"
    for patches, target, reason in [
        ([], path, "another folder"),
        ([], tmp_path / "out" / "y.hea", "keep its name"),
        ([patch(recording, 1, [0], [0])], out, "no channel 1"),
        ([patch(recording, 0, [50], [0])], out, "outside"),
        ([patch(recording, 0, [-1], [0])], out, "outside"),
        ([patch(recording, 0, [1, 2], [0])], out, "indices"),
    ]:
        with pytest.raises(ReadError, match=reason):
            write(recording, patches, target)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    assert not out.exists()
    flac = {"fmt": ["516"], "adc_gain": [1.0], "baseline": [0], "write_dir": str(tmp_path / "in")}
    wfdb.wrsamp("f", 100, ["mV"], ["I"], d_signal=np.arange(99)[:, None], **flac)
    difference = write_record(tmp_path / "in", "d", "8", [signal_line(np.arange(50))])
    for other, fmt in ((tmp_path / "in" / "f.hea", "516"), (difference, "8")):
        recording = open_recording(other)
        with pytest.raises(ReadError, match=f"restore cannot write WFDB format {fmt}"):
            write(recording, [patch(recording, 0, [1], [0.0])], tmp_path / "out" / other.name)
        write(recording, [], tmp_path / "out" / other.name)
        assert open_recording(tmp_path / "out" / other.name).verify() == ()


def test_a_copy_that_fails_leaves_nothing(tmp_path):
    path = create_wfdb(tmp_path / "in", "x", np.ones((50, 1)), rate_hz=100, names=["I"], units=["mV"])
    recording = open_recording(path)
    (tmp_path / "in" / "x.dat").unlink()
    with pytest.raises(ReadError, match="cannot be written"):
        write(recording, [], tmp_path / "out" / "x.hea")
    assert list((tmp_path / "out").iterdir()) == []


def test_real_records_are_patched_in_place(shared, tmp_path):
    for k, name in enumerate(["mitdb/100", "ptbdb/s0010_re", "challenge2015/v102s"]):
        path = shared / "ecg" / f"{name}.hea"
        recording = open_recording(path)
        out = tmp_path / str(k) / path.name
        index = np.arange(1000, 1400)
        channel = len(recording.channels) - 1
        write(recording, [patch(recording, channel, index, np.full(400, 0.03))], out)
        before, after = stored(path), stored(out)
        before[channel][index] = after[channel][index]
        assert all(np.array_equal(b, a) for b, a in zip(before, after, strict=True))
        assert np.allclose(open_recording(out).read(1000, 1400).values[channel], 0.03, atol=3e-3)
        assert open_recording(out).verify() == ()
        assert len(open_recording(out).events) == len(recording.events)


def test_an_initial_value_that_is_no_first_sample_is_left_alone(tmp_path, write_record, signal_line):
    path = write_record(tmp_path / "in", "m", "16", [signal_line(np.arange(10, 30), per_frame=2)])
    mean = path.read_text().replace(" 0 10 390 ", " 0 11 390 ")
    assert mean != path.read_text()
    path.write_text(mean)
    recording = open_recording(path)
    assert recording.verify() == ()
    write(recording, [patch(recording, 0, [0], [0.0])], tmp_path / "out" / "m.hea")
    assert (tmp_path / "out" / "m.hea").read_text() == mean.replace(" 390 ", f" {390 - 10 + 3} ")
