"""Attention pooling: one learned query reads the states of a sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from toolkit.model.transformer import Attention, key_mask, mlp
from toolkit.recipe import TransformerTable


class AttentionPool(nn.Module):
    """A learned latent attends over states, then x + MLP(x), the MLP four times as wide (Set Transformer, 1810.00825).

    The paper normalises after attention and after the MLP, and adds the latent to what it read; here neither, as in the
    defaults of timm's AttentionPoolLatent, whose outputs it gives. Raises ValueError when ``heads`` do not divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} do not divide a width of {width}")
        table = TransformerTable(width=width, depth=1, heads=heads, head_width=width // heads, mlp=4 * width)
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.latent, std=width**-0.5)
        self.attention = Attention(table, width)
        self.mlp = mlp(table)

    def forward(self, states: Tensor, counts: Tensor) -> Tensor:
        """states (B, N, width), counts bool (B, N): what may be read (all, where a sample has nothing) -> (B, width)."""
        latent = self.latent.expand(len(states), -1, -1)
        x = self.attention(latent, states, None, None, key_mask(counts))[:, 0]
        return x + self.mlp(x)


class QueryPool(nn.Module):
    """The mean of states, weighed by the softmax of their products with one learned query over sqrt(width); no projections.

    REVE's pooling (2510.21585), as its code has it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02, a=-0.06, b=0.06)

    def forward(self, states: Tensor, counts: Tensor) -> Tensor:
        """states (B, N, width), counts bool (B, N): what may be read (all, where a sample has nothing) -> (B, width)."""
        mask = key_mask(counts)
        query = self.query.expand(len(states), -1, -1).to(states.dtype)
        read = scaled_dot_product_attention(query, states, states, attn_mask=None if mask is None else mask[:, None])
        return read[:, 0]
