"""``toolkit pretrain``: what it leaves, what it refuses, how it goes on."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import ecg, points_files

KEYS = {"run", "steps", "loss", "samples_per_s", "peak_memory_mb", "seconds"}
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
    "samples_per_s",
    "peak_memory_mb",
    "exit",
    "failures",
}


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_run_folder_holds_everything_and_stdout_only_its_name(toolkit, data, small, tmp_path) -> None:
    done = toolkit("pretrain", data, *small, "--steps", 4, "--out", tmp_path / "run")
    assert done.out == f"{tmp_path / 'run'}\n"
    assert "labels.csv" in done.err  # a file of no known format is named
    run = tmp_path / "run"
    for name in ("model.safetensors", "recipe.toml", "run.json", "metrics.jsonl", "loss.png"):
        assert (run / name).stat().st_size > 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    record = json.loads((run / "run.json").read_text())
    assert set(record) >= RECORD
    assert record["exit"] == 0
    assert not list(run.glob("**/.*"))


def test_json_and_quiet(toolkit, data, small, tmp_path) -> None:
    done = toolkit("pretrain", data, *small, "--steps", 1, "--out", tmp_path / "run", "--json", "--quiet")
    assert set(done.document) >= KEYS
    assert done.err == ""


def test_print_config_reproduces_the_run_and_does_no_work(toolkit, data, small, tmp_path) -> None:
    words = ["pretrain", data, *small, "--steps", 7, "--seed", 5, "--batch-size", 3, "--out", tmp_path / "run", "--print-config"]
    text = toolkit(*words).out
    table = tomllib.loads(text)
    assert table["training"]["steps"] == 7
    assert table["training"]["seed"] == 5
    assert table["training"]["batch_size"] == 3
    (tmp_path / "again.toml").write_text(text)
    again = toolkit("pretrain", data, "--recipe", tmp_path / "again.toml", "--out", tmp_path / "run", "--print-config").out
    assert tomllib.loads(again) == table
    assert not (tmp_path / "run").exists()


def test_seed_workers_epochs_and_init_do_something(toolkit, data, small, model, tmp_path) -> None:
    def run(name: str, *more: object) -> dict[str, np.ndarray]:
        toolkit("pretrain", data, *small, *more, "--out", tmp_path / name, "--quiet")
        return weights(tmp_path / name)

    one = run("one", "--steps", 2)
    assert same(one, run("threads", "--steps", 2, "--workers", 3))
    assert not same(one, run("other", "--steps", 2, "--seed", 1))
    assert not same(one, run("from", "--steps", 2, "--init", model))
    run("epochs", "--epochs", 1)  # 3 records of 6 windows in batches of 4
    assert tomllib.loads((tmp_path / "epochs/recipe.toml").read_text())["training"]["steps"] == 5
    assert "exclude" in toolkit("pretrain", data, *small, "--steps", 1, "--epochs", 1, "--out", tmp_path / "x", code=2).error


def test_precision_and_device(toolkit, data, small, tmp_path) -> None:
    toolkit("pretrain", data, *small, "--steps", 1, "--precision", "bf16", "--out", tmp_path / "half")
    assert json.loads((tmp_path / "half/run.json").read_text())["bf16"]
    assert "tpu" in toolkit("pretrain", data, *small, "--device", "tpu", "--out", tmp_path / "x", code=2).error
    assert "fp16" in toolkit("pretrain", data, *small, "--precision", "fp16", "--out", tmp_path / "x", code=2).error


def test_a_run_that_exists_is_refused_resumed_or_replaced(toolkit, data, small, tmp_path) -> None:
    words = ["pretrain", data, *small, "--steps", 2, "--out", tmp_path / "run"]
    toolkit(*words)
    before = weights(tmp_path / "run")
    assert "exists" in toolkit(*words, code=2).error
    toolkit(*words, "--resume")  # finished already
    assert same(before, weights(tmp_path / "run"))
    assert "another recipe" in toolkit(*words, "--seed", 9, "--resume", code=2).error
    assert "exclude" in toolkit(*words, "--resume", "--overwrite", code=2).error
    toolkit(*words, "--seed", 9, "--overwrite")
    assert not same(before, weights(tmp_path / "run"))


def test_resume_on_other_data_is_refused(toolkit, data, twelve, small, tmp_path) -> None:
    toolkit("pretrain", data, *small, "--steps", 1, "--out", tmp_path / "run")
    assert "other data" in toolkit("pretrain", twelve, *small, "--steps", 1, "--out", tmp_path / "run", "--resume", code=2).error


def test_overwrite_never_removes_a_folder_of_the_user(toolkit, data, small, tmp_path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("years of work")
    error = toolkit("pretrain", data, *small, "--steps", 1, "--out", tmp_path / "thesis", "--overwrite", code=2).error
    assert "not written by this program" in error
    assert (tmp_path / "thesis/chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--recipe", "csfn"], "'csfm'"),
        (["--recipe", "csfm", "--size", "tini"], "'tiny'"),
        (["--recipe", "csfm", "--set", "optimizer.learning_rat=1"], "'optimizer.learning_rate'"),
        (["--recipe", "csfm", "--set", "mask.ratio=much"], "mask.ratio"),
        (["--recipe", "csfm", "--set", "mask.ratio=2"], "mask.ratio"),
        (["--recipe", "csfm", "--set", "mask.ratio"], "KEY=VALUE"),
        (["--recipe", "csfm", "--set", "data.window_s=9.99"], "tokenizer.patch"),
        (["--recipe", "nothing.toml"], "nothing.toml"),
        (["--recip", "csfm"], "--recipe"),
    ],
)
def test_a_mistyped_recipe_is_answered_with_what_was_meant(toolkit, data, tmp_path, words, hint) -> None:
    done = toolkit("pretrain", data, *words, "--out", tmp_path / "x", code=2)
    assert hint in done.err
    assert not (tmp_path / "x").exists()


# Recipes of an objective, which run on every domain.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """An ECG record and a point cloud."""
    folder = tmp_path_factory.mktemp("mixed")
    ecg.record(folder, "heart", seconds=5)
    points_files.ply(folder / "cloud.ply", points_files.cloud(300))
    return folder


def test_an_objective_runs_on_the_domain_of_the_data(toolkit, data, small, tmp_path) -> None:
    words = ["pretrain", data, "--recipe", "mae", *small[2:], "--steps", 2, "--out", tmp_path / "run"]
    toolkit(*words)
    recipe = tomllib.loads((tmp_path / "run/recipe.toml").read_text())
    assert (recipe["name"], recipe["domains"], recipe["data"]["kinds"]) == ("mae", ["cardiac"], ["ecg", "ppg"])
    assert json.loads((tmp_path / "run/run.json").read_text())["recipe"]["terms"][0]["target"] == "patch_norm"
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [list(line["terms"]) for line in lines] == [["reconstruction"]] * 2
    before = weights(tmp_path / "run")
    toolkit(*words, "--resume")  # the same run again, its domain found again
    assert same(before, weights(tmp_path / "run"))


def test_data_of_several_domains_need_one_named(toolkit, mixed, tmp_path) -> None:
    words = ["pretrain", mixed, "--recipe", "mae", "--size", "tiny", "--out", tmp_path / "x"]
    error = toolkit(*words, code=2).error
    assert "--domain" in error and "1 of cardiac" in error and "1 of points" in error
    assert "--domain" in toolkit("prepare", *words[1:], code=2).error
    for domain, axes in (("cardiac", "signal"), ("points", "points")):
        table = tomllib.loads(toolkit(*words, "--domain", domain, "--print-config").out)
        assert (table["domains"], table["data"]["axes"]) == ([domain], axes)
    assert "points" in toolkit(*words, "--domain", "point", code=2).error
    assert "No recordings" in toolkit(*words, "--domain", "mri", code=2).error
    table = tomllib.loads(toolkit("pretrain", mixed, "--recipe", "csfm", "--out", tmp_path / "x", "--print-config").out)
    assert table["domains"] == ["cardiac"]  # a recipe of one domain asks for none
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("more", [[], ["--domain", "points"]])
def test_settings_of_an_objective_are_those_of_the_data_s_domain(toolkit, tmp_path, more) -> None:
    (tmp_path / "data").mkdir()
    points_files.ply(tmp_path / "data/cloud.ply", points_files.cloud(300))
    words = ["pretrain", tmp_path / "data", "--recipe", "mae", "--size", "tiny", *more, "--out", tmp_path / "x"]
    text = toolkit(*words, "--set", "tokenizer.centres=8", "--print-config").out  # a key that signals do not have
    assert tomllib.loads(text)["tokenizer"]["centres"] == 8
    assert "rate_hz" in toolkit(*words, "--set", "data.rate_hz=100", code=2).error


def test_data_of_which_nothing_can_be_opened_are_of_no_domain(toolkit, tmp_path) -> None:
    (tmp_path / "cut.ply").write_bytes(b"ply\nformat ascii 1.0\nelement")
    error = toolkit("pretrain", tmp_path / "cut.ply", "--recipe", "mae", "--out", tmp_path / "x", code=2).error
    assert "none that can be opened" in error and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("terms.0.weigth=2", "'terms.weight'"),
        ("terms.0.codes=9", "would do nothing"),
        ("terms.1.weight=2", "one of 1 tables"),
        ("mask.ways.spams=1", "'mask.ways.spans'"),
    ],
)
def test_a_mistyped_setting_of_an_objective_is_answered_before_the_data_are_looked_at(toolkit, tmp_path, setting, hint) -> None:
    words = ["pretrain", tmp_path / "nothing", "--recipe", "mae", "--domain", "mri", "--set", setting, "--out", tmp_path / "x"]
    assert hint in toolkit(*words, code=2).err


def test_debug_shows_where_and_keeps_the_exit_code(toolkit, data, tmp_path) -> None:
    done = toolkit("pretrain", data, "--recipe", "csfn", "--out", tmp_path / "x", "--debug", code=2)
    assert "Traceback" in done.err
    assert "csfm" in done.error
