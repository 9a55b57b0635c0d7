"""What a model makes of damaged volumes: hidden cubes predicted from the visible ones, brought to stored voxels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from readers.schema import BoolArray, Box, FloatArray, VolumeLike
from readers.volume_grid import Size
from toolkit.corpus.batches import collate
from toolkit.corpus.contrasts import Contrasts
from toolkit.corpus.framing.volumes import VolumeFraming
from toolkit.corpus.scaled import Scaled, Scaling
from toolkit.model.folder import RUN, LoadedModel
from toolkit.model.tokenizers import VolumePatches
from toolkit.recipe import VolumeData
from toolkit.restoration.boxes import Damaged, Hole, as_size, corners, whole, within
from toolkit.restoration.completion import completed, opened

Float64 = NDArray[np.float64]
LEAST = 0.01  # of a trilinear weight that known voxels must have
EDGE = 1  # stored voxels beside a hole that the prediction has to cover too, to be joined to what is visible there


@dataclass(frozen=True)
class Field:
    """Predicted physical values (X, Y, Z) of one contrast, from voxel ``start`` of the model's grid, NaN where none are."""

    values: Float64
    start: Size
    affine: Float64  # of the model's grid to RAS mm

    def at(self, affine: Float64, start: Size, stop: Size) -> Float64:
        """Values at a box of stored voxels, whose affine is given: trilinear, the nearest value beyond the field."""
        way = np.linalg.inv(self.affine) @ affine
        known = np.isfinite(self.values)
        values, shares = np.where(known, self.values, 0.0), known.astype(np.float64)
        found = np.empty([b - a for a, b in zip(start, stop, strict=True)])
        for plane in range(len(found)):
            i, j, k = np.ogrid[start[0] + plane : start[0] + plane + 1, start[1] : stop[1], start[2] : stop[2]]
            places = [a * i + b * j + c * k + d - o for (a, b, c, d), o in zip(way[:3], self.start, strict=True)]
            at = np.stack(np.broadcast_arrays(*places))
            total = ndimage.map_coordinates(values, at, order=1, mode="nearest")
            share = ndimage.map_coordinates(shares, at, order=1, mode="nearest")
            found[plane] = np.where(share > LEAST, total / np.maximum(share, LEAST), np.nan)[0]
        return found


class CubePredictor:
    """Predicts damaged contrasts with one model, with the preprocessing the model was trained on."""

    def __init__(self, loaded: LoadedModel, device: torch.device) -> None:
        self.model, self.tokenizer, self.data = opened(loaded, device, VolumePatches, VolumeData)
        self.device, self.names = device, loaded.channels or loaded.recipe.tokenizer.channels  # that it was trained on
        self.contrasts = _trained_on(loaded.path)
        mask = loaded.recipe.mask
        self.hides_whole = any(ways.groups > 0 for ways in (mask.ways, *(s.ways for s in mask.stages if s.ways is not None)))
        self._framings: WeakKeyDictionary[VolumeLike, VolumeFraming] = WeakKeyDictionary()

    @property
    def side_mm(self) -> float:
        """Side of a token's cube."""
        return self.tokenizer.patch * self.data.spacing_mm

    def framing(self, recording: VolumeLike) -> VolumeFraming:
        """Windows of a recording. Each has its own, as heads are remembered by file, and damage leaves the files as they are."""
        return self._framings.setdefault(recording, VolumeFraming(self.data, self.tokenizer.patch))

    def head(self, recording: VolumeLike) -> Hole:
        """The head in stored voxels of the first contrast."""
        return within(recording, self.framing(recording).head(recording), self.data.spacing_mm)

    def channels(self, recording: VolumeLike) -> list[int]:
        """Contrasts of the kinds that the model was trained on. Raises ReadError when there are none."""
        return self.framing(recording).channels(recording)

    def knows(self, name: str) -> bool:
        """Whether the unit of a contrast is known where nothing of it is visible: from the training data."""
        return self.contrasts is not None and name in self.contrasts.names

    def predict(self, seen: Damaged, channels: Sequence[int], holes: Sequence[Hole]) -> dict[int, Field]:
        """A field over its holes for each damaged contrast. Raises ReadError."""
        _, affine = seen.grid(self.data.spacing_mm)
        areas = [(hole.channel, self._area(seen, hole, affine)) for hole in holes]
        windows = self._windows(seen, [box for _, box in areas])
        if any(hole == whole(seen, hole.channel, hole.why) for hole in holes):
            windows += self._between(windows)
        damaged = sorted({channel for channel, _ in areas})
        low = np.min([w.start for w in windows], axis=0)
        size = np.max([w.stop for w in windows], axis=0) - low
        total = {c: np.zeros(size, np.float32) for c in damaged}
        weight = np.zeros(size, np.float32)
        for window in windows:
            values = self._window(seen, channels, areas, window)
            if values is None:
                continue
            at = tuple(slice(a - o, b - o) for a, b, o in zip(window.start, window.stop, low, strict=True))
            fade = _fade(window.shape)
            for channel in damaged:
                total[channel][at] += values[channels.index(channel)] * fade
            weight[at] += fade
        with np.errstate(invalid="ignore"):
            return {c: Field(np.where(weight > 0, t / weight, np.nan), as_size(low), affine) for c, t in total.items()}

    def _area(self, seen: Damaged, hole: Hole, affine: Float64) -> Box:
        """The box of the model's grid that a hole and the voxels it is joined to lie in, a voxel more on each side."""
        way = np.linalg.inv(affine) @ seen.affine_of(hole.channel)
        low, high = corners([a - EDGE for a in hole.start], [b + EDGE for b in hole.stop], way)
        return Box(as_size(np.floor(low) - 1), as_size(np.ceil(high) + 2))

    def _windows(self, seen: Damaged, areas: Sequence[Box]) -> list[Box]:
        """Cubes over the head that touch a hole, and cubes around the holes that none of them holds.

        Their tokens start at the border of the file, so that as many as can be lie wholly inside a thin slab.
        """
        framing, patch = self.framing(seen), self.tokenizer.patch
        planned = framing.plan(seen, self.data.window_mm, self.data.window_mm / 2)
        starts = [np.rint(np.array(w.start) / patch) * patch for w in planned if isinstance(w, Box)]
        cubes = [Box(as_size(s), as_size(s + framing.side)) for s in starts]
        used = [cube for cube in cubes if any(_touch(cube, area) for area in areas)]
        shape = seen.grid(self.data.spacing_mm)[0]
        for area in areas:
            inside = Box(as_size(np.maximum(area.start, 0)), as_size(np.minimum(area.stop, shape)))
            if not any(_holds(cube, inside) for cube in used):
                spans = zip(inside.start, inside.stop, strict=True)
                for x, y, z in product(*[_starts(a, b, max(framing.side - patch, 1)) for a, b in spans]):
                    start = np.array((x, y, z)) // patch * patch
                    used.append(Box(as_size(start), as_size(start + framing.side)))
        return list(dict.fromkeys(used))

    def _between(self, windows: Sequence[Box]) -> list[Box]:
        """The same windows half a token aside, where the faces of tokens would else be seen in what is made whole."""
        half = self.tokenizer.patch // 2
        return [Box(as_size(np.array(w.start) - half), as_size(np.array(w.stop) - half)) for w in windows if half]

    def levels(self, scaled: Scaled) -> Scaling:
        """The scaling, and for contrasts of which nothing is visible that of the training data, else the mean of the visible.

        Where training showed some of every contrast, the model's unit is the RMS of what is visible; here it is the usual one.
        """
        shown = scaled.valid.any(axis=(1, 2, 3))
        offset, scale = scaled.scaling.offset.copy(), scaled.scaling.scale.copy()
        if not shown.any():
            return scaled.scaling
        for row in np.flatnonzero(~shown):
            name = scaled.channels[row].canonical
            offset[row], scale[row] = offset[shown].mean(), scale[shown].mean()
            if self.contrasts is not None and self.knows(name):
                number = self.contrasts.names.index(name)
                unit = 1.0 if self.hides_whole else self.contrasts.rms(name)
                offset[row], scale[row] = self.contrasts.offset[number], unit * self.contrasts.scale[number]
        return Scaling(offset, scale)

    @torch.inference_mode()
    def _window(self, seen: Damaged, channels: Sequence[int], areas: Sequence[tuple[int, Box]], window: Box) -> Float64 | None:
        """One window: the model's prediction of every cube that is not wholly visible, the others as they are; physical.

        None where no cube is.
        """
        scaled = self.framing(seen).load(seen, window, channels)
        valid: BoolArray = scaled.valid.copy()
        for channel, area in areas:
            at = tuple(slice(max(a - o, 0), max(b - o, 0)) for a, b, o in zip(area.start, area.stop, window.start, strict=True))
            valid[channels.index(channel)][at] = False
        scaling = self.levels(scaled)
        scaled = replace(scaled, values=np.where(valid, scaled.values, np.float32(0)), valid=valid)
        tokens = self.tokenizer.tokenize(collate([scaled]))
        if not tokens.valid.any():
            return None
        patches = completed(self.model, tokens, self.device, rescaled=True)
        restored: FloatArray = self.tokenizer.untokenize(patches, tokens.grid)[0].numpy()
        return scaling.invert(restored)


def _trained_on(folder: Path) -> Contrasts | None:
    """What the model's training data were like, where its run says so."""
    try:
        return Contrasts.read(json.loads((folder / RUN).read_text(encoding="utf-8"))["contrasts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fade(shape: Size) -> NDArray[np.float32]:
    """Weights of a window that fall towards its faces."""
    x, y, z = (np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)).astype(np.float32) for n in shape)
    return x[:, None, None] * y[:, None] * z


def _starts(low: int, high: int, side: int) -> list[int]:
    """Starts of windows over low..high that overlap by half, or of one around it."""
    extent = high - low
    if extent <= side:
        return [low - (side - extent) // 2]
    count = math.ceil((extent - side) / (side / 2)) + 1
    return np.linspace(low, high - side, count).round().astype(int).tolist()


def _touch(one: Box, other: Box) -> bool:
    return all(a < d and c < b for a, b, c, d in zip(one.start, one.stop, other.start, other.stop, strict=True))


def _holds(outer: Box, inner: Box) -> bool:
    return all(a <= c and d <= b for a, b, c, d in zip(outer.start, outer.stop, inner.start, inner.stop, strict=True))
