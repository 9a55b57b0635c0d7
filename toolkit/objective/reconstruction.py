"""The masked-reconstruction term: hide tokens, predict them, score the hidden ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.model.autoencoder import MaskedAutoencoder
from toolkit.model.tokens import TokenSet, gather
from toolkit.objective.losses import patch_loss
from toolkit.objective.masks import MaskSampler
from toolkit.recipe import Recipe


@dataclass(frozen=True)
class Scored:
    """The loss, and its trivial level: what predicting every channel's mean would have cost."""

    loss: Tensor
    trivial: Tensor


class MaskedReconstruction:
    """A recipe's mask and loss, applied to a model."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.masks = MaskSampler(recipe.mask, recipe.tokenizer.channels)

    def __call__(self, model: MaskedAutoencoder, tokens: TokenSet, step: int, device: torch.device) -> Scored:
        """Score ``tokens`` (on the CPU) on ``device``; the mask is a pure function of seed and step."""
        generator = torch.Generator().manual_seed((self.recipe.training.seed << 32) + step)
        mask = self.masks.sample(tokens, generator)
        tokens = tokens.to(device)
        visible, hidden = mask.visible.to(device), mask.hidden.to(device)
        predicted = model(tokens, visible, hidden)
        target, counts = gather(tokens.patches, hidden), tokens.valid.gather(1, hidden)
        kind = self.recipe.loss.kind
        return Scored(patch_loss(kind, predicted, target, counts),
                      patch_loss(kind, torch.zeros_like(target), target, counts))
