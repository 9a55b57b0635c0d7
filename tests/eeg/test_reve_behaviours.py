"""What counts as REVE working: any montage and length, places and not names, and electrodes nobody located are named."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from readers.electrodes import places
from readers.schema import Channel
from tests import eeg_session
from toolkit import recipe as recipes
from toolkit.cli.app import app
from toolkit.corpus.batches import Batch
from toolkit.embedding.pooling import pooled
from toolkit.model import masked, tokenizers

WIDTH = {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 40}
SMALL = {f"{part}.{key}": value for part in ("encoder", "decoder") for key, value in WIDTH.items()} | {
    "data.rate_hz": 100.0,
    "data.window_s": 2.0,
    "tokenizer.patch": 20,
    "tokenizer.stride": 18,
    "training.batch_size": 4,
    "encoder.init": "xavier",  # with the paper's small numbers a fresh model is nearly linear, and its mean knows no order
}
NAMES = eeg_session.TEN_TWENTY


@pytest.fixture(scope="module")
def recipe():
    return recipes.resolve("reve", size="tiny", flags=SMALL)


@pytest.fixture(scope="module")
def model(recipe):
    return masked.build(recipe).eval()


def channels(names, moved=0.0):
    def place(name):
        x, y, z = places()[name]
        return x, y + moved * (name == "Cz"), z

    return tuple(Channel(name, name, "eeg", "uV", 1e-6, 100.0, place(name)) for name in names)


def batch(values, about):
    values = np.asarray(values, np.float32)[None]
    return Batch(values, np.ones(values.shape, bool), (about,))


@torch.inference_mode()
def embedded(model, recipe, given):
    tokens = tokenizers.build(recipe).tokenize(given)
    return pooled("mean", model.features(tokens), tokens.valid)[0]


@pytest.mark.parametrize(("count", "samples"), [(1, 20), (4, 200), (19, 74), (19, 200), (12, 1100)])
def test_reve_1_same_weights_take_any_number_of_electrodes_and_any_length(model, recipe, count, samples):
    vector = embedded(model, recipe, batch(eeg_session.waves(NAMES[:count], samples / 100) / 20, channels(NAMES[:count])))
    assert vector.shape == (32,) and bool(vector.isfinite().all())


def test_reve_2_permuting_channels_with_their_places_changes_nothing(model, recipe):
    values, about = eeg_session.waves(NAMES, 2.0) / 20, channels(NAMES)
    order = np.random.default_rng(0).permutation(19)
    one = embedded(model, recipe, batch(values, about))
    other = embedded(model, recipe, batch(values[order], tuple(about[i] for i in order)))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    swapped = embedded(model, recipe, batch(values[order], about))
    assert float((one - swapped).abs().max()) > 1e-3


def test_reve_2_moving_an_electrode_changes_the_embedding_and_renaming_it_does_not(model, recipe):
    values = eeg_session.waves(NAMES, 2.0) / 20
    one = embedded(model, recipe, batch(values, channels(NAMES)))
    moved = embedded(model, recipe, batch(values, channels(NAMES, moved=0.03)))
    renamed = tuple(dataclasses.replace(c, name=f"A{i}", canonical=f"A{i}") for i, c in enumerate(channels(NAMES)))
    assert float((one - moved).abs().max()) > 1e-4
    torch.testing.assert_close(one, embedded(model, recipe, batch(values, renamed)), atol=0, rtol=0)


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def settings():
    return [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


def test_reve_3_electrodes_without_a_place_are_named_and_left_out_and_a_file_of_none_but_them_fails(tmp_path):
    data = tmp_path / "data"
    eeg_session.record(data / "a.edf", NAMES, 8, seed=1)
    eeg_session.record(data / "b.edf", ("Fp1", "X7", "Cz", "O1", "X9"), 8, seed=2)
    eeg_session.record(data / "c.edf", ("X1", "X2"), 8, seed=3)
    code, _, said = run(
        "pretrain", data, "--recipe", "reve", "--size", "tiny", "--steps", 2, "--out", tmp_path / "run", *settings()
    )
    said = " ".join(said.split())
    assert code == 3
    assert "left out because nothing says where they are: EEG X7, EEG X9" in said and "electrodes.tsv" in said
    assert "'c.edf' says of none of its channels where it is (EEG X1, EEG X2)" in said
    code, _, said = run("embed", data, "--model", tmp_path / "run", "--out", tmp_path / "rows.parquet", "--json")
    said = " ".join(said.split())
    assert code == 3 and "EEG X7, EEG X9" in said and "EEG X1, EEG X2" in said
    table = pq.read_table(tmp_path / "rows.parquet").to_pandas()
    assert {p.rsplit("/", 1)[1] for p in table["path"]} == {"a.edf", "b.edf"}
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted(facts["channels"]) == sorted(NAMES)
    only = tmp_path / "only"
    eeg_session.record(only / "c.edf", ("X1", "X2"), 8)
    code, _, said = run("pretrain", only, "--recipe", "reve", "--size", "tiny", "--out", tmp_path / "other", *settings())
    assert code == 2 and "EEG X1, EEG X2" in said


def test_reve_trains_on_any_montage_and_length_in_one_batch_and_resumes_exactly(tmp_path):
    data = tmp_path / "data"
    for k, (count, seconds) in enumerate(((4, 8), (19, 9), (9, 1))):
        eeg_session.record(data / f"r{k}.edf", NAMES[:count], seconds, seed=k)
    common = ["pretrain", data, "--recipe", "reve", "--size", "tiny", *settings(), "--steps", 6]
    more = ["--set", "training.checkpoint_every=3", "--set", "training.log_every=1"]
    code, _, said = run(*common, *more, "--out", tmp_path / "whole")
    assert code == 0, said
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[-1]["terms"]) == {"reconstruction", "global"} and np.isfinite([line["loss"] for line in lines]).all()
    (tmp_path / "whole" / "checkpoints" / "step-00000006.safetensors").unlink()
    code, _, said = run(*common, *more, "--out", tmp_path / "whole", "--resume")
    again = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert code == 0 and [line["loss"] for line in again] == [line["loss"] for line in lines], said


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_reve_s_sizes_are_the_paper_s(size):
    with torch.device("meta"):
        model = masked.MaskedModel(recipes.resolve("reve", size=size))
    count = sum(p.numel() for p in model.encoder.parameters())
    assert count / 1e6 == pytest.approx(
        {"small": 12.7, "base": 69.189120, "large": 400}[size], rel=0.05 if size == "large" else 0.003
    )


def test_reve_s_masks_are_the_paper_s_and_wider_ones_are_a_preset_away():
    mask, wide = (recipes.resolve("reve", size="base", preset=preset).mask for preset in (None, "wide"))
    assert (mask.ratio, mask.radius_m, mask.length_patches, mask.hold, mask.hold_radius_m) == (0.55, 0.03, 3, 0.1, 0.04)
    assert wide.model_copy(update={"radius_m": 0.03, "length_patches": 3}) == mask and (wide.radius_m, wide.length_patches) == (
        0.09,
        2,
    )
    tokenizer = recipes.resolve("reve", size="base").tokenizer
    assert (tokenizer.patch, tokenizer.step) == (200, 180)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_reve_s_time_counts_steps_from_patch_to_patch(size):
    """0 for the first patch, 1 for the second, as the released weights were trained."""
    table = recipes.resolve("reve", size=size)
    patch, step, rate = table.tokenizer.patch, table.tokenizer.step, table.data.rate_hz
    given = batch(np.zeros((1, patch + 3 * step)), channels(("Cz",)))
    coords = tokenizers.build(table).tokenize(given).coords[0]
    units = (coords - torch.tensor(table.position.middle)) / torch.tensor(table.position.unit)
    torch.testing.assert_close(units[:, 3], torch.arange(4.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(units[:, :3], torch.tensor(places()["Cz"]).expand(4, 3))
    assert rate == 200
