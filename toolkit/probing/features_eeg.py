"""Hand-crafted features of an EEG window: band powers and the shape of the spectrum, by region of the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from readers.schema import Channel, SignalSample, effective
from toolkit.probing.waves import filled, usable

Array = NDArray[np.float64]

BANDS_HZ = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30), "gamma": (30, 45)}
SPECTRUM_HZ = (1.0, 45.0)
SEGMENT_S = 2.0
MIN_SAMPLES = 8
MIN_REFERENCED = 8  # an average over fewer channels would take away what they share
POWER_FLOOR = 1e-4  # of µV² per band: below any amplifier's noise; where the rate leaves a band empty
HEAD_CENTRE_M = (0.0, 0.015, 0.04)
REGIONS = ("frontal", "central", "parietal", "temporal", "occipital", "left", "right")
MIDLINE_M = 0.015

CHANNEL_NAMES = (
    *(f"{band}_power_log" for band in BANDS_HZ),
    *(f"{band}_relative" for band in BANDS_HZ),
    "edge_95_hz",
    "spectral_entropy",
    "slope",
    "activity_log",
    "mobility_hz_log",
    "complexity_log",
)
EEG_NAMES = (
    *(f"{over}_{name}" for over in ("mean", "std") for name in CHANNEL_NAMES),
    *(f"{region}_{band}_power_log" for region in REGIONS for band in BANDS_HZ),
)


def eeg_features(sample: SignalSample) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Spectrum and Hjorth parameters of an EEG window by region: (features float32 (F,), their names).

    Each feature is computed in each usable EEG channel (valid for at least half, not constant; every other kind of
    channel is passed over where there is EEG), against the average of the channels where there are at least 8, and
    given as mean and standard deviation over the channels; the powers of the bands also as mean over each region of
    the head (electrodes by their ``position``; a region without any takes the mean over all). Powers are natural
    logarithms of µV², relative powers shares of 1 to 45 Hz, ``slope`` the exponent of the power over frequency,
    ``edge_95_hz`` holds 95 % of the power. F does not depend on channels, rate or length; all NaN where no channel
    is usable.
    """
    kept = _usable(sample)
    if not kept:
        return np.full(len(EEG_NAMES), np.nan, dtype=np.float32), EEG_NAMES
    channels = [sample.channels[i] for i in kept]
    waves = np.stack([_microvolts(sample.values[i], sample.valid[i], sample.channels[i]) for i in kept])
    if len(waves) >= MIN_REFERENCED:
        waves -= waves.mean(axis=0)
    table = np.concatenate([_spectral(waves, sample.rate_hz), _hjorth(waves, sample.rate_hz)], axis=1)
    rows = [table.mean(axis=0), table.std(axis=0)]
    powers = table[:, : len(BANDS_HZ)]
    places = regions([channel.position for channel in channels])
    rows += [powers[there].mean(axis=0) if there.any() else powers.mean(axis=0) for there in places]
    return np.concatenate(rows).astype(np.float32), EEG_NAMES


def regions(positions: Sequence[tuple[float, float, float] | None]) -> list[NDArray[np.bool_]]:
    """Which of the electrodes (metres, head frame) lie in each of REGIONS, bool (C,) each; none for None or NaN."""
    places = np.array([position or (np.nan,) * 3 for position in positions], dtype=np.float64).reshape(-1, 3)
    x, y, z = (places - HEAD_CENTRE_M).T / np.maximum(np.linalg.norm(places - HEAD_CENTRE_M, axis=1), 1e-9)
    known = np.isfinite(x)
    temporal = (np.abs(x) > 0.8) & (z < 0.45)
    frontal = ~temporal & (y > 0.4)
    occipital = ~temporal & (y < -0.75) & (z < 0.45)
    parietal = ~temporal & ~occipital & (y < -0.35)
    central = known & ~temporal & ~frontal & ~occipital & ~parietal
    return [frontal, central, parietal, temporal, occipital, places[:, 0] < -MIDLINE_M, places[:, 0] > MIDLINE_M]


def _usable(sample: SignalSample) -> list[int]:
    if sample.values.shape[1] < MIN_SAMPLES:
        return []
    kinds = {channel.kind for channel in sample.channels}
    asked = effective(sample.channels, ["eeg"] if "eeg" in kinds else sorted(kinds))
    return [i for i in asked if usable(sample.values[i], sample.valid[i])]


def _microvolts(wave: NDArray, valid: NDArray, channel: Channel) -> Array:
    """One channel without holes, in µV where the unit is known."""
    return filled(wave, valid) * (1e6 * channel.si_factor if channel.si_factor else 1.0)


def _spectral(waves: Array, rate_hz: float) -> Array:
    """(C, T) -> (C, 13): log and relative powers of the bands, edge, entropy and slope of the spectrum."""
    length = min(waves.shape[1], round(SEGMENT_S * rate_hz))
    points = max(length, round(SEGMENT_S * rate_hz))  # short windows: zeros appended, so that a band holds a bin
    hz, power = signal.welch(waves, rate_hz, nperseg=length, nfft=points, detrend="constant")
    inside = (hz >= SPECTRUM_HZ[0]) & (hz < SPECTRUM_HZ[1])
    hz, power = hz[inside], power[:, inside] * rate_hz / points + 1e-12
    if hz.size == 0:
        return np.zeros((len(waves), 13))
    bands = np.stack([power[:, (hz >= low) & (hz < high)].sum(axis=1) for low, high in BANDS_HZ.values()], axis=1)
    share = power / power.sum(axis=1, keepdims=True)
    edge = hz[np.argmax(np.cumsum(share, axis=1) >= 0.95, axis=1)]
    entropy = -np.sum(share * np.log(share), axis=1) / np.log(max(2, len(hz)))
    steps = np.log(hz) - np.log(hz).mean()
    slope = np.log(power) @ steps / max(float(steps @ steps), 1e-9)
    relative = bands / bands.sum(axis=1, keepdims=True)
    return np.column_stack([np.log(bands + POWER_FLOOR), relative, edge, entropy, slope])


def _hjorth(waves: Array, rate_hz: float) -> Array:
    """(C, T) -> (C, 3): logarithms of activity (µV²), mobility (as a frequency, Hz) and complexity."""
    activity, change, bend = (np.diff(waves, order, axis=1).var(axis=1) + 1e-9 for order in range(3))
    mobility = np.sqrt(change / activity) * rate_hz / (2 * np.pi)
    return np.log(np.column_stack([activity, mobility, np.sqrt(bend * activity) / change]))
