"""The masked-reconstruction term: hide tokens, predict them, score the hidden ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from toolkit.model.autoencoder import MaskedAutoencoder
from toolkit.model.tokens import TokenSet, gather
from toolkit.objective.losses import patch_loss
from toolkit.objective.masks import MaskSampler
from toolkit.recipe import Recipe

LEAST_SCALE = 0.25  # a visible part without a beat must not blow up the hidden ones


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
        """Score ``tokens``, which lie on ``device``; the mask is a pure function of seed and step."""
        mask = self.masks.sample(tokens, step_generator(self.recipe.training.seed, step))
        visible, hidden = mask.visible.to(device), mask.hidden.to(device)
        factor = visible_scale(tokens, visible)[..., None]
        predicted = model(replace(tokens, patches=tokens.patches / factor), visible, hidden) * gather(factor, hidden)
        target, counts = gather(tokens.patches, hidden), tokens.valid.gather(1, hidden)
        kind = self.recipe.loss.kind
        return Scored(patch_loss(kind, predicted, target, counts), patch_loss(kind, torch.zeros_like(target), target, counts))


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator that is a pure function of seed and step (torch's own takes 32 bits of a seed, so both are mixed)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def visible_scale(tokens: TokenSet, visible: Tensor) -> Tensor:
    """RMS of the visible patches of each scale group, for every token, float (B, N).

    The model sees and predicts in this unit, as it must when the hidden part is really missing: with the
    scale of the whole window, the amplitude of a hidden lead could be read off the visible ones. A group
    with nothing visible keeps the window's scale, tokens of a fixed unit keep theirs.
    """
    seen = torch.zeros_like(tokens.valid).scatter(1, visible, True) & tokens.valid
    energy = tokens.patches.square().mean(-1)
    factor = torch.ones_like(energy)
    for group in range(int(tokens.scale.max()) + 1):  # UNSCALED ones, below 0, stay as they are
        inside = tokens.scale == group
        counts = (seen & inside).sum(1, keepdim=True)
        rms = ((energy * (seen & inside)).sum(1, keepdim=True) / counts.clamp(min=1)).sqrt().clamp(min=LEAST_SCALE)
        factor = torch.where(inside & (counts > 0), rms, factor)
    return factor
