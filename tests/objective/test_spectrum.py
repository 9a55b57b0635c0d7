import math

import numpy as np
import pytest
import torch

from toolkit.objective.spectrum import deviation, effective_rank, rank_of_moments


@pytest.mark.parametrize(("rows", "width"), [(200, 8), (30, 8), (5, 8), (1, 3), (8, 8)])
def test_the_effective_rank_is_that_of_the_singular_values(rows, width):
    rng = np.random.default_rng(rows)
    values = (rng.normal(size=(rows, width)) * np.geomspace(1, 1e-2, width) + 0.3).astype(np.float32)
    singular = np.linalg.svd(values.astype(float), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    want = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(torch.from_numpy(values)) == pytest.approx(want, rel=1e-5)
    assert rank_of_moments(torch.from_numpy(values.T.astype(float) @ values)) == pytest.approx(want, rel=1e-4)


def test_the_effective_rank_counts_directions():
    basis = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0)))[0]
    for rank in (1, 3, 20):
        assert effective_rank(basis[:rank].repeat(4, 1)) == pytest.approx(rank, rel=1e-3)
    assert effective_rank(torch.ones(50, 6)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(50, 6)) == pytest.approx(1, abs=1e-3)


def test_a_run_that_diverged_has_no_rank():
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan]])))
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.inf]])))
    assert math.isnan(effective_rank(torch.zeros(0, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_deviation_is_over_all_rows_and_averaged_over_features(dtype):
    x = (torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(6) + 5).to(dtype).requires_grad_()
    want = x.detach().double().numpy().reshape(-1, 6).std(0).mean()
    assert float(deviation(x)) == pytest.approx(want, rel=1e-5) and not deviation(x).requires_grad
    assert float(deviation(torch.full((3, 4, 6), 7.0))) == 0 == float(deviation(torch.randn(1, 6)))
