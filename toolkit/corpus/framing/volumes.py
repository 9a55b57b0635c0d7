"""Windows of volumes: cubes over the head, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from readers.schema import Box, ReadError, Recording, VolumeLike, VolumeSample
from readers.volume_grid import spacing_of, turn_of, turned_grid
from toolkit.corpus import windows
from toolkit.corpus.framing.base import Framing, Piece
from toolkit.corpus.scaled import Extent, Scaled, Scaling
from toolkit.recipe import VolumeData

SPARE = 1.1  # a head that is larger than a window by less than this share is still shown by one
FINE_MM = 2.0  # what hand-crafted features see, however coarse the model's grid
THICK = 3  # tokens; a file thinner than that along an axis is a slab
APART = 0.1  # of a voxel; contrasts that lie closer are on one grid, whatever the rounding of their headers
LEAST = 0.02  # planes with less than this share of the fullest plane's bright voxels lie outside the head

Affine = NDArray[np.float64]


class VolumeFraming(Framing):
    """Cubes of ``window_mm`` at ``spacing_mm``, whose sides are multiples of ``step`` voxels."""

    unit = "voxel"
    scale = "mm"

    def __init__(self, data: VolumeData, step: int) -> None:
        self.data, self.step, self.spacing = data, step, data.spacing_mm
        self.side = self._voxels(data.window_mm)
        self._heads: dict[object, Box] = {}
        self._lock = Lock()

    def _voxels(self, mm: float) -> int:
        return max(1, round(mm / self.spacing / self.step)) * self.step

    def channels(self, recording: Recording) -> list[int]:
        """Contrasts of the recipe's kinds. Raises ReadError also where they lie on several grids, if those are to be the same."""
        chosen = windows.channels_for(recording, self.data)
        if not isinstance(recording, VolumeLike):
            raise ReadError(f"'{recording.path.name}' holds no volume")
        if self.data.grids == "same":
            check_grids(recording, chosen)
        return chosen

    def length(self, recording: Recording) -> int:
        """Volumes count alike."""
        return 1

    def weight(self, length: int) -> int:
        """Volumes count alike."""
        return 1

    def count(self, length: int) -> int:
        """One window a volume."""
        return 1

    def layout(self, channels: Sequence[int]) -> int:
        """Contrasts after the choice."""
        return min(len(channels), self.data.most_channels)

    def choose(self, channels: Sequence[int], rng: np.random.Generator) -> list[int]:
        """At most ``most_channels`` contrasts at random."""
        return np.sort(rng.choice(channels, size=self.layout(channels), replace=False)).tolist()

    def head(self, recording: VolumeLike) -> Box:
        """The box of the bright voxels of the first contrast the model reads, on the model's grid; kept for each recording.

        Where nothing of that one is there, of the next.
        """
        key = (recording.path, recording.files)
        with self._lock:
            known = self._heads.get(key)
        if known is None:
            shape, _ = recording.grid(self.spacing)
            for channel in self.channels(recording):  # the first of which anything is there
                sample = recording.read(Box((0, 0, 0), shape), spacing_mm=self.spacing, channels=[channel])
                known = bright_box(sample.values[0], sample.valid[0])
                if sample.valid.any():
                    break
            assert known is not None
            with self._lock:
                self._heads[key] = known
        return known

    def draw(self, recording: Recording, length: int, rng: np.random.Generator) -> Box:
        """A cube that holds the head where it can, else a cube inside it."""
        assert isinstance(recording, VolumeLike)
        head = self.head(recording)
        sides = [(low, high - self.side) for low, high in zip(head.start, head.stop, strict=True)]
        drawn = [int(rng.integers(min(side), max(side) + 1)) for side in sides]
        x, y, z = (self._aligned(start, size) for start, size in zip(drawn, recording.grid(self.spacing)[0], strict=True))
        return self._cube((x, y, z), self.side)

    def _aligned(self, start: int, size: int) -> int:
        """A start from which tokens are cut at the edge of a thin slab: cut anywhere, none might lie inside the file."""
        return start if size >= THICK * self.step else start // self.step * self.step

    def _cube(self, start: tuple[int, int, int], side: int) -> Box:
        x, y, z = start
        return Box(start, (x + side, y + side, z + side))

    def load(
        self, recording: Recording, window: Extent, channels: Sequence[int], rng: np.random.Generator | None = None
    ) -> Scaled:
        """Brought to the model's spacing, each contrast scaled by its own voxels; with ``rng`` turned and shifted at random."""
        assert isinstance(recording, VolumeLike) and isinstance(window, Box)
        sample = recording.read(window, spacing_mm=self.spacing, channels=channels)
        scaling = fit_scaling(sample.values, sample.valid, self.data.scaling)
        scaled = Scaled.of(sample.values, sample.valid, sample.channels, scaling, window)
        return scaled if rng is None else augmented(scaled, self.data, rng)

    def plan(self, recording: Recording, window: float, stride: float) -> list[Extent]:
        """One cube centred on the head, or as many as cover it in steps of at most ``stride``."""
        assert isinstance(recording, VolumeLike)
        side, step, head = self._voxels(window), max(1, round(stride / self.spacing)), self.head(recording)
        sizes = recording.grid(self.spacing)[0]
        x, y, z = (
            [self._aligned(start, size) for start in _starts(low, high, side, step)]
            for low, high, size in zip(head.start, head.stop, sizes, strict=True)
        )
        return [self._cube(start, side) for start in product(x, y, z)]

    def interval(self, recording: Recording, window: Extent) -> tuple[float, float]:
        """First voxel, and one past the last, of the window's box in the stored array of the first contrast."""
        assert isinstance(recording, VolumeLike) and isinstance(window, Box)
        low, high = self._stored(recording, window)
        shape = recording.shape_of(0)
        return float(np.ravel_multi_index(tuple(low), shape)), float(np.ravel_multi_index(tuple(high - 1), shape)) + 1

    def _stored(self, recording: VolumeLike, window: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The window in stored voxels, clipped to the file, at least one voxel."""
        shape = np.array(recording.shape_of(0))
        corners = _corners(window, np.linalg.inv(recording.affine_of(0)) @ recording.grid(self.spacing)[1])
        low = np.clip(np.floor(corners.min(axis=0) + 0.5 + 1e-6), 0, shape - 1).astype(np.int64)
        high = np.clip(np.ceil(corners.max(axis=0) + 0.5 - 1e-6), low + 1, shape).astype(np.int64)
        return low, high

    def end(self, recording: Recording) -> float:
        """Voxels of the first contrast."""
        return float(recording.stored(0))

    def around(self, recording: Recording, start: float, stop: float, window: float) -> list[Piece]:
        """The planned window of that interval; for any other box of stored voxels, one centred on it or as many as cover it."""
        assert isinstance(recording, VolumeLike)
        planned = self.plan(recording, window, window)
        same = [w for w in planned if self.interval(recording, w) == (start, stop)]
        return [Piece(w, 0.0, np.inf) for w in same or self._covering(recording, start, stop, window)]

    def _covering(self, recording: VolumeLike, start: float, stop: float, window: float) -> list[Extent]:
        shape = recording.shape_of(0)
        low = np.array(np.unravel_index(int(start), shape))
        high = np.array(np.unravel_index(min(int(stop), math.prod(shape)) - 1, shape)) + 1
        box = Box(tuple(low.tolist()), tuple(high.tolist()))
        corners = _corners(box, np.linalg.inv(recording.grid(self.spacing)[1]) @ recording.affine_of(0))
        side = self._voxels(window)
        spans = zip(np.rint(corners.min(axis=0) + 0.5), np.rint(corners.max(axis=0) + 0.5), strict=True)
        x, y, z = (_starts(int(a), int(b), side, side) for a, b in spans)
        return [self._cube(corner, side) for corner in product(x, y, z)]

    def sample(
        self, recording: Recording, start: float, stop: float, channels: Sequence[int], margin: float = 0.0
    ) -> VolumeSample:
        """The window around an interval (the first, where it takes several), at ``FINE_MM`` where the model's grid is coarser."""
        assert isinstance(recording, VolumeLike)
        box = self.around(recording, start, stop, self.data.window_mm)[0].window
        assert isinstance(box, Box)
        spacing = min(self.spacing, FINE_MM)
        corners = _corners(box, np.linalg.inv(recording.grid(spacing)[1]) @ recording.grid(self.spacing)[1])
        x, y, z = zip(*np.rint(np.stack([corners.min(axis=0), corners.max(axis=0)]) + 0.5).astype(int).tolist(), strict=True)
        return recording.read(Box((x[0], y[0], z[0]), (x[1], y[1], z[1])), spacing_mm=spacing, channels=channels)

    def mismatches(self, recording: Recording, known: Sequence[str], chosen: Sequence[int]) -> list[str]:
        """Detail that the model's spacing loses or the file lacks, unknown and unused contrasts."""
        spacing = recording.axes.spacing_mm or (self.spacing,)
        found = windows.unseen(recording, known, chosen)
        if min(spacing) < self.spacing * 0.999:
            found.append(f"voxels of {min(spacing):g} mm, the model reads {self.spacing:g} mm: finer detail is not seen")
        if max(spacing) > self.spacing * 1.001:
            found.append(f"voxels of {max(spacing):g} mm, the model reads {self.spacing:g} mm: the file holds no finer detail")
        return found

    def token_intervals(
        self, recording: Recording, window: Extent, coords: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Stored voxels of each token's cube."""
        assert isinstance(window, Box)
        corner = np.array(window.start) + np.array(window.shape) / 2 + coords[:, :3] / self.spacing - self.step / 2
        cubes = [self._cube(tuple(c), self.step) for c in np.rint(corner).astype(int).tolist()]
        found = np.array([self.interval(recording, cube) for cube in cubes]).reshape(-1, 2)
        return found[:, 0], found[:, 1]


def bright_box(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> Box:
    """The box of the planes that hold bright voxels (above the mean of all), (X, Y, Z); everything where there are none."""
    known = values[valid]
    bright = valid & (values > known.mean(dtype=np.float64)) if known.size else valid
    if not bright.any():
        return Box((0, 0, 0), values.shape)
    spans = []
    for axis in range(3):
        profile = bright.sum(axis=tuple({0, 1, 2} - {axis}))
        places = np.flatnonzero(profile > LEAST * profile.max())
        spans.append((int(places[0]), int(places[-1]) + 1))
    (x0, x1), (y0, y1), (z0, z1) = spans
    return Box((x0, y0, z0), (x1, y1, z1))


def fit_scaling(values: NDArray[np.float32], valid: NDArray[np.bool_], of: str = "bright") -> Scaling:
    """Mean and deviation of some voxels of each contrast, (C, X, Y, Z): those above its mean, which leaves most of the air out.

    ``of = "nonzero"``: those that are not zero, as BM-MAE (2505.00568) takes of skull-stripped heads.
    """
    offset, scale = np.zeros(len(values)), np.ones(len(values))
    for channel in range(len(values)):
        known = values[channel][valid[channel]].astype(np.float64)
        chosen = known[known > known.mean() if of == "bright" else known != 0] if known.size else known
        if chosen.size:
            offset[channel], scale[channel] = chosen.mean(), chosen.std() or 1.0
        elif known.size:
            offset[channel] = known[0]  # constant
    return Scaling(offset, scale)


def augmented(scaled: Scaled, data: VolumeData, rng: np.random.Generator) -> Scaled:
    """Axes turned round with the odds ``flips``; what is valid times 1 +- ``gain``, moved by +- ``shift``, as BM-MAE trains.

    All contrasts alike. What the window shows is then no longer where it says.
    """
    turned = tuple(axis + 1 for axis, odds in enumerate(rng.random(3)) if odds < data.flips)
    gain, shift = 1 + rng.uniform(-data.gain, data.gain), rng.uniform(-data.shift, data.shift)
    valid = np.ascontiguousarray(np.flip(scaled.valid, turned))
    changed = np.where(valid, gain * np.flip(scaled.values, turned) + shift, 0.0).astype(np.float32)
    return replace(scaled, values=changed, valid=valid)


def check_grids(recording: VolumeLike, channels: Sequence[int]) -> None:
    """Raises ReadError, with both grids, where a contrast does not lie voxel on voxel with the first of ``channels``.

    The order and direction of the stored axes do not matter.
    """
    first, *others = channels
    shape, affine = _turned(recording, first)
    for other in others:
        size, where = _turned(recording, other)
        corners = np.array(list(product(*((0, n - 1) for n in shape), (1,)))).T
        apart = np.abs((where - affine) @ corners).max()
        if size == shape and apart <= APART * spacing_of(affine).min():
            continue
        words = [
            f"{' x '.join(map(str, n))} voxels of {' x '.join(f'{s:.3g}' for s in spacing_of(a))} mm"
            for n, a in ((size, where), (shape, affine))
        ]
        moved = f", up to {apart:.3g} mm elsewhere" if words[0] == words[1] else ""
        raise ReadError(
            f"'{recording.path.name}': {recording.channels[other].name} lies on another grid ({words[0]}{moved}) than "
            f"{recording.channels[first].name} ({words[1]}); contrasts of one session have to be registered and resampled to one "
            "grid. A model trained with data.grids = 'headers' takes them as their headers place them"
        )


def _turned(recording: VolumeLike, channel: int) -> tuple[tuple[int, int, int], Affine]:
    affine = recording.affine_of(channel)
    grid = turned_grid(recording.shape_of(channel), affine, turn_of(affine))
    return grid.shape, grid.affine


def _starts(low: int, high: int, side: int, step: int) -> list[int]:
    """Starts of windows of ``side`` over low..high: one centred, or evenly spaced ones from end to end."""
    extent = high - low
    if extent <= side * SPARE:
        return [low + (extent - side) // 2]
    count = math.ceil((extent - side) / step) + 1
    return np.linspace(low, high - side, count).round().astype(int).tolist()


def _corners(box: Box, affine: Affine) -> NDArray[np.float64]:
    """The eight outer corners of a box's voxels, taken through an affine between voxel indices: (8, 3)."""
    ends = list(product(*zip(box.start, box.stop, strict=True)))
    return (np.array(ends) - 0.5) @ affine[:3, :3].T + affine[:3, 3]
