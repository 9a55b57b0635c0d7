"""``toolkit import`` and ``toolkit export``: from a released file to rows, refusals, and back out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from tests.published.vits import released, vit
from toolkit.published import RELEASES


@pytest.fixture(scope="module")
def bird(tmp_path_factory):
    """A file laid out as Bird-MAE's, 64 wide."""
    path = tmp_path_factory.mktemp("bird") / "bird.safetensors"
    save_file(released(vit((512, 128), width=64, depth=2)), path)
    return path


@pytest.fixture(scope="module")
def imported(bird, toolkit):
    out = bird.parent / "model"
    done = toolkit("import", bird, "--as", "bird-mae", "--out", out)
    assert done.out.strip() == str(out)
    (bird.parent / "said").write_text(done.err)
    return out


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Two files of 6 s of noise at 32 kHz."""
    folder, rng = tmp_path_factory.mktemp("songs"), np.random.default_rng(0)
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.normal(size=6 * 32000), 32000)
    return folder


def test_the_report_names_every_tensor_where_it_comes_from_and_the_licence(bird, imported):
    said = (bird.parent / "said").read_text()
    release = next(r for r in RELEASES if r.name == "bird-mae")
    assert release.where in said and release.licence in said and "cannot restore" in said
    assert "  encoder.blocks.0-1.attention.query.weight <- blocks.0-1.attn.qkv.weight\n" in said
    assert "  encoder.blocks.0-1.mlp.2.bias <- blocks.0-1.mlp.fc2.bias\n" in said
    assert "Missing" in said and "  branches.reconstruction.head.bias (decoder: starts fresh" in said


def test_the_record_keeps_source_licence_and_ledger(bird, imported):
    run = json.loads((imported / "run.json").read_text())
    assert run["command"] == "import" and run["release"] == "bird-mae" and run["exit"] == 0 and run["licence"]
    names = {name for row in run["used"] for name in row["theirs"]} | {row["theirs"] for row in run["skipped"]}
    assert names == set(load_file(bird)) and len(run["source_hash"]) == 64


def test_an_imported_model_embeds(imported, songs, toolkit, tmp_path):
    toolkit("embed", songs, "--model", imported, "--out", tmp_path / "e.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pandas()
    vectors = np.stack(rows["embedding"])
    assert vectors.shape == (4, 64) and np.isfinite(vectors).all() and vectors.std(0).min() > 0  # 5 s and the rest of each


def test_an_encoder_alone_is_refused_for_restoring(imported, songs, toolkit, tmp_path):
    done = toolkit("restore", songs, "--model", imported, "--out", tmp_path / "r", "--damage", "block:0.1", code=2)
    assert "never trained" in done.error and "encoder alone" in done.error and "--init" in done.error
    assert not (tmp_path / "r").exists()


def test_another_layout_another_name_and_an_output_that_exists_are_refused(bird, imported, toolkit, tmp_path):
    out = tmp_path / "m"
    assert "--as bird-mae" in toolkit("import", bird, "--as", "audio-mae", "--out", out, code=2).error
    assert "Did you mean 'bird-mae'" in toolkit("import", bird, "--as", "birdmae", "--out", out, code=2).error
    assert "exists" in toolkit("import", bird, "--as", "bird-mae", "--out", imported, code=2).error
    torch.save({"weight": torch.zeros(1), "f": Path}, tmp_path / "a.pth")
    assert "could run code" in toolkit("import", tmp_path / "a.pth", "--as", "mae", "--out", out, code=2).error
    assert not out.exists() and list(tmp_path.iterdir()) == [tmp_path / "a.pth"]


def test_import_replaces_when_asked_and_answers_in_json(bird, imported, toolkit):
    done = toolkit("import", bird, "--as", "bird-mae", "--out", imported, "--overwrite", "--json", "--quiet")
    document = done.document
    keys = {"model", "release", "system", "where", "licence", "source", "source_hash", "restores", "why_not"}
    assert set(document) == keys | {"used", "skipped", "missing"}
    assert document["restores"] is False and not done.err
    assert {p.name for p in imported.iterdir()} == {"model.safetensors", "recipe.toml", "run.json"}


def test_releases_are_listed_without_loading_torch():
    words = "import sys, toolkit.cli.app; print('torch' in sys.modules, len(sys.modules['toolkit.published'].RELEASES))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(len(RELEASES))]


def test_help_lists_the_releases_and_where_they_are(toolkit):
    text = "".join(toolkit("import", "--help").out.split())
    assert all(f"{r.name}:{''.join(r.where.split())}" in text.replace("│", "") for r in RELEASES)


def test_a_trained_model_is_exported_and_embeds_the_same(model, data, toolkit, tmp_path):
    done = toolkit("export", model, "--out", tmp_path / "out", "--json")
    names = {"README.md", "config.json", "example.safetensors", "model.safetensors", "recipe.toml"}
    assert set(done.document["files"]) == names and {p.name for p in (tmp_path / "out").iterdir()} == names | {"run.json"}
    for name, of in (("a", model), ("b", tmp_path / "out")):
        toolkit("embed", data, "--model", of, "--out", tmp_path / f"{name}.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert "Recordings: 4" in (tmp_path / "out" / "README.md").read_text()


def test_export_says_the_licence_of_imported_weights(imported, toolkit, tmp_path):
    assert "none stated by the authors" in toolkit("export", imported, "--out", tmp_path / "out").err
    assert "none stated by the authors" in (tmp_path / "out" / "README.md").read_text()


def test_export_refuses_forms_it_does_not_know_and_folders_that_are_taken(model, toolkit, tmp_path):
    assert "Known: hf, onnx, timm" in toolkit("export", model, "--out", tmp_path / "x", "--as", "keras", code=2).error
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    assert "exists" in toolkit("export", model, "--out", tmp_path / "mine", code=2).error
    assert "not written by this program" in toolkit("export", model, "--out", tmp_path / "mine", "--overwrite", code=2).error
