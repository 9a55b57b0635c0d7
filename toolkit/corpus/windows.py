"""Windows of a signal on a model's grid: which channels, which spans, and their scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from readers.schema import BoolArray, Channel, ReadError, Recording, SignalLike, SignalSample, Window, effective
from toolkit.corpus.scaled import Scaled, Scaling
from toolkit.recipe import SignalData, VolumeData

SHORTEST_TAIL = 0.1  # share of a window; a shorter tail is no row of its own
HOW_TO_PLACE = (
    "this model tells channels apart by their places alone: name them as the 10-05 system does, or put an electrodes.tsv "
    "with its coordsystem.json beside the file"
)


def channels_for(recording: Recording, data: SignalData | VolumeData, *, placed: bool = False) -> list[int]:
    """Indices of the channels the model reads, with ``placed`` those of a known place. Raises ReadError where there is none."""
    chosen = effective(recording.channels, data.kinds)
    if not chosen:
        held = ", ".join(f"{c.name} ({c.kind})" for c in recording.channels)
        raise ReadError(f"'{recording.path.name}' holds no channel of kind {' or '.join(data.kinds)}; it holds {held}")
    if not placed:
        return chosen
    located = [i for i in chosen if recording.channels[i].position is not None]
    if not located:
        names = ", ".join(recording.channels[i].name for i in chosen)
        raise ReadError(f"'{recording.path.name}' says of none of its channels where it is ({names}); {HOW_TO_PLACE}")
    return located


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
    """Which channels share one amplitude scale: those of a kind and unit (``kind``), or each its own (``channel``, ``none``).

    -1 where amplitudes have a fixed unit: the deviation over the whole recording (``session``).
    """
    if mode == "session":
        return [-1] * len(channels)
    keys = [(c.kind, c.unit) if mode == "kind" else i for i, c in enumerate(channels)]
    return [keys.index(key) for key in keys]


def fit_scaling(sample: SignalSample, mode: str) -> Scaling:
    """Offset per channel, scale per kind and unit (``kind``) or per channel, from valid samples only.

    ``none`` leaves all as it is. One scale for all leads of a kind keeps their relative amplitude, which a missing lead needs.
    """
    if mode == "session":
        raise ValueError("the scaling of a session is no window's; see toolkit.corpus.sessions")
    if mode == "none":
        return Scaling(np.zeros(len(sample.channels)), np.ones(len(sample.channels)))
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


def scale(sample: SignalSample, data: SignalData, session: Scaling | None = None) -> Scaled:
    """Scale a sample as the recipe says, by its own values or those of its session; samples that are not valid become 0."""
    scaling = session or fit_scaling(sample, data.scaling)
    return Scaled.of(sample.values, sample.valid, sample.channels, scaling, sample.window)


def load(
    recording: SignalLike, window: Window, data: SignalData, channels: Sequence[int], session: Scaling | None = None
) -> Scaled:
    """Read one window on the model's grid, mix it down where the recipe says so, and scale it. Raises ReadError."""
    sample = recording.read(window.start, window.stop, rate_hz=data.rate_hz, channels=channels)
    return scale(downmixed(sample) if data.downmix else sample, data, session)


def downmixed(sample: SignalSample) -> SignalSample:
    """The mean over the channels, valid where all are; named after the first."""
    valid: BoolArray = np.all(sample.valid, axis=0, keepdims=True)
    values = np.where(valid, sample.values.mean(axis=0, keepdims=True, dtype=np.float64), 0.0).astype(np.float32)
    return replace(sample, values=values, valid=valid, channels=sample.channels[:1])


def mismatches(
    recording: Recording, data: SignalData, known: Sequence[str], chosen: Sequence[int], *, placed: bool = False
) -> list[str]:
    """What the model's preprocessing loses or has never seen in this file, one sentence each.

    ``known`` are the channels that were in the training data; empty when the model does not say. ``placed``: channels
    without a place are not read.
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
    if data.downmix and len(chosen) > 1:
        found.append(f"{len(chosen)} channels, the model reads their mean")
    nowhere = [
        recording.channels[i].name for i in chosen if recording.channels[i].kind == "eeg" and not recording.channels[i].position
    ]
    if nowhere:
        found.append(f"electrodes without a known place: {', '.join(nowhere)}")
    lost = [i for i in effective(recording.channels, data.kinds) if placed and i not in chosen]
    if lost:
        names = ", ".join(recording.channels[i].name for i in lost)
        found.append(f"left out because nothing says where they are: {names}; {HOW_TO_PLACE}")
    return [*found, *unseen(recording, known, chosen, lost)]


def unseen(recording: Recording, known: Sequence[str], chosen: Sequence[int], told: Sequence[int] = ()) -> list[str]:
    """Sentences about channels that the model was not trained on, and those it does not use but for those already ``told``.

    ``known`` are the channels that were in the training data; empty when the model does not say.
    """
    found = []
    strangers = [recording.channels[i].name for i in chosen if recording.channels[i].canonical not in known]
    if known and strangers:
        found.append(f"channels the model was not trained on: {', '.join(strangers)}")
    left = [f"{c.name} ({'bad' if c.bad else c.kind})" for i, c in enumerate(recording.channels) if i not in (*chosen, *told)]
    if left:
        found.append(f"channels not used: {', '.join(left)}")
    return found
