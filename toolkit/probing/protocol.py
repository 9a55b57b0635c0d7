"""One protocol for every kind of feature: the same folds, the same head, pooled out-of-fold predictions, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from toolkit.errors import UsageError, did_you_mean
from toolkit.probing.bootstrap import interval, paired_difference, resampled_scores
from toolkit.probing.folds import Fold, inner_folds, make_folds
from toolkit.probing.heads import HEADS, Effort
from toolkit.probing.metrics import MAIN, confusion, score
from toolkit.probing.task import Task, encode, infer_task
from toolkit.probing.token_heads import TOKEN_HEADS, Tokens
from toolkit.probing.tune import Tuning

__all__ = ["BASELINES", "ProbeResult", "Task", "check_head", "encode", "infer_task", "make_folds", "run_probe"]

Array = NDArray[np.float64]
Features = NDArray | Tokens
Progress = Callable[[int, int, str], None]  # fits done, fits in all, what is being fitted

BASELINES = ("majority", "handcrafted", "random-init", "scratch")
MIXED_UNITS = ("handcrafted",)  # columns of different units: standardised on the training part before any head
CLASS_HEADS = ("svm", "prototypes")  # heads that do not predict numbers
FEW_GROUPS = 10


@dataclass
class ProbeResult:
    """``rows``: dicts of name, head, parameters, metric, value, low, high, the main metric first within a name; parameters
    are the numbers that the labels of a fold trained.

    ``differences``: dicts of a, b, metric, value, low, high; a minus b of the main metric, a model against
    the models before it and the baselines.
    ``predictions`` {name: (N, K) probabilities or (N,) numbers}, NaN in rows that no fold tests; ``tested`` bool (N,).
    ``confusion`` {name: counts, truth by predicted, (K, K), or (K, 2, 2) for multilabel}; empty for regression.
    ``few_shot`` and ``fractions``: scores with fewer labels, where asked for (:mod:`toolkit.probing.fewshot`).
    """

    task: Task
    main_metric: str
    rows: list[dict[str, object]] = field(default_factory=list)
    differences: list[dict[str, object]] = field(default_factory=list)
    predictions: dict[str, Array] = field(default_factory=dict)
    tested: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    confusion: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    few_shot: list[dict[str, object]] = field(default_factory=list)
    fractions: list[dict[str, object]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_probe(
    features: Mapping[str, Features],
    y: NDArray,
    task: Task,
    groups: NDArray,
    folds: Sequence[Fold],
    *,
    head: str = "linear",
    seed: int = 0,
    bootstrap: int = 1000,
    progress: Progress | None = None,
    tuned: Mapping[str, Tuning] | None = None,
) -> ProbeResult:
    """Score each feature matrix (N, D) or the tokens of N rows, and the majority, out of fold.

    ``y`` as ``encode`` gives it; ``groups`` (N,) are what the bootstrap draws and the inner selection keeps whole;
    ``folds`` from ``make_folds``. The row named "majority" predicts, in each fold, the training part's most frequent
    class, its mean (regression) or its prevalences (multilabel). Features that are NaN or infinite become the median
    of their column in the training part. Predictions of all folds are scored together; the scale of a probability
    may differ between folds, which the AUROC of all rows together feels. Where a head that reads tokens is asked for,
    features that are no tokens get the linear one.
    ``tuned``: encoders that were trained on the same folds, whose predictions are scored beside the others.
    Raises UsageError for an unknown head, or one that does not answer the task.
    """
    check_head(head, task)
    groups = np.asarray(groups)
    result = ProbeResult(task, MAIN[task.kind])
    result.tested = np.zeros(len(y), dtype=bool)
    result.tested[np.concatenate([test for _, test in folds])] = True
    result.warnings += _fold_warnings(y, task, folds)
    if (count := len(np.unique(groups[result.tested]))) < FEW_GROUPS:
        result.warnings.append(f"only {count} groups are tested: the intervals over groups are rough")
    inner = [inner_folds(groups[train], y[train], task, seed=seed) for train, _ in folds]
    used: dict[str, tuple[str, int]] = {"majority": ("constant", 0)}
    for at, (name, x) in enumerate(features.items()):
        x = finite(name, x, result.warnings)
        effort = Effort()
        result.predictions[name] = empty(len(y), task)
        for number, (train, test) in enumerate(folds):
            if progress is not None:
                progress(at * len(folds) + number, len(features) * len(folds), name)
            result.predictions[name][test] = predict(
                name, x, y, task, train, test, inner[number], head=head, seed=(seed, number), effort=effort
            )
        if effort.unconverged:
            result.warnings.append(f"{name}: {effort.unconverged} of {effort.fits} fits stopped at the iteration limit")
        used[name] = head_of(x, head), effort.parameters
    for name, done in (tuned or {}).items():
        result.predictions[name] = done.predictions
        used[name] = "linear", done.parameters
    result.predictions["majority"] = _majority(y, task, folds)
    _score_all(result, y, groups, used, seed, bootstrap)
    return result


def check_head(head: str, task: Task) -> None:
    """Raise UsageError for a head that does not exist or does not answer the task."""
    if head not in HEADS and head not in TOKEN_HEADS:
        raise UsageError(f"Unknown head '{head}'. {did_you_mean(head, (*HEADS, *TOKEN_HEADS))}")
    if task.kind == "regression" and head in CLASS_HEADS:
        others = ", ".join(name for name in (*HEADS, *TOKEN_HEADS) if name not in CLASS_HEADS)
        raise UsageError(f"The head '{head}' tells classes apart; '{task.target}' is a quantity. Use --head {others}.")


def head_of(x: Features, asked: str) -> str:
    """The head that reads these features: what has no tokens gets the linear one where tokens are asked for."""
    return asked if asked in HEADS or isinstance(x, Tokens) else "linear"


def predict(
    name: str,
    x: Features,
    y: NDArray,
    task: Task,
    train: NDArray,
    test: NDArray,
    inner: Sequence[Fold],
    *,
    head: str,
    seed: Sequence[int],
    effort: Effort,
) -> Array:
    """What a head fitted on rows ``train`` says of rows ``test``; ``x`` as ``finite`` gives it, ``inner`` splits of ``train``."""
    if isinstance(x, Tokens):
        train = train[np.array([len(x.rows[i]) > 0 for i in train], dtype=bool)]
    if len(np.unique(y[train], axis=0)) < 2:
        return constant(y[train], task, len(test))
    if isinstance(x, Tokens):
        return TOKEN_HEADS[head](x.take(train), y[train], x.take(test), task, seed, effort)
    a, b = _filled(x[train], x[test])
    if name in MIXED_UNITS:
        scaler = StandardScaler().fit(a)
        a, b = scaler.transform(a), scaler.transform(b)
    return HEADS[head_of(x, head)](a, y[train], b, task, inner, effort)


def _filled(train: Array, test: Array) -> tuple[Array, Array]:
    """NaN replaced by the column's median of the training part (0 where it has none)."""
    gaps, test_gaps = np.isnan(train), np.isnan(test)
    if not gaps.any() and not test_gaps.any():
        return train, test
    median = np.zeros(train.shape[1])
    some = ~gaps.all(axis=0)
    median[some] = np.nanmedian(train[:, some], axis=0)
    return np.where(gaps, median, train), np.where(test_gaps, median, test)


def finite(name: str, x: Features, warnings: list[str]) -> Features:
    """Features in float64 with NaN for what is not finite, or tokens without those that are not; a warning that counts it."""
    if isinstance(x, Tokens):
        kept = [row[np.isfinite(row).all(axis=1)] for row in x.rows]
        if lost := sum(map(len, x.rows)) - sum(map(len, kept)):
            warnings.append(f"{name}: {lost} tokens are not finite and left out")
        return Tokens(kept, x.class_state)
    x = np.asarray(x, dtype=np.float64)
    bad = ~np.isfinite(x)
    if bad.any():
        warnings.append(
            f"{name}: {bad.sum()} of {x.size} features in {bad.any(axis=1).sum()} of {len(x)} rows are not "
            "finite; the training part's median stands in"
        )
    return np.where(bad, np.nan, x)


def empty(rows: int, task: Task) -> Array:
    """Predictions of so many rows, NaN yet."""
    return np.full((rows,) if task.kind == "regression" else (rows, len(task.classes)), np.nan)


def constant(y: NDArray, task: Task, rows: int) -> Array:
    """The best prediction that ignores the features."""
    if task.kind == "regression":
        return np.full(rows, y.mean())
    if task.kind == "multilabel":
        return np.tile(y.mean(axis=0), (rows, 1))
    most = np.bincount(y, minlength=len(task.classes)).argmax()
    return np.tile(np.eye(len(task.classes))[most], (rows, 1))


def _majority(y: NDArray, task: Task, folds: Sequence[Fold]) -> Array:
    out = empty(len(y), task)
    for train, test in folds:
        out[test] = constant(y[train], task, len(test))
    return out


def _fold_warnings(y: NDArray, task: Task, folds: Sequence[Fold]) -> list[str]:
    """What the labels of the training parts lack, one line a fold."""
    found = []
    for number, (train, test) in enumerate(folds, start=1):
        where = f"fold {number} of {len(folds)}"
        if len(np.unique(y[train], axis=0)) < 2:
            found.append(f"{where}: its {len(train)} training rows hold one class or value; it predicts that")
        if task.kind in ("binary", "multiclass"):
            unseen = np.setdiff1d(y[test], y[train])
            counts = ", ".join(f"{task.classes[k]} ({np.sum(y[test] == k)} rows)" for k in unseen)
            found += [f"{where}: tested but never trained on: {counts}"] if len(unseen) else []
    return found


def _score_all(
    result: ProbeResult, y: NDArray, groups: NDArray, used: Mapping[str, tuple[str, int]], seed: int, bootstrap: int
) -> None:
    """Fill in rows, differences and confusion from the predictions."""
    task, rows = result.task, result.tested
    tested = {name: prediction[rows] for name, prediction in result.predictions.items()}
    values = {name: score(task, y[rows], prediction) for name, prediction in tested.items()}
    draws = resampled_scores(task, y[rows], tested, groups[rows], resamples=bootstrap, seed=seed)
    none = np.zeros(0)
    for name, scores in values.items():
        about = {"name": name, "head": used[name][0], "parameters": used[name][1]}
        for metric, value in scores.items():
            low, high = interval(value, draws[name].get(metric, none))
            result.rows.append({**about, "metric": metric, "value": value, "low": low, "high": high})
        if task.kind != "regression":
            result.confusion[name] = confusion(task, y[rows], tested[name])
    main = result.main_metric
    models = [name for name in values if name not in BASELINES]
    for at, a in enumerate(models):
        for b in (*models[:at], *(name for name in values if name in BASELINES)):
            value, low, high = paired_difference(
                values[a][main], values[b][main], draws[a].get(main, none), draws[b].get(main, none)
            )
            result.differences.append({"a": a, "b": b, "metric": main, "value": value, "low": low, "high": high})
