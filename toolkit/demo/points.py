"""Synthetic laser scans of objects that stand about a rotating scanner, one file per object, with labels.

Lengths in m. Coordinates are the scanner's: the origin under it on the ground, z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.demo.labels import write_labels
from toolkit.demo.solids import Box, FloatArray, Frustum, Solid, Sphere, Torus, table
from toolkit.errors import UsageError

CLASSES = ("ball", "box", "cone", "drum", "table", "tyre")
FEWEST = 150  # points of an object that is written
GROUND_REFLECTIVITY = 0.25
CROP_M = 0.04  # by which a crop is larger than its object, and how far above the ground it begins


@dataclass(frozen=True)
class Scanner:
    """A rotating scanner with one laser per ring."""

    rings: int = 128
    lowest_deg: float = -38.0
    highest_deg: float = 7.0
    azimuths: int = 1800
    height: float = 1.6  # m above the ground
    range_noise: float = 0.008  # m, standard deviation
    intensity_noise: float = 0.06  # relative
    half_power: float = 0.0008  # echo power, as ``echo_power`` has it, that is lost with probability 1 / e
    loss: float = 0.015  # probability that any pulse is lost
    farthest: float = 40.0  # m


@dataclass(frozen=True)
class Thing:
    """A solid where it stands: turned by ``yaw`` radians about its axis and moved by ``place`` (x, y)."""

    name: str
    solid: Solid
    place: tuple[float, float]
    yaw: float
    reflectivity: float

    def foot(self) -> FloatArray:
        """Where (3,) the solid's own origin stands on the ground."""
        return np.array([*self.place, 0.0])

    def to_own(self, points: FloatArray) -> FloatArray:
        """Points (..., 3) in the solid's own frame."""
        return np.asarray((points - self.foot()) @ self.turn())

    def turn(self) -> FloatArray:
        """Rotation (3, 3) from the solid's own frame."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


@dataclass(frozen=True)
class Returns:
    """What a scan gave: points (N, 3), intensity (N,) within 0 to 1, and the index (N,) of the thing, -1 for the ground."""

    points: FloatArray
    intensity: FloatArray
    thing: np.ndarray


def beams(scanner: Scanner, start_deg: float) -> FloatArray:
    """Unit directions (rings * azimuths, 3) of one turn that begins at ``start_deg`` from x; the lowest ring first."""
    up = np.deg2rad(np.linspace(scanner.lowest_deg, scanner.highest_deg, scanner.rings))[:, None]
    around = np.deg2rad(start_deg) + 2 * np.pi * np.arange(scanner.azimuths) / scanner.azimuths
    parts = np.broadcast_arrays(np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up))
    return np.stack(parts, axis=-1).reshape(-1, 3)


def cast(origin: FloatArray, directions: FloatArray, things: Sequence[Thing]) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """First surface along every ray: distance (N,), cosine of incidence (N,) and thing (N,), -1 for the ground.

    Distance is infinite where a ray meets nothing. What stands behind something else is therefore not seen.
    """
    down = -directions[:, 2]
    with np.errstate(divide="ignore"):
        distance = np.where(down > 0, origin[2] / down, np.inf)
    cosine, owner = np.clip(down, 0, 1), np.full(len(directions), -1)
    for index, thing in enumerate(things):
        low, high = thing.solid.bounds()
        middle, reach = thing.foot() + thing.turn() @ ((low + high) / 2), np.linalg.norm(high - low) / 2
        ahead = directions @ (middle - origin)
        close = np.flatnonzero(np.sum((middle - origin) ** 2) - ahead**2 < reach**2)  # rays through the sphere around it
        own = directions[close] @ thing.turn()
        found, normals = thing.solid.meet(thing.to_own(origin), own)
        nearer = found < distance[close]
        rays = close[nearer]
        distance[rays], owner[rays] = found[nearer], index
        cosine[rays] = np.abs((own * normals).sum(axis=1))[nearer]
    return distance, cosine, owner


def echo_power(distance: FloatArray, cosine: FloatArray, reflectivity: FloatArray) -> FloatArray:
    """Power (N,) of the echo of a Lambertian surface that fills the beam: reflectivity cos(incidence) / distance^2."""
    return np.asarray(reflectivity * cosine / distance**2)


def scan(scanner: Scanner, things: Sequence[Thing], rng: np.random.Generator) -> Returns:
    """One turn of the scanner at the origin: range noise along the beam, and weak echoes mostly lost.

    Intensity is the echo's power freed of distance, reflectivity cos(incidence), as scanners report it.
    """
    origin = np.array([0.0, 0.0, scanner.height])
    directions = beams(scanner, rng.uniform(0, 360))
    distance, cosine, owner = cast(origin, directions, things)
    shine = np.array([*(thing.reflectivity for thing in things), GROUND_REFLECTIVITY])[owner]  # -1 is the last
    power = echo_power(np.maximum(distance, 0.1), cosine, shine)
    seen = rng.random(len(power)) > scanner.loss + np.exp(-power / scanner.half_power)
    seen &= distance < scanner.farthest
    measured = distance[seen] + rng.normal(0, scanner.range_noise, int(seen.sum()))
    bright = shine[seen] * cosine[seen] * (1 + scanner.intensity_noise * rng.normal(size=int(seen.sum())))
    return Returns(origin + measured[:, None] * directions[seen], np.clip(bright, 0, 1), owner[seen])


def crop(returns: Returns, thing: Thing) -> np.ndarray:
    """Rows (K,) of a scan within the upright box around a thing, without the ground, as a person would cut it out."""
    low, high = thing.solid.bounds()
    own = thing.to_own(returns.points)
    inside = ((own > low - CROP_M) & (own < high + CROP_M)).all(axis=1)
    return np.flatnonzero(inside & (own[:, 2] > CROP_M))


def draw_solid(name: str, rng: np.random.Generator) -> Solid:
    """A solid of one of ``CLASSES``, 0.5 to 1.5 m across. Raises ValueError for another name."""
    size = rng.uniform(0.8, 1.25)
    if name == "ball":
        return Sphere(0.42 * size)
    if name == "box":
        return Box((size * rng.uniform(0.6, 1.1), size * rng.uniform(0.5, 0.9), size * rng.uniform(0.5, 1.0)))
    if name == "cone":
        foot = 0.42 * size * rng.uniform(0.8, 1.2)
        return Frustum(foot, 0.12 * foot, size * rng.uniform(0.8, 1.2))
    if name == "drum":
        radius = 0.38 * size * rng.uniform(0.8, 1.2)
        return Frustum(radius, radius, size * rng.uniform(0.7, 1.1))
    if name == "table":
        return table(1.2 * size, 0.75 * size * rng.uniform(0.8, 1.1), 0.75 * rng.uniform(0.9, 1.1), 0.05, 0.035)
    if name == "tyre":
        return Torus(0.48 * size, 0.2 * size * rng.uniform(0.8, 1.2))
    raise ValueError(f"unknown class '{name}'; known: {', '.join(CLASSES)}")


def draw_scene(rng: np.random.Generator) -> list[Thing]:
    """One object of every class in a ring of 3 to 6 m about the scanner, then posts before some of them."""
    things = []
    start, order = rng.uniform(0, 2 * np.pi), rng.permutation(len(CLASSES))
    for k, name in enumerate(CLASSES):
        angle = start + 2 * np.pi * (order[k] + rng.uniform(-0.2, 0.2)) / len(CLASSES)
        metres = rng.uniform(3.0, 6.0)
        place = (float(metres * np.cos(angle)), float(metres * np.sin(angle)))
        things.append(Thing(name, draw_solid(name, rng), place, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9)))
    for thing in list(things):
        if rng.random() < 0.35:
            angle = np.arctan2(thing.place[1], thing.place[0]) + rng.normal(0, 0.08)
            metres = rng.uniform(1.4, 2.2)
            radius = rng.uniform(0.02, 0.05)
            place = (float(metres * np.cos(angle)), float(metres * np.sin(angle)))
            things.append(Thing("post", Frustum(radius, radius, rng.uniform(1.0, 2.0)), place, 0.0, 0.5))
    return things


def write_points(path: Path, points: FloatArray, intensity: FloatArray) -> Path:
    """Write points and their intensity as binary PLY of float32; returns its path."""
    from readers.points_write import create_ply  # here, so that the simulation alone needs no file format

    columns = np.column_stack((points, intensity)).astype(np.float32).T
    names = ("x", "y", "z", "intensity")
    return create_ply(path, dict(zip(names, columns, strict=True)), comments=("synthetic: toolkit demo",))


def generate(folder: Path, *, scenes: int = 10, seed: int = 0) -> Path:
    """Write every object of every scene to ``folder``, a file each, and return the path of ``labels.csv``.

    The labels have one row per object (``path,label,scene``). An object of which too little is seen is left out.
    The same seed gives the same files, and asking for more scenes leaves the earlier ones as they are.
    """
    if scenes < 1:
        raise UsageError(f"A demo needs at least one scene: got {scenes}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(scenes):
        rng = np.random.default_rng([seed, index])
        things = draw_scene(rng)
        returns = scan(Scanner(), things, rng)
        for thing in things:
            kept = crop(returns, thing)
            if thing.name in CLASSES and len(kept) >= FEWEST:
                path = folder / f"scene{index + 1:02d}_{thing.name}.ply"
                write_points(path, returns.points[kept], returns.intensity[kept])
                rows.append((path.name, thing.name, f"scene{index + 1:02d}"))
    return write_labels(folder, ("path", "label", "scene"), rows)
