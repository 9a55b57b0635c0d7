"""Scores against scikit-learn's own, weighted and not."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from toolkit.probing.metrics import confusion, main_score, score, weighted_scores
from toolkit.probing.task import Task

RNG = np.random.default_rng(3)


def _classes(n: int, k: int) -> tuple[Task, np.ndarray, np.ndarray]:
    y = RNG.integers(0, k, n)
    raw = np.round(RNG.random((n, k)) + 0.4 * np.eye(k)[y], 1) + 0.05  # rounded: many ties
    task = Task("binary" if k == 2 else "multiclass", "label", tuple("abcdef"[:k]))
    return task, y, raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [2, 4])
def test_class_metrics_are_those_of_scikit_learn(k: int) -> None:
    task, y, p = _classes(300, k)
    guess = p.argmax(axis=1)
    expected = {
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
        "macro_auroc": np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(k)]),
        "macro_f1": sk.f1_score(y, guess, average="macro"),
        "kappa": sk.cohen_kappa_score(y, guess),
        "accuracy": sk.accuracy_score(y, guess),
    }
    if k == 2:
        expected["auprc"] = sk.average_precision_score(y, p[:, 1])
    found = score(task, y, p)
    assert next(iter(found)) == "balanced_accuracy"
    assert found == pytest.approx(expected, abs=1e-12)
    assert main_score(task, y, p) == found["balanced_accuracy"]
    np.testing.assert_array_equal(confusion(task, y, p), sk.confusion_matrix(y, guess))


def test_multilabel_metrics_are_those_of_scikit_learn() -> None:
    y = (RNG.random((200, 5)) < 0.3).astype(int)
    p = np.clip(np.round(RNG.random((200, 5)) * 0.7 + 0.3 * y, 2), 0, 1)
    task = Task("multilabel", "label", tuple("abcde"))
    expected = {
        "macro_auroc": sk.roc_auc_score(y, p, average="macro"),
        "map": sk.average_precision_score(y, p),
        "macro_f1": sk.f1_score(y, p >= 0.5, average="macro"),
    }
    assert score(task, y, p) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(confusion(task, y, p), sk.multilabel_confusion_matrix(y, p >= 0.5))


def test_regression_metrics_keep_their_digits_far_from_zero() -> None:
    y = 1e6 + RNG.normal(size=100)
    p = y + 0.3 * RNG.normal(size=100)
    expected = {
        "mae": sk.mean_absolute_error(y, p),
        "r2": sk.r2_score(y, p),
        "rmse": sk.root_mean_squared_error(y, p),
        "pearson": stats.pearsonr(y, p)[0],
    }
    assert score(Task("regression", "hr", ()), y, p) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("k", [2, 3])
def test_a_weight_is_a_repeated_row(k: int) -> None:
    task, y, p = _classes(80, k)
    weights = RNG.integers(0, 4, (3, 80))
    found = weighted_scores(task, y, p, weights.astype(float))
    for at, times in enumerate(weights):
        rows = np.repeat(np.arange(80), times)
        assert {name: values[at] for name, values in found.items()} == pytest.approx(score(task, y[rows], p[rows]))


def test_classes_missing_from_a_resample_are_left_out() -> None:
    task, y, p = _classes(60, 3)
    rows = y != 2
    found = score(task, y[rows], p[rows])
    guess = p[rows].argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(np.mean([(guess[y[rows] == c] == c).mean() for c in (0, 1)]))
    assert found["macro_auroc"] == pytest.approx(np.mean([sk.roc_auc_score(y[rows] == c, p[rows, c]) for c in (0, 1)]))
    alone = score(task, y[y == 0], np.eye(3)[y[y == 0]])
    assert np.isnan(alone["macro_auroc"]) and np.isnan(alone["kappa"]) and alone["balanced_accuracy"] == 1
