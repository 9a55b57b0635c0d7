"""Mean and maximum over the tokens that count."""

from __future__ import annotations

import torch
from torch import Tensor


def mean(states: Tensor, counts: Tensor) -> Tensor:
    """states (B, N, D), counts bool (B, N) -> (B, D)."""
    weight = counts[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def maximum(states: Tensor, counts: Tensor) -> Tensor:
    """The largest value of each feature over the tokens that count; 0 where none does."""
    return states.masked_fill(~counts[..., None], -torch.inf).amax(1).nan_to_num(neginf=0.0)
