"""What every kind of repair asks of a model: to be opened with its tokenizer, and to complete tokens that are hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from toolkit.errors import UsageError
from toolkit.model import tokenizers
from toolkit.model.folder import LoadedModel
from toolkit.model.masked import MaskedModel
from toolkit.model.tokenizers import Tokenizer
from toolkit.model.tokens import TokenSet
from toolkit.objective.masks import split
from toolkit.objective.scale import visible_scale
from toolkit.recipe import PointData, SignalData, VolumeData

Tokens = TypeVar("Tokens", bound=Tokenizer)
Data = TypeVar("Data", SignalData, VolumeData, PointData)


def opened(loaded: LoadedModel, device: torch.device, tokens: type[Tokens], data: type[Data]) -> tuple[MaskedModel, Tokens, Data]:
    """The model on a device, its tokenizer and its recipe's table of data, which are of these kinds. Raises UsageError."""
    tokenizer, table = tokenizers.build(loaded.recipe), loaded.recipe.data
    if loaded.model.completes is None:
        raise UsageError(
            f"Model '{loaded.path}' cannot repair: no term of its objective '{loaded.recipe.objective}' predicts patches as they "
            "are. Train one whose terms have a target = 'raw', for instance with the domain's own recipe."
        )
    if not isinstance(tokenizer, tokens) or not isinstance(table, data):
        raise UsageError(
            f"Model '{loaded.path}' cannot repair: its tokens ({loaded.recipe.tokenizer.kind}) do not show the data whole."
        )
    return loaded.model.to(device).eval(), tokenizer, table


def completed(model: MaskedModel, tokens: TokenSet, device: torch.device, *, rescaled: bool = False) -> Tensor:
    """Patches (1, N, P) of one window: those of valid tokens as they are, the others as the model predicts them.

    ``rescaled``: the model sees and predicts in units of ``visible_scale``, as in training.
    """
    mask = split(torch.zeros(tokens.valid.shape), tokens.valid, max(1, int(tokens.valid.sum())))
    patches = tokens.patches.clone()
    if mask.hidden.shape[1]:
        factor = visible_scale(tokens, mask.visible)[..., None] if rescaled else torch.ones_like(patches[..., :1])
        # What is to be predicted is not valid, but takes part as hidden tokens do in training.
        on = replace(tokens, patches=tokens.patches / factor, valid=torch.ones_like(tokens.valid)).to(device)
        predicted = model(on, mask.visible.to(device), mask.hidden.to(device)).float().cpu()
        patches[0, mask.hidden[0]] = predicted[0] * factor[0, mask.hidden[0]]
    return patches
