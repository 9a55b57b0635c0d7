"""``toolkit inspect``."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import readers
from readers.schema import Axes, Channel
from tests.ecg import record
from toolkit.corpus import cache, catalog, inputs

KEYS = {
    "path",
    "domain",
    "format",
    "channels",
    "shape",
    "duration_s",
    "spacing_mm",
    "orientation",
    "points",
    "subject",
    "events",
    "warnings",
}


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch) -> Path:
    """Where the cache lies: of no other test, and not the user's."""
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path_factory.mktemp("cache") / "deep"))
    monkeypatch.setattr(cache, "SETTLED_NS", -(10**12))  # files count as being at rest at once
    return Path(os.environ["TOOLKIT_CACHE"])


def test_json_agrees_with_what_was_written(toolkit, data) -> None:
    seen = toolkit("inspect", data, "--json").document
    assert [set(row) for row in seen] == [KEYS] * 3
    first = seen[0]
    assert (first["domain"], first["format"], first["shape"], first["duration_s"]) == ("cardiac", "wfdb", [2, 1200], 12.0)
    assert first["subject"] == "p0"
    assert first["spacing_mm"] is None
    assert first["channels"][0] == {"name": "II", "canonical": "II", "kind": "ecg", "unit": "mV", "rate_hz": 100.0}


def test_one_line_a_recording_and_failures_cost_only_themselves(toolkit, tmp_path) -> None:
    record(tmp_path, "good")
    record(tmp_path, "bad").with_suffix(".dat").unlink()
    done = toolkit("inspect", tmp_path, code=3)
    assert len(done.out.splitlines()) == 1
    assert "good.hea" in done.out
    assert "bad.dat" in done.err
    assert len(toolkit("inspect", tmp_path, "--json", "--quiet", code=3).document) == 1


def test_unclaimed_files_are_counted_and_named_once(toolkit, tmp_path) -> None:
    record(tmp_path, "good")
    for number in range(5):
        (tmp_path / f"note{number}.txt").write_text("x")
    brief, full = toolkit("inspect", tmp_path).err, toolkit("inspect", tmp_path, "--verbose").err
    assert "5 files" in brief
    assert "note4" not in brief
    assert "note4" in full
    assert toolkit("inspect", tmp_path, "--quiet").err == ""


def test_a_domain_restricts_and_an_unknown_one_is_named(toolkit, data) -> None:
    assert len(toolkit("inspect", data, "--domain", "cardiac", "--json").document) == 3
    assert "no domain 'cardiak'. Did you mean 'cardiac'?" in toolkit("inspect", data, "--domain", "cardiak", code=2).err


def test_the_document_is_one_recording_a_line_and_valid_when_there_is_none(toolkit, tmp_path) -> None:
    record(tmp_path, "b")
    record(tmp_path, "a")
    lines = toolkit("inspect", tmp_path, "--json").out.splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [json.loads(line.rstrip(","))["path"] for line in lines[1:-1]] == [str(tmp_path / f"{n}.hea") for n in "ab"]
    for path in tmp_path.glob("*.dat"):
        path.unlink()
    assert toolkit("inspect", tmp_path, "--json", code=3).document == []


def test_the_second_time_nothing_is_opened(toolkit, data, place, monkeypatch) -> None:
    first = toolkit("inspect", data, "--json").out
    assert [path.name for path in place.iterdir()] == ["headers.sqlite"]
    opened = []
    monkeypatch.setattr(catalog, "open_input", lambda item: opened.append(item) or inputs.open_input(item))
    assert toolkit("inspect", data, "--json").out == first
    assert opened == []
    assert toolkit("inspect", data, "--json", "--no-cache").out == first
    assert len(opened) == 3


def test_no_cache_leaves_nothing(toolkit, data, place) -> None:
    toolkit("inspect", data, "--no-cache")
    assert not place.exists()


def test_a_cache_that_cannot_be_made_is_none(toolkit, data, monkeypatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", "/dev/null/cache")
    for _ in range(2):
        done = toolkit("inspect", data, "--json")
        assert len(done.document) == 3
        assert done.err == toolkit("inspect", data, "--json", "--no-cache").err


def test_many_are_read_by_processes(start, toolkit, tmp_path, place) -> None:
    text = record(tmp_path / "in", "r", seconds=1).read_text()
    for number in range(250):
        (tmp_path / f"in/r{number:03}.hea").write_text(text.replace("r 2", f"r{number:03} 2", 1))
    (tmp_path / "in/r007.hea").write_text(text.replace("r.dat", "gone.dat"))
    out, err = start(["inspect", tmp_path / "in", "--json", "--no-cache"]).communicate()
    paths = [row["path"] for row in json.loads(out)]
    assert len(paths) == 250
    assert paths == sorted(paths)
    assert err.decode().splitlines()[-1].startswith("Warning: ")
    assert b"gone.dat" in err
    assert json.loads(out) == toolkit("inspect", tmp_path / "in", "--json", code=3).document


def _channel(name: str, kind: str, unit: str | None, rate: float | None = None) -> Channel:
    return Channel(name, name, kind, unit, None, rate)


MADE = {
    "brain.made": ("mri", [_channel("T1w", "T1w", None)], Axes((240, 240, 155), spacing_mm=(1, 1, 1.5), orientation="LPS")),
    "hall.made": ("points", [_channel(n, "xyz", "m") for n in "xyz"], Axes((9, 3), points=9)),
    "sleep.made": ("eeg", [_channel(f"E{n}", "eeg", "uV", 256.0) for n in range(64)], Axes((64, 256), 256.0, 1.0)),
    "odd.made": ("eeg", [_channel("E", "eeg", None, float("nan"))], Axes((1, 0), None, float("inf"))),
}
LINES = {
    "brain.made": "mri made, 240 x 240 x 155 voxels of 1 x 1 x 1.5 mm, LPS, T1w (T1w)",
    "hall.made": "points made, 9 points, x (xyz, m), y (xyz, m), z (xyz, m)",
    "sleep.made": "eeg made, 1.0 s, E0, E1, E2 and 61 more (eeg, uV, 256 Hz)",
    "odd.made": "eeg made, E (eeg)",
}


class Made:
    """A format of the files in MADE."""

    name, domains, suffixes, companions = "made", ("eeg", "mri", "points"), (".made",), ()

    def claims(self, path, head):
        return True

    def members(self, path):
        return ()

    def groups(self, paths):
        return ((path,) for path in paths)

    def open(self, path, parts=()):
        domain, channels, axes = MADE[path.name]
        common = {"ids": {}, "warnings": (), "events": (), "files": (path,)}
        return SimpleNamespace(path=path, format="made", domain=domain, channels=channels, axes=axes, **common)


@pytest.mark.parametrize("name", MADE)
def test_every_domain_has_its_line_and_its_row(toolkit, tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(readers, "READERS", (Made(),))
    path = tmp_path / name
    path.touch()
    assert toolkit("inspect", path).out == f"{path}: {LINES[name]}\n"
    (row,) = toolkit("inspect", path, "--json").document
    _, channels, axes = MADE[name]
    assert (row["shape"], row["orientation"], row["points"]) == ([*axes.shape], axes.orientation, axes.points)
    assert row["spacing_mm"] == (None if axes.spacing_mm is None else [*axes.spacing_mm])
    if name == "odd.made":  # numbers that JSON lacks are null
        assert row["duration_s"] is row["channels"][0]["rate_hz"] is None
    if name == "sleep.made":
        assert toolkit("inspect", path, "--verbose").out.count("256 Hz") == len(channels)
