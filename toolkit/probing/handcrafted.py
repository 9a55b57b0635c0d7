"""Hand-crafted features of a window, one function a domain: the baseline that frozen embeddings have to beat."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from readers.schema import PointSample, Sample, SignalSample, VolumeSample, Window
from toolkit.probing.beats import BEAT_NAMES, CONTEXT_NAMES, beat_features, context_features, find_beats
from toolkit.probing.features_audio import audio_features
from toolkit.probing.features_eeg import eeg_features
from toolkit.probing.features_mri import mri_features
from toolkit.probing.features_points import points_features
from toolkit.probing.waves import filled, usable

Array = NDArray[np.float64]
Described = tuple[NDArray[np.float32], tuple[str, ...]]
Describe = Callable[[Sample, float], Described]

BANDS_HZ = ((0.5, 1), (1, 2), (2, 4), (4, 8), (8, 15), (15, 30), (30, 45))
RATE_BAND_HZ = (0.7, 4.0)  # 42 to 240 beats a minute
PULSE_WORDS = ("PLETH", "PPG", "BVP", "ABP", "ART")
OTHER_WORDS = ("RESP", "ACC")  # channels of cardiac files that hold no beats
CHANNELS = 2

WAVE_NAMES = (
    "std",
    "ptp",
    "skew",
    "kurtosis",
    "p05",
    "p25",
    "p75",
    "p95",
    "line_length",
    "total_power_log",
    *(f"power_{low:g}_{high:g}_hz_log" for low, high in BANDS_HZ),
    "spectral_entropy",
    "rate_peak_hz",
)


class Context(NamedTuple):
    """A longer stretch around a short labelled interval, on the same grid.

    ``values`` (C, T'), ``valid`` (C, T'), and the samples ``start`` to ``stop`` of it that the label covers.
    """

    values: NDArray
    valid: NDArray
    start: int
    stop: int


def cardiac_features(
    values: NDArray, valid: NDArray, rate_hz: float, names: Sequence[str], context: Context | None = None
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Beats, rhythm, shape and spectrum of an ECG or PPG window: (features float32 (F,), their names).

    ``values`` (C, T) in physical units, ``valid`` bool (C, T), ``names`` of the C channels (canonical: a name that
    holds PLETH, PPG, BVP, ABP or ART is a pulse, RESP or ACC is passed over). Each feature is computed for the first
    two usable channels (valid for at least half, not constant) and given as mean and maximum over them, so F does
    not depend on C. Undefined features are NaN.

    A labelled interval as short as one beat has no rhythm of its own: with ``context`` beats are sought in the
    longer stretch, and features of the beat nearest the middle of the interval against the others are added
    (F is then larger; use one way for all windows of a task). Amplitudes and spectrum always describe the interval.
    """
    rows = []
    for channel in _usable(values, valid, names):
        pulse = any(word in names[channel].upper() for word in PULSE_WORDS)
        wave = filled(values[channel], valid[channel])
        row = [_wave_features(wave, rate_hz)]
        if context is None:
            row.append(beat_features(find_beats(wave, rate_hz, pulse)))
        else:
            stretch = filled(context.values[channel], context.valid[channel])
            beats = find_beats(stretch, rate_hz, pulse)
            row += [beat_features(beats), context_features(beats, (context.start + context.stop) / 2)]
        rows.append(np.concatenate(row))
    single = WAVE_NAMES + BEAT_NAMES + (CONTEXT_NAMES if context is not None else ())
    table = np.array(rows) if rows else np.full((1, len(single)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature undefined in every channel stays NaN
        vector = np.concatenate([np.nanmean(table, axis=0), np.nanmax(table, axis=0)])
    return vector.astype(np.float32), tuple(f"{over}_{name}" for over in ("mean", "max") for name in single)


def describe_cardiac(sample: Sample, margin: float) -> Described:
    """:func:`cardiac_features` of a sample with ``margin`` seconds of context on either side."""
    assert isinstance(sample, SignalSample)
    around, length = round(margin * sample.rate_hz), sample.values.shape[1]
    inside = slice(around, length - around)
    names = [c.canonical if c.kind != "ppg" else "PPG" for c in sample.channels]
    wider = Context(sample.values, sample.valid, inside.start, inside.stop) if around else None
    return cardiac_features(sample.values[:, inside], sample.valid[:, inside], sample.rate_hz, names, wider)


def _of_signals(features: Callable[[SignalSample], Described]) -> Describe:
    """Features of the interval itself: the context is cut off."""

    def describe(sample: Sample, margin: float) -> Described:
        assert isinstance(sample, SignalSample)
        around, length = round(margin * sample.rate_hz), sample.values.shape[1]
        inside = slice(around, length - around)
        window = Window(sample.window.start + inside.start, sample.window.start + inside.stop)
        cut = replace(sample, values=sample.values[:, inside], valid=sample.valid[:, inside], window=window)
        return features(cut)

    return describe


def _describe_volume(sample: Sample, margin: float) -> Described:
    assert isinstance(sample, VolumeSample)
    return mri_features(sample)


def _describe_points(sample: Sample, margin: float) -> Described:
    assert isinstance(sample, PointSample)
    return points_features(sample)


# By domain: a sample (signals with so many seconds of context on either side) to features and their names.
FEATURES: dict[str, Describe] = {
    "cardiac": describe_cardiac,
    "eeg": _of_signals(eeg_features),
    "audio": _of_signals(audio_features),
    "mri": _describe_volume,
    "points": _describe_points,
}


def _usable(values: NDArray, valid: NDArray, names: Sequence[str]) -> list[int]:
    def good(channel: int) -> bool:
        other = any(word in names[channel].upper() for word in OTHER_WORDS)
        return not other and usable(values[channel], valid[channel])

    return [channel for channel in range(len(values)) if good(channel)][:CHANNELS]


def _wave_features(wave: Array, rate_hz: float) -> Array:
    """WAVE_NAMES: amplitudes in the unit of the wave, powers as natural logarithms, the bands relative to the total."""
    spread = max(float(wave.std()), 1e-12)
    shape = [
        spread,
        np.ptp(wave),
        stats.skew(wave),
        stats.kurtosis(wave),
        *np.percentile(wave, [5, 25, 75, 95]),
        np.abs(np.diff(wave)).mean() * rate_hz / spread,
    ]
    points = max(len(wave), int(8 * rate_hz))  # zeros appended, so that a band below 1 Hz holds a bin in any window
    hz, power = signal.periodogram(signal.detrend(wave), rate_hz, window="hann", nfft=points)
    inside = (hz >= BANDS_HZ[0][0]) & (hz < BANDS_HZ[-1][1])
    total = power[inside].sum() + 1e-20
    bands = [np.log(power[(hz >= low) & (hz < high)].sum() / total + 1e-6) for low, high in BANDS_HZ]
    share = power[inside] / total
    entropy = -np.sum(share * np.log(share + 1e-12)) / np.log(max(2, inside.sum()))
    beating = (hz >= RATE_BAND_HZ[0]) & (hz <= RATE_BAND_HZ[1])
    return np.array([*shape, np.log(total), *bands, entropy, hz[beating][power[beating].argmax()]])
