"""Recordings of EEG in memory and in files, of montages and lengths as a test asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests import eeg_files

TEN_TWENTY = ("Fp1", "Fp2", "F3", "F4", "F7", "F8", "T7", "T8", "C3", "C4", "P7", "P8", "P3", "P4", "O1", "O2", "Fz", "Cz", "Pz")


def waves(names: Sequence[str], seconds: float, *, rate: float = 100.0, seed: int = 0) -> np.ndarray:
    """Two rhythms in the channels' own amounts, on noise, in uV: float64 (C, T)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    rhythms = np.sin(2 * np.pi * np.array([[6.0], [10.0]]) * time + rng.uniform(0, 6, (2, 1)))
    return 20 * rng.uniform(0.5, 1, (len(names), 2)) @ rhythms + 5 * rng.normal(size=(len(names), len(time)))


def lines(names: Sequence[str], seconds: float, *, rate: int = 100, seed: int = 0) -> list[eeg_files.Line]:
    """The signals of an EDF file, to a tenth of a uV."""
    values = waves(names, seconds, rate=rate, seed=seed)
    return [eeg_files.Line(np.round(row * 10).astype(int), rate, f"EEG {name}") for name, row in zip(names, values, strict=True)]


def record(path: Path, names: Sequence[str], seconds: int, *, rate: int = 100, seed: int = 0) -> Path:
    """An EDF file of these channels."""
    return eeg_files.write(path, lines(names, seconds, rate=rate, seed=seed))
