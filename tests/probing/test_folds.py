import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import UsageError
from toolkit.probing.folds import inner_folds, make_folds
from toolkit.probing.task import Task

TASKS = {
    "binary": Task("binary", "label", ("a", "b")),
    "multilabel": Task("multilabel", "label", ("a", "b", "c")),
    "regression": Task("regression", "hr", ()),
}


def _labels(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "regression":
        return rng.normal(size=n)
    return rng.integers(0, 2, (n, 3) if kind == "multilabel" else n)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.sampled_from(sorted(TASKS)), st.integers(0, 99))
def test_no_group_is_on_both_sides_and_every_row_is_tested_once(n_groups: int, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.array([f"s{g}" for g in np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 60)])])
    y = _labels(kind, len(groups), rng)
    folds, description = make_folds(groups, y, TASKS[kind], folds=5, seed=seed)
    assert description == {"kind": "group", "column": "group", "folds": len(folds)}
    assert len(folds) == min(5, n_groups)
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        for inner_train, inner_test in inner_folds(groups[train], y[train], TASKS[kind], seed=seed):
            if len(set(groups[train])) > 1:
                assert not set(groups[train][inner_train]) & set(groups[train][inner_test])
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(groups)))


def test_folds_follow_the_seed_and_not_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    groups, y = rng.integers(0, 20, 200).astype(str), rng.integers(0, 2, 200)

    def parts(order: np.ndarray, seed: int) -> set[frozenset[str]]:
        folds, _ = make_folds(groups[order], y[order], TASKS["binary"], seed=seed)
        return {frozenset(groups[order][test]) for _, test in folds}

    same, order = np.arange(200), rng.permutation(200)
    assert parts(same, 1) == parts(order, 1)
    assert parts(same, 1) != parts(same, 2)


def test_the_inner_split_of_one_group_is_contiguous() -> None:
    y = np.arange(30) % 2
    for _, test in inner_folds(np.zeros(30), y, TASKS["binary"], seed=0):
        np.testing.assert_array_equal(test, np.arange(test[0], test[0] + 10))


def test_a_split_column_of_words_or_of_fold_names() -> None:
    groups, y = np.array(list("aabbcc")), np.array([0, 1] * 3)
    folds, description = make_folds(
        groups, y, TASKS["binary"], split=["train", "train", "val", "val", "Test", "test"], split_column="part"
    )
    assert description == {"kind": "column", "column": "part", "folds": 1}
    np.testing.assert_array_equal(folds[0][0], [0, 1, 2, 3])
    np.testing.assert_array_equal(folds[0][1], [4, 5])
    folds, _ = make_folds(groups, y, TASKS["binary"], split=list("112233"))
    assert [test.tolist() for _, test in folds] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("groups", "split", "words"),
    [
        ("aabbbc", ["train"] * 3 + ["test"] * 3, ["1 of 3", "'b' (2 rows in test, 1 rows in train)"]),
        ("aabbbc", list("112122"), ["'b'", "1 rows in 1", "2 rows in 2"]),
        ("aabbbc", ["train"] * 6, ["train (6)"]),
        ("aabbbc", ["train", "train", "test", "test", "test", "tset"], ["tset (1)"]),
        ("aabbbc", ["train", "", "test", "test", "test", "test"], ["1 of 6"]),
        ("aaaaaa", None, ["one group", "'a'", "--group", "--split"]),
    ],
)
def test_leaks_and_unusable_splits_are_refused_by_name_and_count(groups: str, split: list[str] | None, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        make_folds(np.array(list(groups)), np.array([0, 1] * 3), TASKS["binary"], split=split)
    assert all(word in str(error.value) for word in words), str(error.value)
