"""Pre-norm transformer blocks: self-attention over a token set, cross-attention of queries to a memory.

With layer norm and GELU they are the blocks of ViT (2010.11929) and MAE (2111.06377).
"""

from __future__ import annotations

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
        inner = table.heads * table.head_width
        self.heads = table.heads
        self.query = nn.Linear(table.width, inner)
        self.key_value = nn.Linear(memory_width, 2 * inner)
        self.out = nn.Linear(inner, table.width)

    def forward(self, x: Tensor, memory: Tensor, x_phases: Phases, memory_phases: Phases, valid: Tensor | None) -> Tensor:
        """x (B, N, width), memory (B, M, memory_width), valid bool (B, M) or None (all) -> (B, N, width)."""
        query = rotate(self._split(self.query(x)), x_phases)  # (B, H, N, D)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key = rotate(self._split(key), memory_phases)
        mask = None if valid is None else valid[:, None, None, :]
        mixed = scaled_dot_product_attention(query, key, self._split(value), attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SelfBlock(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, table: TransformerTable) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(table.norm, table.width), norm(table.norm, table.width)
        self.attention = Attention(table, table.width)
        self.mlp = mlp(table)

    def forward(self, x: Tensor, phases: Phases, valid: Tensor | None, keys: Tensor | None = None) -> Tensor:
        """x (B, N, width) -> (B, N, width).

        ``keys`` int64 (B, k): the only tokens that can be attended; None all. ``valid`` bool, of the tokens that can
        be attended: (B, N), or (B, k) in the order of ``keys``.
        """
        inner = self.norm1(x)
        memory, memory_phases = (inner, phases) if keys is None else (gather(inner, keys), _gather_phases(phases, keys))
        x = x + self.attention(inner, memory, phases, memory_phases, valid)
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Queries read a memory and never one another (CrossMAE, 2401.14391): cheaper than joint attention."""

    def __init__(self, table: TransformerTable, memory_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(table.norm, table.width), norm(table.norm, table.width)
        self.attention = Attention(table, memory_width)
        self.mlp = mlp(table)

    def forward(self, x: Tensor, memory: Tensor, x_phases: Phases, memory_phases: Phases, valid: Tensor | None) -> Tensor:
        """x (B, N, width), memory (B, M, memory_width) -> (B, N, width)."""
        x = x + self.attention(self.norm1(x), memory, x_phases, memory_phases, valid)
        return x + self.mlp(self.norm2(x))


class GatedMLP(nn.Module):
    """(a x) * activation(b x), then linear: GEGLU with GELU, SwiGLU with SiLU (2002.05202), ``hidden`` units each for a and b.

    As in the paper but with biases. The paper cuts ``hidden`` to two thirds so that parameters stay equal; a recipe
    says what it wants.
    """

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.up, self.down, self.activation = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * self.activation(gate))


def mlp(table: TransformerTable) -> nn.Module:
    """The block's MLP: linear, exact GELU, linear; or a gated one."""
    gates = {"geglu": nn.GELU, "swiglu": nn.SiLU}
    if table.activation in gates:
        return GatedMLP(table.width, table.mlp, gates[table.activation]())
    return nn.Sequential(nn.Linear(table.width, table.mlp), nn.GELU(), nn.Linear(table.mlp, table.width))


def norm(kind: str, width: int) -> nn.Module:
    """``layer`` or ``rms`` (1910.07467) over the last axis; 1e-6 as in MAE's code, not torch's 1e-5."""
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[kind](width, eps=1e-6)


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
