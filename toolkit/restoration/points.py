"""Restoring point clouds: rows whose coordinates are lost. Rows, their order and their attributes stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from readers.schema import BoolArray, Channel, Patch, PointsLike, ReadError, Recording, Window
from toolkit.corpus.batches import collate
from toolkit.corpus.framing.points import XYZ, unit_sphere
from toolkit.corpus.scaled import Scaled
from toolkit.errors import UsageError
from toolkit.model.folder import LoadedModel
from toolkit.model.tokenizers import PointGroups
from toolkit.model.tokenizers.base import UNSCALED
from toolkit.model.tokens import TokenSet
from toolkit.recipe import PointData
from toolkit.report.pictures import points_png
from toolkit.restoration import rows as lost
from toolkit.restoration.completion import opened
from toolkit.restoration.mender import Mended, Mender, Request, generator
from toolkit.restoration.placing import Choice, Predict, choose
from toolkit.restoration.rows import Run
from toolkit.restoration.spans import runs

Float64 = NDArray[np.float64]
SPARE = 2  # how many times more points are predicted than rows are filled; those farthest from visible points are kept


class GroupPredictor:
    """Predicts lost points with one model, with the preprocessing the model was trained on."""

    def __init__(self, loaded: LoadedModel, device: torch.device) -> None:
        self.model, self.tokenizer, self.data = opened(loaded, device, PointGroups, PointData)
        self.device = device

    def predict(self, run: Run, channel: Channel, places: Float64) -> Float64:
        """Coordinates (h, 3) for the hidden rows that may have been at ``places``.

        The visible points are taken in turns, as many a turn as the model was trained on, and each turn fills every so
        manieth hidden row, so that the repair is as dense as the cloud.
        """
        visible = run.seen
        turns = -(-max(len(visible), len(places)) // self.data.points)
        found, tree = np.empty_like(places), cKDTree(visible)
        for turn in range(min(turns, len(places))):
            seen = visible[turn % len(visible) :: turns]
            mine = slice(turn, None, turns)
            made = self._predict(seen, channel, places[mine])
            clearance = tree.query(made)[0]
            kept = made[np.sort(np.argsort(-clearance, kind="stable")[: max(len(places[mine]), len(made) // SPARE)])]
            cost = ((places[mine][:, None] - kept) ** 2).sum(axis=-1)
            found[mine] = kept[linear_sum_assignment(cost)[1]]
        return found

    @torch.inference_mode()
    def _predict(self, seen: Float64, channel: Channel, places: Float64) -> Float64:
        """Points (k * neighbours, 3) of groups around k centres among the places, more than there are places."""
        scaling = unit_sphere(seen.astype(np.float32))
        values, valid = np.zeros((3, self.data.points), np.float32), np.zeros((3, self.data.points), bool)
        values[:, : len(seen)], valid[:, : len(seen)] = seen.T, True
        scaled = Scaled.of(values, valid, (replace(channel, name="xyz", canonical="xyz"),), scaling, Window(0, len(seen)))
        tokens = self.tokenizer.tokenize(collate([scaled]), self.device)
        centres = _centres((places - scaling.offset) / scaling.scale, -(-SPARE * len(places) // self.tokenizer.neighbours))
        coords = torch.from_numpy(np.pad(centres, ((0, 0), (0, 1))).astype(np.float32))[None].to(self.device)
        none = torch.zeros(coords.shape[:2], dtype=torch.int64, device=self.device)
        empty = torch.zeros(*coords.shape[:2], self.tokenizer.values, device=self.device)
        like = tokens.descriptor[:, :1].expand(-1, coords.shape[1], -1)
        queries = TokenSet(empty, coords, none, like, none == 0, none + UNSCALED, (1, coords.shape[1]))
        count = torch.arange(tokens.valid.shape[1] + coords.shape[1], device=self.device)[None]
        known, asked = count[:, : tokens.valid.shape[1]], count[:, tokens.valid.shape[1] :]
        predicted = self.model(tokens.joined(queries), known, asked).float()
        made = self.tokenizer.untokenize(predicted, coords)[0].cpu().numpy().astype(np.float64)
        return made * scaling.scale + scaling.offset


def _centres(places: Float64, count: int) -> Float64:
    """Means (k, 3) of the places nearest to each of ``count`` of them, each the farthest from those before.

    Where there are fewer places, some stand for several groups.
    """
    chosen = [int(((places - places.mean(axis=0)) ** 2).sum(axis=1).argmax())]
    nearest = ((places - places[chosen[0]]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
    group = cKDTree(places[chosen]).query(places)[1]
    means = [places[group == k].mean(axis=0) if (group == k).any() else places[chosen[k]] for k in range(count)]
    return np.array(means)


@dataclass(frozen=True)
class Repaired:
    """New coordinates (h, 3) of a run's hidden rows, and how they were chosen."""

    run: Run
    values: Float64
    choice: Choice


class PointMender(Mender):
    """Repairs rows of point clouds."""

    headline = "chamfer"
    kinds = ("block",)
    tasks = ("inpaint",)

    def __init__(self, predictor: GroupPredictor) -> None:
        self.predictor = predictor

    def check(self, recording: Recording, rows: pd.DataFrame) -> None:
        """Raises UsageError for spans that are no rows."""
        lost.asked(rows, _cloud(recording))

    def mend(self, recording: Recording, request: Request, rows: pd.DataFrame | None) -> PointMended:
        """Repair rows that are asked for, made or found. Raises ReadError, and UsageError for channels."""
        cloud = _cloud(recording)
        if request.channels:
            raise UsageError("--channels: attributes and coordinates of point clouds are not rebuilt from one another.")
        repaired, notes, visible = [], [], 0
        for run in self._runs(cloud, request, rows):
            visible += int(run.visible.sum())
            if not len(run.hidden):
                continue
            if not run.visible.any():
                notes.append(f"rows {run.start} to {run.start + len(run.coords)} hold nothing to repair from; left as they are")
                continue
            choice = choose(run, self._predict(cloud), balls=bool(request.damage))
            repaired.append(Repaired(run, choice.apply(run, self._predict(cloud)), choice))
        if not visible:
            raise ReadError(f"nothing of '{recording.path.name}' is visible to repair from")
        return PointMended(cloud, repaired, request, notes)

    def _predict(self, recording: PointsLike) -> Predict:
        return lambda run, places: self.predictor.predict(run, recording.channels[0], places)

    def _runs(self, recording: PointsLike, request: Request, rows: pd.DataFrame | None) -> Iterator[Run]:
        """The cloud in runs of rows, each with its damage."""
        named = None if rows is None else lost.asked(rows, recording)
        draws = [(generator(request.seed, k), severity) for k, (_, severity) in enumerate(request.damage)]
        for start, stop in lost.cuts(recording.axes.points or 0, self.predictor.data.window_rows):
            sample = recording.read(start, stop)
            coords = sample.coords.astype(np.float64)
            hidden: BoolArray = ~sample.known if request.found else np.zeros(len(coords), bool)
            if named is not None:
                hidden |= named[start:stop]
            for rng, severity in draws:
                hidden |= lost.balls(coords, sample.known & ~hidden, severity, rng)
            yield Run(start, coords, sample.known & ~hidden, np.flatnonzero(hidden))


class PointMended(Mended):
    """Repaired rows of one cloud."""

    scale = "visible points of a run of rows in the unit sphere around their centroid"

    def __init__(self, recording: PointsLike, repaired: Sequence[Repaired], request: Request, notes: list[str]) -> None:
        self.recording, self.repaired, self.notes = recording, repaired, notes
        offset = recording.axes.offset or (0.0, 0.0, 0.0)
        self.patches = [
            Patch(axis, r.run.hidden + r.run.start, r.values[:, axis] + offset[axis]) for r in repaired for axis in XYZ
        ]
        self.task = request.task if request.task != "auto" else "inpaint"
        why = "invalid" if request.found else "block" if request.damage else "asked"
        self.changed = [
            {"start": a, "stop": b, "why": why, "method": "model", "places": r.choice.places, "weight": r.choice.weight}
            for r in repaired
            for a, b in _spans(r.run)
        ]
        self.detected = [{"start": a, "stop": b, "why": why} for r in repaired for a, b in _spans(r.run)] if request.found else []
        left = [r for r in repaired if not r.choice.weight]
        if left:
            where = " or ".join(sorted({r.choice.places for r in left}))
            count = sum(len(r.run.hidden) for r in left)
            self.notes.append(f"{count} points are set by {where}, on which the model did not improve in trials on visible rows")

    def arrays(self) -> dict[str, NDArray]:
        """The repaired rows of the file."""
        rows = [one.run.hidden + one.run.start for one in self.repaired]
        return {"row": np.concatenate([*rows, np.empty(0, np.int64)])}

    def score(self, truth: Recording) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Chamfer and other distances between the sets of true and repaired points; see ``rows.scores``.

        ``estimated places`` is where the repair looked, before the model: what the model adds is the difference.
        """
        known = [self._truth(_cloud(truth), one) for one in self.repaired]
        estimates = {
            "interpolation along the file": [lost.along(one.run) for one in self.repaired],
            "copies of the nearest visible points": [lost.copies(one.run) for one in self.repaired],
            "estimated places": [lost.places(one.run) for one in self.repaired],
        }

        def scored(values: Sequence[Float64]) -> dict[str, Any]:
            return lost.scores([(t, v[k], radius) for (t, k, radius), v in zip(known, values, strict=True)])

        return scored([one.values for one in self.repaired]), {name: scored(values) for name, values in estimates.items()}

    def _truth(self, truth: PointsLike, one: Repaired) -> tuple[Float64, BoolArray, float]:
        """True points of the hidden rows that are known, which these are, and the radius of the cloud."""
        sample = truth.read(one.run.start, one.run.start + len(one.run.coords))
        moved = np.array(truth.axes.offset or (0.0,) * 3) - np.array(self.recording.axes.offset or (0.0,) * 3)
        coords = sample.coords.astype(np.float64) + moved
        known = sample.known[one.run.hidden]
        return coords[one.run.hidden][known], known, float(unit_sphere(coords[sample.known].astype(np.float32)).scale[0])

    def draw(self, truth: Recording | None, path: Path) -> None:
        """The run with the most repaired rows."""
        one = max(self.repaired, key=lambda r: len(r.run.hidden))
        clean = self._truth(_cloud(truth), one)[0] if truth is not None else None
        title = f"{self.recording.path.name}: {len(one.run.hidden):,} of {len(one.run.coords):,} points repaired"
        unit = self.recording.axes.unit or ""
        points_png(path, [{"title": title, "visible": one.run.seen, "repaired": one.values, "truth": clean, "unit": unit}])


def _spans(run: Run) -> list[tuple[int, int]]:
    """Consecutive repaired rows of a run, start and stop in the file."""
    mask = np.zeros(len(run.coords), bool)
    mask[run.hidden] = True
    return [(run.start + a, run.start + b) for a, b in runs(mask)]


def _cloud(recording: Recording) -> PointsLike:
    if not isinstance(recording, PointsLike):
        held = ", ".join(f"{c.name} ({c.kind})" for c in recording.channels)
        raise ReadError(f"'{recording.path.name}' holds no points; it holds {held}")
    return recording
