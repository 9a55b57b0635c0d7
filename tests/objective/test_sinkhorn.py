import math

import numpy as np
import pytest
import torch

from toolkit.objective.sinkhorn import sinkhorn


def some(n, k, seed=0):
    return 2 * torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) - 1  # cosines


@pytest.mark.parametrize(("n", "k", "iterations"), [(60, 12, 10), (12, 60, 10), (7, 7, 3), (1, 5, 10), (40, 2, 1)])
def test_it_is_alternating_normalisation(n, k, iterations):
    scores = some(n, k)
    plan = np.exp(scores.double().numpy() / 0.05)
    for _ in range(iterations):
        plan *= (n / k) / plan.sum(0, keepdims=True)
        plan /= plan.sum(1, keepdims=True)
    np.testing.assert_allclose(sinkhorn(scores, 0.05, iterations), plan, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("n", "k"), [(60, 12), (12, 60), (7, 7), (1, 5)])
def test_rows_sum_to_one_and_columns_to_an_equal_part(n, k):
    few, many = sinkhorn(some(n, k)), sinkhorn(some(n, k), iterations=1000)
    for shares in (few, many):
        assert (shares >= 0).all()
        np.testing.assert_allclose(shares.sum(1), np.ones(n), rtol=1e-5)
    np.testing.assert_allclose(many.sum(0), np.full(k, n / k), rtol=1e-2)
    start = torch.softmax(some(n, k) / 0.03, 1).sum(0)
    assert n == 1 or float((few.sum(0) - n / k).abs().max()) < 0.5 * float((start - n / k).abs().max())


def test_no_prototype_takes_all_although_all_prefer_it():
    scores = some(40, 4)
    scores[:, 0] += 3.0
    assert scores.argmax(1).eq(0).all()
    counts = sinkhorn(scores, iterations=200).argmax(1).bincount(minlength=4)
    assert counts.min() >= 5 and counts.max() <= 15


def test_neither_a_constant_nor_its_size_matter_and_small_epsilon_does_not_underflow():
    scores = some(20, 5).double()
    np.testing.assert_allclose(sinkhorn(scores), sinkhorn(scores + 5.0), atol=1e-4)
    assert torch.isfinite(sinkhorn(scores, 1e-4)).all()
    assert torch.isfinite(sinkhorn(torch.zeros(3, 4))).all() and sinkhorn(torch.zeros(0, 4)).shape == (0, 4)


def test_it_has_no_gradient_and_is_float32_whatever_comes_in():
    got = sinkhorn(some(6, 3).bfloat16().requires_grad_())
    assert not got.requires_grad and got.dtype == torch.float32
    assert math.isclose(float(got.sum()), 6, rel_tol=1e-5)
