"""The transformer encoder of token sets, and the choice between it and the convnet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.model import channels, positions
from toolkit.model.channels import Projections
from toolkit.model.convnet import ConvEncoder
from toolkit.model.positions import Rotary
from toolkit.model.pyramid import PyramidEncoder
from toolkit.model.states import States
from toolkit.model.tokenizers.base import GridTokenizer, Tokenizer
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import Phases, final_norm_of, key_mask, stack_of
from toolkit.recipe import ConvTable, PositionTable, PyramidTable, Recipe, TransformerTable


class Encoder(nn.Module):
    """Token sets to states. Values of tokens that are not valid never reach any other token."""

    def __init__(self, table: TransformerTable, position: PositionTable, tokenizer: Tokenizer, names: int) -> None:
        super().__init__()
        self.width = table.width
        if table.channels == "projection":
            self.embed_patch: nn.Module = Projections(names, tokenizer.values, table.width)
        else:
            self.embed_patch = tokenizer.embedder(table.width)
        self.embed_channel = channels.build(table.channels, names, table.width)
        self.embed_position = positions.build(position, table.width) if table.positions else None
        self.rotary = Rotary(position, table.head_width) if table.positions and position.rotary else None
        self.every_block = position.every_block
        extras = table.class_token + table.registers
        self.extra = nn.Parameter(0.02 * torch.randn(extras, table.width)) if extras else None
        placed = extras and self.every_block and self.embed_position is not None
        self.extra_position = nn.Parameter(0.02 * torch.randn(extras, table.width)) if placed else None
        self.blocks = stack_of(table)
        self.norm = final_norm_of(table)

    def forward(self, tokens: TokenSet, index: Tensor | None = None, keys: Tensor | None = None, layer: int = -1) -> States:
        """States of the tokens at ``index`` int64 (B, n) (None: all); of these only ``keys`` int64 (B, k) can be attended.

        Blocks beyond ``layer`` (from the end, -1 the last) are not run; ``last`` is then that layer, not normalised.
        """
        if index is not None:
            tokens = tokens.take(index)
        x, place = self._embedded(tokens)
        phases = self.rotary(tokens.coords) if self.rotary is not None else None
        valid, extras = tokens.valid, 0
        if self.extra is not None:
            extras = len(self.extra)
            x, phases, valid, keys = self._with_extra(self.extra, x, phases, valid, keys)
            if place is not None and self.extra_position is not None:
                place = torch.cat([self.extra_position.expand(len(x), -1, -1), place], dim=1)
        mask = key_mask(valid if keys is None else valid.gather(1, keys))
        layers = [x[:, extras:]]
        for block in self.blocks[: len(self.blocks) + 1 + layer]:
            x = block(x if place is None else x + place, phases, mask, keys)
            layers.append(x[:, extras:])
        if layer == -1:
            x = self.norm(x)
        return States(x[:, extras:], tuple(layers), x[:, :extras] if extras else None)

    def _embedded(self, tokens: TokenSet) -> tuple[Tensor, Tensor | None]:
        """What enters the first block (B, n, width), and what is added to it before each block, if anything is."""
        # Zeros, whatever they hold: norms over the batch tell by them which tokens are not there.
        patches = tokens.patches.masked_fill(~tokens.valid[..., None], 0.0)
        x = self.embed_patch(tokens if isinstance(self.embed_patch, Projections) else patches)
        if self.embed_channel is not None:
            x = x + self.embed_channel(tokens)
        place = self.embed_position(tokens.coords) if self.embed_position is not None else None
        if place is None or self.every_block:
            return x, place
        return x + place, None

    def _with_extra(
        self, extra: Tensor, x: Tensor, phases: Phases, valid: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Phases, Tensor, Tensor | None]:
        """Class token and registers in front: nowhere in space, always to be attended."""
        size, extras = len(x), len(extra)
        x = torch.cat([extra.expand(size, -1, -1).type_as(x), x], dim=1)
        valid = torch.cat([valid.new_ones(size, extras), valid], dim=1)
        if phases is not None:
            cos, sin = phases
            cos = torch.cat([cos.new_ones(size, 1, extras, cos.shape[-1]), cos], dim=2)
            phases = cos, torch.cat([sin.new_zeros(size, 1, extras, sin.shape[-1]), sin], dim=2)
        if keys is not None:
            first = torch.arange(extras, device=keys.device).expand(size, -1)
            keys = torch.cat([first, keys + extras], dim=1)
        return x, phases, valid, keys


def build(recipe: Recipe, tokenizer: Tokenizer) -> Encoder | ConvEncoder | PyramidEncoder:
    """The encoder that a recipe asks for."""
    if isinstance(recipe.encoder, ConvTable):
        assert isinstance(tokenizer, GridTokenizer)
        return ConvEncoder(recipe.encoder, tokenizer.patch_shape, DESCRIPTOR)
    if isinstance(recipe.encoder, PyramidTable):
        return PyramidEncoder(recipe.encoder, recipe.position, tokenizer)
    return Encoder(recipe.encoder, recipe.position, tokenizer, len(recipe.tokenizer.channels))
