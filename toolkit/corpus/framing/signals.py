"""Windows of signals: EEG, ECG, PPG and audio, in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from readers.schema import Recording, SignalLike, SignalSample, Window
from toolkit.corpus import windows
from toolkit.corpus.framing.base import Framing, Piece
from toolkit.corpus.scaled import Extent, Scaled
from toolkit.corpus.sessions import Sessions
from toolkit.recipe import SignalData


class SignalFraming(Framing):
    """``step``: a window is a multiple of so many samples of the model's grid, and has at least ``least``.

    With ``overlap`` samples shared by neighbouring patches it is the whole patches that fit into the seconds asked for.
    ``placed``: channels without a place are left out.
    """

    unit = scale = "s"

    def __init__(self, data: SignalData, step: int, least: int, *, overlap: int = 0, placed: bool = False) -> None:
        self.data, self.step, self.least, self.rate = data, step, least, data.rate_hz
        self.overlap, self.placed = overlap, placed
        self.window = self._samples(data.window_s)
        self.sessions = Sessions(data)

    def _samples(self, seconds: float) -> int:
        steps = (seconds * self.rate - self.overlap) / self.step
        return max(self.least, (math.floor(steps + 1e-6) if self.overlap else round(steps)) * self.step + self.overlap)

    def channels(self, recording: Recording) -> list[int]:
        """Usable channels of the recipe's kinds."""
        return windows.channels_for(recording, self.data, placed=self.placed)

    def length(self, recording: Recording) -> int:
        """Samples on the model's grid."""
        return windows.length_on_grid(recording, self.rate)

    def weight(self, length: int) -> int:
        """By length, at least one window."""
        return max(length, self.window)

    def count(self, length: int) -> int:
        """Whole windows."""
        return max(1, length // self.window)

    def layout(self, channels: Sequence[int]) -> int:
        """Channels after the choice, or after the downmix; 0 where samples of any number of them share a batch."""
        return 0 if self.data.mixed else self._taken(channels)

    def _taken(self, channels: Sequence[int]) -> int:
        return 1 if self.data.downmix else min(len(channels), self.data.most_channels)

    def choose(self, channels: Sequence[int], rng: np.random.Generator) -> list[int]:
        """At most ``most_channels`` at random, in the order of the file."""
        if self.data.downmix:
            return list(channels)
        return np.sort(rng.choice(channels, size=self._taken(channels), replace=False)).tolist()

    def draw(self, recording: Recording, length: int, rng: np.random.Generator) -> Window:
        """A window that lies inside the recording where it is long enough."""
        start = int(rng.integers(0, max(1, length - self.window + 1)))
        return Window(start, start + self.window)

    def load(
        self, recording: Recording, window: Extent, channels: Sequence[int], rng: np.random.Generator | None = None
    ) -> Scaled:
        """Resampled to the model's rate, then scaled."""
        assert isinstance(recording, SignalLike) and isinstance(window, Window)
        session = self.sessions.of(recording, channels) if self.data.scaling == "session" else None
        return windows.load(recording, window, self.data, channels, session)

    def plan(self, recording: Recording, window: float, stride: float) -> list[Extent]:
        """In steps of ``stride``; the last may reach past the end."""
        return list(windows.plan(self.length(recording), self._samples(window), max(1, round(stride * self.rate))))

    def interval(self, recording: Recording, window: Extent) -> tuple[float, float]:
        """Seconds."""
        assert isinstance(window, Window)
        return window.start / self.rate, min(window.stop, self.length(recording)) / self.rate

    def end(self, recording: Recording) -> float:
        """Seconds."""
        return recording.axes.duration_s or 0.0

    def around(self, recording: Recording, start: float, stop: float, window: float) -> list[Piece]:
        """One window centred on a short interval; windows side by side over a long one."""
        size, first, last = self._samples(window), round(start * self.rate), round(stop * self.rate)
        if last - first > size:
            cut = windows.plan(last - first, size, size)
            return [Piece(Window(first + w.start, first + w.stop), 0.0, (last - first - w.start) / self.rate) for w in cut]
        begin = (first + last - size) // 2
        return [Piece(Window(begin, begin + size), (first - begin) / self.rate, (last - begin) / self.rate)]

    def sample(
        self, recording: Recording, start: float, stop: float, channels: Sequence[int], margin: float = 0.0
    ) -> SignalSample:
        """On the model's grid, each channel by itself."""
        assert isinstance(recording, SignalLike)
        first, last, more = round(start * self.rate), round(stop * self.rate), round(margin * self.rate)
        return recording.read(first - more, last + more, rate_hz=self.rate, channels=channels)

    def mismatches(self, recording: Recording, known: Sequence[str], chosen: Sequence[int]) -> list[str]:
        """Lost bandwidth, channels without a place, unknown and unused channels."""
        return windows.mismatches(recording, self.data, known, chosen, placed=self.placed)

    def token_intervals(
        self, recording: Recording, window: Extent, coords: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Seconds of each token: its centre less and plus half the step between tokens, no further than the window."""
        assert isinstance(window, Window)
        time = coords[:, 3].astype(np.float64).round(6)  # of float32
        half = float(time.min()) if len(time) else 0.0  # tokens start at the window's start, so the first centre is half one
        middle = window.start / self.rate + time
        return middle - half, np.minimum(middle + half, window.stop / self.rate)
