"""The limb-lead identities: six leads, two of them free (Einthoven, Goldberger).

III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2: any lead follows from any two others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from readers.schema import SignalLike
from toolkit.restoration.spans import Span

# Each lead as (weight of I, weight of II).
LIMB = {"I": (1.0, 0.0), "II": (0.0, 1.0), "III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
HOLDS_NMSE = 0.02  # the identity is used where it explains visible samples of the lead at least this well
CHECK_S = 10.0


def derive(recording: SignalLike, span: Span, hidden: Sequence[Span]) -> NDArray[np.float64] | None:
    """The span computed from two other limb leads, or None where the identity does not apply.

    It applies when the channel is a limb lead, two others of the same rate and unit are visible over the
    whole span, and, where visible samples of the lead allow the check, they obey the identity.
    """
    target = recording.channels[span.channel]
    if target.canonical not in LIMB:
        return None
    helpers = [
        i
        for i, c in enumerate(recording.channels)
        if i != span.channel
        and c.canonical in LIMB
        and c.canonical != target.canonical
        and (c.rate_hz, c.unit, c.missing) == (target.rate_hz, target.unit, False)
    ]
    for pair in combinations(helpers, 2):
        names = [recording.channels[i].canonical for i in pair]
        weights = np.linalg.solve(np.array([LIMB[n] for n in names]).T, np.array(LIMB[target.canonical]))
        made = _combine(recording, pair, weights, span.start, span.stop, hidden)
        if made is not None and _holds(recording, span, pair, weights, hidden):
            return made
    return None


def _combine(
    recording: SignalLike, pair: Sequence[int], weights: NDArray[np.float64], start: int, stop: int, hidden: Sequence[Span]
) -> NDArray[np.float64] | None:
    """The weighted sum over start..stop, or None where a helper is not visible throughout."""
    if any(s.channel in pair and s.start < stop and s.stop > start for s in hidden):
        return None
    sample = recording.read(start, stop, rate_hz=recording.channels[pair[0]].rate_hz, channels=list(pair))
    return weights @ sample.values.astype(np.float64) if sample.valid.all() else None


def _holds(recording: SignalLike, span: Span, pair: Sequence[int], weights: NDArray[np.float64], hidden: Sequence[Span]) -> bool:
    """Whether visible samples beside the span obey the identity; True where the whole lead is hidden."""
    reach = round(CHECK_S * (recording.channels[span.channel].rate_hz or 1.0))
    mine = [s for s in hidden if s.channel == span.channel]
    for start, stop in ((span.start - reach, span.start), (span.stop, span.stop + reach)):
        start, stop = max(0, start), min(recording.stored(span.channel), stop)
        if stop - start < 2 or any(s.start < stop and s.stop > start for s in mine):
            continue
        made = _combine(recording, pair, weights, start, stop, hidden)
        if made is None:
            continue
        sample = recording.read(start, stop, rate_hz=recording.channels[span.channel].rate_hz, channels=[span.channel])
        truth = sample.values[0].astype(np.float64)
        return bool(((made - truth) ** 2).sum() <= HOLDS_NMSE * ((truth - truth.mean()) ** 2).sum())
    return True
