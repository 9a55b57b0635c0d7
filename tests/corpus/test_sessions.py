"""Scaling by the recording: measured once, in bounded memory, the same from files and from a corpus."""

import numpy as np
import pytest

import readers
from readers.schema import ReadError, Window
from tests import eeg_files, eeg_session, prepared
from toolkit.corpus import framing, inputs, sessions
from toolkit.corpus.batches import BatchSampler
from toolkit.corpus.sources import open_sources

NAMES = ("Fp1", "Cz", "O2")


def recipe(**changes):
    return prepared.recipe("edf", data__scaling="session", data__rate_hz=100.0, **changes)


def opened(folder, seconds=20, **rest):
    return readers.open_recording(eeg_session.record(folder / "a.edf", NAMES, seconds, **rest))


def test_each_channel_has_the_mean_and_deviation_of_its_whole_recording(tmp_path):
    recording = opened(tmp_path)
    values = recording.read(0, 2000).values.astype(np.float64)
    found = sessions.measure(recording, recipe().data, [2, 0])
    np.testing.assert_allclose(found.offset, values.mean(1)[[2, 0]], rtol=1e-9)
    np.testing.assert_allclose(found.scale, values.std(1)[[2, 0]], rtol=1e-9)
    sample = framing.build(recipe()).load(recording, Window(300, 400), [2, 0])
    want = (values[:, 300:400] - values.mean(1)[:, None]) / values.std(1)[:, None]
    np.testing.assert_allclose(sample.values, want[[2, 0]], atol=1e-6)


def test_a_window_does_not_change_with_what_else_is_in_it(tmp_path):
    """A scaling of its own would take the amplitude of a window away, which differs from the session's."""
    recording = opened(tmp_path)
    frame = framing.build(recipe())
    long, short = frame.load(recording, Window(0, 400), [0, 1, 2]), frame.load(recording, Window(100, 200), [1])
    np.testing.assert_array_equal(short.values[0], long.values[1, 100:200])


def test_a_long_recording_is_looked_at_in_64_windows_once(tmp_path, monkeypatch):
    recording, asked = opened(tmp_path, 400), []
    read = recording.read
    monkeypatch.setattr(recording, "read", lambda a, b, **rest: asked.append((a, b)) or read(a, b, **rest))
    frame = framing.build(recipe())
    for start in (0, 500, 900):
        frame.load(recording, Window(start, start + 100), [0, 1])
    frame.load(recording, Window(0, 100), [1])
    measured = asked[:64]
    assert len(asked) == 64 + 4 and all(b - a == 100 for a, b in measured)
    assert measured[0][0] == 0 and measured[-1][1] == 40_000 and len({a for a, _ in measured}) == 64
    values = read(0, 40_000).values.astype(np.float64)
    np.testing.assert_allclose(sessions.measure(recording, recipe().data, [0]).scale, values[0].std(), rtol=0.05)


def test_what_is_not_valid_or_not_to_be_seen_has_no_part_in_it(tmp_path):
    recording = opened(tmp_path)
    values = recording.read(0, 2000).values.astype(np.float64)

    def first_half(sample):
        valid = sample.valid & (sample.time_s < 10)
        return type(sample)(
            np.where(valid, sample.values, np.float32(1e30)), valid, sample.channels, sample.window, sample.rate_hz
        )

    found = sessions.measure(recording, recipe().data, [0, 1], first_half)
    np.testing.assert_allclose(found.offset, values[:2, :1000].mean(1), rtol=1e-9)
    np.testing.assert_allclose(found.scale, values[:2, :1000].std(1), rtol=1e-9)


def test_flat_and_hidden_channels_have_the_scale_of_the_others(tmp_path):
    lines = eeg_session.lines(NAMES, 8)
    lines[1] = eeg_files.Line(np.full(800, 333), 100, "EEG Cz")
    recording = readers.open_recording(eeg_files.write(tmp_path / "flat.edf", lines))
    found = sessions.measure(recording, recipe().data, [0, 1, 2])
    assert found.scale[1] == pytest.approx(np.sqrt((found.scale[[0, 2]] ** 2).mean()))
    assert np.abs(framing.build(recipe()).load(recording, Window(0, 100), [0, 1, 2]).values[1]).max() < 1e-3


def test_scaled_values_are_limited_and_what_is_written_is_not(tmp_path):
    lines = eeg_session.lines(NAMES, 200)
    lines[0].stored[150] = 30_000
    recording = readers.open_recording(eeg_files.write(tmp_path / "burst.edf", lines))
    sample = framing.build(recipe()).load(recording, Window(100, 200), [0, 1, 2])
    assert sample.values.max() == sessions.LIMIT == sample.values[0, 50] and (np.abs(sample.values) < 15).sum() == 299
    beyond = np.full((3, 4), 40.0, np.float32)
    np.testing.assert_allclose(
        sample.scaling.invert(beyond), (sample.scaling.offset + 40 * sample.scaling.scale)[:, None] * np.ones(4)
    )


def test_a_corpus_gives_the_same_batches_as_its_files(tmp_path):
    for k, names in enumerate((NAMES, NAMES[:2], eeg_session.TEN_TWENTY)):
        eeg_session.record(tmp_path / "data" / f"r{k}.edf", names, 9 + k, seed=k)
    table = recipe(data__mixed=True, data__most_channels=8, training__batch_size=6)
    prepared.prepare(tmp_path / "data", tmp_path / "corpus", table)
    samplers = []
    for where in ("data", "corpus"):
        found, failures, _ = open_sources(inputs.gather([str(tmp_path / where)]), table)
        assert not failures
        samplers.append(BatchSampler(sorted(found, key=lambda s: s.path), table))
    widths = []
    for step in range(6):
        one, other = (sampler.batch(step) for sampler in samplers)
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.valid, other.valid)
        assert one.sources == other.sources
        widths.append(one.values.shape[1])
    assert max(widths) == 8


def test_a_recording_of_which_nothing_can_be_read_says_so(tmp_path):
    recording = opened(tmp_path)

    def broken(*_, **__):
        raise ReadError("the disk is gone")

    recording.read = broken
    with pytest.raises(ReadError, match="the disk is gone"):
        sessions.measure(recording, recipe().data, [0])
