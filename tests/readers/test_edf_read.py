"""Reading EDF and BDF: against mne, against the formula of the specification, and on real recordings."""

from __future__ import annotations

import pickle
import time
import tracemalloc
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.edf import EdfReader
from readers.edf_record import EdfRecording, domain_of
from readers.schema import Event, ReadError
from tests.eeg_files import FORMATS, NAMES, Line, lines_of, tal, write

mne.set_log_level("ERROR")
READER = EdfReader()


def native(recording: EdfRecording, channel: int) -> np.ndarray:
    """All float64 values of a channel, NaN in gaps."""
    return recording._native([channel], [(0, recording.stored(channel))])[0]


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal to 1e-12 of the range: what float64 formulas in another order leave."""
    return np.allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.nanmax(np.abs(theirs)), equal_nan=True)


@pytest.mark.parametrize("name", ["edf", "edf+c", "bdf"])
def test_names_rates_length_and_samples_are_those_of_mne(tmp_path, name):
    path = FORMATS[name](tmp_path)
    recording, raw = EdfRecording(path), mne.io.read_raw(path)
    assert [c.name for c in recording.channels] == raw.ch_names
    assert {c.rate_hz for c in recording.channels} == {raw.info["sfreq"]}
    assert recording.axes.shape == (len(raw.ch_names), raw.n_times)
    assert recording.axes.duration_s == raw.n_times / raw.info["sfreq"]
    for c, channel in enumerate(recording.channels):
        assert same(native(recording, c) * channel.si_factor, raw[c][0][0])
    assert recording.verify() == ()


def test_a_sample_is_the_float32_of_the_formula_at_every_rate(tmp_path):
    lines = lines_of((64, 16, 1), 5)
    recording = EdfRecording(write(tmp_path / "a.edf", lines, record_s="0.5"))
    assert [c.rate_hz for c in recording.channels] == [128, 32, 2]
    assert "mixed rates: 2, 32, 128 Hz" in recording.warnings
    raw = mne.io.read_raw_edf(tmp_path / "a.edf")
    assert same(native(recording, 0) * 1e-6, raw[0][0][0])
    for c, line in enumerate(lines):
        assert same(native(recording, c), line.values())
        read = recording.read(3, line.per_record * 5 + 4, rate_hz=recording.channels[c].rate_hz, channels=[c])
        assert np.array_equal(read.values[0, :-4], line.values()[3:].astype(np.float32))
        assert read.valid[0].tolist() == [True] * (line.per_record * 5 - 3) + [False] * 4
    sample = recording.read(10, 300)  # the fast channel untouched, the others brought to its grid
    assert np.array_equal(sample.values[0], lines[0].values()[10:300].astype(np.float32))
    assert sample.valid[0].all() and sample.values.shape == (3, 290)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window_of_any_channels_is_the_same_samples(tmp_path_factory, data):
    per_record = data.draw(st.lists(st.sampled_from([1, 2, 8, 8, 8]), min_size=1, max_size=4))
    n_records = data.draw(st.integers(1, 9))
    plus, bdf = data.draw(st.booleans()), data.draw(st.booleans())
    lines = lines_of(per_record, n_records, bits=24 if bdf else 16)
    variant = ("BDF" if bdf else "EDF") + ("+C" if plus else "")
    path = write(tmp_path_factory.mktemp("w") / "a.edf", lines, variant=variant, record_s="0.25")
    recording = EdfRecording(path)
    picked = data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=6))
    spans = []
    for c in picked:
        a, b = sorted(data.draw(st.tuples(*[st.integers(0, recording.stored(c))] * 2)))
        spans.append((a, b))
    for c, (a, b), got in zip(picked, spans, recording._native(picked, spans), strict=True):
        assert got.shape == (b - a,) and np.allclose(got, lines[c].values()[a:b], rtol=1e-12, atol=1e-9)


def test_signed_integers_are_decoded_at_their_ends(tmp_path):
    for variant, bits in (("EDF", 16), ("BDF", 24)):
        limit = 2 ** (bits - 1)
        ends = np.array([-limit, -1, 0, 1, 255, 256, -256, limit - 1])
        scale = {"physical": (str(-limit), str(limit - 1)), "digital": (str(-limit), str(limit - 1))}
        recording = EdfRecording(write(tmp_path / "a.edf", [Line(ends, 4, **scale)], variant=variant))
        assert native(recording, 0).tolist() == ends.tolist()
        assert (recording.channels[0].dtype, recording.channels[0].low) == (f"int{bits}", -limit)


def test_records_larger_than_a_block_are_read_in_parts(tmp_path, monkeypatch):
    lines = lines_of((400, 100), 3)
    path = write(tmp_path / "a.edf", lines)
    whole = [native(EdfRecording(path), c) for c in (0, 1)]
    for block in (1, 900, 1001, 2500):
        monkeypatch.setattr("readers.edf_samples._BLOCK_BYTES", block)
        recording = EdfRecording(path)
        assert all(np.array_equal(native(recording, c), whole[c]) for c in (0, 1))
        part = recording._native([0, 1], [(399, 803), (7, 8)])
        assert np.array_equal(part[0], whole[0][399:803]) and np.array_equal(part[1], whole[1][7:8])


def test_channels_are_described(tmp_path):
    lines = lines_of((4, 4, 4), 2, names=("EEG T3-LE", "ECG II", "Resp chest"))
    recording = EdfRecording(write(tmp_path / "a.edf", lines))
    assert [(c.canonical, c.kind, c.si_factor) for c in recording.channels[:1]] == [("T7", "eeg", 1e-6)]
    assert [c.kind for c in recording.channels] == ["eeg", "ecg", "resp"]
    assert recording.domain == "eeg" and recording.channels[0].position is not None
    assert (recording.channels[0].low, recording.channels[0].high, recording.channels[0].dtype) == (-300, 305, "int16")
    hearts = EdfRecording(write(tmp_path / "b.edf", lines_of((4, 4), 2, names=("ECG II", "Pleth"))))
    assert hearts.domain == "cardiac"


@pytest.mark.parametrize(
    ("kinds", "domain"),
    [(["ecg"], "cardiac"), (["ppg", "acc", "misc"], "cardiac"), (["ecg", "eog"], "eeg"), (["eog"], "eeg"), (["misc"], "eeg")],
)
def test_the_domain_follows_the_channels(kinds, domain):
    assert domain_of(kinds) == domain


@pytest.mark.parametrize("unit", [b"uV", b"\xb5V", b"\xc2\xb5V"])
def test_every_spelling_of_microvolt_is_known(tmp_path, unit):
    path = write(tmp_path / "a.edf", lines_of((4,), 2))
    data = path.read_bytes()
    at = data.index(b"uV      ")
    path.write_bytes(data[:at] + unit.ljust(8) + data[at + 8 :])
    assert EdfRecording(path).channels[0].si_factor == 1e-6


@pytest.mark.parametrize(
    ("variant", "recording", "date", "clock", "wanted"),
    [
        ("EDF", "free text", "02.03.84", "13.14.15", "2084-03-02T13:14:15"),
        ("EDF", "free text", "02.03.85", "13.14.15", "1985-03-02T13:14:15"),
        ("EDF", "free text", "01.01.85", "00.00.00", None),
        ("EDF", "free text", "00.00.00", "00.00.00", None),
        ("EDF", "", "31.02.10", "00.00.00", None),
        ("EDF", "", "", "", None),
        ("EDF+C", "Startdate 02-MAR-2102 X X X", "02.03.yy", "01.02.03", "2102-03-02T01:02:03"),
        ("EDF+C", "Startdate X X X X", "01.01.85", "00.00.00", None),
        ("EDF+C", "Startdate 02-MAR-1951 X X X", "02.03.51", "01.02.03", "1951-03-02T01:02:03"),
    ],
)
def test_dates(tmp_path, variant, recording, date, clock, wanted):
    path = write(tmp_path / "a.edf", lines_of((4,), 2), variant=variant, recording=recording, date=date, time=clock)
    assert EdfRecording(path).axes.start_date == wanted


def test_ids_are_what_an_edf_plus_header_states(tmp_path):
    def ids(**fields: str) -> dict[str, str]:
        return dict(EdfRecording(write(tmp_path / "a.edf", lines_of((4,), 2), **fields)).ids)

    named = "Startdate 02-MAR-2002 PSG-1/2 NN Machine_7"
    assert ids(variant="EDF+C", patient="MCH-7 F 02-MAY-1951 Haagse", recording=named) == {
        "subject": "MCH-7",
        "device": "Machine_7",
    }
    assert ids(variant="EDF+C") == {}
    assert ids(variant="EDF+C", patient="", recording="") == {}
    assert ids(variant="EDF", patient="MCH-7 F X X", recording=named) == {}


def test_a_count_that_is_not_known_is_taken_from_the_size(tmp_path):
    path = write(tmp_path / "a.edf", lines_of((4,), 3), claimed=-1, extra=b"abc")
    recording = EdfRecording(path)
    assert recording.axes.shape == (1, 12)
    assert any("counted 3" in w for w in recording.warnings) and any("3 bytes" in w for w in recording.warnings)
    assert "claims -1 records and holds 3" in recording.verify()[0]


def test_a_file_that_is_cut_short_is_refused_with_both_numbers(tmp_path):
    path = write(tmp_path / "a.edf", lines_of((4, 4), 9))
    path.write_bytes(path.read_bytes()[: 256 * 3 + 16 * 4 + 5])
    with pytest.raises(ReadError, match=r"a\.edf is cut short: the header claims 9 records of 16 bytes, the file holds 4"):
        EdfRecording(path)


def test_more_than_the_header_claims_is_left_out_aloud(tmp_path):
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4,), 5), claimed=4, extra=b"?"))
    assert recording.axes.shape == (1, 16) and recording.stored(0) == 16
    assert recording.warnings == ("9 bytes follow the 4 records that the header claims; they are left out",)
    assert "claims 4 records and holds 5" in recording.verify()[0]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ({"physical": ("5", "5")}, None),
        ({"digital": ("7", "7")}, None),
        ({"digital": ("-9e307", "9e307")}, None),
        ({"digital": ("", "10")}, None),
        ({"physical": ("", "10")}, None),
        ({"physical": ("-100", "100"), "digital": ("-50000", "50000")}, (-65.536, 65.534)),
        ({"physical": ("-1e38", "1e38")}, None),
        ({"physical": ("1", "-1")}, (1, 1 - 2 * 65535 / 65535)),
        ({"physical": ("-1,5", "1,5")}, (-1.5, 1.5)),
    ],
)
def test_a_range_that_cannot_be_used_leaves_stored_integers(tmp_path, line, values):
    stored = np.array([-32768, 32767, 0, 1])
    recording = EdfRecording(write(tmp_path / "a.edf", [Line(stored, 4, **line), Line(stored, 4, "EEG O1")]))
    if values is None:
        assert native(recording, 0).tolist() == stored.tolist()
        assert recording.channels[0].unit is None and recording.channels[0].si_factor is None
        assert any("no usable physical range" in w and "EEG Cz" in w for w in recording.warnings)
    else:
        assert np.allclose(native(recording, 0)[:2], values)
    assert recording.channels[1].unit == "uV"


@pytest.mark.parametrize(
    ("at", "field", "reason"),
    [
        (0, b"1       ", "does not begin"),
        (184, b"999     ", "claims a header of 999 bytes; 2 signals take 768"),
        (236, b"-7      ", "claims -7"),
        (236, b"0       ", "holds 0 data records"),
        (236, b"nonsense", "'nonsense' as number of records"),
        (244, b"0       ", "records of 0 s"),
        (244, b"-1      ", "records of -1 s"),
        (244, b"nan     ", "not a number"),
        (244, b"1e-9    ", "records of 1e-09 s"),
        (244, b"99999999", "records of 1e"),
        (252, b"0   ", "claims 0 signals"),
        (252, b"-1  ", "claims -1 signals"),
        (252, b"9999", "claims 9999 signals"),
        (252, b"4000", "the header of its 4000 signals takes"),
        (256 + 216 * 2, b"0       ", "claims 0 samples of EEG Fp1"),
        (256 + 216 * 2, b"99999999", "records of 1 s with 99999999 samples"),
        (256 + 216 * 2, b"9999999 ", "cut short"),
        (256 + 104 * 2, b"1e999   ", "not a number"),
        (256 + 104 * 2, b"\xff\xfe      ", "not a number"),
    ],
)
def test_headers_that_make_no_sense_say_why(tmp_path, at, field, reason):
    path = FORMATS["edf"](tmp_path)
    data = bytearray(path.read_bytes())
    data[at : at + len(field)] = field
    path.write_bytes(data)
    with pytest.raises(ReadError, match=reason):
        EdfRecording(path)


def test_what_is_claimed(tmp_path):
    def claims(path: Path) -> bool:
        return READER.claims(path, path.read_bytes()[:4096])

    assert all(claims(make(tmp_path / name)) for name, make in FORMATS.items())
    for name, data, wanted in [
        ("empty.edf", b"", True),
        ("eyes.edf", b"SR_RESEARCH_COMBINED_FILE", False),
        ("image.edf", b"{\nHeaderID = EH:000001", False),
        ("other.rec", b"", False),
        ("short.edf", b"0       X X", True),
        ("number.edf", b"0", True),
        ("noise.bdf", bytes(range(256)), True),
        ("noise.rec", bytes(range(256)), False),
    ]:
        (tmp_path / name).write_bytes(data)
        assert claims(tmp_path / name) is wanted
    scores = write(tmp_path / "scores.edf", [Line(np.zeros(8), 8, "EDF Annotations")], variant="EDF+C", record_s="0")
    assert not claims(scores)
    with pytest.raises(ReadError, match="annotations only"):
        READER.open(scores)
    with pytest.raises(ReadError, match="is empty"):
        READER.open(tmp_path / "empty.edf")
    with pytest.raises(ReadError, match="has 11 bytes"):
        READER.open(tmp_path / "short.edf")


def test_a_recording_travels_and_holds_no_file(tmp_path):
    recording = EdfRecording(FORMATS["edf+d"](tmp_path))
    again = pickle.loads(pickle.dumps(recording))
    assert np.array_equal(again.read(0, 50).values, recording.read(0, 50).values)
    (tmp_path / "gaps.edf").write_bytes((tmp_path / "gaps.edf").read_bytes()[:-40])
    with pytest.raises(ReadError, match="shorter since it was opened"):
        recording.read(100, 176)
    (tmp_path / "gaps.edf").unlink()
    with pytest.raises(ReadError, match="cannot be read"):
        recording.read(0, 50)


def test_details_from_beside_the_file_replace_its_own(tmp_path):
    recording = EdfRecording(FORMATS["edf+c"](tmp_path))
    labels = [e.label for e in recording.events]
    from dataclasses import replace

    channels = [replace(c, bad=True, kind="ecg") for c in recording.channels]
    told = [*recording.events[1:], Event(-1.0, 0, "beside")]
    more = recording.with_details(channels=channels, events=told, ids={"subject": "9"}, warnings=["w"])
    assert [c.bad for c in more.channels] == [True, True] and more.domain == "cardiac"
    assert [e.label for e in more.events] == ["beside", *labels[1:]]
    assert (more.ids, more.warnings) == ({"subject": "9"}, ("w",))
    assert np.array_equal(more.read(0, 9).values, recording.read(0, 9).values)
    assert (recording.domain, recording.ids, [e.label for e in recording.events]) == ("eeg", {"subject": "P1"}, labels)
    assert recording.with_details().channels == recording.channels
    with pytest.raises(ValueError):
        recording.with_details(channels=channels[:1])


@pytest.mark.parametrize("block", [1 << 21, 6])
def test_verify_counts_samples_outside_the_digital_range(tmp_path, monkeypatch, block):
    monkeypatch.setattr("readers.edf_samples._BLOCK_BYTES", block)
    stored = np.array([-5, 0, 5, 10, 11, 12, -6, 3])
    recording = EdfRecording(write(tmp_path / "a.edf", [Line(stored, 4, digital=("-5", "10"))]))
    assert recording.verify() == ("a.edf: 3 samples of EEG Cz lie outside its digital range",)


def test_a_day_of_64_channels_is_read_in_little_memory(tmp_path):
    seconds, rate, count = 86_400, 256, 64
    names = [f"EEG {k}" for k in range(count)]
    path = write(tmp_path / "day.edf", [Line(np.zeros(rate), rate, name) for name in names], claimed=seconds)
    size = 256 * (count + 1)
    with path.open("r+b") as file:
        file.truncate(size)
        file.truncate(size + seconds * rate * count * 2)
        file.seek(size + (40_000 * count + 3) * rate * 2)  # second 40000 of channel 3
        file.write(np.arange(rate, dtype="<i2").tobytes())
    tracemalloc.start()
    began = time.perf_counter()
    recording = EdfRecording(path)
    for start in np.random.default_rng(0).integers(0, seconds * rate - 1024, 200):
        recording.read(int(start), int(start) + 1024)
    sample = recording.read(40_000 * rate - 512, 40_000 * rate + 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6 and time.perf_counter() - began < 20
    assert sample.values[3, 512:768].tolist() == pytest.approx((np.arange(rate) * 0.1).tolist(), abs=1e-4)
    assert not np.any(np.abs(sample.values[2]) > 1e-3)


def test_real_recordings_are_read_as_mne_does(shared):
    for path in sorted((shared / "eeg").glob("*.edf"))[::8]:
        recording, raw = EdfRecording(path), mne.io.read_raw_edf(path)
        assert [c.name for c in recording.channels] == raw.ch_names
        assert (recording.axes.rate_hz, recording.axes.shape[1]) == (raw.info["sfreq"], raw.n_times)
        si = np.array([[c.si_factor] for c in recording.channels])
        assert same(np.array(recording._native(range(21), [(0, 31_000)] * 21)) * si, raw[:][0])
        assert recording.axes.start_date == raw.info["meas_date"].replace(tzinfo=None).isoformat()
        assert recording.ids["subject"] == raw.info["subject_info"]["his_id"]
        assert recording.verify() == () and recording.domain == "eeg"
        assert {c.kind for c in recording.channels} == {"eeg", "ecg"}


def test_names_that_come_twice_are_named(tmp_path):
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4, 4), 2, names=("EEG Cz", "EEG Cz"))))
    assert "2 signals are called EEG Cz" in recording.warnings
    assert NAMES[1] == "EEG Cz"


def test_annotation_signals_are_no_channels(tmp_path):
    notes = [[tal(0.1, "first"), tal(0.2, "second")]]
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4,), 2), variant="EDF+C", annotation_signals=2, notes=notes))
    assert len(recording.channels) == 1
    assert [e.label for e in recording.events] == ["first", "second"]
