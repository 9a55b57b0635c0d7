"""How close a repair comes: NMSE, RRMSE and correlation on the repaired samples, whole and by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BY_LENGTH_S = (0.0, 0.5, 1.0, 2.0, np.inf)  # a beat lasts 0.5 to 1 s


@dataclass(frozen=True)
class Piece:
    """One repaired span: its truth and an estimate, physical units, relative to ``level``, the channel's visible mean."""

    truth: NDArray[np.float64]
    estimate: NDArray[np.float64]
    level: float
    seconds: float
    alone: bool  # other channels were visible at the time
    whole: bool = False  # the whole channel was hidden, so its offset cannot be known

    def with_estimate(self, estimate: NDArray[np.float64]) -> Piece:
        """The same span with another estimate, moved to the level where the offset cannot be known."""
        return replace(self, estimate=estimate - estimate.mean() + self.level if self.whole else estimate)


def scores(pieces: Sequence[Piece]) -> dict[str, float]:
    """Over all samples of all pieces.

    ``nmse``: squared error over the truth's energy around the channel's visible mean (predicting that mean
    scores 1); ``rrmse``: RMS of the error over RMS of the truth; ``r``: Pearson's correlation.
    A wholly hidden channel is compared around its own mean: its offset cannot be known.
    Truth that is not known (NaN) does not count; without any, the scores are NaN.
    """
    if not pieces:
        return {"nmse": np.nan, "rrmse": np.nan, "r": np.nan}
    truth = np.concatenate([p.truth for p in pieces])
    error = np.concatenate([p.estimate - p.truth for p in pieces])
    centered = np.concatenate([p.truth - p.level for p in pieces])
    moved = np.concatenate([p.estimate - p.level for p in pieces])
    known = np.isfinite(truth)
    truth, error, centered, moved = truth[known], error[known], centered[known], moved[known]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.corrcoef(centered, moved)[0, 1] if len(truth) > 1 else np.nan
        return {
            "nmse": float((error**2).sum() / (centered**2).sum()),
            "rrmse": float(np.sqrt((error**2).sum() / (truth**2).sum())),
            "r": float(correlation),
        }


def table(pieces: Sequence[Piece]) -> dict[str, object]:
    """The scores of all pieces, and of those of each length, in one channel and in all at once."""
    rows: dict[str, object] = dict(scores(pieces))
    rows["spans"] = len(pieces)
    rows["by_length"] = [
        {"longer_than_s": low, "up_to_s": high, "channels": "one" if alone else "all", "spans": len(some), **scores(some)}
        for low, high in pairwise(BY_LENGTH_S)
        for alone in (True, False)
        if (some := [p for p in pieces if low < p.seconds <= high and p.alone == alone])
    ]
    return rows
