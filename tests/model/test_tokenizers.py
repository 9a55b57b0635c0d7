"""Spectrogram patches, cubes of voxels, groups and counts of points, each against a formula or a library of its own."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from readers.schema import Channel
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch
from toolkit.corpus.framing.points import unit_sphere
from toolkit.errors import UsageError
from toolkit.model import pictures, tokenizers
from toolkit.model.tokenizers.base import UNSCALED
from toolkit.model.tokenizers.points import farthest_points
from toolkit.objective.scale import visible_scale

RATE = 32_000
NARROW = {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64}


def channel(name="audio", kind="audio", position=None):
    return Channel(name, name, kind, None, None, RATE, position)


def batch_of(values, valid=None, names=("audio",)):
    values = np.asarray(values, np.float32)
    valid = np.ones(values.shape, bool) if valid is None else valid
    return Batch(values, valid, (tuple(channel(n) for n in names),) * len(values))


# Spectrograms.


@pytest.fixture(scope="module")
def mels():
    return tokenizers.build(recipes.resolve("bird-mae", size="tiny"))


def wave(kind="noise", samples=160_000, seed=0):
    rng, time = np.random.default_rng(seed), np.arange(samples) / RATE
    made = {
        "noise": 0.1 * rng.standard_normal(samples),
        "far from zero": 0.3 + 0.01 * rng.standard_normal(samples),
        "quiet": 1e-5 * rng.standard_normal(samples),
        "silence": np.zeros(samples),
        "chirp": 0.5 * np.sin(2 * np.pi * (200 + 1500 * time) * time) + 1e-4 * rng.standard_normal(samples),
    }
    return made[kind].astype(np.float32)


def log_mel(signal):
    """Kaldi's filterbank as its documentation has it, in float64, one band and one frame at a time: (frames, 128)."""
    mel_of = lambda hz: 1127 * np.log(1 + hz / 700)  # noqa: E731
    edges, bins = np.linspace(mel_of(20), mel_of(RATE / 2), 130), mel_of(np.arange(512) * RATE / 1024)
    weights = np.zeros((513, 128))
    for band in range(128):
        low, middle, high = edges[band : band + 3]
        weights[:512, band] = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
    rows = []
    for start in range(0, len(signal) - 799, 320):
        frame = signal[start : start + 800].astype(np.float64)
        frame = frame - frame.mean()
        frame = np.append(0.03 * frame[0], frame[1:] - 0.97 * frame[:-1]) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799))
        power = np.abs(np.fft.rfft(frame, 1024)) ** 2
        rows.append(np.log(np.maximum(power @ weights, 2.0**-23)))
    return np.array(rows)


def kaldi(signal):
    native = pytest.importorskip("kaldi_native_fbank")
    options = native.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.frame_opts.window_type = RATE, 0.0, "hanning"
    options.frame_opts.frame_length_ms, options.frame_opts.frame_shift_ms = 25.0, 10.0
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 128, 20.0, 0.0
    options.htk_compat, options.use_energy, options.energy_floor = True, False, 0.0
    bank = native.OnlineFbank(options)
    bank.accept_waveform(RATE, (signal - signal.mean(dtype=np.float64)).tolist())  # its own mean of a frame is summed in float32
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])


@pytest.mark.parametrize("kind", ["noise", "far from zero", "quiet", "silence"])
@pytest.mark.parametrize("truth", [kaldi, log_mel])
def test_log_mel_energies_are_kaldi_s(mels, truth, kind):
    signal = wave(kind, 160_000 if truth is kaldi else 16_000)
    got, want = mels.log_mel(torch.from_numpy(signal)).numpy(), truth(signal)
    assert got.shape == want.shape and len(got) == (498 if truth is kaldi else 48) == mels.frames(len(signal))
    assert np.abs(got - want).max() < 2e-3


@pytest.mark.parametrize("truth", [kaldi, log_mel])
def test_bands_far_below_the_loudest_are_right_to_the_rounding_of_the_loudest(mels, truth):
    signal = wave("chirp", 32_000)
    got, want = np.exp(mels.log_mel(torch.from_numpy(signal)).double().numpy()), np.exp(truth(signal).astype(np.float64))
    assert (np.abs(got - want) < 1e-3 * want + 1e-7 * want.max(axis=1, keepdims=True)).all()


# Every 16th band of the frame at 0.1 s of the sum over k = 1 to 40 of 0.1 / k sin(2 pi 380 k t), by kaldi-native-fbank 1.23.
RECORDED = (-7.3453, 0.4924, -9.2209, -8.5161, -7.7762, 0.449, 0.2804, 0.9094)


def test_log_mel_energies_are_those_that_were_recorded(mels):
    time = np.arange(6400) / RATE
    signal = sum(0.1 / k * np.sin(2 * np.pi * 380 * k * time) for k in range(1, 41)).astype(np.float32)
    np.testing.assert_allclose(mels.log_mel(torch.from_numpy(signal))[10, ::16], RECORDED, atol=2e-3)


def test_a_clip_of_5_s_is_31_columns_of_8_patches_and_one_that_is_filling(mels):
    tokens = mels.tokenize(batch_of(wave()[None, None]))
    valid = tokens.valid.view(1, 8, 32)
    assert tokens.grid == (1, 8, 32) and valid[..., :31].all() and not valid[..., 31].any()
    assert (tokens.patches.view(8, 32, 256)[:, 31] == 0).all() and (tokens.scale == UNSCALED).all()


@pytest.mark.parametrize(("frames", "columns"), [(1, 1), (7, 1), (16, 1), (23, 1), (24, 2), (32, 2), (39, 2), (40, 3)])
def test_a_last_column_counts_when_half_of_it_is_sound_or_nothing_else_is_there(mels, frames, columns):
    tokens = mels.tokenize(batch_of(wave(samples=800 + 320 * (frames - 1) + 319)[None, None]))
    valid = tokens.valid.view(*tokens.grid)
    assert tokens.grid[2] == -(-frames // 16) and (valid.sum(2) == columns).all() and valid[..., :columns].all()


def test_patches_go_back_to_log_mel_energies_with_the_floor_as_filling(mels):
    signal = wave(samples=800 + 320 * 27)
    tokens = mels.tokenize(batch_of(signal[None, None]))
    back = mels.untokenize(tokens.patches, tokens.grid)[0, 0]
    torch.testing.assert_close(
        back[:28], mels.log_mel(torch.from_numpy(signal)), atol=2e-6, rtol=0
    )  # one rounding of the scaling
    torch.testing.assert_close(back[28:], torch.full((4, 128), float(np.log(2.0**-23))), atol=2e-6, rtol=0)


def test_untokenizing_puts_every_number_of_every_patch_where_it_was(mels):
    patches = torch.arange(2 * 3 * 8 * 5 * 256, dtype=torch.float64).view(2, 3 * 8 * 5, 256)
    image = (mels.untokenize(patches, (3, 8, 5)) - mels.table.mean) / mels.table.deviation
    assert image.shape == (2, 3, 80, 128)
    for b, c, row, step in itertools.product(range(2), range(3), range(8), range(5)):
        tile = image[b, c, 16 * step : 16 * step + 16, 16 * row : 16 * row + 16].T  # mel first, then time, as in the grid
        torch.testing.assert_close(tile.flatten(), patches[b, (c * 8 + row) * 5 + step])


def test_a_patch_says_its_place_on_the_mel_scale_and_in_time(mels):
    """A tone: the loudest patch lies at its mel, and a click at its time."""
    time = np.arange(RATE) / RATE
    tone, click = 0.5 * np.sin(2 * np.pi * 6000 * time), np.zeros(RATE)
    click[16_000:16_020] = 0.5
    tokens = mels.tokenize(batch_of(np.stack([tone, click])[:, None]))
    loudest = tokens.patches.amax(-1)
    mel = lambda hz: np.log(1 + hz / 700)  # noqa: E731
    place = (mel(6000) - mel(20)) / (mel(16_000) - mel(20))
    assert abs(tokens.coords[0, loudest[0].argmax(), 0] - place) <= 0.5 / 8 + 0.5 / 128
    assert abs(tokens.coords[1, loudest[1].argmax(), 3] - 0.5) <= 0.08 + 0.025
    assert tokens.coords[0, 0].tolist() == pytest.approx([1 / 16, 0, 0, 0.08]) and not tokens.coords[..., 1:3].any()
    assert sorted({round(t, 6) for t in tokens.coords[0, :, 3].tolist()}) == pytest.approx([0.16 * k + 0.08 for k in range(7)])


def test_a_patch_is_valid_when_all_samples_under_its_frames_are(mels):
    for sample in (0, 5000, 5120, 15_000, 31_999):
        known = np.ones((1, 1, 35_680), bool)  # 110 frames: 7 columns, the last of 14 frames
        known[0, 0, sample] = False
        tokens = mels.tokenize(batch_of(wave(samples=35_680)[None, None], known))
        touched = {f // 16 for f in range(110) if 320 * f <= sample < 320 * f + 800}
        want = [column not in touched for column in range(7)]
        assert tokens.valid.view(8, 7).tolist() == [want] * 8, sample


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30, 5.0])
def test_what_is_not_valid_changes_no_patch(mels, junk):
    known = np.ones((1, 1, 32_000), bool)
    known[..., 10_000:12_000] = False
    given = [np.where(known, wave(samples=32_000), np.float32(filling)) for filling in (0.0, junk)]
    first, second = (mels.tokenize(batch_of(values, known)) for values in given)
    assert torch.equal(first.patches, second.patches) and torch.equal(first.valid, second.valid)


def test_patches_do_not_depend_on_the_other_clips_of_a_batch(mels):
    waves = np.stack([wave(k, 40_000) for k in ("noise", "silence", "chirp", "quiet")])[:, None]
    together = mels.tokenize(batch_of(waves), torch.device("cpu"))
    for row in range(4):
        alone = mels.tokenize(batch_of(waves[row : row + 1]))
        torch.testing.assert_close(together.patches[row], alone.patches[0], atol=1e-6, rtol=0)
        assert torch.equal(together.valid[row], alone.valid[0])


def test_a_window_shorter_than_a_frame_is_refused(mels):
    with pytest.raises(ValueError, match=r"799 samples are shorter than one frame of 800"):
        mels.tokenize(batch_of(wave(samples=799)[None, None]))


def test_half_precision_around_it_does_not_touch_the_spectrogram(mels):
    given = batch_of(wave(samples=32_000)[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mels.tokenize(given).patches, mels.tokenize(given).patches.float())
        inside = mels.tokenize(given).patches
    assert torch.equal(inside, mels.tokenize(given).patches)


# Volumes.


@pytest.fixture(scope="module")
def cubes():
    flags = {"data.spacing_mm": 2.0, "data.window_mm": 24.0, "tokenizer.patch": 4}
    return tokenizers.build(recipes.resolve("bm-mae", size="tiny", flags=flags))


def volume_batch(shape=(2, 3, 8, 4, 12), seed=0):
    rng = np.random.default_rng(seed)
    return batch_of(rng.normal(size=shape), None, ("T1w", "FLAIR", "T2star")[: shape[1]])


def test_cubes_go_back_to_the_volume_exactly(cubes):
    given = volume_batch()
    tokens = cubes.tokenize(given)
    assert tokens.grid == (3, 2, 1, 3) and tokens.patches.shape == (2, 18, 64)
    np.testing.assert_array_equal(cubes.untokenize(tokens.patches, tokens.grid).numpy(), given.values)


def test_a_cube_has_the_voxels_the_place_and_the_identity_that_a_loop_gives_it(cubes):
    given = volume_batch()
    tokens = cubes.tokenize(given)
    token = 0
    for c, x, y, z in itertools.product(range(3), range(2), range(1), range(3)):
        block = given.values[1, c, 4 * x : 4 * x + 4, 4 * y : 4 * y + 4, 4 * z : 4 * z + 4]
        np.testing.assert_array_equal(tokens.patches[1, token].view(4, 4, 4), block)
        where = np.argwhere(np.ones((4, 4, 4))).mean(0) + np.array([4 * x, 4 * y, 4 * z])  # mean index of its voxels
        np.testing.assert_allclose(tokens.coords[1, token, :3], (where - (np.array([8, 4, 12]) - 1) / 2) * 2.0)
        assert tokens.coords[1, token, 3] == 0 and tokens.scale[1, token] == c
        assert tokens.channel[1, token] == (0, 3, 4)[c]  # T1w, FLAIR, the first of the unknown ones
        token += 1
    assert token == tokens.patches.shape[1]


def test_one_voxel_that_is_not_valid_takes_its_cube_and_no_other(cubes):
    for voxel in ((0, 0, 0, 0), (1, 3, 3, 4), (2, 7, 3, 11)):
        given = volume_batch()
        given.valid[0][voxel] = False
        tokens = cubes.tokenize(given)
        c, x, y, z = voxel[0], *(v // 4 for v in voxel[1:])
        want = torch.ones(2, 3, 2, 1, 3, dtype=torch.bool)
        want[0, c, x, y, z] = False
        assert torch.equal(tokens.valid.view(want.shape), want)
        assert (tokens.patches[~tokens.valid] == 0).all()


def test_sides_that_are_not_whole_cubes_are_refused_with_the_numbers(cubes):
    with pytest.raises(ValueError, match=r"\(8, 5, 12\) voxels .* 4 voxels"):
        cubes.tokenize(volume_batch((1, 1, 8, 5, 12)))


# Points.


def groups_of(centres=8, neighbours=4, points=64):
    flags = {"data.points": points, "tokenizer.centres": centres, "tokenizer.neighbours": neighbours}
    return tokenizers.build(recipes.resolve("point-cmae", size="tiny", flags=flags))


def cloud(points=64, seed=0):
    """(N, 3) in the unit sphere."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(points, 3)) * [1, 0.6, 0.3]
    return unit_sphere(made.astype(np.float32)).apply(made.T.astype(np.float32)).T


def points_batch(*clouds, size=None):
    size = size or len(clouds[0])
    values, valid = np.zeros((len(clouds), 3, size), np.float32), np.zeros((len(clouds), 3, size), bool)
    for row, one in enumerate(clouds):
        values[row, :, : len(one)], valid[row, :, : len(one)] = np.asarray(one).T, True
    return Batch(values, valid, ((channel("xyz", "xyz"),),) * len(clouds))


def farthest_by_loop(points, count):
    """Indices of farthest-point samples, by the definition, in float64."""
    points = points.astype(np.float64)
    chosen = [int(np.argmax(np.linalg.norm(points - points.mean(0), axis=1)))]
    while len(chosen) < count:
        nearest = [min(np.linalg.norm(p - points[c]) for c in chosen) for p in points]
        chosen.append(int(np.argmax(nearest)))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_centres_are_farthest_point_samples(seed):
    points = cloud(50, seed)
    chosen, fresh = farthest_points(torch.from_numpy(points)[None], torch.ones(1, 50, dtype=torch.bool), 12)
    assert chosen[0].tolist() == farthest_by_loop(points, 12) and fresh.all()


def two_tight_clusters():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(100, 3)) * 1e-3 + [side, 0, 0] for side in (0.99, -0.99)]).astype(np.float32)


@pytest.mark.parametrize("points", [cloud(200), two_tight_clusters()], ids=["spread", "dense"])
def test_groups_are_the_nearest_neighbours_of_their_centre_nearest_first(points):
    tokenizer = groups_of(16, 8, 200)
    tokens = tokenizer.tokenize(points_batch(points))
    centres = tokens.coords[0, :, :3].numpy()
    want = cKDTree(points).query(centres, 8)[0]
    groups = tokenizer.untokenize(tokens.patches, tokens.coords)[0].view(16, 8, 3).numpy()
    got = np.linalg.norm(tokens.patches[0].view(16, 8, 3).double().numpy(), axis=-1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)
    assert (cKDTree(points).query(groups.reshape(-1, 3))[0] < 1e-6).all() and (got[:, 0] == 0).all()
    assert tokens.valid.all() and tokens.grid == (1, 16) and (tokens.scale == UNSCALED).all() and not tokens.channel.any()


def group_set(tokens, decimals=5):
    """Centres with their neighbours, as a set."""
    valid = tokens.valid[0]
    rows = torch.cat([tokens.coords[0, valid, :3], tokens.patches[0, valid]], dim=1).double().numpy()
    return {tuple(row) for row in (rows.round(decimals) + 0.0).tolist()}


def test_the_order_of_the_points_does_not_matter():
    points = cloud(200)
    shuffled = points[np.random.default_rng(5).permutation(200)]
    first, second = (group_set(groups_of(16, 8, 200).tokenize(points_batch(p))) for p in (points, shuffled))
    assert first == second and len(first) == 16


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_a_cloud_of_few_points_gives_a_token_a_point_and_no_padding_in_it(count):
    points = cloud(20)[:count] + np.float32(0.1)
    tokenizer = groups_of(8, 6, 20)
    tokens = tokenizer.tokenize(points_batch(points, size=20))
    assert tokens.valid.sum() == count and torch.isfinite(tokens.patches).all()
    groups = tokenizer.untokenize(tokens.patches, tokens.coords)[0].view(8, 6, 3)[tokens.valid[0]].reshape(-1, 3).numpy()
    assert (cKDTree(points).query(groups)[0] < 1e-6).all()  # the padding lies at the origin, where no point is
    assert len({tuple(c) for c in tokens.coords[0, tokens.valid[0], :3].tolist()}) == count


def test_no_point_at_all_gives_no_valid_token():
    tokens = groups_of(8, 4, 20).tokenize(points_batch(np.zeros((0, 3)), cloud(20), size=20))
    assert tokens.valid.sum(1).tolist() == [0, 8] and all(torch.isfinite(t).all() for t in (tokens.patches, tokens.coords))


def test_points_that_lie_on_one_another_make_one_centre():
    points = np.repeat(cloud(5), 8, axis=0)
    tokens = groups_of(16, 4, 40).tokenize(points_batch(points))
    assert tokens.valid.sum() == 5 and len({tuple(c) for c in tokens.coords[0, tokens.valid[0], :3].tolist()}) == 5


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30, 0.5])
def test_points_that_are_not_valid_change_nothing(junk):
    given = points_batch(cloud(30), size=40)
    spoilt = dataclasses.replace(given, values=np.where(given.valid, given.values, np.float32(junk)))
    first, second = (groups_of(8, 6, 40).tokenize(b) for b in (given, spoilt))
    assert all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("patches", "coords", "valid"))


@pytest.mark.parametrize("scale", [0.02, 1e-6, 1.0, 5e4])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_place_and_size_of_a_cloud_do_not_matter_and_small_ones_do_not_collapse(scale, shift):
    points = np.random.default_rng(0).normal(size=(100, 3))
    want, got = (p.astype(np.float32) for p in (points, scale * (points + shift)))
    scaled = [unit_sphere(p).apply(p.T).T for p in (want, got)]
    assert np.linalg.norm(scaled[1], axis=1).max() == pytest.approx(1.0, abs=1e-6)
    first, second = (groups_of(16, 8, 100).tokenize(points_batch(p)) for p in scaled)
    assert first.valid.all() and second.valid.all()
    torch.testing.assert_close(first.coords, second.coords, atol=5e-6, rtol=0)
    torch.testing.assert_close(first.patches, second.patches, atol=1e-5, rtol=0)


def test_the_embedding_of_a_group_does_not_depend_on_the_order_of_its_points():
    tokenizer = groups_of(8, 6)
    torch.manual_seed(0)
    embed = tokenizer.embedder(32)
    patches = torch.randn(2, 8, 18)
    mixed = patches.unflatten(2, (6, 3))[:, :, [3, 0, 5, 1, 2, 4]].flatten(2)
    assert embed(patches).shape == (2, 8, 32)
    torch.testing.assert_close(embed(patches), embed(mixed), atol=1e-6, rtol=0)
    assert (embed(patches)[0, 0] - embed(patches)[0, 1]).abs().max() > 1e-3


# Voxels.


def voxels_of(side=16, patch=4):
    flags = {"data.points": 64, "tokenizer": {"kind": "voxels", "side": side, "patch": patch}, "loss.kind": "l2"}
    return tokenizers.build(recipes.resolve("point-cmae", size="tiny", flags=flags))


@pytest.mark.parametrize(("side", "patch"), [(16, 4), (6, 3), (5, 1)])
def test_voxels_count_the_points_as_a_histogram_does(side, patch):
    clouds = [np.concatenate([cloud(300, seed), np.eye(3), -np.eye(3)]).astype(np.float32) for seed in range(2)]
    tokenizer = voxels_of(side, patch)
    tokens = tokenizer.tokenize(points_batch(*clouds, size=400))  # 94 that are not valid
    dense = tokenizer.untokenize(tokens.patches, tokens.grid)
    assert tokens.grid == (1, *[side // patch] * 3) and tokens.valid.all() and (tokens.scale == UNSCALED).all()
    for row, points in enumerate(clouds):
        want = np.histogramdd(points.astype(np.float64), bins=side, range=[(-1, 1)] * 3)[0]
        np.testing.assert_allclose(2.0 ** dense[row, 0].numpy() - 1, want, atol=1e-5)


def test_a_cube_of_voxels_lies_where_its_points_are():
    """Each point alone: the one cube that is not empty holds it."""
    tokenizer = voxels_of(12, 3)
    points = cloud(40)
    tokens = tokenizer.tokenize(points_batch(*points[:, None]))
    assert (tokens.patches.sum(-1) > 0).sum(1).tolist() == [1] * 40
    at = tokens.patches.sum(-1).argmax(1)
    middles = tokens.coords[torch.arange(40), at, :3].numpy()
    assert (np.abs(middles - points) <= 0.25 + 1e-6).all() and not tokens.coords[..., 3].any()
    assert tokens.coords[..., :3].abs().max() == 0.75


def test_a_cloud_without_points_has_no_valid_cube():
    tokens = voxels_of().tokenize(points_batch(np.zeros((0, 3)), cloud(20), size=20))
    assert tokens.valid.sum(1).tolist() == [0, 64] and not tokens.patches[0].any()


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30, 0.5])
def test_points_that_are_not_valid_are_in_no_voxel(junk):
    given = points_batch(cloud(30), size=40)
    spoilt = dataclasses.replace(given, values=np.where(given.valid, given.values, np.float32(junk)))
    assert torch.equal(voxels_of().tokenize(given).patches, voxels_of().tokenize(spoilt).patches)


# Identities and scales.


def test_channels_of_a_sample_have_numbers_of_their_own_and_places_of_their_own():
    tokenizer = tokenizers.build(recipes.resolve("reve", size="tiny"))
    channels = [channel("Cz", "eeg", (0, 0, 0.1)), channel("X"), channel("Fz", "eeg", (0.05, 0, 0.1)), channel("X"), channel("Z")]
    given = Batch(np.zeros((1, 5, 100), np.float32), np.ones((1, 5, 100), bool), (tuple(channels),))
    tokens = tokenizer.tokenize(given)
    assert tokens.channel.tolist() == [[0, 1, 2, 3, 4]]
    assert tokens.coords[0, :, :3].tolist() == [pytest.approx(c.position or (0, 0, 0)) for c in channels]


def test_tokens_of_a_fixed_unit_are_not_scaled_by_what_is_visible(mels, cubes):
    point_tokens = groups_of().tokenize(points_batch(cloud()))
    for tokens in (mels.tokenize(batch_of(100 * wave(samples=32_000)[None, None])), point_tokens):
        assert torch.equal(visible_scale(tokens, torch.arange(4)[None]), torch.ones_like(tokens.valid, dtype=torch.float32))
    tokens = cubes.tokenize(dataclasses.replace(volume_batch(), values=5 * volume_batch().values))
    visible = torch.tensor([[0, 1, 6], [2, 3, 7]])
    factor = visible_scale(tokens, visible)
    for row, (a, b, c) in enumerate(visible.tolist()):
        first = float(tokens.patches[row, [a, b]].square().mean().sqrt())
        np.testing.assert_allclose(factor[row, :6], first, rtol=1e-5)
        np.testing.assert_allclose(factor[row, 6:12], float(tokens.patches[row, c].square().mean().sqrt()), rtol=1e-5)
        assert (factor[row, 12:] == 1).all()  # a contrast of which nothing is visible


@pytest.mark.parametrize("name", ["bird-mae", "bm-mae", "point-cmae", "reve"])
def test_a_device_gets_the_same_tokens(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tokenizer = tokenizers.build(recipes.resolve(name, size="tiny"))
    rng = np.random.default_rng(0)
    shape = {"bird-mae": (2, 1, 32_000), "bm-mae": (2, 1, 12, 12, 12), "point-cmae": (2, 3, 512), "reve": (2, 2, 200)}[name]
    given = batch_of(0.1 * rng.normal(size=shape), None, ("a", "b")[: shape[1] if name != "point-cmae" else 1])
    here, there = tokenizer.tokenize(given), tokenizer.tokenize(given, torch.device("cuda"))
    torch.testing.assert_close(here.patches, there.patches.cpu(), atol=2e-3, rtol=0)
    assert torch.equal(here.valid, there.valid.cpu())


# Signals whose patches overlap.


def overlapping(patch=200, stride=180, rate=200.0):
    recipe = recipes.resolve(
        "reve",
        size="tiny",
        flags={"tokenizer.patch": patch, "tokenizer.stride": stride, "data.window_s": 10.0, "data.rate_hz": rate},
    )
    return tokenizers.build(recipe)


@pytest.mark.parametrize(("samples", "steps"), [(200, 1), (379, 1), (380, 2), (2000, 11), (2179, 11), (2180, 12)])
def test_overlapping_patches_are_slices_of_the_signal_and_the_tail_is_dropped(samples, steps):
    values = np.random.default_rng(0).normal(size=(2, 3, samples))
    tokens = overlapping().tokenize(batch_of(values, names=("Cz", "Fz", "Pz")))
    assert tokens.grid == (3, steps)
    for c, k in itertools.product(range(3), range(steps)):
        np.testing.assert_array_equal(tokens.patches[:, c * steps + k], values[:, c, 180 * k : 180 * k + 200].astype(np.float32))
    np.testing.assert_allclose(tokens.coords[0, :steps, 3], [0.5 + 0.9 * k for k in range(steps)], rtol=1e-6)


@pytest.mark.parametrize(("patch", "stride"), [(200, 180), (10, 3), (8, 8), (5, 1)])
def test_overlapping_patches_go_back_to_the_signal_they_were_cut_from(patch, stride):
    tokenizer = overlapping(patch, stride)
    signal = torch.randn(2, 3, patch + 11 * stride, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patches = tokenizer.cut(signal)
    torch.testing.assert_close(tokenizer.dense(patches, (3, 12)), signal, atol=1e-12, rtol=0)
    torch.testing.assert_close(tokenizer.cut(tokenizer.untokenize(patches, (3, 12))), patches, atol=1e-12, rtol=0)


def test_where_patches_disagree_their_mean_is_put_back():
    tokenizer = overlapping(4, 3)
    patches = torch.arange(1.0, 4.0)[None, :, None].expand(1, 3, 4)
    assert tokenizer.untokenize(patches, (1, 3)).tolist() == [[[1, 1, 1, 1.5, 2, 2, 2.5, 3, 3, 3]]]


def test_a_sample_that_is_not_valid_takes_every_patch_over_it_along():
    valid = np.ones((1, 1, 2000), bool)
    valid[0, 0, [190, 900]] = False  # the first lies in two patches
    tokens = overlapping().tokenize(batch_of(np.ones((1, 1, 2000)), valid, ("Cz",)))
    assert (~tokens.valid[0]).nonzero()[:, 0].tolist() == [0, 1, 4, 5] and (tokens.patches[~tokens.valid] == 0).all()


def test_overlapping_cubes_are_averaged_along_every_axis():
    steps, shape = (2, 3), (3, 5)
    picture = torch.randn(1, 2, 3 + 4 * 2, 5 + 2 * 3, dtype=torch.float64)
    patches = pictures.overlapping(picture, shape, steps)
    assert patches.shape == (1, 2 * 5 * 3, 15)
    torch.testing.assert_close(patches[0, 15 + 3 * 2 + 1].view(3, 5), picture[0, 1, 4:7, 3:8])
    torch.testing.assert_close(pictures.averaged(patches, (2, 5, 3), shape, steps), picture)


def test_a_signal_shorter_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="199 samples are shorter than the patch of 200"):
        overlapping().tokenize(batch_of(np.ones((1, 1, 199)), names=("Cz",)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tokenizer.patch": 50, "tokenizer.stride": 51}, "tokenizer.stride: 51 .* what lies between"),
        ({"tokenizer.patch": 200, "tokenizer.stride": 180, "data.window_s": 0.5}, "100 samples, fewer than"),
        ({"tokenizer.patch": 48, "tokenizer.stride": 0}, "not a multiple"),
    ],
)
def test_patches_that_cannot_be_cut_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        recipes.resolve("reve", size="tiny", flags=flags)


def test_a_convnet_has_tokens_that_tile_or_is_refused():
    assert recipes.resolve("spark", size="base", domain="eeg").tokenizer.step == 200
    with pytest.raises(UsageError, match=r"every 30 overlap, and a convnet.*tokenizer.stride = 0"):
        recipes.resolve("spark", size="tiny", domain="eeg", settings=["tokenizer.stride=30"])
