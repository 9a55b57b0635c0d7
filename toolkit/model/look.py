"""A look: one pass over a sample, carried out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from toolkit.model.predictors import Memory
from toolkit.model.states import States
from toolkit.model.tokens import TokenSet, gather, placed


@dataclass(frozen=True)
class Look:
    """``tokens``: the pass's view with its true patches; ``visible`` int64 (B, v) and ``hidden`` (B, h) of them;
    ``states``: of the ``index`` int64 (B, n) tokens that entered the encoder, None for all."""

    tokens: TokenSet
    visible: Tensor
    hidden: Tensor
    index: Tensor | None
    states: States

    def memory(self, *, visible_only: bool = False) -> Memory:
        """States a predictor may read: of what entered the encoder, or of the visible tokens only."""
        if self.index is not None:
            return Memory(self.states, self.tokens.take(self.index))
        if not visible_only:
            return Memory(self.states, self.tokens)
        layers = tuple(gather(layer, self.visible) for layer in self.states.layers)
        states = States(gather(self.states.last, self.visible), layers, self.states.extra)
        return Memory(states, self.tokens.take(self.visible))

    def whole(self, last_layers: int = 1) -> Tensor:
        """States (B, N, D) by token, the mean of the last layers; zero where a token did not enter."""
        states = self.states.mean_of_last(last_layers)
        return states if self.index is None else placed(states, self.index, self.tokens.valid.shape[1])
