"""Small folders of recordings of each domain, recipes small enough to train on them in a second, and corpora of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests import audio_files, ecg, eeg_files, mri_files, points_files
from toolkit import recipe as recipes
from toolkit.corpus import inputs
from toolkit.corpus.prepare import Outcome, Preparation
from toolkit.interrupts import StopSignals
from toolkit.progress import Progress
from toolkit.recipe import Recipe

SMALL = {"width": 16, "depth": 1, "heads": 1, "head_width": 16, "mlp": 32}
FLAGS: dict[str, dict[str, Any]] = {
    "wfdb": {"data.rate_hz": 80.0, "data.window_s": 2.0, "tokenizer.patch": 10},
    "edf": {"data.rate_hz": 50.0, "data.window_s": 1.0, "data.most_channels": 2, "tokenizer.patch": 10, "tokenizer.stride": 0},
    "nifti": {"data.spacing_mm": 3.0, "data.window_mm": 18.0, "data.grids": "headers", "tokenizer.patch": 3},
    "audio": {"data.rate_hz": 16_000.0, "data.window_s": 0.2, "tokenizer.mels": 16, "tokenizer.patch": 4},
    "points": {"data.points": 32, "data.window_rows": 50, "tokenizer.centres": 4, "tokenizer.neighbours": 8},
}
RECIPE = {"wfdb": "csfm", "edf": "reve", "nifti": "bm-mae", "audio": "bird-mae", "points": "point-cmae"}


def recipe(kind: str, **changes: Any) -> Recipe:
    """The small recipe of a kind; keywords override a table's key: ``data__rate_hz=50.0``."""
    small = {"encoder": SMALL, "decoder": SMALL, "embedding.layer": -1, "embedding.pool": "mean"}
    training = {"training.steps": 3, "training.batch_size": 2, "training.log_every": 1}
    flags = {**small, **training, **FLAGS[kind], **{k.replace("__", "."): v for k, v in changes.items()}}
    return recipes.resolve(RECIPE[kind], size="tiny", flags=flags)


def _wfdb(folder: Path) -> None:
    for number, (leads, rate) in enumerate(((("I", "II", "V2"), 100.0), (("II", "V5"), 80.0), (("V1",), 128.0))):
        values = ecg.signals(leads, 7 + number, rate=rate, seed=number)
        values[150:260, 0] = np.nan  # a gap
        ecg.record(folder / "ab"[number % 2], f"r{number}", leads, rate=rate, values=values, subject=f"p{number}")


def _edf(folder: Path) -> None:
    names = (*eeg_files.NAMES[:2], "EOG left", "ECG")
    eeg_files.write(folder / "mixed.edf", eeg_files.lines_of((50, 25, 50, 1), 8, names=names))
    notes = [[eeg_files.tal(0.5, "blink", duration="1.5")], [], [eeg_files.tal(2.25, "a", "b")]]
    lines = eeg_files.lines_of((64, 64), 5, seed=1)
    eeg_files.write(folder / "gaps.edf", lines, variant="EDF+D", onsets=(0, 1, 3.5, 4.5, 10), notes=notes, patient="P1 F X X")


def _nifti(folder: Path) -> None:
    mri_files.session(folder, "sub-01_ses-1")
    where = mri_files.affine((1.5, 1.5, 2.0), (0.1, 0.2, 0.0))
    mri_files.volume(folder, "sub-02_T1w", mri_files.head((16, 18, 14)), where=where)
    mri_files.volume(folder, "sub-02_FLAIR", mri_files.head((20, 20, 12), "FLAIR"), where=mri_files.affine((1.2, 1.2, 2.4)))


def _audio(folder: Path) -> None:
    audio_files.field_wav(folder)
    audio_files.audio(folder, "wav", "PCM_16", audio_files.song(0.9, 22_050, 2, seed=1), rate=22_050, name="two")
    audio_files.audio(folder, "flac", "PCM_16", audio_files.song(0.7, 16_000, 1, seed=2), rate=16_000, name="same")


def _points(folder: Path) -> None:
    for number, rows in enumerate((220, 40)):
        columns = points_files.cloud(rows, seed=number, far=1e6 * number)
        columns["intensity"] = columns["intensity"].astype(np.float32)
        columns["intensity"][3] = np.nan
        columns["x"][7] = np.nan
        points_files.create_ply(folder / f"c{number}.ply", columns)


MAKERS: dict[str, Callable[[Path], None]] = {"wfdb": _wfdb, "edf": _edf, "nifti": _nifti, "audio": _audio, "points": _points}


def folder_of(kind: str, place: Path) -> Path:
    """A folder of recordings of one kind, and a file of no format."""
    place.mkdir(parents=True)
    MAKERS[kind](place)
    (place / "notes.txt").write_text("not a recording")
    return place


def prepare(
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    signal: int | None = None,
) -> Outcome:
    """Prepare a folder; ``signal``: one that came before the first recording."""
    job = Preparation(recipe, inputs.gather([str(data)]), out, arguments=[str(data)], workers=workers)
    job.start(resume=resume, overwrite=overwrite)
    stop = StopSignals()
    stop.signum = signal
    return job.run(Progress("prepare", 1, "recordings", enabled=False), stop)
