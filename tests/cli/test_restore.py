"""``toolkit restore``: what it writes where, what it refuses, what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import wfdb
from PIL import Image

from tests import mri_files
from tests.ecg import record

KEYS = {"path", "out", "task", "changed_fraction", "detected", "metrics", "baselines"}
RECORD = {
    "argv",
    "recipe",
    "recipe_hash",
    "model_hash",
    "packages",
    "device",
    "seed",
    "input_hash",
    "seconds",
    "peak_memory_mb",
    "exit",
    "failures",
}


def stored(header: str | Path) -> np.ndarray:
    return wfdb.rdrecord(str(Path(header).with_suffix("")), physical=False).d_signal


def test_a_folder_is_written_back_with_sidecars_and_a_record(toolkit, data, model, tmp_path) -> None:
    done = toolkit("restore", data, "--model", model, "--out", tmp_path / "out", "--damage", "block:0.1", "--seed", 3)
    outs = [Path(line) for line in done.out.splitlines()]
    assert [o.name for o in outs] == ["s0.hea", "s1.hea", "s2.hea"]
    for out in outs:
        side = json.loads(out.with_suffix(".restored.json").read_text())
        assert {"changed", "model_hash", "scale", "recipe", "toolkit"} <= set(side)
        assert 0 < side["changed_fraction"] < 0.2
        with Image.open(out.with_suffix(".restored.png")) as picture:
            assert min(picture.size) > 200
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert set(run) >= RECORD
    assert len(run["restored"]) == 3
    assert not list((tmp_path / "out").glob(".*"))


def test_json_and_that_the_seed_moves_the_damage(toolkit, data, model, tmp_path) -> None:
    def run(name: str, seed: int) -> dict:
        (row,) = toolkit(
            "restore",
            data / "s0.hea",
            "--model",
            model,
            "--out",
            tmp_path / name,
            "--damage",
            "block:0.2",
            "--seed",
            seed,
            "--json",
            "--quiet",
        ).document
        return row

    one, again, other = run("a", 0), run("b", 0), run("c", 1)
    assert set(one) >= KEYS
    assert {"nmse", "r", "rrmse"} <= set(one["metrics"])
    assert {"linear interpolation", "identity"} == set(one["baselines"])
    assert one["metrics"] == again["metrics"]
    assert np.array_equal(stored(one["out"]), stored(again["out"]))
    assert one["metrics"] != other["metrics"]


def test_a_clean_file_is_copied_byte_for_byte(toolkit, data, model, tmp_path) -> None:
    (row,) = toolkit("restore", data / "s0.hea", "--model", model, "--out", tmp_path, "--json").document
    assert row["changed_fraction"] == 0
    for suffix in (".hea", ".dat"):
        assert (tmp_path / f"s0{suffix}").read_bytes() == (data / f"s0{suffix}").read_bytes()


def test_inputs_are_never_overwritten(toolkit, data, model, tmp_path) -> None:
    record(tmp_path / "in", "s", seed=1)
    before = {p: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    for out in (tmp_path / "in", tmp_path / "in/../in"):
        for more in ((), ("--overwrite",)):
            error = toolkit("restore", tmp_path / "in", "--model", model, "--out", out, "--channels", "V5", *more, code=2).error
            assert "never overwrite inputs" in error
    (tmp_path / "link").symlink_to(tmp_path / "in")
    toolkit("restore", tmp_path / "in", "--model", model, "--out", tmp_path / "link", "--overwrite", code=2)
    assert {p: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before


def test_outputs_that_exist_or_collide(toolkit, data, model, tmp_path) -> None:
    words = ["restore", data / "s0.hea", "--model", model, "--out", tmp_path / "out"]
    toolkit(*words)
    assert "exists" in toolkit(*words, code=2).error
    toolkit(*words, "--overwrite")
    for where in ("a", "b"):
        record(tmp_path / where, "same")
    both = [tmp_path / "a", tmp_path / "b"]
    assert "would both be restored" in toolkit("restore", *both, "--model", model, "--out", tmp_path / "two", code=2).error
    parts = [mri_files.volume(tmp_path / "head", f"sub-1_{name}", np.ones((4, 4, 4))) for name in ("T1w", "FLAIR")]
    alone = ["restore", *parts, "--model", model, "--out", tmp_path / "three", "--missing"]
    assert "would be made from" in toolkit(*alone, "T2w", code=2).error and not (tmp_path / "three").exists()
    assert "names contrasts" in toolkit(*alone, parts[0], code=2).error
    assert not (tmp_path / "two").exists()
    (tmp_path / "file").write_text("x")
    assert "a file" in toolkit(*words[:-1], tmp_path / "file", code=2).error


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--task", "inpant"], "'inpaint'"),
        (["--task", "channels"], "--channels"),
        (["--task", "channels", "--damage", "block:0.1"], "--channels"),
        (["--task", "channels", "--channels", "V5", "--damage", "block:0.1"], "parts"),
        (["--task", "inpaint", "--channels", "V5"], "whole"),
        (["--task", "inpaint", "--damage", "channel:0.5"], "whole"),
        (["--task", "modality", "--channels", "V5"], "inpaint or channels"),
        (["--channels", "V55"], "'V5'"),
        (["--damage", "blok:0.1"], "'block'"),
        (["--damage", "block:2"], "0 to 1"),
        (["--damage", "block"], "0 to 1"),
        (["--damage", "block:0.9"], "0.8"),
        (["--reference", "nowhere"], "nowhere"),
        (["--spans", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_mistyped_request_is_refused_before_any_work(toolkit, data, model, tmp_path, words, hint) -> None:
    assert hint in toolkit("restore", data, "--model", model, "--out", tmp_path / "out", *words, code=2).error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "cannot be read"),
        ("path,begin,stop\ns0.hea,1,2\n", "'start'"),
        ("path,start,stop\ns0.hea,one,2\n", "'one'"),
        ("path,start,stop\ns0.hea,3,2\n", "row 2"),
        ("path,start,stop\n,1,2\n", "row 2"),
        ("path,start,stop,channel\ns0.hea,1,2,V55\n", "'V5'"),
        ("path,start,stop\nsO.hea,1,2\n", "sO.hea"),
    ],
)
def test_a_table_of_spans_that_cannot_be_used(toolkit, data, model, tmp_path, text, hint) -> None:
    (tmp_path / "spans.csv").write_text(text)
    error = toolkit("restore", data, "--model", model, "--out", tmp_path / "out", "--spans", tmp_path / "spans.csv", code=2).error
    assert hint in error
    assert not (tmp_path / "out").exists()


def test_a_file_without_the_asked_channel_costs_only_itself(toolkit, data, twelve, model, tmp_path) -> None:
    done = toolkit("restore", data / "s0.hea", twelve, "--model", model, "--out", tmp_path, "--channels", "V1", "--json", code=3)
    assert [Path(row["path"]).name for row in done.document] == ["t.hea"]
    assert "no channel V1" in done.err


def test_a_reference_must_fit_its_input(toolkit, data, twelve, model, tmp_path) -> None:
    words = ["restore", data / "s0.hea", "--model", model, "--out", tmp_path / "out", "--channels", "V5"]
    assert "shape" in toolkit(*words, "--reference", twelve, code=2).error
    assert "does not exist" in toolkit(*words, "--reference", twelve.parent, code=2).error
    (row,) = toolkit(*words, "--reference", data, "--json").document
    assert row["metrics"]["nmse"] >= 0


def test_nothing_visible_and_other_kinds_of_channels(toolkit, model, tmp_path) -> None:
    record(tmp_path / "in", "flat", values=np.zeros((500, 2)))
    record(tmp_path / "in", "breath", ["RESP"], units=["NU"])
    record(tmp_path / "in", "mixed", ["II", "V5", "RESP"], units=["mV", "mV", "NU"])
    done = toolkit(
        "restore", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--channels", "RESP,II,V5", "--json", code=3
    )
    assert done.document == []
    assert done.err.count("is visible to repair from") == 2
    assert "RESP (resp)" in done.err
    done = toolkit("restore", tmp_path / "in/mixed.hea", "--model", model, "--out", tmp_path / "out", "--channels", "RESP,V5")
    assert "RESP is resp, which the model does not read" in done.err
