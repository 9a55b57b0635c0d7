"""Pre-norm transformer blocks: self-attention for the encoder, cross-attention for the decoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from toolkit.model.positions import rotate
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
        self.norm1, self.norm2 = nn.LayerNorm(table.width), nn.LayerNorm(table.width)
        self.attention = Attention(table, table.width)
        self.mlp = mlp(table)

    def forward(self, x: Tensor, phases: Phases, valid: Tensor | None) -> Tensor:
        """x (B, N, width) -> (B, N, width)."""
        inner = self.norm1(x)
        x = x + self.attention(inner, inner, phases, phases, valid)
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Queries read a memory and never one another (CrossMAE, 2401.14391): cheaper than joint attention."""

    def __init__(self, table: TransformerTable, memory_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(table.width), nn.LayerNorm(table.width)
        self.attention = Attention(table, memory_width)
        self.mlp = mlp(table)

    def forward(self, x: Tensor, memory: Tensor, x_phases: Phases, memory_phases: Phases, valid: Tensor | None) -> Tensor:
        """x (B, N, width), memory (B, M, memory_width) -> (B, N, width)."""
        x = x + self.attention(self.norm1(x), memory, x_phases, memory_phases, valid)
        return x + self.mlp(self.norm2(x))


def mlp(table: TransformerTable) -> nn.Sequential:
    """Linear, GELU, Linear."""
    return nn.Sequential(nn.Linear(table.width, table.mlp), nn.GELU(), nn.Linear(table.mlp, table.width))


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
