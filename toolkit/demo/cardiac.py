"""Synthetic electrocardiogram and pulse recordings of several people, rhythms and devices, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy import signal

from toolkit.demo import heart
from toolkit.demo.heart import LEADS, RHYTHMS, FloatArray, Subject, Symbols
from toolkit.demo.labels import write_labels
from toolkit.errors import UsageError

RATE_HZ = 500  # of the simulation, and of the twelve-lead device
LEAD_IN_S = 8.0  # simulated and cut off, so that no recording starts with the filter settling
WINDOW_S = 10.0
NAMES = (*LEADS, "PLETH")


@dataclass(frozen=True)
class Device:
    """What a recorder keeps of the simulation: the channel names it writes, their sources, its rate."""

    channels: tuple[tuple[str, str], ...]  # (written name, name in NAMES)
    rate_hz: int


CLINIC = Device(tuple((name, name) for name in NAMES), RATE_HZ)
HOLTER = Device((("MLII", "II"), ("V5", "V5")), 360)
OXIMETER = Device((("PLETH", "PLETH"),), 125)


@dataclass(frozen=True)
class Simulation:
    """One recording before any device: signals (T, 13) at ``RATE_HZ`` in the order of ``NAMES``, and its beats."""

    signals: FloatArray
    peaks: FloatArray  # s, R peaks within the recording
    symbols: Symbols  # "N" or "V" for each of them


def device_of(index: int, subjects: int) -> Device:
    """The recorder of a subject: every third a Holter, the last of four or more an oximeter, else twelve leads."""
    if subjects >= 4 and index == subjects - 1:
        return OXIMETER
    return HOLTER if index % 3 == 2 else CLINIC


def simulate(subject: Subject, rhythm: str, seconds: float, rng: np.random.Generator) -> Simulation:
    """Record ``seconds`` of one of ``RHYTHMS`` from a subject, all channels."""
    if rhythm not in RHYTHMS:
        raise ValueError(f"unknown rhythm '{rhythm}'; known: {', '.join(RHYTHMS)}")
    phase = rng.uniform(0, 2 * np.pi)
    times = np.arange(-round(LEAD_IN_S * RATE_HZ), round(seconds * RATE_HZ)) / RATE_HZ
    start, stop = -LEAD_IN_S - rng.uniform(0, 1), seconds + 1.0
    if rhythm == "fibrillation":
        peaks = heart.fibrillation_beats(subject, start, stop, rng)
        symbols = ["N"] * len(peaks)
    else:
        peaks = heart.sinus_beats(subject, start, stop, phase, rng)
        symbols = ["N"] * len(peaks)
    if rhythm == "ectopic":
        peaks, symbols = heart.ectopic_beats(peaks, subject, 0.0, seconds, rng)
    breath = heart.respiration(times, subject, phase)
    dipole = heart.vcg(times, peaks, symbols, subject, atrial=rhythm != "fibrillation")
    if rhythm == "fibrillation":
        dipole = dipole + heart.fibrillatory_waves(times, subject, rng)
    tilt = 0.04 * breath[:, None]  # the diaphragm tips the heart by some degrees
    dipole = dipole + tilt * np.column_stack((-dipole[:, 1], dipole[:, 0], np.zeros(len(times))))
    ecg = heart.leads(dipole, heart.electrode_noise(times, breath, subject, rng))
    pulse = heart.ppg(times, peaks, symbols, subject, breath, rng)
    kept = (peaks >= 0) & (peaks < seconds)
    signals = np.column_stack((ecg, pulse))[times >= 0]
    return Simulation(signals, peaks[kept], [s for s, keep in zip(symbols, kept, strict=True) if keep])


def through_device(simulation: Simulation, device: Device) -> FloatArray:
    """The device's channels (T', C) at its own rate, through an anti-aliasing filter."""
    columns = simulation.signals[:, [NAMES.index(source) for _, source in device.channels]]
    ratio = Fraction(device.rate_hz, RATE_HZ)
    if ratio == 1:
        return columns
    return np.asarray(signal.resample_poly(columns, ratio.numerator, ratio.denominator, axis=0, padtype="line"))


def window_labels(rhythm: str, simulation: Simulation, seconds: float) -> list[tuple[str, float, float]]:
    """(label, start, stop) of each whole window; "ectopic" only where one holds a premature beat."""
    premature = simulation.peaks[[s == "V" for s in simulation.symbols]]
    rows = []
    for k in range(int(seconds // WINDOW_S)):
        start, stop = k * WINDOW_S, (k + 1) * WINDOW_S
        holds = bool(np.any((premature >= start) & (premature < stop)))
        rows.append(("sinus" if rhythm == "ectopic" and not holds else rhythm, start, stop))
    return rows


def write_record(folder: Path, name: str, subject_name: str, simulation: Simulation, device: Device) -> Path:
    """Write one simulation as its device records it, with its beats as annotations; returns the header's path."""
    from readers.cardiac import create_wfdb  # here, so that the simulation alone needs no file format

    names = [written for written, _ in device.channels]
    return create_wfdb(
        folder,
        name,
        through_device(simulation, device),
        rate_hz=device.rate_hz,
        names=names,
        units=["NU" if n == "PLETH" else "mV" for n in names],
        comments=(f"subject: {subject_name}", "synthetic: toolkit demo"),
        annotations=[(float(t), s) for t, s in zip(simulation.peaks, simulation.symbols, strict=True)],
    )


def generate(folder: Path, *, subjects: int = 8, seconds: float = 60.0, seed: int = 0) -> Path:
    """Write recordings of every rhythm from every subject to ``folder`` and return the path of ``labels.csv``.

    The labels have one row per 10 s window (``path,label,subject,start,stop``, path relative to the file). The
    same seed gives the same files. Asking for more subjects leaves the simulation of the earlier ones as it is.
    """
    if subjects < 1 or seconds < WINDOW_S:
        raise UsageError(f"A demo needs at least one subject and {WINDOW_S:g} s: got {subjects} and {seconds:g} s.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[str | float]] = []
    for index in range(subjects):
        subject_name = f"s{index + 1:02d}"
        subject = heart.draw_subject(np.random.default_rng([seed, index]))
        for order, rhythm in enumerate(RHYTHMS):
            simulation = simulate(subject, rhythm, seconds, np.random.default_rng([seed, index, order + 1]))
            header = write_record(folder, f"{subject_name}_{rhythm}", subject_name, simulation, device_of(index, subjects))
            rows += [
                (header.name, label, subject_name, start, stop)
                for label, start, stop in window_labels(rhythm, simulation, seconds)
            ]
    return write_labels(folder, ("path", "label", "subject", "start", "stop"), rows)
