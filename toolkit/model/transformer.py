"""Pre-norm transformer blocks: self-attention over a token set, cross-attention of queries to a memory.

With layer norm and GELU they are the blocks of ViT (2010.11929) and MAE (2111.06377).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from toolkit.model.positions import rotate
from toolkit.model.tokens import gather
from toolkit.recipe import TransformerTable

Phases = tuple[Tensor, Tensor] | None


class Attention(nn.Module):
    """Multi-head attention of queries (B, N, width) over a memory (B, M, memory_width)."""

    def __init__(self, table: TransformerTable, memory_width: int) -> None:
        super().__init__()
        inner, biased = table.heads * table.head_width, table.bias == "all"
        self.heads = table.heads
        self.query = nn.Linear(table.width, inner, bias=biased)
        self.key_value = nn.Linear(memory_width, 2 * inner, bias=biased)
        self.out = nn.Linear(inner, table.width, bias=table.bias != "none")

    def forward(self, x: Tensor, memory: Tensor, x_phases: Phases, memory_phases: Phases, valid: Tensor | None) -> Tensor:
        """x (B, N, width), memory (B, M, memory_width), valid bool (B, M) or (B, N, M) or None (all) -> (B, N, width)."""
        query = rotate(self._split(self.query(x)), x_phases)  # (B, H, N, D)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key = rotate(self._split(key), memory_phases)
        mask = None if valid is None else valid[:, None] if valid.ndim == 3 else valid[:, None, None, :]
        mixed = scaled_dot_product_attention(query, key, self._split(value), attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Drop(nn.Module):
    """Dropout of what a block adds, and of the whole of it for a share ``path`` of the samples (1603.09382); in training."""

    def __init__(self, dropout: float, path: float) -> None:
        super().__init__()
        self.dropout, self.path = nn.Dropout(dropout), path

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, width); what stays of it is scaled so that its mean stays."""
        x = self.dropout(x)
        if not self.training or not self.path:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.path
        return x * kept / (1 - self.path)


class SelfBlock(nn.Module):
    """x + attention(norm x), then x + MLP(norm x). ``path``: share of the samples that skip either in training."""

    def __init__(self, table: TransformerTable, path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_of(table), norm_of(table)
        self.attention = Attention(table, table.width)
        self.mlp = mlp(table)
        self.drop = Drop(table.dropout, path)

    def forward(self, x: Tensor, phases: Phases, valid: Tensor | None, keys: Tensor | None = None) -> Tensor:
        """x (B, N, width) -> (B, N, width).

        ``keys`` int64 (B, k): the only tokens that can be attended; None all. ``valid`` bool, of the tokens that can
        be attended: (B, N), or (B, k) in the order of ``keys``.
        """
        inner = self.norm1(x)
        memory, memory_phases = (inner, phases) if keys is None else (gather(inner, keys), _gather_phases(phases, keys))
        x = x + self.drop(self.attention(inner, memory, phases, memory_phases, valid))
        return x + self.drop(self.mlp(self.norm2(x)))


class CrossBlock(nn.Module):
    """Queries read a memory and never one another (CrossMAE, 2401.14391): cheaper than joint attention."""

    def __init__(self, table: TransformerTable, memory_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_of(table), norm_of(table)
        self.attention = Attention(table, memory_width)
        self.mlp = mlp(table)
        self.drop = Drop(table.dropout, 0.0)

    def forward(self, x: Tensor, memory: Tensor, x_phases: Phases, memory_phases: Phases, valid: Tensor | None) -> Tensor:
        """x (B, N, width), memory (B, M, memory_width) -> (B, N, width)."""
        x = x + self.drop(self.attention(self.norm1(x), memory, x_phases, memory_phases, valid))
        return x + self.drop(self.mlp(self.norm2(x)))


class GatedMLP(nn.Module):
    """(a x) * activation(b x), then linear: GEGLU with GELU, SwiGLU with SiLU (2002.05202), ``hidden`` units each for a and b.

    As in the paper but for biases, which a recipe may leave out. The paper cuts ``hidden`` to two thirds so that
    parameters stay equal; a recipe says what it wants.
    """

    def __init__(self, width: int, hidden: int, activation: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=bias), nn.Linear(hidden, width, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * self.activation(gate))


def mlp(table: TransformerTable) -> nn.Module:
    """The block's MLP: linear, exact GELU, linear; or a gated one."""
    gates, biased = {"geglu": nn.GELU, "swiglu": nn.SiLU}, table.bias != "none"
    if table.activation in gates:
        return GatedMLP(table.width, table.mlp, gates[table.activation](), biased)
    up, down = nn.Linear(table.width, table.mlp, bias=biased), nn.Linear(table.mlp, table.width, bias=biased)
    return nn.Sequential(up, nn.GELU(), down)


def norm_of(table: TransformerTable) -> nn.Module:
    """``layer`` or ``rms`` (1910.07467) over the last axis; 1e-6 by default as in MAE's code, not torch's 1e-5."""
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[table.norm](table.width, eps=table.eps)


def final_norm_of(table: TransformerTable) -> nn.Module:
    """The norm after the last block, if the table has one."""
    return norm_of(table) if table.final_norm else nn.Identity()


def stack_of(table: TransformerTable) -> nn.ModuleList:
    """The blocks of a table; the later, the more samples skip them."""
    last = max(1, table.depth - 1)
    return nn.ModuleList(SelfBlock(table, table.drop_path * number / last) for number in range(table.depth))


def init_normal(module: nn.Module) -> None:
    """Linears of a module from a normal with deviation .02, cut at three of them, as REVE's (2510.21585); zero bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02, a=-0.06, b=0.06)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform linears with zero bias, as in MAE's released code; embeddings and tokens are N(0, 0.02)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)


def key_mask(valid: Tensor) -> Tensor | None:
    """``valid`` (B, M) where something is not valid, else None, so that attention takes its fast path.

    A sample with nothing valid attends to everything (its patches are zeros): softmax over nothing is NaN.
    """
    if bool(valid.all()):
        return None
    return valid | ~valid.any(dim=1, keepdim=True)


def _gather_phases(phases: Phases, keys: Tensor) -> Phases:
    if phases is None:
        return None
    cos, sin = phases
    return gather(cos[:, 0], keys)[:, None], gather(sin[:, 0], keys)[:, None]
