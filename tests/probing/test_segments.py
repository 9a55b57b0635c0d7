"""Parts of clouds told apart on frozen tokens."""

from pathlib import Path

import numpy as np
import pytest

from readers import open_recording
from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.model import masked
from toolkit.probing.segments import Cloud, majority, segment_probe, tokens_with_parts
from toolkit.recipe import Recipe

SMALL = {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    flags = {
        "data.points": 256,
        "tokenizer.centres": 16,
        "tokenizer.neighbours": 16,
        "encoder": SMALL | {"class_token": True},
        "decoder": SMALL,
    }
    return recipes.resolve("point-cmae", size="tiny", flags=flags)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> list[Cloud]:
    """Plates with a rod in the middle, each in a size, at a place and in an orientation of its own; rows are shuffled."""
    return [_plate_and_rod(tmp_path_factory.mktemp("clouds") / f"{k}.xyz", k) for k in range(24)]


def _plate_and_rod(path: Path, seed: int) -> Cloud:
    rng = np.random.default_rng(seed)
    plate = np.column_stack([rng.uniform(-0.6, 0.6, (200, 2)), 0.02 * rng.normal(size=200)]) * rng.uniform(0.7, 1.3)
    rod = np.column_stack([0.02 * rng.normal(size=(100, 2)), rng.uniform(0.1, 3, 100)]) * rng.uniform(0.7, 1.3)
    part = np.repeat([0, 1], [200, 100])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(300)
    np.savetxt(path, (np.concatenate([plate, rod]) @ turn + rng.uniform(-50, 50, 3))[order], fmt="%.6f")
    return Cloud(open_recording(path), part[order])


def test_parts_are_told_apart_on_frozen_tokens_of_clouds_never_seen(recipe: Recipe, clouds: list[Cloud]) -> None:
    result = segment_probe({"m": masked.build(recipe)}, recipe, clouds, ("plate", "rod"), seed=0)
    score = {(row["name"], row["metric"]): row["value"] for row in result.rows}
    assert score["m", "accuracy"] > score["majority", "accuracy"] + 0.1
    (difference,) = result.differences  # of balanced accuracy, from the majority's
    assert difference["low"] > 0.1
    assert result.tested.sum() == 24 * 16


def test_a_token_has_the_part_of_the_points_about_its_centre(recipe: Recipe, clouds: list[Cloud]) -> None:
    """By hand: points of the file nearest to a centre, in the unit sphere about the centroid."""
    cloud = clouds[0]
    states, part, number = tokens_with_parts(masked.build(recipe), recipe, [cloud, cloud])
    assert states.shape == (32, 32) and number.tolist() == [0] * 16 + [1] * 16
    np.testing.assert_array_equal(part[:16], part[16:])
    assert 0 < part.mean() < 1
    coords = cloud.recording.read(0, 300).coords.astype(np.float64)
    taken = np.linspace(0, 299, 256).round().astype(int)
    points, labels = coords[taken] - coords[taken].mean(axis=0), cloud.part[taken]
    chosen = [int(np.linalg.norm(points, axis=1).argmax())]  # farthest-point sampling
    for _ in range(15):
        chosen.append(int(np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1).argmax()))
    expected = [np.bincount(labels[np.linalg.norm(points - points[c], axis=1).argsort()[:16]]).argmax() for c in chosen]
    np.testing.assert_array_equal(part[:16], expected)


def test_majority_takes_the_lowest_of_equals() -> None:
    assert majority(np.array([[1, 1, 2], [0, 2, 2], [3, 3, 1], [0, 1, 2]])).tolist() == [1, 2, 3, 0]


def test_labels_that_do_not_fit_are_refused(recipe: Recipe, clouds: list[Cloud]) -> None:
    with pytest.raises(UsageError, match="300 points and 5 labels"):
        tokens_with_parts(masked.build(recipe), recipe, [Cloud(clouds[0].recording, np.zeros(5, int))])
    other = recipes.resolve("csfm", size="tiny", flags={})
    with pytest.raises(UsageError, match="signal tokens"):
        tokens_with_parts(masked.build(recipe), other, clouds)
