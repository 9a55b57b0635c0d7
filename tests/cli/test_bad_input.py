"""Bad recordings, models and places: one paragraph, the right exit code, nothing lost."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests.ecg import record, signals


def _missing(folder: Path) -> None:
    record(folder, "bad").with_suffix(".dat").unlink()


def _truncated(folder: Path) -> None:
    dat = record(folder, "bad").with_suffix(".dat")
    dat.write_bytes(dat.read_bytes()[:1001])


def _longer_than_its_file(folder: Path) -> None:
    header = record(folder, "bad")
    header.write_text(header.read_text().replace(" 1200", " 1300", 1))


def _no_samples(folder: Path) -> None:
    (folder / "bad.hea").write_text("bad 1 100 0\nbad.dat 16 200/mV 16 0 0 0 0 II\n")
    (folder / "bad.dat").write_bytes(b"")


def _empty(folder: Path) -> None:
    (folder / "bad.hea").write_bytes(b"")


def _other_kind(folder: Path) -> None:
    record(folder, "bad", ["RESP"], units=["NU"])


def _a_folder(folder: Path) -> None:
    record(folder, "bad").with_suffix(".dat").unlink()
    (folder / "bad.dat").mkdir()


UNUSABLE = [_missing, _truncated, _longer_than_its_file, _no_samples, _empty, _other_kind, _a_folder]


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_a_recording_that_cannot_be_used_costs_only_itself(
    toolkit, model, small, tmp_path, spoil: Callable[[Path], None]
) -> None:
    folder = tmp_path / "in"
    record(folder, "good", subject="p")
    spoil(folder)
    done = toolkit("embed", folder, "--model", model, "--out", tmp_path / "e.parquet", "--json", code=3)
    (failure,) = done.document["failures"]
    assert failure["path"].endswith("bad.hea")
    assert failure["reason"]
    assert set(pq.read_table(tmp_path / "e.parquet")["path"].to_pylist()) == {str(folder / "good.hea")}
    assert "bad.hea" in (tmp_path / "e.parquet.failures.csv").read_text()
    done = toolkit("restore", folder, "--model", model, "--out", tmp_path / "out", "--json", code=3)
    assert [Path(row["path"]).name for row in done.document] == ["good.hea"]
    assert not list((tmp_path / "out").glob("*bad*"))
    done = toolkit("pretrain", folder, *small, "--steps", 1, "--out", tmp_path / "run", code=3)
    assert "bad.hea" in done.err
    assert (tmp_path / "run/model.safetensors").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["failures"]
    if spoil is not _other_kind:
        toolkit("inspect", folder, code=3)


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_nothing_but_a_recording_that_cannot_be_used(toolkit, small, tmp_path, spoil: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    spoil(tmp_path / "in")
    assert "None of 1" in toolkit("pretrain", tmp_path / "in", *small, "--steps", 1, "--out", tmp_path / "run", code=2).error
    assert not (tmp_path / "run").exists()


def test_failures_of_an_earlier_run_do_not_stay(toolkit, model, tmp_path) -> None:
    record(tmp_path / "in", "good")
    _empty(tmp_path / "in")
    toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", code=3)
    toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", "--resume", code=3)
    (tmp_path / "in/bad.hea").unlink()
    toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", "--overwrite")
    assert not (tmp_path / "e.csv.failures.csv").exists()


def test_a_name_that_is_not_utf8_costs_only_itself(toolkit, model, tmp_path) -> None:
    good = record(tmp_path / "in", "good")
    try:
        (tmp_path / "in" / os.fsdecode(b"\xff.hea")).write_text(good.read_text())
    except OSError:
        pytest.skip("this file system takes no such name")
    done = toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", "--json", code=3)
    assert "UTF-8" in done.document["failures"][0]["reason"]
    assert done.document["rows"] == 6


def test_a_wrong_checksum_is_a_warning_and_the_record_is_used(toolkit, model, tmp_path) -> None:
    header = record(tmp_path / "in", "s")
    lines = header.read_text().splitlines()
    fields = lines[1].split()
    fields[6] = str((int(fields[6]) + 7) % 65536)
    header.write_text("\n".join([lines[0], " ".join(fields), *lines[2:]]) + "\n")
    done = toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", "--json")
    assert "checksum" in done.err
    assert done.document["rows"] == 6
    assert "checksum" in toolkit("restore", tmp_path / "in", "--model", model, "--out", tmp_path / "out").err


def test_a_header_that_claims_less_than_its_file_holds(toolkit, model, small, tmp_path) -> None:
    header = record(tmp_path / "in", "s")
    header.write_text(header.read_text().replace(" 1200", " 1000", 1))
    assert "longer than its header claims" in toolkit("inspect", header).out
    assert "longer than its header claims" in toolkit("pretrain", header, *small, "--steps", 1, "--out", tmp_path / "run").err
    assert toolkit("embed", header, "--model", model, "--out", tmp_path / "e.csv", "--json").document["rows"] == 5


def test_a_lead_without_one_value_is_left_out_and_can_be_rebuilt(toolkit, model, tmp_path) -> None:
    values = signals(["II", "V5"], 10)
    values[:, 1] = np.nan
    record(tmp_path / "in", "s", values=values)
    assert toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", "--json").document["rows"] == 5
    (row,) = toolkit("restore", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--json").document
    assert [(d["channel"], d["why"]) for d in row["detected"]] == [("V5", "invalid")]
    assert row["changed_fraction"] == 0.5


def test_a_recording_without_one_value(toolkit, model, small, tmp_path) -> None:
    record(tmp_path / "in", "s", values=np.full((1000, 2), np.nan))
    done = toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.csv", "--json", code=3)
    assert "valid sample" in done.document["failures"][0]["reason"]
    toolkit("restore", tmp_path / "in", "--model", model, "--out", tmp_path / "out", code=3)


@pytest.mark.parametrize("command", ["pretrain", "embed", "inspect", "restore"])
def test_data_that_is_not_there(toolkit, model, small, tmp_path, command: str) -> None:
    more = {
        "pretrain": [*small, "--out", tmp_path / "x"],
        "embed": ["--model", model, "--out", tmp_path / "x.csv"],
        "inspect": [],
        "restore": ["--model", model, "--out", tmp_path / "x"],
    }[command]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("not a recording")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "other.csv").write_text("file\nx\n")
    (tmp_path / "hole.csv").write_text("path,subject\n,p\n")
    assert "notes.txt" in toolkit(command, tmp_path / "in", *more, code=2).error
    assert "does not exist" in toolkit(command, tmp_path / "nowhere", *more, code=2).error
    assert "No recordings" in toolkit(command, "-", *more, code=2).error
    assert "empty.csv" in toolkit(command, tmp_path / "empty.csv", *more, code=2).error
    assert "'path'" in toolkit(command, tmp_path / "other.csv", *more, code=2).error
    assert "path is empty" in toolkit(command, tmp_path / "hole.csv", *more, code=2).error
    assert not list(tmp_path.glob("x*"))


def test_a_path_on_stdin_that_does_not_exist_is_a_failure(toolkit, data, model) -> None:
    stdin = f"{data / 's0.hea'}\n{data / 'gone.hea'}\n"
    done = toolkit("embed", "-", "--model", model, "--out", "-", "--format", "csv", stdin=stdin, code=3)
    assert "gone.hea" in done.err
    assert len(done.out.splitlines()) == 7


def _no_recipe(run: Path) -> Path:
    (run / "recipe.toml").unlink()
    return run


def _no_weights(run: Path) -> Path:
    (run / "model.safetensors").unlink()
    return run


def _other_shape(run: Path) -> Path:
    tensors = load_file(run / "model.safetensors")
    name = next(k for k in tensors if tensors[k].ndim == 2)
    tensors[name] = np.zeros((3, 5), np.float32)
    save_file(tensors, run / "model.safetensors")
    return run


def _fewer_tensors(run: Path) -> Path:
    tensors = load_file(run / "model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, run / "model.safetensors")
    return run


def _pickle_by_name(run: Path) -> Path:
    (run / "model.pt").write_bytes(pickle.dumps({"weights": [1, 2]}))
    return run / "model.pt"


def _pickle_in_disguise(run: Path) -> Path:
    (run / "model.safetensors").write_bytes(pickle.dumps({"weights": [1, 2]}))
    return run


def _cut(run: Path) -> Path:
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[: len(content) // 2])
    return run


def _broken_recipe(run: Path) -> Path:
    (run / "recipe.toml").write_text("name = 'csfm'\nnot toml")
    return run


def _nothing(run: Path) -> Path:
    return run.parent / "nowhere"


@pytest.mark.parametrize(
    ("spoil", "hint"),
    [
        (_no_recipe, "recipe.toml"),
        (_no_weights, "model.safetensors"),
        (_other_shape, "(3, 5)"),
        (_fewer_tensors, "is missing"),
        (_pickle_by_name, "refused"),
        (_pickle_in_disguise, "refused"),
        (_cut, "not a readable safetensors"),
        (_broken_recipe, "not valid TOML"),
        (_nothing, "does not exist"),
    ],
)
def test_a_model_that_cannot_be_used(toolkit, data, model, tmp_path, spoil: Callable[[Path], Path], hint: str) -> None:
    place = spoil(Path(shutil.copytree(model, tmp_path / "run")))
    assert hint in toolkit("embed", data, "--model", place, "--out", tmp_path / "e.csv", code=2).error
    assert hint in toolkit("restore", data, "--model", place, "--out", tmp_path / "out", code=2).error
    assert hint in toolkit("probe", data, "--model", place, "--labels", data / "labels.csv", code=2).error
    assert not (tmp_path / "e.csv").exists()
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_never_opened(toolkit, data, small, model, tmp_path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    run = Path(shutil.copytree(model, tmp_path / "run"))
    (run / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    toolkit("embed", data, "--model", run, "--out", tmp_path / "e.csv", code=2)
    toolkit("pretrain", data, *small, "--steps", 1, "--init", run, "--out", tmp_path / "x", code=2)
    assert not (tmp_path / "sprung").exists()


def test_an_output_below_a_file(toolkit, data, model, table, small, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file/deep"
    assert "is a file" in toolkit("pretrain", data, *small, "--steps", 1, "--out", place, code=2).error
    assert "is a file" in toolkit("embed", data, "--model", model, "--out", f"{place}.csv", code=2).error
    assert "is a file" in toolkit("restore", data, "--model", model, "--out", place, code=2).error
    assert "is a file" in toolkit("probe", table, "--labels", data / "labels.csv", "--out", place, code=2).error
    assert "is a file" in toolkit("recipes", "cp", "csfm", f"{place}.toml", code=2).error


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where even root cannot write")
def test_an_output_where_nothing_can_be_made(toolkit, data, model, table, small) -> None:
    assert "/proc/no" in toolkit("pretrain", data, *small, "--steps", 1, "--out", "/proc/no", code=1).error
    assert "/proc/no.csv" in toolkit("embed", data, "--model", model, "--out", "/proc/no.csv", code=1).error
    assert "/proc/no" in toolkit("restore", data, "--model", model, "--out", "/proc/no", code=1).error
    assert "/proc/no" in toolkit("probe", table, "--labels", data / "labels.csv", "--out", "/proc/no", code=1).error
