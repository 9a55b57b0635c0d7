import numpy as np
import pytest

from readers.schema import ReadError
from toolkit.corpus import windows
from toolkit.corpus.batches import BatchSampler, Prefetcher, Source, collate


def same(a, b):
    return (
        np.array_equal(a.values, b.values)
        and np.array_equal(a.valid, b.valid)
        and a.channels == b.channels
        and a.sources == b.sources
    )


def test_a_batch_is_a_function_of_seed_and_step_alone(sources, tiny):
    one, other = BatchSampler(sources, tiny()), BatchSampler(sources, tiny())
    first = {step: one.batch(step) for step in range(6)}
    for step in (5, 2, 2, 0):
        assert same(other.batch(step), first[step])
    assert not any(same(first[a], first[b]) for a in first for b in range(a))
    another = BatchSampler(sources, tiny(training__seed=4))
    assert not any(same(another.batch(step), first[step]) for step in first)


def test_a_batch_has_one_channel_count_and_names_its_files(sources, tiny):
    sampler = BatchSampler(sources, tiny())
    paths = {str(s.recording.path): s for s in sources}
    for step in range(20):
        batch = sampler.batch(step)
        channels = batch.values.shape[1]
        assert batch.values.shape == batch.valid.shape == (4, channels, 200) and batch.values.dtype == np.float32
        assert [len(c) for c in batch.channels] == [channels] * 4 and len(batch.sources) == 4
        for source, named in zip(batch.sources, batch.channels, strict=True):
            held = [paths[source].recording.channels[i] for i in paths[source].channels]
            assert set(named) <= set(held) and len(set(named)) == channels
        assert (batch.values[~batch.valid] == 0).all() and batch.valid.mean() > 0.4


def test_every_recording_is_drawn_in_proportion_to_its_length(sources, tiny):
    sampler = BatchSampler(sources, tiny(training__batch_size=20))
    drawn = [source for step in range(60) for source in sampler.batch(step).sources]
    total = sum(s.length for s in sources)
    for source in sources:
        share, expected = drawn.count(str(source.recording.path)) / len(drawn), source.length / total
        assert abs(share - expected) < 0.14, (source.recording.path, share, expected)


def test_a_recording_shorter_than_a_window_is_padded_as_not_valid(sources, tiny):
    recipe = tiny(data__window_s=20.0, training__batch_size=2)
    batch = BatchSampler([sources[0]], recipe).batch(0)
    assert batch.values.shape[-1] == 2000
    assert batch.valid[:, :, : sources[0].length].all() and not batch.valid[:, :, sources[0].length :].any()


def test_an_epoch_counts_whole_windows_and_at_least_one_a_recording(sources, tiny):
    assert BatchSampler(sources, tiny()).num_windows == sum(s.length // 200 for s in sources)
    assert BatchSampler(sources, tiny(data__window_s=60.0)).num_windows == len(sources)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_read_ahead_comes_in_step_order(sources, tiny, workers):
    sampler = BatchSampler(sources, tiny())
    reader = Prefetcher(sampler, 2, 9, workers)
    assert all(same(reader.get(), sampler.batch(step)) for step in range(2, 9))
    reader.close()


def test_what_reading_ahead_raised_comes_with_its_own_step(sources, tiny):
    class Failing(BatchSampler):
        def batch(self, step):
            if step == 3:
                raise ReadError("gone")
            return super().batch(step)

    reader = Prefetcher(Failing(sources, tiny()), 0, 9, 2)
    for _ in range(3):
        reader.get()
    with pytest.raises(ReadError, match="gone"):
        reader.get()
    reader.close()


def test_collating_stacks_in_order(sources, tiny):
    data, source = tiny().data, sources[1]
    samples = [windows.load(source.recording, w, data, source.channels) for w in windows.plan(source.length, 200, 200)[:3]]
    batch = collate(samples, ["x", "y", "z"])
    for row, sample in enumerate(samples):
        np.testing.assert_array_equal(batch.values[row], sample.values)
    assert batch.sources == ("x", "y", "z") and isinstance(sources[0], Source)
