"""Headers of many recordings: the same rows with and without a cache, whatever happens to the files or to the cache."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import readers
from readers.schema import ReadError
from tests.ecg import record
from toolkit.corpus import cache as caches
from toolkit.corpus import catalog, crew
from toolkit.corpus.cache import HeaderCache
from toolkit.corpus.crew import Crew, Lost
from toolkit.corpus.inputs import Failure, Input
from toolkit.progress import Progress

QUIET = Progress("test", 1, "recordings", enabled=False)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three records; files count as being at rest at once."""
    monkeypatch.setattr(caches, "SETTLED_NS", -(10**12))
    for number in range(3):
        record(tmp_path / "data", f"r{number}", seconds=1, subject=f"p{number}")
    return tmp_path / "data"


@pytest.fixture
def base(tmp_path) -> Path:
    return tmp_path / "cache" / "headers.sqlite"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the recordings that are opened from now on."""
    names: list[str] = []
    real = catalog.open_input

    def note(item):
        names.append(item.path.name)
        return real(item)

    monkeypatch.setattr(catalog, "open_input", note)
    return names


def items(folder: Path, **ids: str) -> list[Input]:
    recordings, _ = readers.scan(folder)
    return [Input(handle, folder, ids, tuple(parts)) for handle, *parts in recordings]


def rows(inputs, path=None, *, workers=1):
    with HeaderCache(path, enabled=path is not None) as cache:
        return [row if isinstance(row, Failure) else row.document for row in catalog.rows(inputs, workers, cache, QUIET)]


def test_what_did_not_change_is_not_opened_again(folder, base, opened):
    plain = rows(items(folder))
    assert [row["subject"] for row in plain] == ["p0", "p1", "p2"]
    assert rows(items(folder), base) == plain
    assert len(opened) == 6
    assert rows(items(folder), base) == plain == rows(list(reversed(items(folder))), base)[::-1]
    assert len(opened) == 6


def test_a_path_is_given_as_it_is_named(folder, base, opened, monkeypatch):
    rows(items(folder), base)
    monkeypatch.chdir(folder)
    assert [row["path"] for row in rows(items(Path()), base)] == ["r0.hea", "r1.hea", "r2.hea"]
    assert len(opened) == 3


def _rewritten(folder):
    record(folder, "r1", seconds=2)


def _same_size(folder):
    text = (folder / "r1.hea").read_text()
    (folder / "r1.hea").write_text(text.replace("p1", "q1"))


def _new_side_file(folder):
    (folder / "r1.atr").write_bytes(bytes([10, 4, 0, 0]))  # one beat after ten samples


def _longer_data(folder):
    with (folder / "r1.dat").open("ab") as file:
        file.write(bytes(400))


@pytest.mark.parametrize("change", [_rewritten, _same_size, _new_side_file, _longer_data])
def test_what_changed_is_read_again_and_only_that(folder, base, opened, change):
    before = rows(items(folder), base)
    opened.clear()
    change(folder)
    after = rows(items(folder), base)
    assert opened == ["r1.hea"]
    assert after == rows(items(folder))
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_a_failure_is_no_memory(folder, base, opened):
    data = (folder / "r1.dat").read_bytes()
    rows(items(folder), base)
    (folder / "r1.dat").unlink()
    for _ in range(2):
        good, bad, _ = rows(items(folder), base)
        assert good["subject"] == "p0" and bad.path.endswith("r1.hea") and "r1.dat" in bad.reason
    (folder / "r1.dat").write_bytes(data)
    assert rows(items(folder), base)[1]["subject"] == "p1"
    assert opened[3:] == ["r1.hea"] * 3


def test_other_words_of_a_manifest_are_another_row(folder, base):
    assert [row["subject"] for row in rows(items(folder), base)] == ["p0", "p1", "p2"]
    assert [row["subject"] for row in rows(items(folder, subject="x"), base)] == ["x"] * 3
    assert [row["subject"] for row in rows(items(folder), base)] == ["p0", "p1", "p2"]


def test_a_file_that_changed_just_now_is_not_remembered(folder, base, opened, monkeypatch):
    monkeypatch.setattr(caches, "SETTLED_NS", 10**12)
    assert rows(items(folder), base) == rows(items(folder), base)
    with HeaderCache(base) as cache:
        assert readers.scan(folder, cache) == readers.scan(folder, cache)
        assert cache.recall(str(folder), {}) == {}
    assert len(opened) == 6


def test_the_folder_is_remembered_too(folder, base, monkeypatch):
    (folder / "notes.hea").write_text("not a header\n" * 3)
    with HeaderCache(base) as cache:
        first = readers.scan(folder, cache)
    assert [path.name for path in first[1]] == ["notes.hea"]
    monkeypatch.setattr(type(readers.READERS[0]), "claims", lambda *_: pytest.fail("a file was opened"))
    with HeaderCache(base) as cache:
        assert readers.scan(folder, cache) == first


@pytest.mark.parametrize(
    ("name", "others", "belongs"),
    [
        ("r1.hea", ["r1.atr", "r1.x.y"], True),
        ("r1.hea", ["r10.hea", "r2.dat"], False),
        ("sub-1/eeg/sub-1_task-a_eeg.edf", ["sub-1/eeg/sub-1_electrodes.tsv", "task-a_eeg.json", "sub-1/x.tsv"], True),
        ("sub-1/ses-1/eeg/sub-1_ses-1_eeg.edf", ["participants.tsv"], True),
        ("sub-1/eeg/sub-1_eeg.edf", ["sub-1/eeg/sub-2_eeg.json", "sub-2/x.json", "notes.txt", "../z.tsv"], False),
    ],
)
def test_which_files_beside_a_recording_may_belong_to_it(tmp_path, name, others, belongs):
    top = tmp_path / "top"
    for other in others:
        before = catalog.Beside().mark(str(top / name))
        (top / other).parent.mkdir(parents=True, exist_ok=True)
        (top / other).touch()
        assert (catalog.Beside().mark(str(top / name)) != before) == belongs, other


def _garbage(base):
    base.write_bytes(b"not a database" * 1000)


def _broken_pages(base):
    content = bytearray(base.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    base.write_bytes(content)


def _broken_values(base):
    with sqlite3.connect(base) as connection:
        connection.execute("UPDATE recordings SET value = x'00ff'")
        connection.execute("UPDATE folders SET value = x'00ff'")
    connection.close()


def _other_values(base):
    with sqlite3.connect(base) as connection:
        for table in ("recordings", "folders"):
            connection.execute(f"UPDATE {table} SET value = ?", [b'[1, {"a": 2}, null]\n{}'])
    connection.close()


def _other_tables(base):
    with sqlite3.connect(base) as connection:
        connection.execute("DROP TABLE recordings")
        connection.execute("CREATE TABLE recordings (other TEXT)")
    connection.close()


def _a_folder(base):
    base.unlink()
    base.mkdir()


def _no_place(base):
    base.unlink()
    base.parent.rmdir()
    base.parent.write_text("a file")


DAMAGE = [_garbage, _broken_pages, _broken_values, _other_values, _other_tables, _a_folder, _no_place]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_costs_nothing_but_itself(folder, base, damage):
    def both():
        with HeaderCache(base) as cache:
            found = readers.scan(folder, cache)
        return found, rows(items(folder), base)

    good = both()
    damage(base)
    assert both() == good
    assert both() == good


@pytest.mark.parametrize("damage", [_garbage, _broken_values, _other_values])
def test_a_damaged_cache_is_made_anew(folder, base, opened, damage):
    good = rows(items(folder), base)
    damage(base)
    rows(items(folder), base)
    opened.clear()
    assert rows(items(folder), base) == good
    assert opened == []


def test_another_process_that_writes(folder, base, monkeypatch):
    monkeypatch.setattr(caches, "WAIT_S", 0.05)
    good = rows(items(folder), base)
    other = sqlite3.connect(base)
    other.execute("BEGIN EXCLUSIVE")
    assert rows(items(folder), base) == good
    other.rollback()
    other.execute("BEGIN IMMEDIATE")  # reading is possible, writing is not
    record(folder, "r1", seconds=2)
    assert rows(items(folder), base) == rows(items(folder))
    other.close()


def test_another_version_begins_anew(folder, base, opened, monkeypatch):
    rows(items(folder), base)
    monkeypatch.setattr(caches.toolkit, "__version__", "99")
    rows(items(folder), base)
    assert len(opened) == 6
    rows(items(folder), base)
    assert len(opened) == 6


def test_a_cache_beyond_its_size_begins_anew(folder, base, opened, monkeypatch):
    rows(items(folder), base)
    monkeypatch.setattr(caches, "MAX_BYTES", 100)
    rows(items(folder), base)
    assert len(opened) == 6


def test_where_the_cache_lies(tmp_path, monkeypatch):
    for name in ("TOOLKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert caches.folder() == tmp_path / "home/.cache/toolkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.folder() == tmp_path / "xdg/toolkit"
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "own"))
    assert caches.folder() == tmp_path / "own"


def test_annotations_that_raise_anything_are_a_failure(folder, monkeypatch):
    def fail(item, recording):
        raise (ReadError("broken marks") if item.path.name == "r0.hea" else IndexError("list\nindex"))

    monkeypatch.setattr(catalog, "describe", fail)
    reasons = [failure.reason for failure in rows(items(folder))]
    assert reasons == ["broken marks", *(f"r{n}.hea cannot be described: IndexError, list index" for n in (1, 2))]


def test_processes_give_the_same_rows_in_the_same_order(folder, base, monkeypatch):
    (folder / "r1.dat").unlink()
    many = items(folder) * 40
    alone = rows(many)
    monkeypatch.setattr(catalog, "FEW", 10)
    monkeypatch.setattr(catalog, "AT_ONCE", 50)
    assert rows(many, workers=2) == alone
    old = time.time() - 100
    for path in folder.iterdir():  # the processes know the real time at which files are at rest, of their change as well
        os.utime(path, (old, old))
    time.sleep(2.1)
    assert rows(many, base, workers=2) == alone
    with HeaderCache(base) as cache:
        assert len(cache.entries([str(item.path) for item in items(folder)])) == 2


def fragile(number: int) -> int:
    """Doubles a number; some end the process, one never comes back."""
    if number % 50 == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 33:
        os._exit(3)
    if number == 90:
        time.sleep(1000)
    return 2 * number


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_an_item_that_ends_its_process_costs_only_itself(monkeypatch):
    monkeypatch.setattr(crew, "LIMIT_S", 3.0)
    with Crew(fragile, 2) as workers:
        results = list(workers.map(range(130)))
        again = list(workers.map(range(40, 50)))
    lost = {number: result.reason for number, result in enumerate(results) if isinstance(result, Lost)}
    assert {n: r for n, r in enumerate(results) if n not in lost} == {n: 2 * n for n in range(130) if n not in lost}
    assert sorted(lost) == [7, 33, 57, 90, 107]
    assert "crashed, by signal 11" in lost[7] and "with code 3" in lost[33] and "more than 3 s" in lost[90]
    assert again == [2 * n for n in range(40, 50)]


def test_a_crew_that_is_left_leaves_no_process():
    code = (
        "import os, multiprocessing\n"
        "from toolkit.corpus.crew import Crew\n"
        "if __name__ == '__main__':\n"
        "    with Crew(abs, 2) as crew:\n"
        "        print(next(crew.map(range(-1000, 0))), len(multiprocessing.active_children()) > 0)\n"
        "    print(len(multiprocessing.active_children()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1000", "True", "0"]


def test_a_row_as_text_is_the_document(folder):
    with HeaderCache(enabled=False) as cache:
        for row in catalog.rows(items(folder), 1, cache, QUIET):
            assert json.loads(row.text) == row.document
            assert "\n" not in row.text
