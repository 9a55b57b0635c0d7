"""The model of a recipe: one encoder, and a branch for each term of its objective.

A masked autoencoder (He et al., 2111.06377) is one pass and one branch; other objectives have other passes, fills,
predictors and targets, chosen by the recipe's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.model import encoder, tokenizers
from toolkit.model.branch import Branch, Prediction
from toolkit.model.fills import filled
from toolkit.model.look import Look
from toolkit.model.predictors import Memory
from toolkit.model.states import States
from toolkit.model.tokenizers.base import Tokenizer
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import init_normal, init_weights
from toolkit.recipe import ConvTable, Recipe, TermTable, TransformerTable

DEFAULT_CODES, DEFAULT_LEVELS = 128, 4
BOX = 8  # numbers that a box has for a token: offset, sides, turn
FROM_NOTHING = ("patch", "l1", "l2", "smooth_l1", "ce", "focal")  # losses that (near) zeros have a gradient in
NOTHING = 0.005


class MaskedModel(nn.Module):
    """Encoder and branches of one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        tokenizer = tokenizers.build(recipe)
        self.recipe = recipe
        self.encoder = encoder.build(recipe, tokenizer)
        uses_token = any("token" in each.fill for each in recipe.passes)
        self.mask_patch = nn.Parameter(0.02 * torch.randn(tokenizer.values)) if uses_token else None
        sizes = {term.name: prediction_size(recipe, term, tokenizer) for term in recipe.terms}
        self.branches = nn.ModuleDict(
            {
                term.name: Branch(recipe, term, self.encoder, sizes[term.name], sizes.get(term.of or "", 0))
                for term in recipe.terms
                if term.like is None
            }
        )
        self.pool_norm = nn.LayerNorm(recipe.encoder.width, eps=1e-6) if recipe.embedding.after_norm else None
        init_weights(self)
        if isinstance(recipe.encoder, TransformerTable) and recipe.encoder.init == "normal":
            init_normal(self)
        self._start_at_nothing()

    def _start_at_nothing(self) -> None:
        """Heads of values and of codes begin near zero: predictions at the channel's mean, or all codes alike.

        Larger ones begin far above that level and spend a good part of a short run on coming down to it; with zeros all
        points of a predicted set would lie in one place, and be drawn to the same one.
        """
        for branch in self.branches.values():
            if isinstance(branch, Branch) and branch.head is not None and branch.term.loss in FROM_NOTHING:
                nn.init.normal_(branch.head.weight, std=NOTHING)

    def look(
        self,
        number: int,
        tokens: TokenSet,
        visible: Tensor,
        hidden: Tensor,
        generator: torch.Generator | None = None,
        partners: Tensor | None = None,
    ) -> Look:
        """Carry out pass ``number`` on tokens of which ``visible`` int64 (B, v) are shown and ``hidden`` (B, h) are not.

        ``generator`` (CPU; default: a fresh one) and ``partners`` are for fills, see toolkit.model.fills.
        """
        table = self.recipe.passes[number]
        if table.fill == ("drop",):
            return Look(tokens, visible, hidden, visible, self.encoder(tokens, visible))
        entering = filled(tokens, visible, hidden, table, self.mask_patch, generator or torch.Generator(), partners)
        keys = {"keys": visible} if table.keys == "visible" else {}
        return Look(tokens, visible, hidden, None, self.encoder(entering, None, **keys))

    def predictions(self, looks: Sequence[Look], queries: Sequence[Tensor]) -> list[Prediction]:
        """What each term predicts at its queries int64 (B, q)."""
        found: dict[str, Prediction] = {}
        for term, asked in zip(self.recipe.terms, queries, strict=True):
            found[term.name] = self._predict(term, looks, asked, found)
        return list(found.values())

    def _predict(self, term: TermTable, looks: Sequence[Look], queries: Tensor, found: Mapping[str, Prediction]) -> Prediction:
        return self.branches[term.like or term.name](term, looks, queries, found)

    @property
    def completes(self) -> TermTable | None:
        """The term that predicts patches as they are, by which the model can fill in what is missing, if there is one."""
        elementwise = ("patch", "l1", "l2", "smooth_l1")
        return next((t for t in self.recipe.terms if t.target == "raw" and t.loss in elementwise), None)

    def forward(self, tokens: TokenSet, visible: Tensor, queries: Tensor) -> Tensor:
        """Patches (B, q, P) at ``queries`` int64 (B, q) from the tokens at ``visible`` (B, v), in the tokens' unit.

        Raises ValueError for a recipe none of whose terms predicts patches as they are.
        """
        term = self.completes
        if term is None:
            raise ValueError(f"recipe '{self.recipe.name}' has no term with target = 'raw'")
        looks = [self.look(term.on, tokens, visible, queries)] * (term.on + 1)
        found: dict[str, Prediction] = {}
        for each in _needed(self.recipe, term):
            found[each.name] = self._predict(each, looks, queries, found)
        return found[term.name].values

    def features(self, tokens: TokenSet, layer: int = -1, layers: int = 1) -> States:
        """States of all tokens; ``last`` is that layer from the end (-1 the last), or the mean of ``layers`` up to it."""
        if isinstance(self.recipe.encoder, ConvTable):
            return self.encoder(tokens)
        states = self.encoder(tokens, layer=layer)
        return replace(states, last=states.mean_of_last(layers))

    def summary(self, tokens: TokenSet, states: States) -> Tensor:
        """One vector a sample (B, D) as the objective's own attention pooling reads the states of ``tokens``, by validity.

        Raises ValueError for a recipe none of whose terms pools by attention.
        """
        for branch in self.branches.values():
            if isinstance(branch, Branch) and branch.pool is not None and branch.pool.attention is not None:
                return branch.pool(Memory(states, tokens))
        raise ValueError(f"recipe '{self.recipe.name}' has no term with pool = 'attention'")


def _needed(recipe: Recipe, term: TermTable) -> list[TermTable]:
    """The terms whose predictions a term goes on from, and itself, in order."""
    before = {each.name: each for each in recipe.terms}
    return [*(_needed(recipe, before[term.of]) if term.of is not None else ()), term]


def prediction_size(recipe: Recipe, term: TermTable, tokenizer: Tokenizer) -> int:
    """Numbers that a term predicts at each query."""
    levels = term.levels or DEFAULT_LEVELS
    return {
        "raw": tokenizer.values,
        "patch_norm": tokenizer.values,
        "spectrum": tokenizer.spectrum_size,
        "change": tokenizer.changes_size,
        "codes": term.codes or DEFAULT_CODES,
        "residual_codes": (term.codes or DEFAULT_CODES) * levels,
        "box": BOX,
    }.get(term.target, recipe.encoder.width)


def build(recipe: Recipe, seed: int | None = None) -> MaskedModel:
    """A model with fresh weights, a function of the seed alone (default: the recipe's)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed if seed is None else seed)
        return MaskedModel(recipe)
