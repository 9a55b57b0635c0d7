import dataclasses

import numpy as np
import pytest
import torch

from readers.cardiac import create_wfdb
from readers.schema import ReadError
from toolkit.corpus import windows
from toolkit.corpus.batches import collate
from toolkit.corpus.inputs import gather, open_input
from toolkit.embedding.encoder import Options, RecordingEncoder

CPU = torch.device("cpu")
WINDOW = Options("window", 2.0, 2.0, -1, "mean", 4)


def opened(path):
    return open_input(gather([str(path)]).items[0])


@pytest.fixture
def encode(loaded):
    return lambda **changes: RecordingEncoder(loaded.model, loaded.recipe, dataclasses.replace(WINDOW, **changes), CPU)


def joined(blocks):
    blocks = list(blocks)
    return tuple(np.concatenate([getattr(b, name) for b in blocks]) for name in ("start", "stop", "embedding"))


@pytest.mark.parametrize("pool", ["mean", "max", "meanstd", "meanmax"])
def test_the_batch_size_and_a_second_run_change_nothing(wfdb_folder, encode, pool):
    recording = opened(wfdb_folder / "a/twelve.hea")
    one, two, again = (joined(encode(pool=pool, batch_size=size, stride=1.0).rows(recording)) for size in (1, 5, 5))
    np.testing.assert_allclose(one[2], two[2], atol=1e-5)
    np.testing.assert_array_equal(two[2], again[2])
    np.testing.assert_array_equal(one[0], np.arange(len(one[0])))
    assert one[2].dtype == np.float32 and one[2].shape[1] == (64 if pool in ("meanstd", "meanmax") else 32)


def test_rows_run_to_the_end_of_the_recording(wfdb_folder, encode):
    start, stop, _ = joined(encode().rows(opened(wfdb_folder / "a/two.hea")))  # 9.3 s
    np.testing.assert_allclose(start, [0, 2, 4, 6, 8])
    np.testing.assert_allclose(stop, [2, 4, 6, 8, 9.3])


def test_a_window_is_rounded_to_whole_patches_and_says_so_in_its_rows(wfdb_folder, encode):
    start, stop, _ = joined(encode(window=1.96, stride=1.5).rows(opened(wfdb_folder / "b/both.hea")))
    np.testing.assert_allclose(start[:3], [0, 1.5, 3.0])
    np.testing.assert_allclose((stop - start)[:3], 2.0)


@pytest.fixture
def gappy(tmp_path):
    """Eight seconds of two leads: nothing at all from 2 to 4 s, lead V2 alone missing from 4 to 6 s."""
    values = np.random.default_rng(0).normal(size=(800, 2))
    values[200:400] = np.nan
    values[400:600, 1] = np.nan
    return opened(create_wfdb(tmp_path, "gappy", values, rate_hz=100, names=["I", "V2"], units=["mV", "mV"]))


def test_a_window_without_a_valid_sample_gives_no_row(gappy, encode):
    for size in (1, 4):
        start, _, vectors = joined(encode(batch_size=size).rows(gappy))
        assert start.tolist() == [0, 4, 6] and np.isfinite(vectors).all()


def test_tokens_are_the_valid_patches_by_channel_and_time(gappy, encode):
    blocks = list(encode(level="token").rows(gappy))
    start, stop, vectors = joined(blocks)
    channel = np.array([c for b in blocks for c in b.channel])
    assert vectors.shape == (20 * 2 * 3 - 20, 32)
    np.testing.assert_allclose(stop - start, 0.1)
    first = channel == "I"
    np.testing.assert_allclose(start[first], [*np.arange(20) / 10, *(4 + np.arange(40) / 10)], atol=1e-6)
    np.testing.assert_allclose(start[~first], [*np.arange(20) / 10, *(6 + np.arange(20) / 10)], atol=1e-6)
    whole = joined(encode().rows(gappy))
    inside = (start >= 4 - 1e-6) & (start < 6 - 1e-6)
    np.testing.assert_allclose(vectors[inside].mean(0), whole[2][1], atol=1e-5)


def test_a_recording_is_the_mean_of_its_windows(gappy, encode):
    rows = joined(encode().rows(gappy))
    start, stop, vector = joined(encode(level="recording", batch_size=2).rows(gappy))
    assert (start.tolist(), stop.tolist()) == ([0.0], [8.0])
    np.testing.assert_allclose(vector[0], rows[2].mean(0), atol=1e-6)


def test_a_recording_without_a_valid_sample_says_so(tmp_path, encode):
    empty = opened(create_wfdb(tmp_path, "empty", np.full((500, 1), np.nan), rate_hz=100, names=["I"], units=["mV"]))
    assert not any(len(b.start) for b in encode().rows(empty))
    with pytest.raises(ReadError, match="valid sample"):
        list(encode(level="recording").rows(empty))


def test_layers_differ_and_the_last_is_the_default(wfdb_folder, encode):
    recording = opened(wfdb_folder / "a/two.hea")
    layers = [joined(encode(layer=layer).rows(recording))[2] for layer in (-1, -2, -3)]
    assert all(np.abs(layers[a] - layers[b]).max() > 1e-3 for a, b in ((0, 1), (1, 2)))
    both = joined(encode(layer=-2, layers=2).rows(recording))[2]  # the mean over tokens and over layers commute
    np.testing.assert_allclose(both, (layers[1] + layers[2]) / 2, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "meanstd", "meanmax"])
def test_an_interval_that_is_a_window_gives_that_window_s_vector(wfdb_folder, encode, pool):
    recording = opened(wfdb_folder / "a/twelve.hea")
    start, stop, vectors = joined(encode(pool=pool).rows(recording))
    whole = np.isclose(stop - start, 2.0)
    got = encode(pool=pool).intervals(recording, np.stack([start, stop], 1)[whole])
    np.testing.assert_allclose(got, vectors[whole], atol=1e-5)
    assert whole.sum() >= 5 and got.dtype == np.float32


def test_a_long_interval_is_the_mean_of_its_windows(wfdb_folder, encode):
    recording = opened(wfdb_folder / "a/twelve.hea")
    vectors = joined(encode().rows(recording))[2]
    np.testing.assert_allclose(encode().intervals(recording, np.array([[2.0, 8.0]]))[0], vectors[1:4].mean(0), atol=1e-5)


def test_a_short_interval_pools_its_own_tokens_of_the_window_around_it(wfdb_folder, encode, loaded):
    recording = opened(wfdb_folder / "a/twelve.hea")
    got = encode().intervals(recording, np.array([[3.5, 4.0]]))[0]  # the window around it is 2.75 to 4.75 s
    encoder = encode(level="token")
    around = windows.load(recording, windows.Window(275, 475), loaded.recipe.data, range(12))
    tokens = encoder.tokenizer.tokenize(collate([around]))
    with torch.inference_mode():
        states = loaded.model.encoder(tokens).last[0]
    time = tokens.coords[0, :, 3].numpy()
    np.testing.assert_allclose(got, states[(time >= 0.75) & (time < 1.25)].mean(0), atol=1e-5)


def test_an_interval_does_not_depend_on_the_others_asked_with_it(wfdb_folder, encode):
    recording = opened(wfdb_folder / "a/twelve.hea")
    spans = np.array([[3.5, 4.0], [5.0, 5.001], [4.05, 4.15], [1.0, 6.5], [4.0, 4.2], [2.0, 4.0]])
    together = encode(batch_size=16).intervals(recording, spans)
    alone = np.concatenate([encode().intervals(recording, span[None]) for span in spans])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.isfinite(together).all()


def test_an_interval_without_a_valid_sample_is_nan_and_at_the_edges_is_not(gappy, encode):
    got = encode().intervals(gappy, np.array([[2.2, 3.8], [0.0, 0.5], [7.6, 8.0], [20.0, 21.0], [1.0, 3.0]]))
    assert np.isnan(got).all(1).tolist() == [True, False, False, True, False]
    assert encode().intervals(gappy, np.empty((0, 2))).shape == (0, 32)
