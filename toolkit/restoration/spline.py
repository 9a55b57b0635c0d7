"""Spherical splines: what a hidden electrode would show if the field over the head were as smooth as the others allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from readers.schema import SignalLike
from toolkit.restoration.repair import Repaired

Float64 = NDArray[np.float64]
TERMS, STIFFNESS, SMOOTHING = 50, 4, 1e-5  # MNE's
LEAST = 4  # electrodes that are seen: fewer say nothing of a sphere
CHUNK = 2**16  # samples at a time


def weights(seen: Float64, wanted: Float64) -> Float64:
    """Perrin, Pernier, Bertrand and Echallier (1989): places (K, 3) and (W, 3) in m -> weights (W, K) of the seen values.

    Places are taken to the unit sphere around the sphere that fits the seen ones best.
    """
    middle = _middle(seen)
    seen, wanted = ((places - middle) / np.linalg.norm(places - middle, axis=1, keepdims=True) for places in (seen, wanted))
    count = len(seen)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = _kernel(seen @ seen.T) + SMOOTHING * np.eye(count)
    system[count, count] = 0.0
    read = np.concatenate([_kernel(wanted @ seen.T), np.ones((len(wanted), 1))], axis=1)
    found: Float64 = read @ np.linalg.pinv(system)[:, :count]
    return found


def _kernel(cosine: Float64) -> Float64:
    order = np.arange(1, TERMS + 1)
    factors = (2 * order + 1) / (order**STIFFNESS * (order + 1.0) ** STIFFNESS * 4 * np.pi)
    values: Float64 = legendre.legval(np.clip(cosine, -1, 1), np.concatenate([[0.0], factors]))
    return values


def _middle(places: Float64) -> Float64:
    """Middle of the sphere that fits places best: |p|^2 = 2 p . middle + constant, by least squares."""
    known = np.concatenate([2 * places, np.ones((len(places), 1))], axis=1)
    found: Float64 = np.linalg.lstsq(known, (places**2).sum(1), rcond=None)[0][:3]
    return found


def interpolated(recording: SignalLike, one: Repaired, seen: Sequence[int]) -> Float64:
    """The repaired span from the channels ``seen`` at the time, sample by sample; the channel's level where none is valid."""
    span = one.span
    wanted, rate = recording.channels[span.channel].position, recording.channels[span.channel].rate_hz
    places = np.array([recording.channels[i].position for i in seen])
    made = np.full(span.stop - span.start, one.level)
    for start in range(span.start, span.stop, CHUNK):
        sample = recording.read(start, min(start + CHUNK, span.stop), rate_hz=rate, channels=seen)
        whole = sample.valid.all(1)
        if whole.sum() >= LEAST:
            values = weights(places[whole], np.array([wanted])) @ sample.values[whole].astype(np.float64)
            made[start - span.start : start - span.start + len(sample.time_s)] = values[0]
    return made
