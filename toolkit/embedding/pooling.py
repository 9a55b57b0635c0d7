"""From token states to one vector a window; tokens that do not count have no part in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from toolkit.model.masked import MaskedModel
from toolkit.model.pooling import maximum, mean
from toolkit.model.states import States
from toolkit.model.tokens import TokenSet


def mean_and_deviation(states: Tensor, counts: Tensor) -> Tensor:
    """Mean and standard deviation over tokens, (B, 2 D): the deviation shows one odd beat among many."""
    center = mean(states, counts)
    spread = mean((states - center[:, None]) ** 2, counts)
    return torch.cat([center, spread.clamp(min=0).sqrt()], dim=-1)


def mean_and_maximum(states: Tensor, counts: Tensor) -> Tensor:
    """Mean and largest value over tokens, (B, 2 D): what holds throughout, and what happens once."""
    return torch.cat([mean(states, counts), maximum(states, counts)], dim=-1)


POOLINGS = ("mean", "max", "meanstd", "meanmax", "class", "classmax", "attention")


def pooled(pool: str, states: States, counts: Tensor) -> Tensor:
    """One vector a sample of ``states.last`` (B, N, D) where ``counts`` bool (B, N); ``class``: the class token's state.

    ``classmax``: the class token beside the maximum of the others, what Point-MAE's heads read.
    """
    if pool == "classmax":
        return torch.cat([states.class_state(), maximum(states.last, counts)], dim=-1)
    return states.class_state() if pool == "class" else POOLS[pool](states.last, counts)


def vectors(model: MaskedModel, pool: str, layer: int, tokens: TokenSet, states: States, counts: Tensor) -> Tensor:
    """One vector a sample of the ``states`` that the model has of ``tokens`` at ``layer``, by the tokens that count (B, N).

    Pooling by attention has weights, the model's; a model may norm what is pooled of its last block instead of the states.
    """
    if pool == "attention":
        return model.summary(replace(tokens, valid=counts), states)
    if model.pool_norm is not None and layer == -1:
        raw = pooled(pool, replace(states, last=states.layers[-1]), counts)
        return model.pool_norm(raw.unflatten(1, (-1, model.recipe.encoder.width))).flatten(1)
    return pooled(pool, states, counts)


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "max": maximum,
    "meanstd": mean_and_deviation,
    "meanmax": mean_and_maximum,
}


def pooled_width(pool: str, width: int) -> int:
    """Width of a pooled vector for states of ``width``."""
    return 2 * width if pool in ("meanstd", "meanmax", "classmax") else width
