"""The unit in which a model sees a sample: that of what is visible of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from toolkit.model.tokens import TokenSet

LEAST_SCALE = 0.25  # a visible part without a beat must not blow up the hidden ones


def visible_scale(tokens: TokenSet, visible: Tensor) -> Tensor:
    """RMS of the visible patches of each scale group, for every token, float (B, N).

    The model sees and predicts in this unit, as it must when the hidden part is really missing: with the
    scale of the whole window, the amplitude of a hidden lead could be read off the visible ones. A group
    with nothing visible keeps the window's scale, tokens of a fixed unit keep theirs.
    """
    seen = tokens.shown(visible)
    energy = tokens.patches.square().mean(-1)
    factor = torch.ones_like(energy)
    for group in range(int(tokens.scale.max()) + 1):  # UNSCALED ones, below 0, stay as they are
        inside = tokens.scale == group
        counts = (seen & inside).sum(1, keepdim=True)
        rms = ((energy * (seen & inside)).sum(1, keepdim=True) / counts.clamp(min=1)).sqrt().clamp(min=LEAST_SCALE)
        factor = torch.where(inside & (counts > 0), rms, factor)
    return factor


def seed_step(seed: int, step: int) -> None:
    """Set torch's own generator, which dropout draws from, for a step: so it is the same after a resume."""
    torch.manual_seed(seed * 2**31 + step)


def step_generator(seed: int, step: int, *which: int) -> torch.Generator:
    """A generator that is a pure function of its numbers (torch's own takes 32 bits of a seed, so they are mixed)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step, *which]).generate_state(1)[0]))
