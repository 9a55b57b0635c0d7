import math
from itertools import pairwise

import numpy as np
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


def trapezoid(tiny, **changes):
    table = {"schedule": "trapezoid", "learning_rate": 1.0, "start_share": 0.01, "final_share": 0.001, "warmup_share": 0.1}
    return tiny(
        **{f"optimizer__{k}": v for k, v in (table | {"decay_share": 0.1} | changes).items() if "__" not in k},
        **{k: v for k, v in changes.items() if "__" in k},
    )


def test_a_trapezoid_is_10_80_and_10_percent_of_a_cycle(tiny):
    recipe = trapezoid(tiny, training__steps=200)
    rates = [optimizer.learning_rate(recipe, step) for step in range(200)]
    assert rates[:20] == pytest.approx([0.01 + 0.99 * (k + 1) / 20 for k in range(20)])
    assert rates[20:180] == [1.0] * 160
    assert rates[180:] == pytest.approx([0.001 + 0.999 * (20 - k) / 20 for k in range(20)])


@pytest.mark.parametrize(("steps", "cycles", "done"), [(300, 3, 3), (1000, 7, 7), (199, 200, 3), (40, 5, 1), (100_000, 200, 200)])
def test_cycles_are_alike_and_none_is_shorter_than_50_steps(tiny, steps, cycles, done):
    recipe = trapezoid(tiny, training__steps=steps, cycles=cycles)
    rates = [optimizer.learning_rate(recipe, step) for step in range(steps)]
    rises = [
        k
        for k in range(steps)
        if k == 0 or (rates[k] < 0.5 and rates[k] < rates[k - 1] and rates[k + 1 : k + 2] > rates[k : k + 1])
    ]
    assert len(rises) == done and max(rates) == 1.0 and min(rates) > 0
    lengths = [b - a for a, b in pairwise([*rises, steps])]
    assert max(lengths) - min(lengths) <= 2 and sum(lengths) == steps


def stable_adamw(weights, gradients, *, rate, betas, eps, decay):
    """Algorithm 2 of 2304.13013 in double precision, the debiased averages written as Adam's corrected ones."""
    theta = np.array(weights, np.float64)
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for step, grad in enumerate(np.asarray(gradients, np.float64), 1):
        m, v = betas[0] * m + (1 - betas[0]) * grad, betas[1] * v + (1 - betas[1]) * grad**2
        mean, square = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        shortened = rate / max(1.0, math.sqrt(np.mean(grad**2 / np.maximum(square, eps**2))))
        theta = theta - shortened * decay * theta - shortened * mean / (np.sqrt(square) + eps)
    return theta


def stable(parameter, gradients, **options):
    built = optimizer.StableAdamW([{"params": [parameter], "weight_decay": options.pop("decay")}], **options)
    for grad in gradients:
        parameter.grad = torch.as_tensor(grad)
        built.step()
    return parameter.detach().numpy()


def test_stable_adamw_is_its_paper_s_formula_in_double_precision():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 4))
    gradients = rng.normal(size=(12, 3, 4)) * np.array([1e-6, *[1.0] * 5, 50.0, *[1e-3] * 5])[:, None, None]
    want = stable_adamw(weights, gradients, rate=1e-2, betas=(0.92, 0.999), eps=1e-9, decay=0.1)
    parameter = nn.Parameter(torch.tensor(weights))
    got = stable(parameter, gradients, lr=1e-2, betas=(0.92, 0.999), eps=1e-9, decay=0.1)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


def test_a_burst_of_gradient_moves_stable_adamw_less_than_adamw():
    gradients = [np.full(4, 1e-3)] * 30 + [np.full(4, 1.0)]
    moved = {}
    for kind in (optimizer.StableAdamW, torch.optim.AdamW):
        parameter = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        built = kind([{"params": [parameter], "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.999), eps=1e-9)
        for grad in gradients:
            before, parameter.grad = parameter.detach().clone(), torch.tensor(grad)
            built.step()
        moved[kind] = float((parameter.detach() - before).abs().max())
    assert moved[optimizer.StableAdamW] < 0.4 * moved[torch.optim.AdamW]


def test_a_recipe_s_choice_of_optimizer_is_what_is_built_and_what_is_kept(tiny):
    recipe = tiny(optimizer__kind="stable-adamw", optimizer__betas=(0.92, 0.999), optimizer__eps=1e-9)
    model = nn.Sequential(nn.Linear(2, 1))
    built = optimizer.build(model, recipe)
    assert isinstance(built, optimizer.StableAdamW)
    assert all(g["betas"] == (0.92, 0.999) and g["eps"] == 1e-9 for g in built.param_groups)
    model(torch.ones(1, 2)).sum().backward()
    built.step()
    again = optimizer.build(nn.Sequential(nn.Linear(2, 1)), recipe)
    again.load_state_dict(built.state_dict())
    for one, other in zip(built.state.values(), again.state.values(), strict=True):
        assert all(torch.equal(one[k], other[k]) for k in ("step", "mean", "square"))
