"""What only a process of its own shows: pipes, signals, a full disk, a clean stdout."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tests.ecg import record

PROGRAM = f"{shlex.quote(sys.executable)} -m toolkit"
STEPS = 60
RARELY = ["--set", "training.checkpoint_every=1000"]  # each one is flushed to the disk


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def same(a: Path, b: Path) -> bool:
    one, other = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_find_embed_and_probe_in_a_pipe(data, model) -> None:
    command = (
        f"find {shlex.quote(str(data))} -name '*.hea' -print0 | sort -z | {PROGRAM} embed - --model {model} -o - | "
        f"{PROGRAM} probe - --labels {data / 'labels.csv'} --group person --json"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True)
    assert {r["name"] for r in json.loads(done.stdout)["results"]} == {"csfm", "majority", "handcrafted", "random-init"}


def test_a_reader_that_leaves_early_is_no_error(data, model) -> None:
    command = f"{PROGRAM} embed {shlex.quote(str(data))} --model {model} -o - --format csv --window 0.2 --quiet | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("path,")
    assert done.stderr == ""


def test_nothing_but_the_answer_reaches_stdout_and_no_colour_stderr(data, model, start) -> None:
    process = start(["inspect", data, "--json"], env={**os.environ, "NO_COLOR": "1"})
    out, err = process.communicate()
    assert process.returncode == 0
    assert len(json.loads(out)) == 3
    assert b"\x1b" not in out + err


@pytest.fixture(scope="module")
def whole(toolkit, data, small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    toolkit("pretrain", data, *small, *RARELY, "--steps", STEPS, "--out", out)
    return out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_continues_to_the_same_weights(toolkit, data, small, start, whole, tmp_path, number, code) -> None:
    words = ["pretrain", data, *small, *RARELY, "--steps", STEPS, "--out", tmp_path / "run"]
    process = start(words)
    wait_until(lambda: lines(tmp_path / "run/metrics.jsonl") >= 5, process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code, err
    assert out == b""
    assert b"--resume" in err
    assert b"Traceback" not in err
    assert list((tmp_path / "run/checkpoints").glob("*.safetensors"))
    assert not (tmp_path / "run/model.safetensors").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["exit"] == code
    assert "has not finished" in toolkit("embed", data, "--model", tmp_path / "run", "--out", tmp_path / "e.csv", code=2).error
    toolkit(*words, "--resume")
    assert same(tmp_path / "run", whole)
    assert [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()] == [
        *range(1, STEPS + 1)
    ]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Eighty headers of one signal file."""
    folder = tmp_path_factory.mktemp("many")
    text = record(folder, "r").read_text()
    for number in range(80):
        (folder / f"r{number:03}.hea").write_text(text.replace("r 2", f"r{number:03} 2", 1))
    (folder / "r.hea").unlink()
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_embed_continues_from_its_journal(toolkit, many, model, start, tmp_path, number, code) -> None:
    out, journal = tmp_path / "e.parquet", tmp_path / "e.parquet.journal"
    words = ["embed", many, "--model", model, "--out", out]
    process = start(words)
    wait_until(lambda: len(list(journal.glob("*.arrow"))) >= 3, process)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    assert not out.exists()
    assert code < 0 or b"--resume" in err
    finished = {p: p.stat().st_mtime_ns for p in journal.glob("*.arrow")}
    assert "--resume" in toolkit(*words, code=2).error
    assert "another options" in toolkit(*words, "--resume", "--pool", "max", code=2).error
    assert all(p.stat().st_mtime_ns == finished[p] for p in finished)
    assert toolkit(*words, "--resume", "--json").document["rows"] == 480
    paths = pq.read_table(out)["path"].to_pylist()
    assert paths == sorted(paths)
    assert len(paths) == 480
    assert not journal.exists()


def test_a_stopped_restore_leaves_whole_files_and_a_record(many, model, start, tmp_path) -> None:
    process = start(["restore", many, "--model", model, "--out", tmp_path / "out", "--damage", "block:0.2"])
    wait_until(lambda: len(list((tmp_path / "out").glob("*.restored.json"))) >= 2, process)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 143, err
    written = json.loads((tmp_path / "out/run.json").read_text())
    assert written["exit"] == 143
    assert {row["out"] for row in written["restored"]} == {str(p) for p in (tmp_path / "out").glob("*.hea")}


def at_most(size: int) -> Callable[[], None]:
    """Files cannot grow beyond ``size`` bytes: to a program the same as a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_while_a_checkpoint_is_written(toolkit, data, small, start, tmp_path) -> None:
    words = ["pretrain", data, *small, "--steps", 4, "--out", tmp_path / "run"]
    process = start(words, preexec_fn=at_most(100_000))
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert out == b""
    (error,) = [line for line in err.decode().splitlines() if line.startswith("Error")]
    assert "checkpoints/step-" in error
    assert "could not be written" in error
    assert b"Traceback" not in err
    assert not (tmp_path / "run/model.safetensors").exists()
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    toolkit(*words, "--resume")
    toolkit("pretrain", data, *small, "--steps", 4, "--out", tmp_path / "whole")
    assert same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("command", ["embed", "restore"])
def test_a_full_disk_while_an_output_is_written(data, model, start, tmp_path, command: str) -> None:
    out = tmp_path / ("e.csv" if command == "embed" else "out")
    process = start([command, data, "--model", model, "--out", out], preexec_fn=at_most(1500))
    _, err = process.communicate()
    assert process.returncode == 1, err
    assert err.decode().splitlines()[-1].startswith("Error: ")
    assert b"Traceback" not in err
    assert not out.is_file()
    assert not out.is_dir() or not list(out.glob("*.hea"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(data, model) -> None:
    command = f"{PROGRAM} embed {shlex.quote(str(data))} --model {model} -o - > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_binary_is_not_sent_to_a_terminal(data, model, start) -> None:
    mine, theirs = os.openpty()  # a terminal of no columns
    process = start(["embed", data, "--model", model, "-o", "-"], stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert process.wait() == 2
    assert b"--format csv" in b" ".join(os.read(mine, 10_000).split())
    os.close(mine)
