"""The engine as a whole: order, counts, fast attention, fills, codes, and what single objectives are for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.objective.makers import CPU, DOMAINS, ROWS, channel, engine, mask_of, ready, small, synthetic, tokens_of, train
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch
from toolkit.model import masked, tokenizers, transformer
from toolkit.model.tokens import TokenSet
from toolkit.objective.objective import Objective
from toolkit.recipe import PassTable

# Order.


def shuffled(tokens: TokenSet) -> tuple[TokenSet, Tensor]:
    order = torch.randperm(tokens.valid.shape[1], generator=torch.Generator().manual_seed(0))
    return tokens.take(order.expand(len(tokens.patches), -1)), order


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("extra", [{}, {"encoder__class_token": True, "encoder__registers": 2}])
@torch.no_grad()
def test_tokens_in_another_order_have_the_same_states_in_that_order(domain, extra):
    recipe = small("mae", domain, **extra)
    model, tokens = masked.build(recipe), tokens_of(recipe, synthetic(recipe))
    turned, order = shuffled(tokens)
    states, others = model.features(tokens), model.features(turned)
    close(others.last, states.last[:, order])
    for layer, other in zip(states.layers, others.layers, strict=True):
        close(other, layer[:, order])
    close(others.last.mean(1), states.last.mean(1))
    if extra:
        close(others.extra, states.extra)
    assert not torch.allclose(states.last, others.last, atol=1e-3)


@pytest.mark.parametrize("domain", DOMAINS)
@torch.no_grad()
def test_channels_of_a_convnet_in_another_order_have_the_same_states(domain):
    recipe = small("spark", domain)
    model, tokens = masked.build(recipe), tokens_of(recipe, synthetic(recipe))
    channels, cells = tokens.grid[0], math.prod(tokens.grid[1:])
    order = torch.arange(channels * cells).view(channels, cells).flip(0).flatten()
    turned = replace(tokens.take(order.expand(len(tokens.patches), -1)), grid=tokens.grid)
    close(model.features(turned).last, model.features(tokens).last[:, order])


@pytest.mark.parametrize(
    "name", [n for n in recipes.names() if n in ("mae", "crossmae", "bert", "cae", "global-token", "drbert")]
)
@torch.no_grad()
def test_predictions_go_with_their_queries_and_not_with_the_order_of_the_visible(name):
    recipe = small(name, "eeg") if name != "drbert" else small(name, "eeg", terms__0__reveal=1.0)  # else the first are shown
    model, tokens = masked.build(recipe), tokens_of(recipe, synthetic(recipe))
    mask = mask_of(recipe, 0, tokens)

    def predicted(visible: Tensor, hidden: Tensor, queries: Tensor) -> list[Tensor]:
        looks = [model.look(0, tokens, visible, hidden)] * len(recipe.passes)
        return [p.values for p in model.predictions(looks, [queries] * len(recipe.terms))]

    order = torch.randperm(mask.hidden.shape[1], generator=torch.Generator().manual_seed(0))
    plain = predicted(mask.visible, mask.hidden, mask.hidden)
    turned = predicted(mask.visible.flip(1), mask.hidden.flip(1), mask.hidden[:, order])
    for a, b in zip(turned, plain, strict=True):
        close(a, b[:, order])


@torch.no_grad()
def test_a_mask_of_nothing_is_no_mask():
    for name in ("mae", "spark"):
        recipe = small(name, "eeg")
        model, tokens = masked.build(recipe), tokens_of(recipe, synthetic(recipe))
        everything = torch.arange(tokens.valid.shape[1]).expand(len(tokens.patches), -1)
        close(model.encoder(tokens, everything).last, model.encoder(tokens).last)


# Counts and the fast attention path.


@pytest.mark.parametrize(("name", "domain"), ROWS)
def test_every_token_is_visible_or_hidden_and_attention_has_no_mask_tensor(name, domain, monkeypatch):
    recipe, objective, batch = ready(name, domain)
    looks, masks = [], []
    fast = transformer.scaled_dot_product_attention
    monkeypatch.setattr(
        transformer, "scaled_dot_product_attention", lambda *given, attn_mask: masks.append(attn_mask) or fast(*given)
    )
    look = objective.model.look
    monkeypatch.setattr(objective.model, "look", lambda *given: looks.append(look(*given)) or looks[-1])
    with torch.no_grad():
        objective(batch, 0, CPU)
        objective(synthetic(recipe, seed=1), 1, CPU)
    assert all(mask is None for mask in masks) and bool(masks) == (recipe.backend != "convnet")
    assert len(looks) == 2 * len(recipe.passes)
    for number, seen in enumerate(looks):
        size, count = seen.tokens.valid.shape
        parts = torch.cat([seen.visible, seen.hidden], dim=1)
        assert torch.equal(parts.sort(1).values, torch.arange(count).expand(size, -1))  # each once, in every sample
        ratio = recipe.mask_of(number % len(recipe.passes)).ratio
        assert abs(seen.hidden.shape[1] - ratio * count) <= 1 or seen.visible.shape[1] == 1
        assert seen.visible.shape == looks[number % len(recipe.passes)].visible.shape  # at every step


def test_attention_has_a_mask_where_a_token_is_not_valid(monkeypatch):
    _, objective, batch = ready("mae", "eeg")
    masks, fast = [], transformer.scaled_dot_product_attention
    monkeypatch.setattr(
        transformer,
        "scaled_dot_product_attention",
        lambda *given, attn_mask: masks.append(attn_mask) or fast(*given, attn_mask=attn_mask),
    )
    valid = batch.valid.copy()
    valid[0, :, :60] = False
    with torch.no_grad():
        objective(replace(batch, valid=valid), 0, CPU)
    assert any(mask is not None for mask in masks)


@pytest.mark.parametrize(("name", "domain"), ROWS[::3])
def test_a_step_is_a_pure_function_of_batch_and_number(name, domain):
    recipe, objective, batch = ready(name, domain)
    with torch.no_grad():
        first, again, later = (float(objective(batch, step, CPU).loss) for step in (4, 4, 5))
    assert first == again and (first != later or recipe.mask.ratio == 0)


# Fills.


def fill(
    table: PassTable, *, hidden: int = 6, partners: Tensor | None = None, seed: int = 0
) -> tuple[TokenSet, TokenSet, Tensor]:
    """Tokens of eight samples, and the same as they enter, the first ``hidden`` tokens filled."""
    recipe = small("mae", "eeg")
    tokens = tokens_of(recipe, synthetic(recipe))
    index = torch.arange(hidden).expand(len(tokens.patches), -1)
    rest = torch.arange(hidden, tokens.valid.shape[1]).expand(len(tokens.patches), -1)
    token = torch.full((tokens.patches.shape[2],), 0.125)
    model = masked.build(small("bert", "eeg", passes=[table.model_dump()]))
    model.mask_patch = torch.nn.Parameter(token)
    kept: list[TokenSet] = []
    hook = model.encoder.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    with torch.no_grad():
        model.look(0, tokens, rest, index, torch.Generator().manual_seed(0), partners)
    hook.remove()
    return tokens, kept[0]


@pytest.mark.parametrize(("name", "value"), [("zero", 0.0), ("token", 0.125)])
def test_hidden_patches_hold_zeros_or_the_learned_token_and_nothing_else_changes(name, value):
    tokens, entering = fill(PassTable(fill=(name,)))
    assert (entering.patches[:, :6] == value).all()
    assert torch.equal(entering.patches[:, 6:], tokens.patches[:, 6:])
    assert torch.equal(entering.coords, tokens.coords) and torch.equal(entering.descriptor, tokens.descriptor)


def test_kept_patches_are_kept():
    tokens, entering = fill(PassTable(fill=("keep",)))
    assert torch.equal(entering.patches, tokens.patches)


@pytest.mark.parametrize("deviation", [0.1, 2.0])
def test_noise_has_the_deviation_that_was_asked_for(deviation):
    _, entering = fill(PassTable(fill=("noise",), noise=deviation), hidden=30)
    noise = entering.patches[:, :30]
    assert noise.numel() == 2400
    assert float(noise.std()) == pytest.approx(deviation, rel=0.08)  # 5 deviations of the estimate
    assert abs(float(noise.mean())) < 5 * deviation / 2400**0.5


def test_foreign_patches_are_the_partner_s_at_the_same_place_and_noise_without_one():
    partners = torch.tensor([3, 2, 5, 0, 7, 1, -1, 4])
    tokens, entering = fill(PassTable(fill=("foreign",)), partners=partners)
    for sample, partner in enumerate(partners.tolist()):
        if partner >= 0:
            assert torch.equal(entering.patches[sample, :6], tokens.patches[partner, :6])
    assert not (entering.patches[6, :6, None] == tokens.patches[:, None, :6]).all(-1).any()
    assert float(entering.patches[6, :6].std()) == pytest.approx(1.0, abs=0.4)


def test_foreign_patches_of_a_training_step_are_of_another_subject(monkeypatch):
    recipe = small("gmml", "eeg", passes=[{"fill": ["foreign"]}])
    objective, batch = engine(recipe), synthetic(recipe)
    entered, looks, look = [], [], objective.model.look
    monkeypatch.setattr(objective.model, "look", lambda *given: looks.append(look(*given)) or looks[-1])
    hook = objective.model.encoder.register_forward_pre_hook(lambda module, given: entered.append(given[0].patches))
    with torch.no_grad():
        objective(batch, 0, CPU)
    hook.remove()
    seen = looks[0]
    for sample in range(len(batch.subjects)):
        here = entered[0][sample, seen.hidden[sample]]
        whose = {batch.subjects[k] for k in range(8) if torch.equal(here, seen.tokens.patches[k, seen.hidden[sample]])}
        assert len(whose) == 1 and whose != {batch.subjects[sample]}


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.05, 1), (0.5, 10), (1.0, 20)])
def test_as_many_are_swapped_as_the_share_says_each_for_a_visible_token(share, count):
    tokens, entering = fill(PassTable(fill=("token",), swapped=share), hidden=20)
    swapped = (entering.patches[:, :20] != 0.125).any(-1)
    assert (swapped.sum(1) == count).all() and torch.equal(entering.patches[:, 20:], tokens.patches[:, 20:])
    for sample, at in swapped.nonzero().tolist():
        assert (entering.patches[sample, at] == tokens.patches[sample, 20:]).all(-1).any()
    assert count in (0, 20) or len({tuple(row) for row in swapped.int().tolist()}) > 1


def test_each_sample_draws_one_of_several_fills():
    _, entering = fill(PassTable(fill=("zero", "token")))
    values = entering.patches[:, :6].flatten(1)
    assert (values == values[:, :1]).all() and set(values[:, 0].tolist()) == {0.0, 0.125}


# Codes.


@pytest.mark.parametrize(("name", "domain"), [("hubert", "eeg"), ("muq", "audio"), ("hubert", "points"), ("muq", "mri")])
def test_codes_are_fitted_once_and_travel_with_the_state(name, domain):
    recipe = small(name, domain)
    objective, batch = engine(recipe), synthetic(recipe)
    assert not objective.wants_batches
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    objective.fit([synthetic(recipe, seed=77)])  # does nothing
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    resumed = Objective(recipe, masked.build(recipe, seed=9), objective.tokenizer)
    assert resumed.wants_batches
    resumed.load_state_dict(before)
    assert not resumed.wants_batches
    assert torch.equal(resumed(batch, 2, CPU).loss, objective(batch, 2, CPU).loss)


def test_the_same_data_give_the_same_codes():
    recipe = small("hubert", "eeg")
    states = [engine(recipe, [synthetic(recipe, seed=k) for k in data]).state_dict() for data in ((1, 2), (1, 2), (3, 4))]
    books = [next(value for key, value in state.items() if key.endswith("codebook")) for state in states]
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


def test_an_objective_without_codes_wants_no_batches():
    recipe = small("mae", "eeg")
    assert not Objective(recipe, masked.build(recipe), tokenizers.build(recipe)).wants_batches


# What single objectives are for.


def rising_pitch(seed: int, tokens: int) -> Batch:
    """One channel whose pitch and level rise over the window: a patch says when it was."""
    rng, count = np.random.default_rng([seed, tokens]), 10 * tokens
    done = np.arange(count) / count
    phase = 2 * np.pi * (np.cumsum(3 + 12 * done) / 100 + rng.random((16, 1, 1)))
    values = np.sin(phase) * (0.3 + done) + 0.05 * rng.normal(size=(16, 1, count))
    about = ((channel("Cz", "eeg", (0.0, 0.0, 0.1)),),) * 16
    return Batch(values.astype(np.float32), np.ones(values.shape, bool), about, ("r",) * 16, ("a",) * 16)


def test_one_head_finds_places_among_few_tokens_and_among_many():
    """Chance is log 6 and log 12; windows of both lengths in turn."""
    recipe = small("position", "eeg", training__steps=160)
    objective = engine(recipe)
    train(objective, [rising_pitch(seed, tokens) for seed in range(8) for tokens in (6, 12)], 160)
    with torch.no_grad():
        scored = {tokens: objective(rising_pitch(99, tokens), 160, CPU).terms["place"] for tokens in (6, 12)}
    for tokens, term in scored.items():
        assert float(term.trivial) == pytest.approx(math.log(tokens), rel=1e-5)
        assert float(term.loss) < 0.6 * math.log(tokens)


def twins(partners: str | None) -> float:
    """Mean cosine of the predictor's states of different hidden tokens, after a training with the consistency or without."""
    recipe = small("double-mask", "mri", training__steps=150, **{"terms.2.partners": partners or "same"})
    if partners is None:
        recipe = recipe.model_copy(update={"terms": recipe.terms[:2]})
    objective = engine(recipe)
    first = objective.model.branches["reconstruction"]
    train(objective, [synthetic(recipe, seed=seed) for seed in range(8)], 150)
    kept: list[Tensor] = []
    hook = first.register_forward_hook(lambda module, given, found: kept.append(found.states))
    with torch.no_grad():
        objective(synthetic(recipe, seed=50), 150, CPU)
    hook.remove()
    states = functional.normalize(kept[0], dim=-1)
    cosine, count = states @ states.mT, states.shape[1]
    return float(((cosine.sum((1, 2)) - count) / (count * (count - 1))).mean())


def test_consistency_of_the_same_token_leaves_tokens_apart_and_that_of_all_pairs_does_not():
    without, same, every = twins(None), twins("same"), twins("all")
    assert abs(same - without) < 0.1
    assert every > without + 0.3


# Queries and candidates.


def test_the_next_tokens_are_the_first_hidden_ones_after_the_prefix():
    _, objective, batch = ready("tokenunify", "eeg")
    found = []
    hook = objective.model.branches["next"].register_forward_hook(lambda part, given, made: found.append((given, made)))
    objective(batch, 0, CPU)
    hook.remove()
    (given, made), (_, every) = found
    look = given[1][1]
    time = look.tokens.coords[..., 3]
    later = torch.ones_like(look.tokens.valid).scatter(1, made.queries, False).scatter(1, look.visible, False)
    assert made.queries.shape[1] == max(1, round(0.1 * look.hidden.shape[1])) and every.queries.shape == look.hidden.shape
    assert (time.gather(1, made.queries).amax(1) <= time.masked_fill(~later, torch.inf).amin(1)).all()


def test_whole_samples_are_told_from_the_others_of_their_batch():
    _, objective, batch = ready("mmc", "cardiac")
    score = objective(batch, 0, CPU).terms["summary"]
    assert float(score.trivial) == pytest.approx(math.log(len(batch.values)))
    kept = []
    hook = objective.distances[2].register_forward_hook(lambda part, given, made: kept.append((given[0], made.loss)))
    objective(batch, 0, CPU)
    hook.remove()
    compared, loss = kept[0]
    one, other = (functional.normalize(x[:, 0].double(), dim=-1) for x in (compared.predicted, compared.target))
    expected = -(one @ other.mT / 0.1).log_softmax(-1).diagonal().mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
