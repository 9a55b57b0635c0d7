"""The program under test, in this process or in one of its own, on three small subjects and a model of six steps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.ecg import TWELVE, record
from toolkit.cli.app import app

SMALL = [
    "data.rate_hz=100",
    "data.window_s=2",
    "tokenizer.patch=10",
    "position.code=fourier",  # windows of any length
    "training.log_every=1",
    "training.checkpoint_every=3",
    "training.batch_size=4",
    "embedding.layer=-1",
    "embedding.pool=mean",
]
SMALL += [
    f"{part}.{key}={value}"
    for part in ("encoder", "decoder")
    for key, value in (("width", 32), ("depth", 1), ("heads", 2), ("head_width", 16), ("mlp", 64))
]


class Ran:
    """How a command ended."""

    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code, self.raw, self.err = code, out, err

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.raw)

    @property
    def error(self) -> str:
        """The error, which must be one paragraph at the end of stderr."""
        *_, last = self.err.strip().splitlines()
        assert last.startswith("Error: "), self.err
        return last


Toolkit = Callable[..., Ran]


@pytest.fixture(scope="session")
def toolkit() -> Toolkit:
    """Run ``toolkit WORDS...`` in this process and check its exit code."""

    def run(*words: object, code: int = 0, stdin: bytes | str = b"") -> Ran:
        done = CliRunner().invoke(app, [str(w) for w in words], input=stdin)
        assert done.exit_code == code, (words, done.exit_code, done.stderr, done.exception)
        if "--debug" not in words:
            assert "Traceback" not in done.stderr
        return Ran(done.exit_code, done.stdout_bytes, done.stderr)

    return run


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Start ``toolkit WORDS...`` as a process, with pipes; keywords as of Popen."""

    def begin(words: Sequence[object], **more: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-m", "toolkit", *map(str, words)], **{**pipes, **more})

    return begin


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Options that make the recipe csfm very small."""
    return ["--recipe", "csfm", "--size", "tiny", "--device", "cpu", *(word for setting in SMALL for word in ("--set", setting))]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Subjects p0 to p2 in s0.hea to s2.hea, 12 s each, with labels.csv beside them."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["path,label,person,side,hr,many"]
    for index, bpm in enumerate((60, 80, 100)):
        record(folder, f"s{index}", bpm=bpm, seed=index, subject=f"p{index}")
        side = "test" if index == 2 else "train"
        rows.append(f"s{index}.hea,{'slow' if index == 0 else 'fast'},p{index},{side},{bpm},{'a;b' if index else 'a'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def beats(data: Path) -> Path:
    """Labels of 3 s intervals, of two classes in every record, with a number to predict."""
    rows = ["path,label,start,stop,rate"]
    for index, bpm in enumerate((60, 80, 100)):
        rows += [f"s{index}.hea,{'ab'[k % 2]},{3 * k},{3 * k + 3},{bpm + k / 10}" for k in range(4)]
    path = data.parent / "beats" / "beats.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("twelve"), "t", TWELVE, 10, seed=9)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, toolkit: Toolkit, data: Path, twelve: Path, small: list[str]) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    toolkit("pretrain", data, twelve, *small, "--steps", 6, "--out", run)
    return run


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, toolkit: Toolkit, data: Path, model: Path) -> Path:
    out = tmp_path_factory.mktemp("table") / "e.parquet"
    toolkit("embed", data, "--model", model, "--out", out)
    return out
