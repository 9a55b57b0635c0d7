"""What is hidden stays hidden: exact zeros, for every recipe on every domain.

Every pass of a recipe is carried out twice, the second time with other patches at hidden tokens.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.objective.makers import ROWS, mask_of, ready, small, synthetic, tokens_of
from toolkit.model import masked
from toolkit.model.fills import partners_of
from toolkit.model.look import Look
from toolkit.model.masked import MaskedModel
from toolkit.model.tokens import TokenSet, gather
from toolkit.objective.masks import Mask
from toolkit.recipe import ConvTable, Recipe

BLIND = {"drop", "token", "zero"}  # fills that hold nothing of what is hidden
PASSES = [(name, domain, n) for name, domain in ROWS for n in range(len(small(name, domain).passes))]


def fills(name: str, domain: str, number: int) -> set[str]:
    return set(small(name, domain).passes[number].fill)


def look(recipe: Recipe, model: MaskedModel, number: int, tokens: TokenSet, mask: Mask) -> Look:
    """A pass with the same draws every time; partners are the samples three further on, of other subjects."""
    partners = (torch.arange(len(tokens.patches)) + 3) % len(tokens.patches)
    return model.look(number, tokens, mask.visible, mask.hidden, torch.Generator().manual_seed(5), partners)


def spoilt(tokens: TokenSet, index: Tensor) -> list[TokenSet]:
    """The tokens with other patches at ``index``: noise, and numbers that show wherever they get."""
    at = torch.zeros_like(tokens.valid).scatter(1, index, True)[..., None]
    noise = torch.randn(tokens.patches.shape, generator=torch.Generator().manual_seed(1))
    return [replace(tokens, patches=torch.where(at, new, tokens.patches)) for new in (7 * noise, torch.full_like(noise, 1e4))]


def shown(seen: Look) -> Tensor:
    return gather(seen.whole(), seen.visible)


def predicted(recipe: Recipe, model: MaskedModel, number: int, seen: Look) -> list[Tensor]:
    """What the terms on this pass predict where it hides something; every other pass is this one too."""
    found = model.predictions([seen] * len(recipe.passes), [seen.hidden] * len(recipe.terms))
    return [p.values for term, p in zip(recipe.terms, found, strict=True) if term.on == number]


@pytest.mark.parametrize(("name", "domain", "number"), [row for row in PASSES if fills(*row) <= BLIND])
@torch.no_grad()
def test_what_is_hidden_reaches_neither_visible_states_nor_predictions(name, domain, number):
    recipe, objective, batch = ready(name, domain)
    tokens, model = tokens_of(recipe, batch), objective.model
    mask = mask_of(recipe, number, tokens)
    plain = look(recipe, model, number, tokens, mask)
    before = predicted(recipe, model, number, plain)
    assert (mask.hidden.shape[1] > 0) == (recipe.mask_of(number).ratio > 0)
    for other in spoilt(tokens, mask.hidden):
        seen = look(recipe, model, number, other, mask)
        assert torch.equal(shown(seen), shown(plain))
        assert all(torch.equal(a, b) for a, b in zip(predicted(recipe, model, number, seen), before, strict=True))
    for other in spoilt(tokens, mask.visible):  # what is visible does show: equality above is no accident
        assert not torch.allclose(shown(look(recipe, model, number, other, mask)), shown(plain), atol=1e-3)


@pytest.mark.parametrize(("name", "domain", "number"), [row for row in PASSES if fills(*row) & {"noise", "foreign"}])
@torch.no_grad()
def test_noise_and_foreign_patches_hide_a_sample_s_own(name, domain, number):
    recipe, objective, batch = ready(name, domain)
    tokens, model = tokens_of(recipe, batch), objective.model
    mask = mask_of(recipe, number, tokens)
    plain = look(recipe, model, number, tokens, mask)
    for other in spoilt(tokens, mask.hidden):
        first = replace(other, patches=torch.cat([other.patches[:1], tokens.patches[1:]]))
        assert torch.equal(look(recipe, model, number, first, mask).states.last[0], plain.states.last[0])


@pytest.mark.parametrize(("name", "domain", "number"), [row for row in PASSES if "keep" in fills(*row)])
@torch.no_grad()
def test_tokens_that_nobody_may_attend_are_read_by_themselves_alone(name, domain, number):
    recipe, objective, batch = ready(name, domain)
    tokens, model = tokens_of(recipe, batch), objective.model
    mask = mask_of(recipe, number, tokens)
    plain = look(recipe, model, number, tokens, mask)
    assert recipe.passes[number].keys == "visible"
    for other in spoilt(tokens, mask.hidden[:, :1]):
        seen = look(recipe, model, number, other, mask)
        assert torch.equal(shown(seen), shown(plain))
        hidden, hidden_plain = (gather(each.whole(), mask.hidden) for each in (seen, plain))
        assert torch.equal(hidden[:, 1:], hidden_plain[:, 1:]) and not torch.allclose(hidden[:, 0], hidden_plain[:, 0])


def test_convnets_are_tried_in_one_two_and_three_dimensions():
    convnets = [(n, d) for n, d in ROWS if isinstance(small(n, d).encoder, ConvTable)]
    dims = {len(tokens_of(small(*row), synthetic(small(*row), size=1)).grid) - 1 for row in convnets}
    assert dims == {1, 2, 3}


@pytest.mark.parametrize(("name", "domain", "number"), PASSES)
@torch.no_grad()
def test_tokens_that_are_not_valid_influence_nothing(name, domain, number):
    """Neither their patches nor where they lie; a third of the tokens, not the same in every sample."""
    recipe, objective, batch = ready(name, domain)
    tokens, model = tokens_of(recipe, batch), objective.model
    bad = torch.rand(tokens.valid.shape, generator=torch.Generator().manual_seed(2)) < 0.33
    tokens = replace(tokens, valid=~bad, patches=tokens.patches.masked_fill(bad[..., None], 0.0))
    mask = mask_of(recipe, number, tokens)
    plain = look(recipe, model, number, tokens, mask)
    moved = replace(
        tokens,
        patches=torch.where(bad[..., None], 50.0, tokens.patches),
        coords=torch.where(bad[..., None], tokens.coords + 0.37, tokens.coords),
    )
    seen = look(recipe, model, number, moved, mask)
    assert torch.equal(seen.whole()[~bad], plain.whole()[~bad])
    counted = (~bad).gather(1, mask.hidden)
    assert counted.any() or recipe.mask_of(number).ratio == 0
    for now, before in zip(*(predicted(recipe, model, number, each) for each in (seen, plain)), strict=True):
        rows = counted if now.ndim == 3 else ...
        assert torch.equal(now[rows], before[rows])


@torch.no_grad()
def test_a_look_without_its_mask_would_leak():
    """The same check on the whole recipe fails where hidden patches are kept: it can fail."""
    recipe = small("bert", "eeg", passes=[{"fill": ["keep"]}])
    model, tokens = masked.build(recipe), tokens_of(recipe, synthetic(recipe))
    mask = mask_of(recipe, 0, tokens)
    plain, seen = (look(recipe, model, 0, each, mask) for each in (tokens, spoilt(tokens, mask.hidden)[0]))
    assert not torch.allclose(shown(seen), shown(plain), atol=1e-3)


def test_partners_are_of_other_subjects_or_none():
    who = ["a", "b", "a", "c", "b", "a"] * 20
    drawn = {tuple(partners_of(who, torch.Generator().manual_seed(seed)).tolist()) for seed in range(5)}
    assert len(drawn) == 5 and all(who[k] != who[j] and j >= 0 for row in drawn for k, j in enumerate(row))
    assert partners_of(["a"] * 4, torch.Generator()).tolist() == [-1] * 4
