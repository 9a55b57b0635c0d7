"""``toolkit prepare``, and its corpus in the place of the recordings."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import ecg
from tests.cli.conftest import SMALL

ROOT = Path(__file__).parents[2]
GRID = ["--recipe", "csfm", "--size", "tiny", *(word for setting in SMALL for word in ("--set", setting))]


@pytest.fixture(scope="module")
def corpus(toolkit, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "corpus"
    toolkit("prepare", data, *GRID, "--out", out)
    return out


def test_it_prints_the_folder_or_a_document_and_leaves_a_record(toolkit, data, tmp_path) -> None:
    out = tmp_path / "c"
    assert toolkit("prepare", data, *GRID, "--out", out).out == f"{out}\n"
    done = toolkit("prepare", data, *GRID, "--out", out, "--resume", "--json").document
    assert set(done) == {"out", "recordings", "shards", "bytes", "failures", "seconds", "redone", "kept"}
    assert (done["out"], done["recordings"], done["redone"], done["kept"], done["failures"]) == (str(out), 3, 0, 3, [])
    assert done["bytes"] == (out / "shard-00000.bin").stat().st_size
    record, manifest = (json.loads((out / name).read_text()) for name in ("run.json", "manifest.json"))
    assert (record["command"], record["exit"], record["recordings"]) == ("prepare", 0, 3)
    assert manifest["arguments"] == [str(data)] and manifest["data"]["rate_hz"] == 100 and manifest["recordings"] == 3
    assert "exists" in toolkit("prepare", data, *GRID, "--out", out, code=2).error
    assert "exclude" in toolkit("prepare", data, *GRID, "--out", out, "--resume", "--overwrite", code=2).error
    assert toolkit("prepare", data, *GRID, "--out", out, "--overwrite", "--json").document["redone"] == 3


def test_every_command_takes_a_corpus_for_its_files(toolkit, data, model, corpus, small, beats, tmp_path) -> None:
    for where, name in ((data, "files"), (corpus, "corpus")):
        toolkit("pretrain", where, *small, "--steps", 3, "--out", tmp_path / name)
        toolkit("embed", where, "--model", model, "--out", tmp_path / f"{name}.parquet")
        words = ["--labels", beats, "--model", model, "--device", "cpu", "--json", "--folds", 2]
        document = toolkit("probe", where, *words, "--out", tmp_path / f"{name}-probe").document
        (tmp_path / f"{name}.json").write_text(json.dumps(document["results"]))
    same = ("files/model.safetensors", "files/inputs.txt", "files.json")
    for name in same:
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("files", "corpus")).read_bytes(), name
    assert pq.read_table(tmp_path / "files.parquet").equals(pq.read_table(tmp_path / "corpus.parquet"))
    assert toolkit("inspect", corpus, "--json").document == toolkit("inspect", data, "--json").document


def test_a_model_of_another_grid_is_refused_before_any_work(toolkit, data, model, corpus, tmp_path) -> None:
    toolkit("prepare", data, "--recipe", "csfm", "--set", "data.rate_hz=50", "--out", tmp_path / "c")
    out = tmp_path / "e.parquet"
    error = toolkit("embed", tmp_path / "c", "--model", model, "--out", out, code=2).error
    assert "holds signals at 50 Hz (ecg, ppg); the recipe 'csfm' reads signals at 100 Hz" in error
    assert not list(tmp_path.glob("e.*"))
    assert "signals at 50 Hz" in toolkit("embed", tmp_path / "c", "--model", model, "--out", "-", code=2).error
    error = toolkit("pretrain", corpus, "--recipe", "csfm", "--out", tmp_path / "run", code=2).error
    assert "signals at 100 Hz" in error and "reads signals at 250 Hz" in error
    assert not (tmp_path / "run").exists()


def test_restore_needs_the_files(toolkit, model, corpus, tmp_path) -> None:
    error = toolkit("restore", corpus, "--model", model, "--out", tmp_path / "out", code=2).error
    assert "is a prepared corpus, which does not hold the files themselves, and this needs them" in error
    assert not (tmp_path / "out").exists()


def test_inspect_says_what_the_corpus_holds_when_the_file_has_changed(toolkit, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    path = ecg.record(tmp_path / "data", "s", seconds=4)
    for file in path.parent.iterdir():
        os.utime(file, (1e9, 1e9))  # at rest, so that it may be remembered
    toolkit("prepare", path.parent, *GRID, "--out", tmp_path / "c")
    ecg.record(tmp_path / "data", "s", seconds=9)
    for file in path.parent.iterdir():
        os.utime(file, (2e9 - 1e9 + 5, 1e9 + 5))
    for _ in range(2):
        assert toolkit("inspect", tmp_path / "c", "--json").document[0]["duration_s"] == 4
        assert toolkit("inspect", path.parent, "--json").document[0]["duration_s"] == 9


def test_what_cannot_be_used_is_named_and_the_rest_written(toolkit, tmp_path) -> None:
    ecg.record(tmp_path / "data", "good", seconds=4)
    bad = ecg.record(tmp_path / "data", "bad", seconds=4)
    bad.with_suffix(".dat").unlink()
    out = tmp_path / "c"
    done = toolkit("prepare", tmp_path / "data", *GRID, "--out", out, "--json", code=3)
    (failure,) = done.document["failures"]
    assert failure["path"] == str(bad) and "bad.dat" in failure["reason"] and "bad.dat" in done.err
    with (out / "failures.csv").open() as lines:
        assert list(csv.DictReader(lines)) == [failure]
    ecg.record(tmp_path / "data", "bad", seconds=4)
    assert toolkit("prepare", tmp_path / "data", *GRID, "--out", out, "--resume", "--json").document["redone"] == 1
    assert not (out / "failures.csv").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_run_continues(toolkit, tmp_path, number, code) -> None:
    folder = tmp_path / "data"
    text = ecg.record(folder, "r", seconds=240, rate=360).read_text()
    for k in range(100):
        (folder / f"r{k:03}.hea").write_text(text.replace("r 2", f"r{k:03} 2", 1))
    (folder / "r.hea").unlink()
    out = tmp_path / "c"
    words = ["prepare", folder, "--recipe", "csfm", "--out", out, "--workers", 2]
    stopped = [sys.executable, "-m", "tests.stopped_prepare", str(int(number)), *map(str, words)]
    process = subprocess.run(stopped, start_new_session=True, capture_output=True, cwd=ROOT)
    err = process.stderr
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert code < 0 or b"continue with --resume" in err
    assert not (out / "manifest.json").exists()
    assert "was not finished" in toolkit("inspect", out, code=2).error
    done = toolkit(*words[:-2], "--workers", 1, "--resume", "--json").document
    assert 50 <= done["kept"] < 100 and done["redone"] == 100 - done["kept"] and done["recordings"] == 100
    assert [p.name for p in out.iterdir() if p.name.startswith((".", "journal"))] == []
    row = pq.read_table(out / "index.parquet").to_pylist()[-1]
    assert row["offset"] + row["bytes"] <= (out / "shard-00000.bin").stat().st_size
