"""Synthetic electroencephalograms of several people with eyes open and closed, with labels.

Every potential is that of a dipole in a spherical head (``toolkit.demo.scalp``): cortex under a skull, eyes and
temporal muscles outside it. Times are in seconds, potentials in microvolts, dipole moments in nA m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from toolkit.demo import scalp
from toolkit.demo.heart import band_noise
from toolkit.demo.labels import write_labels
from toolkit.demo.scalp import ELECTRODES, FloatArray, direction
from toolkit.errors import UsageError

RATES_HZ = (256, 200)  # of the two recorders, which take turns
LEAD_IN_S = 4.0  # simulated and cut off, so that no recording starts with the filter settling
WINDOW_S = 4.0
CONDITIONS = ("open", "closed")
NAMES = (*ELECTRODES, "EOG")
BLINK_S = 0.35
MAINS_HZ = 50.0
BACKGROUND = 240  # dipoles
EARS = np.array([scalp.RADIUS_M * direction(108, side) for side in (-90, 90)])  # the linked reference
# The vertical eye channel: above against below the right eye.
EYE_PAIR = np.array([scalp.RADIUS_M * direction(inclination, 20) for inclination in (76, 130)])
EYES = np.array([0.93 * scalp.RADIUS_M * direction(102, side) for side in (-20, 20)])


@dataclass(frozen=True)
class Subject:
    """What stays the same in all recordings of one person."""

    alpha_hz: float
    alpha_moment: float  # nA m of each occipital dipole with eyes closed
    reactivity: float  # alpha with eyes open over alpha with eyes closed
    mu_hz: float
    mu_moment: float
    beta_hz: float
    exponent: float  # the background's power falls as f to the -exponent
    background_moment: float
    blink_interval: float  # s
    blink_size: float  # uV at Fp1, about
    muscle: float  # nA m
    cap: FloatArray  # (3, 3), how the cap sits
    noise: FloatArray  # (20,) uV RMS of each channel's electrode
    hum: FloatArray  # (20,) uV of each channel's mains voltage


@dataclass(frozen=True)
class Simulation:
    """One recording: signals (T, 20) in uV in the order of ``NAMES``, and the onsets of its blinks in s."""

    signals: FloatArray
    blinks: FloatArray


def draw_subject(rng: np.random.Generator) -> Subject:
    """A person drawn within the normal range of an awake adult, and how the cap was put on."""
    turn = np.deg2rad(rng.normal(0, 2.5, 3))
    skew = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
    rotation, _ = np.linalg.qr(np.eye(3) + skew)
    noise = rng.uniform(0.4, 1.0, len(NAMES))
    noise[rng.integers(len(ELECTRODES))] *= rng.uniform(2, 5)  # one electrode has dried
    return Subject(
        alpha_hz=rng.uniform(8.6, 11.6),
        alpha_moment=rng.uniform(7, 17),
        reactivity=rng.uniform(0.2, 0.5),
        mu_hz=rng.uniform(9.5, 11.5),
        mu_moment=rng.uniform(2.5, 6),
        beta_hz=rng.uniform(17, 24),
        exponent=rng.uniform(1.0, 1.5),
        background_moment=rng.uniform(10, 15),
        blink_interval=rng.uniform(2.8, 6.0),
        blink_size=rng.uniform(70, 150),
        muscle=rng.uniform(0.2, 0.7),
        cap=rotation * np.sign(np.diag(rotation)),
        noise=noise,
        hum=rng.uniform(0.3, 2.0, len(NAMES)) * rng.uniform(0.5, 2.0),
    )


def power_law_noise(
    times: FloatArray, exponent: float, count: int, rng: np.random.Generator, corner_hz: float = 0.7
) -> FloatArray:
    """Gaussian noise (T, count), each of variance 1: its power falls as f to the -exponent above ``corner_hz``."""
    frequency = np.fft.rfftfreq(len(times), times[1] - times[0])
    spectrum = rng.normal(size=(len(frequency), count)) + 1j * rng.normal(size=(len(frequency), count))
    spectrum *= np.maximum(frequency, corner_hz)[:, None] ** (-exponent / 2) * (frequency > 0)[:, None]
    noise = np.fft.irfft(spectrum, len(times), axis=0)
    return np.asarray(noise / noise.std(axis=0))


def narrow_band(times: FloatArray, centre_hz: float, width_hz: float, rng: np.random.Generator) -> np.ndarray:
    """A complex rhythm (T,) that waxes and wanes: its spectrum is a Gaussian of deviation ``width_hz``.

    The real part has variance 1; the envelope is Rayleigh distributed and changes over about 0.4 / width seconds.
    """
    frequency = np.fft.fftfreq(len(times), times[1] - times[0])
    spectrum = rng.normal(size=len(times)) + 1j * rng.normal(size=len(times))
    rhythm = np.fft.ifft(spectrum * np.exp(-0.5 * ((frequency - centre_hz) / width_hz) ** 2))
    return np.asarray(rhythm / max(float(rhythm.real.std()), 1e-12))


def cortical(places: FloatArray, directions: FloatArray, subject: Subject) -> FloatArray:
    """Gains (19, N) in uV per nA m of cortical dipoles under the cap, against linked ears."""
    electrodes = np.concatenate((scalp.electrode_positions() @ subject.cap.T, EARS))
    volts = scalp.layered_potential(electrodes, places, directions)
    return np.asarray(volts[:-2] - volts[-2:].mean(axis=0)) * 1e-3


def superficial(places: FloatArray, directions: FloatArray, subject: Subject) -> FloatArray:
    """Gains (20, N) in uV per nA m of dipoles outside the skull, the eye channel included."""
    electrodes = np.concatenate((scalp.electrode_positions() @ subject.cap.T, EARS, EYE_PAIR))
    volts = scalp.homogeneous_potential(electrodes, places, directions)
    eye = volts[-2] - volts[-1]
    return np.concatenate((volts[:-4] - volts[-4:-2].mean(axis=0), eye[None])) * 1e-3


def patch(
    inclination: float, azimuth: float, spread: float, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Places (count, 3) and directions of dipoles around a spot of the cortex; ``spread`` and angles in degrees."""
    angles = zip(rng.normal(inclination, spread, count), rng.normal(azimuth, spread, count), strict=True)
    outwards = np.array([direction(*pair) for pair in angles])
    tilted = outwards + rng.normal(0, 0.35, (count, 3))
    depth = rng.uniform(0.78, 0.86, (count, 1)) * scalp.RADIUS_M
    return depth * outwards, tilted / np.linalg.norm(tilted, axis=1, keepdims=True)


def background(times: FloatArray, subject: Subject, anatomy: np.random.Generator, rng: np.random.Generator) -> FloatArray:
    """Ongoing activity (T, 19) without a rhythm, of dipoles all over the cortex."""
    outwards = anatomy.normal(size=(BACKGROUND, 3))
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    outwards[:, 2] = np.where(outwards[:, 2] < -0.4, -outwards[:, 2], outwards[:, 2])  # no cortex at the neck
    facing = outwards + anatomy.normal(0, 0.6, (BACKGROUND, 3))
    facing /= np.linalg.norm(facing, axis=1, keepdims=True)
    places = outwards * anatomy.uniform(0.6, 0.86, (BACKGROUND, 1)) * scalp.RADIUS_M
    waves = power_law_noise(times, subject.exponent, BACKGROUND, rng)
    return subject.background_moment * waves @ cortical(places, facing, subject).T


def alpha(times: FloatArray, subject: Subject, size: float, anatomy: np.random.Generator, rng: np.random.Generator) -> FloatArray:
    """The occipital rhythm (T, 19): dipoles of both hemispheres that mostly swing together, later to the front."""
    total = np.zeros((len(times), len(ELECTRODES)))
    common = narrow_band(times, subject.alpha_hz, 0.65, rng)
    for azimuth in (-155, 155):
        side = narrow_band(times, subject.alpha_hz, 0.65, rng)
        places, facing = patch(74, azimuth, 11, 8, anatomy)
        gains = cortical(places, facing, subject)
        for k in range(len(places)):
            own = narrow_band(times, subject.alpha_hz, 0.8, rng)
            wave = (0.75 * common + 0.55 * side + 0.37 * own) * np.exp(-1j * anatomy.normal(0, 0.3))
            # The rhythm is not quite a sine: a weak second harmonic sharpens its crests.
            shape = wave.real + 0.06 * (wave**2).real
            total += np.outer(size * subject.alpha_moment * shape, gains[:, k])
    return total


def sensorimotor(times: FloatArray, subject: Subject, anatomy: np.random.Generator, rng: np.random.Generator) -> FloatArray:
    """Mu (T, 19): an arch-shaped rhythm over each central area with beta locked to it, and frontal beta of its own."""
    total = np.zeros((len(times), len(ELECTRODES)))
    for inclination, azimuth, moment in ((38, -85, 1.0), (38, 85, 1.0), (45, -25, 0.0), (45, 25, 0.0)):
        places, facing = patch(inclination, azimuth, 6, 5, anatomy)
        arch = narrow_band(times, subject.mu_hz, 0.7, rng)
        beta = narrow_band(times, subject.beta_hz, 1.2, rng).real
        wave = moment * (arch.real + 0.15 * (arch**2).real) + 0.5 * beta
        total += subject.mu_moment * np.outer(wave, cortical(places, facing, subject).sum(axis=1))
    return total


def blink_shape(lag: FloatArray) -> FloatArray:
    """The eyelid's potential over time since its onset: 1 at 0.12 s, a steeper rise than fall, 0 outside 0 to 0.35 s."""
    inside = np.clip(lag / BLINK_S, 0, 1)
    peak = 0.12 / BLINK_S
    bent = inside ** (np.log(0.5) / np.log(peak))  # takes the peak to the middle
    return np.asarray(np.sin(np.pi * bent) ** 2)


def draw_blinks(subject: Subject, stop: float, rng: np.random.Generator) -> FloatArray:
    """Onsets in s, at intervals that are gamma distributed and never shorter than 0.8 s."""
    intervals = 0.8 + rng.gamma(2.0, (subject.blink_interval - 0.8) / 2, int(stop) + 2)
    onsets = np.cumsum(intervals) - rng.uniform(0, 0.8)
    return np.asarray(onsets[onsets < stop - BLINK_S])


def eyes(times: FloatArray, subject: Subject, condition: str, blinks: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Potentials (T, 20) of both eyes: blinks, and gaze that jumps when they are open and rolls when they are closed."""
    lids = sum((rng.uniform(0.75, 1.2) * blink_shape(times - onset) for onset in blinks), np.zeros(len(times)))
    lift = superficial(EYES, np.tile([0.0, 0.45, 0.89], (2, 1)), subject).sum(axis=1)
    turn = superficial(EYES, np.tile([1.0, 0.0, 0.0], (2, 1)), subject).sum(axis=1)
    if condition == "open":
        jumps = np.sort(rng.uniform(times[0], times[-1], max(1, int(len(times) * (times[1] - times[0]) / 2.5))))
        gaze = rng.normal(0, 12, (len(jumps) + 1, 2))[np.searchsorted(jumps, times)]  # uV, across and up
    else:
        gaze = np.column_stack([amount * band_noise(times, 0.15, 0.5, rng) for amount in (10.0, 4.0)])
    unit = lift / lift[0]  # 1 uV at Fp1
    across = turn / np.abs(turn).max()
    return np.outer(subject.blink_size * lids + 0.5 * gaze[:, 1], unit) + np.outer(gaze[:, 0], across)


def muscle(times: FloatArray, subject: Subject, rng: np.random.Generator) -> FloatArray:
    """Temporal muscles (T, 20), 20 to 95 Hz: a steady tone, and on some seconds a burst."""
    total = np.zeros((len(times), len(NAMES)))
    for azimuth in (-95, -70, 70, 95):
        place = 0.96 * scalp.RADIUS_M * direction(78, azimuth)
        along = np.cross(place, (0.0, 1.0, 0.0)) / np.linalg.norm(place)
        tone = np.exp(0.5 * band_noise(times, 0.05, 0.5, rng)) + 4 * np.clip(band_noise(times, 0.2, 1.5, rng) - 1.8, 0, None)
        wave = subject.muscle * tone * band_noise(times, 20.0, 95.0, rng, slope=0.3)
        total += np.outer(wave, superficial(place[None], along[None], subject)[:, 0])
    return total


def electrode_noise(times: FloatArray, subject: Subject, rng: np.random.Generator) -> FloatArray:
    """Amplifier noise, slow skin potentials and mains hum (T, 20), all independent between electrodes but for the hum's phase."""
    phase = rng.uniform(0, 2 * np.pi) + 0.3 * rng.normal(size=len(NAMES))
    hum = np.sin(2 * np.pi * MAINS_HZ * times[:, None] + phase) * subject.hum
    slow = power_law_noise(times, 2.0, len(NAMES), rng, corner_hz=0.15)
    return np.asarray(hum + 0.6 * subject.noise * rng.normal(size=hum.shape) + 2.0 * subject.noise * slow)


def simulate(subject: Subject, condition: str, seconds: float, rate_hz: float, seed: Sequence[int]) -> Simulation:
    """Record ``seconds`` of one of ``CONDITIONS``; ``seed`` is (seed, subject), so both conditions share a cortex."""
    if condition not in CONDITIONS:
        raise ValueError(f"unknown condition '{condition}'; known: {', '.join(CONDITIONS)}")
    anatomy = np.random.default_rng([*seed, 1])
    rng = np.random.default_rng([*seed, 2, CONDITIONS.index(condition)])
    times = np.arange(-round(LEAD_IN_S * rate_hz), round(seconds * rate_hz)) / rate_hz
    size = subject.reactivity if condition == "open" else 1.0
    blinks = draw_blinks(subject, seconds, rng) if condition == "open" else np.empty(0)
    brain = background(times, subject, anatomy, rng) + alpha(times, subject, size, anatomy, rng)
    brain += sensorimotor(times, subject, anatomy, rng)
    total = eyes(times, subject, condition, blinks, rng) + muscle(times, subject, rng) + electrode_noise(times, subject, rng)
    total[:, : len(ELECTRODES)] += brain
    total[:, -1] += 0.2 * brain[:, ELECTRODES.index("Fp2")]  # the eye channel sees a little of the frontal lobe
    stages = signal.butter(1, 0.3, "highpass", fs=rate_hz, output="sos")  # the amplifier's input
    return Simulation(np.asarray(signal.sosfilt(stages, total, axis=0))[times >= 0], blinks)


def write_recording(path: Path, subject_name: str, simulation: Simulation, rate_hz: float) -> Path:
    """Write one simulation as EDF+ with its blinks as annotations; returns the file's path."""
    from readers.edf import create_edf  # here, so that the simulation alone needs no file format
    from readers.schema import Event

    return create_edf(
        path,
        simulation.signals,
        rate_hz,
        NAMES,
        ["uV"] * len(NAMES),
        events=[Event(float(onset), BLINK_S, "blink") for onset in simulation.blinks],
        patient=f"{subject_name} X X X",
        equipment="synthetic",
    )


def generate(folder: Path, *, subjects: int = 8, seconds: float = 60.0, seed: int = 0) -> Path:
    """Write recordings with eyes open and closed of every subject to ``folder`` and return the path of ``labels.csv``.

    The labels have one row per 4 s window (``path,label,subject,start,stop``, path relative to the file). The
    same seed gives the same files. Asking for more subjects leaves the simulation of the earlier ones as it is.
    """
    if subjects < 1 or seconds < WINDOW_S:
        raise UsageError(f"A demo needs at least one subject and {WINDOW_S:g} s: got {subjects} and {seconds:g} s.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[str | float]] = []
    for index in range(subjects):
        name = f"s{index + 1:02d}"
        subject = draw_subject(np.random.default_rng([seed, index]))
        rate_hz = RATES_HZ[index % len(RATES_HZ)]
        for condition in CONDITIONS:
            simulation = simulate(subject, condition, seconds, rate_hz, (seed, index))
            path = write_recording(folder / f"{name}_{condition}.edf", name, simulation, rate_hz)
            starts = WINDOW_S * np.arange(int(seconds // WINDOW_S))
            rows += [(path.name, condition, name, float(start), float(start + WINDOW_S)) for start in starts]
    return write_labels(folder, ("path", "label", "subject", "start", "stop"), rows)
