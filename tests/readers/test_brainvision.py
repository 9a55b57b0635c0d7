"""BrainVision: MNE reads the same samples and markers, and a copy differs in the patched samples only."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.brainvision import BrainVisionReader, BrainVisionRecording
from readers.brainvision_write import create_brainvision
from readers.schema import Event, Patch, ReadError
from tests.eeg_mne_files import NAMES, brainvision, numbers

FORMATS = ("INT_16", "INT_32", "IEEE_FLOAT_32")
DTYPES = {"INT_16": "<i2", "INT_32": "<i4", "IEEE_FLOAT_32": "<f4"}
READER = BrainVisionReader()


def library(path: Path) -> mne.io.BaseRaw:
    return mne.io.read_raw_brainvision(path, misc=[], verbose="error")


def patch(channel: int, index, values) -> Patch:
    return Patch(channel, np.asarray(index, np.int64), np.asarray(values, np.float64))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("orientation", ["MULTIPLEXED", "VECTORIZED"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_the_library_reads_the_same(tmp_path, fmt, orientation, encoding):
    path = brainvision(tmp_path, fmt=fmt, orientation=orientation, encoding=encoding)
    recording, raw = READER.open(path), library(path)
    volts = np.array([channel.si_factor for channel in recording.channels])[:, None]
    assert [c.name for c in recording.channels] == raw.ch_names == list(NAMES)
    assert [c.unit for c in recording.channels] == ["µV", "µV", "mV", "µV"]
    assert np.allclose(recording.read(0, 500).values * volts, raw.get_data(), rtol=2e-7, atol=0)
    assert np.array_equal(recording.read(-3, 7).valid[0], np.arange(-3, 7) >= 0)
    assert np.array_equal(recording.read(123, 200).values, recording.read(0, 500).values[:, 123:200])
    assert recording.axes.rate_hz == raw.info["sfreq"] and recording.axes.shape == (4, 500)
    assert recording.axes.start_date == "2020-01-02T03:04:05.678901"
    assert raw.info["meas_date"].isoformat().startswith(recording.axes.start_date)
    marks = [(e.onset_s, e.duration_s, e.label) for e in recording.events]
    assert marks == [(a["onset"], a["duration"], a["description"]) for a in raw.annotations]
    assert recording.events[1].channels == ("Cz",)
    assert recording.verify() == () and recording.warnings == ()
    assert pickle.loads(pickle.dumps(recording)).read(5, 9).values.tolist() == recording.read(5, 9).values.tolist()


def test_electrodes_are_recognised_and_drawings_of_caps_used_for_the_others(tmp_path):
    names = ("Fp1", "EEG 7", "X", "VEOG")
    extra = ["[Coordinates]", "Ch1=1,-92,-72", "Ch2=1,0,0", "Ch3=1,90,0", "Ch4=0,0,0"]
    fp1, vertex, other, eog = READER.open(brainvision(tmp_path, names=names, extra=extra)).channels
    assert (fp1.canonical, fp1.position_source) == ("Fp1", "standard_1005")
    assert vertex.position_source == "file (unit sphere)" and vertex.position[2] > 0.13
    assert other.kind == "misc" and other.position is None and eog.kind == "eog" and eog.position is None


def test_a_later_segment_is_an_event(tmp_path):
    marks = ["New Segment,,1,1,0,20200102030405678901", "New Segment,,201,1,0,20200102030505678901", "what"]
    recording = READER.open(brainvision(tmp_path, markers=marks))
    assert [(e.onset_s, e.label, dict(e.extra)) for e in recording.events] == [
        (2.0, "New Segment", {"date": "2020-01-02T03:05:05.678901"})
    ]
    assert recording.warnings == ("1 lines of rec.vmrk are no markers",)


def test_the_placeholder_stands_for_the_name(tmp_path):
    path = brainvision(tmp_path, data_name="$b.eeg")
    assert READER.open(path).files == (path, tmp_path / "rec.eeg", tmp_path / "rec.vmrk")
    assert set(READER.members(path)) == {tmp_path / "rec.eeg", tmp_path / "rec.vmrk"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("DataFile=rec.eeg", "DataFile=gone.eeg", "gone.eeg, named by rec.vhdr, is missing"),
        ("INT_16", "INT_24", "binary format INT_24, expected one of INT_16"),
        ("=BINARY", "=ASCII", "only binary"),
        ("MULTIPLEXED", "SIDEWAYS", "orientation SIDEWAYS"),
        ("NumberOfChannels=4", "NumberOfChannels=400", "claims 400: Ch5 is missing"),
        ("NumberOfChannels=4", "NumberOfChannels=-4", "expected a number"),
        ("SamplingInterval=10000.0", "SamplingInterval=0", "expected a number"),
        ("SamplingInterval=10000.0", "SamplingInterval=nan", "expected a number"),
        (",0.5,", ",0,", "resolution 0"),
        ("Brain Vision Data", "Something else", "no BrainVision header"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, old, new, reason):
    path = brainvision(tmp_path)
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(ReadError, match=reason):
        READER.open(path)


def test_big_endian_data(tmp_path):
    path = brainvision(tmp_path, extra=["[Binary Infos]", "UseBigEndianOrder=YES"])
    path.with_suffix(".eeg").write_bytes(np.ascontiguousarray(numbers().T, ">i2").tobytes())
    recording = READER.open(path)
    assert np.array_equal(recording.read(0, 500).values[2], numbers()[2])
    written = READER.write(recording, [patch(2, [7], [-5])], tmp_path / "out.vhdr")
    stored = np.fromfile(written.path.with_suffix(".eeg"), ">i2").reshape(-1, 4).T
    assert stored[2, 7] == -5 and (stored != numbers()).sum() == 1


def test_sizes_that_disagree(tmp_path):
    path = brainvision(tmp_path)
    data = tmp_path / "rec.eeg"
    data.write_bytes(data.read_bytes()[:-3])
    recording = READER.open(path)
    assert recording.axes.shape == (4, 499) and len(recording.warnings) == 2
    data.write_bytes(b"1234567")
    with pytest.raises(ReadError, match="holds 7 bytes, less than one sample of 4 channels"):
        READER.open(path)
    path = brainvision(tmp_path, "v", orientation="VECTORIZED")
    (tmp_path / "v.eeg").write_bytes((tmp_path / "v.eeg").read_bytes()[:-8])
    with pytest.raises(ReadError, match="holds 499 samples of 4 channels, v.vhdr claims 500"):
        READER.open(path)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), fmt=st.sampled_from(FORMATS), orientation=st.sampled_from(["MULTIPLEXED", "VECTORIZED"]))
def test_only_patched_samples_change(data, fmt, orientation):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with tempfile.TemporaryDirectory() as where:
        source = brainvision(
            Path(where) / "in", fmt=fmt, orientation=orientation, encoding=data.draw(st.sampled_from(["utf-8", "latin-1"]))
        )
        recording = READER.open(source)
        assert isinstance(recording, BrainVisionRecording)
        stored = numbers().astype(DTYPES[fmt])
        wanted, clipped, patches = stored.copy(), 0, []
        top = 32767 if fmt == "INT_16" else 1e5
        for channel in data.draw(st.lists(st.integers(0, 3), unique=True)):
            index = rng.permutation(500)[: data.draw(st.integers(0, 60))]
            value = np.rint(rng.uniform(-1.5 * top, 1.5 * top, index.size))
            patches.append(patch(channel, index, value * recording.gains[channel]))
            limited = np.clip(value, -32768, 32767) if fmt == "INT_16" else value
            clipped += int((limited != value).sum())
            wanted[channel, index] = limited
        name = data.draw(st.sampled_from(["rec", "neu"]))
        out = Path(where) / "out" / f"{name}.vhdr"
        written = READER.write(recording, patches, out)
        raw = np.frombuffer((out.parent / f"{name}.eeg").read_bytes(), DTYPES[fmt])
        got = raw.reshape(-1, 4).T if orientation == "MULTIPLEXED" else raw.reshape(4, -1)
        if fmt == "IEEE_FLOAT_32":
            assert np.allclose(got, wanted, rtol=1e-6) and np.array_equal(got[wanted == stored], wanted[wanted == stored])
        else:
            assert np.array_equal(got, wanted)
        assert (written.path, written.changed, written.clipped) == (out, int((got != stored).sum()), clipped)
        for suffix in (".vhdr", ".vmrk"):
            text = source.with_suffix(suffix).read_bytes()
            assert out.with_suffix(suffix).read_bytes() == text.replace(b"=rec.", f"={name}.".encode())
        assert sorted(f.name for f in out.parent.iterdir()) == [f"{name}{s}" for s in (".eeg", ".vhdr", ".vmrk")]
        assert np.allclose(
            library(out).get_data(), READER.open(out).read(0, 500).values * [[1e-6], [1e-6], [1e-3], [1e-6]], rtol=2e-7
        )


def test_nan_stays_out_of_integers_and_goes_into_floats(tmp_path):
    for fmt, changed in (("INT_16", 1), ("IEEE_FLOAT_32", 2)):
        recording = READER.open(brainvision(tmp_path / fmt, fmt=fmt))
        written = READER.write(recording, [patch(1, [3, 9], [np.nan, 99.5])], tmp_path / "out" / fmt / "rec.vhdr")
        assert written.changed == changed and len(written.notes) == 2 - changed
        sample = READER.open(written.path).read(0, 500)
        assert sample.values[1, 9] == pytest.approx(99.5)
        assert sample.valid[1, 3] == (fmt == "INT_16")
        if fmt == "INT_16":
            assert sample.values[1, 3] == recording.read(3, 4).values[1, 0]
            assert "1 NaN of Cz cannot be stored as int16: the old values stay" in written.notes


def test_what_cannot_be_written_says_why(tmp_path):
    path = brainvision(tmp_path)
    recording = READER.open(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for patches, target, reason in [
        ([], path, "overwrite rec"),
        ([], tmp_path / "out.edf", "end in .vhdr"),
        ([patch(4, [0], [0])], tmp_path / "o.vhdr", "no channel 4"),
        ([patch(0, [500], [0])], tmp_path / "o.vhdr", "outside its 500 samples"),
        ([patch(0, [1, 2], [0])], tmp_path / "o.vhdr", "indices"),
    ]:
        with pytest.raises(ReadError, match=reason):
            READER.write(recording, patches, target)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_new_recording_is_read_by_the_library(tmp_path):
    signals = numbers().astype(np.float64) / 7
    signals[2, 5] = np.nan
    events = [Event(0.5, 0.25, "Stimulus/S  1"), Event(1.0, 0, "a, b", ("Cz",))]
    path = create_brainvision(
        tmp_path / "new.vhdr", [signals[:, :100], signals[:, 100:]], rate_hz=512, names=["Fp1", "Cz", "a,b", "x"],
        units=["µV", "mV", "µV", None], events=events, start_date="2020-01-02T03:04:05.25", comment="made here",
    )  # fmt: skip
    recording, raw = READER.open(path), library(path)
    assert raw.ch_names == ["Fp1", "Cz", "a,b", "x"] == [c.name for c in recording.channels]
    assert raw.info["sfreq"] == recording.axes.rate_hz == 512
    assert np.allclose(raw.get_data()[:2], signals[:2] * [[1e-6], [1e-3]], rtol=1e-6)
    sample = recording.read(0, 500)
    assert not sample.valid[2, 5] and sample.valid.sum() == 1999
    assert np.array_equal(sample.values[sample.valid], signals.astype(np.float32)[sample.valid])
    assert [c.unit for c in recording.channels] == ["µV", "mV", "µV", None]
    assert [(e.onset_s, e.duration_s, e.label, e.channels) for e in recording.events] == [
        (0.5, 0.25, "Stimulus/S  1", ()), (1.0, 1 / 512, "Comment/a, b", ("Cz",)),
    ]  # fmt: skip
    assert raw.info["meas_date"].isoformat() == "2020-01-02T03:04:05.250000+00:00"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 600), st.booleans())
def test_any_bytes_in_the_texts_are_survived(junk, at, marks):
    with tempfile.TemporaryDirectory() as where:
        path = brainvision(Path(where))
        victim = path.with_suffix(".vmrk") if marks else path
        raw = victim.read_bytes()
        victim.write_bytes(raw[:at] + junk + raw[at + len(junk) :])
        try:
            recording = READER.open(path)
            recording.read(0, 10)
            READER.write(recording, [patch(0, [1], [1.0])], Path(where) / "out" / "rec.vhdr")
        except ReadError:
            return
        assert len(recording.channels) == len(recording.gains)
