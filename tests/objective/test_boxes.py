"""Boxes without labels: of cuboids whose size and yaw are known, and what a term learns from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.objective.clouds import batch_of, cuboid, turned
from tests.objective.makers import CPU, engine, small, train
from toolkit.objective.boxes import box_around, boxes_of, clusters, ground

TERM = {"name": "box", "queries": "visible", "predictor": "none", "target": "box", "loss": "smooth_l1"}
BEAMS = {"view": "beams", "mask": {"ratio": 0.0, "ways": {"random": 1.0}}}


def apart(a, b):
    """Difference of two yaws, radians; half a turn is none."""
    return np.abs((np.asarray(a) - b + np.pi / 2) % np.pi - np.pi / 2)


@pytest.mark.parametrize("yaw", [-1.5, -0.7, 0.0, 0.31, 0.8, 1.3])
@pytest.mark.parametrize("size", [(1.0, 0.5, 0.4), (0.9, 0.2, 1.2)])
def test_the_box_around_a_turned_cuboid(yaw, size):
    points = cuboid(np.random.default_rng(0), 400, size, yaw, centre=(0.3, -0.2, 0.1))
    box = box_around(points)
    np.testing.assert_allclose(box[:3], (0.3, -0.2, 0.1), atol=0.01)
    np.testing.assert_allclose(box[3:6], size, rtol=0.05)
    assert np.degrees(apart(box[6], yaw)) < 2 and -np.pi / 2 <= box[6] < np.pi / 2


def test_two_sides_of_a_cuboid_give_the_whole_one():
    """From above a scanner sees an L; the rectangle of the least area and principal axes would lie along its diagonal."""
    rng = np.random.default_rng(1)
    points = cuboid(rng, 800, (1.0, 0.5, 0.4), 0.0)
    seen = turned(points[(points[:, 0] > 0.499) | (points[:, 1] > 0.249)], 0.6)
    np.testing.assert_allclose(box_around(seen)[3:5], (1.0, 0.5), rtol=0.05)
    assert np.degrees(apart(box_around(seen)[6], 0.6)) < 2


def scene(seed=0):
    """A sloping ground, two cuboids on it and a few single points: (points, 0 for the ground, 1, 2, 3 for singles)."""
    rng = np.random.default_rng(seed)
    flat = np.column_stack([rng.uniform(-1, 1, (600, 2)), rng.normal(0, 0.004, 600)])
    one = cuboid(rng, 300, (0.5, 0.25, 0.3), 0.5, (0.45, 0.4, 0.15))
    other = cuboid(rng, 200, (0.3, 0.2, 0.4), -0.7, (-0.5, -0.3, 0.2))
    singles = rng.uniform([-1, -1, 0.7], [1, 1, 1], (5, 3))
    points = np.concatenate([flat, one, other, singles])
    points[:, 2] += 0.1 * points[:, 0]
    return points, np.repeat([0, 1, 2, 3], [600, 300, 200, 5])


def test_clusters_of_a_scene_are_its_objects_once_the_ground_is_gone():
    points, truth = scene()
    flat = ground(points)
    high = points[:, 2] - 0.1 * points[:, 0] > 0.06
    assert flat[truth == 0].all() and not flat[high].any()
    of = clusters(points[~flat])
    left = truth[~flat]
    assert set(of[(left == 1)]) == {0} and set(of[(left == 2)]) == {1} and set(of[left == 3]) == {-1}
    boxes = boxes_of(batch_of([points], len(points), np.random.default_rng(0)))
    assert boxes.centre.shape == (1, 2, 3)
    np.testing.assert_allclose(boxes.size[0, :, :2], [(0.5, 0.25), (0.3, 0.2)], rtol=0.04)
    assert np.degrees(apart(boxes.yaw[0].numpy(), [0.5, -0.7])).max() < 4


def test_an_object_alone_has_no_ground():
    rng = np.random.default_rng(2)
    ball = rng.normal(size=(400, 3))
    solids = [cuboid(rng, 400, (1, 0.6, 0.5), 0.3), ball / np.linalg.norm(ball, axis=1, keepdims=True)]
    roof = np.column_stack([rng.uniform(-1, 1, (400, 2)), rng.normal(0.5, 0.004, 400)])
    table = np.concatenate([roof, rng.uniform([-1, -1, 0], [-0.95, -0.95, 0.5], (40, 3))])
    assert not any(ground(points).any() for points in [*solids, roof, table])


def test_clusters_do_not_depend_on_the_order_or_the_unit():
    points, _ = scene(1)
    kept = points[~ground(points)]
    mixed = np.random.default_rng(3).permutation(len(kept))
    np.testing.assert_array_equal(clusters(kept)[mixed], clusters(kept[mixed]))
    np.testing.assert_array_equal(clusters(kept), clusters(40 * kept + 7))


def test_boxes_move_with_their_cloud():
    rng = np.random.default_rng(4)
    clouds = [cuboid(rng, 300, (1, 0.5, 0.4), yaw, (0.2, 0.1, 0.3)) for yaw in (0.2, -1.1, 1.4)]
    turn, scale = np.array([0.9, -2.0, 3.0]), np.array([0.7, 1.0, 1.4])
    after = boxes_of(batch_of([s * turned(c, t) for c, t, s in zip(clouds, turn, scale, strict=True)], 300, rng))
    moved = boxes_of(batch_of(clouds, 300, rng)).moved(torch.tensor(turn).float(), torch.tensor(scale).float())
    assert torch.allclose(moved.centre, after.centre, atol=0.01) and torch.allclose(moved.size, after.size, rtol=0.05)
    assert np.degrees(apart(moved.yaw.numpy(), after.yaw.numpy())).max() < 3


def test_what_a_token_sees_of_a_box_does_not_jump():
    """Where the shorter side becomes the longer one the yaw turns by a quarter; the numbers hardly change."""
    rng = np.random.default_rng(5)
    clouds = [cuboid(rng, 2000, (0.5, width, 0.4), 0.4) for width in (0.49, 0.51)]
    boxes = boxes_of(batch_of(clouds, 2000, rng))
    seen = boxes.seen_from(torch.zeros(2, 1, dtype=torch.int64), torch.full((2, 1, 3), 0.1))
    assert np.degrees(apart(boxes.yaw[0, 0].item(), boxes.yaw[1, 0].item())) > 80
    assert (seen[0] - seen[1]).abs().max() < 0.1
    offset, sides = seen[0, 0, :3], seen[0, 0, 3:6]
    assert torch.allclose(offset, torch.full((3,), -0.1), atol=0.02)
    np.testing.assert_allclose(sides.exp(), (0.5, 0.49, 0.4), rtol=0.03)


def test_a_cloud_of_nothing_has_no_box():
    rng = np.random.default_rng(6)
    batch = batch_of([np.zeros((0, 3)), rng.uniform(-1, 1, (10, 3)), cuboid(rng, 100, (1, 0.5, 0.4))], 100, rng)
    assert [(of >= 0).float().mean() > 0.9 for of in boxes_of(batch).of] == [False, False, True]


def boxed(look=BEAMS, **changes):
    """A small recipe of the term alone, 128 points a cloud."""
    return small("psa-ssl", "points", passes=[look], terms=[TERM], **changes)


def test_tokens_in_no_cluster_do_not_count_and_the_others_are_told_their_box():
    recipe, rng = boxed(BEAMS | {"view": "plain", "repeat": 2}, data__points=400), np.random.default_rng(7)
    far = rng.uniform([-1, -1, 0.8], [1, 1, 1], (4, 3))
    cloud = np.concatenate([cuboid(rng, 396, (1, 0.5, 0.4), 0.5), far])
    objective = engine(recipe)
    scene = objective._scene(batch_of([cloud, cloud], 400, rng), 0, CPU, 0.0, torch.Generator())
    queries = objective._queries(recipe.terms[0], scene, torch.Generator())
    prediction = objective.model.predictions(scene.looks, [queries])[0]
    compared = objective.targets[0](scene, prediction, {})
    places = scene.looks[0].tokens.take(queries).coords[..., :3]
    single = torch.cdist(places, torch.from_numpy(far).float()).amin(-1) < 1e-5
    assert compared.target.shape == (4, queries.shape[1], 8) and single.any() and (~single).any()
    assert torch.equal(compared.counts, ~single)
    target = compared.target[~single]
    assert torch.allclose(target[:, :3], -places[~single], atol=0.02)
    np.testing.assert_allclose(target[:, 3:6].exp().mean(0), (1, 0.5, 0.4), rtol=0.03)
    double = torch.atan2(target[:, 7], target[:, 6]) / 2
    assert np.degrees(apart(double.numpy(), 0.5)).max() < 3


def test_the_box_is_the_whole_one_as_the_view_turned_and_scaled_it():
    recipe, rng = boxed(), np.random.default_rng(8)
    clouds = [cuboid(rng, 128, (1, 0.4, 0.6), yaw, (0.3, 0, 0)) for yaw in rng.uniform(-1.5, 1.5, 8)]
    objective = engine(recipe)
    scene = objective._scene(batch_of(clouds, 128, rng), 0, CPU, 0.0, torch.Generator().manual_seed(0))
    queries = objective._queries(recipe.terms[0], scene, torch.Generator())
    compared = objective.targets[0](scene, objective.model.predictions(scene.looks, [queries])[0], {})
    seen, sample = compared.target.mean(1).numpy(), scene.samples[0]
    places = scene.looks[0].tokens.take(queries).coords[..., :3].mean(1).numpy()
    for row, cloud in enumerate(clouds):
        box = box_around(float(sample.scale[row]) * turned(cloud, float(sample.turn[row])))
        np.testing.assert_allclose(seen[row, :3] + places[row], box[:3], atol=0.03)
        np.testing.assert_allclose(np.exp(seen[row, 3:6]), box[3:6], rtol=0.05)
        assert np.degrees(apart(np.arctan2(seen[row, 7], seen[row, 6]) / 2, box[6])) < 4
    assert not sample.batch.valid.all()  # though not all of it is seen


def drawn(seed, count):
    """Cuboids of 96 points: (clouds, their lengths, widths and heights, their yaws)."""
    rng = np.random.default_rng(seed)
    sizes, yaws = rng.uniform((0.8, 0.15, 0.2), (1.6, 0.3, 0.8), (count, 3)), rng.uniform(-np.pi / 2, np.pi / 2, count)
    return [cuboid(rng, 96, size, yaw) for size, yaw in zip(sizes, yaws, strict=True)], sizes, yaws


@torch.no_grad()
def predicted(objective, clouds):
    """Logs of sides (n, 3) and yaw (n,) of the boxes predicted for clouds as they are, the mean over tokens."""
    tokens = objective.tokenizer.tokenize(batch_of(clouds, 96, np.random.default_rng(0)))
    every = torch.arange(tokens.valid.shape[1]).expand(tokens.valid.shape)
    look = objective.model.eval().look(0, tokens, every, every[:, :0])
    box = objective.model.predictions([look], [every])[0].values.mean(1).numpy()
    return box[:, 3:6], np.arctan2(box[:, 7], box[:, 6]) / 2


@pytest.fixture(scope="module")
def trained():
    """A model that learned boxes from other cuboids for a hundred steps."""
    cut = {"data__points": 96, "tokenizer__centres": 12, "tokenizer__norm": "layer"}
    objective, rng = engine(boxed(**cut)), np.random.default_rng(9)
    train(objective, [batch_of(drawn(seed, 20)[0], 96, rng) for seed in range(1, 16)], 110, rate=5e-3)
    return objective


def test_scaling_a_cloud_scales_the_predicted_size(trained):
    clouds, sizes, _ = drawn(0, 48)
    scales = np.array([0.75, 1.0, 1.3])
    logs = np.stack([predicted(trained, [s * cloud for cloud in clouds])[0] for s in scales])  # (3, n, 3)
    slopes = np.polyfit(np.log(scales), logs.mean(1), 1)[0]
    assert (slopes > 0.5).all() and (slopes < 1.5).all(), slopes
    for side in (0, 2):  # widths hardly differ
        assert np.corrcoef(logs[1, :, side], np.log(sizes[:, side]))[0, 1] > 0.5


def test_turning_a_cloud_turns_the_predicted_yaw(trained):
    clouds, _, yaws = drawn(0, 48)
    _, before = predicted(trained, clouds)
    assert np.degrees(np.median(apart(before, yaws))) < 10  # chance is 45
    for turn in (0.4, 0.9, 1.4):
        _, after = predicted(trained, [turned(cloud, turn) for cloud in clouds])
        assert np.degrees(np.median(apart(after, before + turn))) < 10
