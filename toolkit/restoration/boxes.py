"""Damaged boxes of volumes: which voxels of which contrast are to be repaired, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from readers.schema import BoolArray, Box, Event, ReadError, VolumeLike
from readers.volume_grid import Size
from readers.volumes import VolumeRecording
from toolkit.restoration.mender import generator
from toolkit.restoration.spans import BOX, expect, named

Float64 = NDArray[np.float64]
SIDES_MM = (20.0, 40.0)  # of made damage
WIDEST = 0.6  # of the head along an axis, so that something stays visible on both sides
TRIES = 64  # places tried for a box that touches no other
MOST_BOXES = 1000


@dataclass(frozen=True, order=True)
class Hole:
    """Voxels start..stop (exclusive) of one contrast's stored array, and why they are to be repaired.

    Where ``why`` is ``invalid`` only the voxels in the box that are not finite are damaged.
    """

    channel: int
    start: Size
    stop: Size
    why: str = "asked"

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box of the stored array."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def ends(self) -> list[int]:
        """x0, x1, y0, y1, z0, z1."""
        return [end for pair in zip(self.start, self.stop, strict=True) for end in pair]


class Damaged(VolumeRecording):
    """A recording whose damaged voxels are not there: every read sees what a file with NaN in their place would show.

    ``lacking``: contrasts that it does not have; they come after its own, on the grid of the first, and nothing of them is there.
    """

    def __init__(self, source: VolumeLike, holes: Sequence[Hole], lacking: Sequence[str] = ()) -> None:
        """Raises ReadError for a recording that does not give its stored voxels."""
        if not isinstance(source, VolumeRecording):
            raise ReadError(f"'{source.path.name}' does not give its stored voxels")
        self.source, self.path, self.format, self.domain = source, source.path, source.format, source.domain
        self.axes, self.ids, self.warnings = source.axes, source.ids, source.warnings
        self.channels = (*source.channels, *(replace(source.channels[0], name=n, canonical=n, kind=n) for n in lacking))
        self.hidden: dict[int, BoolArray] = {}
        for hole in (h for h in holes if h.why != "invalid"):
            self.hidden.setdefault(hole.channel, np.zeros(source.shape_of(hole.channel), bool))[hole.slices] = True

    @property
    def events(self) -> Sequence[Event]:
        """Those of the recording."""
        return self.source.events

    @property
    def files(self) -> tuple:
        """Those of the recording."""
        return self.source.files

    def verify(self) -> tuple[str, ...]:
        """What the recording itself says."""
        return self.source.verify()

    def affine_of(self, channel: int) -> Float64:
        """Affine (4, 4) from a contrast's stored voxel indices to RAS mm."""
        return self.source.affine_of(channel if self.held(channel) else 0)

    def shape_of(self, channel: int) -> Size:
        """Stored shape of a contrast."""
        return self.source.shape_of(channel if self.held(channel) else 0)

    def stored_by(self) -> range:
        """The contrasts that are in the recording's files."""
        return self.source.stored_by() if isinstance(self.source, Damaged) else range(len(self.source.channels))

    def all_hidden(self, channel: int) -> bool:
        """Whether nothing of a contrast is visible."""
        return channel in self.hidden and bool(self.hidden[channel].all())

    def held(self, channel: int) -> bool:
        """Whether the recording has the contrast."""
        return channel < len(self.source.channels)

    def _native(self, channel: int, start: Size, stop: Size) -> Float64:
        if not self.held(channel):
            return np.full([b - a for a, b in zip(start, stop, strict=True)], np.nan)
        values = np.array(self.source._native(channel, start, stop))
        if channel in self.hidden:
            values[self.hidden[channel][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]] = np.nan
        return values

    def stored_values(self, channel: int, start: Size | None = None, stop: Size | None = None) -> Float64:
        """Physical values of a box of a contrast's stored array (default: all of it); NaN where they are not visible."""
        values = self._native(channel, start or (0, 0, 0), stop or self.shape_of(channel))
        values[~np.isfinite(values)] = np.nan
        return values


def hole_at(channel: int, start: Sequence[float] | NDArray, stop: Sequence[float] | NDArray, why: str) -> Hole:
    """A hole from arrays."""
    return Hole(channel, as_size(start), as_size(stop), why)


def size_of(hole: Hole) -> int:
    """Voxels of its box."""
    return math.prod(b - a for a, b in zip(hole.start, hole.stop, strict=True))


def whole(recording: VolumeLike, channel: int, why: str = "asked") -> Hole:
    """All voxels of a contrast."""
    return Hole(channel, (0, 0, 0), recording.shape_of(channel), why)


def from_table(table: pd.DataFrame, recording: VolumeLike, channels: Sequence[int]) -> list[Hole]:
    """Rows with a box in stored voxels of the first contrast and an optional channel; without one, all of ``channels``.

    Boxes are brought to contrasts on other grids through the affines and cut at the file's border. Raises UsageError.
    """
    expect(table, BOX, recording.path.name, "a volume")
    holes = []
    for row in table.to_dict("records"):
        ends = [int(row[name]) for name in BOX]
        name = str(row.get("channel") or "")
        hit = named(recording, name) if name else channels
        holes += [brought(recording, c, as_size(ends[::2]), as_size(ends[1::2]), "asked") for c in hit]
    return [hole for hole in holes if all(a < b for a, b in zip(hole.start, hole.stop, strict=True))]


def brought(recording: VolumeLike, channel: int, start: Size, stop: Size, why: str) -> Hole:
    """A box in stored voxels of the first contrast, on another's own grid, cut at its border (then it may be empty)."""
    shape = recording.shape_of(channel)
    way = np.linalg.inv(recording.affine_of(channel)) @ recording.affine_of(0)
    low, high = corners(start, stop, way)
    first = np.clip(np.ceil(low - 1e-3), 0, shape)  # voxels whose middles lie in the box
    last = np.clip(np.floor(high + 1e-3) + 1, first, shape)
    return Hole(channel, as_size(first), as_size(last), why)


def corners(start: Sequence[int], stop: Sequence[int], way: Float64) -> tuple[Float64, Float64]:
    """Lowest and highest index (3,) that the middles of a box's voxels come to through an affine."""
    ends = np.array(list(product(*zip(start, np.array(stop) - 1, strict=True)))) @ way[:3, :3].T + way[:3, 3]
    return ends.min(axis=0), ends.max(axis=0)


def detect(recording: VolumeLike, channels: Sequence[int]) -> tuple[list[Hole], list[str]]:
    """Connected voxels that are not finite, as boxes, and notes.

    A part that reaches all six faces of the volume is the background of a masked volume, and left.
    """
    seen, holes, notes = Damaged(recording, []), [], []
    for channel in channels:
        if (recording.channels[channel].dtype or "").lstrip("<>=").startswith(("int", "uint")):
            continue  # integers are always finite
        unknown = np.isnan(seen.stored_values(channel))
        parts, _ = ndimage.label(unknown)
        for at in ndimage.find_objects(parts):
            if all(s.start == 0 and s.stop == n for s, n in zip(at, unknown.shape, strict=True)):
                notes.append(f"the background of {recording.channels[channel].name} is not finite; left as it is")
            else:
                holes.append(Hole(channel, as_size(s.start for s in at), as_size(s.stop for s in at), "invalid"))
    return holes, notes


def make(
    recording: VolumeLike, channels: Sequence[int], head: Hole, damage: Sequence[tuple[str, float]], seed: int
) -> list[Hole]:
    """The boxes that damage hides; ``head`` is the head in stored voxels of the first contrast. Raises ReadError.

    ``block``: boxes of 20 to 40 mm a side that cover a share of the head's voxels, half of them in all contrasts and
    half in one. ``channel``: a share of the contrasts, at least one; one always stays.
    """
    holes: list[Hole] = []
    for index, (kind, severity) in enumerate(damage):
        rng = generator(seed, index)
        if severity <= 0:
            continue
        if kind == "block":
            holes += _blocks(recording, channels, head, severity, rng)
            continue
        if len(channels) < 2:
            raise ReadError(f"'{recording.path.name}' holds one contrast, and nothing to rebuild it from")
        count = min(max(1, round(severity * len(channels))), len(channels) - 1)
        holes += [whole(recording, int(c), "channel") for c in sorted(rng.choice(channels, size=count, replace=False))]
    return holes


def _blocks(recording: VolumeLike, channels: Sequence[int], head: Hole, severity: float, rng: np.random.Generator) -> list[Hole]:
    spacing = np.linalg.norm(recording.affine_of(0)[:3, :3], axis=0)
    holes: list[Hole] = []
    for start, stop in _places(np.array(head.start), np.array(head.stop), spacing, severity, rng):
        hit = channels if rng.random() < 0.5 else [int(rng.choice(channels))]
        holes += [brought(recording, c, start, stop, "block") for c in hit]
    return [hole for hole in holes if all(a < b for a, b in zip(hole.start, hole.stop, strict=True))]


def _places(
    low: NDArray[np.int64], high: NDArray[np.int64], spacing: Float64, severity: float, rng: np.random.Generator
) -> Iterator[tuple[Size, Size]]:
    """Boxes inside low..high until they cover the share, the last one smaller; apart from one another where they can be."""
    extent = high - low
    taken = np.zeros(extent, bool)
    wanted = severity * taken.size
    for _ in range(MOST_BOXES):
        missing = wanted - np.count_nonzero(taken)
        if missing < 0.5:
            return
        side = np.clip(rng.uniform(*SIDES_MM) / spacing, 1, np.maximum(WIDEST * extent, 1))
        side *= min(1.0, (missing / side.prod()) ** (1 / 3))
        shape = np.clip(np.rint(side).astype(np.int64), 1, extent)
        for _ in range(TRIES):
            start = rng.integers(0, extent - shape + 1)
            near = tuple(slice(max(a - 1, 0), a + n + 1) for a, n in zip(start, shape, strict=True))
            if not taken[near].any():
                break
        taken[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = True
        yield as_size(low + start), as_size(low + start + shape)


def within(recording: VolumeLike, box: Box, spacing_mm: float) -> Hole:
    """A box of the grid at ``spacing_mm`` in stored voxels of the first contrast, cut at its border."""
    way = np.linalg.inv(recording.affine_of(0)) @ recording.grid(spacing_mm)[1]
    low, high = corners(box.start, box.stop, way)
    shape = np.array(recording.shape_of(0))
    first = np.clip(np.rint(low), 0, shape - 1)
    return Hole(0, as_size(first), as_size(np.clip(np.rint(high) + 1, first + 1, shape)))


def as_size(values: Iterable[float]) -> Size:
    """Three numbers as the integers of a shape, or of a corner of a box."""
    x, y, z = (int(v) for v in values)
    return x, y, z


def union(seen: Damaged, holes: Sequence[Hole]) -> Mapping[int, BoolArray]:
    """What is to be repaired of each contrast, over its stored array: whole boxes, or only what is not finite in them."""
    masks: dict[int, BoolArray] = {}
    for hole in holes:
        mask = masks.setdefault(hole.channel, np.zeros(seen.shape_of(hole.channel), bool))
        if hole.why == "invalid":
            mask[hole.slices] |= np.isnan(seen.stored_values(hole.channel, hole.start, hole.stop))
        else:
            mask[hole.slices] = True
    return masks
