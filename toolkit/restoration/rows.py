"""Rows of point clouds whose coordinates are lost: which ones, where they may have been, and how close a repair comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from readers.schema import BoolArray, PointsLike
from toolkit.errors import UsageError
from toolkit.restoration import spans

Float64 = NDArray[np.float64]
BALL = (0.02, 0.05)  # share of a run's rows in a ball of made damage
FEWEST = 8  # rows of a ball
BESIDE = 4  # visible rows before and after a hidden one in the file that are asked where it was
AROUND = 16  # visible points among which the share of neighbours of hidden rows is taken
SHARPNESS = 12  # power of that share in the vote


@dataclass(frozen=True)
class Run:
    """Rows start..stop of a file: coordinates (n, 3) less the offset, which are visible, which are to be repaired."""

    start: int
    coords: Float64
    visible: BoolArray
    hidden: NDArray[np.int64]  # places in the run

    @property
    def seen(self) -> Float64:
        """The visible points."""
        return self.coords[self.visible]


def cuts(length: int, most: int) -> list[tuple[int, int]]:
    """Rows 0..length in runs of about ``most``, alike in length."""
    edges = np.linspace(0, length, max(1, round(length / most)) + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def asked(table: pd.DataFrame, recording: PointsLike) -> BoolArray:
    """Rows of the file that a table names by start and stop. Raises UsageError."""
    spans.expect(table, ("start", "stop"), recording.path.name, "a point cloud")
    if "channel" in table.columns and (named := table["channel"][table["channel"] != ""]).size:
        raise UsageError(f"--spans: spans of point clouds are whole rows; channel '{named.iloc[0]}' cannot be repaired alone.")
    rows = np.zeros(recording.axes.points or 0, bool)
    for start, stop in zip(table["start"], table["stop"], strict=True):
        first, last = np.clip([np.floor(start), np.ceil(stop)], 0, len(rows)).astype(np.int64)
        rows[first:last] = True
    return rows


def balls(coords: Float64, known: BoolArray, severity: float, rng: np.random.Generator) -> BoolArray:
    """Balls of known points (a random one and those nearest to it that are left) that hide a share of the known rows."""
    left = np.flatnonzero(known)
    missing = round(severity * len(left)) if severity <= 0 else max(1, round(severity * len(left)))
    hidden = np.zeros(len(coords), bool)
    sizes = max(float(len(left)), 1.0) * np.array(BALL)
    while missing > 0:
        count = int(min(max(FEWEST, rng.uniform(*sizes)), missing))
        distance = ((coords[left] - coords[left[rng.integers(len(left))]]) ** 2).sum(axis=1)
        taken = np.argsort(distance, kind="stable")[:count]
        hidden[left[taken]] = True
        left = np.delete(left, taken)
        missing -= count
    return hidden


def places(run: Run) -> Float64:
    """Where each hidden row may have been (h, 3), from the order of the file and the visible points alone.

    The visible rows just before and after a hidden one in the file vote for their own places. Scanners write neighbours
    one after the other, but not all: a vote counts by how many of the visible points around it are themselves beside
    hidden rows in the file, which is highest around a hole.
    """
    at = np.flatnonzero(run.visible)
    position = np.searchsorted(at, run.hidden)
    voters = np.clip(position[:, None] + np.arange(-BESIDE, BESIDE), 0, len(at) - 1)
    beside = np.zeros(len(at))
    np.add.at(beside, np.clip(np.stack([position - 1, position], axis=1), 0, len(at) - 1).ravel(), 1.0)
    near = cKDTree(run.seen).query(run.seen, k=min(AROUND, len(at)))[1].reshape(len(at), -1)
    share = beside[near].mean(axis=1)
    votes = (share / max(float(share.max()), 1e-12))[voters] ** SHARPNESS + 1e-12
    return (run.seen[voters] * votes[..., None]).sum(axis=1) / votes.sum(axis=1, keepdims=True)


def along(run: Run) -> Float64:
    """Linear between the visible rows before and after in the file."""
    at = np.flatnonzero(run.visible)
    return np.stack([np.interp(run.hidden, at, run.seen[:, axis]) for axis in range(3)], axis=1)


def copies(run: Run) -> Float64:
    """The visible points nearest to the estimated places."""
    return run.seen[cKDTree(run.seen).query(places(run))[1]]


def scores(pieces: Sequence[tuple[Float64, Float64, float]]) -> dict[str, Any]:
    """Over runs of truth (h, 3), estimate (h, 3) and the cloud's radius; rows are compared as sets.

    ``chamfer``: mean squared distance to the nearest of the other set, both ways added, over the squared radius of the
    cloud around its centroid; ``nearest``: mean distance from a true point to the nearest repaired one, and ``hausdorff``,
    the largest distance to the nearest of the other set either way, in the unit of the file.
    """
    squares, nearest, largest, count = 0.0, 0.0, 0.0, 0
    for truth, estimate, radius in pieces:
        if len(truth):
            there, back = cKDTree(estimate).query(truth)[0], cKDTree(truth).query(estimate)[0]
            squares += len(truth) * float((there**2).mean() + (back**2).mean()) / radius**2
            nearest += float(there.sum())
            largest = max(largest, float(there.max()), float(back.max()))
            count += len(truth)
    if not count:
        return {"chamfer": np.nan, "nearest": np.nan, "hausdorff": np.nan, "points": 0}
    return {"chamfer": squares / count, "nearest": nearest / count, "hausdorff": largest, "points": count}
