"""AdamW with weight decay on matrices only, and a warm-up and cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from toolkit.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of a step: linear from near 0 over the warm-up, then cosine to ``final_share`` of the peak."""
    table, steps = recipe.optimizer, recipe.training.steps
    warmup = max(1, round(table.warmup_share * steps))
    if step < warmup:
        return table.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return table.learning_rate * (table.final_share + (1 - table.final_share) * 0.5 * (1 + math.cos(math.pi * done)))


def build(model: nn.Module, recipe: Recipe, rates: Mapping[nn.Parameter, float] | None = None) -> torch.optim.AdamW:
    """AdamW: matrices decay; biases, norms, embeddings and tokens do not.

    ``rates``: parameters that learn so many times as fast; each group says its ``factor``.
    """
    factors = rates or {}
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in tables]
    plain = [p for p in parameters if p.ndim <= 1 or id(p) in tables]
    groups = [
        {"params": [p for p in part if factors.get(p, 1.0) == factor], "weight_decay": decay, "factor": factor}
        for factor in sorted({1.0, *factors.values()})
        for part, decay in ((decayed, recipe.optimizer.weight_decay), (plain, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=recipe.optimizer.learning_rate, betas=recipe.optimizer.betas)
