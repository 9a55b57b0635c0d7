"""BM-MAE's recipe: any contrasts of a session on one checkpoint, budgets, summed losses, and what it makes of a missing one."""

import itertools

import numpy as np
import pytest
import torch

import readers
from readers.schema import Box, ReadError
from tests import mri_files
from toolkit import files
from toolkit import recipe as recipes
from toolkit.corpus import inputs
from toolkit.corpus.batches import BatchSampler, collate
from toolkit.corpus.contrasts import Contrasts, measure
from toolkit.corpus.framing.volumes import VolumeFraming, augmented, fit_scaling
from toolkit.corpus.sources import open_sources
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.interrupts import StopSignals
from toolkit.model import masked, tokenizers
from toolkit.model.folder import LoadedModel
from toolkit.model.tokens import gather
from toolkit.objective.distances import mean
from toolkit.objective.masks import MaskSampler
from toolkit.objective.objective import Objective
from toolkit.progress import Progress
from toolkit.restoration import whole
from toolkit.restoration.boxes import Damaged
from toolkit.restoration.boxes import whole as all_of
from toolkit.restoration.cubes import CubePredictor
from toolkit.restoration.voxels import join
from toolkit.training.loop import Trainer

CPU = torch.device("cpu")
STEPS = 160
NAMES = ("T1w", "T1ce", "T2w", "FLAIR")
SUBSETS = [names for count in range(1, 5) for names in itertools.combinations(NAMES, count)]
SMALL = {
    "data.spacing_mm": 4.0,
    "data.window_mm": 64.0,
    "data.most_channels": 4,
    "tokenizer.patch": 4,
    "position.cells": [4, 4, 4, 1],
    "position.cell": [16, 16, 16, 1],
    **{f"encoder.{k}": v for k, v in {"width": 48, "depth": 2, "heads": 2, "head_width": 24, "mlp": 96}.items()},
    **{f"decoder.{k}": v for k, v in {"width": 48, "depth": 1, "heads": 2, "head_width": 24, "mlp": 96}.items()},
    "training": {"steps": 2, "batch_size": 2, "seed": 3, "log_every": 1, "checkpoint_every": 100},
}


def small(**changes):
    return recipes.resolve("bm-mae", size="tiny", flags=SMALL | {k.replace("__", "."): v for k, v in changes.items()})


def session(folder, contrasts=NAMES, shape=(18, 20, 16), *, seed=0, where=None):
    """A head of 72 x 80 x 64 mm in some contrasts; its radii are a function of the seed."""
    where = mri_files.affine((4, 4, 4)) if where is None else where
    size = np.random.default_rng(seed).uniform(0.7, 1.0, 3)
    paths = []
    for contrast in contrasts:
        values = np.zeros(shape)
        inner = [round(n * s) for n, s in zip(shape, size, strict=True)]
        start = [(n - m) // 2 for n, m in zip(shape, inner, strict=True)]
        at = tuple(slice(a, a + m) for a, m in zip(start, inner, strict=True))
        values[at] = mri_files.head(inner, contrast, seed=seed)
        paths.append(mri_files.volume(folder, f"sub-{seed}_{contrast}", values, where=where, dtype="float32"))
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return dict(zip(NAMES, session(tmp_path_factory.mktemp("all")), strict=True))


def opened(paths, names):
    first, *rest = (paths[name] for name in names)
    return readers.open_recording(first, rest)


# Any contrasts, on one checkpoint.


@pytest.fixture(scope="module")
def model():
    return masked.build(small())


def encoder_of(model, recipe):
    return RecordingEncoder(model, recipe, Options("window", 64.0, 64.0, -1, "meanmax", 4), CPU)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_every_subset_of_contrasts_embeds_on_one_checkpoint_at_equal_width(names, paths, model):
    encoder = encoder_of(model, small())
    vectors = np.concatenate([block.embedding for block in encoder.rows(opened(paths, names))])
    assert vectors.shape[1] == 2 * 48 and np.isfinite(vectors).all()
    for other in (n for n in SUBSETS if n != names):
        apart = np.concatenate([block.embedding for block in encoder.rows(opened(paths, other))])
        assert apart.shape == vectors.shape and np.abs(apart - vectors).max() > 1e-3


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_every_subset_of_contrasts_trains_with_its_own_tokens_and_projections_alone(names, tmp_path, model):
    recipe = small()
    session(tmp_path, names)
    sources, failures, _ = open_sources(inputs.gather([str(tmp_path)]), recipe)
    assert not failures
    batch = BatchSampler(sources, recipe).batch(0)
    tokens = tokenizers.build(recipe).tokenize(batch)
    assert tokens.patches.shape == (2, 64 * len(names), 64)  # nothing stands in for contrasts that are not there
    model.zero_grad()
    scored = Objective(recipe, model, tokenizers.build(recipe))(batch, 0, CPU)
    scored.loss.backward()
    assert 0 < float(scored.loss) < np.inf
    each = [p.weight.grad for p in model.encoder.embed_patch.each]
    assert [grad is not None and bool(grad.abs().max() > 0) for grad in each] == [name in names for name in NAMES]


def test_a_contrast_that_the_paper_does_not_know_has_a_projection_of_its_own_and_a_code(tmp_path, model):
    recipe = small()
    for name in ("PDw", "T1w"):
        session(tmp_path / name, (name,))
    known, strange = (opened({n: next((tmp_path / n).iterdir())}, (n,)) for n in ("T1w", "PDw"))
    frame = VolumeFraming(recipe.data, 4)
    model.zero_grad()
    for recording, own in ((known, True), (strange, False)):
        tokens = tokenizers.build(recipe).tokenize(collate([frame.load(recording, frame.plan(recording, 64, 64)[0], [0])]))
        model.zero_grad()
        model.encoder(tokens).last.sum().backward()
        assert (model.encoder.embed_patch.other.weight.grad.abs().max() > 0) != own


def test_the_paper_s_model_has_its_size_and_fixed_places():
    plain = recipes.resolve("bm-mae")
    with torch.device("meta"):
        network = masked.MaskedModel(plain)
    strangers = ("embed_patch.other", "embed_patch.code", "channel.code")  # what the paper's four contrasts do without
    learned = sum(p.numel() for n, p in network.named_parameters() if p.requires_grad and not any(s in n for s in strangers))
    assert learned == pytest.approx(76.5e6, rel=1e-3)
    assert not any(p.requires_grad for n, p in network.named_parameters() if n.endswith("position.table"))
    assert plain.data.window_mm == 8 * 16 and network.encoder.embed_position.table.shape == (512, 768)
    schedule = plain.optimizer
    assert (schedule.learning_rate, schedule.weight_decay, schedule.warmup_share, schedule.final_share) == (
        1e-4,
        0.05,
        0.05,
        0.25,
    )


@torch.no_grad()
def test_only_the_projection_tells_contrasts_apart(paths):
    """Without its projections, which alone differ, the encoder sees two contrasts of equal voxels as the same."""
    network, recipe = masked.build(small()), small()
    for each in network.encoder.embed_patch.each:
        each.load_state_dict(network.encoder.embed_patch.each[0].state_dict())
    tokens = tokenizers.build(recipe).tokenize(
        collate([VolumeFraming(recipe.data, 4).load(opened(paths, ("T1w", "T2w")), Box((0, 0, 0), (16, 16, 16)), [0, 1])])
    )
    first, _ = tokens.patches.chunk(2, dim=1)
    same = tokens.__class__(**{**vars(tokens), "patches": torch.cat([first, first], dim=1)})
    one, other = network.encoder(same).last.chunk(2, dim=1)
    torch.testing.assert_close(one, other)
    other = network.encoder(tokens).last.chunk(2, dim=1)[1]
    assert not torch.allclose(one, other, atol=1e-3)


# Budgets and losses.


def test_a_quarter_of_all_tokens_stays_visible_shared_out_by_a_flat_dirichlet(paths):
    recipe = small(training__batch_size=1)
    tokens = tokenizers.build(recipe).tokenize(
        collate([VolumeFraming(recipe.data, 4).load(opened(paths, NAMES), Box((1, 2, 0), (17, 18, 16)), range(4))] * 1500)
    )
    assert tokens.valid.all()
    mask = MaskSampler(recipe.mask, recipe.tokenizer.channels).sample(tokens, torch.Generator().manual_seed(0))
    shown = torch.stack([(tokens.channel.gather(1, mask.visible) == k).sum(1) for k in range(4)], dim=1).double()
    assert (shown.sum(1) == 64).all()  # of 4 x 64 tokens
    share = shown / 64
    # Dirichlet(1, 1, 1, 1): mean 1/4, variance 3/80, P(share < 1/8) = 1 - (7/8)^3; no contrast can have more than it holds.
    assert share.mean(0).numpy() == pytest.approx([0.25] * 4, abs=0.02)
    assert share.var(0).numpy() == pytest.approx([3 / 80] * 4, rel=0.15)
    assert float((share < 7.5 / 64).double().mean()) == pytest.approx(1 - (1 - 7.5 / 64) ** 3, abs=0.03)


def test_the_loss_is_the_sum_of_the_contrasts_means_and_one_with_nothing_hidden_adds_nothing():
    each = torch.tensor([[1.0, 2.0, 30.0, 7.0], [3.0, 10.0, 20.0, torch.nan]], requires_grad=True)
    counts = torch.tensor([[True, True, True, True], [True, True, True, False]])
    channels = torch.tensor([[0, 0, 2, 1], [0, 2, 2, 3]])
    summed = mean(each, counts, channels)
    assert float(summed) == pytest.approx((1 + 2 + 3) / 3 + (30 + 10 + 20) / 3 + 7)
    summed.backward()
    assert each.grad[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1]) and each.grad[1, 3] == 0
    assert float(mean(each, torch.zeros_like(counts), channels)) == 0


def test_the_recipe_s_loss_is_that_sum(paths):
    recipe = small(training__batch_size=2)
    batch = collate([VolumeFraming(recipe.data, 4).load(opened(paths, NAMES), Box((1, 2, 0), (17, 18, 16)), range(4))] * 2)
    network, looks = masked.build(recipe), []
    look = network.look
    network.look = lambda *given: looks.append(look(*given)) or looks[-1]
    objective = Objective(recipe, network, tokenizers.build(recipe))
    with torch.no_grad():
        scored = objective(batch, 0, CPU)
        hidden = looks[0].hidden
        predicted = network(looks[0].tokens, looks[0].visible, hidden)
    # In the data's scale: the tokens of a look are divided by the RMS of what is visible of their contrast.
    plain = tokenizers.build(recipe).tokenize(batch)
    factor = gather(plain.patches.square().mean(-1, keepdim=True), hidden).sqrt()
    factor = factor / gather(looks[0].tokens.patches.square().mean(-1, keepdim=True), hidden).sqrt()
    error = ((predicted * factor - gather(plain.patches, hidden)) ** 2).mean(-1)
    channel = plain.channel.gather(1, hidden)
    assert float(scored.loss) == pytest.approx(sum(float(error[channel == k].mean()) for k in range(4)), rel=1e-4)


# Preprocessing.


def test_training_turns_and_shifts_all_contrasts_alike_and_nothing_else_does(paths):
    recipe = small(data__flips=0.5, data__gain=0.1, data__shift=0.1)
    frame, recording = VolumeFraming(recipe.data, 4), opened(paths, ("T1w", "T2w"))
    window = Box((-3, 0, 0), (13, 16, 16))  # part of it lies outside the file
    plain = frame.load(recording, window, [0, 1])
    seen = set()
    for seed in range(40):
        drawn = frame.load(recording, window, [0, 1], np.random.default_rng(seed))
        again = augmented(plain, recipe.data, np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn.values, again.values)
        assert (drawn.values[~drawn.valid] == 0).all()
        ways = [
            way
            for way in itertools.product((False, True), repeat=3)
            if np.array_equal(np.flip(plain.valid, [k + 1 for k in range(3) if way[k]]), drawn.valid)
            and abs(np.corrcoef(np.flip(plain.values, [k + 1 for k in range(3) if way[k]]).ravel(), drawn.values.ravel())[0, 1])
            > 0.9999
        ]
        assert len(ways) == 1
        seen.add(ways[0])
        back = np.flip(drawn.values, [k + 1 for k in range(3) if ways[0][k]])[plain.valid]
        gain, shift = np.polyfit(plain.values[plain.valid], back, 1)
        assert 0.9 <= gain <= 1.1 and -0.1 <= shift <= 0.1
    assert len(seen) == 8
    still = VolumeFraming(small(data__flips=0.0, data__gain=0.0, data__shift=0.0).data, 4)
    np.testing.assert_array_equal(still.load(recording, window, [0, 1], np.random.default_rng(0)).values, plain.values)


def test_contrasts_are_scaled_by_bright_voxels_or_by_those_that_are_not_zero():
    values = np.array([0, 0, 0, 1, 2, 3, 10, 12], np.float32).reshape(1, 2, 2, 2)
    bright, nonzero = (fit_scaling(values, np.ones_like(values, bool), of) for of in ("bright", "nonzero"))
    assert (bright.offset[0], bright.scale[0]) == (11.0, 1.0)
    kept = [1, 2, 3, 10, 12]
    assert (nonzero.offset[0], nonzero.scale[0]) == pytest.approx((np.mean(kept), np.std(kept)))


# Grids of one session.

PLACES = {
    "finer": ({"spacing": (2, 2, 2)}, (36, 40, 32), "36 x 40 x 32 voxels of 2 x 2 x 2 mm"),
    "cut": ({"spacing": (4, 4, 4)}, (18, 20, 15), "18 x 20 x 15 voxels of 4 x 4 x 4 mm"),
    "moved": ({"spacing": (4, 4, 4), "origin": (-10, -8, -9)}, (18, 20, 16), "up to 4 mm elsewhere"),
    "turned": ({"spacing": (4, 4, 4), "angles": (0, 0, 3)}, (18, 20, 16), "mm elsewhere"),
}


@pytest.mark.parametrize("how", PLACES)
def test_contrasts_on_mismatched_grids_are_refused_with_the_reason(how, tmp_path):
    place, shape, words = PLACES[how]
    session(tmp_path, ("T1w",))
    session(tmp_path, ("T2w",), shape, where=mri_files.affine(**place))
    sources, failures, _ = open_sources(inputs.gather([str(tmp_path)]), small())
    assert not sources
    assert "T2w lies on another grid" in failures[0].reason and words in failures[0].reason
    assert "than T1w (18 x 20 x 16 voxels of 4 x 4 x 4 mm)" in failures[0].reason and "registered" in failures[0].reason
    sources, failures, _ = open_sources(inputs.gather([str(tmp_path)]), small(data__grids="headers"))
    assert len(sources) == 1 and not failures
    with pytest.raises(ReadError, match="another grid"):
        list(encoder_of(masked.build(small()), small()).rows(sources[0].recording))


def test_the_order_of_stored_axes_is_no_other_grid(tmp_path):
    session(tmp_path, ("T1w",))
    values, where = mri_files.head((18, 20, 16), "T2w"), mri_files.affine((4, 4, 4))
    turn = np.array([[0, 0, -1, 17], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = values[::-1].transpose(1, 2, 0)
    mri_files.volume(tmp_path, "sub-0_T2w", turned, where=where @ turn)
    sources, failures, _ = open_sources(inputs.gather([str(tmp_path)]), small())
    assert [len(s.channels) for s in sources] == [2] and not failures


# A contrast that is missing.


def test_a_linear_function_of_the_others_is_found_again_from_what_was_measured(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        one, two = rng.normal(100, 20, (2, 18, 20, 16))
        for name, values in {"T1w": one, "T2w": two, "FLAIR": 2 * one - two + 300}.items():
            mri_files.volume(tmp_path, f"sub-{k}_{name}", values, dtype="float32", where=mri_files.affine((4, 4, 4)))
    sources, _, _ = open_sources(inputs.gather([str(tmp_path)]), small())
    found = measure(sources, small())
    again = Contrasts.read(found.document())
    assert again.names == ("FLAIR", "T1w", "T2w") and again.rms("T1w") == found.rms("T1w")
    weights = again.linear(("T1w", "T2w"), "FLAIR")
    assert weights[1] > 0 > weights[2] and -weights[1] / weights[2] == pytest.approx(2, rel=0.02)
    assert again.linear(("T1w",), "T1ce") is None and Contrasts.read({"names": ["T1w"]}) is None


SHELLS = {"T1w": (0.2, 0.8, 0.4, 1.0), "T2w": (1.0, 0.9, 0.1, 0.3)}  # brightness, inside out


def shells(folder, seed):
    """A head of four nested tissues, of another size for each seed; T2w is a function of T1w, but no linear one."""
    rng = np.random.default_rng(seed)
    half, middle = rng.uniform(6, 8, 3), rng.uniform(7, 8.5, 3)
    place = np.moveaxis(np.indices((16, 16, 16)), 0, -1) - middle
    radius = np.sqrt((place**2 / half**2).sum(-1))
    for name, levels in SHELLS.items():
        clean = np.select([radius < edge for edge in (0.4, 0.6, 0.8, 1.0)], [1000 * level for level in levels], 0.0)
        noisy = np.where(clean > 0, clean + rng.normal(0, 10, clean.shape), 0.0)
        mri_files.volume(folder, f"sub-{seed}_{name}", noisy, where=mri_files.affine((4, 4, 4)), dtype="float32")
    return [folder / f"sub-{seed}_{name}.nii" for name in SHELLS]


def test_held_out_psnr_of_a_missing_contrast_beats_copying_the_best_of_the_others(tmp_path):
    """Heads of other sizes than those it was trained on, by PSNR in the head; whole contrasts are hidden in training too."""
    training = {"steps": STEPS, "batch_size": 6, "seed": 3, "log_every": STEPS, "checkpoint_every": STEPS}
    mask = {"mask.ratio": 0.5, "mask.ways": {"groups": 1.0}}
    recipe = small(optimizer__learning_rate=2e-3, data__flips=0.0, training=training, **mask)
    for seed in range(10):
        shells(tmp_path / "data", seed)
    sources, failures, _ = open_sources(inputs.gather([str(tmp_path / "data")]), recipe)
    assert not failures
    run = tmp_path / "run"
    run.mkdir()
    network = masked.build(recipe)
    trainer = Trainer(recipe, network, BatchSampler(sources, recipe), run, device=CPU)
    with StopSignals() as stop, Progress("train", STEPS, "steps", enabled=False) as progress:
        trainer.train(progress, stop)
    files.write_json(run / "run.json", {"contrasts": measure(sources, recipe).document()})
    predictor = CubePredictor(LoadedModel(network.eval(), recipe, "none", run, ()), CPU)
    for seed in (100, 101):
        first, *rest = shells(tmp_path / "new", seed)
        clean = Damaged(readers.open_recording(first, rest), [])
        hole = all_of(clean, 1)
        seen = Damaged(clean, [hole])
        field = predictor.predict(seen, [0, 1], [hole])[1]
        parts = list(join(seen, 1, np.ones(clean.shape_of(1), bool), field, None, 1.0))
        metrics, beside = whole.scores(predictor, clean, seen, parts, [0, 1])
        assert {"copy of T1w", "mean of the others", "linear in the others", "flat"} == set(beside)
        for key, margin in (("psnr_db", 0.5), ("psnr_written_db", 0.5), ("ssim", 0.1)):
            assert metrics[key] > max(row[key] for row in beside.values()) + margin, (key, metrics, beside)


def test_structural_similarity_and_fits_agree_with_their_formulas():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 13, 12))
    y = 0.5 * x + rng.normal(size=x.shape)
    counts = np.zeros(x.shape, bool)
    counts[7, 6, 5] = True
    weight = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.einsum("i,j,k", weight, weight, weight) / weight.sum() ** 3
    a, b = x[2:13, 1:12, :11], y[2:13, 1:12, :11]
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b, both = (
        (window * a * a).sum() - mean_a**2,
        (window * b * b).sum() - mean_b**2,
        (window * a * b).sum() - mean_a * mean_b,
    )
    small_, smaller = (0.01 * 4) ** 2, (0.03 * 4) ** 2
    want = (2 * mean_a * mean_b + small_) * (2 * both + smaller) / ((mean_a**2 + mean_b**2 + small_) * (var_a + var_b + smaller))
    assert whole.ssim(x, y, 4.0, counts) == pytest.approx(want, rel=1e-6)
    assert whole.ssim(x, x, 4.0, np.ones_like(counts)) == pytest.approx(1)
    inside = np.ones(x.size, bool)
    np.testing.assert_allclose(whole.fitted(-3 * x.ravel() + 8, x.ravel(), inside), x.ravel(), atol=1e-9)
