import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference

from toolkit.objective.codes import KMeans, ResidualCodes, cluster, nearest


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def features(rows=1500, width=6, groups=20, seed=0):
    """Overlapping groups, in very different units a feature."""
    random = generator(seed)
    centres = 2 * torch.randn(groups, width, generator=random)
    rows = centres[torch.randint(groups, (rows,), generator=random)] + torch.randn(rows, width, generator=random)
    return rows * torch.logspace(-2, 2, width) + torch.linspace(-50, 50, width)


def standard(rows):
    return (rows - rows.mean(0)) / rows.std(0, correction=0)


def fitted(kind, rows, *sizes):
    codes = kind(rows.shape[1], *sizes)
    codes.fit(rows, generator())
    return codes


@pytest.mark.parametrize("groups", [1, 20, 200])
def test_the_inertia_is_that_of_another_implementation(groups):
    """One start of each can end in another local minimum; the mean of several is alike."""
    rows = standard(features(groups=groups))
    ours, theirs = [], []
    for seed in range(8):
        centres = cluster(rows, 20, generator(seed))
        ours.append(float((rows - centres[nearest(rows, centres)]).square().sum()))
        theirs.append(Reference(20, n_init=1, random_state=seed).fit(rows.numpy()).inertia_)
    assert np.mean(ours) < 1.03 * np.mean(theirs)


def test_a_code_is_the_nearest_centre_and_a_centre_the_mean_of_its_rows():
    rows = features()
    model = fitted(KMeans, rows, 8)
    code, scaled, centres = model(rows), standard(rows), model.codebook[0]
    distance = ((scaled.double()[:, None] - centres.double()) ** 2).sum(-1)
    assert torch.equal(code, distance.argmin(1)) and code.dtype == torch.int64
    for c in range(8):
        torch.testing.assert_close(scaled[code == c].mean(0), centres[c], atol=1e-4, rtol=0)


def test_the_unit_of_a_feature_does_not_change_the_codes():
    rows = features()
    other = rows * torch.tensor([1e-3, 1.0, 10.0, 1e3, 5.0, 0.1]) + 3.0
    same = fitted(KMeans, rows, 12)(rows) == fitted(KMeans, other, 12)(other)
    assert same.float().mean() > 0.99


@pytest.mark.parametrize(("kind", "sizes"), [(KMeans, (9,)), (ResidualCodes, (9, 3))])
def test_fitting_is_a_function_of_the_generator_and_survives_a_checkpoint(kind, sizes):
    rows = features()
    one, other = fitted(kind, rows, *sizes), fitted(kind, rows, *sizes)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    again = kind(rows.shape[1], *sizes)
    with pytest.raises(RuntimeError, match="fit"):
        again(rows)
    again.load_state_dict(one.state_dict())
    unseen = features(seed=1)
    assert torch.equal(again(unseen), one(unseen)) and not list(again.parameters())


def test_any_leading_shape_and_precision():
    rows = features()
    kmeans, residual = fitted(KMeans, rows, 9), fitted(ResidualCodes, rows, 9, 3)
    folded = rows.view(3, 500, 6)
    assert torch.equal(kmeans(folded), kmeans(rows).view(3, 500))
    assert torch.equal(residual(folded), residual(rows).view(3, 500, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kmeans(rows), fitted(KMeans, rows, 9)(rows))
        assert torch.equal(residual(rows), fitted(ResidualCodes, rows, 9, 3)(rows))


def test_every_level_leaves_less_of_unit_features():
    rows = features(width=16, groups=300)
    model = fitted(ResidualCodes, rows, 16, 5)
    left = torch.nn.functional.normalize(standard(rows), dim=-1)
    codes, errors = model(rows), [1.0]
    for level, book in enumerate(model.codebook):
        assert torch.equal(codes[:, level], nearest(left, book))
        left = left - book[codes[:, level]]
        errors.append(float(left.square().sum(-1).mean()))
    assert all(after < 0.9 * before for before, after in pairwise(errors)), errors


def test_the_length_of_a_standardised_feature_does_not_change_residual_codes():
    rows = features()
    model, mean = fitted(ResidualCodes, rows, 16, 2), rows.mean(0)
    assert (model(rows) == model(mean + 3 * (rows - mean))).float().mean() > 0.99


@pytest.mark.parametrize("distinct", [1, 3, 7])
@pytest.mark.parametrize("kind", [KMeans, ResidualCodes])
def test_fewer_distinct_rows_than_codes_leave_codes_out(kind, distinct):
    rows = features(rows=distinct)[torch.arange(60) % distinct]
    model = fitted(kind, rows, *((16,) if kind is KMeans else (16, 2)))
    codes = model(rows).view(60, -1)
    first = codes[:distinct, 0]
    assert len(first.unique()) == distinct and torch.equal(codes[:, 0], first[torch.arange(60) % distinct])
    unseen = model(features(seed=3)).view(1500, -1)
    assert unseen[:, 0].max() < distinct and torch.isfinite(model.codebook).all()


def test_a_constant_feature_counts_for_nothing():
    rows = features()
    constant = torch.cat([rows, torch.full((len(rows), 1), 1234.5)], 1)
    assert torch.equal(fitted(KMeans, constant, 9)(constant), fitted(KMeans, rows, 9)(rows))


@pytest.mark.parametrize("rows", [torch.zeros(0, 3), torch.full((5, 3), math.nan), torch.tensor([[1.0, 2.0, math.inf]])])
def test_what_cannot_be_fitted_is_refused(rows):
    with pytest.raises(ValueError, match="finite"):
        KMeans(3, 2).fit(rows, generator())
