"""Distances between predicted and true patches, averaged over the tokens that count."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.model.tokenizers.points import EXACT


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of (..., P) patches: (...)."""
    return functional.l1_loss(predicted, target, reduction="none").mean(-1)


def l2(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference."""
    return functional.mse_loss(predicted, target, reduction="none").mean(-1)


def smooth_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Huber's, from squared to absolute at 1."""
    return functional.smooth_l1_loss(predicted, target, reduction="none").mean(-1)


def chamfer(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared Chamfer distance of sets of points (..., 3 k): mean distance to the nearest of the other set, both ways added.

    The "CD-L2" of Point-MAE (2203.06604).
    """
    distance = torch.cdist(predicted.unflatten(-1, (-1, 3)), target.unflatten(-1, (-1, 3)), compute_mode=EXACT).square()
    return distance.amin(-1).mean(-1) + distance.amin(-2).mean(-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "l2": l2, "smooth_l1": smooth_l1, "chamfer": chamfer}


def patch_loss(kind: str, predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean distance of (B, n, P) patches over the tokens where ``counts`` bool (B, n); 0 when none do."""
    each = LOSSES[kind](predicted.float(), target.float())
    return each.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
