"""From log-mel energies to a waveform that fits into a gap: power spectra, phases, rate, and a join without a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft as fourier
from scipy import signal

from readers.schema import BoolArray
from toolkit.model.tokenizers.spectrogram import FLOOR, PREEMPHASIS
from toolkit.restoration.spans import runs

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
SPREADS = 20  # multiplicative updates from mel energies to power spectra; more change the fit by less than 0.1 dB
ITERATIONS = 48  # of Griffin-Lim
MOMENTUM = 0.99  # Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013
BLOCK = 1000  # frames whose phases are found at once; longer gaps are filled block by block
LEAST = 1e-12  # power of a bin that counts as none
LIGHTEST = 0.05  # sums of squared windows below this are at the ends of a stretch, outside every gap
SINC_PERIODS = 32  # half the length of the interpolating filter, in periods of the slower grid
WEIGHTS = 1 << 19  # of the interpolating filter, held at once
ORDER = 64  # of the linear prediction that continues the sound into a gap


@dataclass(frozen=True)
class Spectra:
    """Frames of ``frame`` samples every ``hop``, transformed over ``fft`` points and weighted by ``filters`` (bins, mels).

    ``reference`` (bins,) is the mean power spectrum around the gap: within a mel band the energy is spread as there.
    """

    frame: int
    hop: int
    fft: int
    filters: Float32
    reference: Float32

    def magnitudes(self, mel: Float64) -> Float32:
        """Log-mel energies (K, mels) to magnitudes (K, bins) of frames without pre-emphasis.

        Energies are non-negative and found by multiplicative updates (Lee and Seung, NIPS 2000, for the Kullback-Leibler
        divergence) from the reference. A band at the floor of the filterbank is silent, or as quiet as the surroundings are
        where those lie under the floor too.
        """
        response = emphasis(self.fft)
        start = np.maximum(self.reference * response, LEAST)
        around = start @ self.filters
        energy = np.exp(np.minimum(mel, 40.0)).astype(np.float32)
        energy = np.where(mel < np.log(FLOOR) + 1, np.minimum(energy, around), energy)
        energy = np.where((mel <= np.log(FLOOR) + 1e-3) & (around > FLOOR), np.float32(0), energy)
        weight = self.filters.sum(axis=1)
        reached = weight > 0
        power = np.tile(start, (len(mel), 1))
        for _ in range(SPREADS):
            ratio = energy / np.maximum(power @ self.filters, 1e-12)
            power[:, reached] *= (ratio @ self.filters[reached].T) / weight[reached]
        magnitudes: Float32 = np.sqrt(power / response, dtype=np.float32)
        return magnitudes

    def places(self, frames: int) -> NDArray[np.int64]:
        """Samples of each frame, (frames, frame)."""
        return np.arange(frames)[:, None] * self.hop + np.arange(self.frame)


def emphasis(fft: int) -> Float32:
    """Power response of the pre-emphasis at each bin (fft / 2 + 1,)."""
    turn = np.exp(-2j * np.pi * np.arange(fft // 2 + 1) / fft)
    return (np.abs(1 - PREEMPHASIS * turn) ** 2).astype(np.float32)


def fill(wave: Float64, hidden: BoolArray, mel: Float64, spectra: Spectra, rng: np.random.Generator) -> Float64:
    """The wave (T,) with its hidden samples made from the log-mel energies (K, mels) of frames k * hop.

    Frames without a hidden sample keep their true magnitudes and phases, because their samples stay as they are.
    """
    made, open_, hop, frame = wave.copy(), hidden.copy(), spectra.hop, spectra.frame
    counted, begins = np.concatenate([[0], np.cumsum(hidden)]), np.arange(len(mel)) * hop
    for first, stop in runs(counted[begins + frame] > counted[begins]):
        last = first
        while last < stop:
            # Later blocks see what the ones before have made; frames over the border are found again.
            first, last = max(first, last - (frame - 1) // hop), min(max(first, last) + BLOCK, stop)
            stretch = slice(first * hop, (last - 1) * hop + frame)
            magnitudes = spectra.magnitudes(mel[first:last])
            made[stretch] = griffin_lim(made[stretch], open_[stretch], magnitudes, spectra, rng)
            open_[stretch.start : last * hop] = False
    return made


def griffin_lim(wave: Float64, hidden: BoolArray, magnitudes: Float32, spectra: Spectra, rng: np.random.Generator) -> Float64:
    """The stretch (T,) whose hidden samples have nearly the magnitudes (K, bins), the others held at their true values."""
    places = spectra.places(len(magnitudes))
    window = np.hanning(spectra.frame).astype(np.float32)
    weight = np.maximum(_overlapped(np.tile(window**2, (len(places), 1)), places, spectra, len(wave)), LIGHTEST)
    x = wave.astype(np.float32)
    turns = np.exp(2j * np.pi * rng.random(magnitudes.shape)).astype(np.complex64)
    last: NDArray | None = None
    for _ in range(ITERATIONS + 1):
        frames = fourier.irfft(magnitudes * turns, spectra.fft, axis=1)[:, : spectra.frame] * window
        x[hidden] = (_overlapped(frames, places, spectra, len(wave)) / weight)[hidden]
        found = fourier.rfft(x[places] * window, spectra.fft, axis=1)
        ahead = found if last is None else found + MOMENTUM * (found - last)
        turns, last = ahead / np.maximum(np.abs(ahead), np.float32(1e-12)), found
    return np.where(hidden, x.astype(np.float64), wave)


def _overlapped(frames: NDArray, places: NDArray[np.int64], spectra: Spectra, length: int) -> Float32:
    """Frames (K, frame) added up where they lie, (length,)."""
    total = np.zeros(length, np.float32)
    apart = -(-spectra.frame // spectra.hop)  # frames so many steps from one another do not overlap
    for first in range(apart):
        total[places[first::apart]] += frames[first::apart]
    return total


def interpolate(wave: Float64, places: Float64, cutoff: float = 1.0) -> Float64:
    """The wave (T,) at fractional places (N,), in samples, by a Hann-windowed sinc; 0 outside the wave.

    ``cutoff`` is the highest frequency kept, as a share of half the wave's rate.
    """
    reach = round(SINC_PERIODS / cutoff)
    padded = np.pad(wave, reach + 1)
    taps = np.arange(-reach + 1, reach + 1)
    out = np.empty(len(places))
    step = max(1, WEIGHTS // len(taps))
    for first in range(0, len(places), step):
        at = places[first : first + step]
        base = np.floor(at).astype(np.int64)
        away = taps - (at - base)[:, None]
        kernel = cutoff * np.sinc(cutoff * away) * (0.5 + 0.5 * np.cos(np.pi * away / (reach + 1)))
        index = np.clip(base[:, None] + taps + reach + 1, 0, len(padded) - 1)
        out[first : first + step] = (padded[index] * kernel).sum(axis=1)
    return out


def join(made: Float64, before: Float64, after: Float64, fade: int) -> Float64:
    """The made samples (T,), mixed near both ends with what continues the sound before and after them.

    ``before`` and ``after`` are the visible samples that adjoin the gap, empty where there are none. The made samples are
    alone from ``fade`` samples on either side; of a gap shorter than that little of them remains.
    """
    count = len(made)
    way = (np.arange(count) + 0.5) / count
    rise = np.sin(0.5 * np.pi * np.minimum(1.0, (np.arange(count) + 0.5) / max(fade, 1))) ** 2
    size = min(fade, count)
    total, weight = made.copy(), np.ones(count)
    ends = [(before, slice(None)), (after[::-1], slice(None, None, -1))]
    heard = [(known, turn) for known, turn in ends if len(known) > 2 and size]
    for _, turn in heard:
        weight *= rise[turn]
    total *= weight
    for known, turn in heard:
        share = ((1 - rise) * (1 - way if len(heard) > 1 else 1.0))[turn]
        follows = np.concatenate([continued(known, size), np.zeros(count - size)])[turn]
        total += share * follows
        weight += share
    return total / weight


def continued(known: Float64, count: int) -> Float64:
    """``count`` samples that follow the known ones by linear prediction with Burg's coefficients; never grows."""
    level = known.mean()
    centred = known - level
    coefficients = burg(centred, min(ORDER, len(known) // 3))
    state = signal.lfiltic([1.0], coefficients, centred[: -len(coefficients) : -1])
    return signal.lfilter([1.0], coefficients, np.zeros(count), zi=state)[0] + level


def burg(x: Float64, order: int) -> Float64:
    """Coefficients (order + 1,), the first 1, of the all-pole model by Burg's method; shorter where x is predicted exactly."""
    forward, backward = x[1:].copy(), x[:-1].copy()
    coefficients = np.ones(1)
    tiny = 1e-12 * float(x @ x)
    for _ in range(order):
        energy = float(forward @ forward + backward @ backward)
        if energy <= tiny:
            break
        reflection = -2 * float(forward @ backward) / energy
        padded = np.append(coefficients, 0.0)
        coefficients = padded + reflection * padded[::-1]
        forward, backward = (forward + reflection * backward)[1:], (backward + reflection * forward)[:-1]
    return coefficients
