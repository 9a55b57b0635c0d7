"""Windows of point clouds: runs of rows in file order, in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from readers.schema import PointSample, PointsLike, ReadError, Recording, Window
from toolkit.corpus import windows
from toolkit.corpus.framing.base import Framing, Piece
from toolkit.corpus.scaled import Extent, Scaled, Scaling
from toolkit.recipe import PointData

XYZ = (0, 1, 2)  # the channels of coordinates, by the schema


class PointFraming(Framing):
    """A sample is so many points of a run of rows: neighbours in a file are, as scanners write them, neighbours in space."""

    unit = "point"
    scale = "rows"

    def __init__(self, data: PointData) -> None:
        self.data = data

    def channels(self, recording: Recording) -> list[int]:
        """The three coordinates. Raises ReadError for what is no point cloud."""
        if not isinstance(recording, PointsLike):
            held = ", ".join(f"{c.name} ({c.kind})" for c in recording.channels)
            raise ReadError(f"'{recording.path.name}' holds no points; it holds {held}")
        return list(XYZ)

    def length(self, recording: Recording) -> int:
        """Rows."""
        return recording.axes.points or 0

    def weight(self, length: int) -> int:
        """By rows, at least one window: every object counts."""
        return max(length, self.data.window_rows)

    def count(self, length: int) -> int:
        """Whole windows."""
        return max(1, length // self.data.window_rows)

    def layout(self, channels: Sequence[int]) -> int:
        """All samples are alike."""
        return len(XYZ)

    def choose(self, channels: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Coordinates belong together."""
        return list(channels)

    def draw(self, recording: Recording, length: int, rng: np.random.Generator) -> Window:
        """A run of rows."""
        start = int(rng.integers(0, max(1, length - self.data.window_rows + 1)))
        return Window(start, min(start + self.data.window_rows, length))

    def load(
        self, recording: Recording, window: Extent, channels: Sequence[int], rng: np.random.Generator | None = None
    ) -> Scaled:
        """``points`` of the known rows: at random with ``rng``, else evenly spaced; fewer are padded as not valid."""
        rows = self._rows(recording, window)
        known = np.flatnonzero(rows.known)
        taken = min(len(known), self.data.points)
        if rng is not None:
            picked = np.sort(rng.choice(known, size=taken, replace=False)) if taken else known
        else:
            picked = known[np.linspace(0, len(known) - 1, taken).round().astype(int)] if taken else known
        values = np.zeros((3, self.data.points), np.float32)
        values[:, :taken] = rows.coords[picked].T
        valid = np.zeros((3, self.data.points), bool)
        valid[:, :taken] = True
        channel = replace(recording.channels[0], name="xyz", canonical="xyz")
        scaling = unit_sphere(rows.coords[picked])
        if rng is not None and self.data.augment:
            scaling = stretched(scaling, rng)
        return Scaled.of(values, valid, (channel,), scaling, window)

    def _rows(self, recording: Recording, window: Extent) -> PointSample:
        assert isinstance(recording, PointsLike) and isinstance(window, Window)
        return recording.read(window.start, window.stop)

    def plan(self, recording: Recording, window: float, stride: float) -> list[Extent]:
        """Runs of ``window`` rows in steps of ``stride``, the last one shorter."""
        length = self.length(recording)
        cut = windows.plan(length, max(1, round(window)), max(1, round(stride)))
        return [Window(w.start, min(w.stop, length)) for w in cut]

    def interval(self, recording: Recording, window: Extent) -> tuple[float, float]:
        """Rows."""
        assert isinstance(window, Window)
        return float(window.start), float(min(window.stop, self.length(recording)))

    def end(self, recording: Recording) -> float:
        """Rows."""
        return float(self.length(recording))

    def around(self, recording: Recording, start: float, stop: float, window: float) -> list[Piece]:
        """The rows themselves, in runs of at most a window."""
        size = max(1, round(window))
        cut = windows.plan(round(stop) - round(start), size, size)
        return [Piece(Window(round(start) + w.start, min(round(start) + w.stop, round(stop))), 0.0, np.inf) for w in cut]

    def sample(
        self, recording: Recording, start: float, stop: float, channels: Sequence[int], margin: float = 0.0
    ) -> PointSample:
        """Rows with their attributes."""
        assert isinstance(recording, PointsLike)
        return recording.read(round(start), round(stop), channels=range(3, len(recording.channels)))

    def mismatches(self, recording: Recording, known: Sequence[str], chosen: Sequence[int]) -> list[str]:
        """Attributes the model does not read, and clouds thinner than its samples."""
        found = windows.unseen(recording, (), chosen)
        if self.length(recording) < self.data.points:  # how many is not said, so that files that are alike share a line
            found.append(f"fewer points than the {self.data.points} that the model takes; the rest of a sample stays empty")
        return found

    def token_intervals(
        self, recording: Recording, window: Extent, coords: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A group of points lies anywhere in its window, so the window's rows."""
        start, stop = self.interval(recording, window)
        return np.full(len(coords), start), np.full(len(coords), stop)


def stretched(scaling: Scaling, rng: np.random.Generator) -> Scaling:
    """A transform, and then each axis times U(2/3, 3/2) and plus U(-0.2, 0.2)."""
    factor, shift = rng.uniform(2 / 3, 3 / 2, 3), rng.uniform(-0.2, 0.2, 3)
    return Scaling(scaling.offset - scaling.scale * shift / factor, scaling.scale / factor)


def unit_sphere(coords: NDArray[np.float32]) -> Scaling:
    """The transform that puts (N, 3) into the unit sphere around their centroid; one scale for all axes."""
    if not len(coords):
        return Scaling(np.zeros(3), np.ones(3))
    center = coords.mean(axis=0, dtype=np.float64)
    radius = float(np.sqrt(((coords - center) ** 2).sum(axis=1)).max())
    return Scaling(center, np.full(3, radius or 1.0))
