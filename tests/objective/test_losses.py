import dataclasses
import math

import numpy as np
import pytest
import torch

from readers.schema import Channel
from toolkit.corpus.batches import Batch, collate
from toolkit.corpus.windows import load, plan
from toolkit.model import autoencoder, tokenizers
from toolkit.objective.losses import LOSSES, patch_loss
from toolkit.objective.masks import MaskSampler
from toolkit.objective.reconstruction import MaskedReconstruction, step_generator

FORMULAS = {
    "l1": np.abs,
    "l2": np.square,
    "smooth_l1": lambda d: np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5),
}
CPU = torch.device("cpu")


def some(counting=0.5):
    rng = np.random.default_rng(0)
    predicted, target = 2 * rng.normal(size=(2, 3, 7, 10))
    return predicted, target, rng.random((3, 7)) < counting


def test_every_loss_has_a_formula_here():
    assert set(LOSSES) == {*FORMULAS, "chamfer"}


def test_chamfer_is_the_mean_squared_distance_to_the_nearest_both_ways():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5, 8, 3))
    distance = ((one[:, :, None] - other[:, None]) ** 2).sum(-1)
    want = distance.min(2).mean(1) + distance.min(1).mean(1)
    got = LOSSES["chamfer"](torch.tensor(one).flatten(1), torch.tensor(other).flatten(1))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("kind", sorted(FORMULAS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_is_the_mean_over_the_tokens_that_count(kind, dtype):
    predicted, target, counts = some()
    predicted, target = (torch.tensor(v).to(dtype) for v in (predicted, target))
    distance = FORMULAS[kind](predicted.double().numpy() - target.double().numpy()).mean(-1)
    got = patch_loss(kind, predicted, target, torch.from_numpy(counts))
    assert got.dtype == torch.float32 and math.isclose(float(got), distance[counts].mean(), rel_tol=1e-5)


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_tokens_that_do_not_count_have_no_effect_on_loss_or_gradient(kind):
    results = []
    for junk in (0.0, 1e6):
        predicted, target, counts = some()
        target[~counts] = junk
        predicted = torch.tensor(predicted, requires_grad=True)
        loss = patch_loss(kind, predicted, torch.tensor(target), torch.from_numpy(counts))
        loss.backward()
        results.append((loss.detach(), predicted.grad))
        assert (predicted.grad[~torch.from_numpy(counts)] == 0).all()
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_not_even_infinities_in_tokens_that_do_not_count(junk):
    predicted, target, counts = some()
    target[~counts] = junk
    loss = patch_loss("l2", torch.tensor(predicted), torch.tensor(target), torch.from_numpy(counts))
    assert math.isclose(float(loss), np.square(predicted - target).mean(-1)[counts].mean(), rel_tol=1e-5)


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_nothing_that_counts_costs_nothing(kind):
    predicted, target, _ = (torch.tensor(v, requires_grad=v.dtype == float) for v in some())
    loss = patch_loss(kind, predicted, target, torch.zeros(3, 7, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0


@pytest.fixture(scope="module")
def batch(sources, tiny):
    source = next(s for s in sources if len(s.channels) == 12)
    return collate([load(source.recording, w, tiny().data, source.channels) for w in plan(source.length, 200, 100)[:4]])


def score(batch, recipe, model, step):
    scored = MaskedReconstruction(recipe)(model, tokenizers.build(recipe).tokenize(batch), step, CPU)
    return float(scored.loss.detach()), float(scored.trivial.detach())


def test_the_term_is_a_function_of_the_step_and_not_of_the_random_state(batch, tiny):
    model = autoencoder.build(tiny())
    torch.manual_seed(0)
    first = score(batch, tiny(), model, 5)
    torch.manual_seed(1)
    assert score(batch, tiny(), model, 5) == first != score(batch, tiny(), model, 6)


def test_another_seed_hides_other_tokens_at_the_same_step(batch, tiny):
    model = autoencoder.build(tiny())
    assert score(batch, tiny(), model, 5) != score(batch, tiny(training__seed=4), model, 5)


def hidden_of(recipe, tokens, step):
    generator = step_generator(recipe.training.seed, step)
    return MaskSampler(recipe.mask, recipe.tokenizer.channels).sample(tokens, generator).hidden


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_the_trivial_level_is_what_predicting_zero_costs_on_valid_hidden_patches(batch, tiny, kind):
    recipe = tiny(loss__kind=kind)
    valid = batch.valid.copy()
    valid[0, 3:, :70] = False
    tokens = tokenizers.build(recipe).tokenize(dataclasses.replace(batch, valid=valid))
    scored = MaskedReconstruction(recipe)(autoencoder.build(recipe), tokens, 2, CPU)
    hidden = hidden_of(recipe, tokens, 2)
    costs = [
        FORMULAS[kind](tokens.patches[b, t].double().numpy()).mean()
        for b in range(4)
        for t in hidden[b].tolist()
        if tokens.valid[b, t]
    ]
    assert math.isclose(float(scored.trivial), np.mean(costs), rel_tol=1e-4)


def test_what_is_not_valid_changes_neither_loss_nor_gradients(batch, tiny):
    recipe = tiny()
    valid = batch.valid.copy()
    valid[:, 4] = False
    results = []
    for junk in (0.0, np.nan):
        model = autoencoder.build(recipe)
        values = np.where(valid, batch.values, np.float32(junk))
        tokens = tokenizers.build(recipe).tokenize(dataclasses.replace(batch, values=values, valid=valid))
        scored = MaskedReconstruction(recipe)(model, tokens, 0, CPU)
        scored.loss.backward()
        results.append([scored.loss.detach(), *(p.grad for p in model.parameters())])
        assert all(torch.isfinite(r).all() for r in results[-1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_amplitude_of_what_is_hidden_does_not_reach_the_model(batch, tiny):
    """Scaled up together, hidden patches must not be seen in the input: the model's predictions stay what they were."""
    recipe = tiny()
    tokens = tokenizers.build(recipe).tokenize(batch)
    hidden = torch.zeros_like(tokens.valid).scatter(1, hidden_of(recipe, tokens, 0), True)
    louder = dataclasses.replace(tokens, patches=torch.where(hidden[..., None], tokens.patches * 100, tokens.patches))
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = autoencoder.build(recipe)

        def forward(self, given, visible, queries):
            seen.append(self.model(given, visible, queries).detach())
            return seen[-1]

    for given in (tokens, louder):
        MaskedReconstruction(recipe)(Spy(), given, 0, CPU)
    assert torch.equal(*seen)


def test_one_sample_can_be_overfitted(tiny):
    """Forty steps on one sine with one mask must at least halve the loss: gradients flow through every part."""
    recipe = tiny(data__kinds=("ecg",))
    time = np.arange(200, dtype=np.float32) / 100
    values = np.stack([np.sin(2 * np.pi * time), np.cos(2 * np.pi * time)])[None].astype(np.float32) * np.float32(2**0.5)
    channels = tuple(Channel(n, n, "ecg", "mV", 1e-3, 100.0) for n in ("I", "V2"))
    tokens = tokenizers.build(recipe).tokenize(Batch(values, np.ones(values.shape, bool), (channels,)))
    model, objective = autoencoder.build(recipe), MaskedReconstruction(recipe)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        scored = objective(model, tokens, 0, CPU)
        optimizer.zero_grad()
        scored.loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(float(scored.loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
