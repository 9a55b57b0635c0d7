"""Restoring volumes: boxes of voxels, in one contrast or all, and whole contrasts from the others of their session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from readers.mri_create import create_nifti, named_like
from readers.schema import Box, Patch, ReadError, Recording, VolumeLike, Written
from readers.volume_grid import Size, turn_of, turned, turned_grid
from toolkit.errors import UsageError, did_you_mean
from toolkit.report.pictures import VolumePanel, volume_png
from toolkit.restoration import boxes, trust, voxels, whole
from toolkit.restoration.boxes import Damaged, Hole
from toolkit.restoration.cubes import CubePredictor
from toolkit.restoration.mender import Mended, Mender, Request
from toolkit.restoration.voxels import Part

PANELS = 3  # contrasts shown in the picture


class VolumeMender(Mender):
    """Repairs boxes of voxels and missing contrasts."""

    headline = "nmse"
    kinds = ("block", "channel")
    tasks = ("inpaint", "channels", "modality")

    def __init__(self, predictor: CubePredictor) -> None:
        self.predictor = predictor

    def check(self, recording: Recording, rows: pd.DataFrame) -> None:
        """Raises UsageError for a contrast that the recording does not have, and for spans that are no boxes."""
        boxes.from_table(rows, _volume(recording), ())

    def mend(self, recording: Recording, request: Request, rows: pd.DataFrame | None) -> VolumeMended:
        """Repair boxes that are asked for, made or found. Raises ReadError."""
        volume = _volume(recording)
        lacking = [name for name in request.missing if name not in {c.canonical for c in volume.channels}]
        volume = Damaged(volume, [], lacking) if lacking else volume
        usable = self.predictor.channels(volume)
        wanted, notes = self._holes(volume, request, rows, usable)
        left = sorted({h.channel for h in wanted} - set(usable))
        unread = [volume.channels[c] for c in left]
        notes += [f"{c.name} is {c.kind}, which the model does not read; left as it is" for c in unread]
        holes = sorted({h for h in wanted if h.channel in usable})
        seen = Damaged(volume, holes)
        masks = boxes.union(seen, holes)
        if sum(int(mask.sum()) for mask in masks.values()) >= sum(volume.stored(c) for c in usable):
            raise ReadError(f"nothing of '{recording.path.name}' is visible to repair from")
        fields = self.predictor.predict(seen, usable, holes) if holes else {}
        levels = voxels.levels(seen, self.predictor.framing(seen), usable)
        for channel, field in fields.items():
            if levels[channel] is None and not np.isfinite(field.values).any():
                raise ReadError(
                    f"'{recording.path.name}' shows no whole cube of {self.predictor.side_mm:g} mm, which the model needs, "
                    f"to rebuild {volume.channels[channel].name} from"
                )
        weights = trust.weights(self.predictor, seen, usable, holes, masks, levels) if holes else {}
        parts = [p for c in sorted(masks) for p in voxels.join(seen, c, masks[c], fields[c], levels[c], weights[c])]
        parts = [whole.sharpened(self.predictor, seen, p, fields[p.channel], usable) if p.whole else p for p in parts]
        notes += [
            f"nothing of {volume.channels[c].name} is visible, so its unit is not known: it is written in that of the others"
            for c in sorted({p.channel for p in parts if p.whole})
            if not self.predictor.knows(volume.channels[c].canonical)
        ]
        return VolumeMended(seen, usable, holes, parts, levels, weights, self.predictor, request, notes)

    def check_missing(self, names: Sequence[str]) -> None:
        """Raises UsageError for a contrast that the model was not trained to make."""
        known = [name for name in self.predictor.names if name in self.predictor.data.kinds]
        for name in names:
            if name not in known:
                raise UsageError(f"--missing: the model makes no '{name}'. {did_you_mean(name, known)}")

    def _holes(
        self, recording: VolumeLike, request: Request, rows: pd.DataFrame | None, usable: Sequence[int]
    ) -> tuple[list[Hole], list[str]]:
        if request.found:
            return boxes.detect(recording, usable)
        found: list[Hole] = []
        if request.channels or request.missing:
            wanted = {*request.channels, *request.missing}
            have = [i for i, c in enumerate(recording.channels) if {c.name, c.canonical} & wanted]
            if not have:
                raise ReadError(f"'{recording.path.name}' has no channel {' or '.join(request.channels)}")
            found += [boxes.whole(recording, c) for c in have]
        if rows is not None:
            found += boxes.from_table(rows, recording, usable)
        if request.damage:
            found += boxes.make(recording, usable, self.predictor.head(recording), request.damage, request.seed)
        return found, []


class VolumeMended(Mended):
    """Repaired boxes of one recording."""

    _scale = (
        "per window: mean and deviation of each contrast's visible bright voxels, and RMS of the visible cubes; harmonic "
        "fill from the voxels around a box, plus the model's detail times the weight that serves boxes that are not damaged best"
    )
    _guided = (
        "a whole contrast takes its detail from the visible ones by a guided filter: the linear function of them that is best "
        "over the training data, where that is known, plus half of what the model adds to it; else local linear functions of "
        "them that are close to what the model predicts"
    )

    def __init__(
        self,
        seen: Damaged,
        usable: Sequence[int],
        holes: Sequence[Hole],
        parts: Sequence[Part],
        levels: voxels.Levels,
        weights: Mapping[int, float],
        predictor: CubePredictor,
        request: Request,
        notes: list[str],
    ) -> None:
        self.seen, self.usable, self.holes, self.parts, self.levels = seen, usable, holes, parts, levels
        self.predictor, self.notes = predictor, notes
        stored = seen.stored_by()
        self.patches = [Patch(p.channel, p.places(seen.shape_of(p.channel)), p.values) for p in parts if p.channel in stored]
        self.made = [p for p in parts if p.channel not in stored]
        units = [self._unit(p.channel) for p in parts if p.whole]
        self.scale = "; ".join([self._scale, *([self._guided] if units else []), *units])
        means = {c: level.mean if level is not None else None for c, level in levels.items()}
        self.changed = [
            {**self._row(hole), "method": "model", "weight": weights[hole.channel], "level": means[hole.channel]}
            for hole in holes
        ]
        self.detected = [self._row(hole) for hole in holes if hole.why == "invalid"]
        whole = any(p.whole for p in parts)
        self.task = request.task if request.task != "auto" else "modality" if whole else "inpaint"

    def _row(self, hole: Hole) -> dict[str, Any]:
        return {"channel": self.seen.channels[hole.channel].name, "box": hole.ends, "why": hole.why}

    def _unit(self, channel: int) -> str:
        """Where the unit of a contrast that was made whole comes from."""
        one = self.seen.channels[channel]
        if self.predictor.contrasts is None or not self.predictor.knows(one.canonical):
            return f"{one.name}: its unit is not known, that of the others was taken"
        number = self.predictor.contrasts.names.index(one.canonical)
        offset, scale = self.predictor.contrasts.offset[number], self.predictor.contrasts.scale[number]
        return (
            f"{one.name}: in the unit of the model's training data, where its bright voxels have a mean of {offset:.4g} and a "
            f"deviation of {scale:.4g} (medians over recordings)"
        )

    def write(self, recording: Recording, path: Path) -> Written:
        """The recording with its repaired voxels; contrasts that it lacks as files of their own, alone if that is all.

        A new file has the grid of the first contrast, its affine and codes, and float32 voxels. Raises ReadError.
        """
        new = [path.parent / named_like(path, self.seen.channels[p.channel].canonical).name for p in self.made]
        for part, target in zip(self.made, new, strict=True):
            if target.resolve() in {file.resolve() for file in recording.files}:
                raise ReadError(f"'{target}' is one of the recording's own files")
            values = np.zeros(self.seen.shape_of(part.channel))
            values.ravel()[part.places(values.shape)] = part.values
            create_nifti(recording.path, values, target, "made from other contrasts by toolkit restore")
        if not new:
            return super().write(recording, path)
        voxels_made = sum(p.values.size for p in self.made)
        if not self.patches:
            return Written(new[0], voxels_made, 0, ())
        written = super().write(recording, path)
        return Written(written.path, written.changed + voxels_made, written.clipped, written.notes)

    def arrays(self) -> dict[str, NDArray]:
        """Channel and box (n, 6) of each hole: x0, x1, y0, y1, z0, z1 in stored voxels."""
        return {
            "channel": np.array([hole.channel for hole in self.holes]),
            "box": np.array([hole.ends for hole in self.holes]).reshape(-1, 6),
        }

    def score(self, truth: Recording) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """NMSE, PSNR and mean absolute error over repaired boxes (``voxels.scores``), or of whole contrasts (``whole.scores``).

        Of boxes and whole contrasts together the boxes count.
        """
        clean = Damaged(_volume(truth), [])
        boxed = [part for part in self.parts if not part.whole]
        if not boxed:
            known = [part for part in self.parts if part.channel < len(clean.channels)]
            return whole.scores(self.predictor, clean, self.seen, known, self.usable)
        pieces = [voxels.piece(clean, part, self.levels[part.channel]) for part in boxed]
        names = {part.channel: self.seen.channels[part.channel].name for part in boxed}
        found = {
            name: voxels.scores([p.scored(make(self.seen, p.part, self.levels)) for p in pieces], names)
            for name, make in voxels.baselines().items()
        }
        return voxels.scores(pieces, names), found

    def draw(self, truth: Recording | None, path: Path) -> None:
        """Slices through the largest repaired box of each contrast."""
        clean = Damaged(_volume(truth), []) if truth is not None else None
        largest: dict[int, Hole] = {}
        for hole in self.holes:
            other = largest.setdefault(hole.channel, hole)
            if boxes.size_of(hole) > boxes.size_of(other):
                largest[hole.channel] = hole
        volume_png(path, [self._panel(hole, clean) for hole in list(largest.values())[:PANELS]])

    def _panel(self, hole: Hole, truth: Damaged | None) -> VolumePanel:
        channel, shape = hole.channel, self.seen.shape_of(hole.channel)
        affine = self.seen.affine_of(channel)
        before = self.seen.stored_values(channel).astype(np.float32)
        after = before.copy()
        for part in self.parts:
            if part.channel == channel:
                after.ravel()[part.places(shape)] = part.values
        turn = turn_of(affine)
        count = sum(h.channel == channel for h in self.holes)
        said = "1 box repaired" if count == 1 else f"{count} boxes repaired, the largest is shown"
        panel: VolumePanel = {
            "title": f"{self.seen.channels[channel].name}: {said}",
            "before": turned(before, turn),
            "after": turned(after, turn),
            "affine": turned_grid(shape, affine, turn).affine,
            "box": _turned_box(hole, shape, affine),
        }
        if truth is not None and channel < len(truth.channels):
            panel["truth"] = turned(truth.stored_values(channel).astype(np.float32), turn)
        return panel


def _turned_box(hole: Hole, shape: Size, affine: NDArray[np.float64]) -> Box:
    """A box of the stored array in the array whose axes are permuted and flipped: its own inverse's inverse."""
    turn = turn_of(affine)
    whole = turned_grid(shape, affine, turn).shape
    start, stop = [0, 0, 0], [0, 0, 0]
    for ras, (axis, flipped) in enumerate(zip(*turn, strict=True)):
        start[ras] = whole[ras] - hole.stop[axis] if flipped else hole.start[axis]
        stop[ras] = whole[ras] - hole.start[axis] if flipped else hole.stop[axis]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _volume(recording: Recording) -> VolumeLike:
    if not isinstance(recording, VolumeLike):
        raise ReadError(f"'{recording.path.name}' holds no volume")
    return recording
