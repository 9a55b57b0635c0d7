"""Distances between predicted and true patches, averaged over the tokens that count."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": functional.l1_loss,
    "l2": functional.mse_loss,
    "smooth_l1": functional.smooth_l1_loss,
}


def patch_loss(kind: str, predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean distance of (B, n, P) patches over the tokens where ``counts`` bool (B, n); 0 when none do."""
    each = LOSSES[kind](predicted.float(), target.float(), reduction="none").mean(-1)
    return each.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
