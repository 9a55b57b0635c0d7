import math

import numpy as np
import pytest
import torch

from toolkit.objective.distances import Distance
from toolkit.objective.losses import LOSSES, cosine, cross_entropy, focal, nce, pairs, sce, swapped
from toolkit.objective.sinkhorn import sinkhorn
from toolkit.objective.targets import Compared
from toolkit.recipe import TermTable

FORMULAS = {
    "l1": np.abs,
    "l2": np.square,
    "smooth_l1": lambda d: np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5),
}


def some(counting=0.5):
    rng = np.random.default_rng(0)
    predicted, target = 2 * rng.normal(size=(2, 3, 7, 10))
    return predicted, target, rng.random((3, 7)) < counting


def test_every_loss_has_a_formula_here():
    assert set(LOSSES) == {*FORMULAS, "chamfer", "cosine"}


def test_chamfer_is_the_mean_squared_distance_to_the_nearest_both_ways():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5, 8, 3))
    distance = ((one[:, :, None] - other[:, None]) ** 2).sum(-1)
    want = distance.min(2).mean(1) + distance.min(1).mean(1)
    got = LOSSES["chamfer"](torch.tensor(one).flatten(1), torch.tensor(other).flatten(1))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)


def patch_loss(kind, predicted, target, counts):
    return Distance(TermTable(name="t"), kind, predicted.shape[-1])(Compared(predicted, target, counts)).loss


@pytest.mark.parametrize("kind", sorted(FORMULAS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_is_the_mean_over_the_tokens_that_count(kind, dtype):
    predicted, target, counts = some()
    predicted, target = (torch.tensor(v).to(dtype) for v in (predicted, target))
    distance = FORMULAS[kind](predicted.double().numpy() - target.double().numpy()).mean(-1)
    got = patch_loss(kind, predicted, target, torch.from_numpy(counts))
    assert got.dtype == torch.float32 and math.isclose(float(got), distance[counts].mean(), rel_tol=1e-5)


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_tokens_that_do_not_count_have_no_effect_on_loss_or_gradient(kind):
    results = []
    for junk in (0.0, 1e6):
        predicted, target, counts = some()
        target[~counts] = junk
        predicted = torch.tensor(predicted, requires_grad=True)
        loss = patch_loss(kind, predicted, torch.tensor(target), torch.from_numpy(counts))
        loss.backward()
        results.append((loss.detach(), predicted.grad))
        assert (predicted.grad[~torch.from_numpy(counts)] == 0).all()
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_not_even_infinities_in_tokens_that_do_not_count(junk):
    predicted, target, counts = some()
    target[~counts] = junk
    loss = patch_loss("l2", torch.tensor(predicted), torch.tensor(target), torch.from_numpy(counts))
    assert math.isclose(float(loss), np.square(predicted - target).mean(-1)[counts].mean(), rel_tol=1e-5)


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_nothing_that_counts_costs_nothing(kind):
    predicted, target, _ = (torch.tensor(v, requires_grad=v.dtype == float) for v in some())
    loss = patch_loss(kind, predicted, target, torch.zeros(3, 7, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x):
    x = x.double().numpy()
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [1.0, 2.0, 2.5])
def test_cosine_and_its_scaled_error_follow_the_formula(gamma, dtype):
    one, other = (normal(3, 7, 10, seed=s).to(dtype) for s in (0, 1))
    want = 1 - (unit(one) * unit(other)).sum(-1)
    np.testing.assert_allclose(cosine(one, other), want, rtol=1e-4)
    np.testing.assert_allclose(sce(one, other, gamma), want**gamma, rtol=1e-3)
    np.testing.assert_allclose(cosine(5 * one, 0.1 * other), want, rtol=1e-1 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("gamma", [1.0, 1.5, 3.0])
def test_directions_that_agree_cost_nothing_and_their_gradients_are_finite(gamma):
    one = normal(5, 8).requires_grad_()
    loss = sce(one, one.detach(), gamma)
    loss.sum().backward()
    assert float(loss.detach().max()) < 1e-5 and torch.isfinite(one.grad).all()


def test_a_scaled_error_without_a_bounded_gradient_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        sce(normal(2, 3), normal(2, 3), 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_cross_entropy_and_focal_are_means_over_levels(gamma, dtype):
    logits, codes = 3 * normal(2, 5, 4, 6), torch.randint(6, (2, 5, 4), generator=torch.Generator().manual_seed(0))
    logits = logits.to(dtype)
    likelihood = np.take_along_axis(log_softmax(logits.double().numpy()), codes.numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(cross_entropy(logits, codes), -likelihood.mean(-1), rtol=1e-5)
    want = -((1 - np.exp(likelihood)) ** gamma * likelihood).mean(-1)
    np.testing.assert_allclose(focal(logits, codes, gamma), want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cross_entropy(torch.zeros(2, 5, 4, 6), codes), math.log(6), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_gradient_where_the_code_is_certain(gamma):
    logits = torch.tensor([[[1e3, 0.0, 0.0]], [[-1e3, 0.0, 0.0]]], requires_grad=True)
    focal(logits, torch.zeros(2, 1, dtype=torch.int64), gamma).sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[1].abs().max() > 0.5


def counted(size=3, tokens=7):
    counts = torch.rand(size, tokens, generator=torch.Generator().manual_seed(5)) < 0.6
    counts[-1] = False
    return counts


@pytest.mark.parametrize("autocast", [False, True])
def test_matching_is_cross_entropy_over_the_sample_s_counted_candidates(autocast):
    predicted, candidates, counts = normal(3, 7, 10), normal(3, 7, 10, seed=1), counted()
    cosines = np.einsum("bqd,bcd->bqc", unit(predicted), unit(candidates)) / 0.1
    want = np.zeros((3, 7))
    for b, q in np.argwhere(counts.numpy()):
        among = cosines[b, q][counts[b].numpy()]
        want[b, q] = np.log(np.exp(among).sum()) - cosines[b, q, q]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = nce(predicted, candidates, counts, 0.1)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_matching_costs_chance_when_nothing_is_known_and_nothing_when_all_is():
    candidates, counts = normal(3, 7, 64), counted()
    chance = counts.sum(1, keepdim=True).clamp(min=1).log().expand(3, 7) * counts
    torch.testing.assert_close(nce(torch.zeros(3, 7, 64), candidates, counts, 0.1), chance)
    torch.testing.assert_close(nce(torch.ones(3, 7, 64), torch.ones(3, 7, 64), counts, 0.1), chance)
    assert float(nce(candidates, candidates, counts, 0.02).max()) < 1e-3


def prototypes_of(predicted, target, counts, prototypes, temperature, epsilon, iterations):
    """Swapped prediction in float64, token by token."""
    scores = [unit(f)[counts.numpy()] @ unit(prototypes).T for f in (predicted, target)]
    codes = []
    for score in scores:
        plan = np.exp(score / epsilon)
        for _ in range(iterations):
            plan /= plan.sum(0, keepdims=True)
            plan /= plan.sum(1, keepdims=True)
        codes.append(plan.argmax(1))
    each = np.zeros(counts.shape)
    rows = np.arange(int(counts.sum()))
    each[counts.numpy()] = -sum(log_softmax(s / temperature)[rows, c] for s, c in zip(scores, codes[::-1], strict=True)) / 2
    return each


@pytest.mark.parametrize("autocast", [False, True])
def test_swapped_codes_follow_the_formula(autocast):
    predicted, target, prototypes, counts = normal(3, 7, 10), normal(3, 7, 10, seed=1), normal(5, 10, seed=2), counted()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = swapped(predicted, target, prototypes, counts, 0.1, 0.05, 10)
    want = prototypes_of(predicted, target, counts, prototypes, 0.1, 0.05, 10)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_prototypes_learn_from_the_target_s_side_only():
    predicted, target, prototypes = (normal(*s, seed=i).requires_grad_() for i, s in enumerate([(3, 7, 10), (3, 7, 10), (5, 10)]))
    got = torch.autograd.grad(swapped(predicted, target, prototypes, counted()).sum(), [predicted, target, prototypes])
    scores = [torch.nn.functional.normalize(f[counted()], dim=-1) for f in (predicted, target)]
    scores = [s @ torch.nn.functional.normalize(prototypes, dim=-1).T for s in scores]
    one, other = (
        torch.nn.functional.cross_entropy(s / 0.1, sinkhorn(codes).argmax(-1), reduction="sum") / 2
        for s, codes in (scores, scores[::-1])
    )
    want = [
        torch.autograd.grad(loss, of, retain_graph=True)[0]
        for loss, of in ((one, predicted), (other, target), (other, prototypes))
    ]
    torch.testing.assert_close(list(got), want)
    assert torch.autograd.grad(swapped(predicted, target.detach(), prototypes, counted()).sum(), prototypes)[0].abs().sum() > 0


def test_features_that_agree_on_prototypes_cost_less_than_chance():
    target, prototypes = normal(2, 50, 16), normal(8, 16, seed=1)
    counts = torch.ones(2, 50, dtype=torch.bool)
    same, other = (float(swapped(p, target, prototypes, counts).mean()) for p in (target, normal(2, 50, 16, seed=2)))
    nothing = swapped(torch.zeros(2, 50, 16), torch.zeros(2, 50, 16), prototypes, counts)
    torch.testing.assert_close(nothing, torch.full((2, 50), math.log(8)))
    assert same < 0.7 * math.log(8) < other


@pytest.mark.parametrize("partners", ["same", "all"])
def test_agreement_of_pairs_follows_the_formula(partners):
    one, other, counts = normal(3, 7, 10), normal(3, 7, 10, seed=1), counted()
    cosines, want = np.einsum("bid,bjd->bij", unit(one), unit(other)), np.zeros((3, 7))
    for b, i in np.argwhere(counts.numpy()):
        want[b, i] = 1 - (cosines[b, i, i] if partners == "same" else cosines[b, i][counts[b].numpy()].mean())
    np.testing.assert_allclose(pairs(one, other, counts, partners), want, rtol=1e-4, atol=1e-6)


def test_only_all_pairs_reward_one_direction_for_all():
    one, counts = normal(2, 30, 16), torch.ones(2, 30, dtype=torch.bool)
    assert float(pairs(one, one, counts, "same").max()) < 1e-5 and float(pairs(one, one, counts, "all").mean()) > 0.5
    assert float(pairs(torch.ones(2, 30, 16), torch.ones(2, 30, 16), counts, "all").max()) < 1e-5


AMONG = {
    "nce": lambda a, b, counts: nce(a, b, counts, 0.1),
    "swapped": lambda a, b, counts: swapped(a, b, normal(4, 10, seed=2), counts),
    "same": lambda a, b, counts: pairs(a, b, counts, "same"),
    "all": lambda a, b, counts: pairs(a, b, counts, "all"),
}


@pytest.mark.parametrize("kind", sorted(AMONG))
def test_tokens_that_do_not_count_are_compared_with_none(kind):
    results = []
    for junk in (0.0, 1e6, math.nan, math.inf):
        one, other, counts = normal(3, 7, 10), normal(3, 7, 10, seed=1), counted()
        one[~counts] = other[~counts] = junk
        one, other = one.requires_grad_(), other.requires_grad_()
        each = AMONG[kind](one, other, counts)
        each.sum().backward()
        assert (each[~counts] == 0).all() and (each[counts] != 0).all()
        assert (one.grad[~counts] == 0).all() and one.grad[counts].abs().sum() > 0
        results.append((each.detach(), one.grad, other.grad))
    assert all(torch.equal(a, b) for r in results[1:] for a, b in zip(results[0], r, strict=True))


@pytest.mark.parametrize("kind", sorted(AMONG))
def test_the_order_of_tokens_is_the_order_of_losses(kind):
    one, other, counts, order = normal(3, 7, 10), normal(3, 7, 10, seed=1), counted(), torch.randperm(7)
    moved = AMONG[kind](one[:, order], other[:, order], counts[:, order])
    torch.testing.assert_close(moved, AMONG[kind](one, other, counts)[:, order])


@pytest.mark.parametrize("kind", [*sorted(AMONG), "cosine", "sce"])
@pytest.mark.parametrize("counting", [True, False])
def test_gradients_are_finite_and_bounded_at_zero_vectors_and_where_nothing_counts(kind, counting):
    forms = AMONG | {"cosine": lambda a, b, _: cosine(a, b), "sce": lambda a, b, _: sce(a, b, 2.0)}
    zero, other = torch.zeros(2, 4, 10, requires_grad=True), normal(2, 4, 10)
    each = forms[kind](zero, other, torch.full((2, 4), counting))
    each.sum().backward()
    assert torch.isfinite(each).all() and torch.isfinite(zero.grad).all() and zero.grad.abs().max() < 1e6
