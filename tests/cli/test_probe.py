"""``toolkit probe``: both ways in, every kind of question, and what is refused before fitting."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

KEYS = {"task", "target", "windows", "groups", "classes", "split", "main_metric", "results", "warnings"}
ROWS = {"majority", "handcrafted", "random-init", "csfm"}
RECORD = {"argv", "recipe", "model_hash", "packages", "seed", "input_hash", "seconds", "peak_memory_mb", "exit", "failures"}


def test_a_table_of_embeddings(toolkit, table, data) -> None:
    document = toolkit("probe", table, "--labels", data / "labels.csv", "--group", "person", "--json").document
    assert set(document) >= KEYS
    assert (document["task"], document["windows"], document["groups"], document["classes"]) == ("binary", 18, 3, ["fast", "slow"])
    assert document["split"] == {"kind": "group", "column": "person", "folds": 3, "group": "person"}
    assert {r["name"] for r in document["results"]} == ROWS
    assert document["results"][0]["metric"] == document["main_metric"] == "balanced_accuracy"
    for row in document["results"]:
        assert {"name", "head", "metric", "value", "low", "high"} <= set(row)


def test_recordings_and_a_model_give_a_row_for_each_interval(toolkit, data, beats, model) -> None:
    document = toolkit("probe", data, "--model", model, "--labels", beats, "--json").document
    assert (document["windows"], document["groups"]) == (12, 3)
    assert {r["name"] for r in document["results"]} == ROWS
    assert document["split"]["group"] == "subject"  # from the records themselves


def test_plain_text_goes_to_stdout_and_baselines_can_be_left_out(toolkit, table, data) -> None:
    done = toolkit("probe", table, "--labels", data / "labels.csv", "--no-baselines")
    assert [line.split()[0] for line in done.out.splitlines()[2:]] == ["csfm", "majority"]


@pytest.mark.parametrize(
    ("more", "task", "metric"),
    [
        (["--target", "hr", "--task", "regression"], "regression", "mae"),
        (["--target", "hr"], "multiclass", "balanced_accuracy"),
        (["--target", "many"], "multilabel", "macro_auroc"),
        (["--head", "knn"], "binary", "balanced_accuracy"),
        (["--head", "svm"], "binary", "balanced_accuracy"),
        (["--split", "side"], "binary", "balanced_accuracy"),
        (["--folds", 2], "binary", "balanced_accuracy"),
    ],
)
def test_every_kind_of_question(toolkit, table, data, more, task, metric) -> None:
    document = toolkit(
        "probe", table, "--labels", data / "labels.csv", "--group", "person", *more, "--no-baselines", "--json"
    ).document
    assert (document["task"], document["main_metric"]) == (task, metric)
    if "--split" in more:
        assert document["split"] == {"kind": "column", "column": "side", "folds": 1, "group": "person"}
    if "--folds" in more:
        assert document["split"]["folds"] == 2


@pytest.mark.parametrize("head", ["prototypes", "attentive"])
def test_heads_on_frozen_tokens_of_recordings(toolkit, data, beats, model, head) -> None:
    words = ["probe", data, "--model", model, "--labels", beats, "--folds", 2, "--head", head]
    document = toolkit(*words, "--json").document
    heads = {r["name"]: (r["head"], r["parameters"]) for r in document["results"]}
    assert heads["csfm"] == heads["random-init"] and heads["csfm"][0] == head
    assert heads["csfm"][1] == {"prototypes": 2 * 20 * 33 + 2, "attentive": 2 * 32**2 + 3 * 32 + 2 * 33}[head]
    assert heads["handcrafted"][0] == "linear" and heads["majority"] == ("constant", 0)


def test_heads_that_do_not_fit_are_refused(toolkit, data, beats, table, model) -> None:
    assert "--model" in toolkit("probe", table, "--labels", data / "labels.csv", "--head", "prototypes", code=2).error
    words = ["probe", data, "--model", model, "--labels", beats, "--target", "rate"]
    for head in ("svm", "prototypes"):
        assert "quantity" in toolkit(*words, "--head", head, code=2).error
    assert "--label-fractions" in toolkit(*words, "--few-shot", 1, code=2).error


def test_few_labels_give_rows_figures_and_lines(toolkit, table, data, tmp_path) -> None:
    words = ["probe", table, "--labels", data / "labels.csv", "--group", "person", "--no-baselines", "--split", "side"]
    words += ["--few-shot", "1,3", "--label-fractions", "0.5,1", "--draws", 2]
    document = toolkit(*words, "--out", tmp_path / "p", "--json").document
    for key, by, sizes in (("few_shot", "shots", [1, 3]), ("fractions", "fraction", [0.5, 1])):
        rows = [r for r in document[key] if r["metric"] == document["main_metric"]]
        assert [(r["name"], r[by]) for r in rows] == [(name, size) for size in sizes for name in ("csfm", "majority")]
        assert all(set(r) == {"name", "head", by, "metric", "value", "low", "high", "sd", "draws"} for r in rows)
        assert all(r["draws"] == 2 and r["low"] <= r["value"] <= r["high"] for r in rows)
    assert {"few-shot.png", "label-fractions.png"} <= {p.name for p in (tmp_path / "p").iterdir()}
    page = (tmp_path / "p/report.html").read_text()
    assert "Few-shot (balanced_accuracy)" in page and "Label fractions (balanced_accuracy)" in page
    lines = [line.split() for line in toolkit(*words).out.splitlines() if not line.startswith("#")]
    assert [line[-1] for line in lines if line[0] == "csfm"][1:] == ["1", "3", "0.5", "1"]


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--few-shot", "1,x"], "'x'"),
        (["--few-shot", "0.5"], "whole numbers"),
        (["--label-fractions", "0,1"], "above 0"),
        (["--label-fractions", "1.5"], "at most 1"),
        (["--draws", 4], "--few-shot"),
    ],
)
def test_amounts_of_labels_that_make_no_sense(toolkit, table, data, more, hint) -> None:
    assert hint in toolkit("probe", table, "--labels", data / "labels.csv", *more, code=2).error


def test_numbers_and_named_classes_of_intervals(toolkit, data, beats, model) -> None:
    words = ["probe", data, "--model", model, "--labels", beats, "--json", "--no-baselines"]
    number = toolkit(*words, "--target", "rate").document
    assert number["task"] == "regression"
    assert {r["metric"] for r in number["results"]} >= {"r2", "mae"}
    some = toolkit(*words, "--target", "rate", "--task", "multiclass", "--classes", "60.0,80.0,100.0").document
    assert some["windows"] == 3
    assert "60.00" in toolkit(*words, "--target", "rate", "--classes", "60.00", code=2).error


def test_pool_layer_and_seed_do_something(toolkit, data, beats, model) -> None:
    def scores(*more: object) -> list:
        words = ["probe", data, "--model", model, "--labels", beats, "--target", "rate", "--no-baselines", "--json"]
        return toolkit(*words, *more).document["results"]

    plain = scores()
    assert plain == scores()
    for more in (["--pool", "max"], ["--layer", -2]):
        assert scores(*more) != plain
    by_label = [
        toolkit("probe", data, "--model", model, "--labels", beats, "--folds", 2, "--seed", seed, "--no-baselines", "--json")
        for seed in range(4)
    ]
    assert len({done.out for done in by_label}) > 1


def test_min_overlap(toolkit, data, table, tmp_path) -> None:
    labels = tmp_path / "l.csv"
    labels.write_text("path,label,start,stop\n" + "".join(f"s{i}.hea,{'ab'[i % 2]},0,{2.5}\n" for i in range(3)))
    words = ["probe", table, "--labels", labels, "--no-baselines", "--json"]
    assert toolkit(*words).document["windows"] == 3
    assert toolkit(*words, "--min-overlap", 0.2).document["windows"] == 6


def test_what_does_not_apply_is_refused(toolkit, data, table, model) -> None:
    words = ["probe", table, "--labels", data / "labels.csv"]
    assert "--model" in toolkit(*words, "--domain", "cardiac", code=2).error
    words = ["probe", data, "--labels", data / "labels.csv", "--model", model]
    assert "interval" in toolkit(*words, "--min-overlap", 0.2, code=2).error


def test_frozen_adapted_whole_and_from_scratch_side_by_side(toolkit, data, beats, model, tmp_path) -> None:
    words = ["probe", data, "--model", model, "--labels", beats, "--tune", "lora,frozen", "--tune", "scratch,full", "--epochs", 1]
    document = toolkit(*words, "--out", tmp_path / "p", "--json").document
    main = [r for r in document["results"] if r["metric"] == document["main_metric"]]
    assert [r["name"] for r in main] == ["csfm", "handcrafted", "random-init", "csfm-lora", "csfm-full", "scratch", "majority"]
    learned = {r["name"]: r["parameters"] for r in main}
    assert 0 < learned["csfm"] < learned["csfm-lora"] < learned["csfm-full"] == learned["scratch"]
    pairs = {(d["a"], d["b"]) for d in document["differences"]}
    assert pairs >= {("csfm-full", "csfm"), ("csfm-full", "csfm-lora"), ("csfm-lora", "scratch"), ("csfm-full", "majority")}
    predictions = pq.read_table(tmp_path / "p/predictions.parquet").to_pandas()
    assert predictions["csfm-full:b"].between(0, 1).all()
    assert (tmp_path / "p/confusion-csfm-lora.png").exists()
    again = toolkit(*words, "--no-baselines")
    assert [line.split()[0] for line in again.out.splitlines()[2:7]] == ["csfm", "csfm-lora", "csfm-full", "scratch", "majority"]
    assert "# csfm-full minus csfm: " in again.out and "# csfm-full minus scratch: " in again.out


def test_options_of_a_training_reach_it(toolkit, data, beats, model) -> None:
    def row(*more: object) -> list:
        words = ["probe", data, "--model", model, "--labels", beats, "--no-baselines", "--target", "rate", "--json", *more]
        return [(r["parameters"], r["value"]) for r in toolkit(*words).document["results"] if r["name"] == "csfm-lora"]

    plain = row("--tune", "lora", "--epochs", 1)
    assert plain == row("--tune", "lora", "--epochs", 1)
    changed = [("--epochs", 2), ("--epochs", 1, "--learning-rate", 0.02), ("--epochs", 1, "--lora-rank", 2)]
    found = [row("--tune", "lora", *more) for more in changed]
    assert all(each != plain for each in found)
    assert [each[0][0] == plain[0][0] for each in found] == [True, True, False]


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--tune", "fill"], "'full'"),
        (["--tune", "lora", "--lora-rank", 99], "at most 32"),
        (["--tune", "full", "--lora-rank", 4], "--tune lora"),
        (["--tune", "frozen", "--epochs", 3], "--tune lora, full or scratch"),
        (["--learning-rate", 0.1], "--tune lora, full or scratch"),
        (["--tune", "full", "--learning-rate", -1], "got -1"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_read(toolkit, data, beats, model, table, more, hint) -> None:
    assert hint in toolkit("probe", data, "--model", model, "--labels", beats, *more, code=2).error
    if more[:2] == ["--tune", "full"]:
        assert "--model" in toolkit("probe", table, "--labels", beats, "--tune", "full", code=2).error


def test_out_holds_the_report_and_is_replaced_only_when_the_probe_succeeds(toolkit, table, data, tmp_path) -> None:
    words = ["probe", table, "--labels", data / "labels.csv", "--group", "person", "--out", tmp_path / "p", "--no-baselines"]
    toolkit(*words, "--json")
    names = {p.name for p in (tmp_path / "p").iterdir()}
    assert {"metrics.json", "predictions.parquet", "report.html", "scores.png", "confusion-csfm.png", "run.json"} <= names
    predictions = pq.read_table(tmp_path / "p/predictions.parquet")
    assert predictions.num_rows == 18
    assert {"path", "start", "stop", "label", "group"} <= set(predictions.column_names)
    assert set(json.loads((tmp_path / "p/run.json").read_text())) >= RECORD
    assert "balanced_accuracy" in (tmp_path / "p/report.html").read_text()
    assert "exists" in toolkit(*words, code=2).error
    toolkit(*words, "--overwrite", "--target", "lable", code=2)
    assert {p.name for p in (tmp_path / "p").iterdir()} == names
    toolkit(*words, "--overwrite", "--target", "hr", "--task", "regression")
    assert (tmp_path / "p/scatter-csfm.png").exists()
    assert not (tmp_path / "p/confusion-csfm.png").exists()


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--head", "liner"], "'linear'"),
        (["--task", "binry"], "binary"),
        (["--target", "lable"], "'label'"),
        (["--group", "persn"], "'person'"),
        (["--split", "sid"], "'side'"),
        (["--classes", "fast,sloow"], "slow"),
        (["--classes", "fast"], "one class only"),
        (["--pool", "max"], "--model"),
        (["--device", "tpu"], "tpu"),
        (["--task", "regression"], "slow"),
    ],
)
def test_a_mistyped_question(toolkit, table, data, more, hint) -> None:
    assert hint in toolkit("probe", table, "--labels", data / "labels.csv", *more, code=2).error


@pytest.mark.parametrize(
    ("text", "more", "hint"),
    [
        ("", [], "cannot be read"),
        ("path,label\n", [], "no row"),
        ("file,label\ns0.hea,a\n", [], "'path'"),
        ("path;label\ns0.hea;a\n", [], "'path'"),
        ("path,label\nelsewhere/x0.hea,a\nx1.hea,b\n", [], "x1.hea"),
        ("path,label\ns0.hea,a\ns1.hea,a\ns2.hea,a\n", [], "one class only"),
        ("path,label,who\ns0.hea,a,p\ns1.hea,b,p\ns2.hea,a,p\n", ["--group", "who"], "one group"),
        (
            "path,label,who,side\ns0.hea,a,p,train\ns1.hea,b,q,train\ns2.hea,a,p,test\n",
            ["--group", "who", "--split", "side"],
            "'p'",
        ),
        ("path,label,start,stop\ns0.hea,a,zero,2\n", [], "'zero'"),
        ("path,label,start,stop\ns0.hea,a,2,\n", [], "row 2"),
        ("path,label,start,stop\ns0.hea,a,4,2\n", [], "row 2"),
        ("path,label\n,a\n,b\n", [], "'' (2 rows)"),
        ("path,label\ns0.hea,a\ns1.hea,\ns2.hea,b\n", [], "empty"),
    ],
)
def test_labels_that_cannot_be_used(toolkit, table, data, model, tmp_path, text, more, hint) -> None:
    (tmp_path / "l.csv").write_text(text)
    for words in ([table], [data, "--model", model]):
        assert hint in toolkit("probe", *words, "--labels", tmp_path / "l.csv", *more, code=2).error


def test_labels_of_files_that_are_not_there_are_named_and_the_rest_is_used(toolkit, table, data, tmp_path) -> None:
    text = (data / "labels.csv").read_text() + "gone.hea,fast,p9,train,70,a\n"
    (tmp_path / "l.csv").write_text(text.replace("s0.hea", f"./{data.name}/s0.hea"))
    done = toolkit("probe", table, "--labels", tmp_path / "l.csv", "--json", "--no-baselines")
    assert "'gone.hea' (1 rows)" in done.err
    assert any("gone.hea" in w for w in done.document["warnings"])
    assert done.document["windows"] == 18


def test_a_trailing_comma_does_not_shift_the_columns(toolkit, table, data, tmp_path) -> None:
    (tmp_path / "l.csv").write_text("path,label\ns0.hea,a,\ns1.hea,b,\ns2.hea,a,\n")
    assert toolkit("probe", table, "--labels", tmp_path / "l.csv", "--json", "--no-baselines").document["classes"] == ["a", "b"]


def test_a_recording_that_cannot_be_used_is_a_failure(toolkit, data, model, tmp_path) -> None:
    from tests.ecg import record

    rows = ["path,label"]
    for index in range(4):
        record(tmp_path / "in", f"s{index}", seed=index, subject=f"p{index}")
        rows += [f"s{index}.hea,{'ab'[index % 2]}"]
    record(tmp_path / "in", "breath", ["RESP"], units=["NU"])
    (tmp_path / "in/s3.dat").write_bytes(b"short")
    (tmp_path / "l.csv").write_text("\n".join([*rows, "breath.hea,a"]) + "\n")
    done = toolkit(
        "probe",
        tmp_path / "in",
        "--model",
        model,
        "--labels",
        tmp_path / "l.csv",
        "--json",
        "--no-baselines",
        "--out",
        tmp_path / "p",
        code=3,
    )
    assert done.document["groups"] == 3
    assert "breath.hea" in done.err
    failed = {Path(f["path"]).name for f in json.loads((tmp_path / "p/run.json").read_text())["failures"]}
    assert failed == {"s3.hea", "breath.hea"}


def test_a_table_without_its_recordings_has_no_baselines_and_says_so(toolkit, data, model, tmp_path) -> None:
    from tests.ecg import record

    for index in range(3):
        record(tmp_path / "in", f"s{index}", seed=index)
    toolkit("embed", tmp_path / "in", "--model", model, "--out", tmp_path / "e.parquet")
    (tmp_path / "in").rename(tmp_path / "moved")
    done = toolkit("probe", tmp_path / "e.parquet", "--labels", data / "labels.csv", "--json")
    assert {r["name"] for r in done.document["results"]} == {"csfm", "majority"}
    assert "not all at hand" in done.err


@pytest.mark.parametrize("name", ["e.parquet", "e.arrow", "e.csv", "e.jsonl", "e.npy"])
def test_something_else_given_as_a_table(toolkit, data, tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"not a table of embeddings")
    assert name in toolkit("probe", tmp_path / name, "--labels", data / "labels.csv", code=2).error


def test_csv_and_json_lines_tables(toolkit, data, model, tmp_path) -> None:
    for kind in ("csv", "jsonl", "arrow"):
        toolkit("embed", data, "--model", model, "--out", tmp_path / f"e.{kind}")
        done = toolkit("probe", tmp_path / f"e.{kind}", "--labels", data / "labels.csv", "--json", "--no-baselines")
        assert done.document["windows"] == 18
    assert "does not exist" in toolkit("probe", tmp_path / "none.parquet", "--labels", data / "labels.csv", code=2).error
    assert "--model" in toolkit("probe", data, "--labels", data / "labels.csv", code=2).error
