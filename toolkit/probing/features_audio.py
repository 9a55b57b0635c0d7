"""Hand-crafted features of a sound: statistics of its log-mel spectrogram, its cepstrum and its spectral shape."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, next_fast_len, rfft

from readers.schema import SignalSample, effective
from toolkit.probing.waves import MIN_VALID

Array = NDArray[np.float64]

FRAME_S, HOP_S = 0.032, 0.016
MOST_FRAMES = 4096  # in a window of more than a minute the frames lie further apart
MELS, CEPSTRA = 40, 20
LOWEST_HZ, HIGHEST_HZ = 150.0, 16000.0  # below is mostly wind, above nothing where the rate is 32 kHz
MEL_RANGE_DB = 40.0  # under the loudest; a wider range describes the place's noise more than who sings
SPECTRUM_RANGE_DB = 100.0  # so that digital silence is not an outlier
FLOOR = 1e-12  # of full scale, as power
CONTRAST_EDGES_HZ = (150.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0)
ONSET_DB, ONSET_FRAMES = 6.0, 6  # an onset stands this much above the quietest of this many frames before it

SHAPES = ("centroid_log", "bandwidth_log", "rolloff_85_log", "flatness_log", "level_log", "rise")
OVER_TIME = ("mean", "std", "p10", "p90")
CONTRASTS = len(CONTRAST_EDGES_HZ) - 1

AUDIO_NAMES = (
    *(f"mel_{i}_{over}" for over in OVER_TIME for i in range(MELS)),
    *(f"mfcc_{i}_{over}" for over in ("mean", "std", "change") for i in range(CEPSTRA)),
    *(f"{name}_{over}" for over in OVER_TIME for name in SHAPES),
    *(f"contrast_{i}" for i in range(CONTRASTS)),
    "zero_crossings_log",
    "onsets_per_s",
)


def audio_features(sample: SignalSample) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Log-mel, cepstral and spectral statistics of a window of sound: (features float32 (F,), their names).

    Power spectra of frames of 32 ms every 16 ms, averaged over the usable channels (valid for at least half); frames
    that are not wholly valid are passed over. 40 mels from 150 Hz to 16 kHz as natural logarithms of power, limited
    to 40 dB under the loudest, against the window's mean level, so that a louder copy differs only in ``level_log``.
    Mels above half the rate take the window's lowest value: F and the meaning of a mel do not depend on the rate.
    ``change`` is the mean absolute difference from frame to frame. All NaN where no frame is valid (also in a window
    under 32 ms).
    """
    frames = _frames(sample)
    if not frames.size:
        return np.full(len(AUDIO_NAMES), np.nan, dtype=np.float32), AUDIO_NAMES
    power, hz = _power(frames, sample.rate_hz)
    mels = _log_mels(power, hz)
    level = mels.mean()
    cepstra = dct(mels - level, axis=1, norm="ortho")[:, :CEPSTRA]
    rise = np.maximum(np.diff(mels, axis=0, prepend=mels[:1]), 0).mean(axis=1)
    shapes = np.column_stack([_shapes(power, hz), mels.mean(axis=1), rise])
    change = np.abs(np.diff(cepstra, axis=0, prepend=cepstra[:1])).mean(axis=0)
    signs = np.signbit(frames)
    crossings = float(np.mean(signs[..., 1:] != signs[..., :-1])) * sample.rate_hz
    seconds = max(len(mels) * _hop(sample) / sample.rate_hz, FRAME_S)
    parts = [_over_time(mels - level), cepstra.mean(axis=0), cepstra.std(axis=0), change, _over_time(shapes)]
    parts += [_contrast(power, hz), np.array([np.log1p(crossings), _onsets(power) / seconds])]
    return np.concatenate(parts).astype(np.float32), AUDIO_NAMES


def _hop(sample: SignalSample) -> int:
    length = sample.values.shape[1]
    return max(1, round(HOP_S * sample.rate_hz), -(-length // MOST_FRAMES))


def _frames(sample: SignalSample) -> NDArray[np.float32]:
    """Wholly valid frames of the usable channels, (frames, C, samples of a frame)."""
    size = max(2, round(FRAME_S * sample.rate_hz))
    if sample.values.shape[1] < size:
        return np.empty((0, 0, size), dtype=np.float32)
    kept = [i for i in effective(sample.channels, ["audio"]) if sample.valid[i].mean() >= MIN_VALID]
    if not kept:
        return np.empty((0, 0, size), dtype=np.float32)
    waves, hop = sample.values[kept], _hop(sample)
    bad = np.concatenate([[0], np.cumsum(~sample.valid[kept].all(axis=0))])
    starts = np.arange(0, waves.shape[1] - size + 1, hop)
    starts = starts[bad[starts + size] == bad[starts]]
    return np.lib.stride_tricks.sliding_window_view(waves, size, axis=1)[:, starts].swapaxes(0, 1)


def _power(frames: NDArray[np.float32], rate_hz: float) -> tuple[Array, Array]:
    """Power spectra (frames, bins) over LOWEST_HZ to HIGHEST_HZ, mean over channels, and the bins' frequencies."""
    size = frames.shape[-1]
    points = next_fast_len(size, real=True)
    window = np.hanning(size).astype(np.float32)
    spectrum = rfft(frames * window, points, axis=-1)
    hz = np.arange(spectrum.shape[-1]) * rate_hz / points
    inside = (hz >= min(LOWEST_HZ, rate_hz / 4)) & (hz <= HIGHEST_HZ)
    power = np.mean(np.abs(spectrum[..., inside]) ** 2, axis=1, dtype=np.float64) / float(np.sum(window**2))
    return np.maximum(power, max(FLOOR, float(power.max()) * 10 ** (-SPECTRUM_RANGE_DB / 10))), hz[inside]


def _log_mels(power: Array, hz: Array) -> Array:
    """(frames, bins) -> (frames, MELS), natural logarithms of power."""
    bank = _mel_bank(tuple(hz))
    mels = np.log(power @ bank.T + FLOOR)
    mels = np.maximum(mels, mels.max() - MEL_RANGE_DB * np.log(10) / 10)
    reached = bank.any(axis=1)
    mels[:, ~reached] = mels[:, reached].min()
    return mels


@functools.lru_cache(maxsize=8)
def _mel_bank(hz: tuple[float, ...]) -> Array:
    """Triangles evenly spaced in mel, (MELS, bins), each of sum 1; rows of zeros above the last bin."""
    bins = np.array(hz)
    edges = 700 * (np.exp(np.linspace(np.log1p(LOWEST_HZ / 700), np.log1p(HIGHEST_HZ / 700), MELS + 2)) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    bank[centre[:, 0] > bins[-1]] = 0
    narrow = np.flatnonzero((bank.sum(axis=1) == 0) & (centre[:, 0] <= bins[-1]))  # between two bins: the nearest one
    bank[narrow, np.abs(bins - centre[narrow]).argmin(axis=1)] = 1
    return bank / np.maximum(bank.sum(axis=1, keepdims=True), 1e-12)


def _shapes(power: Array, hz: Array) -> Array:
    """(frames, 4): centroid, bandwidth and 85 % roll-off as logarithms of Hz, and logarithm of the flatness."""
    share = power / power.sum(axis=1, keepdims=True)
    centroid = share @ hz
    bandwidth = np.sqrt(np.maximum(share @ hz**2 - centroid**2, 1.0))
    rolloff = hz[np.argmax(np.cumsum(share, axis=1) >= 0.85, axis=1)]
    flatness = np.log(share).mean(axis=1) + np.log(len(hz))
    return np.column_stack([np.log(centroid), np.log(bandwidth), np.log(np.maximum(rolloff, 1.0)), flatness])


def _contrast(power: Array, hz: Array) -> Array:
    """(CONTRASTS,): mean over time of the logarithm of peaks over valleys in each band, 0 in a band out of reach."""
    found = np.zeros(CONTRASTS)
    for i, (low, high) in enumerate(itertools.pairwise(CONTRAST_EDGES_HZ)):
        band = power[:, (hz >= low) & (hz < high)]
        if band.shape[1] >= 4:
            ordered = np.sort(band, axis=1)
            part = max(1, band.shape[1] // 10)
            found[i] = np.mean(np.log(ordered[:, -part:].mean(axis=1) / ordered[:, :part].mean(axis=1)))
    return found


def _onsets(power: Array) -> int:
    """How many times the power of all bins together starts to stand out from the frames before."""
    level = 10 * np.log10(power.sum(axis=1))
    padded = np.concatenate([np.full(ONSET_FRAMES, level[0]), level])
    lowest = np.lib.stride_tricks.sliding_window_view(padded, ONSET_FRAMES + 1).min(axis=1)
    loud = level > lowest + ONSET_DB
    return int(np.sum(loud[1:] & ~loud[:-1]))


def _over_time(table: Array) -> Array:
    """(frames, K) -> (4 K,): OVER_TIME of each column."""
    return np.concatenate([table.mean(axis=0), table.std(axis=0), *np.percentile(table, [10, 90], axis=0)])
