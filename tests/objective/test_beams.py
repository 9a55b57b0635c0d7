"""Clouds as another scanner would have sampled them, and what training on them does to embeddings."""

from __future__ import annotations

import numpy as np
import torch

from tests.objective.clouds import batch_of, cuboid, scanned, things, turned
from tests.objective.makers import engine, small, train
from toolkit.embedding.pooling import pooled
from toolkit.objective.beams import LEAST, SCALE, Sample, Scanners, resampled


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clouds(points=400):
    rng = np.random.default_rng(0)
    return batch_of([cuboid(rng, points, (1.2, 0.7, 0.5), yaw) for yaw in np.linspace(-1.4, 1.4, 24)], points, rng)


def test_what_is_seen_are_points_of_the_cloud_turned_and_scaled():
    before, after = clouds(), resampled(clouds(), generator())
    kept = after.batch.valid.all(1)
    assert (after.batch.valid == kept[:, None]).all() and (after.batch.values[~after.batch.valid] == 0).all()
    for row in range(len(kept)):
        turn, scale = float(after.turn[row]), float(after.scale[row])
        expected = scale * turned(before.values[row].T, turn)
        np.testing.assert_allclose(after.batch.values[row].T[kept[row]], expected[kept[row]], atol=1e-5)
    assert after.whole.values is not after.batch.values and np.array_equal(after.whole.values, before.values)
    turns = np.sort(after.turn.numpy())
    assert turns[0] < 1 and turns[-1] > 5 and SCALE[0] <= after.scale.min() < 0.9 and 1.1 < after.scale.max() <= SCALE[1]


def test_every_draw_is_another_and_a_function_of_its_generator():
    first, again, other = (resampled(clouds(), generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.batch.values, again.batch.values) and np.array_equal(first.batch.valid, again.batch.valid)
    assert (first.batch.valid != other.batch.valid).any() and not torch.equal(first.turn, other.turn)
    shares = first.batch.valid.all(1).mean(1)
    assert len(set(shares)) > 12 and (shares < 1).mean() > 0.7 and shares.min() >= LEAST


def test_points_lie_on_rings_with_nothing_between_and_one_in_each_direction():
    """A wall seen from 4 away: elevations of what is left fall into 8 bands, each as wide as asked."""
    rng = np.random.default_rng(1)
    wall = np.column_stack([np.zeros(6000), rng.uniform(-1, 1, 6000), rng.uniform(-1, 1, 6000)])
    points, valid = torch.from_numpy(wall).float()[None], torch.ones(1, 6000, dtype=torch.bool)
    place = points.mean(1) + torch.tensor([[4.0, 0.0, 0.0]])
    one = torch.ones(1, 1)
    scanner = Scanners(place, 8 * one, 30 * one, 0.4 * one, 0.0 * one)
    seen = wall[scanner.see(points, valid)[0].numpy()] - place[0].numpy()
    angle = np.arctan2(seen[:, 2], np.hypot(seen[:, 0], seen[:, 1]))
    step = (np.arctan2(1, 4) * 2) / 8
    gaps = np.sort(angle)
    bands = np.split(gaps, np.flatnonzero(np.diff(gaps) > 0.3 * step) + 1)
    assert len(bands) == 8 and all(np.ptp(band) <= 0.41 * step for band in bands)
    np.testing.assert_allclose(np.diff([band.mean() for band in bands]), step, rtol=0.1)
    around = np.arctan2(seen[:, 1], -seen[:, 0])
    assert 7 * 28 <= len(seen) <= 8 * 31
    for band in range(8):
        inside = np.abs(angle - bands[band].mean()) < step / 2
        assert np.bincount(((around[inside] - around.min()) / np.ptp(around) * 30).astype(int)).max() <= 2  # at an edge two


def test_a_point_that_is_not_there_is_in_nobody_s_way():
    whole, fewer = clouds(), clouds()
    fewer.valid[:, :, ::2] = False
    fewer.values[:, :, 1::2] = whole.values[:, :, 1::2]
    spoilt = clouds()
    spoilt.valid[:, :, ::2] = False
    spoilt.values[:, :, ::2] = 50.0
    first, second = (resampled(each, generator(3)) for each in (fewer, spoilt))
    assert np.array_equal(first.batch.valid, second.batch.valid) and not first.batch.valid[:, :, ::2].any()


def test_a_cloud_that_would_collapse_stays_whole():
    kept = resampled(clouds(), generator(4), least=250).batch.valid.all(1).sum(1)
    assert (kept >= 250).all() and (kept == 400).any() and (kept < 400).any()
    tiny = batch_of(
        [np.zeros((0, 3)), np.ones((1, 3)), np.random.default_rng(0).normal(size=(5, 3))], 8, np.random.default_rng(0)
    )
    assert resampled(tiny, generator(5), least=6).batch.valid.all(1).sum(1).tolist() == [0, 1, 5]


def test_a_plain_sample_is_as_it_is():
    sample = Sample.plain(clouds())
    assert sample.batch is sample.whole and not sample.turn.any() and (sample.scale == 1).all()


POINTS = 160


def pairs(count, seed):
    """Objects as two scanners see them, the second one with fewer rings from higher up."""
    rng = np.random.default_rng(seed)
    found = things(count, seed)
    dense = [scanned(thing, 26, 26, 1.6, rng) for thing in found]
    sparse = [scanned(thing, 8, 48, 2.2, rng) for thing in found]
    return [batch_of(each, POINTS, rng, scaled=True) for each in (dense, sparse)]


@torch.no_grad()
def embedded(objective, batch):
    tokens = objective.tokenizer.tokenize(batch)
    states = objective.model.eval().features(tokens)
    return pooled("meanmax", states, tokens.valid).double().numpy()


def cosine(a, b):
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def arm(view, seed):
    """Cosines of what two scanners see of an object, and of what is left less the mean, by a model that contrasts such views."""
    dense, sparse = pairs(48, seed=100)  # objects that training does not hold
    corpus = [pairs(16, seed=each)[0] for each in range(6)]
    term = {"name": "beams", "predictor": "pool", "target": "view", "truth": 1, "loss": "nce", "temperature": 0.1}
    more = {"tokenizer__norm": "layer", "optimizer__learning_rate": 1e-3}  # norms over a batch need longer runs
    look = {"view": view, "mask": {"ratio": 0.0, "ways": {"random": 1.0}}}
    cut = {"data__points": POINTS, "terms": [term], "training__seed": seed, **more}
    objective = engine(small("psa-ssl", "points", passes=[look, look], **cut), corpus)
    train(objective, corpus, 400, rate=1e-3)
    a, b = embedded(objective, dense), embedded(objective, sparse)
    middle = np.concatenate([a, b]).mean(0)
    return cosine(a, b), cosine(a - middle, b - middle)


def test_beam_patterns_bring_the_embeddings_of_two_scanners_together():
    """Also of what tells objects from one another: less the mean, so that embeddings that are all alike gain nothing.

    The mean of two runs: a single one lands elsewhere with the rounding of another processor.
    """
    beams, plain = (np.mean([arm(view, seed) for seed in (3, 4)], axis=0) for view in ("beams", "plain"))
    assert (beams - plain > (0.03, 0.05)).all(), (beams, plain)
