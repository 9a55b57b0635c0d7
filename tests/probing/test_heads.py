import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from toolkit.probing import heads
from toolkit.probing.folds import inner_folds
from toolkit.probing.heads import C_GRID, HEADS, LAMBDA_GRID, Effort, linear, nearest, svm
from toolkit.probing.task import Task

THREE = Task("multiclass", "label", ("a", "b", "c"))
NUMBER = Task("regression", "hr", ())


def _three_classes(n: int = 150, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    y = np.concatenate([np.arange(3), rng.choice(3, n - 3, p=[0.6, 0.3, 0.1])])
    return rng.normal(size=(n, d)) * 3 + 2 * np.eye(3, d)[y] + 5, y


def test_linear_minimises_the_balanced_logistic_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "C_GRID", np.array([0.3]))
    x, y = _three_classes()
    z = (x - x.mean(0)) / x.std(0)
    row_weight = (len(y) / (3 * np.bincount(y)))[y]

    def loss(flat: np.ndarray) -> float:
        w, b = flat[:12].reshape(4, 3), flat[12:]
        logits = z @ w + b
        nll = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        return 0.3 * float(row_weight @ nll) + 0.5 * float((w**2).sum())

    best = minimize(loss, np.zeros(15), method="BFGS").x
    logits = z @ best[:12].reshape(4, 3) + best[12:]
    expected = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(linear(x, y, x, THREE, [], Effort()), expected, atol=0.01)


def test_svm_minimises_the_balanced_squared_hinge(monkeypatch: pytest.MonkeyPatch) -> None:
    """One against rest, where liblinear weighs the rows of the one only, and penalises the offset as one more weight."""
    monkeypatch.setattr(heads, "SVM_GRID", np.array([0.3]))
    x, y = _three_classes()
    z = np.column_stack([(x - x.mean(0)) / x.std(0), np.ones(len(y))])
    row_weight = (len(y) / (3 * np.bincount(y)))[y]

    def loss(w: np.ndarray, sign: np.ndarray) -> float:
        weight = np.where(sign > 0, row_weight, 1)
        return 0.5 * float(w @ w) + 0.3 * float(weight @ np.maximum(0, 1 - sign * (z @ w)) ** 2)

    margins = [z @ minimize(loss, np.zeros(5), args=(np.where(y == k, 1, -1),), method="BFGS").x for k in range(3)]
    expected = np.exp(np.stack(margins, axis=1) - logsumexp(margins, axis=0)[:, None])
    effort = Effort()
    np.testing.assert_allclose(svm(x, y, x, THREE, [], effort), expected, atol=0.01)
    assert effort.parameters == 3 * 5
    pair = Task("binary", "label", ("a", "b"))
    p = svm(x, (y == 2).astype(int), x, pair, [], effort)
    assert effort.parameters == 5
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert p[y == 2, 1].mean() > 0.5 > p[y != 2, 1].mean()


def test_ridge_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "LAMBDA_GRID", np.array([10.0]))
    x, _ = _three_classes()
    y = x @ [1.0, -2, 0.5, 0] + 60
    z = (x - x.mean(0)) / x.std(0)
    w = np.linalg.solve(z.T @ z + 10 * np.eye(4), z.T @ (y - y.mean()))
    np.testing.assert_allclose(linear(x, y, x, NUMBER, [], Effort()), z @ w + y.mean(), rtol=1e-9)


def test_the_strength_comes_from_the_inner_splits() -> None:
    """Noise alone: the weakest answer wins. A clean line: the strongest penalty must lose."""
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(120, 30)), np.repeat(np.arange(6), 20)
    for y, penalised in ((rng.normal(size=120), True), (x[:, 0] * 10, False)):
        inner = inner_folds(groups, y, NUMBER, seed=0)
        spread = linear(x, y, x, NUMBER, inner, Effort()).std() / y.std()
        assert (spread < 0.3) == penalised
    assert C_GRID[0] == C_GRID.min() and LAMBDA_GRID[0] == LAMBDA_GRID.max()


def test_equal_scores_choose_the_strongest_penalty() -> None:
    """Separable classes: every C scores 1 in the inner splits, so C = 1e-4 gives probabilities near 1/2."""
    y = np.arange(60) % 2
    x = (y * 2.0 - 1)[:, None]
    inner = inner_folds(np.arange(60) // 10, y, Task("binary", "label", ("a", "b")), seed=0)
    p = linear(x, y, x, Task("binary", "label", ("a", "b")), inner, Effort())
    assert np.array_equal(p.argmax(1), y) and np.abs(p - 0.5).max() < 0.05


def test_wide_features_keep_what_the_narrow_ones_said() -> None:
    rng = np.random.default_rng(2)
    x, y = _three_classes(200, 6)
    rotation = np.linalg.qr(rng.normal(size=(600, 6)))[0]
    wide = x @ rotation.T
    guess = linear(wide, y, wide, THREE, [], Effort()).argmax(1)
    assert guess.shape == (200,) and (guess == linear(x, y, x, THREE, [], Effort()).argmax(1)).mean() > 0.9


def test_neighbours_against_a_plain_loop() -> None:
    x, y = _three_classes()
    train, test = np.arange(100), np.arange(100, 150)
    found = nearest(x[train], y[train], x[test], THREE, [], Effort())
    centre = x[train].mean(0)
    for row, p in zip(test, found, strict=True):
        cosine = [
            (x[row] - centre) @ (x[i] - centre) / np.linalg.norm(x[row] - centre) / np.linalg.norm(x[i] - centre) for i in train
        ]
        votes = np.zeros(3)
        for i in np.argsort(cosine)[-20:]:
            votes[y[i]] += np.exp(cosine[i] / 0.07) / (y[train] == y[i]).mean()
        np.testing.assert_allclose(p, votes / votes.sum(), rtol=1e-9)
    shifted = nearest(x[train] + 1000, y[train], x[test] + 1000, THREE, [], Effort())
    np.testing.assert_allclose(shifted, found, atol=1e-6)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_shapes_absent_classes_and_constant_columns(head: str) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(40, 3)), np.full(40, 7.0)])
    y = np.arange(40) % 2
    p = HEADS[head](x, y, x[:5], THREE, inner_folds(np.arange(40) // 8, y, THREE, seed=0), Effort())
    assert p.shape == (5, 3) and np.all(p[:, 2] == 0)
    np.testing.assert_allclose(p.sum(1), 1)
    many = np.column_stack([y, np.zeros(40, int), 1 - y])
    task = Task("multilabel", "label", ("a", "b", "c"))
    p = HEADS[head](x, many, x[:5], task, inner_folds(np.arange(40) // 8, many, task, seed=0), Effort())
    assert p.shape == (5, 3) and np.all(p[:, 1] == 0) and np.isfinite(p).all()
    if head == "svm":
        return  # tells classes apart only
    n = HEADS[head](x, x[:, 0], x[:5], NUMBER, inner_folds(np.arange(40) // 8, x[:, 0], NUMBER, seed=0), Effort())
    assert n.shape == (5,) and np.corrcoef(n, x[:5, 0])[0, 1] > 0.9


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_prediction_does_not_depend_on_the_other_test_rows(head: str) -> None:
    """Scaling, centring and rotation come from the training part alone."""
    x, y = _three_classes()
    wide = x @ np.random.default_rng(0).normal(size=(4, 300))
    for features in (x, wide):
        outlier = np.vstack([features[100:105], 1000 + features[100:101] * 50])
        alone = HEADS[head](features[:100], y[:100], outlier[:5], THREE, [], Effort())
        together = HEADS[head](features[:100], y[:100], outlier, THREE, [], Effort())
        np.testing.assert_allclose(together[:5], alone, rtol=1e-9)
