"""Hand-crafted features of a point cloud: its shape as a whole and around its points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from readers.schema import PointSample, effective

Array = NDArray[np.float64]

MOST_POINTS = 8192  # a larger cloud is thinned to every n-th row
PAIRS = 4096
ANCHORS = 512
NEIGHBOURS = 16
HEIGHT_BINS, RADIAL_BINS, PAIR_BINS = 12, 12, 16
MIN_POINTS = 4
SHAPES = ("linearity", "planarity", "sphericity", "verticality")
QUANTILES = (10, 50, 90)

SHAPE_NAMES = (
    "points_log",
    *(f"extent_{axis}_log" for axis in ("long", "short", "z")),
    *(f"cloud_{name}" for name in SHAPES),
    "flatness",
    "height_skew",
    *(f"height_{i}" for i in range(HEIGHT_BINS)),
    *(f"radial_{i}" for i in range(RADIAL_BINS)),
    *(f"pair_{i}" for i in range(PAIR_BINS)),
    *(f"nearest_p{q}_log" for q in QUANTILES),
    "density_log",
    *(f"local_{name}_{over}" for name in SHAPES for over in ("mean", "std")),
)
INTENSITY_NAMES = tuple(f"intensity_{name}" for name in ("mean", "std", "p10", "p50", "p90"))


def points_features(sample: PointSample) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Shape of the known points of a cloud: (features float32 (F,), their names).

    z is up; the two horizontal extents are those along the principal directions of the ground plan, so that turning
    the cloud about z changes nothing. Extents, nearest-neighbour distances and points per surface are natural
    logarithms in the cloud's own unit; everything else is free of scale: eigenvalue shapes of the whole and (mean,
    standard deviation) of the 16 neighbours of up to 512 points, and histograms of height, of distance from the
    centre, and of the distance of 4,096 fixed random pairs (D2). Attributes are not used, except ``intensity`` where
    the sample holds it (5 more features). All NaN with fewer than 4 known points.
    """
    channel = next(iter(effective(sample.channels, ["intensity"])), None)
    names = SHAPE_NAMES + (INTENSITY_NAMES if channel is not None else ())
    points = sample.coords[sample.known].astype(np.float64)
    if len(points) < MIN_POINTS:
        return np.full(len(names), np.nan, dtype=np.float32), names
    thin = points[:: -(-len(points) // MOST_POINTS)]
    centred = thin - thin.mean(axis=0)
    parts = [_whole(centred, len(points)), _histograms(centred), _around(centred, len(points))]
    if channel is not None:
        parts.append(_intensity(sample.values[channel][sample.valid[channel]]))
    return np.concatenate(parts).astype(np.float32), names


def _whole(points: Array, count: int) -> Array:
    """Number of points, extents, eigenvalue shapes, and how the height is spread; ``points`` (N, 3) about their mean."""
    _, turn = np.linalg.eigh(np.cov(points[:, :2].T))
    plan = np.ptp(points[:, :2] @ turn[:, ::-1], axis=0)
    extents = np.array([*plan, np.ptp(points[:, 2])])
    size = max(float(extents.max()), 1e-9)
    z = points[:, 2]
    skew = float(np.mean(z**3) / max(float(z.std()), 1e-9 * size) ** 3)
    log_extents = np.log(np.maximum(extents, 1e-3 * size))
    flatness = extents[2] / max(float(plan.max()), 1e-9 * size)
    return np.array([np.log(count), *log_extents, *_eigen_shapes(np.cov(points.T)[None])[0], np.log1p(flatness), skew])


def _histograms(points: Array) -> Array:
    """Shares of points by height (0 to 1 of the extent), by distance from the centre, and of pairs by distance."""
    z = points[:, 2] - points[:, 2].min()
    radius = np.linalg.norm(points, axis=1)
    first, second = np.random.default_rng(0).random((2, PAIRS))
    pairs = points[(first * len(points)).astype(int)] - points[(second * len(points)).astype(int)]
    apart = np.linalg.norm(pairs, axis=1)
    tables = [
        np.histogram(z / max(float(z.max()), 1e-9), HEIGHT_BINS, (0, 1))[0] / len(z),
        np.histogram(np.minimum(radius / max(float(radius.mean()), 1e-9), 2.5), RADIAL_BINS, (0, 2.5))[0] / len(radius),
        np.histogram(np.minimum(apart / max(float(apart.mean()), 1e-9), 3), PAIR_BINS, (0, 3))[0] / PAIRS,
    ]
    return np.concatenate(tables)


def _around(points: Array, count: int) -> Array:
    """Nearest-neighbour distances, points per surface, and eigenvalue shapes of neighbourhoods."""
    anchors = points[:: -(-len(points) // ANCHORS)]
    nearest = min(NEIGHBOURS, len(points) - 1)
    distance, index = cKDTree(points).query(anchors, k=nearest + 1)
    size = max(float(np.ptp(points, axis=0).max()), 1e-9)
    distance *= np.sqrt(len(points) / count)  # on a surface, had the cloud not been thinned
    spacing = np.log(np.maximum(np.percentile(distance[:, 1], QUANTILES), 1e-6 * size))
    reach = max(float(np.median(distance[:, -1])), 1e-6 * size)
    density = np.log(nearest / (np.pi * reach**2))
    around = points[index] - points[index].mean(axis=1, keepdims=True)
    shapes = _eigen_shapes(np.einsum("nki,nkj->nij", around, around) / index.shape[1])
    return np.concatenate([spacing, [density], np.column_stack([shapes.mean(axis=0), shapes.std(axis=0)]).ravel()])


def _eigen_shapes(covariance: Array) -> Array:
    """(N, 3, 3) -> (N, 4): linearity, planarity, sphericity, and verticality of the flattest direction (0: level)."""
    values, vectors = np.linalg.eigh(covariance)
    small, middle, large = np.sqrt(np.maximum(values, 0)).T
    large = np.maximum(large, 1e-12)
    return np.column_stack([(large - middle) / large, (middle - small) / large, small / large, 1 - np.abs(vectors[:, 2, 0])])


def _intensity(values: NDArray) -> Array:
    if not len(values):
        return np.zeros(len(INTENSITY_NAMES))
    return np.array([values.mean(), values.std(), *np.percentile(values, QUANTILES)], dtype=np.float64)
