import errno
import hashlib
import json
import os
import resource
import signal

import pytest

from toolkit import files
from toolkit.errors import Interrupted, ToolkitError, UsageError
from toolkit.interrupts import StopSignals
from toolkit.progress import Progress


def test_a_file_appears_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("problem", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failed_write_keeps_the_old_file(tmp_path, problem):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with files.atomic(path) as temporary:
            temporary.write_text("ne")
            raise problem

    with pytest.raises(ToolkitError if isinstance(problem, OSError) else type(problem)) as error:
        write()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    if isinstance(problem, OSError):
        assert "a.txt" in str(error.value) and "No space left" in str(error.value)


def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(ToolkitError, match=r"a\.txt' could not be written: File too large"):
            files.write_text(path, "x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["file/a.txt", "folder", "x" * 260])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ToolkitError, match="could not be written"):
        files.write_text(tmp_path / place, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_text_and_json_are_what_was_given(tmp_path):
    files.write_text(tmp_path / "a.txt", "é\n")
    files.write_json(tmp_path / "a.json", {"a": [1, None], "p": tmp_path})
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None], "p": str(tmp_path)}
    assert files.sha256(tmp_path / "a.txt") == hashlib.sha256("é\n".encode()).hexdigest()[:16]


def test_an_output_file_that_exists_is_refused_and_never_touched_by_the_check(tmp_path):
    path = tmp_path / "a.txt"
    files.check_file(path, overwrite=False, what="Output")
    path.write_text("old")
    with pytest.raises(UsageError, match=r"Output '.*a\.txt' exists"):
        files.check_file(path, overwrite=False, what="Output")
    files.check_file(path, overwrite=True, what="Output")
    assert path.read_text() == "old"
    with pytest.raises(UsageError, match="is a folder"):
        files.check_file(tmp_path, overwrite=True, what="Output")


def test_only_a_folder_of_our_making_is_replaced(tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine"
    files.claim_output(run, overwrite=False, what="Run")
    for folder, name in ((run, "run.json"), (mine, "thesis.txt")):
        folder.mkdir()
        (folder / name).write_text("x")
        with pytest.raises(UsageError, match="exists"):
            files.claim_output(folder, overwrite=False, what="Run")
    with pytest.raises(UsageError, match="mine"):
        files.claim_output(mine, overwrite=True, what="Run")
    assert (mine / "thesis.txt").exists()
    files.claim_output(run, overwrite=True, what="Run")
    assert list(run.iterdir()) == []


def test_a_linked_run_folder_can_be_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.claim_output(tmp_path / "link", overwrite=True, what="Run")
    files.write_text(tmp_path / "link" / "run.json", "new")
    assert (tmp_path / "link" / "run.json").read_text() == "new"


def test_an_output_folder_that_is_a_file_or_below_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        files.claim_output(tmp_path / "file", overwrite=True, what="Run")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        files.check_writable(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="no write permission"):
        files.check_writable(tmp_path / "locked" / "run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_sets_a_flag_and_gives_its_exit_code(number, code):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals() as stop:
        stop.check("nothing")
        os.kill(os.getpid(), number)
        assert stop.signum == number
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before  # a second one acts as always
        with pytest.raises(Interrupted, match=f"Stopped by {number.name}. All is safe.") as error:
            stop.check("All is safe.")
    assert error.value.exit_code == code
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_progress_off_a_terminal_is_a_plain_line_every_30_seconds_on_stderr(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr("toolkit.progress.time.monotonic", lambda: now[0])
    with Progress("train", 100, "steps") as progress:
        progress.start_at(20)
        for done in range(21, 31):
            now[0] += 4
            progress.update(done, "loss 1")
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == ["train: 28/100 steps, loss 1, about 288 s left"]  # 4 s a step, 72 left
    with Progress("train", 100, "steps", enabled=False) as progress:
        now[0] += 100
        progress.update(1)
    assert capsys.readouterr() == ("", "")
