"""How a score grows with the labels: heads fitted on few rows of each training part, scored on the whole test part.

Rows are drawn from the training groups of a fold only, several times; every kind of feature is fitted on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from toolkit.probing.bootstrap import interval, resampled_scores
from toolkit.probing.folds import Fold, inner_folds, strata
from toolkit.probing.heads import Effort
from toolkit.probing.metrics import score
from toolkit.probing.protocol import Array, Features, constant, empty, finite, head_of, predict
from toolkit.probing.task import Task
from toolkit.probing.token_heads import Tokens

Row = dict[str, object]
Pick = Callable[[NDArray, Task, NDArray, float, np.random.Generator], NDArray[np.int64]]
MAJORITY = "majority"
WORDS = {"shots": "labelled rows a class", "fraction": "share of the training rows"}


def few_rows(y: NDArray, task: Task, groups: NDArray, shots: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """``shots`` rows of each class (all where it has fewer), of as many groups as there are; for multilabel the rarest first.

    A row of several labels counts for each of them. Sorted row numbers of ``y``, N rows in ``groups`` (N,).
    Bird-MAE's few-shot sets are drawn so: one event of each recording before a second of any.
    """
    positive = y == 1 if task.kind == "multilabel" else np.arange(len(task.classes)) == y[:, None]
    chosen = np.zeros(len(y), dtype=bool)
    for k in np.argsort(positive.sum(axis=0), kind="stable"):
        lacking = int(shots) - int((positive[:, k] & chosen).sum())
        rest = rng.permutation(np.flatnonzero(positive[:, k] & ~chosen))
        turn = np.argsort(_times_before(groups[rest]), kind="stable")
        chosen[rest[turn][: max(0, lacking)]] = True
    return np.flatnonzero(chosen)


def share_of_rows(y: NDArray, task: Task, groups: NDArray, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """That share of the rows of each class, at least one; of a quantity at least two rows in all. Sorted row numbers."""
    classes = strata(y, task)
    if classes is None:
        return np.sort(rng.permutation(len(y))[: max(2, round(share * len(y)))])
    chosen = np.zeros(len(y), dtype=bool)
    chosen[few_rows(y, task, groups, 1, rng)] = True
    for k in np.unique(classes):
        lacking = round(share * int((classes == k).sum())) - int((chosen & (classes == k)).sum())
        chosen[rng.permutation(np.flatnonzero((classes == k) & ~chosen))[: max(0, lacking)]] = True
    return np.flatnonzero(chosen)


PICKS: dict[str, Pick] = {"shots": few_rows, "fraction": share_of_rows}


def curve(
    by: str,
    sizes: Sequence[float],
    features: Mapping[str, Features],
    y: NDArray,
    task: Task,
    groups: NDArray,
    folds: Sequence[Fold],
    *,
    head: str,
    draws: int,
    seed: int,
    bootstrap: int = 1000,
    progress: Callable[[int, str], None] | None = None,
) -> list[Row]:
    """Scores with so many labels: rows of name, head, ``by``, metric, value, low, high, sd, draws, the main metric first.

    ``by`` is one of PICKS: "shots", rows a class, or "fraction", a share of the training rows. ``value`` is the mean and
    ``sd`` the standard deviation (n - 1) over ``draws``, each pooled over all folds; ``low`` and ``high`` hold 95 % of the
    means over ``draws`` that ``bootstrap`` resamples of the tested groups give. Where the whole training part is taken and
    the head has no randomness of its own, the draws are one and the same.
    """
    named = {name: finite(name, x, []) for name, x in features.items()}
    tested = np.concatenate([test for _, test in folds])
    out, fits = [], count(1)
    for size in sizes:
        found: dict[str, list[Array]] = {name: [] for name in (*named, MAJORITY)}
        for draw in range(draws):
            chosen = [_drawn(by, size, y, task, groups, train, (seed, draw, at)) for at, (train, _) in enumerate(folds)]
            whole = all(len(rows) == len(train) for rows, (train, _) in zip(chosen, folds, strict=True))
            for name in found:
                x = named.get(name)
                if draw and whole and not isinstance(x, Tokens):
                    found[name].append(found[name][0])
                else:
                    predicted = _predicted(name, x, y, task, groups, folds, chosen, head, (seed, draw))
                    found[name].append(predicted[tested])
                if progress is not None:
                    progress(next(fits), f"{name}, {by} {size:g}")
        for name, predictions in found.items():
            used = "constant" if name == MAJORITY else head_of(named[name], head)
            rows = _summary(task, y[tested], predictions, groups[tested], bootstrap, seed)
            out += [{"name": name, "head": used, by: size, **row} for row in rows]
    return out


def too_few(shots: Sequence[int], y: NDArray, task: Task, folds: Sequence[Fold]) -> list[str]:
    """A sentence for each number of shots that some class does not have in some training part."""
    out = []
    for k in shots:
        least = []
        for train, _ in folds:
            counts = y[train].sum(axis=0) if task.kind == "multilabel" else np.bincount(y[train], minlength=len(task.classes))
            least.append((int(counts.min()), task.classes[int(counts.argmin())]))
        lacking = [each for each in least if each[0] < k]
        if lacking:
            rows, name = min(lacking)
            out.append(
                f"few-shot {k}: in {len(lacking)} of {len(folds)} folds a class has fewer training rows ('{name}' {rows}); "
                "all of them are taken"
            )
    return out


def _drawn(
    by: str, size: float, y: NDArray, task: Task, groups: NDArray, train: NDArray, seed: Sequence[int]
) -> NDArray[np.int64]:
    rng = np.random.default_rng([*seed, round(1e6 * size)])
    return train[PICKS[by](y[train], task, groups[train], size, rng)]


def _predicted(
    name: str,
    x: Features | None,
    y: NDArray,
    task: Task,
    groups: NDArray,
    folds: Sequence[Fold],
    chosen: Sequence[NDArray],
    head: str,
    seed: tuple[int, int],
) -> Array:
    """Out-of-fold predictions, a row a label, by heads fitted on ``chosen``; without features, the constant."""
    predicted: Array = empty(len(y), task)
    for at, ((_, test), rows) in enumerate(zip(folds, chosen, strict=True)):
        if x is None:
            predicted[test] = constant(y[rows], task, len(test))
        else:
            inner = inner_folds(groups[rows], y[rows], task, seed=seed[0])
            predicted[test] = predict(name, x, y, task, rows, test, inner, head=head, seed=(*seed, at), effort=Effort())
    return predicted


def _summary(task: Task, y: NDArray, predictions: Sequence[Array], groups: NDArray, bootstrap: int, seed: int) -> list[Row]:
    """A row a metric, over predictions of the same rows by heads of several draws."""
    scores = [score(task, y, predicted) for predicted in predictions]
    named = {str(draw): predicted for draw, predicted in enumerate(predictions)}
    resampled = resampled_scores(task, y, named, groups, resamples=bootstrap, seed=seed)

    def of(metric: str) -> Row:
        values = np.array([each[metric] for each in scores])
        sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        means = np.mean([each[metric] for each in resampled.values()], axis=0) if bootstrap else np.empty(0)
        low, high = interval(float(values.mean()), means)
        return {"metric": metric, "value": float(values.mean()), "low": low, "high": high, "sd": sd, "draws": len(values)}

    return [of(metric) for metric in scores[0]]


def _times_before(groups: NDArray) -> NDArray[np.int64]:
    """How often each group occurred before, row by row."""
    seen: dict[object, int] = {}
    out = np.empty(len(groups), dtype=np.int64)
    for at, group in enumerate(groups.tolist()):
        out[at] = seen.get(group, 0)
        seen[group] = int(out[at]) + 1
    return out
