"""The common tensor schema: what every reader produces and the rest of the program consumes.

A :class:`Recording` is a header, opened lazily; :meth:`Recording.read` gives a :class:`Sample` of
one window and costs that window's bytes, however long the recording is. Needs numpy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class ReadError(Exception):
    """A claimed file cannot be used; the message is the reason shown to the user."""


@dataclass(frozen=True)
class Channel:
    """One channel as the file describes it.

    ``position`` is in metres, or a unit vector where ``position_frame`` is ``lead-axis`` (the
    direction in which an ECG lead looks: x to the left, y to the feet, z to the back).
    ``position_source`` says where it came from: ``file``, a named montage, ``standard`` or None.
    ``kind`` of a contrast is its BIDS suffix or ``T1ce``; of a point attribute ``xyz``, ``rgb``,
    ``normal``, ``intensity`` or ``attribute``. ``dtype`` is the stored type, ``low`` and ``high`` the
    range it stands for where the format says so. ``bad``: marked so in the file or beside it.
    """

    name: str
    canonical: str
    kind: str
    unit: str | None
    si_factor: float | None
    rate_hz: float | None
    position: tuple[float, float, float] | None = None
    position_frame: str | None = None
    position_source: str | None = None
    reference: str | None = None
    missing: bool = False
    bad: bool = False
    dtype: str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Event:
    """An annotation: onset and duration in seconds, its label, the channels it concerns (empty: all)."""

    onset_s: float
    duration_s: float
    label: str
    channels: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Axes:
    """The grid of a recording.

    Signals and audio: ``shape`` is (channels, samples at ``rate_hz``, the fastest channel's rate);
    ``start_date`` is ISO 8601 where the file holds one. Volumes: ``shape`` is the stored one, without
    contrasts; ``affine`` takes stored voxel indices to RAS mm (4 rows); ``orientation`` are its axis codes.
    Points: ``shape`` is (points, stored columns); ``unit`` of the coordinates where it is known;
    ``offset`` is what was taken from x, y, z before they became float32.
    """

    shape: tuple[int, ...]
    rate_hz: float | None = None
    duration_s: float | None = None
    start_date: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    points: int | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    unit: str | None = None
    offset: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Window:
    """Start and stop (exclusive): samples of the grid that a signal is read on, or rows of a point cloud."""

    start: int
    stop: int


@dataclass(frozen=True)
class Box:
    """Start and stop (exclusive) in voxels of the grid that a volume is read on."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Sample:
    """Tensors of one window: what every domain has.

    ``values`` float32 (C, ...), physical units, 0 where not valid; ``valid`` bool, of the same shape.
    """

    values: FloatArray
    valid: BoolArray
    channels: tuple[Channel, ...]
    window: Window | Box


@dataclass(frozen=True)
class SignalSample(Sample):
    """One window of a signal: (C, T) samples of the grid k / rate_hz."""

    window: Window
    rate_hz: float

    @cached_property
    def time_s(self) -> NDArray[np.float64]:
        """Seconds from the start of the recording, float64 (T,)."""
        return np.arange(self.window.start, self.window.stop, dtype=np.float64) / self.rate_hz


@dataclass(frozen=True)
class VolumeSample(Sample):
    """One box of a volume: (C, X, Y, Z), axes towards right, anterior and superior.

    ``affine`` float64 (4, 4) takes indices into this sample to RAS mm. Valid are finite voxels inside the file.
    """

    window: Box
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class PointSample(Sample):
    """Rows of a point cloud: attributes (C, N) in file order.

    ``coords`` float32 (N, 3): x, y, z less ``Axes.offset``, in ``Axes.unit``, 0 in rows where ``known`` bool (N,) is
    False (NaN coordinates). The channels are the asked ones; asking for none gives (0, N).
    """

    window: Window
    coords: FloatArray
    known: BoolArray


@dataclass(frozen=True)
class Patch:
    """New values for stored elements of one channel: samples of a signal, voxels of a contrast, rows of a cloud.

    ``channel`` indexes ``Recording.channels``; ``index`` int64 (K,) counts the channel's own samples from the
    start of the recording, the voxels of the stored array in C order (first axis slowest), or the rows of the
    file; ``values`` float64 (K,), physical units (x, y, z with their offset, as the file means them).
    """

    channel: int
    index: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """What a write did: the handle file, elements changed, elements limited by the stored type's range."""

    path: Path
    changed: int
    clipped: int
    notes: tuple[str, ...] = ()


class Recording(ABC):
    """A file's header, and the way to its samples. Immutable; holds no open file."""

    path: Path
    format: str
    domain: str
    channels: tuple[Channel, ...]
    axes: Axes
    ids: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    @abstractmethod
    def events(self) -> Sequence[Event]:
        """The annotations beside or inside the file, in order of onset; read on first use."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Every file that belongs to the recording, the handle first."""

    @abstractmethod
    def stored(self, channel: int) -> int:
        """How many elements the channel has on its own grid: samples, voxels or rows."""

    @abstractmethod
    def verify(self) -> tuple[str, ...]:
        """Read the whole recording in bounded memory and name what disagrees with its own header."""


class SignalLike(Recording):
    """Channels over time."""

    @abstractmethod
    def read(self, start: int, stop: int, *, rate_hz: float | None = None, channels: Sequence[int] | None = None) -> SignalSample:
        """Read samples start..stop of the grid k / rate_hz (default: ``axes.rate_hz``).

        Samples outside the recording come back as not valid. Two reads that share a sample agree on
        it, wherever their windows begin. Raises ReadError.
        """


class VolumeLike(Recording):
    """Contrasts over space."""

    @abstractmethod
    def grid(self, spacing_mm: float | None = None) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
        """Shape, and affine (4, 4) to RAS mm, of the grid that :meth:`read` reads on.

        Without ``spacing_mm`` the first contrast's stored voxels with axes permuted and flipped to RAS; else
        cubes of that spacing over the same field of view.
        """

    @abstractmethod
    def read(self, box: Box, *, spacing_mm: float | None = None, channels: Sequence[int] | None = None) -> VolumeSample:
        """Read a box of that grid; other contrasts are brought to it through their affines.

        Voxels outside a contrast come back as not valid; reads that share a voxel agree on it. Raises ReadError.
        """

    @abstractmethod
    def affine_of(self, channel: int) -> NDArray[np.float64]:
        """Affine (4, 4) from a contrast's stored voxel indices to RAS mm."""

    @abstractmethod
    def shape_of(self, channel: int) -> tuple[int, int, int]:
        """Stored shape of a contrast; ``stored(channel)`` is its product."""


class PointsLike(Recording):
    """Points with attributes. The first three channels are x, y and z, of kind ``xyz``."""

    @abstractmethod
    def read(self, start: int, stop: int, *, channels: Sequence[int] = ()) -> PointSample:
        """Read rows start..stop in file order, clipped to the rows there are. Raises ReadError."""


def effective(channels: Sequence[Channel], kinds: Sequence[str]) -> list[int]:
    """Indices of the channels of the given kinds that the file really holds and does not mark bad."""
    return [i for i, c in enumerate(channels) if c.kind in kinds and not c.missing and not c.bad]
