"""Cubes over heads: what they cover, and where they lie in the file, for any order and direction of its axes."""

import itertools

import numpy as np
import pytest

import readers
from readers.schema import Box, ReadError
from tests import mri_files
from tests.ecg import record
from toolkit import recipe as recipes
from toolkit.corpus import framing
from toolkit.corpus.batches import collate
from toolkit.corpus.framing import VolumeFraming
from toolkit.corpus.framing.volumes import bright_box, fit_scaling
from toolkit.model import tokenizers

SHAPE = (20, 24, 18)  # of 4 mm: 80 x 96 x 72 mm, of which the head takes 0.85
WAYS = {
    "RAS": ((0, 1, 2), (1, 1, 1)),
    "LPS": ((0, 1, 2), (-1, -1, 1)),
    "PIR": ((1, 2, 0), (-1, -1, 1)),
    "SAL": ((2, 1, 0), (1, 1, -1)),
    "ASL": ((1, 2, 0), (1, 1, -1)),
}


def recipe_of(**changes):
    flags = {"data.spacing_mm": 4.0, "data.window_mm": 96.0, "tokenizer.patch": 2}
    return recipes.resolve("bm-mae", size="tiny", flags=flags | {k.replace("__", "."): v for k, v in changes.items()})


def frame_of(**changes) -> VolumeFraming:
    made = framing.build(recipe_of(**changes))
    assert isinstance(made, VolumeFraming)
    return made


def stored(values, where, way):
    """The same voxels with axes permuted and flipped, and their affine."""
    order, signs = WAYS[way]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = signs[new]
        turn[old, 3] = 0 if signs[new] > 0 else values.shape[old] - 1
    return values.transpose(order)[tuple(slice(None, None, s) for s in signs)], where @ turn


def volume(folder, values=None, where=None, way="RAS", name="sub-1_T1w", **more):
    values = mri_files.head(SHAPE) if values is None else values
    where = mri_files.affine((4, 4, 4)) if where is None else where
    turned, affine = stored(values, where, way)
    return readers.open_recording(mri_files.volume(folder, name, turned, where=affine, **more))


def box_by_voxels(recording, frame, window):
    """First and past-the-last stored index on each axis of the voxels that overlap a window, one voxel at a time."""
    to_grid = np.linalg.inv(recording.grid(frame.spacing)[1]) @ recording.affine_of(0)
    half = np.abs(to_grid[:3, :3]) @ np.full(3, 0.5)
    index = np.indices(recording.shape_of(0)).reshape(3, -1).T
    place = index @ to_grid[:3, :3].T + to_grid[:3, 3]
    inside = ((place + half > np.array(window.start) - 0.5 + 1e-4) & (place - half < np.array(window.stop) - 0.5 - 1e-4)).all(1)
    return index[inside].min(0), index[inside].max(0) + 1


def interval_by_voxels(recording, frame, window):
    low, high = box_by_voxels(recording, frame, window)
    number = np.arange(recording.stored(0)).reshape(recording.shape_of(0))
    return float(number[tuple(low)]), float(number[tuple(high - 1)]) + 1


ANGLES = {"straight": (0, 0, 0), "oblique": (12, -7, 20)}
CASES = [(way, angle, spacing) for way in WAYS for angle in ANGLES for spacing in ((4, 4, 4), (3, 2, 5))]


@pytest.mark.parametrize(("way", "angle", "spacing"), CASES)
def test_intervals_are_boxes_of_stored_voxels_and_lead_back_to_their_window(tmp_path, way, angle, spacing):
    recording = volume(tmp_path, where=mri_files.affine(spacing, ANGLES[angle]), way=way)
    frame, seen = frame_of(), set()
    for side in (96.0, 32.0):
        planned = frame.plan(recording, side, side)
        for window in planned:
            interval = frame.interval(recording, window)
            assert interval == interval_by_voxels(recording, frame, window)
            assert 0 <= interval[0] < interval[1] <= frame.end(recording) == np.prod(SHAPE)
            pieces = frame.around(recording, *interval, side)
            assert [p.window for p in pieces] == [window] and (pieces[0].low, pieces[0].high) == (0.0, np.inf)
            seen.add(interval)
    assert len(seen) > 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("angle", ANGLES)
def test_the_order_of_the_axes_in_the_file_changes_nothing_that_the_model_sees(tmp_path, way, angle):
    where, frame = mri_files.affine((4, 4, 4), ANGLES[angle]), frame_of()
    values = mri_files.head(SHAPE)
    values[3:6, 10:13, 5:8] = 2000  # something that is on one side only
    plain, turned = volume(tmp_path / "a", values, where), volume(tmp_path / "b", values, where, way)
    for side in (96.0, 32.0):
        windows = frame.plan(plain, side, 16.0)
        assert windows == frame.plan(turned, side, 16.0)
        for window in windows[:3]:
            first, second = (frame.load(r, window, [0]) for r in (plain, turned))
            np.testing.assert_array_equal(first.valid, second.valid)
            np.testing.assert_allclose(first.values, second.values, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_any_box_of_stored_voxels_is_shown_whole(tmp_path, way):
    recording, frame = volume(tmp_path, way=way), frame_of()
    shape = recording.shape_of(0)
    number = np.arange(recording.stored(0)).reshape(shape)
    rng = np.random.default_rng(0)
    for _ in range(12):
        low = np.array([rng.integers(0, n - 1) for n in shape])
        high = np.array([rng.integers(a + 1, n + 1) for a, n in zip(low, shape, strict=True)])
        pieces = frame.around(recording, float(number[tuple(low)]), float(number[tuple(high - 1)]) + 1, 32.0)
        covered = np.zeros(shape, bool)
        for piece in pieces:
            assert piece.window.shape == (8, 8, 8)
            a, b = box_by_voxels(recording, frame, piece.window)
            covered[tuple(slice(*ends) for ends in zip(a, b, strict=True))] = True
        block = covered[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
        if (high - low <= 8).all():
            assert len(pieces) == 1 and block.all()
        assert len(pieces) == np.prod([1 if n <= 8 else -(-n // 8) for n in high - low]) and block.mean() > 0.7


def test_a_window_larger_than_the_head_is_one_cube_around_its_middle(tmp_path):
    """The head lies in a corner of the file: the cube goes with it and not with the file."""
    values = np.zeros((34, 30, 40))
    values[2:22, 4:28, 20:38] = mri_files.head(SHAPE)
    recording, frame = volume(tmp_path, values), frame_of()
    (window,) = frame.plan(recording, 96.0, 96.0)
    middle = (np.array(window.start) + np.array(window.stop) - 1) / 2
    np.testing.assert_allclose(middle, [2 + 9.5, 4 + 11.5, 20 + 8.5], atol=1)
    assert window.shape == (24, 24, 24)
    inside = np.argwhere(values > 300)
    assert (inside.min(0) >= window.start).all() and (inside.max(0) < window.stop).all()


@pytest.mark.parametrize(("side", "stride"), [(32.0, 32.0), (32.0, 16.0), (16.0, 16.0), (24.0, 20.0)])
def test_smaller_windows_cover_the_head_and_step_no_further_than_asked(tmp_path, side, stride):
    values = np.pad(mri_files.head(SHAPE), 5)
    recording, frame = volume(tmp_path, values), frame_of()
    planned = frame.plan(recording, side, stride)
    covered = np.zeros(values.shape, bool)
    for window in planned:
        assert window.shape == (side / 4,) * 3
        covered[tuple(slice(a, b) for a, b in zip(window.start, window.stop, strict=True))] = True
    assert covered[values > 0].mean() > 0.99 and not covered[:3].any() and len(set(planned)) == len(planned)
    for axis in range(3):
        starts = sorted({w.start[axis] for w in planned})
        assert max(np.diff(starts)) <= stride / 4 + 1


@pytest.mark.parametrize("side", [96.0, 48.0])
def test_drawn_cubes_hold_the_head_or_lie_inside_it(tmp_path, side):
    recording, frame = volume(tmp_path, np.pad(mri_files.head(SHAPE), 4)), frame_of(data__window_mm=side)
    head, rng = frame.head(recording), np.random.default_rng(0)
    drawn = [frame.draw(recording, 1, rng) for _ in range(60)]
    for window in drawn:
        for low, high, a, b in zip(window.start, window.stop, head.start, head.stop, strict=True):
            assert (low <= a and b <= high) or (a <= low and high <= b)
    assert len(set(drawn)) > 20 and {w.shape for w in drawn} == {(side / 4,) * 3}
    starts = np.array([w.start for w in drawn])
    assert (starts.min(0) < starts.max(0)).all()


def test_the_head_is_the_box_of_the_planes_with_bright_voxels():
    values = np.zeros((20, 20, 20), np.float32)
    values[4:15, 6:18, 3:9] = 100
    values[0, 0, 0] = 5000  # one voxel of noise
    everything = np.ones(values.shape, bool)
    assert bright_box(values, everything) == Box((4, 6, 3), (15, 18, 9))
    half = everything.copy()
    half[:10] = False
    assert bright_box(values, half).start[0] == 10
    assert bright_box(np.zeros_like(values), everything) == bright_box(values, ~everything) == Box((0, 0, 0), (20, 20, 20))


@pytest.mark.parametrize("air", [4, 10, 20])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_a_contrast_is_scaled_by_its_tissue_however_much_air_and_in_whatever_unit(air, unit):
    head = mri_files.head((22, 22, 22))
    tissue = head[head > 300]  # without the fluid, which can be as dark as the mean of everything
    values = (np.pad(np.where(head > 300, head, 0.0), air)[None] * unit).astype(np.float32)
    scaling = fit_scaling(values, np.ones(values.shape, bool))
    assert scaling.offset[0] == pytest.approx(tissue.mean() * unit, rel=1e-5)
    assert scaling.scale[0] == pytest.approx(tissue.std() * unit, rel=1e-5)


def test_voxels_that_are_not_valid_have_no_part_in_the_scaling_and_come_out_as_zero(tmp_path):
    values, valid = np.full((2, 4, 4, 4), 5.0, np.float32), np.ones((2, 4, 4, 4), bool)
    values[0, :2], valid[0, 3] = 1.0, False
    spoilt = np.where(valid, values, np.float32(np.nan))
    for given in (values, spoilt):
        scaling = fit_scaling(given, valid)
        assert scaling.offset.tolist() == [5.0, 5.0] and scaling.scale.tolist() == [1.0, 1.0]
    assert fit_scaling(values, ~np.ones_like(valid)).offset.tolist() == [0, 0]
    beyond = frame_of().load(volume(tmp_path), Box((-4, 0, 0), (4, 8, 8)), [0])
    assert not beyond.valid[:, :4].any() and beyond.valid[:, 4:].all() and (beyond.values[~beyond.valid] == 0).all()
    assert np.isfinite(beyond.values).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_token_s_interval_is_the_box_of_its_own_voxels(tmp_path, way):
    recording, recipe = volume(tmp_path, where=mri_files.affine((3, 2, 5)), way=way), recipe_of(data__window_mm=16.0)
    frame, tokenizer = framing.build(recipe), tokenizers.build(recipe)
    window = Box((4, 3, 6), (8, 7, 10))
    tokens = tokenizer.tokenize(collate([frame.load(recording, window, [0])]))
    start, stop = frame.token_intervals(recording, window, tokens.coords[0].numpy())
    cubes = list(itertools.product(*(range(a, b, 2) for a, b in zip(window.start, window.stop, strict=True))))
    assert len(cubes) == len(start) == 8
    for corner, a, b in zip(cubes, start, stop, strict=True):
        assert (a, b) == interval_by_voxels(recording, frame, Box(corner, tuple(c + 2 for c in corner)))


def test_contrasts_of_a_session_are_channels_of_one_sample(tmp_path):
    paths = mri_files.session(tmp_path)
    recording = readers.open_recording(paths[0], tuple(paths[1:]))
    frame = frame_of(data__spacing_mm=1.0, data__window_mm=24.0, data__kinds=("FLAIR", "T1w"), data__most_channels=2)
    assert [recording.channels[i].kind for i in frame.channels(recording)] == ["T1w", "FLAIR"]
    chosen = {tuple(frame.choose([0, 1, 2], np.random.default_rng(k))) for k in range(40)}
    assert chosen == {(0, 1), (0, 2), (1, 2)} and frame.layout([0, 1, 2]) == 2 and frame.layout([1]) == 1
    sample = frame.load(recording, frame.plan(recording, 24.0, 24.0)[0], [0, 2])
    assert sample.values.shape == (2, 24, 24, 24) and [c.kind for c in sample.channels] == ["T1w", "FLAIR"]


def test_what_the_model_does_not_see_or_the_file_does_not_hold_is_said(tmp_path):
    frame = frame_of()
    fine = volume(tmp_path / "a", where=mri_files.affine((1, 1, 1)))
    coarse = volume(tmp_path / "b", where=mri_files.affine((2, 2, 6)), name="sub-1_T2w")
    same = volume(tmp_path / "c")
    assert frame.mismatches(same, (), [0]) == frame.mismatches(same, ("T1w",), [0]) == []
    assert frame.mismatches(fine, (), [0]) == ["voxels of 1 mm, the model reads 4 mm: finer detail is not seen"]
    assert frame.mismatches(coarse, ("T1w",), [0]) == [
        "channels the model was not trained on: T2w",
        "voxels of 2 mm, the model reads 4 mm: finer detail is not seen",
        "voxels of 6 mm, the model reads 4 mm: the file holds no finer detail",
    ]


def test_what_is_no_volume_is_refused(tmp_path):
    with pytest.raises(ReadError, match="holds no channel of kind T1w"):
        frame_of().channels(readers.open_recording(record(tmp_path, "r")))
    with pytest.raises(ReadError, match=r"holds no channel of kind FLAIR; it holds .*\(T1w\)"):
        frame_of(data__kinds=("FLAIR",)).channels(volume(tmp_path))


def test_features_see_the_window_at_two_millimetres(tmp_path):
    recording, frame = volume(tmp_path, np.pad(mri_files.head(SHAPE), 4)), frame_of()
    (window,) = frame.plan(recording, 96.0, 96.0)
    sample = frame.sample(recording, *frame.interval(recording, window), [0])
    assert sample.values.shape == (1, 48, 48, 48)
    corner = recording.grid(4.0)[1] @ [*(np.array(window.start) - 0.5), 1]
    np.testing.assert_allclose(sample.affine @ [-0.5, -0.5, -0.5, 1], corner, atol=1e-4)
