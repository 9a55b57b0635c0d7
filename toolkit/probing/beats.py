"""Beats of an ECG or a pulse wave: where they are, how regular, how wide, how alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

Array = NDArray[np.float64]

QRS_BAND_HZ = (5.0, 15.0)
PULSE_BAND_HZ = (0.5, 8.0)
SHAPE_BAND_HZ = (0.5, 40.0)
REFRACTORY_S = 0.25  # 240 beats a minute
SHAPE_S = 0.3  # a beat's shape: this long on each side of its peak
REFINE_S = 0.08  # the smoothed energy is flat on top: the peak is sought this far around in the wave itself
NARROW_S = 0.15  # the QRS complex, wide ones included

BEAT_NAMES = (
    "beats_per_min",
    "rr_mean_s",
    "rr_std_s",
    "rr_min_s",
    "rr_max_s",
    "rr_rmssd_s",
    "rr_pnn50",
    "rr_ratio_min",
    "rr_ratio_max",
    "width_mean_s",
    "width_max_s",
    "width_std_s",
    "width_max_ratio",
    "area_mean_s",
    "area_max_s",
    "area_max_ratio",
    "height_cv",
    "height_max_ratio",
    "template_min",
    "template_mean",
    "template_std",
)
CONTEXT_NAMES = (
    "rr_before_ratio",
    "rr_after_ratio",
    "rr_after_before_ratio",
    "own_width_s",
    "own_width_ratio",
    "own_area_s",
    "own_area_ratio",
    "own_height_ratio",
    "own_template",
    "own_up_share",
)


@dataclass(frozen=True)
class Beats:
    """Beats of one channel, each field (B,). The last four are NaN for a beat that an edge cuts off.

    ``time_s`` of the peaks from the start of the wave; ``width_s`` of the energy at half its height; ``area_s`` under
    the rectified complex, over its height; ``height`` in the unit of the wave; ``likeness``, the correlation with the
    median beat; ``up_share``, the upward part of the complex's range (0 to 1).
    """

    time_s: Array
    width_s: Array
    area_s: Array
    height: Array
    likeness: Array
    up_share: Array
    rate_hz: float


def find_beats(wave: Array, rate_hz: float, pulse: bool) -> Beats:
    """Beats of one channel (T,): band-pass, squared slope, moving mean, adaptive threshold (after Pan, Tompkins 1985).

    A pulse wave is slow: its peaks are sought in the band-passed wave itself.
    """
    band = _band_pass(wave, rate_hz, PULSE_BAND_HZ if pulse else QRS_BAND_HZ)
    slope = np.gradient(band) ** 2
    energy = np.maximum(band, 0) if pulse else signal.convolve(slope, _box(0.12, rate_hz), mode="same")
    peaks, _ = signal.find_peaks(energy, distance=max(1, int(REFRACTORY_S * rate_hz)))
    peaks = peaks[energy[peaks] > _threshold(energy, rate_hz)]
    width = signal.peak_widths(energy, peaks, rel_height=0.5)[0] / rate_hz if len(peaks) else np.zeros(0)
    peaks = _largest(np.abs(band), peaks, int(REFINE_S * rate_hz))
    shape = _band_pass(wave, rate_hz, SHAPE_BAND_HZ)
    around = _cut(shape, peaks, int(SHAPE_S * rate_hz))  # (B, 2h+1), NaN rows at the edges
    complexes = _cut(shape, peaks, int((SHAPE_S if pulse else NARROW_S) * rate_hz))
    complexes = complexes - np.median(complexes, axis=1, keepdims=True)
    height = np.abs(complexes).max(axis=1) if len(peaks) else np.zeros(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.abs(complexes).sum(axis=1) / rate_hz / height
        up = complexes.max(axis=1, initial=0) / (complexes.max(axis=1, initial=0) - complexes.min(axis=1, initial=0))
    return Beats(peaks / rate_hz, width, area, height, _likeness(around), up, rate_hz)


def beat_features(beats: Beats) -> Array:
    """BEAT_NAMES of a stretch; NaN where it holds too few beats."""
    rr = np.diff(beats.time_s)
    out: dict[str, float] = dict.fromkeys(BEAT_NAMES, np.nan)
    if len(rr) >= 1:
        out |= {
            "beats_per_min": 60 / float(np.median(rr)),
            "rr_mean_s": rr.mean(),
            "rr_std_s": rr.std(),
            "rr_min_s": rr.min(),
            "rr_max_s": rr.max(),
        }
    if len(rr) >= 2:
        step, ratio = np.diff(rr), rr[1:] / rr[:-1]
        out |= {
            "rr_rmssd_s": float(np.sqrt(np.mean(step**2))),
            "rr_pnn50": float(np.mean(np.abs(step) > 0.05)),
            "rr_ratio_min": ratio.min(),
            "rr_ratio_max": ratio.max(),
        }
    whole = np.isfinite(beats.height)
    if whole.any():
        width, area, height = beats.width_s[whole], beats.area_s[whole], beats.height[whole]
        out |= {
            "width_mean_s": width.mean(),
            "width_max_s": width.max(),
            "width_std_s": width.std(),
            "width_max_ratio": width.max() / np.median(width),
            "area_mean_s": area.mean(),
            "area_max_s": area.max(),
            "area_max_ratio": area.max() / np.median(area),
            "height_cv": height.std() / height.mean(),
            "height_max_ratio": height.max() / np.median(height),
        }
    likeness = beats.likeness[np.isfinite(beats.likeness)]
    if len(likeness):
        out |= {"template_min": likeness.min(), "template_mean": likeness.mean(), "template_std": likeness.std()}
    return np.array([out[name] for name in BEAT_NAMES])


def context_features(beats: Beats, middle: float) -> Array:
    """CONTEXT_NAMES: the beat nearest sample ``middle`` against the other beats of the stretch."""
    out: dict[str, float] = dict.fromkeys(CONTEXT_NAMES, np.nan)
    if len(beats.time_s) >= 2:
        own = int(np.abs(beats.time_s - middle / beats.rate_hz).argmin())
        rr = np.diff(beats.time_s)
        usual = np.median(rr)
        before = rr[own - 1] if own > 0 else np.nan
        after = rr[own] if own < len(rr) else np.nan
        out |= {
            "rr_before_ratio": before / usual,
            "rr_after_ratio": after / usual,
            "rr_after_before_ratio": after / before,
            "own_width_s": beats.width_s[own],
            "own_width_ratio": beats.width_s[own] / np.median(beats.width_s),
            "own_area_s": beats.area_s[own],
            "own_area_ratio": _against_median(beats.area_s, own),
            "own_height_ratio": _against_median(beats.height, own),
            "own_template": beats.likeness[own],
            "own_up_share": beats.up_share[own],
        }
    return np.array([out[name] for name in CONTEXT_NAMES])


def _against_median(values: Array, own: int) -> float:
    there = values[np.isfinite(values)]
    return float(values[own] / np.median(there)) if len(there) else np.nan


def _band_pass(wave: Array, rate_hz: float, band_hz: tuple[float, float]) -> Array:
    high = min(band_hz[1], 0.45 * rate_hz)
    sections = signal.butter(2, (min(band_hz[0], high / 2), high), "bandpass", fs=rate_hz, output="sos")
    return signal.sosfiltfilt(sections, wave, padlen=min(len(wave) - 1, int(rate_hz)))


def _box(seconds: float, rate_hz: float) -> Array:
    length = max(1, round(seconds * rate_hz))
    return np.full(length, 1 / length)


def _threshold(energy: Array, rate_hz: float) -> float:
    """A share of the usual maximum of 2-s blocks: their median ignores one artefact and one pause alike."""
    block = max(1, int(2 * rate_hz))
    highest = [energy[start : start + block].max() for start in range(0, max(1, len(energy) - block // 2), block)]
    return 0.2 * float(np.median(highest))


def _largest(size: Array, peaks: NDArray[np.int64], half: int) -> NDArray[np.int64]:
    """The index of the largest ``size`` within ``half`` samples of each peak."""
    index = np.clip(peaks[:, None] + np.arange(-half, half + 1), 0, len(size) - 1)
    return index[np.arange(len(peaks)), size[index].argmax(axis=1)]


def _cut(wave: Array, peaks: NDArray[np.int64], half: int) -> Array:
    """The wave around each peak (B, 2 half + 1); a row of NaN where it would leave the wave."""
    index = peaks[:, None] + np.arange(-half, half + 1)
    inside = (index[:, 0] >= 0) & (index[:, -1] < len(wave))
    return np.where(inside[:, None], wave[np.clip(index, 0, len(wave) - 1)], np.nan)


def _likeness(around: Array) -> Array:
    """Correlation of each beat with the median beat (B,); NaN for beats at an edge."""
    out = np.full(len(around), np.nan)
    whole = ~np.isnan(around[:, 0]) if len(around) else np.zeros(0, dtype=bool)
    if whole.any():
        beats = around[whole] - around[whole].mean(axis=1, keepdims=True)
        template = np.median(beats, axis=0)
        template = template - template.mean()
        length = np.linalg.norm(beats, axis=1) * np.linalg.norm(template)
        out[whole] = np.divide(beats @ template, length, out=np.zeros(len(beats)), where=length > 0)
    return out
