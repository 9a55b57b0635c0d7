"""Small models on frozen features. Each sees the training part of one fold, and predicts the test part.

A head is a function; HEADS is the table that ``--head`` chooses from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from toolkit.probing.folds import Fold
from toolkit.probing.metrics import main_score
from toolkit.probing.task import Task

Array = NDArray[np.float64]

C_GRID = np.logspace(-4, 2, 7)  # strongest regularisation first
LAMBDA_GRID = np.logspace(-2, 5, 8)[::-1]  # strongest first
SVM_GRID = np.logspace(-5, 1, 7)  # strongest first
WIDEST = 256  # wider features are rotated to this many principal components
MAX_ITER = 500
SVM_ITER = 5000
NEIGHBOURS = 20
TEMPERATURE = 0.07


@dataclass
class Effort:
    """Fits made, how many of them stopped at their iteration limit, and the numbers that labels trained in the last one."""

    fits: int = 0
    unconverged: int = 0
    parameters: int = 0


class Head(Protocol):
    """``x`` float (N, D) without NaN, ``y`` as ``encode`` gives it, ``x_test`` (M, D), ``inner`` splits of the N rows.

    Returns probabilities (M, K), or numbers (M,) for regression. ``y`` holds at least two classes.
    """

    def __call__(self, x: Array, y: NDArray, x_test: Array, task: Task, inner: Sequence[Fold], effort: Effort) -> Array:
        """Fit and predict."""


@threadpool_limits.wrap(limits=1)  # hundreds of small fits: more BLAS threads wait for each other, 3 times slower
def linear(x: Array, y: NDArray, x_test: Array, task: Task, inner: Sequence[Fold], effort: Effort) -> Array:
    """Standardise on the training part, then logistic regression (L2, balanced classes) or ridge.

    The strength is the one of the grid with the best mean main metric over the inner splits (the strongest on ties).
    Multilabel: one logistic regression a class, one strength for all of them. Features wider than 256 are rotated
    to their first 256 principal components of the training part first: logistic regression with L2 is blind to
    rotations, so only what the small components carry is lost.
    """
    if task.kind == "regression":
        return _selected(x, y, x_test, task, inner, effort, _ridge_path, LAMBDA_GRID)
    return _selected(x, y, x_test, task, inner, effort, _logistic_path, C_GRID)


@threadpool_limits.wrap(limits=1)
def svm(x: Array, y: NDArray, x_test: Array, task: Task, inner: Sequence[Fold], effort: Effort) -> Array:
    """Standardise on the training part, then a linear support vector machine (squared hinge, L2, one against rest).

    The usual probe of point clouds (Point-MAE, I2P-MAE), which leave features as they are and pick C on the test part or keep
    C = 1. Here C and wide features are treated as in ``linear``, and classes are balanced. Margins become numbers from 0 to
    1 by a softmax, or a logistic function for two classes and for multilabel: they rank, they are no probabilities.
    Not for regression.
    """
    return _selected(x, y, x_test, task, inner, effort, _margin_path, SVM_GRID)


def nearest(x: Array, y: NDArray, x_test: Array, task: Task, inner: Sequence[Fold], effort: Effort) -> Array:
    """Weighted vote of the 20 nearest training rows by cosine, weight exp(cosine / 0.07) (DINO, DINOv3).

    Features are centred on the training mean and scaled to length 1: features of masked models share a large
    offset, which makes every uncentred cosine 0.999. A class's votes are divided by its share of the training rows,
    so that the vote is balanced as the linear head is. Multilabel and regression: the weighted mean.
    """
    mean = x.mean(axis=0)
    x, x_test = _unit(x - mean), _unit(x_test - mean)
    one_hot = task.kind in ("binary", "multiclass")
    values = np.eye(len(task.classes))[y] if one_hot else np.asarray(y, dtype=np.float64).reshape(len(x), -1)
    share = values.mean(axis=0) if one_hot else np.ones(values.shape[1])
    k = min(NEIGHBOURS, len(x))
    out = np.empty((len(x_test), values.shape[1]))
    for start in range(0, len(x_test), 1024):
        cosine = x_test[start : start + 1024] @ x.T
        near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        top = np.take_along_axis(cosine, near, axis=1)
        weight = np.exp((top - top.max(axis=1, keepdims=True)) / TEMPERATURE)
        weight /= weight.sum(axis=1, keepdims=True)
        out[start : start + 1024] = np.einsum("mk,mkc->mc", weight, values[near])
    if one_hot:
        out = np.divide(out, share, out=np.zeros_like(out), where=share > 0)
        return out / out.sum(axis=1, keepdims=True)
    return out[:, 0] if task.kind == "regression" else out


HEADS: dict[str, Head] = {"linear": linear, "knn": nearest, "svm": svm}

Path = Callable[[Array, NDArray, Array, Task, Array, Effort], list[Array]]
Fits = Callable[[Array, NDArray, Array, Array, Effort], list[tuple[NDArray, Array]]]


def _selected(
    x: Array, y: NDArray, x_test: Array, task: Task, inner: Sequence[Fold], effort: Effort, path: Path, grid: Array
) -> Array:
    """Predictions with the strength of ``grid`` whose mean main metric over the inner splits is best."""
    totals, used = np.zeros(len(grid)), 0
    for train, held_out in inner:
        if _constant(y[train], task):
            continue
        a, b = _prepare(x[train], x[held_out])
        found = [main_score(task, y[held_out], guess) for guess in path(a, y[train], b, task, grid, effort)]
        if np.all(np.isfinite(found)):
            totals, used = totals + found, used + 1
    # Without a usable inner split: the middle of the grid. argmax takes the first of equals, the strongest.
    best = int(np.argmax(np.round(totals / used, 12))) if used else len(grid) // 2
    a, b = _prepare(x, x_test)
    effort.parameters = (1 if task.kind in ("binary", "regression") else len(task.classes)) * (a.shape[1] + 1)
    return path(a, y, b, task, grid[best : best + 1], effort)[0]


def _prepare(x: Array, x_test: Array) -> tuple[Array, Array]:
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    if x.shape[1] <= WIDEST:
        return x, x_test
    # The Gram matrix of the shorter side; both solvers are exact, so the result has no seed.
    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"
    pca = PCA(min(WIDEST, len(x) - 1), svd_solver=solver).fit(x)
    return pca.transform(x), pca.transform(x_test)


def _logistic_path(x: Array, y: NDArray, x_test: Array, task: Task, grid: Array, effort: Effort) -> list[Array]:
    """Predictions (M, K) for each C."""
    return _class_path(x, y, x_test, task, grid, effort, _fits)


def _margin_path(x: Array, y: NDArray, x_test: Array, task: Task, grid: Array, effort: Effort) -> list[Array]:
    """Squashed margins (M, K) for each C."""
    return _class_path(x, y, x_test, task, grid, effort, _margins)


def _class_path(x: Array, y: NDArray, x_test: Array, task: Task, grid: Array, effort: Effort, fits: Fits) -> list[Array]:
    if task.kind == "multilabel":
        columns = [_binary_path(x, y[:, k], x_test, grid, effort, fits) for k in range(y.shape[1])]  # K lists of (M,)
        return [np.stack(at_c, axis=1) for at_c in zip(*columns, strict=True)]
    out = []
    for classes, probabilities in fits(x, y, x_test, grid, effort):
        full = np.zeros((len(x_test), len(task.classes)))  # a class without a training row keeps probability 0
        full[:, classes] = probabilities
        out.append(full)
    return out


def _binary_path(x: Array, y: NDArray, x_test: Array, grid: Array, effort: Effort, fits: Fits) -> list[Array]:
    if y.min() == y.max():
        return [np.full(len(x_test), float(y[0])) for _ in grid]
    return [probabilities[:, 1] for _, probabilities in fits(x, y, x_test, grid, effort)]


def _fits(x: Array, y: NDArray, x_test: Array, grid: Array, effort: Effort) -> list[tuple[NDArray, Array]]:
    model = LogisticRegression(class_weight="balanced", solver="lbfgs", max_iter=MAX_ITER, tol=1e-3)
    out = []
    for c in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted below and reported once
            model.set_params(C=c).fit(x, y)
        effort.fits += 1
        effort.unconverged += int(np.max(model.n_iter_) >= MAX_ITER)
        out.append((model.classes_, model.predict_proba(x_test)))
    return out


def _margins(x: Array, y: NDArray, x_test: Array, grid: Array, effort: Effort) -> list[tuple[NDArray, Array]]:
    # The primal problem has one solution whatever the seed; the dual's solver is random, and stops early for large C.
    model = LinearSVC(class_weight="balanced", dual=False, max_iter=SVM_ITER)
    out = []
    for c in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=c).fit(x, y)
        effort.fits += 1
        effort.unconverged += int(np.max(model.n_iter_) >= SVM_ITER)
        margin = model.decision_function(x_test)
        out.append((model.classes_, softmax(margin, axis=1) if margin.ndim == 2 else expit(np.stack([-margin, margin], axis=1))))
    return out


def _ridge_path(x: Array, y: NDArray, x_test: Array, task: Task, grid: Array, effort: Effort) -> list[Array]:
    effort.fits += len(grid)
    return [Ridge(alpha=strength).fit(x, y).predict(x_test) for strength in grid]


def _constant(y: NDArray, task: Task) -> bool:
    return len(np.unique(y, axis=0)) < 2 and task.kind != "regression"


def _unit(x: Array) -> Array:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)
