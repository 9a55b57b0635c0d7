"""Clouds whose boxes are known, and objects as scanners of two kinds see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.objective.makers import SUBJECTS, channel
from toolkit.corpus.batches import Batch
from toolkit.corpus.framing.points import unit_sphere
from toolkit.demo.points import CLASSES, Thing, cast, draw_solid

Points = NDArray[np.float64]


def cuboid(
    rng: np.random.Generator, count: int, size: Sequence[float], yaw: float = 0.0, centre: Sequence[float] = (0, 0, 0)
) -> Points:
    """``count`` points evenly on the sides of a cuboid of length, width and height, turned about z."""
    length, width, height = size
    areas = np.repeat([width * height, length * height, length * width], 2)
    side = rng.choice(6, count, p=areas / areas.sum())
    points = rng.uniform(-0.5, 0.5, (count, 3))
    points[np.arange(count), side // 2] = side % 2 - 0.5
    return turned(points * size, yaw) + centre


def turned(points: Points, yaw: float) -> Points:
    """Points (n, 3) turned about z, from x towards y."""
    c, s = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]).T


def batch_of(clouds: Sequence[Points], points: int, rng: np.random.Generator, *, scaled: bool = False) -> Batch:
    """A batch of ``points`` of each cloud, fewer being padded; ``scaled`` to the unit sphere as files are."""
    values, valid = np.zeros((len(clouds), 3, points), np.float32), np.zeros((len(clouds), 3, points), bool)
    for row, cloud in enumerate(clouds):
        taken = min(points, len(cloud))
        picked = cloud[rng.permutation(len(cloud))[:taken]].astype(np.float32).T
        values[row, :, :taken] = unit_sphere(picked.T).apply(picked) if scaled else picked
        valid[row, :, :taken] = True
    subjects = tuple(SUBJECTS[row % len(SUBJECTS)] for row in range(len(clouds)))
    about = tuple(channel(axis, "xyz") for axis in "xyz")
    return Batch(values, valid, (about,) * len(clouds), tuple(f"cloud-{row}" for row in range(len(clouds))), subjects)


def scanned(thing: Thing, rings: int, azimuths: int, height: float, rng: np.random.Generator) -> Points:
    """What a scanner above the origin sees of a thing with so many rings and directions across it; 8 mm of noise."""
    low, high = thing.solid.bounds()
    metres, reach = np.hypot(*thing.place), float(np.linalg.norm(high - low)) / 2
    up = np.arctan2((low[2] + high[2]) / 2 - height, metres) + np.arctan2(reach, metres) * np.linspace(-1, 1, rings)[:, None]
    around = np.arctan2(*thing.place[::-1]) + np.arctan2(reach, metres) * np.linspace(-1, 1, azimuths)
    parts = np.broadcast_arrays(np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up))
    rays, place = np.stack(parts, axis=-1).reshape(-1, 3), np.array([0.0, 0.0, height])
    metres, _, owner = cast(place, rays, [thing])
    hit = owner == 0
    return place + (metres[hit] + rng.normal(0, 0.008, int(hit.sum())))[:, None] * rays[hit]


def things(count: int, seed: int) -> list[Thing]:
    """Solids of all classes in turn, 3 to 6 m from the origin."""
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        angle, metres = rng.uniform(0, 2 * np.pi), rng.uniform(3, 6)
        place = (float(metres * np.cos(angle)), float(metres * np.sin(angle)))
        found.append(Thing("", draw_solid(CLASSES[number % len(CLASSES)], rng), place, float(rng.uniform(0, 2 * np.pi)), 0.5))
    return found
