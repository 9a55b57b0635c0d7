"""``toolkit pretrain``: what it leaves, what it refuses, how it goes on."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

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


def test_debug_shows_where_and_keeps_the_exit_code(toolkit, data, tmp_path) -> None:
    done = toolkit("pretrain", data, "--recipe", "csfn", "--out", tmp_path / "x", "--debug", code=2)
    assert "Traceback" in done.err
    assert "csfm" in done.error
