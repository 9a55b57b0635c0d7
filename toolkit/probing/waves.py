"""What the features of signals share: which channels can be described, and their waves without holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_VALID = 0.5


def usable(wave: NDArray, valid: NDArray[np.bool_]) -> bool:
    """Whether a channel (T,) is valid for at least half, and not constant there."""
    return bool(valid.mean() >= MIN_VALID and np.ptp(wave[valid]) > 0)


def filled(wave: NDArray, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One channel (T,) in float64, straight lines where it is not valid, its median at 0."""
    wave = np.asarray(wave, dtype=np.float64)
    there = np.flatnonzero(valid)
    if len(there) == 0:
        return np.zeros_like(wave)
    wave = np.interp(np.arange(len(wave)), there, wave[there])
    return wave - np.median(wave)
