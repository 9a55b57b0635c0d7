"""What a repair is compared with: linear interpolation, and leaving the damage as a flat line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from readers.schema import SignalLike
from toolkit.restoration.repair import Repaired


def linear(recording: SignalLike, one: Repaired) -> NDArray[np.float64]:
    """A straight line between the visible samples beside the span; held at an end of the recording.

    A wholly hidden channel has no such samples and is left at its level.
    """
    span, last = one.span, recording.stored(one.span.channel)
    ends = [i for i in (span.start - 1, span.stop) if 0 <= i < last]
    rate = recording.channels[span.channel].rate_hz
    values = [recording.read(i, i + 1, rate_hz=rate, channels=[span.channel]) for i in ends]
    known = [(i, float(v.values[0, 0])) for i, v in zip(ends, values, strict=True) if v.valid[0, 0]]
    if not known:
        return flat(recording, one)
    return np.interp(np.arange(span.start, span.stop), [i for i, _ in known], [v for _, v in known])


def flat(recording: SignalLike, one: Repaired) -> NDArray[np.float64]:
    """The channel's visible mean: the damage left as it is, a lead that is off."""
    return np.full(one.span.stop - one.span.start, one.level)


BASELINES: dict[str, Callable[[SignalLike, Repaired], NDArray[np.float64]]] = {
    "linear interpolation": linear,
    "identity": flat,
}
