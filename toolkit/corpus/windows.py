"""Windows of a recording on a model's grid: which channels, which spans, and their invertible scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from readers.schema import Channel, FloatArray, ReadError, Recording, Sample, Window, effective
from toolkit.recipe import DataTable

SHORTEST_TAIL = 0.1  # share of a window; a shorter tail is no row of its own


@dataclass(frozen=True)
class Scaling:
    """values = offset + scale * scaled, per channel; ``offset`` and ``scale`` are float64 (C,)."""

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(self, values: FloatArray) -> FloatArray:
        """Physical (C, T) to scaled (C, T)."""
        return ((values - self.offset[:, None]) / self.scale[:, None]).astype(np.float32)

    def invert(self, scaled: FloatArray) -> NDArray[np.float64]:
        """Scaled (C, T) to physical (C, T)."""
        return scaled.astype(np.float64) * self.scale[:, None] + self.offset[:, None]


@dataclass(frozen=True)
class Scaled:
    """A sample ready for a tokenizer: ``values`` float32 (C, T) scaled, 0 where not valid."""

    values: FloatArray
    valid: NDArray[np.bool_]
    channels: tuple[Channel, ...]
    scaling: Scaling
    window: Window


def channels_for(recording: Recording, data: DataTable) -> list[int]:
    """Indices of the channels the model reads. Raises ReadError when the file has none of them."""
    chosen = effective(recording.channels, data.kinds)
    if not chosen:
        held = ", ".join(f"{c.name} ({c.kind})" for c in recording.channels)
        raise ReadError(f"'{recording.path.name}' holds no channel of kind {' or '.join(data.kinds)}; it holds {held}")
    return chosen


def length_on_grid(recording: Recording, rate_hz: float) -> int:
    """Samples of the recording on the grid k / rate_hz."""
    return math.floor((recording.axes.duration_s or 0.0) * rate_hz + 1e-6)


def plan(length: int, window: int, stride: int) -> list[Window]:
    """Windows that cover 0..length in steps of ``stride``; the last may reach past the end.

    A tail shorter than a tenth of a window is left out unless it is all there is.
    """
    shortest = max(1, math.ceil(SHORTEST_TAIL * window))
    starts = [s for s in range(0, length, stride) if s == 0 or length - s >= shortest]
    while len(starts) > 1 and starts[-2] + window >= length:
        starts.pop()  # overlapping strides: the window before already reaches the end
    return [Window(s, s + window) for s in starts]


def scale_groups(channels: Sequence[Channel], mode: str) -> list[int]:
    """Which channels share one amplitude scale: those of a kind and unit (``kind``), or each its own (``channel``)."""
    keys = [(c.kind, c.unit) if mode == "kind" else i for i, c in enumerate(channels)]
    return [keys.index(key) for key in keys]


def fit_scaling(sample: Sample, mode: str) -> Scaling:
    """Offset per channel, scale per kind and unit (``kind``) or per channel, from valid samples only.

    One scale for all leads of a kind keeps their relative amplitude, which a missing lead needs.
    """
    count = np.maximum(sample.valid.sum(axis=1), 1)
    values = sample.values.astype(np.float64)
    offset = np.where(sample.valid, values, 0.0).sum(axis=1) / count
    energy = (np.where(sample.valid, values - offset[:, None], 0.0) ** 2).sum(axis=1)
    groups = np.array(scale_groups(sample.channels, mode))
    scale = np.ones(len(groups))
    for group in set(groups.tolist()):
        rows = (groups == group) & sample.valid.any(axis=1)
        if (total := energy[rows].sum()) > 0:
            scale[groups == group] = math.sqrt(total / count[rows].sum())
    return Scaling(offset, scale)


def scale(sample: Sample, data: DataTable) -> Scaled:
    """Scale a sample as the recipe says; samples that are not valid become 0."""
    scaling = fit_scaling(sample, data.scaling)
    values = np.where(sample.valid, scaling.apply(sample.values), np.float32(0))
    return Scaled(values, sample.valid, sample.channels, scaling, sample.window)


def load(recording: Recording, window: Window, data: DataTable, channels: Sequence[int]) -> Scaled:
    """Read one window on the model's grid and scale it. Raises ReadError."""
    return scale(recording.read(window.start, window.stop, rate_hz=data.rate_hz, channels=channels), data)


def stream(
    recording: Recording, windows: Sequence[Window], data: DataTable, channels: Sequence[int], size: int
) -> Iterator[list[Scaled]]:
    """Yield lists of at most ``size`` loaded windows, in order."""
    for first in range(0, len(windows), size):
        yield [load(recording, w, data, channels) for w in windows[first : first + size]]


def mismatches(recording: Recording, data: DataTable, known: Sequence[str], chosen: Sequence[int]) -> list[str]:
    """What the model's preprocessing loses or has never seen in this file, one sentence each.

    ``known`` are the channels that were in the training data; empty when the model does not say.
    """
    found = []
    rates = {recording.channels[i].rate_hz or data.rate_hz for i in chosen}
    if (fastest := max(rates)) > data.rate_hz:
        found.append(
            f"recorded at {fastest:g} Hz, the model reads {data.rate_hz:g} Hz: content from "
            f"{data.rate_hz / 2:g} to {fastest / 2:g} Hz is not seen"
        )
    if (slowest := min(rates)) < data.rate_hz:
        found.append(
            f"recorded at {slowest:g} Hz, the model reads {data.rate_hz:g} Hz: the file holds nothing "
            f"from {slowest / 2:g} to {data.rate_hz / 2:g} Hz"
        )
    unseen = [recording.channels[i].name for i in chosen if recording.channels[i].canonical not in known]
    if known and unseen:
        found.append(f"channels the model was not trained on: {', '.join(unseen)}")
    left = [f"{c.name} ({c.kind})" for i, c in enumerate(recording.channels) if i not in chosen]
    if left:
        found.append(f"channels not used: {', '.join(left)}")
    return found
