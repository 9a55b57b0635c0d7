"""From the layout of a released file to rows and repaired recordings: `import`, `embed` and `restore` on small files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from tests import domain_files
from tests.published.test_released_maps import RELEASES, released
from toolkit.cli.app import app

DOMAIN = {"reve": "reve", "bm_mae": "bm-mae", "point_mae": "point-cmae", "point_cmae": "point-cmae"}


@pytest.fixture
def toolkit() -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("name", [name for name in RELEASES if name != "reve_mae"])
def test_a_released_file_embeds(name: str, tmp_path: Path, toolkit: Callable[..., Result]) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in released(name).items()}}, tmp_path / "file.pth")
    imported = toolkit("import", tmp_path / "file.pth", "--as", RELEASES[name].name, "--out", tmp_path / "model", "--json")
    assert imported.exit_code == 0, imported.stderr
    facts: dict[str, Any] = json.loads(imported.stdout)
    assert facts["restores"] is (name != "reve")
    data = domain_files.make(DOMAIN[name], tmp_path / "data")
    rows = tmp_path / "rows.parquet"
    done = toolkit("embed", data, "--model", tmp_path / "model", "--out", rows, "--level", "recording")
    assert done.exit_code == 0, done.stderr
    vectors = np.stack(pq.read_table(rows)["embedding"].to_pylist())
    width = {"reve": 128, "bm_mae": 48, "point_mae": 96, "point_cmae": 96}[name]
    assert vectors.shape == (2, width)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3  # two recordings, two vectors


def test_an_encoder_alone_refuses_to_restore_and_a_decoder_does(tmp_path: Path, toolkit: Callable[..., Result]) -> None:
    data = domain_files.make("reve", tmp_path / "data")
    for name in ("reve", "reve_mae"):
        torch.save(released(name), tmp_path / f"{name}.pth")
        assert toolkit("import", tmp_path / f"{name}.pth", "--as", "reve", "--out", tmp_path / name).exit_code == 0
    words = ("restore", data / "r0.edf", "--channels", "Cz")
    refused = toolkit(*words, "--model", tmp_path / "reve", "--out", tmp_path / "no")
    assert refused.exit_code == 2
    assert "hub hold the encoder alone" in refused.stderr
    done = toolkit(*words, "--model", tmp_path / "reve_mae", "--out", tmp_path / "yes")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "yes" / "r0.edf").exists()
