import json
import os
import time

import pytest

from tests.ecg import record
from tests.eeg_mne_files import brainvision
from toolkit.corpus import catalog, inputs
from toolkit.corpus.cache import HeaderCache
from toolkit.corpus.tree import Tree
from toolkit.progress import Progress

OLD = time.time() - 100


def age(folder):
    """As if all had been written a while ago (the clock is put forward for what cannot be set back)."""
    for path in folder.rglob("*"):
        os.utime(path, (OLD, OLD))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "data"
    for name in ("one", "two"):
        record(place / "sub", name)
    (place / "notes.txt").write_text("x")
    age(place)
    return place


def look(place, cache_path, later_s=10.0):
    """Rows by a whole inspection, or by memory: (rows, whether they were remembered)."""
    with HeaderCache(cache_path) as cache:
        tree = Tree(cache, [str(place)], time.time_ns() + int(later_s * 1e9))
        if (said := tree.recall()) is not None:
            return [row.text for row in said.rows], [p.name for p in said.unclaimed], True
        gathered = inputs.gather([str(place)], claims=cache)
        rows = catalog.rows(gathered.items, 1, cache, Progress("t", 1, "r", enabled=False))
        found = list(tree.remember(gathered.unclaimed, rows))
        return [getattr(row, "text", None) for row in found], [p.name for p in gathered.unclaimed], False


def test_a_folder_that_did_not_change_is_remembered_whole(folder, tmp_path):
    first = look(folder, tmp_path / "c.sqlite")
    again = look(folder, tmp_path / "c.sqlite")
    assert first[:2] == again[:2] and len(first[0]) == 2 and first[1] == ["notes.txt"]
    assert (first[2], again[2]) == (False, True)


@pytest.mark.parametrize("change", ["touch", "grow", "add", "remove", "side"])
def test_any_change_below_it_is_seen(folder, tmp_path, change):
    look(folder, tmp_path / "c.sqlite")
    if change == "touch":
        os.utime(folder / "sub/one.hea", (OLD + 1, OLD + 1))
    elif change == "grow":
        with (folder / "sub/one.dat").open("ab") as file:
            file.write(b"\0\0")
    elif change == "add":
        record(folder, "three")
    elif change == "remove":
        (folder / "notes.txt").unlink()
    else:
        (folder / "sub/one.atr").write_bytes(b"")
    assert not look(folder, tmp_path / "c.sqlite")[2]


def test_failures_and_files_that_changed_just_now_are_not_remembered(folder, tmp_path):
    assert not look(folder, tmp_path / "c.sqlite", later_s=0.0)[2]
    assert not look(folder, tmp_path / "c.sqlite")[2]  # the first look was too soon
    (folder / "broken.hea").write_bytes(b"")
    for _ in range(2):
        rows, _, remembered = look(folder, tmp_path / "c.sqlite")
        assert None in rows and not remembered


def test_a_recording_whose_samples_lie_elsewhere_is_asked_each_time(tmp_path):
    header = brainvision(tmp_path / "heads", data_name="../data/rec.eeg")
    (tmp_path / "data").mkdir()
    samples = header.with_suffix(".eeg").rename(tmp_path / "data" / "rec.eeg")
    age(tmp_path)
    (before,), _, _ = look(tmp_path / "heads", tmp_path / "c.sqlite")
    samples.write_bytes(2 * samples.read_bytes())
    (after,), _, remembered = look(tmp_path / "heads", tmp_path / "c.sqlite")
    assert not remembered
    assert json.loads(after)["duration_s"] == 2 * json.loads(before)["duration_s"]
