"""Runs of rows of point clouds: which rows are taken, and how they are put into the unit sphere."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from readers.schema import ReadError, Window
from tests import mri_files, points_files
from toolkit import recipe as recipes
from toolkit.corpus import framing
from toolkit.corpus.framing import PointFraming
from toolkit.corpus.framing.points import unit_sphere


def frame_of(points=64, rows=200) -> PointFraming:
    flags = {"data.points": points, "data.window_rows": rows, "tokenizer.centres": 8, "tokenizer.neighbours": 8}
    made = framing.build(recipes.resolve("point-cmae", size="tiny", flags=flags))
    assert isinstance(made, PointFraming)
    return made


def numbered(folder, rows, *, attributes=False):
    """A cloud whose x tells the row, opened."""
    columns = dict(points_files.cloud(rows)) if attributes else {axis: np.zeros(rows, np.float32) for axis in "xyz"}
    columns["x"] = np.arange(rows, dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    return readers.open_recording(points_files.ply(folder / "cloud.ply", columns))


def rows_of(sample):
    """Which rows of a numbered cloud a sample holds, by undoing its scaling."""
    return sample.scaling.invert(sample.values)[0][sample.valid.all(0)]


def test_a_window_is_thinned_evenly_and_always_alike(tmp_path):
    recording, frame = numbered(tmp_path, 1000), frame_of()
    first, again = (frame.load(recording, Window(200, 500), [0, 1, 2]) for _ in range(2))
    np.testing.assert_array_equal(first.values, again.values)
    rows = rows_of(first)
    assert first.values.shape == first.valid.shape == (3, 64) and first.valid.all()
    assert rows[0] == pytest.approx(200, abs=1e-3) and rows[-1] == pytest.approx(499, abs=1e-3)
    assert set(np.diff(rows).round().tolist()) == {4, 5}  # 299 rows in 63 steps


def test_training_takes_other_points_each_time_without_repeating_one(tmp_path):
    recording, frame = numbered(tmp_path, 1000), frame_of()
    samples = [frame.load(recording, Window(200, 500), [0, 1, 2], np.random.default_rng(k)) for k in (0, 0, 1)]
    rows = [rows_of(s).round() for s in samples]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert set(rows[0]) != set(rows[2])
    assert all(len(set(r)) == 64 and r.min() >= 200 and r.max() < 500 for r in rows)


@pytest.mark.parametrize("seed", [None, 0])
def test_rows_without_a_place_are_never_taken(tmp_path, seed):
    columns = {axis: np.random.default_rng(k).normal(size=100).astype(np.float32) for k, axis in enumerate("xyz")}
    for row in range(100):
        if row % 3:
            columns["xyz"[row % 3]][row] = np.nan
    recording = readers.open_recording(points_files.ply(tmp_path / "a.ply", columns))
    rng = None if seed is None else np.random.default_rng(seed)
    for points, held in ((16, 16), (64, 34)):  # every third of 100 rows is whole
        sample = frame_of(points).load(recording, Window(0, 100), [0, 1, 2], rng)
        assert sample.valid.all(0).sum() == sample.valid.any(0).sum() == held and np.isfinite(sample.values).all()
        back = sample.scaling.invert(sample.values).T[sample.valid.all(0)]
        whole = np.stack([columns[a][::3] for a in "xyz"], axis=1)
        assert (np.abs(back[:, None] - whole).max(-1).min(1) < 1e-5).all()


def test_a_cloud_without_one_place_is_not_valid(tmp_path):
    columns = {axis: np.full(10, np.nan, np.float32) for axis in "xyz"}
    recording = readers.open_recording(points_files.ply(tmp_path / "a.ply", columns))
    for rng in (None, np.random.default_rng(0)):
        sample = frame_of().load(recording, Window(0, 10), [0, 1, 2], rng)
        assert not sample.valid.any() and not sample.values.any()


@pytest.mark.parametrize("count", [1, 5, 63])
def test_fewer_points_than_asked_are_all_taken_and_the_rest_is_not_valid(tmp_path, count):
    recording, frame = numbered(tmp_path, count), frame_of()
    sample = frame.load(recording, Window(0, count), [0, 1, 2])
    assert sample.valid.sum(1).tolist() == [count] * 3 and (sample.values[~sample.valid] == 0).all()
    np.testing.assert_allclose(rows_of(sample), np.arange(count), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 700), st.data())
def test_windows_cover_all_rows_but_a_short_tail_in_order(length, window, data):
    stride = data.draw(st.integers(1, window))
    frame = frame_of()

    class Sized:
        axes = type("Axes", (), {"points": length})

    planned = frame.plan(Sized(), window, stride)
    spans = [frame.interval(Sized(), w) for w in planned]
    assert [a for a, _ in spans] == list(range(0, stride * len(spans), stride))
    assert all(b - a == window for a, b in spans[:-1]) and spans[-1][1] - spans[-1][0] <= window
    assert length - max(1, math.ceil(0.1 * window)) < spans[-1][1] <= length == frame.end(Sized())


def test_the_last_window_is_shorter_and_holds_what_is_left(tmp_path):
    recording, frame = numbered(tmp_path, 450), frame_of()
    planned = frame.plan(recording, 200, 200)
    assert planned == [Window(0, 200), Window(200, 400), Window(400, 450)]
    assert frame.load(recording, planned[-1], [0, 1, 2]).valid.sum(1).tolist() == [50, 50, 50]


def test_an_interval_is_its_rows_in_runs_of_a_window(tmp_path):
    recording, frame = numbered(tmp_path, 1000), frame_of()
    (piece,) = frame.around(recording, 130.0, 190.0, 200.0)
    assert (piece.window, piece.low, piece.high) == (Window(130, 190), 0.0, np.inf)
    pieces = frame.around(recording, 100.0, 650.0, 200.0)
    assert [p.window for p in pieces] == [Window(100, 300), Window(300, 500), Window(500, 650)]
    assert [p.window for p in frame.around(recording, 7.0, 9.0, 0.3)] == [Window(7, 8), Window(8, 9)]
    for window in frame.plan(recording, 200, 200):
        assert [p.window for p in frame.around(recording, *frame.interval(recording, window), 200)] == [window]


def test_drawn_windows_lie_in_the_file_and_reach_its_ends(tmp_path):
    recording, frame = numbered(tmp_path, 260), frame_of()
    drawn = [frame.draw(recording, 260, np.random.default_rng(k)) for k in range(500)]
    assert {w.stop - w.start for w in drawn} == {200} and {w.start for w in drawn} == set(range(61))
    assert frame.draw(recording, 50, np.random.default_rng(0)) == Window(0, 50)
    assert (frame.weight(50), frame.weight(900), frame.count(50), frame.count(900)) == (200, 900, 1, 4)


def test_a_token_lies_anywhere_in_its_window(tmp_path):
    recording, frame = numbered(tmp_path, 450), frame_of()
    start, stop = frame.token_intervals(recording, Window(400, 600), np.zeros((3, 4), np.float32))
    assert start.tolist() == [400.0] * 3 and stop.tolist() == [450.0] * 3


def test_attributes_and_thin_clouds_are_said(tmp_path):
    frame = frame_of()
    assert frame.mismatches(numbered(tmp_path / "a", 100), (), [0, 1, 2]) == []
    thin, rich = (
        frame.mismatches(numbered(tmp_path / k, n, attributes=k == "c"), (), [0, 1, 2]) for k, n in (("b", 12), ("c", 99))
    )
    assert thin == ["fewer points than the 64 that the model takes; the rest of a sample stays empty"]
    assert len(rich) == 1 and all(word in rich[0] for word in ("not used", "intensity", "red", "nx", "label"))


def test_features_are_told_all_attributes_of_the_rows(tmp_path):
    recording = numbered(tmp_path, 99, attributes=True)
    sample = frame_of().sample(recording, 10.0, 40.0, [0, 1, 2])
    assert sample.coords.shape == (30, 3) and sample.coords[:, 0].tolist() == list(range(10, 40))
    assert {c.name for c in sample.channels} == {c.name for c in recording.channels[3:]} and sample.values.shape[1] == 30


def test_what_holds_no_points_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"holds no points; it holds .*\(T1w\)"):
        frame_of().channels(readers.open_recording(mri_files.volume(tmp_path, "a_T1w")))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.integers(0, 999))
def test_the_unit_sphere_is_reached_and_left_again(count, scale, shift, seed):
    points = (np.random.default_rng(seed).normal(size=(count, 3)) * scale + shift).astype(np.float32)
    spread = np.linalg.norm(points - points.mean(0, dtype=float), axis=1).max()
    scaling = unit_sphere(points)
    inside = scaling.apply(points.T)
    assert len(set(scaling.scale)) == 1  # one for all axes: shapes keep their proportions
    if spread > 1e-3 * abs(shift):
        assert np.linalg.norm(inside, axis=0).max() == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(inside.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(scaling.invert(inside).T, points, atol=1e-6 * spread)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.full((1, 3), 7.1), np.full((9, 3), 0.1)])
def test_a_cloud_without_an_extent_lies_at_the_origin(points):
    points = points.astype(np.float32)
    assert not unit_sphere(points).apply(points.T).any()
