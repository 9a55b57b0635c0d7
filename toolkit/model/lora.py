"""Low-rank adapters of attention (LoRA, 2106.09685): a few trainable numbers beside weights that stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.model.transformer import Attention

ADAPTED = ("query", "key_value", "out")  # an attention's linears
SCALE = 2.0  # the paper's alpha over its rank; fixed, so that another rank needs no other learning rate


class LowRank(nn.Module):
    """base(x) + 2 * up(down(x)) with ``base`` frozen: x (..., in) -> (..., out), through ``rank`` numbers.

    ``up`` begins at zero, so that a fresh adapter changes nothing, and ``down`` uniform as torch's linears, as in the
    paper's code (the paper says normal). Keys and values are one linear here and share the ``rank`` numbers, where the
    paper gives each matrix its own. Raises ValueError for a rank that is not from 1 to the shorter side of the matrix.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        most = min(base.in_features, base.out_features)
        if not 1 <= rank <= most:
            raise ValueError(f"rank {rank} of an adapter: expected 1 to {most}, the shorter side of {tuple(base.weight.shape)}")
        self.base = base.requires_grad_(False)
        place = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.down = nn.Linear(base.in_features, rank, bias=False, **place)
        self.up = nn.Linear(rank, base.out_features, bias=False, **place)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return self.base(x) + SCALE * self.up(self.down(x))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base with the adapter added to its weights: one linear of the same outputs."""
        self.base.weight += SCALE * self.up.weight @ self.down.weight
        return self.base


def adapt(module: nn.Module, rank: int) -> None:
    """Freeze a module and put an adapter on query, key_value and out of every attention in it.

    Draws from torch's global generator. Raises ValueError where there is no attention, or for an impossible rank.
    """
    attentions = [part for part in module.modules() if isinstance(part, Attention)]
    if not attentions:
        raise ValueError("there is no attention to adapt")
    module.requires_grad_(False)
    for attention in attentions:
        for name in ADAPTED:
            setattr(attention, name, LowRank(getattr(attention, name), rank))


def merge(module: nn.Module) -> None:
    """Put plain linears of the same outputs back in the place of all adapters."""
    for part in [part for part in module.modules() if isinstance(part, Attention)]:
        for name in ADAPTED:
            if isinstance(adapter := getattr(part, name), LowRank):
                setattr(part, name, adapter.merged())
