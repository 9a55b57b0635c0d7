"""Contrasts that are made whole from the others of their session: what stands beside them, and how close they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from readers.schema import BoolArray, Box
from toolkit.restoration.boxes import Damaged, as_size, brought
from toolkit.restoration.cubes import CubePredictor, Field
from toolkit.restoration.guided import LEAST, local_lines
from toolkit.restoration.voxels import Level, Part, Piece, score, shown

Float64 = NDArray[np.float64]
SIGMA, CUT = 1.5, 3.5  # voxels, of SSIM's Gaussian window, and where it is cut, in sigma: 11 voxels, as published
# Of what gives detail to a contrast that is made whole; chosen on generated heads that were neither trained on nor reported.
WIDE = 1  # tokens, of the cubes in which its function of the others is sought
EASE = 1.0  # of the guide's variance, that draws this function to the one that is best over the training data
BELIEF = 0.5  # share of what the prediction adds to that one: it comes from few steps of training, the other from every voxel
FREE = 0.01  # of the variance of each other contrast, where no such function is known
SMOOTH = 1.0  # voxels of the model's grid, by which predictions are smoother than what they are of
K1, K2 = 0.01, 0.03  # shares of the range that keep its quotients finite


def estimates(predictor: CubePredictor, seen: Damaged, part: Part, usable: Sequence[int]) -> dict[str, Float64]:
    """What is had without a model at a part's voxels (n,), in the unit that the model's are written in.

    A copy of each visible contrast, scaled as the model scales it; their mean; the linear function of them that is best over
    the voxels of the model's training data, where its run holds what that takes; and a flat image.
    """
    visible = _visible(seen, usable)
    offset, scale = _units(predictor, seen, part.channel, visible)
    values = shown(seen, part, visible)
    scaled = [np.nan_to_num((values[c] - offset[k]) / scale[k]) for k, c in enumerate(visible)]
    found = {f"copy of {seen.channels[c].name}": z for c, z in zip(visible, scaled, strict=True)}
    found["mean of the others"] = np.mean(scaled, axis=0)
    weights = _weights(predictor, seen, part.channel, visible)
    if weights is not None:
        found["linear in the others"] = weights[0] + np.tensordot(weights[1:], np.stack(scaled), axes=1)
    found["flat"] = np.zeros(part.values.shape)
    return {name: offset[-1] + scale[-1] * z for name, z in found.items()}


def sharpened(predictor: CubePredictor, seen: Damaged, part: Part, field: Field, usable: Sequence[int]) -> Part:
    """A whole contrast with the detail of those that are visible, which a coarse prediction does not have.

    Where the run knows which linear function of the visible contrasts is best over the training data: that function, plus what
    the prediction adds to it, as local linear functions of it (``guided.local_lines``, on the model's grid). Else local linear
    functions of the visible contrasts that are close to the prediction. It stays as it is where one of them does not reach.
    """
    visible = _visible(seen, usable)
    box = Box(field.start, as_size(a + n for a, n in zip(field.start, field.values.shape, strict=True)))
    sample = seen.read(box, spacing_mm=predictor.data.spacing_mm, channels=visible)
    known = sample.valid.all(axis=0) & np.isfinite(field.values)
    coarse, target = _smoothed(sample.values, known), np.where(known, field.values, 0.0)
    fine, usual, ease = np.stack(list(shown(seen, part, visible).values())), np.zeros(part.values.shape), FREE
    weights = _weights(predictor, seen, part.channel, visible)
    if weights is not None:
        offset, scale = _units(predictor, seen, part.channel, visible)
        slopes = weights[1:] * scale[-1] / scale[:-1]  # in the files' units
        first = offset[-1] + scale[-1] * weights[0] - slopes @ offset[:-1]
        coarse, fine = (first + np.tensordot(slopes, each, axes=1)[None] for each in (coarse, fine))
        target, usual, ease = BELIEF * (target - coarse[0]), fine[0], EASE
    lines, level = local_lines(target, coarse, known, WIDE * predictor.tokenizer.patch + 1, ease)
    where = seen.affine_of(part.channel)
    made = usual + Field(level, field.start, field.affine).at(where, part.start, part.stop)[part.hole]
    for line, guide in zip(lines, fine, strict=True):
        made = made + guide * Field(line, field.start, field.affine).at(where, part.start, part.stop)[part.hole]
    made = np.where(np.isfinite(made), made, part.values)
    return replace(part, detail=made, values=made)


def _smoothed(guides: NDArray, known: BoolArray) -> Float64:
    """Guides (K, X, Y, Z) about as smooth as what a model predicts from them, 0 where nothing near is known."""
    share = ndimage.gaussian_filter(known.astype(np.float64), SMOOTH)
    near = [ndimage.gaussian_filter(np.where(known, guide, 0.0).astype(np.float64), SMOOTH) for guide in guides]
    return np.stack([np.where(share > LEAST, each / np.maximum(share, LEAST), 0.0) for each in near])


def _visible(seen: Damaged, usable: Sequence[int]) -> list[int]:
    return [c for c in usable if c in seen.stored_by() and not seen.all_hidden(c)]


def _units(predictor: CubePredictor, seen: Damaged, channel: int, visible: Sequence[int]) -> tuple[Float64, Float64]:
    """Levels and deviations by which the model scales the visible contrasts and, last, a missing one."""
    framing = predictor.framing(seen)
    windows = framing.plan(seen, predictor.data.window_mm, predictor.data.window_mm)
    scalings = [predictor.levels(framing.load(seen, window, [*visible, channel])) for window in windows]
    offset, scale = (np.mean([getattr(s, key) for s in scalings], axis=0) for key in ("offset", "scale"))
    if (contrasts := predictor.contrasts) is not None and predictor.knows(seen.channels[channel].canonical):
        scale[-1] = contrasts.scale[contrasts.names.index(seen.channels[channel].canonical)]
    return offset, scale


def _weights(predictor: CubePredictor, seen: Damaged, channel: int, visible: Sequence[int]) -> Float64 | None:
    """Of (1, visible contrasts), scaled, in the best linear function over the training data; None where it is not known."""
    names = [seen.channels[c].canonical for c in visible]
    if predictor.contrasts is None or len(set(names)) < len(names):
        return None
    return predictor.contrasts.linear(names, seen.channels[channel].canonical)


def scores(
    predictor: CubePredictor, clean: Damaged, seen: Damaged, parts: Sequence[Part], usable: Sequence[int]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Metrics of contrasts made whole, and of each of :func:`estimates`, over the head: its bright voxels and what they enclose.

    ``nmse``, ``psnr_db`` (the range of the head over the RMS of the error), ``mae`` and ``ssim`` at the level and scale that
    fit the truth best, for every estimate alike, as a missing contrast's own cannot be known; ``psnr_written_db`` as written.
    """
    pieces = [piece_of(predictor, clean, part) for part in parts]
    model = _scores(seen, pieces, [part.values for part in parts])
    beside = [estimates(predictor, seen, part, usable) for part in parts]
    names = [name for name in beside[0] if all(name in one for one in beside)]
    return model, {name: _scores(seen, pieces, [one[name] for one in beside]) for name in names}


def _scores(seen: Damaged, pieces: Sequence[Piece], written: Sequence[Float64]) -> dict[str, Any]:
    best = [p.scored(fitted(values, p.truth, p.counts)) for p, values in zip(pieces, written, strict=True)]
    plain = [p.scored(values) for p, values in zip(pieces, written, strict=True)]
    rows = [{"channel": seen.channels[b.part.channel].name, **_row([b], [p])} for b, p in zip(best, plain, strict=True)]
    return {**_row(best, plain), "by_channel": rows}


def _row(best: Sequence[Piece], plain: Sequence[Piece]) -> dict[str, Any]:
    similar = [_ssim_of(p) for p in best]
    return {**score(best), "ssim": float(np.mean(similar)), "psnr_written_db": score(plain)["psnr_db"]}


def _ssim_of(piece: Piece) -> float:
    shape = piece.part.hole.shape
    estimate, truth, counts = piece.estimate.reshape(shape), piece.truth.reshape(shape), piece.counts.reshape(shape)
    return ssim(estimate, truth, piece.level.high - piece.level.low, counts)


def piece_of(predictor: CubePredictor, clean: Damaged, part: Part) -> Piece:
    """A whole contrast with its truth, of which the head counts."""
    head, shape = predictor.head(clean), clean.shape_of(part.channel)
    box = np.zeros(shape, bool)
    box[brought(clean, part.channel, head.start, head.stop, "head").slices] = True
    truth = clean.stored_values(part.channel)
    counts = head_in(truth, box).ravel()[part.places(shape)]
    truth = truth.ravel()[part.places(shape)]
    return Piece(part, truth, counts, Level.of(truth[counts]) or Level(0.0, 1.0, 0.0, 1.0), part.values)


def head_in(truth: Float64, box: BoolArray) -> BoolArray:
    """The head in a box of a volume (X, Y, Z): voxels above the box's mean, and what they enclose."""
    known = box & np.isfinite(truth)
    if not known.any():
        return known
    bright = known & (truth > truth[known].mean())
    return np.asarray(ndimage.binary_fill_holes(bright)) & known


def fitted(estimate: Float64, truth: Float64, counts: BoolArray) -> Float64:
    """An estimate brought to the level and scale, of either sign, that fit the truth best where it counts."""
    x, y = estimate[counts], truth[counts]
    if not x.size:
        return estimate
    spread = ((x - x.mean()) ** 2).mean()
    gain = ((x - x.mean()) * (y - y.mean())).mean() / spread if spread > 0 else 0.0
    return np.asarray(gain * (estimate - x.mean()) + y.mean())


def ssim(one: Float64, other: Float64, reach: float, counts: BoolArray) -> float:
    """Structural similarity of volumes (X, Y, Z), the mean over voxels that count.

    Wang et al. 2004, "Image quality assessment", with Gaussian windows and the population's covariance; ``reach``: the range of
    values. What is not finite in either is 0 in both.
    """
    known = np.isfinite(one) & np.isfinite(other)
    x, y = np.where(known, one, 0.0), np.where(known, other, 0.0)

    def near(values: Float64) -> Float64:
        return np.asarray(ndimage.gaussian_filter(values, SIGMA, truncate=CUT))

    mean_x, mean_y = near(x), near(y)
    var_x, var_y, both = near(x * x) - mean_x**2, near(y * y) - mean_y**2, near(x * y) - mean_x * mean_y
    small, smaller = (K1 * reach) ** 2, (K2 * reach) ** 2
    index = (2 * mean_x * mean_y + small) * (2 * both + smaller)
    index /= (mean_x**2 + mean_y**2 + small) * (var_x + var_y + smaller)
    return float(index[counts].mean()) if counts.any() else float("nan")
