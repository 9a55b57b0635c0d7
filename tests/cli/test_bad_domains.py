"""Bad recordings of every domain: each named with its reason, the good one beside them embedded as if it were alone."""

from __future__ import annotations

import csv
import json
import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.bad_files import BAD, GOOD, ODD

RECIPES = {
    "eeg": ("reve", ["data.rate_hz=100", "data.window_s=2", "tokenizer.patch=50", "tokenizer.stride=0"]),
    "cardiac": ("csfm", ["data.rate_hz=100", "data.window_s=2", "tokenizer.patch=10"]),
    "mri": ("bm-mae", ["data.spacing_mm=2", "data.window_mm=24", "tokenizer.patch=4"]),
    "audio": ("bird-mae", ["data.rate_hz=16000", "data.window_s=1"]),
    "points": ("point-cmae", ["data.points=64", "data.window_rows=100", "tokenizer.centres=8", "tokenizer.neighbours=8"]),
}
SHAPE = {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64}
SETTINGS = [f"{part}.{key}={value}" for part in ("encoder", "decoder") for key, value in SHAPE.items()]
SETTINGS += ["embedding.layer=-1", "embedding.pool=mean", "training.batch_size=2", "training.log_every=1"]


def options(domain: str) -> list[str]:
    """What makes a domain's recipe very small."""
    name, own = RECIPES[domain]
    words = [word for setting in (*own, *SETTINGS) for word in ("--set", setting)]
    return ["--recipe", name, "--size", "tiny", "--device", "cpu", "--steps", "1", *words]


@dataclass
class Seen:
    """What the commands said about a folder of one good, some odd and many bad recordings."""

    good: Path
    handles: dict[str, Path]
    looked: dict[str, Any]
    look_err: str
    failures: dict[str, str]
    embed_err: str
    rows: dict[str, list[list[float]]]
    alone: list[list[float]]
    run: dict[str, Any]
    seconds: float
    grown_mb: float


@pytest.fixture(scope="module", params=list(BAD))
def domain(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(domain: str, tmp_path_factory: pytest.TempPathFactory, toolkit) -> Path:
    """A model of one step on the good recording."""
    root = tmp_path_factory.mktemp("model")
    toolkit("pretrain", GOOD[domain](root / "in"), *options(domain), "--out", root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def seen(domain: str, trained: Path, tmp_path_factory: pytest.TempPathFactory, toolkit) -> Seen:
    root = tmp_path_factory.mktemp("bad")
    good = GOOD[domain](root / "in" / "good")
    makers = {name: case.make for name, case in BAD[domain].items()} | {name: make for name, (make, _) in ODD[domain].items()}
    handles = {name: make(root / "in" / name) for name, make in makers.items()}
    toolkit("embed", good, "--model", trained, "--out", root / "alone.parquet")
    began, peak = time.monotonic(), peak_mb()
    looked = toolkit("inspect", root / "in", "--json", "--verbose", code=3)
    done = toolkit("embed", root / "in", "--model", trained, "--out", root / "e.parquet", "--json", "--verbose", code=3)
    seconds, grown = time.monotonic() - began, peak_mb() - peak
    for name, case in BAD[domain].items():
        if case.opens:  # damage that only reading shows stops a training run, with its reason
            handles[name].unlink()
    toolkit("pretrain", root / "in", *options(domain), "--out", root / "run", code=3)
    with (root / "e.parquet.failures.csv").open(newline="") as file:
        failures = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert failures == {f["path"]: f["reason"] for f in done.document["failures"]}
    return Seen(
        good,
        handles,
        {row["path"]: row for row in looked.document},
        looked.err,
        failures,
        done.err,
        vectors(root / "e.parquet"),
        vectors(root / "alone.parquet")[str(good)],
        json.loads((root / "run" / "run.json").read_text()),
        seconds,
        grown,
    )


def vectors(path: Path) -> dict[str, list[list[float]]]:
    """Embeddings of a table by recording."""
    found: dict[str, list[list[float]]] = {}
    for row in pq.read_table(path, columns=["path", "embedding"]).to_pylist():
        found.setdefault(row["path"], []).append(row["embedding"])
    return found


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_every_bad_file_is_named_with_its_reason(domain: str, seen: Seen) -> None:
    problems = []
    for name, case in BAD[domain].items():
        path = str(seen.handles[name])
        said = seen.failures.get(path)
        if case.reason is None:
            fine = said is None and path in seen.embed_err
        else:
            fine = said is not None and re.search(case.reason, said) is not None and path in seen.embed_err
        if not fine or path in seen.rows:
            problems.append(f"{name}: expected {case.reason!r}, said {said!r}, rows {path in seen.rows}")
    assert not problems, "\n".join(problems)


def test_inspect_names_what_does_not_open(domain: str, seen: Seen) -> None:
    expected = {str(seen.handles[name]) for name, case in BAD[domain].items() if case.opens}
    expected |= {str(seen.handles[name]) for name in ODD[domain]} | {str(seen.good)}
    assert set(seen.looked) == expected
    closed = [str(seen.handles[name]) for name, case in BAD[domain].items() if not case.opens]
    assert [path for path in closed if path not in seen.look_err] == []


def test_training_names_what_does_not_open(domain: str, seen: Seen) -> None:
    named = {failure["path"] for failure in seen.run["failures"]}
    assert named == {str(seen.handles[name]) for name, case in BAD[domain].items() if case.reason and not case.opens}
    assert (seen.run["exit"] if "exit" in seen.run else seen.run["exit_code"]) == 3


def test_the_good_recording_has_the_rows_it_has_alone(seen: Seen) -> None:
    assert seen.rows[str(seen.good)] == seen.alone


def test_reasons_are_one_sentence_for_a_user(domain: str, seen: Seen) -> None:
    for path, reason in seen.failures.items():
        assert "\n" not in reason and len(reason) < 400 and "Error" not in reason, reason
        assert any(file.name in reason for file in Path(path).parent.iterdir()) or Path(path).name in reason, reason


def test_odd_recordings_are_used(domain: str, seen: Seen) -> None:
    for name, (_, warning) in ODD[domain].items():
        path = str(seen.handles[name])
        assert seen.rows.get(path), name
        warnings = " ".join(seen.looked[path]["warnings"])
        assert warning is None or warning in warnings, (name, warnings)


def test_time_and_memory_are_bounded(seen: Seen) -> None:
    assert seen.grown_mb < 700
    assert seen.seconds < 60


def test_only_what_can_be_read_is_restored(domain: str, seen: Seen, trained: Path, toolkit, tmp_path) -> None:
    if domain not in ("eeg", "cardiac"):
        pytest.skip("signals only")
    folder = seen.good.parent.parent
    done = toolkit("restore", folder, "--model", trained, "--damage", "block:0.2", "--out", tmp_path / "out", "--json", code=3)
    used = {str(seen.good)} | {str(seen.handles[name]) for name in ODD[domain]}
    assert {row["path"] for row in done.document} == used
    for row in done.document:
        assert Path(row["out"]).stat().st_size > 0
    closed = [name for name, case in BAD[domain].items() if case.reason and not case.opens]
    assert [name for name in closed if str(seen.handles[name]) not in done.err] == []
