"""The transformer encoder of token sets, and the choice between it and the convnet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.model.convnet import ConvEncoder
from toolkit.model.positions import FourierPositions, Rotary
from toolkit.model.states import States
from toolkit.model.tokenizers.base import GridTokenizer, Tokenizer
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import Phases, SelfBlock, key_mask, norm
from toolkit.recipe import ConvTable, PositionTable, Recipe, TransformerTable


class Encoder(nn.Module):
    """Token sets to states. Values of tokens that are not valid never reach any other token."""

    def __init__(self, table: TransformerTable, position: PositionTable, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.width = table.width
        self.embed_patch = tokenizer.embedder(table.width)
        self.embed_channel = nn.Linear(DESCRIPTOR, table.width, bias=False)
        placed = table.positions
        self.embed_position = FourierPositions(position, table.width) if placed and position.fourier else None
        self.rotary = Rotary(position, table.head_width) if placed and position.rotary else None
        extras = table.class_token + table.registers
        self.extra = nn.Parameter(0.02 * torch.randn(extras, table.width)) if extras else None
        self.blocks = nn.ModuleList(SelfBlock(table) for _ in range(table.depth))
        self.norm = norm(table.norm, table.width)

    def forward(self, tokens: TokenSet, index: Tensor | None = None, keys: Tensor | None = None, layer: int = -1) -> States:
        """States of the tokens at ``index`` int64 (B, n) (None: all); of these only ``keys`` int64 (B, k) can be attended.

        Blocks beyond ``layer`` (from the end, -1 the last) are not run; ``last`` is then that layer, not normalised.
        """
        if index is not None:
            tokens = tokens.take(index)
        x = self.embed_patch(tokens.patches) + self.embed_channel(tokens.descriptor)
        if self.embed_position is not None:
            x = x + self.embed_position(tokens.coords)
        phases = self.rotary(tokens.coords) if self.rotary is not None else None
        valid, extras = tokens.valid, 0
        if self.extra is not None:
            extras = len(self.extra)
            x, phases, valid, keys = self._with_extra(self.extra, x, phases, valid, keys)
        mask = key_mask(valid if keys is None else valid.gather(1, keys))
        layers = [x[:, extras:]]
        for block in self.blocks[: len(self.blocks) + 1 + layer]:
            x = block(x, phases, mask, keys)
            layers.append(x[:, extras:])
        if layer == -1:
            x = self.norm(x)
        return States(x[:, extras:], tuple(layers), x[:, :extras] if extras else None)

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


def build(recipe: Recipe, tokenizer: Tokenizer) -> Encoder | ConvEncoder:
    """The encoder that a recipe asks for."""
    if isinstance(recipe.encoder, ConvTable):
        assert isinstance(tokenizer, GridTokenizer)
        return ConvEncoder(recipe.encoder, tokenizer.patch_shape, DESCRIPTOR)
    return Encoder(recipe.encoder, recipe.position, tokenizer)
