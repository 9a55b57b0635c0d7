"""Draws of few labels, and scores that grow with them."""

import numpy as np
import pytest

from tests.probing.test_token_heads import calls
from toolkit.probing.fewshot import PICKS, curve, few_rows, share_of_rows, too_few
from toolkit.probing.folds import make_folds
from toolkit.probing.protocol import run_probe
from toolkit.probing.task import Task

THREE = Task("multiclass", "label", ("a", "b", "c"))
MANY = Task("multilabel", "label", ("a", "b", "c"))
NUMBER = Task("regression", "hr", ())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _data(n: int = 180) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = np.random.default_rng(1).choice(3, n, p=[0.5, 0.3, 0.2])
    x = np.random.default_rng(2).normal(size=(n, 8)) + 2 * np.eye(3, 8)[y]
    return x, y, np.arange(n) % 12


def test_shots_are_so_many_a_class_each_of_another_group() -> None:
    _, y, groups = _data()
    for shots in (1, 5, 10):
        rows = few_rows(y, THREE, groups, shots, rng())
        assert np.bincount(y[rows]).tolist() == [shots] * 3 and len(set(rows)) == len(rows)
        for k in range(3):
            assert len(set(groups[rows[y[rows] == k]])) == shots  # each class occurs in at least 10 groups
    rare = np.where(np.arange(180) < 2, 2, y % 2)
    assert np.bincount(rare[few_rows(rare, THREE, groups, 5, rng())]).tolist() == [5, 5, 2]


def test_a_row_of_several_labels_counts_for_each() -> None:
    y = np.array([[1, 1, 1]] * 3 + [[1, 0, 0]] * 30)
    rows = few_rows(y, MANY, np.arange(33), 3, rng())
    assert rows.tolist() == [0, 1, 2]
    assert y[few_rows(y, MANY, np.arange(33), 5, rng())].sum(axis=0).tolist() == [5, 3, 3]


def test_shares_keep_the_classes_shares() -> None:
    _, y, groups = _data()
    rows = share_of_rows(y, THREE, groups, 0.3, rng())
    np.testing.assert_array_equal(np.bincount(y[rows]), np.round(0.3 * np.bincount(y)))
    assert share_of_rows(y, THREE, groups, 1.0, rng()).tolist() == list(range(180))
    assert sorted(y[share_of_rows(y, THREE, groups, 0.001, rng())]) == [0, 1, 2]
    assert len(share_of_rows(np.linspace(0, 1, 180), NUMBER, groups, 0.1, rng())) == 18
    many = np.array([[1, 0, 0]] * 50 + [[1, 1, 0]] * 2 + [[0, 0, 0]] * 20)
    assert (many[share_of_rows(many, MANY, np.arange(72), 0.05, rng())].sum(axis=0)[:2] >= 1).all()


@pytest.mark.parametrize("by", sorted(PICKS))
def test_scores_grow_with_labels_and_hold_mean_and_spread_over_draws(by: str) -> None:
    x, y, groups = _data()
    folds, _ = make_folds(groups, y, THREE, folds=3)
    noise = np.random.default_rng(5).normal(size=x.shape)
    sizes = {"shots": (1, 20), "fraction": (0.05, 1.0)}[by]

    def found(seed: int) -> list[dict]:
        return curve(by, sizes, {"m": x, "handcrafted": noise}, y, THREE, groups, folds, head="knn", draws=3, seed=seed)

    rows = [row for row in found(0) if row["metric"] == "balanced_accuracy"]
    assert [(r["name"], r[by]) for r in rows] == [(n, s) for s in sizes for n in ("m", "handcrafted", "majority")]
    assert all(r["draws"] == 3 for r in rows)
    value = {(r["name"], r[by]): r["value"] for r in rows}
    assert value["m", sizes[1]] > value["m", sizes[0]] + 0.05
    assert value["m", sizes[1]] > 0.6 > value["handcrafted", sizes[1]]
    assert rows[0]["sd"] > 0 and value["majority", sizes[0]] == pytest.approx(1 / 3)
    assert found(0) == found(0) and found(1) != found(0)


def test_all_labels_give_the_score_of_the_whole_probe() -> None:
    x, y, groups = _data()
    folds, _ = make_folds(groups, y, THREE, folds=3)
    whole = run_probe({"m": x}, y, THREE, groups, folds, bootstrap=0)
    rows = curve("fraction", [1.0], {"m": x}, y, THREE, groups, folds, head="linear", draws=3, seed=0)
    expected = {(r["name"], r["metric"]): r["value"] for r in whole.rows}
    assert {(r["name"], r["metric"]): r["value"] for r in rows} == pytest.approx(expected)
    limits = {(r["name"], r["metric"]): (r["low"], r["high"]) for r in run_probe({"m": x}, y, THREE, groups, folds).rows}
    assert all((row["low"], row["high"]) == pytest.approx(limits[row["name"], row["metric"]]) for row in rows)
    assert all(row["sd"] == pytest.approx(0, abs=1e-12) for row in rows)


def test_no_label_of_a_test_group_is_ever_drawn() -> None:
    """A column that gives the answer away, in the test part only: whoever draws from there scores 1."""
    _, y, groups = _data()
    noise = np.random.default_rng(3).normal(size=(180, 3))
    test = groups >= 8
    x = np.column_stack([np.where(test[:, None], 50 * np.eye(3)[y], noise)])
    folds, _ = make_folds(groups, y, THREE, split=list(np.where(test, "test", "train")))
    rows = curve("shots", [5], {"m": x}, y, THREE, groups, folds, head="linear", draws=3, seed=0)
    other = curve("shots", [5], {"m": x}, np.where(test, (y + 1) % 3, y), THREE, groups, folds, head="linear", draws=3, seed=0)
    assert rows[0]["name"] == "m" and rows[0]["value"] < 0.9
    # Other labels in the test part: the same predictions, so that what was right of one label is now right of another.
    confused = sum(r["value"] for r in (rows[0], other[0]))
    assert confused <= 1 + 1e-9


def test_heads_on_tokens_take_part() -> None:
    y = np.arange(90) % 3
    groups = np.arange(90) % 9
    tokens = calls(np.eye(3, dtype=int)[y], seed=7)
    folds, _ = make_folds(groups, y, THREE, split=list(np.where(groups > 5, "test", "train")))
    rows = curve(
        "shots", [10], {"m": tokens, "handcrafted": tokens.pooled()}, y, THREE, groups, folds, head="prototypes", draws=2, seed=0
    )
    by_name = {r["name"]: r for r in rows if r["metric"] == "balanced_accuracy"}
    assert [by_name[n]["head"] for n in ("m", "handcrafted", "majority")] == ["prototypes", "linear", "constant"]
    assert by_name["m"]["value"] > by_name["handcrafted"]["value"]


def test_classes_with_fewer_rows_than_shots_are_named() -> None:
    _, y, groups = _data()
    folds, _ = make_folds(groups, y, THREE, folds=3)
    assert too_few([1, 5], y, THREE, folds) == []
    (line,) = too_few([1, 60], y, THREE, folds)
    assert "few-shot 60" in line and "3 of 3 folds" in line and "'c'" in line
