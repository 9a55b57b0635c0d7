"""Scores of predictions against labels, for many weightings of the rows at once.

One implementation serves the point value (all weights 1) and the bootstrap (a row's weight is how often its group
was drawn), so that an interval is always about the number that it stands beside.
Definitions follow scikit-learn's, except that a class without which a term is undefined is left out of an average.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolkit.probing.task import Task

Array = NDArray[np.float64]
Metric = Callable[[NDArray[np.bool_], Array, Array], Array]

MAIN = {
    "binary": "balanced_accuracy",
    "multiclass": "balanced_accuracy",
    "multilabel": "macro_auroc",
    "regression": "mae",
}  # of mae less is better, of the others more


def score(task: Task, y: NDArray, prediction: Array) -> dict[str, float]:
    """Every metric of the task; the first is the main one. NaN where a metric is undefined.

    ``y`` as ``encode`` gives it, N rows. ``prediction`` float (N, K) probabilities of the classes, or (N,) numbers in
    the unit of the target. Classes: balanced_accuracy (mean recall of the classes in y), macro_auroc (one against
    rest, mean over classes that have both outcomes), macro_f1, kappa (Cohen 1960), accuracy; binary also auprc
    (average precision of the second class). Multilabel: macro_auroc, map, macro_f1 at 0.5. Regression: mae, r2,
    rmse, pearson.
    """
    weights = np.ones((1, len(y)))
    return {name: float(values[0]) for name, values in weighted_scores(task, y, prediction, weights).items()}


def weighted_scores(task: Task, y: NDArray, prediction: Array, weights: Array) -> dict[str, Array]:
    """``score`` for each of R weightings: ``weights`` float (R, N), each metric (R,)."""
    if task.kind == "regression":
        return _regression(np.asarray(y, dtype=np.float64), prediction, weights)
    if task.kind == "multilabel":
        return _multilabel(y, prediction, weights)
    scores = _from_confusion(weighted_confusion(y, prediction, weights))
    truth = np.arange(prediction.shape[1]) == np.asarray(y)[:, None]  # (N, K)
    columns = slice(1, None) if prediction.shape[1] == 2 else slice(None)  # two classes mirror each other
    area = _mean_over_classes(auroc, truth[:, columns], prediction[:, columns], weights)
    scores = {"balanced_accuracy": scores.pop("balanced_accuracy"), "macro_auroc": area, **scores}
    if task.kind == "binary":
        scores["auprc"] = average_precision(truth[:, 1], prediction[:, 1], weights)
    return scores


def main_score(task: Task, y: NDArray, prediction: Array) -> float:
    """The main metric alone, its sign such that more is better: what hyper-parameters are chosen on."""
    weights = np.ones((1, len(y)))
    if task.kind == "regression":
        return -float(np.abs(prediction - y).mean())
    if task.kind == "multilabel":
        return float(_mean_over_classes(auroc, y == 1, prediction, weights)[0])
    return float(_from_confusion(weighted_confusion(y, prediction, weights))["balanced_accuracy"][0])


def confusion(task: Task, y: NDArray, prediction: Array) -> NDArray[np.int64]:
    """Counts, truth along the first of the last two axes: (K, K) for classes, (K, 2, 2) for multilabel at 0.5."""
    if task.kind == "multilabel":
        hit = prediction >= 0.5
        one = [[np.sum((y == truth) & (hit == guess), axis=0) for guess in (0, 1)] for truth in (0, 1)]
        return np.array(one, dtype=np.int64).transpose(2, 0, 1)
    return weighted_confusion(y, prediction, np.ones((1, len(y))))[0].astype(np.int64)


def weighted_confusion(y: NDArray, prediction: Array, weights: Array) -> Array:
    """Confusion counts (R, K, K), truth by predicted class (the most probable, the first on ties)."""
    rows, k = prediction.shape
    cell = np.asarray(y) * k + prediction.argmax(axis=1)
    member = sparse.csr_array((np.ones(rows), (cell, np.arange(rows))), shape=(k * k, rows))
    return (member @ weights.T).T.reshape(len(weights), k, k)


def auroc(positive: NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Area under the ROC curve (R,): P(score of a positive > of a negative) + half of the ties; NaN without both."""
    hits, misses = _by_score(positive, scores, weights)
    below = np.cumsum(misses, axis=1) - misses
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    return _ratio((hits * (below + 0.5 * misses)).sum(axis=1), pairs)


def average_precision(positive: NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Sum over thresholds of precision times the gain in recall (R,); NaN without a positive."""
    hits, misses = _by_score(positive, scores, weights)
    hits, misses = hits[:, ::-1], misses[:, ::-1]  # from the highest score down
    found = np.cumsum(hits, axis=1)
    precision = np.nan_to_num(_ratio(found, found + np.cumsum(misses, axis=1)))
    return _ratio((precision * hits).sum(axis=1), hits.sum(axis=1))


def _by_score(positive: NDArray[np.bool_], scores: Array, weights: Array) -> tuple[Array, Array]:
    """Weights of positives and of negatives at each distinct score, ascending: two arrays (R, distinct)."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    weights = weights[:, order]
    hits = weights * positive[order]
    misses = weights - hits
    if len(starts) == len(ranked):
        return hits, misses
    return np.add.reduceat(hits, starts, axis=1), np.add.reduceat(misses, starts, axis=1)


def _mean_over_classes(metric: Metric, truth: NDArray[np.bool_], prediction: Array, weights: Array) -> Array:
    return _nanmean(np.stack([metric(truth[:, k], prediction[:, k], weights) for k in range(truth.shape[1])], axis=1))


def _from_confusion(counts: Array) -> dict[str, Array]:
    total = counts.sum(axis=(1, 2))
    truth, guessed, right = counts.sum(axis=2), counts.sum(axis=1), np.diagonal(counts, axis1=1, axis2=2)  # (R, K)
    agreed = _ratio(right.sum(axis=1), total)
    chance = _ratio((truth * guessed).sum(axis=1), total**2)
    return {
        "balanced_accuracy": _nanmean(_ratio(right, truth)),
        "macro_f1": _nanmean(_ratio(2 * right, truth + guessed)),
        "kappa": _ratio(agreed - chance, 1 - chance),
        "accuracy": agreed,
    }


def _multilabel(y: NDArray, prediction: Array, weights: Array) -> dict[str, Array]:
    truth = np.asarray(y) == 1
    guessed = prediction >= 0.5
    right = weights @ (truth & guessed)  # (R, K)
    either = weights @ (truth.astype(float) + guessed)
    return {
        "macro_auroc": _mean_over_classes(auroc, truth, prediction, weights),
        "map": _mean_over_classes(average_precision, truth, prediction, weights),
        "macro_f1": _nanmean(_ratio(2 * right, either)),
    }


def _regression(y: Array, prediction: Array, weights: Array) -> dict[str, Array]:
    # Centred once by the plain means: the sums of squares below then do not cancel catastrophically.
    y, prediction = y - y.mean(), prediction - y.mean()
    error = prediction - y
    n = weights.sum(axis=1)
    mean_y, mean_p = weights @ y / n, weights @ prediction / n
    tiny = 1e-12 * max(float(np.mean(y**2)), np.finfo(float).tiny)
    spread_y = weights @ y**2 / n - mean_y**2
    spread_p = np.maximum(weights @ prediction**2 / n - mean_p**2, 0)
    joint = weights @ (y * prediction) / n - mean_y * mean_p
    spread_y = np.where(spread_y > tiny, spread_y, 0)
    spread_p = np.where(spread_p > tiny, spread_p, 0)
    square = weights @ error**2 / n
    return {
        "mae": weights @ np.abs(error) / n,
        "r2": 1 - _ratio(square, spread_y),
        "rmse": np.sqrt(square),
        "pearson": _ratio(joint, np.sqrt(spread_y * spread_p)),
    }


def _ratio(top: Array, bottom: Array) -> Array:
    """top / bottom, NaN where bottom is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def _nanmean(values: Array) -> Array:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1))
