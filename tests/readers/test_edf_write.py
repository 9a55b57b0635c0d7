"""Writing EDF and BDF back: only the patched samples change, byte for byte, and mne agrees."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mne.utils import object_diff

from readers.edf import EdfReader, create_edf
from readers.edf_record import EdfRecording
from readers.schema import Event, Patch, ReadError
from tests.eeg_files import FORMATS, Line, lines_of, write

mne.set_log_level("ERROR")
READER = EdfReader()


def patch(channel, index, values) -> Patch:
    return Patch(channel, np.asarray(index, np.int64), np.asarray(values, np.float64))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_only_patched_samples_change(tmp_path_factory, data, seed):
    rng = np.random.default_rng(seed)
    bdf, plus = data.draw(st.booleans()), data.draw(st.sampled_from(["", "+C", "+D"]))
    width, limit = (3, 2**23) if bdf else (2, 2**15)
    per_record = data.draw(st.lists(st.sampled_from([1, 3, 8]), min_size=1, max_size=4))
    n_records = data.draw(st.integers(1, 6))
    lines = lines_of(per_record, n_records, seed=seed, bits=24 if bdf else 16)
    gaps = [data.draw(st.sampled_from([0, 0, 2])) if plus == "+D" else 0 for _ in range(n_records)]
    onsets = [record + sum(gaps[:record]) for record in range(n_records)]
    folder = tmp_path_factory.mktemp("w")
    variant = ("BDF" if bdf else "EDF") + plus
    source = write(folder / "in.edf", lines, variant=variant, onsets=onsets, extra=b"tail")
    recording = EdfRecording(source)
    wanted = bytearray(source.read_bytes())
    header = 256 * (len(lines) + 1 + bool(plus))
    places = np.cumsum([0, *per_record])
    record_samples = places[-1] + 48 * bool(plus)
    patches, changed, clipped = [], 0, 0
    for c in data.draw(st.lists(st.integers(0, len(lines) - 1), unique=True)):
        n = per_record[c]
        index = rng.permutation(recording.stored(c))[: data.draw(st.integers(0, recording.stored(c)))]
        digital = rng.integers(int(-1.2 * limit), int(1.2 * limit), index.size)
        low, high = (float(end) for end in lines[c].physical)
        # Anywhere around the middle of a step.
        off = rng.uniform(-0.45, 0.45, index.size)
        patches.append(patch(c, index, low + (digital + off + limit) * (high - low) / (2 * limit - 1)))
        for k, value in zip(index, digital, strict=True):
            (record,) = [r for r in range(n_records) if onsets[r] * n <= k < (onsets[r] + 1) * n] or [None]
            if record is None:
                continue
            limited = min(max(value, -limit), limit - 1)
            at = header + (record * record_samples + places[c] + k - onsets[record] * n) * width
            new = int(limited).to_bytes(width, "little", signed=True)
            changed += wanted[at : at + width] != new
            wanted[at : at + width] = new
            clipped += int(limited != value)
    out = folder / "new" / "out.edf"
    written = READER.write(recording, patches, out)
    assert (written.path, written.changed, written.clipped) == (out, changed, clipped)
    assert out.read_bytes() == bytes(wanted)
    assert [p.name for p in out.parent.iterdir()] == ["out.edf"]


@pytest.mark.parametrize("name", ["edf", "edf+c", "bdf"])
def test_mne_reads_the_copy_with_the_same_header(tmp_path, name):
    source = FORMATS[name](tmp_path)
    recording, out = EdfRecording(source), tmp_path / "new" / source.name
    index = np.arange(7, 29)
    READER.write(recording, [patch(1, index, np.linspace(-250, 250, 22))], out)
    before, after = mne.io.read_raw(source), mne.io.read_raw(out)
    assert object_diff(before.info, after.info) == "" and before.annotations == after.annotations
    a, b = before[:][0], after[:][0]
    step = recording.header.signals[1].gain * 1e-6
    assert np.allclose(b[1, index], np.linspace(-250, 250, 22) * 1e-6, rtol=0, atol=0.51 * step)
    a[1, index] = b[1, index]
    assert np.array_equal(a, b)


def test_values_that_were_read_write_the_same_bytes(tmp_path):
    for name, make in FORMATS.items():
        source = make(tmp_path / name)
        recording = EdfRecording(source)
        every = [np.arange(recording.stored(c)) for c in range(len(recording.channels))]
        values = recording._native(range(len(every)), [(0, len(index)) for index in every])
        out = tmp_path / name / "copy" / source.name
        READER.write(recording, [patch(c, i, v) for c, (i, v) in enumerate(zip(every, values, strict=True))], out)
        assert out.read_bytes() == source.read_bytes()


def test_nan_and_gaps_are_left_alone_and_named_and_the_last_value_counts(tmp_path):
    source = FORMATS["edf+d"](tmp_path)  # records at 0, 1, 3.5, 4.5 and 10 s, 16 samples each
    recording, out = EdfRecording(source), tmp_path / "out.edf"
    written = READER.write(recording, [patch(0, [3, 4, 40, 41, 4], [np.nan, 1, 2, np.nan, 3]), patch(0, [5], [np.inf])], out)
    assert written.notes == (
        "2 samples of EEG Fp1 lie in gaps, where the file stores none",
        "1 samples of EEG Fp1 have no value and keep the stored one",
    )
    assert (written.changed, written.clipped) == (2, 1)
    before, after = (EdfRecording(p)._native([0], [(0, 176)])[0] for p in (source, out))
    assert np.flatnonzero(before != after)[:2].tolist() == [4, 5]
    assert after[4] == pytest.approx(3, abs=0.01) and after[5] == 305
    assert np.array_equal(np.delete(before, [4, 5]), np.delete(after, [4, 5]), equal_nan=True)


def test_values_are_limited_to_the_digital_range_of_the_signal(tmp_path):
    line = Line(np.zeros(4, int), 4, physical=("-10", "20"), digital=("-5", "10"))
    recording, out = EdfRecording(write(tmp_path / "a.edf", [line])), tmp_path / "b.edf"
    written = READER.write(recording, [patch(0, [0, 1, 2], [-99, 99, 4.2])], out)
    assert written.clipped == 2
    assert np.frombuffer(out.read_bytes()[512:], "<i2").tolist() == [-5, 10, 2, 0]


def test_a_digital_range_beyond_the_stored_type_is_limited_to_the_type(tmp_path):
    line = Line(np.zeros(4, int), 4, physical=("-40", "40"), digital=("-40000", "40000"))
    recording, out = EdfRecording(write(tmp_path / "a.edf", [line])), tmp_path / "b.edf"
    assert recording.warnings == ("digital range beyond 16 bits: EEG Cz",)
    assert READER.write(recording, [patch(0, [0, 1, 2], [-39, 39, 1])], out).clipped == 2
    assert np.frombuffer(out.read_bytes()[512:], "<i2").tolist() == [-32768, 32767, 1000, 0]


def test_a_long_patch_is_done_in_steps_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("readers.edf_write._STEP_SAMPLES", 5000)
    lines = lines_of((500, 500, 20), 400)
    recording, out = EdfRecording(write(tmp_path / "a.edf", lines)), tmp_path / "b.edf"
    patches = [patch(0, np.arange(0, 200_000, 3), np.full(66_667, 7.0)), patch(2, [0, 7999], [1.0, 2.0])]
    READER.write(recording, patches, out)
    for c, line in enumerate(lines):
        expected = line.values()
        for p in patches:
            if p.channel == c:
                expected[p.index] = p.values
        (got,) = EdfRecording(out)._native([c], [(0, len(expected))])
        assert np.allclose(got, expected, atol=0.006)
        kept = np.setdiff1d(np.arange(len(expected)), np.concatenate([p.index for p in patches if p.channel == c] or [[]]))
        assert np.array_equal(got[kept], EdfRecording(recording.path)._native([c], [(0, len(expected))])[0][kept])


def test_the_copy_of_a_long_file_needs_little_memory(tmp_path):
    path = write(tmp_path / "a.edf", [Line(np.zeros(1000, int), 1000)], claimed=40_000)
    with path.open("r+b") as file:
        file.truncate(512 + 80_000_000)
    recording = EdfRecording(path)
    tracemalloc.start()
    READER.write(recording, [patch(0, [0, 10_000_000, 39_999_999], [5, 6, 7])], tmp_path / "b.edf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    for at, value in ((0, 5), (10_000_000, 6), (39_999_999, 7)):
        assert EdfRecording(tmp_path / "b.edf").read(at, at + 1).values[0, 0] == pytest.approx(value, abs=0.06)


def test_what_cannot_be_written_says_why(tmp_path):
    source = FORMATS["edf"](tmp_path)
    recording, before, out = EdfRecording(source), source.read_bytes(), tmp_path / "out.edf"
    for patches, target, reason in [
        ([], source, "own place"),
        ([patch(2, [0], [0])], out, "no channel 2"),
        ([patch(-1, [0], [0])], out, "no channel -1"),
        ([patch(0, [80], [0])], out, "outside its 80 samples"),
        ([patch(0, [-1], [0])], out, "outside"),
        ([patch(0, [1, 2], [0])], out, "indices"),
        ([], source / "below.edf", "cannot be written"),
    ]:
        with pytest.raises(ReadError, match=reason):
            READER.write(recording, patches, target)
    assert source.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["plain.edf"]
    source.write_bytes(before[:-3])
    with pytest.raises(ReadError, match="shorter since"):
        READER.write(recording, [], out)
    assert [p.name for p in tmp_path.iterdir()] == ["plain.edf"]


def test_real_recordings_are_patched_in_place(shared, tmp_path):
    path = shared / "eeg" / "Subject03_2.edf"
    recording, out = EdfRecording(path), tmp_path / path.name
    index = np.arange(10_000, 11_000)
    written = READER.write(recording, [patch(4, index, np.sin(index / 50) * 20)], out)
    assert (written.changed, written.clipped, written.notes) == (1000, 0, ())
    before, after = (np.frombuffer(p.read_bytes(), np.uint8) for p in (path, out))
    header = recording.header
    inside = np.zeros(before.size, bool)
    for k in index:
        signal = header.signals[4]
        at = header.n_bytes + (k // 500 * header.record_samples + signal.place + k % 500) * 2
        inside[at : at + 2] = True
    assert np.array_equal(before[~inside], after[~inside])
    raw = mne.io.read_raw_edf(out)
    assert np.allclose(raw[4, 10_000:11_000][0][0] * 1e6, np.sin(index / 50) * 20, atol=0.51 * header.signals[4].gain)
    assert object_diff(raw.info, mne.io.read_raw_edf(path).info) == ""


@settings(max_examples=40, deadline=None)
@given(
    rates=st.lists(st.sampled_from([1, 16, 100, 128, 250.5, 256]), min_size=1, max_size=3),
    seconds=st.sampled_from([2, 4, 26, 62]),
    suffix=st.sampled_from(["edf", "bdf"]),
    offset=st.sampled_from([0, 1e5, -3e-3]),
)
def test_a_new_file_holds_what_was_given(tmp_path_factory, rates, seconds, suffix, offset):
    rng = np.random.default_rng(1)
    signals = [rng.normal(size=round(rate * seconds)) * 30 + offset for rate in rates]
    path = tmp_path_factory.mktemp("c") / f"new.{suffix}"
    create_edf(path, signals, rates, [f"EEG C{k}" for k in range(len(rates))], ["uV"] * len(rates), events=[Event(0.5, 1, "x")])
    recording = EdfRecording(path)
    assert [c.rate_hz for c in recording.channels] == rates and recording.axes.duration_s == seconds
    for c, signal in enumerate(signals):
        (got,) = recording._native([c], [(0, signal.size)])
        span = np.ptp(signal) + 2e-6 * abs(offset)
        assert np.abs(got - signal).max() <= 0.51 * 1.05 * span / (2**24 if suffix == "bdf" else 2**16) + 1e-12 * abs(offset)
    assert recording.events == (Event(0.5, 1.0, "x"),) and recording.verify() == ()
    raw = mne.io.read_raw(path)
    fastest = int(np.argmax(rates))
    assert raw.info["sfreq"] == max(rates)
    assert np.allclose(raw[fastest][0][0] * 1e6, recording._native([fastest], [(0, raw.n_times)])[0], rtol=1e-9, atol=1e-9)


def test_a_new_file_says_when_who_and_what(tmp_path):
    start = datetime(2031, 2, 28, 23, 59, 58)
    events = [Event(-0.25, 0, "early"), Event(1.5, 0.75, "ünï", ("EEG Cz",)), Event(99, 0, "late")]
    path = create_edf(
        tmp_path / "in" / "new.edf", np.random.default_rng(0).normal(size=(300, 2)), 100.0, ["EEG Cz", "ECG II"], ["uV", "mV"],
        events=events, patient="P-1 M X X", equipment="The Box", start=start,
    )  # fmt: skip
    recording = EdfRecording(path)
    assert recording.axes.start_date == start.isoformat()
    assert recording.ids == {"subject": "P-1", "device": "The_Box"}
    assert list(recording.events) == events
    raw = mne.io.read_raw_edf(path)
    assert raw.info["meas_date"] == start.replace(tzinfo=UTC)
    assert [text.split("@@")[0] for text in mne.read_annotations(path).description] == [e.label for e in events]
    assert raw.n_times == 300


def test_a_length_that_no_record_divides_is_filled_and_marked(tmp_path):
    signal = np.random.default_rng(0).normal(size=1009) * 40  # a prime number of samples, 7.9 s
    recording = EdfRecording(create_edf(tmp_path / "a.edf", [signal], 128.0, ["EEG Cz"], ["uV"]))
    (got,) = recording._native([0], [(0, recording.stored(0))])
    assert got.size == 1024 and np.allclose(got[:1009], signal, atol=0.01) and (got[1009:] == got[1008]).all()
    (event,) = recording.events
    assert event.label == "Recording ends" and event.onset_s == pytest.approx(1009 / 128, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6, 1e-9])
def test_a_flat_signal_can_be_written(tmp_path, value):
    recording = EdfRecording(create_edf(tmp_path / "a.edf", [np.full(200, value)], 100.0, ["EEG Cz"], ["uV"]))
    assert np.allclose(recording.read(0, 200).values, value, atol=3.1e-5 * max(1, abs(value))) and recording.warnings == ()


@pytest.mark.parametrize(
    ("signals", "rates", "names", "reason"),
    [
        ([np.array([1.0, np.nan])], 1.0, ["a"], "without a value"),
        ([np.array([])], 1.0, ["a"], "empty"),
        ([np.zeros(10), np.zeros(30)], [1.0, 1.0], ["a", "b"], "10 to 30 s"),
        ([np.zeros(10)], 1.0, ["a", "b"], "1 signals, 1 rates, 2 names"),
        ([np.zeros(1009)], 100.12345, ["a"], "no record length fits"),
        ([np.zeros(10)], 1.0, ["a" * 17], "longer than the 16 characters"),
        ([np.array([0, 1e300])], 1.0, ["a"], "another unit"),
    ],
)
def test_what_edf_cannot_hold_is_refused(tmp_path, signals, rates, names, reason):
    with pytest.raises(ReadError, match=reason):
        create_edf(tmp_path / "a.edf", signals, rates, names, ["uV"] * len(names))
    assert list(tmp_path.iterdir()) == []


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with a header field overwritten, cut short, or with bytes of its own."""
    new = bytearray(data)
    kind = rng.integers(6)
    n_header = 256 * (1 + int(data[252:256]))
    if kind <= 2:
        value = [b"-1", b"0", b"99999999", b"-5e9", b"nan", b"1e-7", b"\xff\xfe\x80", b"", b"1", b"2", b"\0\0\0", b"3.5"][
            rng.integers(12)
        ]
        starts = [184, 236, 244, 252, 192] if kind == 0 else list(range(256, n_header, 8))
        at = starts[rng.integers(len(starts))]
        width = 4 if at == 252 else 8
        new[at : at + width] = value.ljust(width)[:width]
    elif kind == 3:
        new = new[: rng.integers(len(new))]
    elif kind == 4:
        at = rng.integers(len(new))
        new[at : at + 40] = rng.bytes(len(new[at : at + 40]))
    else:
        at = rng.integers(n_header, len(new))
        new[at : at + 16] = [b"\0", b"\x14", b"+", b"9", b"\xff"][rng.integers(5)] * len(new[at : at + 16])
    return bytes(new)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_damaged_file_gives_a_reason_or_its_samples(tmp_path, name):
    source = FORMATS[name](tmp_path)
    data, rng = source.read_bytes(), np.random.default_rng(5)
    opened = 0
    bad = tmp_path / f"bad{source.suffix}"
    for _ in range(150):
        bad.write_bytes(_mutated(data, rng))
        READER.claims(bad, bad.read_bytes()[:4096])
        try:
            recording = READER.open(bad)
            sample = recording.read(0, 50)
            assert sample.valid.shape == sample.values.shape and np.isfinite(sample.values).all()
            list(recording.events)
            recording.verify()
            size = bad.stat().st_size
            written = READER.write(recording, [patch(0, [0, 1], [1.0, np.nan])], tmp_path / "out.edf")
            assert written.path.stat().st_size == size
            opened += 1
        except ReadError as error:
            assert "bad" in str(error)
    assert 30 < opened < 140


def test_reader_protocol(tmp_path):
    paths = [Path("a.edf"), Path("b.bdf")]
    assert list(READER.groups(paths)) == [(paths[0],), (paths[1],)] and list(READER.members(paths[0])) == []
    recording = READER.open(FORMATS["edf"](tmp_path))
    assert recording.format == READER.name and recording.files == (tmp_path / "plain.edf",)
