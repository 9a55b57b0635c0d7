"""A synthetic heart: rhythm, dipole, twelve leads, electrode noise and pulse wave (numpy and scipy).

The electrocardiogram follows the dynamical model ECGSYN (McSharry, Clifford, Tarassenko and Smith,
IEEE Trans Biomed Eng 50:289, 2003) in its form for a dipole (Sameni, Clifford, Jutten and Shamsollahi,
EURASIP J Adv Signal Process 2007:43407): the RR process drives a phase, every wave is a Gaussian
event of that phase with an amplitude vector, and the vertical coordinate relaxes to its baseline. Axes:
x to the left, y to the feet, z to the back. Times are in seconds, potentials in millivolts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

FloatArray = NDArray[np.float64]
Symbols = list[str]

RHYTHMS = ("sinus", "ectopic", "fibrillation")
ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

# Leads I, II, V1-V6 from the dipole: Dower, Machado and Osborne, Clin Cardiol 3:87, 1980.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

# One row per event: time from the R peak (s), standard deviation (s), amplitude vector x, y, z (mV).
ATRIAL = np.array(
    [  # the right atrium first (forwards, down), then the left (leftwards, back)
        [-0.165, 0.017, 0.045, 0.090, -0.055],
        [-0.135, 0.017, 0.080, 0.065, 0.040],
    ]
)
VENTRICULAR = np.array(
    [  # septum (right, forwards), free walls, base (back, up)
        [-0.023, 0.0085, -0.16, -0.07, -0.25],
        [0.000, 0.0105, 1.05, 0.88, 0.00],
        [0.022, 0.0115, -0.10, -0.16, 0.66],
    ]
)
REPOLARISATION = np.array(
    [  # two events make T rise slowly and fall fast; times are for an RR of 1 s
        [0.245, 0.055, 0.17, 0.09, -0.06],
        [0.305, 0.034, 0.25, 0.15, -0.10],
    ]
)
# Where premature beats arise, as the direction of their activation: outflow tract, right apex, left wall.
ECTOPIC_DIRECTIONS = np.array([[0.6, 1.2, 0.6], [1.1, -0.9, 0.6], [-0.7, 0.8, -0.8]])

RELAXATION_S = 3.2  # the relaxation to the baseline acts as the 0.05 Hz input stage of a diagnostic device


@dataclass(frozen=True)
class Subject:
    """What stays the same in all recordings of one person."""

    heart_rate: float  # beats per minute in sinus rhythm
    fibrillation_rate: float  # mean ventricular rate in fibrillation, beats per minute
    breath_hz: float
    rotation: FloatArray  # (3, 3), the heart's lie in the chest
    gains: tuple[float, float, float]  # of the P wave, the QRS complex and the T wave
    qrs_width: float  # factor on the QRS event times and widths
    pr_shift: float  # s, moves the P wave; negative for a longer PR interval
    qt: float  # factor on the QT interval
    ectopic: FloatArray  # (3,) mV, main activation of the premature beats
    coupling: float  # of the premature beats, as a fraction of the RR interval
    pulse_delay: float  # s, R peak to the foot of the pulse at the finger
    dicrotic: float  # amplitude of the reflected wave relative to the systolic one
    mains_hz: float


def draw_subject(rng: np.random.Generator) -> Subject:
    """A person drawn within the normal range of an adult at rest."""
    frontal, horizontal = np.deg2rad(rng.uniform((-18, -15), (18, 15)))
    c, s, ch, sh = np.cos(frontal), np.sin(frontal), np.cos(horizontal), np.sin(horizontal)
    frontal_turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    horizontal_turn = np.array([[ch, 0, -sh], [0, 1, 0], [sh, 0, ch]])
    direction = ECTOPIC_DIRECTIONS[rng.integers(3)] + rng.normal(0, 0.1, 3)
    return Subject(
        heart_rate=rng.uniform(56, 90),
        fibrillation_rate=rng.uniform(78, 120),
        breath_hz=rng.uniform(0.2, 0.3),
        rotation=frontal_turn @ horizontal_turn,
        gains=(rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.25), rng.uniform(0.75, 1.2)),
        qrs_width=rng.uniform(0.9, 1.12),
        pr_shift=rng.uniform(-0.03, 0.015),
        qt=rng.uniform(0.94, 1.06),
        ectopic=direction * rng.uniform(0.9, 1.3),
        coupling=rng.uniform(0.55, 0.68),
        pulse_delay=rng.uniform(0.20, 0.28),
        dicrotic=rng.uniform(0.25, 0.5),
        mains_hz=float(rng.choice((50.0, 60.0))),
    )


def respiration(times: FloatArray, subject: Subject, phase: float) -> FloatArray:
    """Breathing at ``times``, in -1 to 1; its rate wanders a little, as it does at rest."""
    wander = 0.6 * np.sin(2 * np.pi * 0.017 * times + 3 * phase)
    return np.asarray(np.sin(2 * np.pi * subject.breath_hz * times + phase + wander))


def sinus_beats(subject: Subject, start: float, stop: float, phase: float, rng: np.random.Generator) -> FloatArray:
    """R peaks of a sinus rhythm: the RR interval varies at about 0.1 Hz (vasomotion) and with the breath."""
    mean = 60.0 / subject.heart_rate
    slow_hz, slow_phase = rng.normal(0.1, 0.01, 6), rng.uniform(0, 2 * np.pi, 6)
    peaks = [start]
    while peaks[-1] < stop:
        now = peaks[-1]
        low = np.sin(2 * np.pi * slow_hz * now + slow_phase).sum() / np.sqrt(3)
        high = respiration(np.array([now]), subject, phase)[0]
        peaks.append(now + mean * (1 + 0.022 * low - 0.035 * high + 0.004 * rng.normal()))
    return np.array(peaks)


def ectopic_beats(
    sinus: FloatArray, subject: Subject, start: float, stop: float, rng: np.random.Generator
) -> tuple[FloatArray, Symbols]:
    """Premature ventricular beats in a sinus rhythm, single and in one spell of bigeminy.

    A premature beat takes the place of the sinus beat that finds the ventricles refractory. The beat
    after it keeps its time, because the sinus node is not reset: that is the compensatory pause.
    The spell and the first single beat fall within ``start`` to ``stop``.
    """
    peaks, symbols = sinus.copy(), ["N"] * len(sinus)
    inside = np.flatnonzero((sinus > start + 1.0) & (sinus < stop))  # still inside once it comes early
    if not len(inside):
        return peaks, symbols
    first = int(rng.choice(inside[: max(1, 2 * len(inside) // 3)]))
    chosen = set(range(first, first + 2 * int(rng.integers(3, 6)), 2))
    single = rng.random(len(sinus)) < 0.1
    chosen |= {int(k) for k in np.flatnonzero(single) if not chosen & {int(k) - 1, int(k), int(k) + 1}}
    for k in sorted(chosen):
        if 0 < k < len(sinus) and symbols[k - 1] == "N":
            coupling = subject.coupling + rng.normal(0, 0.015)
            peaks[k] = sinus[k - 1] + coupling * (sinus[k] - sinus[k - 1])
            symbols[k] = "V"
    return peaks, symbols


def fibrillation_beats(subject: Subject, start: float, stop: float, rng: np.random.Generator) -> FloatArray:
    """R peaks in atrial fibrillation: independent RR intervals above the refractory time of the AV node."""
    mean, shortest, variation = 60.0 / subject.fibrillation_rate, 0.33, 0.24
    shape = ((mean - shortest) / (variation * mean)) ** 2
    count = int(3 * (stop - start) / mean) + 10
    peaks = start + np.cumsum(shortest + rng.gamma(shape, (mean - shortest) / shape, count))
    return np.asarray(peaks[: int(np.searchsorted(peaks, stop)) + 1])


def rr_intervals(peaks: FloatArray) -> FloatArray:
    """The RR interval (s) that precedes each beat; the first beat is given that of the second."""
    rr = np.diff(peaks)
    return np.concatenate((rr[:1], rr))


def beat_events(symbol: str, rr: float, subject: Subject, atrial: bool) -> FloatArray:
    """The events of one beat, rows as in ``VENTRICULAR``, before the heart's rotation.

    ``rr`` (s) is the interval that repolarisation is adapted to: QT goes with its square root (Bazett), as
    in ECGSYN, while depolarisation does not depend on the rate, which a pure phase model would have it do.
    """
    stretch = subject.qt * np.sqrt(rr)
    if symbol == "V":  # no P wave, slow spread through muscle, T against the QRS complex
        d = subject.ectopic
        side = np.cross(d, (0.0, 0.0, 1.0))
        return np.array(
            [
                [-0.050, 0.017, *(0.30 * d + 0.25 * side)],
                [0.000, 0.028, *d],
                [0.055, 0.023, *(0.22 * d - 0.20 * side)],
                [0.310 * stretch, 0.062, *(-0.26 * d)],
                [0.375 * stretch, 0.042, *(-0.22 * d)],
            ]
        )
    p, qrs, t = ATRIAL.copy(), VENTRICULAR.copy(), REPOLARISATION.copy()
    p[:, 0] += subject.pr_shift
    qrs[:, :2] *= subject.qrs_width
    t[:, :2] *= stretch
    for block, gain in zip((p, qrs, t), subject.gains, strict=True):
        block[:, 2:] *= gain
    return np.concatenate((p, qrs, t) if atrial else (qrs, t))


def vcg(times: FloatArray, peaks: FloatArray, symbols: Symbols, subject: Subject, atrial: bool = True) -> FloatArray:
    """The vectorcardiogram (T, 3) in mV of beats at ``peaks``, sampled at evenly spaced ``times``.

    The model's equation, z' = - sum_i a_i (w / b_i^2) d_i exp(-d_i^2 / 2 b_i^2) - z / tau, is solved without
    stepping: its driving sum is the derivative of a sum of Gaussians, so z is that sum after the linear filter
    s / (s + 1 / tau). ``atrial`` False leaves the P waves out.
    """
    rate = (len(times) - 1) / (times[-1] - times[0])
    rr = rr_intervals(peaks)
    adapted = 0.7 * rr.mean() + 0.3 * np.clip(rr, 0.4, 1.5)  # QT follows one interval only in part
    total = np.zeros((len(times), 3))
    for peak, symbol, interval in zip(peaks, symbols, adapted, strict=True):
        low, high = np.searchsorted(times, (peak - 0.45, peak + 1.0))
        events = beat_events(symbol, float(interval), subject, atrial)
        d = (times[low:high, None] - peak - events[:, 0]) / events[:, 1]
        total[low:high] += np.exp(-0.5 * d**2) @ events[:, 2:]
    b, a = signal.bilinear([1.0, 0.0], [1.0, 1.0 / RELAXATION_S], fs=rate)
    return np.asarray(signal.lfilter(b, a, total, axis=0)) @ subject.rotation.T


def fibrillatory_waves(times: FloatArray, subject: Subject, rng: np.random.Generator) -> FloatArray:
    """The dipole (T, 3) in mV of fibrillating atria: a sawtooth whose 4-9 Hz rate and size wander.

    After Stridh and Sornmo, IEEE Trans Biomed Eng 48:105, 2001. Largest to the front and the feet (V1, II).
    """
    rate_hz = rng.uniform(5.0, 7.5) + 0.4 * band_noise(times, 0.05, 0.5, rng)
    phase = 2 * np.pi * np.cumsum(np.clip(rate_hz, 4.0, 9.0)) * (times[1] - times[0])
    size = np.clip(1 + 0.3 * band_noise(times, 0.1, 1.0, rng), 0.3, None)
    waves = np.zeros((len(times), 3))
    for axis, amplitude in enumerate((-0.035, 0.035, -0.05)):
        shift = rng.uniform(-0.4, 0.4)
        saw = sum((np.sin(h * (phase + shift)) / h for h in (1, 2, 3)), np.zeros(len(times)))
        waves[:, axis] = amplitude * subject.gains[0] * size * saw
    return waves


def leads(dipole: FloatArray, electrodes: FloatArray | None = None) -> FloatArray:
    """Twelve leads (T, 12) in mV, in the order of ``LEADS``, from a dipole (T, 3) and electrode noise (T, 9).

    Noise enters at the electrodes: the limb leads share RA, LA and LL, and each chest lead carries a third
    of each of them through Wilson's terminal. So III = II - I and the augmented leads hold exactly.
    """
    eight = dipole @ DOWER.T
    if electrodes is not None:
        ra, la, ll = electrodes[:, 0], electrodes[:, 1], electrodes[:, 2]
        terminal = (ra + la + ll) / 3
        eight = eight + np.column_stack((la - ra, ll - ra, electrodes[:, 3:] - terminal[:, None]))
    one, two = eight[:, 0], eight[:, 1]
    limb = (one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2)
    return np.column_stack((*limb, eight[:, 2:]))


def band_noise(times: FloatArray, low: float, high: float, rng: np.random.Generator, slope: float = 0.0) -> FloatArray:
    """Gaussian noise (T,) of variance 1 between ``low`` and ``high`` Hz, its amplitude as f to the -slope."""
    frequency = np.fft.rfftfreq(len(times), times[1] - times[0])
    spectrum = rng.normal(size=len(frequency)) + 1j * rng.normal(size=len(frequency))
    inside = (frequency >= low) & (frequency <= high)
    spectrum *= np.where(inside, np.maximum(frequency, low) ** -slope, 0.0)
    noise = np.fft.irfft(spectrum, len(times))
    return np.asarray(noise / max(float(noise.std()), 1e-12))


def electrode_noise(times: FloatArray, breath: FloatArray, subject: Subject, rng: np.random.Generator) -> FloatArray:
    """Noise potentials (T, 9) in mV at ``ELECTRODES``: wander, mains hum, amplifier noise and muscle."""
    noise = np.empty((len(times), len(ELECTRODES)))
    hum = 2 * np.pi * subject.mains_hz * times
    for k in range(len(ELECTRODES)):
        wander = rng.uniform(-0.05, 0.05) * breath
        wander += rng.uniform(0.01, 0.05) * band_noise(times, 0.02, 0.5, rng, slope=1.0)
        phase = rng.uniform(0, 2 * np.pi)
        mains = rng.uniform(0.0005, 0.005) * (np.sin(hum + phase) + 0.2 * np.sin(3 * hum + phase))
        tone = np.clip(0.7 + 0.5 * band_noise(times, 0.02, 0.5, rng), 0.1, None)
        muscle = rng.uniform(0.003, 0.011) * tone * band_noise(times, 20.0, 150.0, rng, slope=0.5)
        noise[:, k] = wander + mains + muscle + rng.normal(0, 0.003, len(times))
    return noise


def ppg(
    times: FloatArray,
    peaks: FloatArray,
    symbols: Symbols,
    subject: Subject,
    breath: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """A finger pulse wave (T,) in arbitrary units, about 0 to 1: a systolic and a reflected wave per beat.

    The stroke volume follows the filling time, so a premature beat gives a weak pulse and the beat after its
    pause a strong one; breathing changes the amplitude (preload) and the offset (venous volume).
    """
    rr = rr_intervals(peaks)
    fill = (1 - np.exp(-np.maximum(rr - 0.25, 0.02) / 0.35)) / (1 - np.exp(-(0.85 - 0.25) / 0.35))
    wave = np.zeros(len(times))
    for peak, symbol, interval, volume in zip(peaks, symbols, rr, fill, strict=True):
        stretch = np.clip(np.sqrt(interval / 0.85), 0.8, 1.15)
        late = 0.03 * (1 - volume)  # a weak stroke opens the aortic valve late
        foot = peak + subject.pulse_delay + late
        low, high = np.searchsorted(times, (foot - 0.2, foot + 1.4))
        t = (times[low:high] - foot) / stretch
        shape = np.exp(-0.5 * ((t - 0.14) / np.where(t < 0.14, 0.060, 0.085)) ** 2)
        shape += subject.dicrotic * np.exp(-0.5 * ((t - 0.37) / np.where(t < 0.37, 0.075, 0.12)) ** 2)
        wave[low:high] += volume * (0.7 if symbol == "V" else 1.0) * shape
    wave = wave * (1 + 0.08 * breath) + 0.05 * breath
    wave += 0.03 * band_noise(times, 0.05, 0.5, rng, slope=1.0)  # slow vascular tone and motion
    wave += 0.006 * band_noise(times, 0.5, 8.0, rng, slope=0.5) + rng.normal(0, 0.002, len(times))
    return np.asarray(0.15 + 0.5 * wave)
