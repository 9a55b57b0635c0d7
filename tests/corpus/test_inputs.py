import io
import os

import numpy as np
import pandas as pd
import pytest

from readers.schema import ReadError
from toolkit.corpus.inputs import Input, gather, open_input, subject_of
from toolkit.errors import UsageError

NAMES = ["twelve", "two", "both", "more", "pulse"]  # as sorted paths: a/..., then b/...


def stems(found):
    return [item.path.stem for item in found.items]


def test_a_folder_gives_its_records_sorted_and_names_the_rest(wfdb_folder):
    found = gather([str(wfdb_folder)])
    assert stems(found) == NAMES
    assert found.unclaimed == (wfdb_folder / "notes.txt",) and found.roots == (wfdb_folder,)
    assert [str(item.relative.parent) for item in found.items] == ["a", "a", "b", "b", "b"]


@pytest.mark.parametrize("data", [["a", "b"], ["a/*.hea", "b/*.hea"], ["**/*.hea"], ["a/tw?.hea", "a", "b"]])
def test_files_folders_and_globs_name_the_same_records(wfdb_folder, monkeypatch, data):
    monkeypatch.chdir(wfdb_folder)
    assert sorted(stems(gather(data))) == sorted(NAMES)


def test_arguments_keep_their_order_and_a_record_counts_once(wfdb_folder, monkeypatch):
    monkeypatch.chdir(wfdb_folder)
    assert stems(gather(["b", "a/two.hea", "a", str(wfdb_folder)])) == ["both", "more", "pulse", "two", "twelve"]
    again = gather([str(wfdb_folder), ".", "./a/../a"])
    assert stems(again) == NAMES
    assert [p.name for p in again.unclaimed] == ["notes.txt"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(wfdb_folder, tmp_path):
    for suffix in (".hea", ".dat"):
        (tmp_path / f"r[1]{suffix}").write_bytes((wfdb_folder / f"a/two{suffix}").read_bytes())
    assert stems(gather([str(tmp_path / "r[1].hea")])) == ["r[1]"]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_paths_on_stdin(wfdb_folder, separator):
    paths = [os.fsencode(wfdb_folder / name) for name in ("b/pulse.hea", "a", "notes.txt", "gone.hea")]
    found = gather(["-"], stdin=io.BytesIO(separator.join(paths) + separator))
    assert stems(found) == ["pulse", "twelve", "two", "gone"] and [p.name for p in found.unclaimed] == ["notes.txt"]
    with pytest.raises(ReadError, match="does not exist"):
        open_input(found.items[-1])


def test_a_nul_separated_path_may_hold_a_newline(wfdb_folder, tmp_path):
    folder = tmp_path / "two\nlines \r"
    folder.mkdir()
    for suffix in (".hea", ".dat"):
        (folder / f"two{suffix}").write_bytes((wfdb_folder / f"a/two{suffix}").read_bytes())
    found = gather(["-"], stdin=io.BytesIO(bytes(folder) + b"\0"))
    assert [item.path for item in found.items] == [folder / "two.hea"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_names_records_and_their_subjects(wfdb_folder, suffix):
    table = pd.DataFrame(
        {
            "path": ["b/pulse.hea", "a/two.hea", "gone.hea", str(wfdb_folder / "b/both.hea")],
            "subject": ["007", None, "x", "NA"],
            "site": ["here"] * 4,
        }
    )
    manifest = wfdb_folder.parent / f"{wfdb_folder.name}-list.{suffix}"
    table["path"] = [p if p[0] == "/" else f"{wfdb_folder.name}/{p}" for p in table["path"]]
    table.to_csv(manifest, index=False) if suffix == "csv" else table.to_parquet(manifest)
    found = gather([str(manifest)])
    assert stems(found) == ["pulse", "two", "gone", "both"]
    assert [dict(item.ids).get("subject") for item in found.items] == ["007", None, "x", "NA"]
    assert found.items[0].ids["site"] == "here"
    subjects = [subject_of(item, open_input(item)) for item in found.items if item.path.exists()]
    assert subjects == ["007", "s2", "NA"]  # where the manifest is silent, the record's own comment counts
    both = gather([str(wfdb_folder), str(manifest)])
    assert stems(both) == [*NAMES, "gone"]
    assert {item.path.stem: item.ids.get("subject") for item in both.items}["pulse"] == "007"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"file,subject\nx,1\n", ["no column 'path'", "file, subject"]),
        ("b.csv", b"", ["b.csv", "cannot be read"]),
        ("c.csv", b"path\n\xff\xfe\n", ["c.csv", "cannot be read"]),
        ("d.csv", b"path,subject\nr.hea,1\n,2\n", ["d.csv", "row 3", "path"]),
        ("e.parquet", b"PAR1 not really", ["e.parquet", "cannot be read"]),
        ("f.csv", b"path,subject\n", ["No recordings", "f.csv"]),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        gather([str(tmp_path / name)])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_is_not_there_or_holds_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "letter.txt").write_text("hello")
    for data, words in [
        (["gone"], "'gone' does not exist"),
        (["*.hea"], "'*.hea' does not exist"),
        ([""], "'' does not exist"),
        (["empty"], "No recordings in 'empty'"),
        (["letter.txt"], "'letter.txt'"),
        (["-"], "stdin"),
    ]:
        with pytest.raises(UsageError) as error:
            gather(data)
        assert words in str(error.value) and error.value.exit_code == 2
    with pytest.raises(UsageError, match="No recordings"):
        gather(["-"], stdin=io.BytesIO(b"\n\n"))


def test_a_domain_leaves_out_the_others_but_no_missing_file(wfdb_folder):
    lines = f"{wfdb_folder}/a/two.hea\n{wfdb_folder}/gone.hea\n".encode()
    assert stems(gather(["-"], stdin=io.BytesIO(lines), domain="cardiac")) == ["two", "gone"]
    with pytest.raises(UsageError, match="no domain 'weather'"):
        gather([str(wfdb_folder)], domain="weather")


def test_the_subject_is_the_manifest_s_before_the_file_s_and_never_a_guess(wfdb_folder, tmp_path):
    path = wfdb_folder / "a" / "two.hea"
    recording = open_input(Input(path, path.parent))
    assert subject_of(Input(path, path.parent, {"subject": "m"}), recording) == "m"
    assert subject_of(Input(path, path.parent), recording) == "s2"
    (tmp_path / "sub-01.hea").write_text(path.read_text().split("#")[0].replace("two", "sub-01"))
    (tmp_path / "sub-01.dat").write_bytes(path.with_suffix(".dat").read_bytes())
    bare = Input(tmp_path / "sub-01.hea", tmp_path)
    assert np.isfinite(open_input(bare).read(0, 10).values).all() and subject_of(bare, open_input(bare)) is None
