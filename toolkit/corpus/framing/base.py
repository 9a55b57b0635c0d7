"""What training, embedding and probing ask of a recording, whatever its axes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.schema import Recording, Sample
from toolkit.corpus.scaled import Extent, Scaled


class Piece(NamedTuple):
    """A window that shows an interval, and which seconds of the window the interval covers (all of it for no signals)."""

    window: Extent
    low: float
    high: float


class Framing(ABC):
    """Windows of recordings for one recipe. Window and stride are given in ``scale``: seconds, mm or rows.

    ``unit`` is that of the intervals that name windows in tables: ``s``, ``voxel`` (places in the stored array
    of the first contrast, first axis slowest) or ``point`` (rows of the file).
    """

    unit: str
    scale: str

    @abstractmethod
    def channels(self, recording: Recording) -> list[int]:
        """Indices of the channels the model reads. Raises ReadError when the file has none of them."""

    @abstractmethod
    def length(self, recording: Recording) -> int:
        """How much there is to draw windows from, in steps of the model's grid."""

    @abstractmethod
    def weight(self, length: int) -> int:
        """How often a recording of this length is drawn, relative to others."""

    @abstractmethod
    def count(self, length: int) -> int:
        """Whole windows in a recording of this length, at least one."""

    @abstractmethod
    def layout(self, channels: Sequence[int]) -> int:
        """Channels of a training sample: samples of a batch agree in it."""

    @abstractmethod
    def choose(self, channels: Sequence[int], rng: np.random.Generator) -> list[int]:
        """The channels of one training sample."""

    @abstractmethod
    def draw(self, recording: Recording, length: int, rng: np.random.Generator) -> Extent:
        """A random window. Raises ReadError."""

    @abstractmethod
    def load(
        self, recording: Recording, window: Extent, channels: Sequence[int], rng: np.random.Generator | None = None
    ) -> Scaled:
        """Read one window on the model's grid and scale it; without ``rng`` nothing is random. Raises ReadError."""

    @abstractmethod
    def plan(self, recording: Recording, window: float, stride: float) -> list[Extent]:
        """Windows that cover the recording, in order. Raises ReadError."""

    @abstractmethod
    def interval(self, recording: Recording, window: Extent) -> tuple[float, float]:
        """Start and stop of a window, clipped to the recording, in ``unit``."""

    @abstractmethod
    def end(self, recording: Recording) -> float:
        """Where the recording ends, in ``unit``."""

    @abstractmethod
    def around(self, recording: Recording, start: float, stop: float, window: float) -> list[Piece]:
        """Windows of the given length that show an interval. Raises ReadError."""

    @abstractmethod
    def sample(self, recording: Recording, start: float, stop: float, channels: Sequence[int], margin: float = 0.0) -> Sample:
        """What lies in an interval, unscaled, on the model's grid; signals with ``margin`` seconds on either side."""

    @abstractmethod
    def mismatches(self, recording: Recording, known: Sequence[str], chosen: Sequence[int]) -> list[str]:
        """What the model's preprocessing loses or has never seen in this file, one sentence each."""

    @abstractmethod
    def token_intervals(
        self, recording: Recording, window: Extent, coords: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start and stop of tokens at ``coords`` (n, 4) within a window, in ``unit``."""
