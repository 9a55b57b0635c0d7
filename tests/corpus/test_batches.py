import dataclasses

import numpy as np
import pytest
import torch

from readers.schema import ReadError, Window
from tests import eeg_session, prepared
from toolkit.corpus import inputs, windows
from toolkit.corpus.batches import BatchSampler, Prefetcher, Source, collate
from toolkit.corpus.sources import open_sources
from toolkit.embedding.pooling import pooled
from toolkit.model import masked, tokenizers
from toolkit.model.states import States
from toolkit.objective.objective import Objective
from toolkit.recipe import PassTable


def same(a, b):
    return (
        np.array_equal(a.values, b.values)
        and np.array_equal(a.valid, b.valid)
        and a.channels == b.channels
        and a.sources == b.sources
        and a.subjects == b.subjects
        and ((a.other is None and b.other is None) or same(a.other, b.other))
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
    assert batch.subjects == () and batch.other is None


# Subjects.


def test_a_batch_names_subjects_as_the_files_do(sources, tiny):
    sampler = BatchSampler(sources, tiny())
    assert sampler.subjects == ("s1", "s2", "s3", "s4")
    of = {str(s.recording.path): s.recording.ids["subject"] for s in sources}
    for step in range(5):
        batch = sampler.batch(step)
        assert batch.subjects == tuple(of[path] for path in batch.sources)


def test_a_manifest_s_subject_comes_before_the_file_s_and_a_path_stands_for_an_unknown_one(sources):
    first = sources[0]
    assert dataclasses.replace(first, given_subject="given").subject == "given"

    class Nameless:
        path, ids = first.recording.path, {}

    assert dataclasses.replace(first, recording=Nameless()).subject == str(first.recording.path)


# Pairs.


def looking_at_others(recipe):
    return recipe.model_copy(update={"passes": (PassTable(), PassTable(view="other"))})


@pytest.mark.parametrize("kind", sorted(prepared.MAKERS))
def test_pairs_are_two_windows_of_one_recording_with_the_same_channels(kind, tmp_path):
    data = prepared.folder_of(kind, tmp_path / "data")
    recipe = looking_at_others(prepared.recipe(kind, training__batch_size=4))
    opened, failures, _ = open_sources(inputs.gather([str(data)]), recipe)
    sampler = BatchSampler(opened, recipe)
    loaded = []
    load = sampler.framing.load
    sampler.framing.load = lambda *asked: loaded.append((*asked[:3], load(*asked))) or loaded[-1][3]
    moved = []
    for step in range(4):
        loaded.clear()
        batch = sampler.batch(step)
        other = batch.other
        assert other.values.shape == batch.values.shape and other.other is None and not failures
        assert other.channels == batch.channels and other.sources == batch.sources and other.subjects == batch.subjects
        for row, path in enumerate(batch.sources):
            (one, at), (two, there) = (
                next((r, w) for r, w, _, s in loaded if np.array_equal(s.values, b.values[row])) for b in (batch, other)
            )
            assert str(one.path) == str(two.path) == path
            moved.append(at != there or not np.array_equal(batch.values[row], other.values[row]))
    assert np.mean(moved) > 0.3  # a small volume has few places for a cube

    prepared.prepare(data, tmp_path / "corpus", recipe)
    again, _, _ = open_sources(inputs.gather([str(tmp_path / "corpus")]), recipe)
    assert sorted(s.path for s in again) == sorted(s.path for s in opened)
    order = {s.path: s for s in again}
    sampler.framing.load = load
    assert same(BatchSampler([order[s.path] for s in opened], recipe).batch(2), sampler.batch(2))


def test_a_recipe_that_looks_at_no_other_window_draws_as_if_there_were_none(sources, tiny):
    plain, paired = BatchSampler(sources, tiny()), BatchSampler(sources, looking_at_others(tiny()))
    one, two = plain.batch(3), paired.batch(3)
    assert one.other is None and one.sources == two.sources
    assert np.array_equal(one.values[0], two.values[0])  # later rows come after the first one's second window


def test_a_recording_whose_second_window_cannot_be_read_is_replaced_whole(sources, tiny):
    recipe = looking_at_others(tiny())
    sampler = BatchSampler([s for s in sources if len(s.channels) == 2], recipe)
    bad, load, asked = sampler.sources[0].path, sampler.framing.load, []

    def failing(recording, *rest):
        asked.append(str(recording.path))
        if asked.count(bad) % 2 == 0 and str(recording.path) == bad:
            raise ReadError("gone")
        return load(recording, *rest)

    sampler.framing.load = failing
    batches = [sampler.batch(step) for step in range(4)]
    assert bad in asked and bad in sampler.broken
    assert all(bad not in batch.sources and batch.other.sources == batch.sources for batch in batches)


# Any montage and length in one batch.


@pytest.fixture(scope="module")
def montages(tmp_path_factory):
    """Recordings of 4, 9 and 19 electrodes, the last shorter than a window, and their recipe."""
    root = tmp_path_factory.mktemp("montages")
    names = eeg_session.TEN_TWENTY
    for k, (count, seconds) in enumerate(((4, 12), (9, 15), (19, 3))):
        eeg_session.record(root / f"r{k}.edf", names[:count], seconds, seed=k)
    recipe = prepared.recipe(
        "edf", data__mixed=True, data__most_channels=16, data__window_s=4.0, data__scaling="session", training__batch_size=12
    )
    found, failures, _ = open_sources(inputs.gather([str(root)]), recipe)
    assert not failures
    return found, recipe


def test_mixed_montages_share_batches_that_are_filled_up_with_what_is_not_valid(montages):
    found, recipe = montages
    sampler, counts = BatchSampler(found, recipe), {s.path: len(s.channels) for s in found}
    drawn = []
    for step in range(8):
        batch = sampler.batch(step)
        assert batch.values.shape[1] <= 16 and batch.values.shape[::2] == (12, 200)  # bounded by most_channels
        for row, path in enumerate(batch.sources):
            held = min(16, counts[path])
            assert batch.valid[row, :held].any(1).all() and not batch.valid[row, held:].any()
            assert [c.missing for c in batch.channels[row]] == [False] * held + [True] * (batch.values.shape[1] - held)
            assert batch.valid[row, 0].sum() == (150 if counts[path] == 19 else 200)
        assert (batch.values[~batch.valid] == 0).all()
        drawn += [counts[path] for path in batch.sources]
    share = [drawn.count(c) / len(drawn) for c in (4, 9, 19)]
    assert np.abs(np.array(share) - np.array([12, 15, 4]) / 31).max() < 0.15
    assert any(len({counts[p] for p in sampler.batch(step).sources}) == 3 for step in range(8))


def test_a_mixed_batch_is_a_function_of_seed_and_step(montages):
    one, other = BatchSampler(*montages), BatchSampler(*montages)
    first = {step: one.batch(step) for step in range(4)}
    assert all(same(other.batch(step), first[step]) for step in (3, 0, 2))


def test_a_sample_comes_out_of_the_model_as_if_it_were_alone(montages):
    found, recipe = montages
    recipe = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"depth": 2})})
    model, tokenizer, frame = masked.build(recipe).eval(), tokenizers.build(recipe), BatchSampler(found, recipe).framing
    pieces = [(s, Window(100, 100 + size)) for s, size in zip(found, (120, 200, 40), strict=True)]
    samples = [frame.load(s.recording, window, s.channels) for s, window in pieces]
    together = tokenizer.tokenize(collate(samples))
    with torch.inference_mode():
        states = model.features(together).last
        for row, sample in enumerate(samples):
            alone = tokenizer.tokenize(collate([sample]))
            steps = alone.grid[1]
            got = states[row].unflatten(0, together.grid)[: alone.grid[0], :steps].flatten(0, 1)
            torch.testing.assert_close(got, model.features(alone).last[0], atol=1e-5, rtol=0)
            means = [
                pooled("mean", States(s, ()), v)
                for s, v in ((states[row : row + 1], together.valid[row : row + 1]), (model.features(alone).last, alone.valid))
            ]
            torch.testing.assert_close(*means, atol=1e-5, rtol=0)


def test_what_stands_in_filled_places_changes_nothing(montages):
    found, recipe = montages
    batch = BatchSampler(found, recipe).batch(0)
    assert not batch.valid.all()
    junk = dataclasses.replace(batch, values=np.where(batch.valid, batch.values, np.float32(1e4)))
    objective = Objective(recipe, masked.build(recipe), tokenizers.build(recipe), tuple(set(batch.subjects)))
    one, other = (float(objective(each, 0, torch.device("cpu")).loss.detach()) for each in (batch, junk))
    assert one == other
