import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from toolkit.objective.entropy import entropy_loss, gaussian_level, marginal_entropy


def normal(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [6, 7, 64, 1000])
def test_the_entropy_is_vasicek_s(rows):
    x = normal(rows, 5) * torch.tensor([0.1, 1, 2, 5, 10])
    want = stats.differential_entropy(x.double().numpy(), window_length=round(math.sqrt(rows)), method="vasicek", axis=0)
    np.testing.assert_allclose(marginal_entropy(x), want, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_entropy_of_many_draws_is_the_distribution_s(scale):
    uniform = scale * torch.rand(20000, 1, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(marginal_entropy(uniform), math.log(scale), atol=0.02)
    np.testing.assert_allclose(
        marginal_entropy(scale * normal(20000, 1)), 0.5 * math.log(2 * math.pi * math.e * scale**2), atol=0.04
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_parts_follow_the_formula(dtype):
    z = normal(100, 7).to(dtype)
    z[:, 1] = z[:, 0] + 0.1 * z[:, 1]
    squashed = special.expit(z.double().numpy())
    covariance = np.cov(squashed.T)
    penalty = (covariance**2)[~np.eye(7, dtype=bool)].sum() / 7
    entropy = stats.differential_entropy(squashed, window_length=10, method="vasicek", axis=0).mean()
    got = entropy_loss(z)
    assert got.loss.dtype == torch.float32
    np.testing.assert_allclose([got.covariance, got.entropy, got.loss], [penalty, entropy, penalty - 10 * entropy], rtol=1e-3)


def test_even_and_independent_codes_cost_least_and_nothing_costs_less_than_nothing():
    uniform = torch.rand(4096, 4, generator=torch.Generator().manual_seed(0))
    levels = [float(entropy_loss(z).loss) for z in (uniform.logit(), uniform.logit()[:, :1].repeat(1, 4), uniform.logit() / 9)]
    assert 0 <= levels[0] < 0.5 and levels[0] < levels[1] < levels[2]
    for rows in (2, 3, 50):
        even = torch.linspace(1e-6, 1 - 1e-6, rows, dtype=torch.float64).logit().float()[:, None]
        assert float(entropy_loss(even).loss) > -1e-3


def test_the_level_of_normal_codes_is_that_of_the_logit_normal_distribution():
    """The entropy of sigmoid(z): that of z plus the mean log slope, for z standard normal (by quadrature)."""
    z = np.linspace(-10, 10, 20001)
    slope = np.log(special.expit(z) * special.expit(-z))
    want = 0.5 * math.log(2 * math.pi * math.e) + np.trapezoid(stats.norm.pdf(z) * slope, z)
    got = gaussian_level(8192, 16, torch.Generator().manual_seed(0))
    assert float(got.entropy) == pytest.approx(want, abs=0.02) and float(got.covariance) < 1e-3
    assert torch.equal(got.loss, gaussian_level(8192, 16, torch.Generator().manual_seed(0)).loss)


@pytest.mark.parametrize("z", [torch.zeros(8, 3), torch.full((8, 3), 100.0), normal(2, 3)])
def test_gradients_are_finite_where_codes_have_collapsed(z):
    z = z.clone().requires_grad_()
    entropy_loss(z).loss.backward()
    assert torch.isfinite(z.grad).all()


def test_descending_the_loss_spreads_and_decorrelates():
    z = (0.3 * normal(64, 1)).repeat(1, 4) + 0.05 * normal(64, 4, 1)
    z = z.requires_grad_()
    optimizer, first = torch.optim.Adam([z], 0.05), entropy_loss(z.detach())
    for _ in range(100):
        loss = entropy_loss(z).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = entropy_loss(z.detach())
    assert float(last.loss) < 0.3 * float(first.loss) and float(last.entropy) > float(first.entropy)


def test_one_sample_has_no_entropy():
    with pytest.raises(ValueError, match="2 samples"):
        entropy_loss(torch.zeros(1, 3))
