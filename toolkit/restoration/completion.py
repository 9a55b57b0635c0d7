"""What every kind of repair asks of a model: to be opened with its tokenizer, and to complete tokens that are hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from toolkit.model import tokenizers
from toolkit.model.autoencoder import MaskedAutoencoder
from toolkit.model.folder import LoadedModel
from toolkit.model.tokenizers import Tokenizer
from toolkit.model.tokens import TokenSet
from toolkit.objective.masks import split
from toolkit.objective.reconstruction import visible_scale
from toolkit.recipe import PointData, SignalData, VolumeData

Tokens = TypeVar("Tokens", bound=Tokenizer)
Data = TypeVar("Data", SignalData, VolumeData, PointData)


def opened(
    loaded: LoadedModel, device: torch.device, tokens: type[Tokens], data: type[Data]
) -> tuple[MaskedAutoencoder, Tokens, Data]:
    """The model on a device, its tokenizer and its recipe's table of data, which are of these kinds."""
    tokenizer, table = tokenizers.build(loaded.recipe), loaded.recipe.data
    assert isinstance(tokenizer, tokens) and isinstance(table, data)
    return loaded.model.to(device).eval(), tokenizer, table


def completed(model: MaskedAutoencoder, tokens: TokenSet, device: torch.device, *, rescaled: bool = False) -> Tensor:
    """Patches (1, N, P) of one window: those of valid tokens as they are, the others as the model predicts them.

    ``rescaled``: the model sees and predicts in units of ``visible_scale``, as in training.
    """
    mask = split(torch.zeros(tokens.valid.shape), tokens.valid, max(1, int(tokens.valid.sum())))
    patches = tokens.patches.clone()
    if mask.hidden.shape[1]:
        factor = visible_scale(tokens, mask.visible)[..., None] if rescaled else torch.ones_like(patches[..., :1])
        on = replace(tokens, patches=tokens.patches / factor).to(device)
        predicted = model(on, mask.visible.to(device), mask.hidden.to(device)).float().cpu()
        patches[0, mask.hidden[0]] = predicted[0] * factor[0, mask.hidden[0]]
    return patches
