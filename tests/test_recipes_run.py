"""Every system trains on files of its domain: it learns, resumes exactly, hides what it says and sees nothing hidden."""

import copy
import dataclasses
import tomllib

import numpy as np
import pytest
import torch

from tests.domain_files import CUT, SMALL, make, small
from tests.models import talking
from toolkit import recipe as recipes
from toolkit.corpus import inputs
from toolkit.corpus.batches import Batch, BatchSampler
from toolkit.corpus.sources import open_sources
from toolkit.errors import UsageError
from toolkit.interrupts import StopSignals
from toolkit.model import folder, masked, tokenizers
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.objective.masks import MaskSampler
from toolkit.objective.objective import Objective
from toolkit.progress import Progress
from toolkit.recipe import WaysTable
from toolkit.training.loop import Trainer
from toolkit.training.meter import read_metrics

CPU = torch.device("cpu")
NAMES = sorted(CUT)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Sources of each recipe's files."""
    found = {}
    for name in NAMES:
        data = make(name, tmp_path_factory.mktemp(name))
        found[name], failures, _ = open_sources(inputs.gather([str(data)]), small(name))
        assert not failures and len(found[name]) == 2
    return found


class Breaking(BatchSampler):
    """Fails at one step."""

    fails_at = None

    def batch(self, step):
        if step == self.fails_at:
            raise KeyError("killed")
        return super().batch(step)


def train(run, recipe, sources, *, resume=False, fails_at=None):
    run.mkdir(exist_ok=True)
    sampler = Breaking(sources, recipe)
    sampler.fails_at = fails_at
    trainer = Trainer(recipe, masked.build(recipe), sampler, run, device=CPU)
    done = trainer.resume() if resume else 0
    with StopSignals() as stop, Progress("train", recipe.training.steps, "steps", enabled=False) as progress:
        trainer.train(progress, stop)
    return done, (run / folder.WEIGHTS).read_bytes()


def test_every_recipe_with_data_of_its_own_is_tried_here():
    own = {name for name in recipes.names() if "data" in tomllib.loads(recipes.source(name))}
    assert own == {*NAMES, "audio-mae", "point-mae"}  # which are bird-mae's and point-cmae's parts with other numbers
    assert sorted(recipes.SYSTEMS.values()) == NAMES  # objectives are laid over these


WRONG = [
    ("bird-mae", "data.window_s", 0.01, ["data.window_s: 0.01 s", "one frame", "25.0 ms"]),
    ("bird-mae", "tokenizer.hop_ms", 0.001, ["tokenizer.hop_ms: 0.001 ms at 32000.0 Hz", "is 0 samples, expected 1 or more"]),
    ("bird-mae", "tokenizer.window_ms", 0.04, ["tokenizer.window_ms: 0.04 ms", "is 1 samples, expected 2 or more"]),
    ("bird-mae", "tokenizer.lowest_hz", 16_000, ["tokenizer.lowest_hz: 16000.0 Hz", "half of data.rate_hz = 32000.0 Hz"]),
    ("bird-mae", "tokenizer.mels", 40, ["tokenizer.mels: 40", "tokenizer.patch = 16"]),
    ("point-cmae", "tokenizer.centres", 129, ["tokenizer.centres: 129", "data.points = 128"]),
    ("point-cmae", "tokenizer.neighbours", 129, ["tokenizer.neighbours: 129", "data.points = 128"]),
    ("bm-mae", "data.window_mm", 50.0, ["data.window_mm: 50.0 mm at 4.0 mm", "tokenizer.patch = 3"]),
    ("bm-mae", "loss.kind", "chamfer", ["loss.kind", "chamfer is for points"]),
    ("point-cmae", "loss.kind", "l2", ["loss.kind", "points tokens"]),
    ("reve", "data", 3, ["Key 'data'", "got 3"]),
    ("reve", "tokenizer", "volume", ["Key 'tokenizer'", "got 'volume'"]),
    ("csfm", "data.axes", "volume", ["rate_hz"]),
]


@pytest.mark.parametrize(("name", "key", "value", "words"), WRONG)
def test_tables_that_do_not_fit_one_another_are_refused_with_both_values(name, key, value, words):
    flags = (SMALL | CUT[name] | {key: value}) if "." in key else {key: value}
    with pytest.raises(UsageError) as error:
        recipes.resolve(name, size="tiny", flags=copy.deepcopy(flags))
    assert all(word in str(error.value) for word in words), str(error.value)


# Loss at the end against the first steps, and against the cost of predicting the mean.
# Share of the trivial level, where heads begin.
LEARNS = {"csfm": 1.0, "reve": 1.0, "bird-mae": 1.0, "bm-mae": 0.9, "point-cmae": 0.9}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_learns(name, tmp_path, opened):
    steps = 30 if name == "bird-mae" else 50
    recipe = small(name, training__steps=steps, training__checkpoint_every=steps)
    train(tmp_path, recipe, opened[name])
    rows = read_metrics(tmp_path)
    last, trivial = (np.mean([r[key] for r in rows[-10:]]) for key in ("loss", "loss_trivial"))
    assert len(rows) == steps and np.isfinite([r["grad_norm"] for r in rows]).all()
    assert last < LEARNS[name] * trivial, last / trivial


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(name, tmp_path, opened):
    _, whole = train(tmp_path / "whole", small(name), opened[name])
    with pytest.raises(KeyError):
        train(tmp_path / "halves", small(name), opened[name], fails_at=4)
    assert train(tmp_path / "halves", small(name), opened[name], resume=True) == (3, whole)


@pytest.fixture
def batch(opened):
    return lambda name, step=0, **changes: BatchSampler(opened[name], small(name, **changes)).batch(step)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_a_function_of_the_step(name, batch):
    first, again, other = batch(name), batch(name), batch(name, 1)
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.valid, again.valid)
    assert first.values.shape != other.values.shape or (first.values != other.values).any()
    assert first.valid.mean() > 0.5 and np.isfinite(first.values).all() and (first.values[~first.valid] == 0).all()
    assert np.abs(first.values).max() < 20  # scaled; audio and points lie within 1


def looked(recipe, tokens):
    """What each pass of a training step sees of these tokens, and the loss: (looks, loss)."""
    tokenizer, model = tokenizers.build(recipe), talking(recipe)
    tokenizer.tokenize = lambda batch, device=None: tokens
    looks, look = [], model.look
    model.look = lambda *given: looks.append(look(*given)) or looks[-1]
    scored = Objective(recipe, model, tokenizer)(Batch(*[()] * 3), 0, CPU)
    assert len(looks) == len(recipe.passes) and all(each.index is not None for each in looks)
    return looks, float(scored.loss.detach())


def hidden_in(look):
    return torch.zeros_like(look.tokens.valid).scatter(1, look.hidden, True)[..., None]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_hidden_does_not_reach_the_encoder(name, batch):
    recipe = small(name)
    tokens = tokenizers.build(recipe).tokenize(batch(name))
    looks, loss = looked(recipe, tokens)
    noise = torch.randn(tokens.patches.shape, generator=torch.Generator().manual_seed(0))
    for number, plain in enumerate(looks):
        hidden = hidden_in(plain)
        shown = tokens.valid.gather(1, plain.visible)  # what is not valid fills a smaller montage up to the largest of its batch
        assert shown.any(1).all() and (shown.all() or recipe.data.mixed) and torch.equal(plain.index, plain.visible)
        for change in (7 * noise, 100 * tokens.patches, torch.full_like(noise, 1e4)):
            spoilt, other = looked(recipe, dataclasses.replace(tokens, patches=torch.where(hidden, change, tokens.patches)))
            assert torch.equal(spoilt[number].states.last, plain.states.last) and other != loss
        spoilt, _ = looked(recipe, dataclasses.replace(tokens, patches=torch.where(hidden, tokens.patches, noise)))
        assert not torch.allclose(spoilt[number].states.last, plain.states.last, atol=1e-3)  # what is visible does


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_where_the_hidden_tokens_lie_does_not_reach_the_encoder_either(name, batch):
    recipe = small(name)
    tokens = tokenizers.build(recipe).tokenize(batch(name))
    looks, loss = looked(recipe, tokens)
    for number, plain in enumerate(looks):
        # A table of cells does not feel a small step: there, places are mirrored.
        other = 2 * torch.tensor(recipe.position.middle) - tokens.coords
        coords = torch.where(hidden_in(plain), other if recipe.position.code == "grid" else tokens.coords + 0.37, tokens.coords)
        moved, other = looked(recipe, dataclasses.replace(tokens, coords=coords))
        assert torch.equal(moved[number].visible, plain.visible)
        assert torch.equal(moved[number].states.last, plain.states.last) and loss != other


# Masks of grids of any rank.

GRIDS = {"csfm": (3, 20), "bird-mae": (2, 8, 6), "bm-mae": (4, 3, 5, 4), "point-cmae": (1, 30)}


def token_set(grid, size=6):
    count = int(np.prod(grid))
    channel = torch.arange(grid[0]).repeat_interleave(count // grid[0]).expand(size, -1)
    ones = torch.ones(size, count)
    coords, code = ones[..., None].expand(-1, -1, 4), torch.zeros(size, count, DESCRIPTOR)
    return TokenSet(ones[..., None], coords, channel, code, ones.bool(), channel, grid)


def hidden_of(name, way, ratio, size=6, seed=0):
    """Hidden or not, (B, *grid), and the mask."""
    recipe, tokens = small(name), token_set(GRIDS[name], size)
    table = recipe.mask.model_copy(update={"ratio": ratio, "ways": WaysTable(**{way: 1.0})})
    mask = MaskSampler(table, recipe.tokenizer.channels).sample(tokens, torch.Generator().manual_seed(seed))
    return torch.zeros_like(tokens.valid).scatter(1, mask.hidden, True).view(size, *tokens.grid), mask


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("way", ["random", "spans", "gaps", "groups"])
@pytest.mark.parametrize("ratio", [0.0, 0.31, 0.75, 1.0])
def test_every_sample_hides_exactly_as_many(name, way, ratio):
    _, mask = hidden_of(name, way, ratio)
    count = int(np.prod(GRIDS[name]))
    assert mask.visible.shape == (6, min(max(1, round(count * (1 - ratio))), count - 1) if ratio else count)
    together = torch.cat([mask.visible, mask.hidden], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(count).expand(6, -1))


@pytest.mark.parametrize("name", GRIDS)
def test_at_random_every_token_is_hidden_as_often_and_on_its_own(name):
    hidden, _ = hidden_of(name, "random", 0.6, size=3000)
    flat = hidden.flatten(1).double()
    count = flat.shape[1]
    share = 1 - max(1, round(count * 0.4)) / count
    np.testing.assert_allclose(flat.mean(0), share, atol=0.05)  # more than 5 deviations
    pairs = np.corrcoef(flat.numpy().T)[np.triu_indices(count, 1)]
    assert abs(pairs.mean() + 1 / (count - 1)) < 2e-3 and np.abs(pairs).max() < 0.12  # only the fixed count ties them


@pytest.mark.parametrize("name", GRIDS)
def test_gaps_and_spans_hide_all_rows_of_a_time_together(name):
    for way in ("gaps", "spans"):
        hidden, _ = hidden_of(name, way, 0.5, size=50)
        per_time = hidden.flatten(2, -2) if hidden.ndim > 3 else hidden[:, :, None]  # B C rows T
        mixed = (per_time.any(2) & ~per_time.all(2)).sum((1, 2))
        assert (mixed <= 1).all()  # one is cut where the count asks it
    assert hidden.any() and not hidden.all()


def test_whole_contrasts_are_hidden():
    hidden, _ = hidden_of("bm-mae", "groups", 0.75, size=60)
    share = hidden.flatten(2).double().mean(2)
    whole = ((share == 0) | (share == 1)).all(1)
    assert whole.double().mean() > 0.8 and (share[whole].sum(1) == 3).all()
    assert (share[whole].mean(0) < 0.95).all()  # each is the visible one now and then


def test_cuda_takes_a_step_of_every_recipe(opened, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for name in NAMES:
        recipe, device = small(name), torch.device("cuda")
        sampler = BatchSampler(opened[name], recipe)
        trainer = Trainer(recipe, masked.build(recipe), sampler, tmp_path, device=device)
        scored, norm = trainer._step(sampler.batch(0), 0, detail=True)
        here = Objective(recipe, masked.build(recipe), tokenizers.build(recipe), sampler.subjects)
        expected = here(sampler.batch(0), 0, CPU, detail=True)
        assert np.isfinite(norm) and scored.rank == pytest.approx(expected.rank, rel=2e-2)
        for term, score in expected.terms.items():
            assert float(scored.terms[term].loss) == pytest.approx(float(score.loss), rel=1e-2), (name, term)
