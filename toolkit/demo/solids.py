"""Solids in closed form, and where rays meet them.

Lengths in m. A ray is an origin (3,) and unit directions (N, 3). Every solid stands on the ground z = 0 of its own
frame, its axis along z; ``meet`` gives the distance (N,) to its surface, infinite where the ray misses it, and the
outward normal (N, 3) there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
NEAR = 1e-6  # m; a surface closer than this to the origin does not count


class Solid(ABC):
    """A body whose surface rays can meet, and the sphere that holds it."""

    @abstractmethod
    def meet(self, origin: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Distances (N,) and outward normals (N, 3) of the first surface ahead of the origin."""

    @abstractmethod
    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest corner (3,) of the box that holds the solid."""


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors (..., 3) of length 1; zero vectors stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300))


def quadratic(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """Both real roots (2, N) of a t^2 + 2 b t + c, infinite where there are none; a single root where a is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b * b - a * c)
        # The larger root first, so that nothing cancels when a is small.
        large = -b - np.where(b >= 0, root, -root)
        roots = np.stack((large / a, c / large))
    return np.where(np.isfinite(roots), roots, np.inf)


def at(origin: FloatArray, directions: FloatArray, distances: FloatArray) -> FloatArray:
    """Points (N, 3); the origin where the distance is infinite."""
    return origin + np.where(np.isfinite(distances), distances, 0.0)[:, None] * directions


def nearest(candidates: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """The nearest of several hits per ray, each (distances, normals)."""
    distances = np.stack([np.where(d > NEAR, d, np.inf) for d, _ in candidates])
    first = distances.argmin(axis=0)
    rays = np.arange(distances.shape[1])
    return distances[first, rays], np.stack([n for _, n in candidates])[first, rays]


@dataclass(frozen=True)
class Sphere(Solid):
    """A ball that lies on the ground."""

    radius: float

    def meet(self, origin: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        centre = np.array([0.0, 0.0, self.radius])
        from_centre = origin - centre
        b = directions @ from_centre
        roots = quadratic(np.ones(len(directions)), b, np.full(len(directions), from_centre @ from_centre - self.radius**2))
        return nearest([(t, unit(at(origin, directions, t) - centre)) for t in roots])

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        r = self.radius
        return np.array([-r, -r, 0.0]), np.array([r, r, 2 * r])


@dataclass(frozen=True)
class Box(Solid):
    """A cuboid of (x, y, z) extent, its lower face ``lift`` above the ground and its middle at ``offset`` (x, y)."""

    size: tuple[float, float, float]
    lift: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)

    def meet(self, origin: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``: the slab method."""
        low, high = self.bounds()
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings = np.stack((low - origin, high - origin))[:, None, :] / directions
        crossings = np.where(np.isnan(crossings), np.array([-np.inf, np.inf])[:, None, None], crossings)
        enters, leaves = crossings.min(axis=0), crossings.max(axis=0)
        axis = enters.argmax(axis=1)
        distance = enters.max(axis=1)
        hit = (distance <= leaves.min(axis=1)) & (distance > NEAR)
        normals = np.zeros_like(directions)
        rays = np.arange(len(directions))
        normals[rays, axis] = -np.sign(directions[rays, axis])
        return np.where(hit, distance, np.inf), normals

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        half = np.array(self.size) / 2
        middle = np.array([*self.offset, self.lift + half[2]])
        return middle - half, middle + half


@dataclass(frozen=True)
class Frustum(Solid):
    """A round body whose radius goes from ``foot`` at the ground to ``top`` at ``height``: cylinder, cone, or between."""

    foot: float
    top: float
    height: float
    offset: tuple[float, float] = (0.0, 0.0)

    def meet(self, origin: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``: x^2 + y^2 = (foot + slope z)^2 between the caps, and the caps."""
        start = origin - np.array([*self.offset, 0.0])
        slope = (self.top - self.foot) / self.height
        radius = self.foot + slope * start[2]
        dx, dy, dz = directions.T
        roots = quadratic(
            dx * dx + dy * dy - slope**2 * dz * dz,
            start[0] * dx + start[1] * dy - slope * radius * dz,
            np.full(len(directions), start[0] ** 2 + start[1] ** 2 - radius**2),
        )
        hits = []
        for t in roots:
            place = at(start, directions, t)
            own = self.foot + slope * place[:, 2]
            on = (place[:, 2] >= 0) & (place[:, 2] <= self.height) & (own >= 0)
            hits.append((np.where(on, t, np.inf), unit(np.column_stack((place[:, :2], -slope * own)))))
        for level, widest, up in ((0.0, self.foot, -1.0), (self.height, self.top, 1.0)):
            with np.errstate(divide="ignore", invalid="ignore"):
                t = (level - start[2]) / dz
            t = np.where(np.isfinite(t), t, np.inf)
            place = at(start, directions, t)
            on = np.hypot(place[:, 0], place[:, 1]) <= widest
            hits.append((np.where(on, t, np.inf), np.tile([0.0, 0.0, up], (len(t), 1))))
        return nearest(hits)

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        widest = max(self.foot, self.top)
        x, y = self.offset
        return np.array([x - widest, y - widest, 0.0]), np.array([x + widest, y + widest, self.height])


@dataclass(frozen=True)
class Torus(Solid):
    """A ring that lies flat on the ground, like a tyre; ``ring`` to the middle of the tube, ``tube`` its radius."""

    ring: float
    tube: float

    def meet(self, origin: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``: the smallest root of the quartic (|p|^2 + R^2 - r^2)^2 = 4 R^2 (px^2 + py^2)."""
        start = origin - np.array([0.0, 0.0, self.tube])
        # From the point nearest to the centre, where the quartic's coefficients are small.
        ahead = -(directions @ start)
        p = start + ahead[:, None] * directions
        k = (p * p).sum(axis=1) + self.ring**2 - self.tube**2
        dx, dy, _ = directions.T
        across = 4 * self.ring**2
        c2 = 2 * k - across * (dx * dx + dy * dy)
        c1 = -2 * across * (p[:, 0] * dx + p[:, 1] * dy)
        c0 = k * k - across * (p[:, 0] ** 2 + p[:, 1] ** 2)
        companion = np.zeros((len(directions), 4, 4))
        companion[:, [1, 2, 3], [0, 1, 2]] = 1
        companion[:, 0, 3], companion[:, 1, 3], companion[:, 2, 3] = -c0, -c1, -c2
        roots = np.linalg.eigvals(companion)
        real = np.where(np.abs(roots.imag) < 1e-6, roots.real + ahead[:, None], np.inf)
        distance = np.where(real > NEAR, real, np.inf).min(axis=1)
        place = at(start, directions, distance)
        flat = place * [1.0, 1.0, 0.0]
        return distance, unit(place - self.ring * unit(flat))

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        reach = self.ring + self.tube
        return np.array([-reach, -reach, 0.0]), np.array([reach, reach, 2 * self.tube])


@dataclass(frozen=True)
class Union(Solid):
    """Several solids that form one object."""

    parts: tuple[Solid, ...]

    def meet(self, origin: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        return nearest([part.meet(origin, directions) for part in self.parts])

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """See ``Solid``."""
        lows, highs = zip(*(part.bounds() for part in self.parts), strict=True)
        return np.min(lows, axis=0), np.max(highs, axis=0)


def table(length: float, width: float, height: float, thickness: float, leg: float) -> Union:
    """A table: a top on four round legs of radius ``leg``."""
    x, y = length / 2 - 2 * leg, width / 2 - 2 * leg
    legs = (Frustum(leg, leg, height - thickness, (sx * x, sy * y)) for sx in (-1, 1) for sy in (-1, 1))
    return Union((Box((length, width, thickness), height - thickness), *legs))
