"""BIDS side files: what they add, which of them counts, and that a broken one is only a warning."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.bids import details, entities
from readers.brainvision import BrainVisionReader
from readers.schema import Channel, Event
from tests.eeg_mne_files import brainvision

NAME = "sub-01_ses-b_task-rest_run-2"


def channel(name: str, **more) -> Channel:
    return Channel(**{"name": name, "canonical": name, "kind": "eeg", "unit": "µV", "si_factor": 1e-6, "rate_hz": 100.0, **more})


def table(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(row.split()) for row in rows) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set" / "sub-01" / "ses-b" / "eeg"
    place.mkdir(parents=True)
    (tmp_path / "set" / "dataset_description.json").write_text("{}")
    return place


def test_entities_are_those_of_bids_names_only():
    assert entities(Path("sub-01_ses-b_task-rest_run-2_eeg.vhdr")) == {"sub": "01", "ses": "b", "task": "rest", "run": "2"}
    assert entities(Path("x/sub-A9_T1w.nii.gz")) == {"sub": "A9"}
    for other in ("rec.vhdr", "sub-01.vhdr", "sub-01_eeg-x_a_b.edf", "Subject01_1.edf", "task-x_eeg.edf", "_.edf", "sub-01_.edf"):
        assert entities(Path(other)) == {}


def test_a_plain_name_changes_nothing(tmp_path):
    table(tmp_path / "rec_channels.tsv", "name type", "Cz EOG")
    found = details(tmp_path / "rec.vhdr", [channel("Cz")], [Event(1, 0, "x")])
    assert found.channels == (channel("Cz"),) and found.events == (Event(1, 0, "x"),) and not found.ids and not found.warnings


def test_channels_get_type_unit_status_and_reference(folder):
    rows = [
        "name type units status reference",
        "Cz EEG mV bad n/a",
        "X1 VEOG uV good Fz",
        "trigger TRIG n/a n/a n/a",
        "pulse PPG AU n/a n/a",
    ]
    table(folder / f"{NAME}_channels.tsv", *rows)
    given_ = [
        channel("Cz", unit=None, si_factor=None),
        channel("X1"),
        channel("trigger", unit=None, si_factor=None),
        channel("pulse"),
    ]
    found = details(folder / f"{NAME}_eeg.vhdr", [*given_, channel("Pz")], [])
    cz, eog, trigger, pulse, pz = found.channels
    assert (cz.unit, cz.si_factor, cz.bad, cz.reference) == ("mV", 1e-3, True, None)
    assert (eog.kind, eog.reference, eog.bad, eog.position) == ("eog", "Fz", False, None)
    assert (trigger.kind, pulse.kind, pulse.unit) == ("stim", "ppg", "µV")
    assert not pz.bad and found.ids == {"subject": "01", "session": "b", "task": "rest", "run": "2"}
    assert any("does not list 1 channels of the file: Pz" in note for note in found.warnings)
    assert any("pulse AU instead of µV" in note for note in found.warnings)


@pytest.mark.parametrize(("unit", "factor"), [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)])
@pytest.mark.parametrize("system", ["CapTrak", "CTF"])
def test_places_override_the_montage_and_become_metres(folder, unit, factor, system):
    standard = channel("Cz", position=(0.0, 0.0, 0.1), position_frame="head", position_source="standard_1005")
    place = np.array([0.01, 0.05, 0.09]) * factor
    table(folder / f"{NAME}_space-X_electrodes.tsv", "name x y z", "cz " + " ".join(map(str, place)), "Pz n/a n/a n/a")
    said = {"EEGCoordinateSystem": system, "EEGCoordinateUnits": unit}
    (folder.parent / "sub-01_ses-b_space-X_coordsystem.json").write_text(json.dumps(said))
    found = details(folder / f"{NAME}_eeg.vhdr", [standard, channel("Pz")], [])
    wanted = (0.01, 0.05, 0.09) if system == "CapTrak" else (-0.05, 0.01, 0.09)
    assert np.allclose(found.channels[0].position, wanted)
    assert (found.channels[0].position_frame, found.channels[0].position_source) == ("head", "file")
    assert found.channels[1] == channel("Pz") and found.warnings == ()


@pytest.mark.parametrize(
    ("coordinates", "warning"),
    [
        (None, "no coordsystem.json"),
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "inch"}, "unit in .* is inch"),
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "m"}, "is taken to be in mm"),
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "km"}, "unit in .* is km"),
        ([], "cannot be read"),
    ],
)
def test_places_that_cannot_be_used_are_left_out(folder, coordinates, warning):
    table(folder / f"{NAME}_electrodes.tsv", "name x y z", "Cz 10 40 89")
    if coordinates is not None:
        (folder / f"{NAME}_coordsystem.json").write_text(json.dumps(coordinates))
    found = details(folder / f"{NAME}_eeg.vhdr", [channel("Cz")], [])
    # Numbers that are a head's in one unit only are taken to be in it.
    assert found.channels == (channel("Cz"),) or (coordinates or {}).get("EEGCoordinateUnits") == "m"
    assert found.channels[0].position in (None, (0.01, 0.04, 0.089))
    assert len(found.warnings) == 1 and re.search(warning, found.warnings[0])


def test_events_keep_every_column_and_replace_the_markers_at_their_times(folder):
    rows = ["onset duration trial_type value response", "1.5 0.25 go 7 n/a", "3 n/a n/a 8 left", "n/a 1 lost n/a n/a"]
    table(folder / f"{NAME}_events.tsv", *rows)
    own = [Event(1.501, 0, "Stimulus/S  7"), Event(2.0, 0, "Comment/x")]
    found = details(folder / f"{NAME}_eeg.vhdr", [channel("Cz")], own)
    assert [(e.onset_s, e.duration_s, e.label) for e in found.events] == [
        (1.5, 0.25, "go"),
        (2.0, 0, "Comment/x"),
        (3.0, 0.0, "8"),
    ]
    assert found.events[0].extra == {"value": "7", "response": None}
    assert found.events[2].extra == {"trial_type": None, "response": "left"}
    assert found.warnings == (f"1 rows of {NAME}_events.tsv have no onset and are not used",)


def test_the_nearest_file_with_the_most_entities_counts(folder):
    root, path = folder.parents[2], folder / f"{NAME}_eeg.vhdr"
    table(root / "task-rest_events.tsv", "onset trial_type", "1 root")
    assert [e.label for e in details(path, [channel("Cz")], []).events] == ["root"]
    table(root / "task-other_events.tsv", "onset trial_type", "1 other")
    table(folder.parents[1] / "sub-01_task-rest_events.tsv", "onset trial_type", "1 subject")
    assert [e.label for e in details(path, [channel("Cz")], []).events] == ["subject"]
    table(folder / "sub-01_ses-b_task-rest_run-3_events.tsv", "onset trial_type", "1 run3")
    table(folder / "sub-01_ses-b_task-rest_events.tsv", "onset trial_type", "1 session")
    assert [e.label for e in details(path, [channel("Cz")], []).events] == ["session"]
    table(folder / f"{NAME}_events.tsv", "onset trial_type", "1 same")
    assert [e.label for e in details(path, [channel("Cz")], []).events] == ["same"]


def test_participants_are_looked_up(folder):
    table(folder.parents[2] / "participants.tsv", "participant_id age sex", "sub-00 9 F", "sub-01 31 n/a")
    found = details(folder / f"{NAME}_eeg.vhdr", [channel("Cz")], [])
    assert found.ids["participant.age"] == "31" and "participant.sex" not in found.ids


def test_broken_side_files_are_warnings(folder):
    (folder / f"{NAME}_channels.tsv").write_bytes(b"")
    (folder / f"{NAME}_events.tsv").write_bytes(b"onset\tduration\n1\n2\t3\t4\n5\t6\n")
    (folder / f"{NAME}_electrodes.tsv").write_bytes(b"\xff\xfe\x00")
    found = details(folder / f"{NAME}_eeg.vhdr", [channel("Cz")], [])
    assert found.channels == (channel("Cz"),) and [e.onset_s for e in found.events] == [5.0]
    assert len(found.warnings) == 4


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_beside_a_recording_are_survived(data):
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "sub-01"
        folder.mkdir()
        cells = st.sampled_from(
            ["name", "x", "y", "z", "onset", "type", "n/a", "1e400", "nan", "-1", "Cz", "EOG", "\t", "\n", "\r", "\0", "é"]
        )
        for kind in ("channels.tsv", "electrodes.tsv", "events.tsv", "coordsystem.json"):
            text = "".join(data.draw(st.lists(cells, max_size=25)))
            head = {"channels.tsv": "name\ttype\n", "electrodes.tsv": "name\tx\ty\tz\n", "events.tsv": "onset\n"}.get(kind, "{")
            (folder / f"sub-01_{kind}").write_text(data.draw(st.sampled_from(["", head])) + text)
        found = details(folder / "sub-01_task-x_eeg.edf", [channel("Cz"), channel("x")], [Event(0, 0, "a")])
        assert len(found.channels) == 2
        for one in found.channels:
            assert one.position is None or np.isfinite(one.position).all()
        assert all(np.isfinite(e.onset_s) and e.duration_s >= 0 for e in found.events)


def test_a_recording_uses_them(folder):
    path = brainvision(folder, f"{NAME}_eeg")
    table(folder / f"{NAME}_channels.tsv", "name type status", "Fp1 EEG bad", "Cz EEG good", "T3 EMG good", "VEOG EOG good")
    table(folder / f"{NAME}_events.tsv", "onset trial_type", "0.1 go")
    recording = BrainVisionReader().open(path)
    assert [c.bad for c in recording.channels] == [True, False, False, False]
    assert [c.kind for c in recording.channels] == ["eeg", "eeg", "emg", "eog"]
    assert [e.label for e in recording.events] == ["go", "Comment/a,b"]
    assert recording.ids["session"] == "b"


def test_a_table_is_read_once_for_many_subjects_and_anew_when_it_changed(folder, monkeypatch):
    people = table(folder.parents[2] / "participants.tsv", "participant_id age", "sub-01 31", "sub-02 44")
    beside = table(folder / f"{NAME}_channels.tsv", "name status", "A bad")
    for old in (people, beside, *(folder.parents[k] for k in range(3)), folder):
        os.utime(old, (1e9, 1e9))
    opened = []
    monkeypatch.setattr(Path, "read_bytes", lambda path, read=Path.read_bytes: (opened.append(path.name), read(path))[1])
    for _ in range(3):
        found = details(folder / f"{NAME}_eeg.edf", [channel("A")], ())
        assert found.ids["participant.age"] == "31" and found.channels[0].bad
    assert opened.count("participants.tsv") == 1 and opened.count(beside.name) == 3
    table(people, "participant_id age", "sub-01 32")
    beside.rename(folder / "sub-02_channels.tsv")
    found = details(folder / f"{NAME}_eeg.edf", [channel("A")], ())
    assert found.ids["participant.age"] == "32" and not found.channels[0].bad
    table(people, "participant_id age", "sub-01 33")  # within the same tick, perhaps
    assert details(folder / f"{NAME}_eeg.edf", [channel("A")], ()).ids["participant.age"] == "33"
