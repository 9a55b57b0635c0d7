"""I2P-MAE: an image model from a local file says which tokens stay visible and what visible tokens must tell.

Its numbers are compared with what timm itself computes.
"""

import json
import pickle
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests import peers, points_files
from tests.objective.makers import engine, pictures, small, synthetic, tokens_of, train
from toolkit import recipe as recipes
from toolkit.cli.app import app
from toolkit.errors import UsageError
from toolkit.model import tokenizers
from toolkit.objective import image_teacher
from toolkit.objective.guided import kept
from toolkit.objective.image_teacher import Guidance
from toolkit.objective.masks import MaskSampler
from toolkit.objective.scale import step_generator
from toolkit.training.meter import progress_line, read_metrics

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
CPU = torch.device("cpu")


def build(name="vit_tiny_patch16_224", classes=0, seed=0, **options):
    torch.manual_seed(seed)
    return peers.timm().create_model(name, pretrained=False, num_classes=classes, **options).eval()


def saved(folder, model, name="teacher", architecture="vit_tiny_patch16_224", **about):
    save_file(model.state_dict(), folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"architecture": architecture, **about}))
    return folder / f"{name}.safetensors"


@pytest.fixture
def vit(tmp_path):
    """A vision transformer with random weights, with its head, in a file."""
    model = build(classes=5, **VIT)
    return model, saved(tmp_path, model, model_args=VIT)


# The file.


@torch.no_grad()
def test_a_transformer_s_features_and_salience_are_timm_s(vit):
    model, path = vit
    teacher = image_teacher.load(path)
    assert (teacher.side, teacher.width) == (32, 24) and not any(p.requires_grad for p in teacher.parameters())
    shown = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps, salience = teacher.encoder(shown)
    weights, last = [], model.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda _, given, out: weights.append(out))  # of what each token attends to
    expected = model.forward_features((shown - 0.5) / 0.5)
    torch.testing.assert_close(maps.flatten(2).mT, expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(salience.flatten(1), weights[0][:, :, 0, 1:].mean(1), atol=1e-6, rtol=1e-5)
    assert salience.sum((1, 2)).max() < 1 and salience.std() > 0


@torch.no_grad()
def test_a_convnet_s_salience_is_its_greatest_feature_and_tensors_of_a_checkpoint_are_read(tmp_path):
    model = build("resnet10t", classes=7)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architecture": "resnet10t", "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.1] * 3, "std": [0.3] * 3}}
        )
    )
    teacher = image_teacher.load(tmp_path / "net.pth")
    shown = torch.rand(2, 3, 64, 64)
    maps, salience = teacher.encoder(shown)
    expected = model.forward_features((shown - 0.1) / 0.3)
    assert teacher.side == 64 and teacher.width == 512
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(salience, expected.amax(1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_are_told_what_the_views_say_where_they_lie(vit):
    """A map that is the same everywhere in a view reads as the mean over the views; a token in no valid group says nothing."""
    recipe = small("i2p-mae", "points")
    tokens, tokenizer = tokens_of(recipe, synthetic(recipe)), tokenizers.build(recipe)
    said = image_teacher.load(vit[1])(tokens, tokenizer.untokenize(tokens.patches, tokens.coords))
    assert said.features.shape == (8, 16, 24) and said.salience.shape == (8, 16)
    assert said.features.std(1).min() > 1e-3 and torch.isfinite(said.features).all()  # it varies over the cloud
    other = replace(tokens, patches=tokens.patches.flip(0), coords=tokens.coords.flip(0))
    again = image_teacher.load(vit[1])(other, tokenizer.untokenize(other.patches, other.coords))
    torch.testing.assert_close(again.features.flip(0), said.features, atol=1e-5, rtol=1e-5)  # each by its own cloud


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def refused(path, *words):
    with pytest.raises(UsageError) as error:
        image_teacher.load(path)
    assert all(word in str(error.value) for word in ("teacher.path", *words)), str(error.value)


def test_what_is_no_image_model_is_refused_with_what_is_wrong(tmp_path, vit):
    _, path = vit
    about = path.with_suffix(".json")
    refused(tmp_path / "none.safetensors", "does not exist", "architecture")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither model.safetensors nor pytorch_model.bin")
    alone = tmp_path / "empty" / "model.safetensors"
    alone.write_bytes(path.read_bytes())
    refused(alone, "nothing beside", "model.json", '{"architecture"')
    for text, words in [
        ("{", ["JSON"]),
        ("[]", ["names no architecture"]),
        ('{"architecture": "vit_tiny_patch16_22"}', ["does not have", "vit_tiny_patch16_224"]),
        ('{"architecture": "vit_tiny_patch16_224", "model_args": {"deep": 3}}', ["model_args", "deep"]),
        ('{"architecture": "vit_tiny_patch16_224"}', ["not of that model", "blocks.2.norm1.weight is missing", "more"]),
        (
            json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": VIT | {"patch_size": 16}}),
            ["(24, 3, 8, 8), expected"],
        ),
        ('{"architecture": "resnet10t"}', ["not of that model", "is missing", "more"]),
    ]:
        about.write_text(text)
        refused(path, *words)


def test_a_file_that_could_run_code_is_refused_and_does_not(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    with (tmp_path / "whole.pth").open("wb") as handle:
        pickle.dump(Trap(tmp_path / "ran"), handle)
    torch.save({"model": Trap(tmp_path / "ran")}, tmp_path / "new.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    (tmp_path / "named.safetensors").write_bytes((tmp_path / "whole.pth").read_bytes())
    peers.timm()
    for name in ("whole.pth", "new.pth", "script.pt", "named.safetensors"):
        refused(tmp_path / name, "tensors only", "TorchScript", "state_dict")
    assert not (tmp_path / "ran").exists()


def test_without_timm_it_is_said_how_to_get_it(vit, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    refused(vit[1], "pip install 'masked-recordings[timm]'")


# Masks.


def guided(**changes):
    """The mask table of the recipe on tokens of its making, and those tokens."""
    recipe = small("i2p-mae", "points", **({"tokenizer.centres": 64, "mask.neighbourhoods": 16} | changes))
    return recipe.mask, tokens_of(recipe, synthetic(recipe, size=64))


@pytest.mark.parametrize("neighbourhoods", [0, 16])
def test_salient_tokens_stay_visible_more_often_than_at_random(neighbourhoods):
    """Salience is the height of a token: the highest stay visible at least half as often again; the ratio holds."""
    table, tokens = guided(**{"mask.neighbourhoods": neighbourhoods})
    salience = tokens.coords[..., 2] + 1
    rates = {}
    for is_guided in (True, False):
        sampler = MaskSampler(table.model_copy(update={"guided": is_guided}), ())
        draws = [sampler.sample(tokens, step_generator(0, step), 0.0, salience) for step in range(10)]
        assert {draw.visible.shape[1] for draw in draws} == {13}  # a fifth of 64
        rates[is_guided] = np.mean([kept(salience, draw.visible, tokens.valid) for draw in draws], axis=0)
    assert rates[False][0] == pytest.approx(rates[False][1], abs=0.03) and rates[True][1] == rates[False][1]
    assert rates[True][0] > 1.5 * rates[True][1]


def test_a_weighted_draw_without_replacement_has_the_odds_it_says():
    """Of two tokens left visible one at a time: odds in proportion to the exponential of salience in deviations."""
    table, tokens = guided(**{"mask.neighbourhoods": 0})
    two = tokens.take(torch.tensor([[3, 7]]).expand(64, -1))
    salience = torch.tensor([[5.0, 1.0]]).expand(64, -1)  # one deviation above the mean, one below
    sampler = MaskSampler(table.model_copy(update={"ratio": 0.5}), ())
    two = replace(two, grid=(1, 2))
    first = [sampler.sample(two, step_generator(1, step), 0.0, salience).visible[:, 0] for step in range(100)]
    assert (torch.stack(first) == 0).float().mean() == pytest.approx(np.e / (np.e + 1 / np.e), abs=0.02)


def test_whole_neighbourhoods_are_hidden_so_that_all_scales_agree():
    """Centres found here from the definition: of each one's tokens all are hidden or none, but for the one that is cut."""
    table, tokens = guided()
    mask = MaskSampler(table, ()).sample(tokens, step_generator(0, 1), 0.0, torch.rand(64, 64))
    for row in range(64):
        places = tokens.coords[row, :, :3].double().numpy()
        chosen = [int(np.linalg.norm(places - places.mean(0), axis=1).argmax())]
        while len(chosen) < 16:
            chosen.append(int(np.linalg.norm(places[:, None] - places[chosen], axis=2).min(1).argmax()))
        group = np.linalg.norm(places[:, None] - places[chosen], axis=2).argmin(1)
        hidden = np.isin(np.arange(64), mask.hidden[row].numpy())
        mixed = [k for k in range(16) if 0 < hidden[group == k].mean() < 1]
        assert len(mixed) <= 1
        for k in mixed:  # it is cut by distance
            far = np.linalg.norm(places - places[chosen[k]], axis=1)
            assert far[(group == k) & ~hidden].max() <= far[(group == k) & hidden].min()


# The objective.


def test_both_losses_fall_below_their_trivial_level_and_salience_is_reported():
    recipe = small("i2p-mae", "points")
    batches = [synthetic(recipe, seed=k) for k in range(3)]
    objective = engine(recipe, batches)
    rows = train(objective, batches, 90)
    early, late = ({k: np.mean([r[k] for r in part]) for k in rows[0]} for part in (rows[:10], rows[-20:]))
    assert late["pictures"] < 0.85 * early["pictures"] and late["pictures"] < 0.9 * late["trivial pictures"]
    assert late["reconstruction"] < 0.8 * late["trivial reconstruction"]
    scored = objective(batches[0], 0, CPU, detail=True)
    assert scored.salient is not None and scored.salient[1] == pytest.approx(3 / 16)
    kept_in = {name.partition(".")[0] for name in objective.state_dict()}
    assert kept_in == {"model", "targets"}  # nothing of the teacher is in a checkpoint


def test_visible_tokens_are_compared_with_what_is_said_of_them_and_the_teacher_learns_nothing():
    recipe = small("i2p-mae", "points", terms__1__norm="none")
    objective, batch = engine(recipe), synthetic(recipe)
    tokens, seen = tokens_of(recipe, batch), []
    objective.targets[1].register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    objective(batch, 0, CPU).loss.backward()
    scene, compared = seen[0]
    said = pictures(recipe)(tokens, tokenizers.build(recipe).untokenize(tokens.patches, tokens.coords))
    look = scene.looks[0]
    for row in range(8):
        torch.testing.assert_close(compared.target[row], said.features[row, look.visible[row]])
    assert compared.predicted.shape == (8, 3, 12) and not compared.target.requires_grad
    assert objective.model.encoder.blocks[0][0].mlp[0].weight.grad.any()


def test_a_repeated_pass_is_told_of_each_sample_as_often():
    said = Guidance(torch.arange(6.0).view(2, 3, 1), torch.arange(6.0).view(2, 3)).repeated(2)
    assert said.salience.tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]] and said.features.shape == (4, 3, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["terms.1.target=latent"], ["no states of tokens", "'image'"]),
        (["teacher.kind=ema", "mask.guided=false"], ["'image' needs teacher.kind = 'image'"]),
        (["teacher.kind=ema", "terms.1.target=content", "terms.1.loss=nce"], ["mask.guided"]),
        (["mask.ways={ blocks = 1.0 }"], ["mask.guided", "random = 1.0"]),
    ],
)
def test_tables_without_a_teacher_for_them_are_refused(settings, words):
    if "content" in str(settings):
        settings = [*settings, "terms.1={ name = 'pictures', queries = 'visible', predictor = 'none', target = 'raw' }"]
    with pytest.raises(UsageError) as error:
        recipes.resolve("i2p-mae", size="tiny", settings=settings)
    assert all(word in str(error.value) for word in words), str(error.value)


# The command.


@pytest.fixture
def clouds(tmp_path):
    folder = tmp_path / "clouds"
    folder.mkdir()
    for k in range(2):
        points_files.ply(folder / f"r{k}.ply", points_files.cloud(300 + 50 * k))
    return folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def words_of(clouds, out, *more):
    flags = ["data.points=64", "tokenizer.centres=16", "tokenizer.neighbours=8", "mask.neighbourhoods=8", "training.log_every=1"]
    flags += ["training.checkpoint_every=2", *more]
    common = ["pretrain", str(clouds), "--recipe", "i2p-mae", "--size", "tiny", "--steps", "4", "--batch-size", "4", "--quiet"]
    return [*common, "--out", str(out), *(word for flag in flags for word in ("--set", flag))]


def test_without_an_image_model_nothing_runs_and_the_option_is_named(clouds, tmp_path):
    done = run(*words_of(clouds, tmp_path / "run"))
    assert done.exit_code == 2 and not done.stdout
    assert "--set teacher.path=FILE" in done.stderr and "timm" in done.stderr
    assert not (tmp_path / "run").exists()  # no run without a teacher under its name


def test_a_run_with_an_image_model_logs_what_stays_visible_resumes_exactly_and_embeds_without_it(clouds, tmp_path, vit):
    teacher = f"teacher.path={vit[1]}"
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(*words_of(clouds, whole, teacher)).exit_code == 0
    rows = read_metrics(whole)
    assert [row["salient"]["random"] for row in rows] == [pytest.approx(3 / 16, abs=1e-4)] * 4
    assert {0 <= row["salient"]["visible"] <= 1 for row in rows} == {True} and len(rows) == 4
    assert set(rows[0]["terms"]) == {"reconstruction", "pictures"}
    assert json.loads((whole / "run.json").read_text())["teacher_hash"] == image_teacher.load(vit[1]).hash != ""
    shutil.copytree(whole, halves)
    for later in sorted((halves / "checkpoints").iterdir())[1:]:
        later.unlink()
    (halves / "model.safetensors").unlink()
    assert run(*words_of(clouds, halves, teacher), "--resume").exit_code == 0
    assert (halves / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    vit[1].unlink()
    assert run("embed", clouds, "--model", whole, "--out", tmp_path / "e.csv", "--quiet").exit_code == 0
    first = (tmp_path / "e.csv").read_text().splitlines()
    assert len(first) == 3


def test_the_scales_masks_and_rates_are_the_published_ones():
    """Of the configuration that the authors released: 512, 256 and 64 groups of 16, 8 and 8."""
    recipe = recipes.resolve("i2p-mae")
    table, count = recipe.encoder, recipe.tokenizer.centres
    groups = [count // int(np.prod(table.steps[:scale])) for scale in range(3)]
    assert groups == [512, 256, 64] and (recipe.tokenizer.neighbours, *table.neighbours) == (16, 8, 8)
    assert (table.widths, table.depths, table.heads, table.drop_path) == ((96, 192, 384), (5, 5, 5), 6, 0.1)
    assert (recipe.mask.ratio, recipe.mask.neighbourhoods, recipe.data.points) == (0.8, 64, 2048)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay, recipe.training.batch_size) == (1e-3, 0.05, 64)


def test_the_log_line_says_what_stays_visible():
    row = {"loss": 1.0, "loss_trivial": 2.0, "terms": {}, "samples_per_s": 1.0, "data_wait": 0.0, "collapsed": []}
    assert "salient" not in progress_line(row)
    said = progress_line(row | {"salient": {"visible": 0.344, "random": 0.2}})
    assert "salient tokens 34 % visible (20 % at random)" in said
