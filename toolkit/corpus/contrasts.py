"""What the contrasts of a training set are like: their levels in the files' unit, and how far they say one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.schema import ReadError
from toolkit.corpus import framing
from toolkit.corpus.batches import Source
from toolkit.corpus.framing import VolumeFraming
from toolkit.recipe import Recipe

MOST = 64  # recordings that are looked at, evenly spaced over the data
SHARE = 0.999  # of the second moments that a linear prediction is made of, so that contrasts that are alike give one

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Contrasts:
    """Of each contrast in ``names`` the level and the deviation by which it is scaled, medians over recordings, in their unit.

    ``moments`` (1 + C, 1 + C): means over voxels of the products of (1, scaled contrasts), NaN of those never seen together.
    """

    names: tuple[str, ...]
    offset: Float64
    scale: Float64
    moments: Float64

    def rms(self, name: str) -> float:
        """Root of the mean square of a contrast, scaled."""
        return float(np.sqrt(self.moments[1 + self.names.index(name)][1 + self.names.index(name)]))

    def linear(self, known: Sequence[str], wanted: str) -> Float64 | None:
        """Weights of (1, known contrasts) that predict another, scaled, with least squared error; None where never seen so."""
        if not set(known) | {wanted} <= set(self.names):
            return None
        inside = [0, *(1 + self.names.index(name) for name in known)]
        square, aim = self.moments[np.ix_(inside, inside)], self.moments[inside, 1 + self.names.index(wanted)]
        if not (np.isfinite(square).all() and np.isfinite(aim).all()):
            return None
        square = np.where(np.eye(len(inside), dtype=bool), square, SHARE * square)
        return np.linalg.solve(square, aim).astype(np.float64)

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        moments = [[value if np.isfinite(value) else None for value in row] for row in self.moments.tolist()]
        return {"names": list(self.names), "offset": self.offset.tolist(), "scale": self.scale.tolist(), "moments": moments}

    @classmethod
    def read(cls, document: Any) -> Contrasts | None:
        """From that; None for anything else."""
        try:
            numbers = (np.array(document[key], np.float64) for key in ("offset", "scale", "moments"))
            return cls(tuple(document["names"]), *numbers)
        except (KeyError, TypeError, ValueError):
            return None


def measure(sources: Sequence[Source], recipe: Recipe) -> Contrasts | None:
    """Of the windows that cover some of the recordings; None for recordings that are no volumes, or cannot be read."""
    frame = framing.build(recipe)
    if not isinstance(frame, VolumeFraming) or not sources:
        return None
    names = tuple(sorted({s.recording.channels[c].canonical for s in sources for c in s.channels}))
    sums, counts = np.zeros((1 + len(names),) * 2), np.zeros((1 + len(names),) * 2)
    levels: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    chosen = sorted({round(k) for k in np.linspace(0, len(sources) - 1, min(MOST, len(sources)))})
    for source in (sources[k] for k in chosen):
        try:
            for window in frame.plan(source.recording, frame.data.window_mm, frame.data.window_mm):
                scaled = frame.load(source.recording, window, source.channels)
                _add(scaled.values, scaled.valid, [1 + names.index(c.canonical) for c in scaled.channels], sums, counts)
                for channel, *level in zip(scaled.channels, scaled.scaling.offset, scaled.scaling.scale, strict=True):
                    levels[channel.canonical].append((float(level[0]), float(level[1])))
        except ReadError:
            continue  # training says what is wrong with it
    if not all(levels.values()):
        return None
    middle = np.array([np.median(levels[name], axis=0) for name in names])
    with np.errstate(invalid="ignore"):
        return Contrasts(names, middle[:, 0], middle[:, 1], np.where(counts > 0, sums / counts, np.nan))


def _add(values: NDArray[np.float32], valid: NDArray[np.bool_], rows: Sequence[int], sums: Float64, counts: Float64) -> None:
    """Add a window's products (C, X, Y, Z), over voxels where all its contrasts are."""
    known = valid.all(axis=0)
    at = np.ix_([0, *rows], [0, *rows])
    each = np.concatenate([np.ones((1, int(known.sum()))), values[:, known].astype(np.float64)])
    sums[at] += each @ each.T
    counts[at] += each.shape[1]
