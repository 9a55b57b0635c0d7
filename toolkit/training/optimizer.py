"""AdamW and StableAdamW with weight decay on matrices only, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.recipe import Recipe

LEAST_CYCLE = 50  # steps; a shorter one would be all corners


class StableAdamW(torch.optim.Optimizer):
    """AdamW whose update of a tensor is shortened where its root mean square exceeds the rate (2304.13013, algorithm 2).

    The moving averages start without bias, as AdaFactor's do; the weight decay is shortened with the update, as in the
    paper and in optimi, whose defaults differ (here the recipe's count).
    """

    def __init__(self, groups: Iterable[Any], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count, mean, square = int(state["step"]), state["mean"], state["square"]
        first, second = (beta * (1 - beta ** (count - 1)) / (1 - beta**count) for beta in group["betas"])
        mean.lerp_(grad, 1 - first)
        square.mul_(second).addcmul_(grad, grad, value=1 - second)
        size = (grad.square() / square.clamp(min=group["eps"] ** 2)).mean().sqrt()
        rate = group["lr"] / size.clamp(min=1.0)  # stays on the device
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.sub_(rate * mean / (square.sqrt() + group["eps"]))


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of a step: linear over the warm-up, then as the schedule says, once a cycle."""
    table, steps = recipe.optimizer, recipe.training.steps
    cycles = max(1, min(table.cycles, steps // LEAST_CYCLE))
    length = steps / cycles
    step -= -(-(step * cycles // steps * steps) // cycles) if cycles > 1 else 0  # less the first step of its cycle
    warmup = max(1, round(table.warmup_share * length))
    if step < warmup:
        return table.learning_rate * (table.start_share + (1 - table.start_share) * (step + 1) / warmup)
    if table.schedule == "trapezoid":
        left = (length - step) / max(1.0, table.decay_share * length)  # 1 or more before the decay, 0 at the end
        share = min(1.0, left)
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, length - warmup)))
    return table.learning_rate * (table.final_share + (1 - table.final_share) * share)


def build(model: nn.Module, recipe: Recipe, rates: Mapping[nn.Parameter, float] | None = None) -> torch.optim.Optimizer:
    """The recipe's optimizer: matrices decay; biases, norms, embeddings and tokens do not.

    ``rates``: parameters that learn so many times as fast; each group says its ``factor``.
    """
    table, factors = recipe.optimizer, rates or {}
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in tables]
    plain = [p for p in parameters if p.ndim <= 1 or id(p) in tables]
    groups = [
        {"params": [p for p in part if factors.get(p, 1.0) == factor], "weight_decay": decay, "factor": factor}
        for factor in sorted({1.0, *factors.values()})
        for part, decay in ((decayed, table.weight_decay), (plain, 0.0))
    ]
    kind = StableAdamW if table.kind == "stable-adamw" else torch.optim.AdamW
    return kind(groups, lr=table.learning_rate, betas=table.betas, eps=table.eps)
