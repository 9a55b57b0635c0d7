"""Joining predicted voxels to visible ones, what a repair is compared with, and how close it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from readers.schema import BoolArray, Box
from readers.volume_grid import Size
from readers.volumes import patch_of
from toolkit.corpus.framing.volumes import VolumeFraming
from toolkit.restoration.boxes import Damaged, Hole, as_size, brought
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


def baselines(parts: Sequence[Part]) -> dict[str, Estimate]:
    """What a repair is compared with: for boxes, and for whole contrasts where there are only those."""
    if parts and all(part.whole for part in parts):
        return {"mean of the others": others, "flat": flat}
    return {"harmonic interpolation": smooth, "mean of the surroundings": surroundings}


def smooth(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The harmonic function that meets the visible voxels around the hole; of a whole contrast the mean of the others."""
    return others(seen, part, known) if part.whole else part.smooth


def surroundings(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The mean of the visible voxels around the hole."""
    if part.whole:
        return flat(seen, part, known)
    visible = seen.stored_values(part.channel, part.start, part.stop)
    around = visible[~part.hole & np.isfinite(visible)]
    return np.full(part.values.shape, around.mean()) if around.size else flat(seen, part, known)


def flat(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The contrast's visible mean in the head; 0 where nothing of it is visible."""
    level = known[part.channel]
    return np.full(part.values.shape, level.mean if level else 0.0)


def others(seen: Damaged, part: Part, known: Levels) -> Float64:
    """The mean of the visible contrasts, each around its mean and by its deviation in the head."""
    shown = {c: level for c, level in known.items() if level is not None}
    shape, _ = seen.grid()
    whole = Box((0, 0, 0), shape)
    sample = seen.read(whole, channels=list(shown))
    total, count = np.zeros(shape), np.zeros(shape)
    for values, valid, level in zip(sample.values, sample.valid, shown.values(), strict=True):
        total += np.where(valid, (values - level.mean) / level.deviation, 0.0)
        count += valid
    brought_back = patch_of(seen, part.channel, whole, total / np.maximum(count, 1))
    stored = np.zeros(np.prod(seen.shape_of(part.channel)))
    stored[brought_back.index] = brought_back.values
    return stored[part.places(seen.shape_of(part.channel))]


@dataclass(frozen=True)
class Piece:
    """One part with its truth (n,), which of it counts, and an estimate; ``level`` is what errors are measured by."""

    part: Part
    truth: Float64
    counts: BoolArray
    level: Level
    estimate: Float64

    def scored(self, estimate: Float64) -> Piece:
        """With another estimate, brought to the truth's level and scale where those cannot be known."""
        if self.part.whole:
            x, y = estimate[self.counts], self.truth[self.counts]
            spread = ((x - x.mean()) ** 2).mean() if x.size else 0.0
            gain = max(0.0, ((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0
            estimate = gain * (estimate - (x.mean() if x.size else 0.0)) + self.level.mean
        return Piece(self.part, self.truth, self.counts, self.level, estimate)


def piece(clean: Damaged, part: Part, level: Level | None, head: Hole) -> Piece:
    """A part with its truth. Of a whole contrast only what lies in ``head`` (stored voxels of the first contrast) counts."""
    truth = clean.stored_values(part.channel, part.start, part.stop)[part.hole]
    counts = np.isfinite(truth)
    if level is None:
        box = brought(clean, part.channel, head.start, head.stop, "head")
        inside = np.zeros(clean.shape_of(part.channel), bool)
        inside[box.slices] = True
        counts &= inside.ravel()[part.places(inside.shape)]
        level = Level.of(truth[counts]) or Level(0.0, 1.0, 0.0, 1.0)
    return Piece(part, truth, counts, level, part.values)


def scores(pieces: Sequence[Piece], names: Mapping[int, str]) -> dict[str, Any]:
    """Over all repaired voxels, and of each contrast.

    ``nmse``: squared error over the truth's energy around the visible mean of the contrast in the head, both in units of
    its deviation there; ``psnr_db``: the range of the visible head over the RMS of the error; ``mae``: in the file's unit.
    Of a wholly hidden contrast, whose level and scale cannot be known, the best fitting ones are taken, for every
    estimate alike, and only its voxels in the head count.
    """
    rows = [{"channel": names[c], **_score([p for p in pieces if p.part.channel == c])} for c in names]
    return {**_score(pieces), "by_channel": rows}


def _score(pieces: Sequence[Piece]) -> dict[str, Any]:
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
