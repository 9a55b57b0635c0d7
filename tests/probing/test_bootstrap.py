import numpy as np
import pytest

from toolkit.probing.bootstrap import interval, paired_difference, resampled_scores
from toolkit.probing.metrics import score
from toolkit.probing.task import Task

BINARY = Task("binary", "label", ("a", "b"))


def _data(n_groups: int, per_group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(n_groups), per_group)
    y = rng.integers(0, 2, len(groups))
    easy = np.repeat(rng.random(n_groups) < 0.6, per_group)  # right or wrong by whole groups
    p = np.where(easy, y, 1 - y) * 0.8 + 0.1
    return groups, y, np.stack([1 - p, p], axis=1)


def test_the_interval_is_as_wide_as_the_number_of_groups_says() -> None:
    groups, y, p = _data(40, 25)
    draws = resampled_scores(BINARY, y, {"m": p}, groups, resamples=1000, seed=0)["m"]["accuracy"]
    rows = resampled_scores(BINARY, y, {"m": p}, np.arange(1000), resamples=1000, seed=0)["m"]["accuracy"]
    share = score(BINARY, y, p)["accuracy"]
    assert draws.std() == pytest.approx(np.sqrt(share * (1 - share) / 40), rel=0.1)
    assert rows.std() == pytest.approx(np.sqrt(share * (1 - share) / 1000), rel=0.1)


def test_the_interval_holds_the_value_and_ignores_undefined_draws() -> None:
    assert interval(5.0, np.array([1.0, 2.0, np.nan])) == pytest.approx((1.025, 5.0))
    assert interval(0.0, np.array([1.0, 2.0])) == pytest.approx((0.0, 1.975))
    assert np.isnan(interval(np.nan, np.array([1.0]))).all()
    assert np.isnan(interval(1.0, np.array([np.nan]))).all()


def test_names_share_their_draws_so_that_a_difference_to_itself_is_nothing() -> None:
    groups, y, p = _data(12, 10)
    draws = resampled_scores(BINARY, y, {"a": p, "b": p.copy()}, groups, resamples=50, seed=0)
    a, b = draws["a"]["balanced_accuracy"], draws["b"]["balanced_accuracy"]
    assert a.std() > 0
    assert paired_difference(0.7, 0.7, a, b) == (0, 0, 0)


def test_the_seed_decides_the_draws() -> None:
    groups, y, p = _data(50, 26)
    first, second, other = (
        resampled_scores(BINARY, y, {"m": p}, groups, resamples=30, seed=s)["m"]["macro_auroc"] for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
