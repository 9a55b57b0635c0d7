import numpy as np
import pytest

from toolkit.errors import UsageError
from toolkit.probing.protocol import ProbeResult, Task, make_folds, run_probe

BINARY = Task("binary", "label", ("a", "b"))
NUMBER = Task("regression", "hr", ())


def _data(n: int = 240, n_groups: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    return rng.normal(size=(n, 5)) + 1.5 * y[:, None] * [1, 0, 0, 0, 0], y, np.arange(n) % n_groups


def _run(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    task: Task = BINARY,
    head: str = "linear",
    name: str = "m",
    bootstrap: int = 100,
) -> ProbeResult:
    folds, _ = make_folds(groups, y, task, folds=4)
    return run_probe({name: x}, y, task, groups, folds, head=head, seed=0, bootstrap=bootstrap)


def _value(result: ProbeResult, name: str, metric: str) -> float:
    return next(row["value"] for row in result.rows if row["name"] == name and row["metric"] == metric)


@pytest.mark.parametrize("head", ["linear", "knn", "svm"])
def test_a_result_holds_every_name_with_ordered_intervals(head: str) -> None:
    x, y, groups = _data()
    folds, _ = make_folds(groups, y, BINARY, folds=4)
    noise = np.random.default_rng(1).normal(size=x.shape)
    seen: list[tuple[int, int, str]] = []
    result = run_probe(
        {"m": x, "random-init": noise},
        y,
        BINARY,
        groups,
        folds,
        head=head,
        seed=0,
        bootstrap=200,
        progress=lambda *at: seen.append(at),
    )
    assert [row["name"] for row in result.rows if row["metric"] == "auprc"] == ["m", "random-init", "majority"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in result.rows + result.differences)
    assert result.main_metric == "balanced_accuracy" and _value(result, "m", "balanced_accuracy") > 0.6
    assert _value(result, "majority", "balanced_accuracy") == 0.5
    assert result.confusion["m"].sum() == 240 and result.tested.all()
    assert [(d["a"], d["b"]) for d in result.differences] == [("m", "random-init"), ("m", "majority")]
    assert result.differences[1]["value"] == pytest.approx(_value(result, "m", "balanced_accuracy") - 0.5)
    assert result.differences[0]["low"] > 0
    assert seen[0] == (0, 8, "m") and len(seen) == 8


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_permuted_rows_give_permuted_predictions(head: str) -> None:
    x, y, groups = _data()
    order = np.random.default_rng(5).permutation(len(y))
    plain, moved = _run(x, y, groups, head=head), _run(x[order], y[order], groups[order], head=head)
    np.testing.assert_allclose(moved.predictions["m"], plain.predictions["m"][order], atol=1e-3)


@pytest.mark.parametrize("head", ["linear", "knn"])
@pytest.mark.parametrize("task", [BINARY, NUMBER])
def test_labels_of_test_rows_never_reach_a_prediction(task: Task, head: str) -> None:
    x, y, groups = _data()
    y = y if task is BINARY else x[:, 0] + y
    split = np.where(groups < 8, "train", "test")
    other = np.where(groups < 8, y, 1 - y)
    leak = np.column_stack([np.where(groups < 8, x[:, 1], y * 100), x])  # gives the answer away in test rows only
    folds, _ = make_folds(groups, y, task, split=list(split))
    first, second = (run_probe({"m": leak}, labels, task, groups, folds, head=head, seed=0, bootstrap=0) for labels in (y, other))
    np.testing.assert_array_equal(first.predictions["m"], second.predictions["m"])
    np.testing.assert_array_equal(first.tested, groups >= 8)
    assert np.isnan(first.predictions["m"][groups < 8]).all()


def test_a_feature_that_only_names_the_group_scores_at_chance() -> None:
    """Each group has one class and its own mark: rows split at random would score 1."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    y = (np.arange(40) % 2)[groups]
    result = _run(rng.normal(size=(40, 64))[groups], y, groups)
    assert abs(_value(result, "m", "balanced_accuracy") - 0.5) < 0.25


def test_gaps_take_the_training_median_and_are_counted() -> None:
    x, y, groups = _data()
    split = list(np.where(groups < 8, "train", "test"))
    folds, _ = make_folds(groups, y, BINARY, split=split)
    holes, filled = x.copy(), x.copy()
    holes[3, 0], holes[11, 1], holes[:, 4] = np.inf, np.nan, np.nan  # row 11 is a test row
    train = groups < 8
    filled[3, 0], filled[11, 1] = np.median(np.delete(x[train, 0], 3)), np.median(x[train, 1])
    filled[:, 4] = 0
    result = run_probe({"m": holes, "plain": filled}, y, BINARY, groups, folds, bootstrap=0)
    np.testing.assert_allclose(result.predictions["m"], result.predictions["plain"], atol=1e-9)
    assert any("m: 242 of 1200 features in 240 of 240 rows" in warning for warning in result.warnings)


def test_a_training_part_of_one_class_predicts_it_and_says_so() -> None:
    y, groups = np.repeat([0, 0, 1], 10), np.repeat(["a", "b", "c"], 10)
    result = _run(np.random.default_rng(0).normal(size=(30, 2)), y, groups)
    np.testing.assert_array_equal(result.predictions["m"][20:], np.tile([1.0, 0.0], (10, 1)))
    assert any("fold 3 of 3: its 20 training rows hold one class" in warning for warning in result.warnings)
    assert any("tested but never trained on: b (10 rows)" in warning for warning in result.warnings)
    assert any("only 3 groups" in warning for warning in result.warnings)


def test_regression_and_multilabel_baselines_are_the_training_means() -> None:
    x, y, groups = _data()
    target = 60 + x[:, 0]
    result = _run(x, target, groups, NUMBER)
    folds, _ = make_folds(groups, target, NUMBER, folds=4)
    train = next(train for train, test in folds if 0 in test)
    assert result.predictions["majority"][0] == pytest.approx(target[train].mean())
    assert _value(result, "m", "mae") < 0.1 * _value(result, "majority", "mae")
    many = np.column_stack([y, x[:, 1] > 0.5])
    result = _run(x, many.astype(int), groups, Task("multilabel", "label", ("a", "b")))
    assert _value(result, "m", "macro_auroc") > 0.8 and result.confusion["m"].shape == (2, 2, 2)
    assert 0.2 < result.predictions["majority"][0, 1] < 0.45


def test_columns_of_different_units_do_not_blind_the_neighbours() -> None:
    x, y, groups = _data()
    x = x * [1e-6, 1e3, 1, 1, 1]
    found = {name: _value(_run(x, y, groups, head="knn", name=name), name, "balanced_accuracy") for name in ("m", "handcrafted")}
    assert found["m"] < 0.6 < found["handcrafted"]


def test_an_unknown_head_is_refused() -> None:
    x, y, groups = _data()
    with pytest.raises(UsageError, match="Unknown head 'liner'. Did you mean 'linear'"):
        _run(x, y, groups, head="liner")


@pytest.mark.parametrize("head", ["svm", "prototypes"])
def test_a_head_of_classes_is_refused_for_numbers(head: str) -> None:
    x, _, groups = _data()
    with pytest.raises(UsageError, match=f"'{head}' tells classes apart; 'hr' is a quantity. Use --head linear, knn, attentive"):
        _run(x, x[:, 0], groups, NUMBER, head=head)
