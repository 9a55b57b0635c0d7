"""Small WFDB records of the kinds that people have: 12-lead, MATLAB, Holter, wearable, monitor segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.io
import wfdb
from numpy.typing import NDArray

from tests.ecg import TWELVE, record, signals

MATLAB_FORMATS = {"int16": "16", "int32": "32", "uint8": "80", "uint16": "160"}


def packed(folder: Path, fmt: str, baseline: Sequence[int] = (0, 0)) -> Path:
    """Two leads with annotations in one of the formats that the wfdb library writes."""
    stored = np.rint(signals(("II", "V5"), 4) * 50).astype(np.int64)
    wfdb.wrsamp(
        "rec", 100, ["mV"] * 2, ["II", "V5"], d_signal=stored, fmt=[fmt] * 2, adc_gain=[50.0] * 2, baseline=list(baseline),
        comments=["subject: p"], write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann("rec", "atr", np.array([50, 130, 290]), symbol=["N", "V", "N"], fs=100, write_dir=str(folder))
    return folder / "rec.hea"


def matlab(
    folder: Path,
    name: str = "A0001",
    stored: NDArray[np.int64] | None = None,
    *,
    dtype: str = "int16",
    names: Sequence[str] = TWELVE,
    gain: int = 1000,
    comments: Sequence[str] = ("Age: 74", "Sex: Male", "Dx: 426783006"),
) -> Path:
    """A record whose signal file is a MATLAB matrix ``val`` of level 4, as the PhysioNet challenges have them.

    ``stored``: (signals, samples), WFDB integers. scipy writes the matrix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if stored is None:
        stored = np.rint(signals(names, 5).T * gain).astype(np.int64)
    fmt = MATLAB_FORMATS[dtype]
    offset = {"80": 128, "160": 32768}.get(fmt, 0)
    scipy.io.savemat(folder / f"{name}.mat", {"val": (stored + offset).astype(dtype)}, format="4")
    lines = [f"{name} {len(stored)} 100 {stored.shape[1]}"]
    lines += [
        f"{name}.mat {fmt}+24 {gain}/mV 16 0 {row[0]} {(int(row.sum()) + 32768) % 65536 - 32768} 0 {lead}"
        for row, lead in zip(stored, names, strict=True)
    ]
    path = folder / f"{name}.hea"
    path.write_text("\n".join([*lines, *(f"#{comment}" for comment in comments)]) + "\n")
    return path


def wearable(folder: Path, name: str = "watch", seconds: int = 20) -> Path:
    """ECG at 256 Hz, red and infrared PPG at 64 Hz, acceleration at 32 Hz and respiration at 16 Hz in one file of frames."""
    folder.mkdir(parents=True, exist_ok=True)
    per_frame = [16, 4, 4, 2, 1]
    values = [np.squeeze(signals(["II"], seconds, rate=16.0 * n, seed=n)) for n in per_frame]
    names, units = ["ECG", "PPG_RED", "PPG_IR", "ACCX", "RESP"], ["mV", "NU", "NU", "g", "NU"]
    wfdb.wrsamp(
        name, 16, units, names, e_p_signal=values, samps_per_frame=per_frame, fmt=["16"] * 5, adc_gain=[1000.0] * 5,
        baseline=[0] * 5, write_dir=str(folder),
    )  # fmt: skip
    return folder / f"{name}.hea"


def holter(folder: Path, name: str = "tape", hours: float = 0.02, annotated: bool = True) -> Path:
    """Two leads in format 212 with beats and a rhythm, and a start date."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.rint(signals(["MLII", "V1"], hours * 3600, rate=128.0) * 200).astype(np.int64)
    wfdb.wrsamp(
        name, 128, ["mV"] * 2, ["MLII", "V1"], d_signal=values, fmt=["212"] * 2, adc_gain=[200.0] * 2, baseline=[0] * 2,
        comments=["age: 61 sex: F", "subject: h7"], write_dir=str(folder),
    )  # fmt: skip
    path = folder / f"{name}.hea"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first} 08:30:00 02/03/2004\n{rest}")
    if annotated:
        beats = np.arange(64, len(values), 110)
        notes = ["(N"] + [""] * (len(beats) - 1)
        wfdb.wrann(name, "atr", beats, ["+"] + ["N"] * (len(beats) - 1), aux_note=notes, fs=128, write_dir=str(folder))
    return path


def monitor(folder: Path, name: str = "bed7") -> Path:
    """A record of variable layout: a lead that comes and goes, a pulse wave, and a gap between."""
    record(folder, "bed7_1", ["II"], 4, rate=125.0)
    record(folder, "bed7_2", ["II", "PLETH"], 3, rate=125.0, units=["mV", "NU"])
    layout = "".join(f"~ 0 200/{unit} 0 0 0 0 0 {lead}\n" for lead, unit in (("II", "mV"), ("PLETH", "NU")))
    (folder / "bed7_layout.hea").write_text(f"bed7_layout 2 125 0\n{layout}")
    path = folder / f"{name}.hea"
    path.write_text(f"{name}/4 2 125 1000\nbed7_layout 0\nbed7_1 500\n~ 125\nbed7_2 375\n")
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "twelve": lambda folder: record(folder, "twelve", TWELVE, 3, subject="p1"),
    "matlab": matlab,
    "wearable": wearable,
    "holter": holter,
    "monitor": monitor,
}
