"""Repaired sound: its log-spectral distance, the noise of the surroundings as a baseline, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.schema import Recording, SignalLike
from toolkit.report.pictures import SpectrogramPanel, spectrogram_png
from toolkit.restoration import metrics, spans
from toolkit.restoration.baselines import BASELINES
from toolkit.restoration.mender import Request, generator
from toolkit.restoration.repair import Repaired
from toolkit.restoration.signals import PICTURE_S, Baselines, SignalMended, SignalMender, SpanRepairer, spliced
from toolkit.restoration.spans import Span

Float64 = NDArray[np.float64]
SIZE, HOP = 2048, 512  # of the spectra that are compared, in samples of the channel
FLOOR_DB = -120.0  # a full-scale sine is 0; noise of 16-bit rounding is at -126
SURROUNDINGS_S = 1.0
SILENCE = 1e-16  # power of a sample, of full scale 1


class AudioMender(SignalMender):
    """Repairs spans of sound; ``highest_hz`` is what the repairer's model hears up to."""

    headline = "lsd"

    def __init__(self, repairer: SpanRepairer, highest_hz: float) -> None:
        super().__init__(repairer)
        self.highest_hz = highest_hz

    def mended(
        self, recording: SignalLike, repaired: Sequence[Repaired], usable: Sequence[int], request: Request, notes: list[str]
    ) -> AudioMended:
        """The result of a repair, with a word on what the model does not hear."""
        nyquists = sorted({spans.rate_of(recording, r.span) / 2 for r in repaired})
        notes = notes + [
            f"the model hears up to {self.highest_hz:g} Hz: from there to {nyquist:g} Hz repaired spans hold steady noise "
            "as in the second before and after"
            for nyquist in nyquists
            if nyquist > self.highest_hz
        ]
        return AudioMended(recording, repaired, usable, request, notes)


class AudioMended(SignalMended):
    """Repaired spans of one sound recording."""

    scale = "full scale is 1; levels are those of log-mel energies, the model's mixed with the surroundings' as each method says"

    @property
    def baselines(self) -> Baselines:
        """Those of other signals, and the noise of the surroundings."""
        return {**BASELINES, "noise of the surroundings": self._noise}

    def score(self, truth: Recording) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """As for other signals, with the log-spectral distance first; see ``log_spectral_distances``."""
        assert isinstance(truth, SignalLike)
        pieces = self._pieces(truth)
        estimates = {name: [make(self.recording, r) for r in self.repaired] for name, make in self.baselines.items()}
        rows = {name: [p.with_estimate(e) for p, e in zip(pieces, made, strict=True)] for name, made in estimates.items()}
        around = [_with_context(truth, r.span) for r in self.repaired]
        scored = {name: _table(some, around) for name, some in rows.items()}
        return _table(pieces, around), scored

    def _noise(self, recording: SignalLike, one: Repaired) -> Float64:
        """Stationary noise with the mean spectrum of the visible second before and after the span; seeded by its place."""
        mine = [r.span for r in self.repaired if r.span.channel == one.span.channel]
        return surrounding_noise(recording, one.span, mine, one.level)

    def draw(self, truth: Recording | None, path: Path) -> None:
        """Spectrograms before, after and of the truth around a long but not endless span."""
        recording = self.recording
        chosen = min(self.repaired, key=lambda r: abs(self._seconds(r) - 1.5)).span
        rate = spans.rate_of(recording, chosen)
        start, stop = spans.seconds(recording, chosen)
        low = max(0, round((start - PICTURE_S) * rate))
        high = min(recording.stored(chosen.channel), round((min(stop, start + 10.0) + PICTURE_S) * rate))
        before, after, hidden = spliced(recording, self.repaired, chosen.channel, low, high)
        panel: SpectrogramPanel = {
            "title": f"{recording.path.name}, {recording.channels[chosen.channel].name}",
            "rate_hz": rate,
            "start_s": low / rate,
            "before": before,
            "after": after,
            "truth": spans.stored_values(truth, chosen.channel, low, high) if isinstance(truth, SignalLike) else None,
            "hidden": hidden,
        }
        spectrogram_png(path, [panel])


def log_spectral_distances(truth: Float64, estimate: Float64, first: int, last: int) -> Float64:
    """Distance in dB of each frame whose middle lies in samples first..last, (frames,).

    LSD = sqrt(mean over bins of (10 log10 P - 10 log10 Q)^2) of the power spectra P and Q of both waves (T,), the distance
    of Gray and Markel, "Distance measures for speech processing", IEEE Trans. ASSP 24 (1976). Frames are 2048 samples
    under a Hann window every 512; a full-scale sine is 0 dB and powers are raised to at least -120 dB. A gap shorter than a
    hop has the one frame in its middle.
    """
    middles = np.arange(first + min(HOP, last - first) // 2, last, HOP)
    window = np.hanning(SIZE)
    level = []
    for wave in (truth, estimate):
        padded = np.pad(wave, SIZE)
        frames = padded[(middles + SIZE // 2)[:, None] + np.arange(SIZE)]
        power = np.abs(np.fft.rfft(frames * window)) ** 2 / (window.sum() / 2) ** 2
        level.append(10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10))))
    distances: Float64 = np.sqrt(((level[0] - level[1]) ** 2).mean(axis=1))
    return distances


def surrounding_noise(recording: SignalLike, span: Span, hidden: Sequence[Span], level: float, lowest_hz: float = 0.0) -> Float64:
    """Gaussian noise (T,) around ``level`` with the mean spectrum of what is visible in the second before and after.

    The mean is that of log power, raised by Euler's constant to noise of that log power: calls among it hardly count.

    ``hidden`` are the damaged spans of the channel. The noise starts at ``lowest_hz`` and is a function of the span.
    """
    rate = spans.rate_of(recording, span)
    reach, size = round(SURROUNDINGS_S * rate), SIZE // 2
    powers = [np.zeros((0, size // 2 + 1))]
    window = np.hanning(size)
    for a, b in ((span.start - reach, span.start), (span.stop, span.stop + reach)):
        low, high = max(0, a), min(recording.stored(span.channel), b)
        if high - low < size:
            continue
        wave = spans.visible_values(recording, hidden, span.channel, low, high)
        frames = np.lib.stride_tricks.sliding_window_view(wave, size)[:: size // 2]
        frames = frames[np.isfinite(frames).all(axis=1)] - level
        powers.append(np.abs(np.fft.rfft(frames * window)) ** 2)
    length = span.stop - span.start
    power = np.concatenate(powers) / (window**2).sum()
    if not len(power):
        return np.full(length, level)
    rng = generator(span.channel, span.start)
    white = np.fft.rfft(rng.standard_normal(length + size))
    density = np.exp(0.5 * (np.log(power + SILENCE).mean(axis=0) + np.euler_gamma))
    hz = np.linspace(0, rate / 2, len(white))
    white *= np.interp(hz, np.linspace(0, rate / 2, len(density)), density) * (hz >= lowest_hz)
    shaped = np.fft.irfft(white, length + size)
    return shaped[:length] + level


def _with_context(truth: SignalLike, span: Span) -> tuple[Float64, int]:
    """The truth from a frame before a span to a frame after it, and where the span starts in it."""
    low = max(0, span.start - SIZE)
    return spans.stored_values(truth, span.channel, low, min(truth.stored(span.channel), span.stop + SIZE)), span.start - low


def _table(pieces: Sequence[metrics.Piece], around: Sequence[tuple[Float64, int]]) -> dict[str, Any]:
    """The scores of all pieces with their mean log-spectral distance over frames, whole and by length."""
    found = [_distances(piece, *context) for piece, context in zip(pieces, around, strict=True)]
    table = metrics.table(pieces)
    rows = []
    for row in table["by_length"]:  # type: ignore[attr-defined]
        alone = row["channels"] == "one"
        low, high = row["longer_than_s"], row["up_to_s"]
        some = [d for p, d in zip(pieces, found, strict=True) if low < p.seconds <= high and p.alone == alone]
        rows.append({**row, "lsd": _mean(some)})
    return {"lsd": _mean(found), **table, "by_length": rows}


def _distances(piece: metrics.Piece, context: Float64, start: int) -> Float64:
    estimate = context.copy()
    estimate[start : start + len(piece.estimate)] = piece.estimate
    found = log_spectral_distances(context, estimate, start, start + len(piece.estimate))
    return found[np.isfinite(found)]  # where the truth is not known nothing is


def _mean(found: Sequence[Float64]) -> float:
    every = np.concatenate([np.zeros(0), *found])
    return float(every.mean()) if len(every) else float("nan")
