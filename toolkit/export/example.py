"""Token tensors and what an encoder makes of them: by which a reader of an exported folder checks his own rebuilding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.embedding.pooling import vectors
from toolkit.model import tokenizers
from toolkit.model.masked import MaskedModel
from toolkit.model.positions import AXES
from toolkit.model.tokenizers.base import GridTokenizer
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.recipe import ConvTable, PositionTable, Recipe

SAMPLES, TOKENS = 2, 24
CONVNET_SIDE = 4


def tokens(recipe: Recipe, samples: int = SAMPLES, count: int = TOKENS, *, whole: bool = False, seed: int = 0) -> TokenSet:
    """Random tokens that a recipe's encoder takes: patches near unit variance, places within its range, channels of all kinds.

    Unless ``whole``, the last sample has two tokens that are not valid.
    """
    generator, tokenizer = torch.Generator().manual_seed(seed), tokenizers.build(recipe)
    grid: tuple[int, ...] = (count,)
    if isinstance(recipe.encoder, ConvTable):  # works on pictures: one channel of 4 patches along each axis
        assert isinstance(tokenizer, GridTokenizer)
        grid = (1, *(CONVNET_SIDE for _ in tokenizer.patch_shape))
        count = math.prod(grid)
    shape = (samples, count)
    descriptor = torch.randn(*shape, DESCRIPTOR, generator=generator)
    valid = torch.ones(shape, dtype=torch.bool)
    valid[-1, count - 2 :] = whole
    return TokenSet(
        torch.randn(*shape, tokenizer.values, generator=generator) * valid[..., None],
        _places(recipe.position, shape, generator),
        torch.randint(len(recipe.tokenizer.channels) + 1, shape, generator=generator),
        descriptor / descriptor.norm(dim=-1, keepdim=True),
        valid,
        torch.zeros(shape, dtype=torch.int64),
        grid,
    )


def _places(table: PositionTable, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Coordinates (B, N, 4): middles of cells of a grid, or anywhere within half the longest period of each axis; time from 0."""
    cells = torch.tensor(table.cells)
    if table.code == "grid":
        number = torch.stack([torch.randint(int(n), shape, generator=generator) for n in cells], dim=-1)
        return torch.tensor(table.middle) + (number + 0.5 - cells / 2) * torch.tensor(table.cell)
    places = (torch.rand(*shape, len(AXES), generator=generator) - 0.5) * torch.tensor(table.longest) / 2
    places[..., 3] = places[..., 3].abs()
    return places


@torch.inference_mode()
def recorded(model: MaskedModel, given: TokenSet) -> dict[str, Tensor]:
    """``states`` (B, N, D) of the layer that the recipe embeds, ``extra`` (B, g, D), ``pooled`` (B, D), where there are any."""
    table = model.recipe.embedding
    states = model.features(given, table.layer, table.layers)
    found = {"states": states.last}
    if states.extra is not None:
        found["extra"] = states.extra
    if table.pool != "attention":
        found["pooled"] = vectors(model, table.pool, table.layer, given, states, given.valid)
    return found


def inputs(given: TokenSet) -> dict[str, Tensor]:
    """The tensors of a token set that an encoder reads; ``grid`` with them where the tokens make up pictures."""
    names = ("patches", "coords", "channel", "descriptor", "valid")
    grid = {"grid": torch.tensor(given.grid)} if len(given.grid) > 1 else {}
    return {name: getattr(given, name) for name in names} | grid
