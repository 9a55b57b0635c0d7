"""The common tensor schema: what every reader produces and the rest of the program consumes.

A :class:`Recording` is a header, opened lazily; :meth:`Recording.read` gives a :class:`Sample` of
one window and costs that window's bytes, however long the recording is. Needs numpy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    ``start_date`` is ISO 8601 where the file holds one. Volumes and points use the other fields.
    """

    shape: tuple[int, ...]
    rate_hz: float | None = None
    duration_s: float | None = None
    start_date: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    points: int | None = None


@dataclass(frozen=True)
class Window:
    """Start and stop (exclusive), in samples of the grid that the sample is read on."""

    start: int
    stop: int


@dataclass(frozen=True)
class Sample:
    """Tensors of one window of a signal recording.

    ``values`` float32 (C, T), physical units, 0 where not valid; ``valid`` bool (C, T);
    ``time_s`` float64 (T,), seconds from the start of the recording.
    """

    values: FloatArray
    valid: BoolArray
    time_s: NDArray[np.float64]
    rate_hz: float
    channels: tuple[Channel, ...]
    window: Window


@dataclass(frozen=True)
class Patch:
    """New values for samples of one channel, on that channel's own stored grid.

    ``channel`` indexes ``Recording.channels``; ``index`` int64 (K,) counts the channel's own samples
    from the start of the recording; ``values`` float64 (K,), physical units.
    """

    channel: int
    index: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """What a write did: the handle file, samples changed, samples limited by the stored type's range."""

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
    def read(self, start: int, stop: int, *, rate_hz: float | None = None, channels: Sequence[int] | None = None) -> Sample:
        """Read samples start..stop of the grid k / rate_hz (default: ``axes.rate_hz``).

        Samples outside the recording come back as not valid. Two reads that share a sample agree on
        it, wherever their windows begin. Raises ReadError.
        """

    @abstractmethod
    def verify(self) -> tuple[str, ...]:
        """Read the whole recording in bounded memory and name what disagrees with its own header."""


def effective(channels: Sequence[Channel], kinds: Sequence[str]) -> list[int]:
    """Indices of the channels of the given kinds that the file really holds."""
    return [i for i, c in enumerate(channels) if c.kind in kinds and not c.missing]
