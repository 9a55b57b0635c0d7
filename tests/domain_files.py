"""For each recipe a folder of a few small files of its domain, and settings that make it train in a second or two."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from readers.edf_create import create_edf
from tests import audio_files, ecg, mri_files, points_files
from toolkit import recipe as recipes
from toolkit.recipe import Recipe

SMALL: dict[str, Any] = {
    "encoder": {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64},
    "decoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
    "training": {"steps": 6, "batch_size": 8, "seed": 3, "log_every": 1, "checkpoint_every": 3},
    "optimizer.learning_rate": 3e-3,
}
CUT: dict[str, dict[str, Any]] = {
    "csfm": {"data.rate_hz": 100.0, "data.window_s": 2.0, "tokenizer.patch": 10},
    "reve": {"data.rate_hz": 100.0, "data.window_s": 2.0, "tokenizer.patch": 25, "tokenizer.stride": 0},
    "bird-mae": {"data.window_s": 0.5},
    "bm-mae": {"data.spacing_mm": 4.0, "data.window_mm": 48.0, "tokenizer.patch": 3},
    "point-cmae": {
        "data.points": 128,
        "data.window_rows": 300,
        "tokenizer.centres": 12,
        "tokenizer.neighbours": 10,
        "encoder.class_token": True,
    },
}


def small(name: str, **changes: Any) -> Recipe:
    """A recipe made very small; keywords override a table's key: small("reve", training__steps=3)."""
    flags = copy.deepcopy(SMALL) | CUT[name] | {k.replace("__", "."): v for k, v in changes.items()}
    return recipes.resolve(name, size="tiny", flags=flags)


def _cardiac(folder: Path) -> None:
    for k, leads in enumerate((("I", "II", "V2"), ("II", "V5"))):
        ecg.record(folder, f"r{k}", leads, 5.3, seed=k, bpm=65 + 20 * k)


def _eeg(folder: Path) -> None:
    """Rhythms that the electrodes share, in microvolts; one of them, Q9, is on no head."""
    for k, names in enumerate((("Fp1", "Cz", "O1", "O2"), ("C3", "Cz", "Q9"))):
        time, rng = np.arange(1060) / 200, np.random.default_rng(k)
        waves = np.stack([np.sin(2 * np.pi * (3 + k) * time), np.sin(2 * np.pi * 9 * time + k)], axis=1)
        signals = 40 * waves @ rng.uniform(0.3, 1, (2, len(names))) + 3 * rng.normal(size=(len(time), len(names)))
        create_edf(folder / f"r{k}.edf", signals, 200.0, names, ["uV"] * len(names))


def _audio(folder: Path) -> None:
    for k in range(2):
        audio_files.audio(folder, "wav", signals=audio_files.song(1.3, channels=1 + k, seed=k), name=f"r{k}")


def _mri(folder: Path) -> None:
    """Two sessions: two contrasts in one, in another order of axes a third one alone; 72 x 80 x 64 mm."""
    for k, (contrasts, where) in enumerate(
        [(("T1w", "T2w"), mri_files.affine((4, 4, 4))), (("FLAIR",), mri_files.affine((-4, -4, 4)))]
    ):
        for contrast in contrasts:
            values = mri_files.head((18, 20, 16), contrast, seed=k)
            mri_files.volume(folder, f"sub-{k}_{contrast}", values, where=where)


def _points(folder: Path) -> None:
    """A sphere, and a box seen from one side."""
    points_files.ply(folder / "r0.ply", points_files.cloud(700))
    face = np.random.default_rng(1).uniform(-1, 1, (400, 3)) * [30, 20, 1]
    points_files.ply(folder / "r1.ply", {axis: face[:, k].astype(np.float32) for k, axis in enumerate("xyz")})


MAKERS: dict[str, Callable[[Path], None]] = {
    "csfm": _cardiac,
    "reve": _eeg,
    "bird-mae": _audio,
    "bm-mae": _mri,
    "point-cmae": _points,
}


def make(name: str, folder: Path) -> Path:
    """Fill a new folder with the recordings of a recipe's domain."""
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[name](folder)
    return folder
