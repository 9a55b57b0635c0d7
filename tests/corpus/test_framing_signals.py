"""Windows of signals in seconds, for patches and for spectrograms."""

import numpy as np
import pytest

import readers
from readers.schema import ReadError, Window
from tests import audio_files, mri_files
from toolkit import recipe as recipes
from toolkit.corpus import framing, windows
from toolkit.corpus.batches import collate
from toolkit.corpus.framing import SignalFraming
from toolkit.corpus.inputs import gather, open_input
from toolkit.model import tokenizers


@pytest.fixture
def twelve(wfdb_folder):
    """Twelve leads at 200 Hz, 11 s; the model reads 100 Hz in patches of 10 samples."""
    return open_input(gather([str(wfdb_folder / "a/twelve.hea")]).items[0])


@pytest.fixture
def frame(tiny) -> SignalFraming:
    return framing.build(tiny())


def bird_recipe(**changes):
    return recipes.resolve("bird-mae", size="tiny", flags={k.replace("__", "."): v for k, v in changes.items()})


def song(folder, seconds=2.0, channels=2, rate=32_000):
    signals = audio_files.song(seconds, rate, channels)
    return readers.open_recording(audio_files.audio(folder, "wav", "FLOAT", signals, rate=rate)), signals


def test_windows_are_whole_patches_and_steps_are_as_asked(twelve, frame):
    assert (frame.unit, frame.scale, frame.window, frame.length(twelve), frame.end(twelve)) == ("s", "s", 200, 1100, 11.0)
    assert frame.plan(twelve, 2.0, 2.0) == [Window(s, s + 200) for s in range(0, 1100, 200)]
    assert frame.plan(twelve, 1.97, 0.55)[:3] == [Window(0, 200), Window(55, 255), Window(110, 310)]
    assert frame.plan(twelve, 0.01, 5.0)[0] == Window(0, 10)


def test_intervals_are_seconds_and_end_with_the_recording(twelve, frame):
    assert [frame.interval(twelve, w) for w in frame.plan(twelve, 4.0, 4.0)] == [(0, 4), (4, 8), (8, 11)]
    assert frame.interval(twelve, Window(55, 255)) == (0.55, 2.55)


@pytest.mark.parametrize(("start", "stop"), [(3.0, 5.0), (3.5, 4.0), (3.51, 3.52), (0.0, 0.1), (10.9, 11.0)])
def test_a_short_interval_is_in_the_middle_of_one_window(twelve, frame, start, stop):
    (piece,) = frame.around(twelve, start, stop, 2.0)
    assert piece.window.stop - piece.window.start == 200
    begin = piece.window.start / 100
    assert begin + piece.low == pytest.approx(start) and begin + piece.high == pytest.approx(stop)
    assert abs((begin + 1.0) - (start + stop) / 2) <= 0.01


def test_a_long_interval_is_windows_side_by_side_and_the_last_shows_only_its_part(twelve, frame):
    pieces = frame.around(twelve, 1.0, 6.5, 2.0)
    assert [p.window for p in pieces] == [Window(100, 300), Window(300, 500), Window(500, 700)]
    assert [p.low for p in pieces] == [0, 0, 0] and pieces[-1].high == 1.5 and min(p.high for p in pieces[:2]) >= 2.0


def test_an_interval_that_is_a_planned_window_is_that_window(twelve, frame):
    for window in frame.plan(twelve, 2.0, 0.5):
        start, stop = frame.interval(twelve, window)
        if stop - start == 2.0:
            assert [p.window for p in frame.around(twelve, start, stop, 2.0)] == [window]


def test_loading_is_what_windows_load(twelve, frame, tiny):
    for window in (Window(300, 500), Window(1000, 1200)):
        got, want = frame.load(twelve, window, [0, 3]), windows.load(twelve, window, tiny().data, [0, 3])
        np.testing.assert_array_equal(got.values, want.values)
        np.testing.assert_array_equal(got.valid, want.valid)
    assert got.valid[:, :100].all() and not got.valid[:, 100:].any()


def test_a_sample_is_in_physical_units_with_a_margin(twelve, frame):
    sample = frame.sample(twelve, 2.0, 3.5, [1], margin=0.5)
    assert sample.values.shape == (1, 250) and sample.time_s[0] == pytest.approx(1.5)
    np.testing.assert_array_equal(sample.values, twelve.read(150, 400, rate_hz=100, channels=[1]).values)
    assert not frame.sample(twelve, 0.0, 1.0, [1], margin=0.5).valid[0, :50].any()


def test_windows_are_drawn_from_all_of_a_recording(twelve, frame):
    drawn = [frame.draw(twelve, 1100, np.random.default_rng(k)) for k in range(3000)]
    assert {w.stop - w.start for w in drawn} == {200}
    assert min(w.start for w in drawn) < 5 and max(w.start for w in drawn) > 895 and max(w.stop for w in drawn) <= 1100
    assert frame.draw(twelve, 30, np.random.default_rng(0)) == Window(0, 200)
    assert (frame.weight(30), frame.weight(900), frame.count(30), frame.count(900)) == (200, 900, 1, 4)


def test_at_most_so_many_channels_in_the_order_of_the_file(tiny):
    frame = framing.build(tiny(data__most_channels=3))
    chosen = [frame.choose(range(12), np.random.default_rng(k)) for k in range(200)]
    assert all(len(set(c)) == 3 and c == sorted(c) for c in chosen) and {i for c in chosen for i in c} == set(range(12))
    assert frame.layout(range(12)) == 3 and frame.layout([4]) == 1


def test_tokens_tell_their_seconds(twelve, frame, tiny):
    tokens = tokenizers.build(tiny()).tokenize(collate([frame.load(twelve, Window(300, 500), [0, 1])]))
    start, stop = frame.token_intervals(twelve, Window(300, 500), tokens.coords[0].numpy())
    np.testing.assert_allclose(start, np.tile(3 + np.arange(20) / 10, 2), atol=1e-6)
    np.testing.assert_allclose(stop, np.tile(3.1 + np.arange(20) / 10, 2), atol=1e-6)


def test_tokens_of_a_spectrogram_end_with_their_window(tmp_path):
    recording, _ = song(tmp_path)
    recipe = bird_recipe(data__window_s=0.6)  # 58 frames: three patches and ten frames of another
    frame = framing.build(recipe)
    window = frame.plan(recording, 0.6, 0.6)[1]
    tokens = tokenizers.build(recipe).tokenize(collate([frame.load(recording, window, [0, 1])]))
    start, stop = frame.token_intervals(recording, window, tokens.coords[0].numpy())
    assert tokens.valid.all() and sorted(set(start.round(6))) == pytest.approx([0.6, 0.76, 0.92, 1.08])
    assert sorted(set(stop.round(6))) == pytest.approx([0.76, 0.92, 1.08, 1.2])


def test_audio_is_the_mean_of_its_channels_at_full_scale(tmp_path):
    recording, signals = song(tmp_path)
    frame = framing.build(bird_recipe())
    channels = frame.channels(recording)
    assert frame.choose(channels, np.random.default_rng(0)) == channels == [0, 1] and frame.layout(channels) == 1
    sample = frame.load(recording, Window(16_000, 48_000), channels)
    np.testing.assert_allclose(sample.values, signals[16_000:48_000].mean(1)[None], atol=1e-6)
    assert sample.valid.all() and sample.scaling.offset.tolist() == [0] and sample.scaling.scale.tolist() == [1]
    assert frame.window == 160_000 and frame.length(recording) == 64_000
    assert frame.mismatches(recording, (), channels) == ["2 channels, the model reads their mean"]


@pytest.mark.parametrize("seconds", [0.001, 0.0249, 0.025])
def test_a_window_of_a_spectrogram_holds_at_least_one_frame(tmp_path, seconds):
    recording, _ = song(tmp_path)
    frame = framing.build(bird_recipe())
    planned = [*frame.plan(recording, seconds, 0.5), frame.around(recording, 0.3, 0.4, seconds)[0].window]
    assert {w.stop - w.start for w in planned} == {800}
    assert tokenizers.build(bird_recipe()).tokenize(collate([frame.load(recording, planned[1], [0, 1])])).valid.all()


def test_bandwidth_that_is_lost_or_missing_is_said(tmp_path):
    frame = framing.build(bird_recipe())
    fast, slow = (song(tmp_path / str(rate), 0.5, 1, rate)[0] for rate in (48_000, 16_000))
    assert frame.mismatches(fast, (), [0]) == [
        "recorded at 48000 Hz, the model reads 32000 Hz: content from 16000 to 24000 Hz is not seen"
    ]
    assert frame.mismatches(slow, (), [0]) == [
        "recorded at 16000 Hz, the model reads 32000 Hz: the file holds nothing from 8000 to 16000 Hz"
    ]


def test_what_holds_no_such_channel_is_refused(tmp_path, twelve, frame):
    with pytest.raises(ReadError, match="holds no channel of kind audio"):
        framing.build(bird_recipe()).channels(twelve)
    with pytest.raises(ReadError, match="holds no channel of kind ecg or ppg"):
        frame.channels(readers.open_recording(mri_files.volume(tmp_path, "a_T1w")))
