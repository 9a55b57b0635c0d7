"""Intervals by drawing whole groups with replacement: rows of one subject are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from toolkit.probing.metrics import weighted_scores
from toolkit.probing.task import Task

Array = NDArray[np.float64]
CELLS_AT_ONCE = 4_000_000  # weights held in memory at a time (32 MB)


def resampled_scores(
    task: Task, y: NDArray, predictions: Mapping[str, Array], groups: NDArray, *, resamples: int, seed: int
) -> dict[str, dict[str, Array]]:
    """Every metric of every prediction on the same ``resamples`` draws of groups: {name: {metric: (resamples,)}}.

    ``groups`` (N,); a draw takes as many groups as there are, with replacement, and all the rows of each.
    """
    parts: dict[str, list[dict[str, Array]]] = {name: [] for name in predictions}
    for weights in _draws(groups, resamples, seed):
        for name, prediction in predictions.items():
            parts[name].append(weighted_scores(task, y, prediction, weights))
    return {
        name: {metric: np.concatenate([part[metric] for part in done]) for metric in done[0]} if done else {}
        for name, done in parts.items()
    }


def interval(value: float, draws: Array, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) of the draws that are defined (Efron 1979), widened so that it holds ``value``.

    low <= value <= high always: with few groups or a biased metric the bare percentiles can miss the value.
    NaN, NaN where the value or every draw is undefined.
    """
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or len(draws) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), value), max(float(high), value)


def paired_difference(value_a: float, value_b: float, draws_a: Array, draws_b: Array) -> tuple[float, float, float]:
    """a minus b with its interval (value, low, high), both scored on the same draws (same length, same order)."""
    value = value_a - value_b
    return (value, *interval(value, draws_a - draws_b))


def _draws(groups: NDArray, resamples: int, seed: int) -> Iterator[Array]:
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    step = max(1, CELLS_AT_ONCE // max(1, len(member)))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        yield counts[:, member].astype(np.float64)
