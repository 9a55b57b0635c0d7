"""Odd names, links and pipes, and files that change under the program's hands."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.bad_files import GOOD
from tests.cli.test_bad_domains import options
from tests.ecg import record, signals
from tests.eeg_files import lines_of
from tests.eeg_files import write as edf
from toolkit.embedding import run as embedding
from toolkit.embedding.encoder import RecordingEncoder

SUFFIX = {"eeg": ".edf", "mri": ".nii", "audio": ".wav", "points": ".ply"}
NAMES = ["naïve 録音 ♫", "two\nlines", "comma, 'quote' and \"quotes\"", " spaces ", "-dash", "%s{}*?[a]", "a.b.c", "tab\there"]


@pytest.fixture(scope="module", params=list(SUFFIX))
def domain(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(domain: str, tmp_path_factory: pytest.TempPathFactory, toolkit) -> Path:
    root = tmp_path_factory.mktemp("model")
    toolkit("pretrain", GOOD[domain](root / "in"), *options(domain), "--out", root / "run")
    return root / "run"


def test_odd_names_are_kept(domain: str, trained: Path, toolkit, tmp_path) -> None:
    source, folder = GOOD[domain](tmp_path / "source"), tmp_path / "in"
    folder.mkdir()
    names = [f"{name}{SUFFIX[domain]}" for name in NAMES]
    names += [("x" * (250 - len(SUFFIX[domain]))) + SUFFIX[domain], ("é" * 120) + SUFFIX[domain]]
    for name in names:
        shutil.copy(source, folder / name)
    broken = f'cut, "here"\nor there{SUFFIX[domain]}'
    (folder / broken).write_bytes(b"")
    wanted = {str(folder / name) for name in names}
    assert {row["path"] for row in toolkit("inspect", folder, "--json", code=3).document} == wanted
    toolkit("embed", folder, "--model", trained, "--out", tmp_path / "e.parquet", code=3)
    assert set(pq.read_table(tmp_path / "e.parquet")["path"].to_pylist()) == wanted
    with (tmp_path / "e.parquet.failures.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [str(folder / broken)]
    toolkit("embed", folder, "--model", trained, "--out", tmp_path / "e.csv", code=3)
    with (tmp_path / "e.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == wanted


def test_a_folder_a_pipe_and_links_with_the_name_of_a_file(domain: str, trained: Path, toolkit, tmp_path) -> None:
    folder, suffix = tmp_path / "in", SUFFIX[domain]
    good = GOOD[domain](folder)
    (folder / f"folder{suffix}").mkdir()
    inside = Path(shutil.copy(good, folder / f"folder{suffix}" / f"inside{suffix}"))
    os.mkfifo(folder / f"pipe{suffix}")
    (folder / f"device{suffix}").symlink_to("/dev/zero")
    (folder / f"broken{suffix}").symlink_to("nowhere")
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (folder / "up").symlink_to(folder)
    done = toolkit("embed", folder, "--model", trained, "--out", tmp_path / "e.parquet", "--verbose")
    assert set(pq.read_table(tmp_path / "e.parquet")["path"].to_pylist()) == {str(good), str(inside)}
    for name in ("pipe", "device", "broken", "loop"):
        assert f"{name}{suffix}" in done.err
    for name in ("pipe", "device"):
        done = toolkit("inspect", good, folder / f"{name}{suffix}", code=3)
        assert f"{name}{suffix} is not a file" in done.err
    assert "does not exist" in toolkit("inspect", folder / f"broken{suffix}", code=3).err


def test_a_file_that_may_not_be_read(domain: str, trained: Path, toolkit, tmp_path) -> None:
    good = GOOD[domain](tmp_path / "in")
    bad = Path(shutil.copy(good, good.with_name(f"locked{good.suffix}")))
    bad.chmod(0)
    if os.access(bad, os.R_OK):
        pytest.skip("this user may read every file")
    done = toolkit("embed", tmp_path / "in", "--model", trained, "--out", tmp_path / "e.parquet", "--json", code=3)
    (failure,) = done.document["failures"]
    assert failure["path"] == str(bad) and "ermission" in failure["reason"]


def _gone(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 5)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size // 2))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [_gone, _emptied, _cut, _noise, _folder]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_being_found_and_opened(
    domain: str, trained: Path, toolkit, tmp_path, monkeypatch, change: Callable[[Path], None]
) -> None:
    if domain == "audio" and change is _cut:
        pytest.skip("a WAV that was cut is read as far as it goes")
    good = GOOD[domain](tmp_path / "in" / "b")
    bad = GOOD[domain](tmp_path / "in" / "a")
    really = embedding.open_input

    def after(item):
        if item.path == bad:
            change(bad)
        return really(item)

    monkeypatch.setattr(embedding, "open_input", after)
    done = toolkit("embed", tmp_path / "in", "--model", trained, "--out", tmp_path / "e.parquet", "--json", code=3)
    (failure,) = done.document["failures"]
    assert failure["path"] == str(bad) and bad.name in failure["reason"]
    assert set(pq.read_table(tmp_path / "e.parquet")["path"].to_pylist()) == {str(good)}


# What is long enough to be read in two goes: one window before the change, the others after it.
LONG: dict[str, Callable[[Path], Path]] = {
    "eeg": lambda folder: edf(folder / "rec.edf", lines_of((100, 100), 60)),
    "cardiac": lambda folder: record(folder, "rec", values=signals(["II", "V5"], 60)),
    "audio": GOOD["audio"],
    "points": GOOD["points"],
}


@pytest.mark.parametrize("change", [_gone, _emptied, _cut, _folder])
@pytest.mark.parametrize("out", ["e.parquet", "e.csv"])
def test_a_file_that_changes_while_it_is_read_leaves_no_half(
    domain: str, trained: Path, toolkit, tmp_path, monkeypatch, change: Callable[[Path], None], out: str
) -> None:
    if domain == "mri":
        pytest.skip("a volume of one window is read at once")
    good = LONG[domain](tmp_path / "in" / "b")
    bad = LONG[domain](tmp_path / "in" / "a")
    really, left = RecordingEncoder._states, [bad]

    def after(self, batch):
        states = really(self, batch)
        while left:
            change(left.pop())
        return states

    monkeypatch.setattr(RecordingEncoder, "_states", after)
    words = ["--model", trained, "--out", tmp_path / out, "--batch-size", 1, "--json"]
    done = toolkit("embed", tmp_path / "in", *words, code=3)
    (failure,) = done.document["failures"]
    assert failure["path"] == str(bad) and bad.name in failure["reason"]
    if out.endswith("csv"):
        with (tmp_path / out).open(newline="") as file:
            paths = {row["path"] for row in csv.DictReader(file)}
    else:
        paths = set(pq.read_table(tmp_path / out)["path"].to_pylist())
    assert paths == {str(good)}
