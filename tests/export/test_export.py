"""Exported folders: read without this package they give identical outputs, and other programs compute the same states."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import peers
from tests.published import vits
from tests.published.test_released_maps import RELEASES, released
from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.export import forms, vision, write
from toolkit.model import folder, masked
from toolkit.model.folder import LoadedModel
from toolkit.published import bird_mae, read
from toolkit.published.write import save as write_model
from toolkit.record import RunRecord

SCRIPT = Path(__file__).parents[2] / "examples" / "load_export.py"
SMALL = {part: {"width": 64, "depth": 2, "heads": 2, "head_width": 32, "mlp": 96} for part in ("encoder", "decoder")}
GRID = {"code": "grid", "cells": [8, 1, 1, 31], "cell": [0.125, 1.0, 1.0, 0.16], "middle": [0.5, 0.0, 0.0, 2.48]}
GRID |= {"longest": [4.0, 1.0, 1.0, 10.0], "shortest": [0.25, 1.0, 1.0, 0.32]}


def saved(place: Path, name: str, settings: dict | None = None, run: dict | None = None) -> LoadedModel:
    """A model of random weights, none of them zero, in a folder."""
    flags = {f"{part}.{key}": value for part, table in SMALL.items() for key, value in table.items()}
    recipe = recipes.resolve(name, size="tiny", flags=flags | (settings or {}))
    model = masked.build(recipe)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder.save_weights(model, place / folder.WEIGHTS)
    (place / folder.RECIPE).write_text(recipes.to_toml(recipe))
    (place / folder.RUN).write_text(json.dumps(run or {}))
    return folder.load(place)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("load_export", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = {
    "reve": {},
    "csfm": {},
    "bm-mae": {},
    "bird-mae": {},
    "own channels": {
        "encoder.channels": "own",
        "tokenizer.channels": ["I", "II"],
        "mask.groups_of_channels": [],
        "encoder.registers": 2,
        "encoder.norm": "rms",
    },
    "every block": {
        "position.code": "mlp",
        "position.every_block": True,
        "encoder.class_token": True,
        "encoder.bias": "no-qkv",
        "embedding": {"pool": "classmax"},
    },
    "layers": {
        "position.code": "fourier",
        "position.rotary": ["t", "x"],
        "embedding": {"layer": -2, "layers": 2, "pool": "meanstd"},
        "encoder.activation": "swiglu",
    },
    "after norm": {"embedding": {"pool": "meanmax", "after_norm": True}, "encoder.final_norm": False},
}


def same_as_recorded(script, out: Path) -> None:
    """The script's outputs are those of example.safetensors, bit by bit, and numbers that could differ."""
    recorded = load_file(out / write.EXAMPLE)
    with torch.inference_mode():
        outputs = script.Encoder(out)(**{key[3:]: value for key, value in recorded.items() if key.startswith("in.")})
    expected = {key[4:]: value for key, value in recorded.items() if key.startswith("out.")}
    assert {"states", "pooled"} <= set(expected)
    for key, value in expected.items():
        assert value.std() > 0.1 and torch.equal(outputs[key], value), key


@pytest.mark.parametrize("case", CASES)
def test_the_script_without_this_package_gives_identical_outputs(script, tmp_path, case):
    loaded = saved(tmp_path, case if case in recipes.names() else "csfm", CASES[case])
    write.export(loaded, tmp_path / "out", RunRecord("export"))
    same_as_recorded(script, tmp_path / "out")


@pytest.mark.parametrize("name", ["reve", "reve_mae", "bm_mae", "bird-mae"])
def test_imported_weights_give_identical_outputs_too(script, tmp_path, name):
    if name == "bird-mae":
        state, release = vits.released(vits.vit((512, 128))), bird_mae.RELEASE
    else:
        state, release = released(name), RELEASES[name]
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "a.safetensors")
    write_model(read.convert_state(state, release), release, tmp_path / "a.safetensors", tmp_path / "m", RunRecord("import"))
    write.export(folder.load(tmp_path / "m"), tmp_path / "out", RunRecord("export"))
    same_as_recorded(script, tmp_path / "out")


@pytest.mark.parametrize("name", ["spark", "i2p-mae", "point-mae"])
def test_encoders_that_the_script_does_not_rebuild_are_exported_with_an_example(tmp_path, name):
    recipe = recipes.resolve(name, size="tiny")
    (tmp_path / folder.RECIPE).write_text(recipes.to_toml(recipe))
    folder.save_weights(masked.build(recipe), tmp_path / folder.WEIGHTS)
    write.export(folder.load(tmp_path), tmp_path / "out", RunRecord("export"))
    recorded = load_file(tmp_path / "out" / write.EXAMPLE)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert recorded["out.states"].shape[-1] == recipe.encoder.width and recorded["out.states"].isfinite().all()
    assert {k[3:] for k in recorded if k.startswith("in.")} == set(config["inputs"])


def test_the_script_imports_nothing_of_this_package():
    tree = ast.parse(SCRIPT.read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"json", "math", "sys", "pathlib", "torch", "safetensors.torch", "torch.nn.functional"}


def test_the_example_shows_tokens_that_do_not_count(tmp_path):
    write.export(saved(tmp_path, "csfm"), tmp_path / "out", RunRecord("export"))
    recorded = load_file(tmp_path / "out" / write.EXAMPLE)
    assert recorded["in.valid"].any() and not recorded["in.valid"].all()


def test_an_exported_folder_is_a_model_with_its_channels(tmp_path):
    loaded = saved(tmp_path, "csfm", run={"channels": {"II": 3, "V5": 1}, "inputs": 4})
    write.export(loaded, tmp_path / "out", RunRecord("export"))
    again = folder.load(tmp_path / "out")
    assert again.recipe == loaded.recipe and again.channels == ("II", "V5")
    assert all(torch.equal(again.model.state_dict()[k], v) for k, v in loaded.model.state_dict().items())
    write.export(again, tmp_path / "twice", RunRecord("export"))
    assert (tmp_path / "twice" / "README.md").read_text() == (tmp_path / "out" / "README.md").read_text()


def test_the_card_has_data_units_scores_and_leaves_the_licence_to_the_user(tmp_path):
    loaded = saved(tmp_path, "csfm", run={"channels": {"II": 3, "V5": 1}, "inputs": 4, "steps": 200})
    rows = [{"name": "majority", "head": None, "metric": "auroc", "value": 0.5, "low": 0.5, "high": 0.5}]
    rows += [{"name": "csfm", "head": "linear", "metric": m, "value": 0.875, "low": 0.8, "high": 0.9} for m in ("auroc", "f1")]
    probe = {
        "task": "binary",
        "target": "label",
        "windows": 9,
        "groups": 3,
        "split": {"kind": "group", "group": "subject", "folds": 3},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(probe | {"main_metric": "auroc", "results": rows}))
    write.export(loaded, tmp_path / "out", RunRecord("export"), probe=tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Recordings: 4" in card and "II (3), V5 (1)" in card and "Hours: not recorded" in card
    assert "| csfm | linear | auroc | 0.875 | 0.800 | 0.900 |" in card and "f1" not in card
    assert f"Resampled to {loaded.recipe.data.rate_hz:g} Hz" in card and "None chosen yet" in card


def test_the_licence_of_imported_weights_follows_those_that_began_with_them(tmp_path):
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
    origin = {"licence": "CC BY-NC 4.0", "system": "MAE", "where": "https://x", "command": "import"}
    saved(tmp_path / "first", "csfm", run=origin)
    loaded = saved(tmp_path / "second", "csfm", run={"init": str(tmp_path / "first"), "command": "pretrain", "inputs": 3})
    facts = write.export(loaded, tmp_path / "out", RunRecord("export"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert facts["licence"] == "CC BY-NC 4.0"
    assert "Trained further from weights of MAE" in card and "CC BY-NC 4.0" in card and "Recordings: 3" in card


def test_the_mark_of_an_untrained_decoder_is_exported(tmp_path):
    loaded = saved(tmp_path, "csfm")
    folder.save_tensors(tmp_path / folder.WEIGHTS, dict(loaded.model.state_dict()), folder.untrained_mark("no decoder there."))
    write.export(folder.load(tmp_path), tmp_path / "out", RunRecord("export"))
    assert folder.load(tmp_path / "out").untrained == "no decoder there."
    assert json.loads((tmp_path / "out" / "config.json").read_text())["restores"] is False


def test_a_folder_that_is_no_probe_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="--probe"):
        write.export(saved(tmp_path, "csfm"), tmp_path / "out", RunRecord("export"), probe=tmp_path)
    assert not (tmp_path / "out").exists()


def plain(place: Path) -> LoadedModel:
    """A plain vision transformer of spectrograms."""
    return saved(
        place,
        "bird-mae",
        {
            "encoder.class_token": True,
            "encoder.channels": "none",
            "position": {**GRID, "longest": [4.0, 1.0, 1.0, 10.0], "shortest": [0.25, 1.0, 1.0, 0.32]},
            "encoder.activation": "gelu",
        },
    )


def test_timm_loads_and_computes_the_same_states(tmp_path):
    timm = peers.timm()
    facts = write.export(plain(tmp_path), tmp_path / "out", RunRecord("export"), form="timm")
    assert facts["difference"] < 1e-5
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out' / 'timm'}", pretrained=True)
    assert theirs.patch_embed.img_size == (128, 496) and "timm.create_model" in (tmp_path / "out" / "README.md").read_text()


def test_a_form_that_computes_something_else_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    peers.timm()
    right = vision.timm_state
    monkeypatch.setattr(vision, "timm_state", lambda *a: {k: v * (1.01 if "fc1" in k else 1) for k, v in right(*a).items()})
    with pytest.raises(UsageError, match="differ by"):
        write.export(plain(tmp_path), tmp_path / "out", RunRecord("export"), form="timm")
    assert not (tmp_path / "out").exists()


def test_transformers_loads_and_computes_the_same_states(tmp_path):
    pytest.importorskip("transformers")
    peers.timm()
    assert write.export(plain(tmp_path), tmp_path / "out", RunRecord("export"), form="hf")["difference"] < 1e-5


@pytest.mark.parametrize("name", ["reve", "csfm"])
def test_onnxruntime_computes_the_same_states(tmp_path, name):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert write.export(saved(tmp_path, name), tmp_path / "out", RunRecord("export"), form="onnx")["difference"] < 1e-5


@pytest.mark.parametrize(
    ("form", "name", "why"),
    [
        ("timm", "csfm", "vit of signal tokens"),
        ("hf", "spark", "convnet"),
        ("onnx", "spark", "convnet"),
        ("onnx", "bm-mae", "encoder.channels = 'projection'"),
        ("onnx", "point-cmae", "empty groups"),
    ],
)
def test_what_a_form_does_not_have_is_refused_with_the_reason(tmp_path, form, name, why):
    recipe = recipes.resolve(name, size="tiny")
    loaded = LoadedModel(masked.build(recipe), recipe, "", tmp_path, ())
    with pytest.raises(UsageError, match=why):
        forms.FORMS[form](loaded, tmp_path)


def test_a_vision_transformer_with_codes_of_channels_is_refused_by_what_it_has(tmp_path):
    loaded = saved(tmp_path, "bird-mae", {"encoder.class_token": False, "encoder.channels": "code"})
    with pytest.raises(UsageError, match=r"encoder\.class_token is False, there always True; encoder\.channels is 'code'"):
        forms.FORMS["timm"](loaded, tmp_path)
