"""Mean and deviation of the channels of whole recordings, by which ``data.scaling = "session"`` scales every window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from readers.schema import ReadError, SignalLike, SignalSample
from toolkit.corpus.scaled import Scaling
from toolkit.recipe import SignalData

LOOKS = 64  # windows of a recording that are looked at, at most
LIMIT = 15.0  # deviations, REVE's
ROUNDING = 1e-7  # of a level: what float32 makes of a flat channel


class Sessions:
    """Scalings of recordings, each measured once and kept as long as its recording is."""

    def __init__(self, data: SignalData) -> None:
        self.data = data
        self._known: WeakKeyDictionary[SignalLike, dict[int, tuple[float, float]]] = WeakKeyDictionary()
        self._lock = Lock()

    def of(self, recording: SignalLike, channels: Sequence[int]) -> Scaling:
        """The scaling of these channels. Raises ReadError where the recording cannot be read."""
        with self._lock:
            known = self._known.setdefault(recording, {})
        if new := [c for c in channels if c not in known]:
            found = measure(recording, self.data, new)
            known.update(zip(new, zip(found.offset.tolist(), found.scale.tolist(), strict=True), strict=True))
        offset, scale = np.array([known[c] for c in channels], np.float64).reshape(-1, 2).T
        return Scaling(offset, scale, LIMIT)


def measure(
    recording: SignalLike,
    data: SignalData,
    channels: Sequence[int],
    seen: Callable[[SignalSample], SignalSample] = lambda sample: sample,
) -> Scaling:
    """Mean and deviation of each channel over the recording on the model's grid, float64, limited to 15 deviations.

    Up to 64 windows of the model's length at even distances are looked at, one at a time, which is the whole of a
    recording of ten minutes; ``seen`` takes out of them what is not to count. A channel of which nothing is valid has mean 0
    and, like a flat one, the root mean square of the deviations of the others. Raises ReadError where no window can be read.
    """
    length = math.floor((recording.axes.duration_s or 0.0) * data.rate_hz + 1e-6)
    size = min(max(1, length), max(1, round(data.window_s * data.rate_hz)))
    starts = np.unique(np.linspace(0, max(0, length - size), min(LOOKS, math.ceil(length / size) or 1)).round().astype(int))
    count, mean, energy = (np.zeros(len(channels)) for _ in range(3))
    problem: ReadError | None = None
    for start in starts.tolist():
        try:
            sample = seen(recording.read(start, start + size, rate_hz=data.rate_hz, channels=channels))
        except ReadError as error:  # damaged there; the rest is what is known of it
            problem = error
            continue
        here = sample.valid.sum(1)
        values = np.where(sample.valid, sample.values, 0.0).astype(np.float64)
        own = values.sum(1) / np.maximum(here, 1)
        spread = (np.where(sample.valid, values - own[:, None], 0.0) ** 2).sum(1)
        # Chan, Golub and LeVeque (1983): sums around the mean of all, from those around the mean of each part.
        total = np.maximum(count + here, 1)
        energy += spread + (own - mean) ** 2 * count * here / total
        mean += (own - mean) * here / total
        count += here
    if problem is not None and not count.any():
        raise problem
    scale = np.sqrt(energy / np.maximum(count, 1))
    moves = scale > ROUNDING * np.abs(mean)
    return Scaling(mean, np.where(moves, scale, np.sqrt((scale[moves] ** 2).mean()) if moves.any() else 1.0), LIMIT)
