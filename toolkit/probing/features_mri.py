"""Hand-crafted features of a box of an MRI: intensities, size and coarse shape of what is not background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.schema import VolumeSample, effective

Array = NDArray[np.float64]
Volume = NDArray[np.float32]

WORKING_MM = 2.0  # finer voxels are averaged to about this
MOST_VOXELS = 1_500_000
SAMPLED = 200_000  # voxels that the threshold is found from
PERCENTILES = (1, 5, 10, 25, 75, 90, 95, 99)
BINS = 16
HISTOGRAM_TOP = 2.5  # times the median of the foreground
GRID = 4
BOX_TAIL = 0.005  # share of the foreground left outside its box on either side: noise of the background
MIN_FOREGROUND = 64  # voxels

CONTRAST_NAMES = (
    "foreground_share",
    "foreground_ml_log",
    *(f"extent_{axis}_mm_log" for axis in "xyz"),
    *(f"intensity_p{q}" for q in PERCENTILES),
    "intensity_std",
    "intensity_skew",
    *(f"histogram_{i}" for i in range(BINS)),
    *(f"gradient_{name}" for name in ("mean", "std", "p90")),
    *(f"asymmetry_{name}" for name in ("intensity", "grid", "share")),
    *(f"mean_{x}{y}{z}" for x in range(GRID) for y in range(GRID) for z in range(GRID)),
    *(f"share_{x}{y}{z}" for x in range(GRID) for y in range(GRID) for z in range(GRID)),
)
MRI_NAMES = (*CONTRAST_NAMES, "contrasts")


class Scaled(NamedTuple):
    """One contrast (X, Y, Z) over the foreground's median, cut to the foreground's box, 0 outside the foreground."""

    values: Volume
    foreground: NDArray[np.bool_]
    spacing_mm: Array
    box_share: float  # of the whole sample's valid voxels that are foreground


def mri_features(sample: VolumeSample) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Intensity, size and coarse shape of a box: (features float32 (F,), their names).

    For each contrast present: the foreground is what lies above Otsu's threshold of the valid voxels, and intensities
    are divided by its median, so that neither unit nor gain matters. Percentiles, a histogram, gradients (per mm),
    volume in ml and extents in mm of the foreground, its share and mean intensity on a grid of 4 by 4 by 4 over its
    bounding box, and the difference between left and right. Given as mean over the contrasts, with their number: F does
    not depend on them. All NaN where no contrast has a foreground.
    """
    kept = effective(sample.channels, sorted({channel.kind for channel in sample.channels}))
    found = [scaled for i in kept if (scaled := _scaled(sample.values[i], sample.valid[i], sample.affine)) is not None]
    if not found:
        return np.full(len(MRI_NAMES), np.nan, dtype=np.float32), MRI_NAMES
    mean = np.mean([_contrast(scaled) for scaled in found], axis=0)
    return np.append(mean, len(found)).astype(np.float32), MRI_NAMES


def _scaled(values: Volume, valid: NDArray[np.bool_], affine: Array) -> Scaled | None:
    """Average to the working grid, find the foreground, scale and cut. None where there is no foreground."""
    values, valid, spacing = _coarser(values, valid, np.linalg.norm(affine[:3, :3], axis=0))
    inside = values[valid]
    if inside.size < MIN_FOREGROUND or not np.ptp(inside) > 0:
        return None
    foreground = valid & (values > _otsu(inside[:: -(-inside.size // SAMPLED)]))
    count = int(foreground.sum())
    if count < MIN_FOREGROUND:
        return None
    box = tuple(_middle(foreground.sum(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    darkest = np.float32(min(0.0, float(inside.min())))  # standardised files have negative intensities
    median = np.float32(np.median(values[foreground]) - darkest)
    scaled = np.where(foreground, values - darkest, np.float32(0))[box] / median
    return Scaled(scaled.astype(np.float32, copy=False), foreground[box], spacing, count / inside.size)


def _coarser(values: Volume, valid: NDArray[np.bool_], spacing: Array) -> tuple[Volume, NDArray[np.bool_], Array]:
    """Means over blocks of voxels, weighted by validity; a rest at the far side is left out."""
    factor = np.maximum(np.rint(WORKING_MM / np.maximum(spacing, 1e-6)), 1)
    factor *= max(1.0, np.ceil(np.cbrt(values.size / float(np.prod(factor)) / MOST_VOXELS)))
    step = np.minimum(factor, values.shape).astype(int)
    if (step == 1).all():
        return values, valid, spacing
    shape = np.array(values.shape) // step
    x, y, z = shape * step
    split = np.column_stack([shape, step]).ravel()
    count = valid[:x, :y, :z].reshape(split).sum(axis=(1, 3, 5))
    total = np.where(valid, values, 0)[:x, :y, :z].reshape(split).sum(axis=(1, 3, 5))
    return total / np.maximum(count, 1).astype(np.float32), count > 0, spacing * step


def _otsu(values: Volume) -> float:
    """The threshold of the largest variance between two classes, over 256 bins up to the 99.5th percentile."""
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    if not high > low:
        return low
    counts, edges = np.histogram(np.minimum(values, high), 256, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    first = np.cumsum(counts * centres)[:-1]
    second = np.sum(counts * centres) - first
    between = below * above * (second / np.maximum(above, 1) - first / np.maximum(below, 1)) ** 2
    return float(edges[1 + int(np.argmax(between))])


def _middle(counts: NDArray) -> slice:
    """The stretch of an axis that holds the foreground, but for its tails."""
    share = np.cumsum(counts) / counts.sum()
    return slice(int(np.argmax(share > BOX_TAIL)), int(np.argmax(share >= 1 - BOX_TAIL)) + 1)


def _contrast(scaled: Scaled) -> Array:
    """CONTRAST_NAMES of one contrast."""
    values, foreground, spacing, share = scaled
    inside = values[foreground].astype(np.float64)
    extents = np.array(values.shape) * spacing
    millilitres = foreground.sum() * np.prod(spacing) / 1000
    spread = max(float(inside.std()), 1e-9)
    skew = np.mean(((inside - inside.mean()) / spread) ** 3)
    histogram = np.histogram(np.minimum(inside, HISTOGRAM_TOP), BINS, (0, HISTOGRAM_TOP))[0] / inside.size
    means, shares = _grids(values, foreground)
    size = np.concatenate([[share, np.log(millilitres)], np.log(extents)])
    tone = np.concatenate([np.percentile(inside, PERCENTILES), [spread, skew], histogram])
    return np.concatenate([size, tone, _gradients(scaled), _asymmetry(scaled, means, shares), means.ravel(), shares.ravel()])


def _gradients(scaled: Scaled) -> Array:
    """Mean, standard deviation and 90th percentile of the gradient's magnitude per mm, between foreground voxels."""
    values, foreground, spacing, _ = scaled
    square = np.zeros(tuple(np.maximum(np.array(values.shape) - 1, 0)), dtype=np.float32)
    here = (slice(None, -1),) * 3
    good = foreground[here].copy()
    for axis in range(3):
        there = tuple(slice(1, None) if a == axis else slice(None, -1) for a in range(3))
        square += ((values[there] - values[here]) / np.float32(spacing[axis])) ** 2
        good &= foreground[there]
    size = np.sqrt(square[good])
    return np.array([size.mean(), size.std(), np.percentile(size, 90)]) if size.size else np.zeros(3)


def _asymmetry(scaled: Scaled, means: Array, shares: Array) -> Array:
    """Mean absolute difference between left and right: of voxels in both foregrounds, of cells' means and shares."""
    values, foreground = scaled.values, scaled.foreground
    half = len(values) // 2
    left, right = slice(0, half), slice(len(values) - half, None)
    both = foreground[left] & foreground[right][::-1]
    voxels = np.abs(values[left] - values[right][::-1])[both]
    return np.array(
        [voxels.mean() if voxels.size else 0.0, np.abs(means - means[::-1]).mean(), np.abs(shares - shares[::-1]).mean()]
    )


def _grids(values: Volume, foreground: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean intensity of the foreground, and its share, in GRID^3 equal cells of the box; a voxel may lie in several."""
    totals, counts = values, foreground.astype(np.float32)
    for overlap in [_overlap(size) for size in values.shape]:  # each turn takes the first axis and puts its cells last
        totals, counts = (np.tensordot(part, overlap, axes=(0, 1)) for part in (totals, counts))
    means, shares = totals / np.maximum(counts, 1e-3), counts / (values.size / GRID**3)
    return means.astype(np.float64), shares.astype(np.float64)


def _overlap(size: int) -> Volume:
    """(GRID, size): how much of each of ``size`` voxels lies in each of GRID equal parts of the axis."""
    edges = np.arange(GRID + 1) * size / GRID
    voxel = np.arange(size)
    shared = np.minimum(voxel + 1, edges[1:, None]) - np.maximum(voxel, edges[:-1, None])
    return shared.clip(0).astype(np.float32)
