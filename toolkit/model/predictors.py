"""Predictors: from an encoder's states to states at the places that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.model import channels, positions
from toolkit.model.attention_pool import AttentionPool, QueryPool
from toolkit.model.pooling import maximum, mean
from toolkit.model.positions import Rotary
from toolkit.model.states import States
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import CrossBlock, Phases, final_norm_of, key_mask, stack_of
from toolkit.recipe import PositionTable, TransformerTable

Read = tuple[Tensor, Phases, Tensor]  # what is attended, its phases, and which of it may be


@dataclass(frozen=True)
class Memory:
    """What a predictor reads: states of some of a sample's tokens, and those tokens (places, channels, validity)."""

    states: States
    tokens: TokenSet


@dataclass(frozen=True)
class Part:
    """What all predictors of a recipe are built of: the decoder's table, positions, the encoder's width, and how many
    channels are known by name."""

    table: TransformerTable
    position: PositionTable
    width: int
    names: int

    def placed(self) -> nn.Module | None:
        """A position code in the decoder's width."""
        return positions.build(self.position, self.table.width)

    def rotary(self) -> Rotary | None:
        """Rotary phases, if the recipe has them."""
        return Rotary(self.position, self.table.head_width) if self.position.rotary else None

    def channel(self) -> nn.Module | None:
        """A code of channels in the decoder's width."""
        return channels.build(self.table.channels, self.names, self.table.width)


class Queries(nn.Module):
    """Where to predict: a learned token, the position and the channel of each query. Their patches are never read."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(part.table.width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.position = part.placed()
        self.channel = part.channel()

    def forward(self, tokens: TokenSet) -> Tensor:
        """Queries (B, q, W) at the places of ``tokens``."""
        x, place = self.apart(tokens)
        return x if place is None else x + place

    def apart(self, tokens: TokenSet) -> tuple[Tensor, Tensor | None]:
        """The queries without their places, and the code of these, both (B, q, W)."""
        x = self.mask_token.expand(*tokens.valid.shape, -1)
        if self.channel is not None:
            x = x + self.channel(tokens)
        return x, self.position(tokens.coords) if self.position is not None else None


class Reading(nn.Module):
    """States of an encoder in the predictor's width, each with its place; class token and registers without one.

    ``beside``: a second memory may be read too, told apart by a learned code. Channels with a learned vector (BM-MAE's
    contrasts) have it here as well; codes reach a predictor through the queries alone.
    """

    def __init__(self, part: Part, *, beside: bool) -> None:
        super().__init__()
        as_they_are = not part.table.project and part.width == part.table.width
        self.project = nn.Identity() if as_they_are else nn.Linear(part.width, part.table.width)
        self.position = part.placed()
        self.channel = part.channel() if part.table.channels == "own" else None
        self.rotary = part.rotary()
        self.read_extra = part.table.read_extra
        self.beside = nn.Parameter(0.02 * torch.randn(part.table.width)) if beside else None

    def forward(self, states: Tensor, memory: Memory, second: Memory | None = None) -> Read:
        """``states`` (B, n, D), of the memory's tokens -> memory (B, g + n, W), its phases, and what may be attended.

        Those of the ``second`` memory, its last states, come after them.
        """
        x, place, phases, valid = self.apart(states, memory, second)
        return x if place is None else x + place, phases, valid

    def apart(self, states: Tensor, memory: Memory, second: Memory | None = None) -> tuple[Tensor, Tensor | None, Phases, Tensor]:
        """As :meth:`forward`, but the memory without places, and the code of these (zero for class token and registers)."""
        x, place, valid = self._one(states, memory)
        phases = self.phases(self._coords(memory))
        if second is None or self.beside is None:
            return x, place, phases, valid
        y, there, seen = self._one(second.states.last, second)
        both = None if place is None or there is None else torch.cat([place, there], dim=1)
        phases = _join(phases, self.phases(self._coords(second)))
        return torch.cat([x, y + self.beside], dim=1), both, phases, torch.cat([valid, seen], dim=1)

    def _one(self, states: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None, Tensor]:
        tokens, extra = memory.tokens, memory.states.extra if self.read_extra else None
        x, valid = self.project(states), tokens.valid
        if self.channel is not None:
            x = x + self.channel(tokens)
        place = self.position(tokens.coords) if self.position is not None else None
        if extra is not None:
            x = torch.cat([self.project(extra), x], dim=1)
            valid = torch.cat([valid.new_ones(len(x), extra.shape[1]), valid], dim=1)
            if place is not None:
                place = torch.cat([place.new_zeros(len(x), extra.shape[1], place.shape[2]), place], dim=1)
        return x, place, valid

    def _coords(self, memory: Memory) -> Tensor:
        """Places (B, g + n, 4) of the memory; class token and registers are at 0."""
        coords, extra = memory.tokens.coords, memory.states.extra
        if extra is None or not self.read_extra:
            return coords
        return torch.cat([coords.new_zeros(len(coords), extra.shape[1], 4), coords], dim=1)

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
        part: Part,
        layers: int,
        *,
        mix_layers: bool = False,
        read_queries: bool = False,
        beside: bool = False,
    ) -> None:
        super().__init__()
        table = part.table
        self.read_queries = read_queries
        self.queries = Queries(part)
        self.read = Reading(part, beside=beside)
        self.mix = nn.Parameter(torch.zeros(table.depth, layers)) if mix_layers else None
        self.layer_norm = nn.LayerNorm(part.width, elementwise_affine=False)
        self.blocks = nn.ModuleList(CrossBlock(table, table.width) for _ in range(table.depth))
        self.norm = final_norm_of(table)

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
    steps (after DrBERT's gradual unmasking; which blocks is not public, so this is ours). Where positions are for
    every block, they are added before each.
    """

    def __init__(self, part: Part, *, reveal: float = 1.0, beside: bool = False) -> None:
        super().__init__()
        self.reveal, self.every_block = reveal, part.position.every_block
        self.queries = Queries(part)
        self.read = Reading(part, beside=beside)
        self.blocks = stack_of(part.table)
        self.norm = final_norm_of(part.table)

    def forward(self, memory: Memory, queries: TokenSet, second: Memory | None = None) -> Tensor:
        """States (B, q, W) at the places of ``queries``."""
        x, place, phases, valid = self.read.apart(memory.states.last, memory, second)
        asked, there = self.queries.apart(queries)
        known, count = x.shape[1], asked.shape[1]
        phases = _join(phases, self.read.phases(queries.coords))
        valid = torch.cat([valid, queries.valid], dim=1)
        x = torch.cat([x, asked], dim=1)
        if place is not None and there is not None:
            place = torch.cat([place, there], dim=1)
            x = x if self.every_block else x + place
        again = place if self.every_block else None
        shown = known + max(1, round(self.reveal * count))
        early = torch.arange(shown, device=x.device).expand(len(x), -1) if shown < known + count else None
        for number, block in enumerate(self.blocks):
            keys = None if number == len(self.blocks) - 1 else early
            x = x if again is None else x + again
            x = block(x, phases, key_mask(valid if keys is None else valid[:, :shown]), keys)
        return self.norm(x[:, known:])


class Chain(nn.Module):
    """Self-attention on what another term predicted, and on nothing else (CAE's decoder, 2202.03026)."""

    def __init__(self, part: Part, source: int) -> None:
        super().__init__()
        self.project = nn.Linear(source, part.table.width)
        self.position, self.channel, self.rotary = part.placed(), part.channel(), part.rotary()
        self.blocks = stack_of(part.table)
        self.norm = final_norm_of(part.table)

    def forward(self, predicted: Tensor, queries: TokenSet) -> Tensor:
        """``predicted`` (B, q, source) at the places of ``queries`` -> (B, q, W)."""
        x = self.project(predicted)
        if self.position is not None:
            x = x + self.position(queries.coords)
        if self.channel is not None:
            x = x + self.channel(queries)
        phases = self.rotary(queries.coords) if self.rotary is not None else None
        valid = key_mask(queries.valid)
        for block in self.blocks:
            x = block(x, phases, valid)
        return self.norm(x)


class Pool(nn.Module):
    """One vector a sample: mean, maximum, class token, or a learned query's reading of the states (``attention``, ``query``).

    ``mix_layers``: of all layers, the embedding included, as REVE's global token (2510.21585) reads them.
    """

    def __init__(self, width: int, heads: int, kind: str, *, mix_layers: bool = False, last_layers: int = 1) -> None:
        super().__init__()
        self.kind, self.mix_layers, self.last_layers = kind, mix_layers, last_layers
        self.attention: nn.Module | None = AttentionPool(width, heads) if kind == "attention" else None
        if kind == "query":
            self.attention = QueryPool(width)

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
    """A vector of the whole sample to every query: beside the query's place through an MLP (REVE's second loss).

    The MLP is 4 W wide, and its last linear is the term's head.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.queries = Queries(part)
        self.project = nn.Linear(part.width, part.table.width)
        self.width = 4 * part.table.width
        self.mlp = nn.Sequential(nn.Linear(part.table.width, self.width), nn.ReLU())

    def forward(self, vector: Tensor, queries: TokenSet) -> Tensor:
        """``vector`` (B, D) -> (B, q, 4 W)."""
        return self.mlp(self.queries(queries) + self.project(vector)[:, None])


def _join(first: Phases, second: Phases) -> Phases:
    """Phases of two token sets one after the other."""
    if first is None or second is None:
        return None
    return torch.cat([first[0], second[0]], dim=2), torch.cat([first[1], second[1]], dim=2)
