"""Sound outdoors: how syllables are made, how they reach a microphone, and what else it hears.

Times are in seconds, frequencies in Hz, distances in m; a sound pressure of 1 is a bird's at 1 m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.interpolate import PchipInterpolator

from toolkit.demo.heart import band_noise

FloatArray = NDArray[np.float64]

RATE_HZ = 44100
CRITICAL_M = 30.0  # where direct and scattered sound are equally strong
LOWEST_HZ = 20.0  # of noise


@dataclass(frozen=True)
class Syllable:
    """One element of a song: a frequency contour with harmonics and a trill."""

    contour: tuple[float, ...]  # Hz at evenly spaced times, joined smoothly
    seconds: float
    harmonics: tuple[float, ...] = (1.0,)  # amplitudes of the fundamental and its multiples
    trill_hz: float = 0.0  # rate of the amplitude's modulation
    trill_depth: float = 0.0
    level: float = 1.0

    def frequency(self, times: FloatArray) -> FloatArray:
        """The fundamental's frequency (T,) at seconds since the onset."""
        if len(self.contour) == 1:
            return np.full(len(times), self.contour[0])
        knots = np.linspace(0, self.seconds, len(self.contour))
        return np.asarray(PchipInterpolator(knots, self.contour)(np.clip(times, 0, self.seconds)))


def sing(syllable: Syllable, pitch: float = 1.0) -> FloatArray:
    """Waveform (T,) of a syllable at 1 m, all frequencies times ``pitch``; harmonics above 0.45 of the rate are left out.

    The phase is the integral of the contour, so the instantaneous frequency is the contour itself.
    """
    times = np.arange(round(syllable.seconds * RATE_HZ)) / RATE_HZ
    frequency = pitch * syllable.frequency(times)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE_HZ
    audible = [np.where(k * frequency < 0.45 * RATE_HZ, a, 0.0) for k, a in enumerate(syllable.harmonics, 1)]
    wave = sum((a * np.sin(k * phase) for k, a in enumerate(audible, 1)), np.zeros(len(times)))
    edge = min(0.012, syllable.seconds / 3)
    envelope = np.minimum(1, np.minimum(times, times[-1] - times) / edge) * np.exp(-0.8 * times / syllable.seconds)
    trill = 1 - syllable.trill_depth * (0.5 - 0.5 * np.cos(2 * np.pi * syllable.trill_hz * times))
    return np.asarray(syllable.level * np.sin(np.pi / 2 * envelope) ** 2 * trill * wave / sum(syllable.harmonics))


def air_absorption(frequency: FloatArray, celsius: float = 15.0, humidity: float = 60.0) -> FloatArray:
    """Attenuation in dB per m of pure tones in air at one atmosphere, by ISO 9613-1; ``humidity`` is relative, in %."""
    kelvin = celsius + 273.15
    warm = kelvin / 293.15
    vapour = humidity * 10 ** (4.6151 - 6.8346 * (273.16 / kelvin) ** 1.261)  # molar concentration in %
    oxygen = 24 + 4.04e4 * vapour * (0.02 + vapour) / (0.391 + vapour)
    nitrogen = warm**-0.5 * (9 + 280 * vapour * np.exp(-4.170 * (warm ** (-1 / 3) - 1)))
    square = np.asarray(frequency, np.float64) ** 2
    classical = 1.84e-11 * np.sqrt(warm)
    by_oxygen = 0.01275 * np.exp(-2239.1 / kelvin) / (oxygen + square / oxygen)
    by_nitrogen = 0.1068 * np.exp(-3352.0 / kelvin) / (nitrogen + square / nitrogen)
    return np.asarray(8.686 * square * (classical + warm**-2.5 * (by_oxygen + by_nitrogen)))


def travel(wave: FloatArray, metres: float) -> FloatArray:
    """A wave (T,) from 1 m as it is at ``metres``: spherical spreading and absorption by air; the delay is left out."""
    frequency = np.asarray(np.fft.rfftfreq(len(wave), 1 / RATE_HZ), np.float64)
    loss = 10 ** (-air_absorption(frequency) * (metres - 1) / 20) / metres
    return np.asarray(np.fft.irfft(np.fft.rfft(wave) * loss, len(wave)))


def echoes(decay_s: float, rng: np.random.Generator) -> FloatArray:
    """Impulse response (T,) of trunks and leaves: Gaussian noise of energy 1 that falls by 60 dB in ``decay_s``."""
    times = np.arange(round(decay_s * RATE_HZ)) / RATE_HZ
    tail = rng.normal(size=len(times)) * 10 ** (-3 * times / decay_s)
    return np.asarray(tail / np.linalg.norm(tail))


def reverberant(wave: FloatArray, metres: float, decay_s: float, rng: np.random.Generator) -> FloatArray:
    """A wave with its echoes, of the same length: direct and scattered energy are equal at ``CRITICAL_M``."""
    tail = echoes(decay_s, rng)
    return np.asarray(wave + (metres / CRITICAL_M) * signal.fftconvolve(wave, tail)[: len(wave)])


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise (T,) of variance 1 whose power falls as f to the -exponent above ``LOWEST_HZ``, silent below."""
    return band_noise(np.arange(samples) / RATE_HZ, LOWEST_HZ, np.inf, rng, slope=exponent / 2)


def slow(samples: int, highest_hz: float, rng: np.random.Generator) -> FloatArray:
    """A slow random course (T,) of variance about 1, between 0 and ``highest_hz``."""
    knots = max(4, int(samples / RATE_HZ * 2 * highest_hz) + 2)
    return np.asarray(np.interp(np.linspace(0, knots - 1, samples), np.arange(knots), rng.normal(size=knots)))


@dataclass(frozen=True)
class Place:
    """What one recordist's recordings have in common."""

    noise: float  # RMS of the noise of leaves and far traffic
    exponent: float  # of its power spectrum
    wind: float  # RMS of gusts at the microphone
    insect_hz: float
    insect_rate: float  # pulses per s
    insect: float  # amplitude, 0 for none
    decay_s: float  # of the echoes
    low_cut_hz: float  # of the recorder
    peak: float  # of the recording, of 1


def draw_place(rng: np.random.Generator) -> Place:
    """A wood or a meadow and a recorder with its settings."""
    return Place(
        noise=10 ** rng.uniform(-2.8, -2.1),
        exponent=rng.uniform(0.7, 1.4),
        wind=10 ** rng.uniform(-2.9, -1.6),
        insect_hz=rng.uniform(6500, 12000),
        insect_rate=rng.uniform(18, 60),
        insect=float(rng.choice((0.0, 1.0))) * 10 ** rng.uniform(-2.9, -2.1),
        decay_s=rng.uniform(0.25, 1.1),
        low_cut_hz=rng.uniform(60, 250),
        peak=rng.uniform(0.2, 0.8),
    )


def insects(samples: int, place: Place, rng: np.random.Generator) -> FloatArray:
    """A chorus of stridulating insects (T,): narrow-band noise in pulses, with pauses."""
    band = (0.96 * place.insect_hz, 1.04 * place.insect_hz)
    carrier = signal.sosfilt(signal.butter(2, band, "bandpass", fs=RATE_HZ, output="sos"), rng.normal(size=samples))
    times = np.arange(samples) / RATE_HZ
    pulses = np.clip(np.sin(2 * np.pi * place.insect_rate * times + rng.uniform(0, 2 * np.pi)), 0, None)
    pauses = 1 / (1 + np.exp(-4 * (slow(samples, 0.4, rng) + 0.4)))
    return np.asarray(place.insect * pulses * pauses * carrier / carrier.std())


def surroundings(samples: int, place: Place, rng: np.random.Generator) -> FloatArray:
    """Everything but birds (T,): leaves and traffic, gusts of wind at the microphone, insects."""
    wind = coloured_noise(samples, 3.0, rng) * np.exp(0.8 * slow(samples, 0.5, rng))
    leaves = coloured_noise(samples, place.exponent, rng) * np.exp(0.15 * slow(samples, 0.5, rng))
    total = place.noise * leaves + place.wind * wind
    return total + insects(samples, place, rng) if place.insect else total


def mix(samples: int, parts: Sequence[tuple[float, FloatArray]]) -> FloatArray:
    """Waves at their onsets in s, added up in ``samples``; what lies outside is cut off."""
    total = np.zeros(samples)
    for onset, wave in parts:
        first = round(onset * RATE_HZ)
        low, high = max(0, first), min(samples, first + len(wave))
        if low < high:
            total[low:high] += wave[low - first : high - first]
    return total
