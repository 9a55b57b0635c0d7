import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from toolkit.model import masked
from toolkit.training import optimizer


def test_the_rate_rises_to_its_peak_and_falls_to_its_final_share(tiny):
    recipe = tiny(training__steps=100, optimizer__learning_rate=0.2, optimizer__warmup_share=0.1, optimizer__final_share=0.05)
    rates = [optimizer.learning_rate(recipe, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.02 * (k + 1) for k in range(10)])
    assert max(rates) == rates[10] == pytest.approx(0.2)
    assert rates[55] == pytest.approx(0.2 * (0.05 + 0.95 / 2))  # half of the way down
    assert rates[100] == pytest.approx(0.2 * 0.05)
    assert all(a >= b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 10), (1.0, 10), (0.1, 1), (0.5, 2)])
def test_the_rate_is_positive_and_at_most_its_peak_however_short_the_run(tiny, warmup, steps):
    recipe = tiny(training__steps=steps, optimizer__warmup_share=warmup, optimizer__learning_rate=1.0)
    assert all(0 < optimizer.learning_rate(recipe, step) <= 1 for step in range(steps))


def test_matrices_decay_and_nothing_else(tiny):
    recipe = tiny(optimizer__weight_decay=0.3, optimizer__betas=(0.8, 0.9))
    model = masked.build(recipe)
    built = optimizer.build(model, recipe)
    decayed, plain = ({id(p) for p in group["params"]} for group in built.param_groups)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    assert decayed == matrices and plain == {id(p) for p in model.parameters()} - matrices
    assert [group["weight_decay"] for group in built.param_groups] == [0.3, 0.0]
    assert all(group["betas"] == (0.8, 0.9) for group in built.param_groups)


def test_a_step_is_adamw_s_formula_in_double_precision(tiny):
    """One parameter of each group, two steps with known gradients, against the paper's update."""
    recipe = tiny(optimizer__weight_decay=0.3)
    model = nn.Sequential(nn.Linear(2, 1))
    built = optimizer.build(model, recipe)
    (b1, b2), rate, eps = recipe.optimizer.betas, recipe.optimizer.learning_rate, 1e-8
    for parameter, decay in ((model[0].weight, 0.3), (model[0].bias, 0.0)):
        value, m, v = float(parameter.detach().flatten()[0]), 0.0, 0.0
        for step, grad in enumerate((0.5, -0.1), 1):
            m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
            value = value * (1 - rate * decay) - rate * (m / (1 - b1**step)) / (math.sqrt(v / (1 - b2**step)) + eps)
        parameter.expected = value
    for grad in (0.5, -0.1):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, grad)
        built.step()
    for parameter in model.parameters():
        assert float(parameter.detach().flatten()[0]) == pytest.approx(parameter.expected, rel=1e-5)
