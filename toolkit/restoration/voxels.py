"""Joining predicted voxels to visible ones, what a repair is compared with, and how close it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from readers.schema import BoolArray, Box
from readers.volume_grid import Size
from readers.volumes import patch_of
from toolkit.corpus.framing.volumes import VolumeFraming
from toolkit.restoration.boxes import Damaged, as_size
from toolkit.restoration.cubes import EDGE, Field
from toolkit.restoration.laplace import harmonic

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """Mean, deviation and range of a contrast's visible voxels in the head; None where none are."""

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray) -> Level | None:
        """That of values (n,)."""
        if not values.size:
            return None
        low, high = float(values.min()), float(values.max())
        return cls(float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0, low, high)


Levels = Mapping[int, Level | None]


@dataclass(frozen=True)
class Part:
    """Connected repaired voxels of one contrast: where they are in a box of the stored array, and their new values.

    ``hole`` bool, the box's shape. In C order (n,): ``smooth``, the harmonic fill from the visible voxels around, and
    ``detail``, what the model adds to it. ``whole``: nothing of the contrast is visible, so that all is detail.
    """

    channel: int
    start: Size
    hole: BoolArray
    smooth: Float64
    detail: Float64
    values: Float64
    whole: bool

    @property
    def stop(self) -> Size:
        """End of the box."""
        x, y, z = (a + n for a, n in zip(self.start, self.hole.shape, strict=True))
        return x, y, z

    def places(self, shape: Size) -> NDArray[np.int64]:
        """The voxels in the stored array, C order."""
        at = [found + first for found, first in zip(np.nonzero(self.hole), self.start, strict=True)]
        return np.ravel_multi_index((at[0], at[1], at[2]), shape).astype(np.int64)


def levels(seen: Damaged, framing: VolumeFraming, channels: Sequence[int]) -> dict[int, Level | None]:
    """Of each contrast, on the model's grid."""
    sample = seen.read(framing.head(seen), spacing_mm=framing.spacing, channels=channels)
    return {c: Level.of(sample.values[k][sample.valid[k]]) for k, c in enumerate(channels)}


def join(seen: Damaged, channel: int, mask: BoolArray, field: Field, level: Level | None, weight: float) -> Iterator[Part]:
    """The connected parts of what is damaged in a contrast, predicted and joined to the visible voxels around them.

    The harmonic function that meets the visible voxels, plus ``weight`` times what the prediction has beyond the harmonic
    function that meets the prediction around the hole, as in seamless cloning (Perez et al., "Poisson Image Editing", 2003);
    limited to the values that the contrast visibly has. Without visible voxels around it the prediction stays as it is.
    """
    affine, shape = seen.affine_of(channel), seen.shape_of(channel)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    numbers, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    for number, at in enumerate(ndimage.find_objects(numbers), 1):
        low, high = (
            as_size(max(s.start - EDGE, 0) for s in at),
            as_size(min(s.stop + EDGE, n) for s, n in zip(at, shape, strict=True)),
        )
        hole = numbers[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == number
        predicted = field.at(affine, low, high)
        predicted = np.where(np.isfinite(predicted), predicted, level.mean if level else 0.0)
        made = predicted[hole]
        if level is None:
            yield Part(channel, low, hole, np.zeros(made.shape), made, made, True)
            continue
        visible = seen.stored_values(channel, low, high)
        known = np.isfinite(visible) & ~hole
        smooth = harmonic(np.where(known, visible, np.nan), hole, spacing)[hole]
        detail = made - harmonic(np.where(known, predicted, np.nan), hole, spacing)[hole]
        alone = ~np.isfinite(smooth)
        smooth, detail = np.where(alone, made, smooth), np.where(alone, 0.0, detail)
        least, most = visible[known].min(initial=level.low), visible[known].max(initial=level.high)
        yield Part(channel, low, hole, smooth, detail, np.clip(smooth + weight * detail, least, most), False)


Estimate = Callable[[Damaged, Part, Levels], Float64]


def baselines() -> dict[str, Estimate]:
    """What a repair of boxes is compared with."""
    return {"harmonic interpolation": smooth, "mean of the surroundings": surroundings}


def smooth(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The harmonic function that meets the visible voxels around the hole."""
    return part.smooth


def surroundings(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The mean of the visible voxels around the hole."""
    visible = seen.stored_values(part.channel, part.start, part.stop)
    around = visible[~part.hole & np.isfinite(visible)]
    return np.full(part.values.shape, around.mean()) if around.size else flat(seen, part, known)


def flat(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The contrast's visible mean in the head; 0 where nothing of it is visible."""
    level = known[part.channel]
    return np.full(part.values.shape, level.mean if level else 0.0)


def shown(seen: Damaged, part: Part, channels: Sequence[int]) -> dict[int, Float64]:
    """What contrasts have at a part's voxels (n,), NaN where nothing is visible; by channel."""
    shape, _ = seen.grid()
    everything = Box((0, 0, 0), shape)
    sample = seen.read(everything, channels=channels)
    found = {}
    for channel, values, valid in zip(channels, sample.values, sample.valid, strict=True):
        brought_back = patch_of(seen, part.channel, everything, np.where(valid, values, np.nan))
        stored = np.full(math.prod(seen.shape_of(part.channel)), np.nan)
        stored[brought_back.index] = brought_back.values
        found[channel] = stored[part.places(seen.shape_of(part.channel))]
    return found


@dataclass(frozen=True)
class Piece:
    """One part with its truth (n,), which of it counts, and an estimate; ``level`` is what errors are measured by."""

    part: Part
    truth: Float64
    counts: BoolArray
    level: Level
    estimate: Float64

    def scored(self, estimate: Float64) -> Piece:
        """With another estimate."""
        return replace(self, estimate=estimate)


def piece(clean: Damaged, part: Part, level: Level | None) -> Piece:
    """A part with its truth."""
    truth = clean.stored_values(part.channel, part.start, part.stop)[part.hole]
    return Piece(part, truth, np.isfinite(truth), level or Level.of(truth[np.isfinite(truth)]) or Level(0, 1, 0, 1), part.values)


def scores(pieces: Sequence[Piece], names: Mapping[int, str]) -> dict[str, Any]:
    """Over all repaired voxels, and of each contrast.

    ``nmse``: squared error over the truth's energy around the visible mean of the contrast in the head, both in units of
    its deviation there; ``psnr_db``: the range of the visible head over the RMS of the error; ``mae``: in the file's unit.
    """
    rows = [{"channel": names[c], **score([p for p in pieces if p.part.channel == c])} for c in names]
    return {**score(pieces), "by_channel": rows}


def score(pieces: Sequence[Piece]) -> dict[str, Any]:
    """The same, of some pieces together."""
    error, energy, reach, size, count = 0.0, 0.0, 0.0, 0.0, 0
    for one in pieces:
        wrong = one.estimate[one.counts] - one.truth[one.counts]
        error += float((wrong**2).sum()) / one.level.deviation**2
        energy += float(((one.truth[one.counts] - one.level.mean) ** 2).sum()) / one.level.deviation**2
        reach += float((wrong**2).sum()) / max(one.level.high - one.level.low, 1e-300) ** 2
        size += float(np.abs(wrong).sum())
        count += wrong.size
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "nmse": float(np.divide(error, energy)),
            "psnr_db": float(-10 * np.log10(np.divide(reach, count))),
            "mae": float(np.divide(size, count)),
            "voxels": count,
        }
