"""What an encoder makes of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class States:
    """States of the n tokens that entered an encoder.

    ``last`` (B, n, D): after the final norm. ``layers``: depth + 1 of (B, n, D), the embedding and then the output of
    each block, before the final norm; a convnet has ``last`` only, a pyramid the
    coarsest scale's states, each at the tokens nearest to it, and ``last``. ``extra`` (B, g, D): class token, then registers.
    ``maps``, of a convnet: features of each scale, finest first, (B * C, F, *space), zero where hidden; ``seen`` bool
    (B * C, 1, *coarsest grid): the cells that were visible.
    """

    last: Tensor
    layers: tuple[Tensor, ...]
    extra: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    seen: Tensor | None = None

    def mean_of_last(self, count: int) -> Tensor:
        """``last``, or the mean of as many layers before the final norm, (B, n, D)."""
        chosen = self.layers[-count:]
        return self.last if count == 1 else torch.stack(chosen).mean(0)

    def all_layers(self) -> tuple[Tensor, ...]:
        """The embedding and the output of each block, the last one normalised."""
        return (*self.layers[:-1], self.last)

    def class_state(self) -> Tensor:
        """State of the class token (B, D)."""
        assert self.extra is not None
        return self.extra[:, 0]
