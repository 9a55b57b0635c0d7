"""AdamW with weight decay on matrices only, and a warm-up and cosine schedule."""

from __future__ import annotations

import math

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


def build(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay; biases, norms, embeddings and tokens do not."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in tables]
    plain = [p for p in parameters if p.ndim <= 1 or id(p) in tables]
    groups = [{"params": decayed, "weight_decay": recipe.optimizer.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.optimizer.learning_rate, betas=recipe.optimizer.betas)
