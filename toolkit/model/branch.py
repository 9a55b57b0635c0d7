"""A branch: what one term of an objective predicts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from toolkit.model.convnet import ConvEncoder
from toolkit.model.look import Look
from toolkit.model.predictors import Chain, Cross, Joint, Part, Pool, Spread
from toolkit.model.tokens import gather
from toolkit.model.unet import UNet
from toolkit.recipe import Recipe, TermTable, TransformerTable
from toolkit.recipe.objective import PER_SAMPLE


@dataclass(frozen=True)
class Prediction:
    """``values``: what is compared with the target, (B, q, S), or (B, D) where a whole sample has one target.

    ``states`` (B, q, W): what the head made them of. ``queries`` int64 (B, q): the places, None for whole samples.
    """

    values: Tensor
    states: Tensor
    queries: Tensor | None


class Branch(nn.Module):
    """Predictor and head of a term: ``size`` numbers at each query, a chain's from ``source`` numbers of another term."""

    def __init__(self, recipe: Recipe, term: TermTable, encoder: nn.Module, size: int, source: int = 0) -> None:
        super().__init__()
        self.term = term
        self.pool = _pool(recipe, term) if term.predictor == "pool" else None
        self.predictor = _predictor(recipe, term, encoder, source)
        headless = term.predictor in ("same", "unet") or (self.pool is not None and self.predictor is None)
        width = recipe.encoder.width if term.predictor == "none" else recipe.decoder.width
        width = self.predictor.width if isinstance(self.predictor, Spread) else width
        self.head = None if headless else nn.Linear(width, size)

    def forward(self, term: TermTable, looks: Sequence[Look], queries: Tensor, before: Mapping[str, Prediction]) -> Prediction:
        """Predict for ``term``, the branch's own or one like it, at ``queries`` int64 (B, q) of the pass the term is on.

        ``looks``: the passes carried out so far as the term needs them; ``before``: predictions of earlier terms.
        """
        look = looks[term.on]
        if term.predictor == "same":
            return before[term.of or ""]
        if term.predictor == "chain":
            source = before[term.of or ""]
            assert source.queries is not None and self.predictor is not None
            states = self.predictor(source.values, look.tokens.take(source.queries))
            return self._headed(states, source.queries)
        if term.predictor == "unet":
            assert self.predictor is not None
            values = self.predictor(look.states, look.tokens, queries)
            return Prediction(values, values, queries)
        if term.predictor == "none":
            return self._headed(gather(look.whole(term.last_layers or 1), queries), queries)
        memory = look.memory(visible_only=term.memory == "visible")
        if self.pool is not None:
            vector = self.pool(memory)
            if self.predictor is None:
                return Prediction(vector, vector, None)
            return self._headed(self.predictor(vector, look.tokens.take(queries)), queries)
        assert self.predictor is not None
        second = looks[term.beside].memory() if term.beside is not None and term.beside < len(looks) else None
        return self._headed(self.predictor(memory, look.tokens.take(queries), second), queries)

    def _headed(self, states: Tensor, queries: Tensor) -> Prediction:
        assert self.head is not None
        return Prediction(self.head(states), states, queries)


def _predictor(recipe: Recipe, term: TermTable, encoder: nn.Module, source: int) -> nn.Module | None:
    """The module that a term's ``predictor`` names; None where the encoder's or another term's states are taken as they are."""
    table = recipe.decoder.model_copy(update={"depth": term.depth or recipe.decoder.depth})
    part = Part(table, recipe.position, recipe.encoder.width, len(recipe.tokenizer.channels))
    beside = term.beside is not None
    if term.predictor == "cross":
        layers = recipe.encoder.layers
        mix, read = bool(term.mix_layers), bool(term.read_queries)
        return Cross(part, layers, mix_layers=mix, read_queries=read, beside=beside)
    if term.predictor == "joint":
        return Joint(part, reveal=term.reveal or 1.0, beside=beside)
    if term.predictor == "chain":
        return Chain(part, source)
    if term.predictor == "unet":
        assert isinstance(encoder, ConvEncoder)
        return UNet(table.width, encoder, term.depth or 1)
    if term.predictor == "pool" and term.target not in PER_SAMPLE:
        return Spread(part)
    return None


def _pool(recipe: Recipe, term: TermTable) -> Pool:
    heads = recipe.encoder.heads if isinstance(recipe.encoder, TransformerTable) else 1
    return Pool(
        recipe.encoder.width,
        heads,
        term.pool or "mean",
        mix_layers=bool(term.mix_layers),
        last_layers=term.last_layers or 1,
    )
