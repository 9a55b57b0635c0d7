"""Shared by all rooms: a folder of small synthetic WFDB records, and a model small enough to train in a second."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from readers.cardiac import create_wfdb
from toolkit import recipe as recipes
from toolkit.corpus import inputs
from toolkit.corpus.batches import Source
from toolkit.corpus.sources import open_sources
from toolkit.model import folder, masked
from toolkit.model.folder import LoadedModel
from toolkit.recipe import Recipe

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
TINY: dict[str, Any] = {
    "data.rate_hz": 100.0,
    "data.window_s": 2.0,
    "tokenizer.patch": 10,
    "position": {"longest": [4, 4, 4, 20], "shortest": [1, 1, 1, 0.2], "rotary": ["t"]},
    "terms": [{"name": "reconstruction"}],
    "encoder": {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64},
    "decoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
    "training": {"steps": 8, "batch_size": 4, "seed": 3, "log_every": 2, "checkpoint_every": 2},
}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TOOLKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _signals(rng: np.random.Generator, seconds: float, rate: float, leads: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    beats = np.exp(-(((time % 0.8) - 0.4) ** 2) / 0.0008)[:, None] * rng.normal(1, 0.3, leads)
    return beats + 0.05 * rng.normal(size=(len(time), leads)) + rng.normal(size=leads)


@pytest.fixture(scope="session")
def wfdb_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five records of four subjects: 12 leads at 200 Hz, 2 leads twice, PPG, ECG with PPG; and a file of no format."""
    root, rng = tmp_path_factory.mktemp("records"), np.random.default_rng(7)
    records = [
        ("a", "twelve", 200, LEADS, 11.0, "s1"),
        ("a", "two", 100, ("I", "V2"), 9.3, "s2"),
        ("b", "more", 100, ("II", "V5"), 8.0, "s2"),
        ("b", "pulse", 50, ("PPG",), 7.0, "s3"),
        ("b", "both", 100, ("II", "PPG"), 6.0, "s4"),
    ]
    for where, name, rate, leads, seconds, subject in records:
        units = ["NU" if lead == "PPG" else "mV" for lead in leads]
        create_wfdb(
            root / where,
            name,
            _signals(rng, seconds, rate, len(leads)),
            rate_hz=rate,
            names=leads,
            units=units,
            comments=[f"subject: {subject}"],
        )
    (root / "notes.txt").write_text("not a recording")
    return root


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """csfm made very small, with one term and positions in any window; keywords override a key: tiny(training__steps=3)."""

    def make(**changes: Any) -> Recipe:
        flags = copy.deepcopy(TINY) | {k.replace("__", "."): v for k, v in changes.items()}
        return recipes.resolve("csfm", size="tiny", flags=flags)

    return make


@pytest.fixture(scope="session")
def sources(wfdb_folder: Path, tiny: Callable[..., Recipe]) -> list[Source]:
    opened, failures, _ = open_sources(inputs.gather([str(wfdb_folder)]), tiny())
    assert not failures
    return opened


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> LoadedModel:
    """A model folder with random weights, loaded."""
    place = tmp_path_factory.mktemp("model")
    (place / folder.RECIPE).write_text(recipes.to_toml(tiny()))
    folder.save_weights(masked.build(tiny()), place / folder.WEIGHTS)
    return folder.load(place)
