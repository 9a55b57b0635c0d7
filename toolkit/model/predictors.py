"""Predictors: from an encoder's states to states at the places that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.model.attention_pool import AttentionPool
from toolkit.model.pooling import maximum, mean
from toolkit.model.positions import FourierPositions, Rotary
from toolkit.model.states import States
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import CrossBlock, Phases, SelfBlock, key_mask, norm
from toolkit.recipe import PositionTable, TransformerTable

Read = tuple[Tensor, Phases, Tensor]  # what is attended, its phases, and which of it may be


@dataclass(frozen=True)
class Memory:
    """What a predictor reads: states of some of a sample's tokens, and those tokens (places, channels, validity)."""

    states: States
    tokens: TokenSet


class Queries(nn.Module):
    """Where to predict: a learned token, the position and the channel of each query. Their patches are never read."""

    def __init__(self, table: TransformerTable, position: PositionTable) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(table.width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.position = FourierPositions(position, table.width)
        self.channel = nn.Linear(DESCRIPTOR, table.width, bias=False)

    def forward(self, tokens: TokenSet) -> Tensor:
        """Queries (B, q, W) at the places of ``tokens``."""
        return self.mask_token + self.position(tokens.coords) + self.channel(tokens.descriptor)


class Reading(nn.Module):
    """States of an encoder in the predictor's width, each with its place; class token and registers without one.

    ``beside``: a second memory may be read too, told apart by a learned code.
    """

    def __init__(self, width: int, table: TransformerTable, position: PositionTable, *, beside: bool) -> None:
        super().__init__()
        self.project = nn.Linear(width, table.width)
        self.position = FourierPositions(position, table.width)
        self.rotary = Rotary(position, table.head_width) if position.rotary else None
        self.beside = nn.Parameter(0.02 * torch.randn(table.width)) if beside else None

    def forward(self, states: Tensor, memory: Memory, second: Memory | None = None) -> Read:
        """``states`` (B, n, D), of the memory's tokens -> memory (B, g + n, W), its phases, and what may be attended.

        Those of the ``second`` memory, its last states, come after them.
        """
        read = self._one(states, memory)
        if second is None or self.beside is None:
            return read
        x, phases, valid = self._one(second.states.last, second)
        return torch.cat([read[0], x + self.beside], dim=1), _join(read[1], phases), torch.cat([read[2], valid], dim=1)

    def _one(self, states: Tensor, memory: Memory) -> Read:
        tokens, extra = memory.tokens, memory.states.extra
        x = self.project(states) + self.position(tokens.coords)
        coords, valid = tokens.coords, tokens.valid
        if extra is not None:
            x = torch.cat([self.project(extra), x], dim=1)
            coords = torch.cat([coords.new_zeros(len(x), extra.shape[1], 4), coords], dim=1)
            valid = torch.cat([valid.new_ones(len(x), extra.shape[1]), valid], dim=1)
        return x, self.phases(coords), valid

    def phases(self, coords: Tensor) -> Phases:
        """Rotary phases of places, if the recipe has them."""
        return self.rotary(coords) if self.rotary is not None else None


class Cross(nn.Module):
    """Queries read the memory and never one another (CrossMAE, 2401.14391).

    ``mix_layers``: each block reads its own learned mix of all the encoder's layers, as there. ``read_queries``:
    queries are part of what they attend, as in CAE's regressor (2202.03026). ``beside``: a second memory is read too,
    told apart by a learned code (CroCo, 2210.10716, alternates self- and cross-attention instead).
    """

    def __init__(
        self,
        table: TransformerTable,
        position: PositionTable,
        width: int,
        layers: int,
        *,
        mix_layers: bool = False,
        read_queries: bool = False,
        beside: bool = False,
    ) -> None:
        super().__init__()
        self.read_queries = read_queries
        self.queries = Queries(table, position)
        self.read = Reading(width, table, position, beside=beside)
        self.mix = nn.Parameter(torch.zeros(table.depth, layers)) if mix_layers else None
        self.layer_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.blocks = nn.ModuleList(CrossBlock(table, table.width) for _ in range(table.depth))
        self.norm = norm(table.norm, table.width)

    def forward(self, memory: Memory, queries: TokenSet, second: Memory | None = None) -> Tensor:
        """States (B, q, W) at the places of ``queries``."""
        x = self.queries(queries)
        x_phases = self.read.phases(queries.coords)
        read = self._read(memory, second)
        for number, block in enumerate(self.blocks):
            keys, phases, valid = read[number if self.mix is not None else 0]
            if self.read_queries:
                keys, phases = torch.cat([keys, x], dim=1), _join(phases, x_phases)
                valid = torch.cat([valid, queries.valid], dim=1)
            x = block(x, keys, x_phases, phases, key_mask(valid))
        return self.norm(x)

    def _read(self, memory: Memory, second: Memory | None) -> list[Read]:
        """The memory of each block, or the one of all."""
        if self.mix is None:
            mixes = [memory.states.last]
        else:
            layers = torch.stack([self.layer_norm(layer) for layer in memory.states.all_layers()])
            mixes = [torch.einsum("l,lbnd->bnd", share, layers) for share in self.mix.softmax(-1).type_as(layers)]
        return [self.read(mix, memory, second) for mix in mixes]


class Joint(nn.Module):
    """Memory and queries through self-attention together (MAE, 2111.06377): dearer than :class:`Cross`.

    ``reveal``: before the last block only this share of the queries can be attended, so that hidden places enter in
    steps (after DrBERT's gradual unmasking; which blocks is not public, so this is ours).
    """

    def __init__(
        self,
        table: TransformerTable,
        position: PositionTable,
        width: int,
        *,
        reveal: float = 1.0,
        beside: bool = False,
    ) -> None:
        super().__init__()
        self.reveal = reveal
        self.queries = Queries(table, position)
        self.read = Reading(width, table, position, beside=beside)
        self.blocks = nn.ModuleList(SelfBlock(table) for _ in range(table.depth))
        self.norm = norm(table.norm, table.width)

    def forward(self, memory: Memory, queries: TokenSet, second: Memory | None = None) -> Tensor:
        """States (B, q, W) at the places of ``queries``."""
        x, phases, valid = self.read(memory.states.last, memory, second)
        asked = self.queries(queries)
        known, count = x.shape[1], asked.shape[1]
        phases = _join(phases, self.read.phases(queries.coords))
        valid = torch.cat([valid, queries.valid], dim=1)
        x = torch.cat([x, asked], dim=1)
        shown = known + max(1, round(self.reveal * count))
        early = torch.arange(shown, device=x.device).expand(len(x), -1) if shown < known + count else None
        for number, block in enumerate(self.blocks):
            keys = None if number == len(self.blocks) - 1 else early
            x = block(x, phases, key_mask(valid if keys is None else valid[:, :shown]), keys)
        return self.norm(x[:, known:])


class Chain(nn.Module):
    """Self-attention on what another term predicted, and on nothing else (CAE's decoder, 2202.03026)."""

    def __init__(self, table: TransformerTable, position: PositionTable, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, table.width)
        self.position = FourierPositions(position, table.width)
        self.channel = nn.Linear(DESCRIPTOR, table.width, bias=False)
        self.rotary = Rotary(position, table.head_width) if position.rotary else None
        self.blocks = nn.ModuleList(SelfBlock(table) for _ in range(table.depth))
        self.norm = norm(table.norm, table.width)

    def forward(self, predicted: Tensor, queries: TokenSet) -> Tensor:
        """``predicted`` (B, q, D) at the places of ``queries`` -> (B, q, W)."""
        x = self.project(predicted) + self.position(queries.coords) + self.channel(queries.descriptor)
        phases = self.rotary(queries.coords) if self.rotary is not None else None
        valid = key_mask(queries.valid)
        for block in self.blocks:
            x = block(x, phases, valid)
        return self.norm(x)


class Pool(nn.Module):
    """One vector a sample: mean, maximum, class token, or a learned query's reading of the states.

    ``mix_layers``: of all layers, the embedding included, as REVE's global token (2510.21585) reads them.
    """

    def __init__(self, width: int, heads: int, kind: str, *, mix_layers: bool = False, last_layers: int = 1) -> None:
        super().__init__()
        self.kind, self.mix_layers, self.last_layers = kind, mix_layers, last_layers
        self.attention = AttentionPool(width, heads) if kind == "attention" else None

    def forward(self, memory: Memory) -> Tensor:
        """(B, D)."""
        states, counts = memory.states.mean_of_last(self.last_layers), memory.tokens.valid
        if self.mix_layers:
            layers = memory.states.all_layers()
            states, counts = torch.cat(layers, dim=1), counts.repeat(1, len(layers))
        if self.attention is not None:
            return self.attention(states, counts)
        if self.kind == "class":
            return memory.states.class_state()
        return maximum(states, counts) if self.kind == "max" else mean(states, counts)


class Spread(nn.Module):
    """A vector of the whole sample to every query: beside the query's place through an MLP (REVE's second loss)."""

    def __init__(self, table: TransformerTable, position: PositionTable, width: int) -> None:
        super().__init__()
        self.queries = Queries(table, position)
        self.project = nn.Linear(width, table.width)
        self.mlp = nn.Sequential(nn.Linear(table.width, table.mlp), nn.ReLU(), nn.Linear(table.mlp, table.width))

    def forward(self, vector: Tensor, queries: TokenSet) -> Tensor:
        """``vector`` (B, D) -> (B, q, W)."""
        return self.mlp(self.queries(queries) + self.project(vector)[:, None])


def _join(first: Phases, second: Phases) -> Phases:
    """Phases of two token sets one after the other."""
    if first is None or second is None:
        return None
    return torch.cat([first[0], second[0]], dim=2), torch.cat([first[1], second[1]], dim=2)
