"""Where lost points are looked for, and how far the model's points are believed: tried out on rows that are visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from readers.schema import BoolArray
from toolkit.restoration import rows
from toolkit.restoration.mender import generator
from toolkit.restoration.rows import Run

Float64 = NDArray[np.float64]
Predict = Callable[[Run, Float64], Float64]  # coordinates of the hidden rows that may have been at places
WEIGHTS = (0.0, 0.5, 1.0)
ENOUGH, MOST_TRIALS = 500, 10  # rows tried, in so many trials at most
PLACES: Mapping[str, Callable[[Run], Float64]] = {"interpolation along the file": rows.along, "estimated places": rows.places}


@dataclass(frozen=True)
class Choice:
    """Places where lost points are looked for, and the weight, 0 to 1, with which the model moves them from there."""

    places: str
    weight: float

    def apply(self, run: Run, predict: Predict) -> Float64:
        """New coordinates of a run's hidden rows."""
        return _moved(PLACES[self.places](run), run, predict, (self.weight,))[self.weight]


def choose(run: Run, predict: Predict, *, balls: bool) -> Choice:
    """The choice that does best on rows that are visible, hidden like the damaged ones and as many, by Chamfer distance.

    As balls, or as the same pattern further on in the file. Nothing that is damaged is looked at.
    """
    totals: dict[Choice, float] = {}
    tried = 0
    for trial in range(MOST_TRIALS):
        hidden = _like(run, trial, balls)
        if tried >= ENOUGH or not 0 < hidden.sum() < run.visible.sum():
            break
        tried += int(hidden.sum())
        control = replace(run, visible=run.visible & ~hidden, hidden=np.flatnonzero(hidden))
        truth = run.coords[hidden]
        for name, places in PLACES.items():
            for weight, values in _moved(places(control), control, predict, WEIGHTS).items():
                cost = len(truth) * float(rows.scores([(truth, values, 1.0)])["chamfer"])
                totals[Choice(name, weight)] = totals.get(Choice(name, weight), 0.0) + cost
    return min(totals, key=lambda choice: totals[choice]) if totals else Choice("estimated places", 1.0)


def _moved(places: Float64, run: Run, predict: Predict, weights: tuple[float, ...]) -> dict[float, Float64]:
    predicted = predict(run, places) if any(weights) else places
    return {weight: places + weight * (predicted - places) for weight in weights}


def _like(run: Run, trial: int, balls: bool) -> BoolArray:
    """Visible rows that are hidden for a trial."""
    rng = generator(0, trial)
    count = min(len(run.hidden), int(run.visible.sum()) // 4)
    if balls:
        return rows.balls(run.coords, run.visible, count / max(int(run.visible.sum()), 1), rng) if count else run.visible & False
    shift = int(rng.integers(1, max(2, len(run.coords))))
    moved: BoolArray = np.zeros(len(run.coords), bool)
    moved[(run.hidden + shift) % len(run.coords)] = True
    moved &= run.visible
    moved[np.flatnonzero(moved)[count:]] = False
    return moved
