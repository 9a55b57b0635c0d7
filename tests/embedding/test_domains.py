"""Embeddings of every domain: which rows there are, what they are called, and what they depend on."""

import dataclasses

import numpy as np
import pytest
import torch

import readers
from tests import audio_files, mri_files, points_files
from tests.domain_files import CUT, make, small
from toolkit import recipe as recipes
from toolkit.corpus import inputs
from toolkit.corpus.inputs import open_input
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.embedding.pooling import POOLS
from toolkit.model import masked
from toolkit.probing.handcrafted import FEATURES

NAMES = sorted(CUT)
UNITS = {"csfm": "s", "reve": "s", "bird-mae": "s", "bm-mae": "voxel", "point-cmae": "point"}
# Windows a recording, of the first file: 5.3 s of 2 s, 1.3 s of 0.5 s, a head of 61 x 68 x 54 mm in 48 mm, 700 rows of 300.
WINDOWS = {"csfm": 3, "reve": 3, "bird-mae": 3, "bm-mae": 4, "point-cmae": 3}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The first recording of each recipe's domain."""
    folders = {name: make(name, tmp_path_factory.mktemp(name)) for name in NAMES}
    return {name: open_input(inputs.gather([str(data)]).items[0]) for name, data in folders.items()}


def encoder_of(name, recipe=None, **changes):
    recipe = recipe or small(name)
    options = Options("window", recipe.data.window, recipe.data.window, -1, "meanmax", 4)
    return RecordingEncoder(masked.build(recipe), recipe, dataclasses.replace(options, **changes), CPU)


def joined(blocks):
    blocks = list(blocks)
    start, stop, vectors = (np.concatenate([getattr(b, k) for b in blocks]) for k in ("start", "stop", "embedding"))
    return start, stop, vectors, [c for b in blocks for c in b.channel or ()]


@pytest.mark.parametrize("name", NAMES)
def test_windows_are_rows_in_the_domain_s_unit_and_the_same_every_time(name, recordings):
    recording, encoder = recordings[name], encoder_of(name)
    start, stop, vectors, _ = joined(encoder.rows(recording))
    assert vectors.shape == (WINDOWS[name], 64) and vectors.dtype == np.float32 and np.isfinite(vectors).all()
    assert encoder.framing.unit == UNITS[name] and (start >= 0).all() and (start < stop).all()
    assert stop.max() <= encoder.framing.end(recording) + 1e-9 and len(set(start)) == len(start)
    again, alone = (joined(encoder_of(name, batch_size=size).rows(recording))[2] for size in (4, 1))
    np.testing.assert_array_equal(vectors, again)
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_an_interval_that_is_a_row_gives_that_row_s_vector(name, recordings):
    recording, encoder = recordings[name], encoder_of(name)
    start, stop, vectors, _ = joined(encoder.rows(recording))
    whole = slice(None) if UNITS[name] != "s" else np.isclose(stop - start, encoder.options.window)
    got = encoder.intervals(recording, np.stack([start, stop], 1)[whole])
    np.testing.assert_allclose(got, vectors[whole], atol=1e-5)
    assert len(got) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_the_mean_of_its_windows_from_its_first_to_its_last(name, recordings):
    start, stop, vectors, _ = joined(encoder_of(name).rows(recordings[name]))
    one_start, one_stop, one, _ = joined(encoder_of(name, level="recording", batch_size=2).rows(recordings[name]))
    assert (one_start.tolist(), one_stop.tolist()) == ([start.min()], [stop.max()])
    np.testing.assert_allclose(one[0], vectors.mean(0), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", sorted(POOLS))
def test_tokens_of_a_window_pool_to_its_row(name, pool, recordings):
    recording = recordings[name]
    start, stop, vectors, channel = joined(encoder_of(name, level="token", batch_size=1).rows(recording))
    rows = joined(encoder_of(name, pool=pool).rows(recording))
    first = next(encoder_of(name, level="token", batch_size=1).rows(recording))
    pooled = POOLS[pool](torch.from_numpy(first.embedding)[None], torch.ones(1, len(first.start), dtype=torch.bool))[0]
    np.testing.assert_allclose(pooled, rows[2][0], atol=1e-5)
    assert vectors.shape[1] == 32 and len(channel) == len(start) == len(vectors) and np.isfinite(vectors).all()
    assert (start >= 0).all() and (start < stop).all() and (start[0], stop[len(first.stop) - 1]) <= (rows[0][0], rows[1][0])


def test_channels_of_tokens_are_named(recordings):
    held = {name: set(joined(encoder_of(name, level="token").rows(recordings[name]))[3]) for name in NAMES}
    assert held["csfm"] == {"I", "II", "V2"} and held["bm-mae"] == {c.name for c in recordings["bm-mae"].channels}
    assert held["reve"] == {"Fp1", "Cz", "O1", "O2"} and len(held["bird-mae"]) == 1 and held["point-cmae"] == {"xyz"}


@pytest.mark.parametrize("way", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_a_head_in_several_cubes_is_one_box_of_the_file_whatever_its_direction(tmp_path, way):
    where = mri_files.affine([4 * w for w in way])
    recording = readers.open_recording(mri_files.volume(tmp_path, "a_T1w", mri_files.head((18, 20, 16)), where=where))
    ((start, stop),) = [(r.start[0], r.stop[0]) for r in encoder_of("bm-mae", level="recording").rows(recording)]
    number = np.arange(18 * 20 * 16).reshape(18, 20, 16)
    lowest, highest = (np.argwhere(number == n)[0] for n in (int(start), int(stop) - 1))
    head = np.argwhere(mri_files.head((18, 20, 16)) > 0)
    assert (lowest <= head.min(0)).all() and (highest >= head.max(0)).all()


def test_sound_that_follows_a_clip_does_not_change_it_and_silence_at_its_end_is_no_token(tmp_path):
    """1.3 s in windows of 5 s: what lies beyond the end is not valid; a longer window of filling changes nothing much."""
    signals = audio_files.song(1.3)
    recording = readers.open_recording(audio_files.audio(tmp_path, "wav", "FLOAT", signals))
    vectors = []
    for window in (2.0, 5.0):
        recipe = small("bird-mae", data__window_s=window)
        start, stop, vector, _ = joined(encoder_of("bird-mae", recipe).rows(recording))
        assert (start.tolist(), stop.tolist()) == ([0.0], [pytest.approx(1.3)])
        vectors.append(vector[0])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_the_filling_of_a_full_clip_has_no_part_in_its_embedding(tmp_path):
    """31 columns of a clip of 5 s are sound, the last is filling: cut after the 31st, the clip is the same to the encoder."""
    signals = audio_files.song(5.0)
    whole = readers.open_recording(audio_files.audio(tmp_path / "a", "wav", "FLOAT", signals))
    cut = readers.open_recording(audio_files.audio(tmp_path / "b", "wav", "FLOAT", signals[: 800 + 320 * (16 * 31 - 1)]))
    recipe = small("bird-mae", data__window_s=5.0)
    one, other = (joined(encoder_of("bird-mae", recipe).rows(r))[2] for r in (whole, cut))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_unit_and_place_of_a_cloud_do_not_change_its_embedding(tmp_path):
    columns = points_files.cloud(300)
    moved = {k: (0.02 * v + 5).astype(np.float64) if k in "xyz" else v for k, v in columns.items()}
    clouds = [readers.open_recording(points_files.ply(tmp_path / f"{k}.ply", c)) for k, c in enumerate((columns, moved))]
    one, other = (joined(encoder_of("point-cmae").rows(r))[2] for r in clouds)
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert np.abs(one).max() > 0.1


def test_the_unit_of_a_contrast_does_not_change_its_embedding(tmp_path):
    head = mri_files.head((18, 20, 16))
    where = mri_files.affine((4, 4, 4))
    volumes = [
        readers.open_recording(mri_files.volume(tmp_path / str(k), "a_T1w", scale * head, dtype="float32", where=where))
        for k, scale in enumerate((1.0, 0.003))
    ]
    one, other = (joined(encoder_of("bm-mae").rows(r))[2] for r in volumes)
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_every_domain_has_features_to_beat(recordings):
    domains = {d for name in NAMES for d in recipes.resolve(name).domains}
    assert set(FEATURES) == domains == {"cardiac", "eeg", "audio", "mri", "points"}


@pytest.mark.parametrize("name", NAMES)
def test_features_describe_a_row_s_interval(name, recordings):
    recording, encoder = recordings[name], encoder_of(name)
    start, stop, _, _ = joined(encoder.rows(recording))
    channels = encoder.framing.channels(recording)
    rows = []
    for a, b in list(zip(start, stop, strict=True))[:2]:
        sample = encoder.framing.sample(recording, a, b, channels)
        values, names = FEATURES[recording.domain](sample, 0.0)
        assert values.shape == (len(names),) and values.dtype == np.float32 and np.isfinite(values).mean() > 0.5
        rows.append(names)
    assert rows[0] == rows[1] and len(set(rows[0])) == len(rows[0])
