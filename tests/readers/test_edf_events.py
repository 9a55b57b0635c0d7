"""Annotations and gaps of EDF+ and BDF+ files."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.edf_events import parse_tals
from readers.edf_record import EdfRecording
from readers.schema import Event, ReadError
from tests.eeg_files import FORMATS, Line, lines_of, tal, write

mne.set_log_level("ERROR")


def test_annotations_are_those_of_mne(tmp_path):
    for path in (FORMATS["edf+c"](tmp_path), FORMATS["bdf+d"](tmp_path)):
        theirs = mne.read_annotations(path)
        ours = EdfRecording(path).events
        # mne leaves "@@" in a text where it does not know the channels' names.
        texts = [e.label + "".join(f"@@{c}" for c in e.channels) for e in ours]
        assert texts == list(theirs.description) and len(texts) > 0
        assert [(e.onset_s, e.duration_s) for e in ours] == list(zip(theirs.onset, theirs.duration, strict=True))


def test_onsets_count_from_the_first_record(tmp_path):
    notes = [[tal("+0.75", "a")], [tal("+2.5", "b", duration="0.125")]]
    start = {"recording": "Startdate 02-MAR-2002 X X X", "date": "02.03.02", "time": "01.02.03"}
    path = write(tmp_path / "a.edf", lines_of((4,), 3), variant="EDF+C", onsets=(0.25, 1.25, 2.25), notes=notes, **start)
    recording = EdfRecording(path)
    assert recording.events == (Event(0.5, 0.0, "a"), Event(2.25, 0.125, "b"))
    assert recording.axes.start_date == "2002-03-02T01:02:03.250000"
    assert recording.verify() == ()


def test_a_channel_named_in_a_text_is_the_events_channel(tmp_path):
    notes = [[tal(0, "spike@@EEG Fp1"), tal(0, "spike@@EEG Cz")], [tal(1, "mail@@home")], [tal(2, "@@EEG Cz")]]
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4, 4), 3), variant="EDF+C", notes=notes, room=60))
    assert recording.events == (
        Event(0, 0, "spike", ("EEG Fp1", "EEG Cz")),
        Event(1, 0, "mail@@home"),
        Event(2, 0, "@@EEG Cz"),
    )


def test_broken_annotations_are_passed_over_and_counted(tmp_path):
    broken = [b"+1\x14cut", b"x\x14text\x14\0", b"+1e5\x14no\x14\0", b"+" + b"9" * 400 + b"\x14huge\x14\0"]
    notes = [[tal(0.5, "good"), b, tal(0.6, "after")] for b in broken]
    notes[0][1] += b"\0"
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4,), 4), variant="EDF+C", notes=notes, room=300))
    assert [e.label for e in recording.events] == ["good"] * 4 + ["after"] * 4
    assert recording.verify() == ("a.edf: 4 broken annotations were skipped",)


def test_text_that_is_no_utf8_is_latin1(tmp_path):
    notes = [[b"+1\x14Sch\xfcssel\x14\0", "+2\x14Schlüssel 目\x14\0".encode()]]
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4,), 3), variant="EDF+C", notes=notes))
    assert [e.label for e in recording.events] == ["Schüssel", "Schlüssel 目"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_stand_among_annotations(data):
    tals, broken = parse_tals(data)
    pieces = [piece for piece in data.split(b"\0") if piece.strip()]
    assert len(tals) + broken == len(pieces)
    assert all(np.isfinite([t.onset_s, t.duration_s]).all() for t in tals)


texts = st.text(st.characters(exclude_characters="\0\x14\x15", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-10_000, 10**9), st.integers(0, 10**6), st.lists(texts, min_size=1, max_size=3)), max_size=5)
)
def test_annotations_come_back_as_written(rows):
    data = b"".join(tal(f"{on:+d}.5", *words, duration=f"{long}.25") for on, long, words in rows)
    tals, broken = parse_tals(data + bytes(7))
    assert broken == 0
    for got, (on, long, words) in zip(tals, rows, strict=True):
        assert got.onset_s == float(f"{on:+d}.5") and got.duration_s == long + 0.25
        assert got.texts == tuple(word.strip() for word in words)


def truth(lines: list[Line], onsets: list[float], record_s: float) -> list[np.ndarray]:
    """What each channel is on the timeline, by a slow and plain rule: each record at its nearest sample."""
    found = []
    for line in lines:
        n, rate = line.per_record, line.per_record / record_s
        starts = [round((onset - onsets[0]) * rate) for onset in onsets]
        values = np.full(starts[-1] + n, np.nan)
        for record, start in enumerate(starts):
            values[start : start + n] = line.values()[record * n : (record + 1) * n]
        found.append(values)
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_gaps_lie_on_the_timeline(tmp_path_factory, data):
    per_record = data.draw(st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=3))
    # Gaps in whole samples of the slowest channel.
    gaps = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 5, 40]), min_size=0, max_size=8))
    onsets = [0.25 + record + sum(gaps[:record]) / 2 for record in range(len(gaps) + 1)]
    bdf = data.draw(st.booleans())
    lines = lines_of(per_record, len(onsets), bits=24 if bdf else 16)
    path = tmp_path_factory.mktemp("d") / "a.edf"
    recording = EdfRecording(write(path, lines, variant="BDF+D" if bdf else "EDF+D", onsets=onsets))
    wanted = truth(lines, onsets, 1.0)
    assert [recording.stored(c) for c in range(len(lines))] == [len(w) for w in wanted]
    assert recording.axes.duration_s == onsets[-1] - 0.25 + 1
    for c, want in enumerate(wanted):
        a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(want))] * 2)))
        (got,) = recording._native([c], [(a, b)])
        assert np.allclose(got, want[a:b], rtol=1e-12, atol=1e-9, equal_nan=True)
        sample = recording.read(a, b, rate_hz=recording.channels[c].rate_hz, channels=[c])
        assert np.array_equal(sample.valid[0], np.isfinite(want[a:b])) and not sample.values[~sample.valid].any()
    said = [w for w in recording.warnings if "gap" in w]
    lengths = [gap for gap in gaps if gap]
    assert said == ([f"{len(lengths)} gap{'s' * (len(lengths) > 1)} of {sum(lengths) / 2:g} s in all"] if lengths else [])
    assert recording.verify() == ()


def test_records_off_the_grid_go_to_the_nearest_sample(tmp_path):
    lines = lines_of((10, 2), 3)
    path = write(tmp_path / "a.edf", lines, variant="EDF+D", onsets=(0, 1.33, 2.36))
    recording = EdfRecording(path)
    fast, slow = truth(lines, [0, 1.3, 2.4], 1.0)[0], truth(lines, [0, 1.5, 2.5], 1.0)[1]
    got = recording._native([0, 1], [(0, recording.stored(0)), (0, recording.stored(1))])
    assert np.allclose(got[0], fast, equal_nan=True) and np.allclose(got[1], slow, equal_nan=True)
    # 1.33 s lies 170 ms from 1.5 s, 1.3 s and 2.4 s are 200 ms from the slow samples at 1.5 and 2.5 s at the most.
    assert "records do not begin on the grid of samples; moved by up to 200 ms" in recording.warnings
    assert "2 gaps of 0.4 s in all" in recording.warnings


def test_onsets_written_in_milliseconds_do_not_overlap(tmp_path):
    lines = [Line(np.arange(6 * 128), 128)]
    onsets = [round(k * 0.0625, 3) for k in range(6)]  # 2048 Hz: half a millisecond is one sample
    recording = EdfRecording(write(tmp_path / "a.edf", lines, variant="EDF+D", record_s="0.0625", onsets=onsets))
    assert recording.stored(0) in (768, 769, 770) and np.nanmax(recording._native([0], [(0, 768)])[0]) > 0


@pytest.mark.parametrize("onsets", [(0, 0.5, 3), (0, 2, 1), (5, 2, 9)])
def test_records_that_overlap_or_go_backwards_are_refused(tmp_path, onsets):
    path = write(tmp_path / "a.edf", lines_of((16,), 3), variant="EDF+D", onsets=onsets)
    with pytest.raises(ReadError, match=r"a\.edf: record [23] begins at \S+ s, before the record ahead of it ends at"):
        EdfRecording(path)


def test_a_gap_of_a_century_is_refused(tmp_path):
    path = write(tmp_path / "a.edf", lines_of((16,), 2), variant="EDF+D", onsets=(0, "+3155760000"))
    with pytest.raises(ReadError, match="31622400 s are accepted"):
        EdfRecording(path)


def test_records_that_do_not_say_when_follow_on(tmp_path):
    path = write(tmp_path / "a.edf", lines_of((4,), 4), variant="EDF+D", onsets=(0, "x", "x", 5))
    recording = EdfRecording(path)
    assert recording.stored(0) == 24
    assert "2 of 4 records do not say when they begin; they are taken to follow on" in recording.warnings


def test_a_continuous_file_whose_records_jump_is_named_by_verify(tmp_path):
    recording = EdfRecording(write(tmp_path / "a.edf", lines_of((4,), 4), variant="EDF+C", onsets=(0, 1, 7, "x")))
    assert recording.stored(0) == 16
    assert "1 records of a continuous file do not follow on" in recording.verify()[0]


def test_large_records_are_read_only_where_their_annotations_lie(tmp_path):
    lines = lines_of((6000,), 3)
    notes = [[tal(k + 0.5, f"n{k}")] for k in range(3)]
    recording = EdfRecording(write(tmp_path / "a.edf", lines, variant="EDF+D", onsets=(0, 1, 4), notes=notes))
    assert [e.label for e in recording.events] == ["n0", "n1", "n2"] and recording.stored(0) == 30_000
