"""Synthetic ECG that obeys the limb-lead identities, written as small WFDB records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.cardiac import create_wfdb

RATE_HZ = 100.0
LIMB = {"I": (1, 0), "II": (0, 1), "III": (-1, 1), "aVR": (-0.5, -0.5), "aVL": (1, -0.5), "aVF": (-0.5, 1)}
TWELVE = (*LIMB, "V1", "V2", "V3", "V4", "V5", "V6")
WAVES = ((-0.2, 0.03, 0.1), (0.0, 0.015, 1.0), (0.035, 0.015, -0.3), (0.25, 0.05, 0.3))  # P, R, S, T: s, s, mV


def signals(
    leads: Sequence[str], seconds: float, *, rate: float = RATE_HZ, bpm: float = 70, seed: int = 0
) -> NDArray[np.float64]:
    """(T, leads) in mV: a spike train whose limb leads follow from I and II."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    gaps = 60 / bpm * (1 + 0.04 * rng.standard_normal(round(seconds * bpm / 60) + 2))
    wave = sum(a * np.exp(-0.5 * ((time[:, None] - np.cumsum(gaps) - c) / w) ** 2).sum(1) for c, w, a in WAVES)
    one, two = (share * wave + 0.01 * rng.standard_normal(len(time)) for share in (0.6, 1.0))
    chest = {lead: (k - 2) / 3 * wave + 0.01 * rng.standard_normal(len(time)) for k, lead in enumerate(TWELVE[6:])}
    return np.stack([LIMB[n][0] * one + LIMB[n][1] * two if n in LIMB else chest.get(n, wave) for n in leads], axis=1)


def record(
    folder: Path,
    name: str,
    leads: Sequence[str] = ("II", "V5"),
    seconds: float = 12,
    *,
    rate: float = RATE_HZ,
    bpm: float = 70,
    seed: int = 0,
    subject: str | None = None,
    values: NDArray[np.float64] | None = None,
    units: Sequence[str] | None = None,
) -> Path:
    """Write a record; returns its header's path."""
    values = signals(leads, seconds, rate=rate, bpm=bpm, seed=seed) if values is None else values
    return create_wfdb(
        folder,
        name,
        values,
        rate_hz=rate,
        names=list(leads),
        units=list(units or ["mV"] * len(leads)),
        comments=[f"subject: {subject}"] if subject else [],
    )
