"""Boxes without labels: the clusters of a cloud, each with the upright box around it.

What a term learns pose and size from (PSA-SSL, 2503.13914). Nothing was released of it, so how a ground is told, the
radius of a cluster and how a box is fitted are ours. Lengths are in the cloud's own unit, z is up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from readers.schema import FloatArray
from toolkit.corpus.batches import Batch

NEIGHBOUR, REACH = 8, 1.5  # points are joined over so many times the median distance to this neighbour
CORE = 5  # neighbours within that reach of a point that joins others (DBSCAN's core points)
FEWEST = 16  # points of a cluster
CELLS = 8  # along x and along y, in each of which the lowest point may be of the ground
STEEPEST = 0.35  # slope of a ground: about 19 degrees
THICK = 0.02  # of a ground, in shares of the cloud's longest side
GROUND = 0.2  # a ground holds at least this share of the points ...
BELOW = 0.02  # ... at most this share lies below it ...
LEFT = 0.1  # ... at least this share is something above it ...
ROOFED = 0.5  # ... though over no more than this share of it
CLOSE = 0.02  # share of a cluster's longest side: points nearer than that to a side of the box lie on it
LEAST_SIDE = 0.02  # of a box, in the unit of the sphere: a wall has no thickness

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Boxes:
    """``of`` int64 (B, N): the box that each point lies in, -1 for none. ``centre`` (B, K, 3), ``size`` (B, K, 3): length,
    width (the shorter one), height. ``yaw`` (B, K): of the length, from x towards y, radians in [-pi / 2, pi / 2)."""

    of: Tensor
    centre: Tensor
    size: Tensor
    yaw: Tensor

    def moved(self, turn: Tensor, scale: Tensor) -> Boxes:
        """The boxes of the clouds turned about z by ``turn`` (B,) radians, then scaled by ``scale`` (B,)."""
        yaw = (self.yaw + turn[:, None] + torch.pi / 2) % torch.pi - torch.pi / 2
        factor = scale[:, None, None]
        return replace(self, centre=factor * turned(self.centre, turn), size=factor * self.size, yaw=yaw)

    def repeated(self, times: int) -> Boxes:
        """Each sample so many times in a row."""
        return Boxes(*(part.repeat_interleave(times, dim=0) for part in (self.of, self.centre, self.size, self.yaw)))

    def to(self, device: torch.device) -> Boxes:
        """The same on another device."""
        return Boxes(*(part.to(device) for part in (self.of, self.centre, self.size, self.yaw)))

    def seen_from(self, box: Tensor, place: Tensor) -> Tensor:
        """Boxes number ``box`` int64 (B, q) as seen from ``place`` (B, q, 3): (B, q, 8).

        Offset to the centre, logs of length, width and height, and (1 - width / length) (cos 2 yaw, sin 2 yaw): half a
        turn gives the same box, a square has no yaw, and the numbers do not jump where the shorter side becomes the longer.
        """
        rows = box[..., None].expand(-1, -1, 3)
        centre, size = self.centre.gather(1, rows), self.size.gather(1, rows).clamp(min=LEAST_SIDE)
        double = 2 * self.yaw.gather(1, box)[..., None]
        turn = (1 - size[..., 1:2] / size[..., :1]) * torch.cat([double.cos(), double.sin()], dim=-1)
        return torch.cat([centre - place, size.log(), turn], dim=-1)


def turned(points: Tensor, turn: Tensor) -> Tensor:
    """Points (B, n, 3) turned about z by ``turn`` (B,) radians, from x towards y."""
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    x, y, z = points.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)


def boxes_of(batch: Batch) -> Boxes:
    """The boxes of each cloud of a batch (B, 3, N); a function of the points alone."""
    found = [_boxes(values.T, valid.all(0)) for values, valid in zip(batch.values, batch.valid, strict=True)]
    most = max(1, *(len(boxes) for _, boxes in found))
    table = np.zeros((len(found), most, 7), np.float32)
    table[..., 3:6] = 1.0
    for row, (_, boxes) in zip(table, found, strict=True):
        row[: len(boxes)] = boxes
    whole = torch.from_numpy(table)
    of = torch.from_numpy(np.stack([of for of, _ in found]))
    return Boxes(of, whole[..., :3], whole[..., 3:6], whole[..., 6])


def _boxes(points: FloatArray, valid: Bools) -> tuple[Ints, FloatArray]:
    """Number of the box (N,) of each point and the boxes (K, 7) of a cloud (N, 3)."""
    of = np.full(len(points), -1, np.int64)
    rows = np.flatnonzero(valid)
    rows = rows[~ground(points[rows])]
    of[rows] = clusters(points[rows])
    boxes = [box_around(points[of == number]) for number in range(int(of.max(initial=-1)) + 1)]
    return of, np.array(boxes, np.float32).reshape(-1, 7)


def ground(points: FloatArray) -> Bools:
    """Which points (N, 3) are of a flat ground, (N,); none where the cloud has no ground.

    A plane through the lowest points of a grid of cells, without those that lie far above it. It is a ground if it is
    nearly level, holds a good share of the points, has nothing below and mostly nothing above it, and something else stands
    on it. The last two tell it from the bottom of a closed object and from a flat roof.
    """
    none = np.zeros(len(points), bool)
    if len(points) < 2 * FEWEST:
        return none
    low, side = points.min(0), np.ptp(points, axis=0)
    thick = THICK * float(side.max())
    cell = np.minimum((points[:, :2] - low[:2]) / np.maximum(side[:2], 1e-9) * CELLS, CELLS - 1).astype(int) @ [CELLS, 1]
    order = np.lexsort((points[:, 2], cell))
    plane = _level(points[order[np.unique(cell[order], return_index=True)[1]]].astype(np.float64), thick)
    if plane is None:
        return none
    height = points[:, 2] - points[:, :2] @ plane[:2] - plane[2]
    flat, above = np.abs(height) <= thick, height > thick
    fits = flat.mean() >= GROUND and (height < -thick).mean() <= BELOW and above.mean() >= LEFT
    return flat if fits and _roofed(points[flat, :2], points[above, :2]) <= ROOFED else none


def _roofed(flat: FloatArray, above: FloatArray) -> float:
    """Share of the places (n, 2) that have one of those above (m, 2) nearer than their third neighbour."""
    third = cKDTree(flat).query(flat, 4)[0][:, 3]  # the first is the place itself
    return float((cKDTree(above).query(flat)[0] < third).mean())


def _level(lowest: NDArray[np.float64], thick: float) -> NDArray[np.float64] | None:
    """z = a x + b y + c through the lowest points of cells (n, 3), the highest tenth left out again and again; None if steep."""
    while len(lowest) >= CELLS:
        plane = np.linalg.lstsq(np.column_stack([lowest[:, :2], np.ones(len(lowest))]), lowest[:, 2], rcond=None)[0]
        above = lowest[:, 2] - lowest[:, :2] @ plane[:2] - plane[2]
        if above.max() <= thick:
            return plane.astype(np.float64) if np.hypot(*plane[:2]) <= STEEPEST else None
        lowest = lowest[above < np.quantile(above, 0.9)]  # fewer each time: the highest one goes
    return None


def clusters(points: FloatArray) -> Ints:
    """Number of the cluster (N,) of each point (N, 3), the largest one first, -1 for none.

    DBSCAN (Ester et al., 1996) whose reach follows the cloud's own density.
    """
    of = np.full(len(points), -1, np.int64)
    if len(points) < FEWEST:
        return of
    tree = cKDTree(points)
    distance, _ = tree.query(points, NEIGHBOUR + 1)  # the first is the point itself
    reach = REACH * float(np.median(distance[:, -1]))
    core = np.flatnonzero(distance[:, CORE] <= reach)
    if not len(core):
        return of
    inner = cKDTree(points[core])
    pairs = inner.query_pairs(reach, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(core), len(core)))
    group = connected_components(links, directed=False)[1]
    near, which = inner.query(points, distance_upper_bound=reach)  # a core point is its own nearest
    of[np.isfinite(near)] = group[which[np.isfinite(near)]]
    sizes = np.bincount(of[of >= 0])
    rank = np.full(len(sizes) + 1, -1, np.int64)  # the last place is for -1
    kept = [number for number in np.argsort(-sizes, kind="stable") if sizes[number] >= FEWEST]
    rank[kept] = np.arange(len(kept))
    return np.asarray(rank[of])


def box_around(points: FloatArray) -> NDArray[np.float64]:
    """The upright box around points (n, 3): centre (3), length, width, height, yaw, (7,).

    Seen from above it is the rectangle, of those at whole degrees, to whose sides the points are closest (Zhang et al.,
    "Efficient L-shape fitting", 2017): right also for an object seen from one side, where the rectangle of the least area
    and principal axes follow the diagonal.
    """
    angle = np.deg2rad(np.arange(90.0))
    along = np.stack([np.cos(angle), np.sin(angle)])  # (2, 90)
    across = np.stack([-along[1], along[0]])
    u, v = points[:, :2] @ along, points[:, :2] @ across  # (n, 90)
    ends = [(part.min(0), part.max(0)) for part in (u, v)]
    off = [np.minimum(part - low, high - part) for part, (low, high) in zip((u, v), ends, strict=True)]
    near = CLOSE * float(np.ptp(points[:, :2], axis=0).max()) + 1e-9
    best = int((1 / np.maximum(np.minimum(*off), near)).sum(0).argmax())
    middle, sides = zip(*(((low[best] + high[best]) / 2, high[best] - low[best]) for low, high in ends), strict=True)
    yaw, centre = angle[best], middle[0] * along[:, best] + middle[1] * across[:, best]
    if sides[0] < sides[1]:
        sides, yaw = sides[::-1], yaw - np.pi / 2
    low, high = points[:, 2].min(), points[:, 2].max()
    return np.array([*centre, (low + high) / 2, *sides, high - low, yaw])
