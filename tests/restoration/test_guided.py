"""The guided filter against the paper's formula written out, and what holds of it whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.restoration.guided import local_lines

SHAPE = (6, 5, 7)


def around(at: tuple[int, ...], width: int) -> tuple[slice, ...]:
    """The cube around a voxel, cut at the border."""
    return tuple(slice(max(k - width // 2, 0), k + width // 2 + 1) for k in at)


def written_out(target: NDArray, guides: NDArray, known: NDArray, width: int, ease: float) -> NDArray:
    """Equations 4 to 8 of the paper, voxel by voxel: the filter's output, with as many guides as there are."""
    extra = np.diag([ease * guide[known].var() for guide in guides])
    lines = np.full((len(guides) + 1, *target.shape), np.nan)
    for at in np.ndindex(target.shape):
        inside = around(at, width)
        x, y = guides[(slice(None), *inside)][:, known[inside]], target[inside][known[inside]]
        if y.size:
            square = np.atleast_2d(np.cov(x, bias=True)) + extra
            both = np.array([np.mean((row - row.mean()) * (y - y.mean())) for row in x])
            slopes = np.linalg.inv(square) @ both
            lines[(slice(None), *at)] = [y.mean() - slopes @ x.mean(axis=1), *slopes]
    found = np.full(target.shape, np.nan)
    for at in np.ndindex(target.shape):
        inside = around(at, width)
        if known[inside].any():
            mean = lines[(slice(None), *inside)][:, known[inside]].mean(axis=1)
            found[at] = mean[0] + mean[1:] @ guides[(slice(None), *at)]
    return found


def filtered(target: NDArray, guides: NDArray, known: NDArray, width: int, ease: float) -> NDArray:
    slopes, offset = local_lines(target, guides, known, width, ease)
    return (slopes * guides).sum(axis=0) + offset


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ease", [0.01, 1.0])
def test_it_is_the_filter_of_the_paper(count: int, ease: float) -> None:
    rng = np.random.default_rng(count)
    target, guides = rng.normal(3, 2, SHAPE), rng.normal(50, 20, (count, *SHAPE))
    for known in (np.ones(SHAPE, bool), rng.random(SHAPE) < 0.7):
        want = written_out(target, guides, known, 3, ease)
        np.testing.assert_allclose(filtered(target, guides, known, 3, ease), want, rtol=1e-8, atol=1e-8)


def test_what_is_a_line_of_the_guides_comes_back_and_a_flat_guide_gives_means() -> None:
    rng = np.random.default_rng(0)
    guides, known = rng.normal(100, 30, (2, *SHAPE)), np.ones(SHAPE, bool)
    target = 7 - 2 * guides[0] + 0.5 * guides[1]
    slopes, offset = local_lines(target, guides, known, 5, 0.0)
    np.testing.assert_allclose(slopes, np.broadcast_to(np.array([-2, 0.5])[:, None, None, None], slopes.shape), rtol=1e-5)
    np.testing.assert_allclose((slopes * guides).sum(axis=0) + offset, target, rtol=1e-5)
    noise = rng.normal(size=SHAPE)
    flat = filtered(noise, np.full((1, *SHAPE), 4.0), known, 3, 0.1)
    np.testing.assert_allclose(flat, filtered(noise, guides, known, 3, 1e12), atol=1e-6)  # slopes drawn to 0 say the same
    assert flat[3, 2, 3] == pytest.approx(
        np.mean(
            [
                noise[around(at, 3)].mean()
                for at in np.ndindex(SHAPE)
                if max(abs(a - b) for a, b in zip(at, (3, 2, 3), strict=True)) <= 1
            ]
        )
    )


def test_units_do_not_matter_and_what_is_not_known_has_no_part() -> None:
    rng = np.random.default_rng(1)
    target, guides, known = rng.normal(size=SHAPE), rng.normal(size=(2, *SHAPE)), rng.random(SHAPE) < 0.6
    known[:3, :3, :3] = False
    first = filtered(target, guides, known, 3, 0.1)
    other = np.where(known, guides, 1e6), np.where(known, target, -1e6)
    slopes, offset = local_lines(other[1], 1000 * other[0] - 5e4, known, 3, 0.1)
    again = (slopes * (1000 * guides - 5e4)).sum(axis=0) + offset
    assert np.isnan(first[0, 0, 0]) and np.array_equal(np.isnan(first), np.isnan(again))
    np.testing.assert_allclose(again, first, rtol=1e-6, atol=1e-6)
