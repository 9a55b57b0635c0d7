"""What a recorder and an annotator wrote about a recording: times, devices, selections, labels, cue points."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers import open_recording, scan, write
from readers.audio import AUDIO_READERS
from readers.audio_notes import read_table
from readers.audio_record import AudioRecording
from readers.schema import ReadError
from tests.audio_files import AUDIOMOTH, GUANO, audio, cues, field_wav, fmt_chunk, info_list, raven, riff


def wav(folder, *chunks, name="x"):
    path = folder / f"{name}.wav"
    path.write_bytes(riff([(b"fmt ", fmt_chunk()), *chunks, (b"data", bytes(20_000))]))
    return path


def bext(date, time):
    return bytes(320) + date + time + bytes(8)


@pytest.mark.parametrize(
    ("chunks", "name", "start", "ids"),
    [
        (
            [(b"guan", GUANO)],
            "x",
            "2024-05-18T05:30:00+02:00",
            {"device": "Open Acoustic Devices AudioMoth 24F3", "site": "50.1 8.6"},
        ),
        (
            [(b"LIST", info_list(ICMT=AUDIOMOTH))],
            "x",
            "2018-08-14T19:17:30+00:00",
            {"device": "AudioMoth 0FE081F80FE081F0"},
        ),
        ([(b"LIST", info_list(ICMT=AUDIOMOTH.replace("UTC", "UTC-3:30")))], "x", "2018-08-14T19:17:30-03:30", None),
        ([(b"LIST", info_list(ICMT=AUDIOMOTH.replace("UTC", "UTC+1")))], "x", "2018-08-14T19:17:30+01:00", None),
        ([(b"bext", bext(b"2021-03-04", b"05:06:07"))], "x", "2021-03-04T05:06:07", {}),
        ([(b"bext", bext(b"2021:3:4\0\0", b"05-06-07"))], "x", "2021-03-04T05:06:07", {}),
        ([(b"bext", bext(b"0000-00-00", b"00:00:00"))], "x", None, {}),
        ([(b"guan", GUANO), (b"bext", bext(b"2021-03-04", b"05:06:07"))], "a_20200101_000000", "2024-05-18T05:30:00+02:00", None),
        ([(b"guan", b"GUANO|Version: 1.0\nTimestamp: yesterday\n\xff\xfe:\n")], "x", None, {}),
        ([(b"guan", b"")], "x", None, {}),
        ([], "20240518_053000", "2024-05-18T05:30:00", {}),
        ([], "SMA01_20240518T053000Z_x", "2024-05-18T05:30:00+00:00", {}),
        ([], "20249918_053000", None, {}),
        ([], "120240518_0530001", None, {}),
    ],
)
def test_start_and_device_come_from_the_file(tmp_path, chunks, name, start, ids):
    recording = AudioRecording(wav(tmp_path, *chunks, name=name))
    assert recording.axes.start_date == start and (ids is None or dict(recording.ids) == ids)
    named = bool(start) and not chunks
    assert recording.warnings == (("start time taken from the file name",) if named else ())


def test_a_raven_table_gives_each_selection_once(tmp_path):
    path = field_wav(tmp_path)
    recording = AudioRecording(path)
    table = tmp_path / "field.Table.1.selections.txt"
    assert recording.files == (path, table)
    second, first = [e for e in recording.events if "Selection" in e.extra]
    assert (first.onset_s, round(first.duration_s, 9), first.label, first.channels) == (0.05, 0.05, "Monticola", ("channel 1",))
    assert first.extra["Low Freq (Hz)"] == "1200" and first.extra["View"] == "Spectrogram 1"
    assert (second.onset_s, second.label) == (0.02, "Cecropis")
    reader = next(r for r in AUDIO_READERS if r.name == "wav")
    assert list(reader.members(path)) == [table] and recording.verify() == ()


def test_a_table_over_several_files_gives_those_of_this_one(tmp_path):
    path = wav(tmp_path, name="b")
    head = "Selection\tBegin Time (s)\tEnd Time (s)\tBegin Path\tFile Offset (s)\tAnnotation\n"
    rows = "1\t1.5\t1.7\tC:\\rec\\a.wav\t1.5\tx\n2\t10.1\t10.15\tC:\\rec\\B.WAV\t0.1\ty\n"
    (tmp_path / "b.selections.txt").write_text(head + rows, encoding="utf-8-sig")
    (event,) = AudioRecording(path).events
    assert (event.onset_s, round(event.duration_s, 9), event.label) == (0.1, 0.05, "y")


def test_audacity_labels(tmp_path):
    path = audio(tmp_path)
    labels = tmp_path / "song.txt"
    labels.write_text("0.100000\t0.300000\tMonticola saxatilis\n\\\t1200.5\t2400.0\n0,05\t0,05\tpoint\n\n")
    recording = AudioRecording(path)
    point, call = recording.events
    assert (call.onset_s, round(call.duration_s, 9), call.label) == (0.1, 0.2, "Monticola saxatilis")
    assert call.extra == {"Low Freq (Hz)": 1200.5, "High Freq (Hz)": 2400.0}
    assert (point.onset_s, point.duration_s, point.label) == (0.05, 0, "point") and recording.files == (path, labels)


def test_a_text_beside_that_is_no_table_is_left_alone(tmp_path):
    path = audio(tmp_path)
    (tmp_path / "song.txt").write_text("recorded by the river\n")
    recording = AudioRecording(path)
    assert recording.events == () and recording.files == (path,) and recording.verify() == ()


def test_cue_points(tmp_path):
    first, second = AudioRecording(wav(tmp_path, *cues())).events
    assert (first.onset_s, first.duration_s, first.label) == (1000 / 32_000, 0, "")
    assert (second.onset_s, second.duration_s, second.label) == (4000 / 32_000, 800 / 32_000, "call")


def test_a_broken_table_is_named_by_verify_and_stops_nothing(tmp_path):
    path = audio(tmp_path)
    table = raven(tmp_path / "song.selections.txt")
    table.write_text(table.read_text() + "3\tx\t1\tnever\t2\t0\t1\tMonticola\n")
    recording = AudioRecording(path)
    assert recording.events == ()
    assert recording.verify() == ("song.selections.txt line 5: a selection from never s to 2 s",)
    shutil.copy(table, tmp_path / "song.Table.2.selections.txt")
    assert len(AudioRecording(path).verify()) == 2


@settings(max_examples=150, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.text("0123456789.,-\\\t\nen ", max_size=200).map(lambda t: ("0\t1\tx\n" + t).encode()),
        st.text("0123456789.,-\t\nSpecies\"'", max_size=200).map(
            lambda t: ("Selection\tBegin Time (s)\tEnd Time (s)\n" + t).encode()
        ),
    )
)
def test_any_table_gives_events_or_a_reason(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    try:
        events = read_table(path, path.with_suffix(".wav"))
    except ReadError as error:
        assert "any.txt" in str(error)
    else:
        assert all(0 <= e.duration_s < float("inf") and abs(e.onset_s) < float("inf") for e in events)


def test_tables_beside_belong_to_their_recording(tmp_path):
    path = field_wav(tmp_path / "site")
    other = audio(tmp_path, "flac", name="OTHER").rename(tmp_path / "OTHER.FLAC")
    (tmp_path / "OTHER.txt").write_text("0.1\t0.2\tcall\n")
    (tmp_path / "OTHER.selections.txt").write_text("Selection\tBegin Time (s)\tEnd Time (s)\n1\t0.1\t0.2\n")
    found, unclaimed = scan(tmp_path)
    assert list(found) == [(other,), (path,)] and unclaimed == []
    assert [event.onset_s for event in open_recording(other).events] == [0.1, 0.1]
    written = write(open_recording(path), [], tmp_path / "out" / "field.wav")
    assert written.path.read_bytes() == path.read_bytes()
