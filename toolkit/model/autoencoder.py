"""The masked autoencoder: an encoder that sees visible tokens only, and a light decoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners" (2111.06377) on token sets; the decoder
is CrossMAE's (2401.14391), queries at hidden places reading the encoder's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.model import tokenizers
from toolkit.model.positions import FourierPositions, RotaryTime
from toolkit.model.tokenizers.base import Tokenizer
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import CrossBlock, SelfBlock, init_weights, key_mask
from toolkit.recipe import Recipe


class Encoder(nn.Module):
    """Token sets to states. Values of tokens that are not valid never reach any other token."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        super().__init__()
        table = recipe.encoder
        self.embed_patch = tokenizer.embedder(table.width)
        self.embed_position = FourierPositions(recipe.position, table.width)
        self.embed_channel = nn.Embedding(tokenizer.num_identities, table.width)
        self.rotary = RotaryTime(recipe.position, table.head_width) if recipe.position.rotary else None
        self.blocks = nn.ModuleList(SelfBlock(table) for _ in range(table.depth))
        self.norm = nn.LayerNorm(table.width)

    def forward(self, tokens: TokenSet, layer: int = -1) -> Tensor:
        """States (B, N, width): -1 after all blocks and the final norm, -2 one block earlier, and so on."""
        x = self.embed_patch(tokens.patches) + self.embed_position(tokens.coords) + self.embed_channel(tokens.channel)
        phases = self.rotary(tokens.coords) if self.rotary is not None else None
        valid = key_mask(tokens.valid)
        for block in self.blocks[: len(self.blocks) + 1 + layer]:
            x = block(x, phases, valid)
        return self.norm(x) if layer == -1 else x


class Decoder(nn.Module):
    """Predicts patches (B, n, P) at the places of query tokens from the encoder's states."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        super().__init__()
        table = recipe.decoder
        self.mask_token = nn.Parameter(torch.zeros(table.width))
        self.embed_position = FourierPositions(recipe.position, table.width)
        self.embed_channel = nn.Embedding(tokenizer.num_identities, table.width)
        self.embed_memory = nn.Linear(recipe.encoder.width, table.width)
        self.memory_position = FourierPositions(recipe.position, table.width)
        self.rotary = RotaryTime(recipe.position, table.head_width) if recipe.position.rotary else None
        self.blocks = nn.ModuleList(CrossBlock(table, table.width) for _ in range(table.depth))
        self.norm = nn.LayerNorm(table.width)
        self.to_patch = nn.Linear(table.width, tokenizer.values)

    def forward(self, states: Tensor, seen: TokenSet, queries: TokenSet) -> Tensor:
        """states (B, n_seen, width) of ``seen`` -> patches (B, n_queries, P); only the places of ``queries`` are read."""
        memory = self.embed_memory(states) + self.memory_position(seen.coords)
        x = self.mask_token + self.embed_position(queries.coords) + self.embed_channel(queries.channel)
        x_phases = self.rotary(queries.coords) if self.rotary is not None else None
        memory_phases = self.rotary(seen.coords) if self.rotary is not None else None
        valid = key_mask(seen.valid)
        for block in self.blocks:
            x = block(x, memory, x_phases, memory_phases, valid)
        return self.to_patch(self.norm(x))


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder of one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        tokenizer = tokenizers.build(recipe)
        self.encoder = Encoder(recipe, tokenizer)
        self.decoder = Decoder(recipe, tokenizer)
        init_weights(self)
        nn.init.normal_(self.decoder.mask_token, std=0.02)

    def forward(self, tokens: TokenSet, visible: Tensor, queries: Tensor) -> Tensor:
        """Patches predicted at ``queries`` (B, q) from tokens at ``visible`` (B, v): (B, q, P)."""
        seen = tokens.take(visible)
        return self.decoder(self.encoder(seen), seen, tokens.take(queries))


def build(recipe: Recipe, seed: int | None = None) -> MaskedAutoencoder:
    """A model with fresh weights, a function of the seed alone (default: the recipe's)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed if seed is None else seed)
        return MaskedAutoencoder(recipe)
