import dataclasses

import numpy as np
import pytest
import torch

from readers.schema import Channel
from toolkit.corpus import windows
from toolkit.corpus.batches import Batch, collate
from toolkit.embedding.pooling import POOLS
from toolkit.model import masked, tokenizers


def channel(name, kind="ecg", position=None):
    return Channel(name, name, kind, "mV", 1e-3, 100.0, position)


@pytest.fixture(scope="module")
def twelve(sources, tiny):
    """Four windows of the 12-lead record, one of them padded at its end."""
    source = next(s for s in sources if len(s.channels) == 12)
    planned = [*windows.plan(source.length, 200, 200)[:3], windows.Window(source.length - 95, source.length + 105)]
    return collate([windows.load(source.recording, w, tiny().data, source.channels) for w in planned])


def permuted(batch, order):
    return dataclasses.replace(
        batch,
        values=batch.values[:, order],
        valid=batch.valid[:, order],
        channels=tuple(tuple(c[i] for i in order) for c in batch.channels),
    )


def test_tokens_go_back_to_the_signal_exactly(twelve, tiny):
    tokenizer = tokenizers.build(tiny())
    tokens = tokenizer.tokenize(twelve)
    back = tokenizer.untokenize(tokens.patches, tokens.grid).numpy()
    whole = twelve.valid.reshape(4, 12, 20, 10).all(-1).repeat(10, axis=-1)
    np.testing.assert_array_equal(back, np.where(whole, twelve.values, 0))
    assert whole[:3].all() and not whole[3].all()


def test_a_token_is_one_patch_of_one_channel_with_its_place_time_and_identity(twelve, tiny):
    recipe = tiny()
    tokens = tokenizers.build(recipe).tokenize(twelve)
    assert tokens.grid == (12, 20) and tokens.patches.shape == (4, 240, 10)
    for token in (0, 7, 20, 239):
        lead, patch = divmod(token, 20)
        described = twelve.channels[1][lead]
        np.testing.assert_array_equal(tokens.patches[1, token], twelve.values[1, lead, 10 * patch : 10 * patch + 10])
        np.testing.assert_allclose(tokens.coords[1, token], [*described.position, (10 * patch + 5) / 100], rtol=1e-6)
        assert recipe.tokenizer.channels[tokens.channel[1, token]] == described.canonical


def test_a_token_is_valid_when_all_its_samples_are(tiny):
    valid = np.ones((1, 1, 40), bool)
    valid[0, 0, [3, 39]] = False
    batch = Batch(np.ones((1, 1, 40), np.float32), valid, ((channel("I"),),))
    assert tokenizers.build(tiny()).tokenize(batch).valid.tolist() == [[False, True, True, False]]


def test_unknown_and_repeated_channels_have_numbers_behind_the_known_ones(tiny):
    recipe = tiny(tokenizer__channels=("I", "II"), mask__groups_of_channels=(("I", "II"),))
    tokenizer = tokenizers.build(recipe)
    assert tokenizer.identities.of([channel(n) for n in ["II", "X", "I", "II", "Y", "X"]]) == [1, 2, 0, 3, 4, 5]


def test_samples_that_make_no_whole_patches_are_refused_with_both_numbers(tiny):
    batch = Batch(np.ones((1, 1, 45), np.float32), np.ones((1, 1, 45), bool), ((channel("I"),),))
    with pytest.raises(ValueError, match=r"45 samples .* 10 samples"):
        tokenizers.build(tiny()).tokenize(batch)


def test_taking_tokens_takes_every_field_in_that_order(twelve, tiny):
    tokens = tokenizers.build(tiny()).tokenize(twelve)
    index = torch.tensor([[5, 0], [1, 239], [7, 7], [100, 3]])
    taken = tokens.take(index)
    for name in (f.name for f in dataclasses.fields(tokens) if f.name != "grid"):
        full, part = getattr(tokens, name), getattr(taken, name)
        for row in range(4):
            for i, token in enumerate(index[row]):
                np.testing.assert_array_equal(part[row, i], full[row, token])


@pytest.mark.parametrize("pool", sorted(POOLS))
@pytest.mark.parametrize("rotary", [("t",), ()], ids=["rotary", "plain"])
@torch.inference_mode()
def test_permuting_channels_leaves_the_embedding_unchanged(twelve, tiny, pool, rotary):
    recipe = tiny(position__rotary=rotary)
    model, tokenizer = masked.build(recipe).eval(), tokenizers.build(recipe)
    order = np.random.default_rng(0).permutation(12)
    first, second = (
        POOLS[pool](model.encoder(t).last, t.valid) for t in map(tokenizer.tokenize, (twelve, permuted(twelve, order)))
    )
    assert first.std(0).max() > 0.01  # the four windows do differ
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    swapped = dataclasses.replace(permuted(twelve, order), channels=twelve.channels)  # identities left behind
    other = tokenizer.tokenize(swapped)
    assert (POOLS[pool](model.encoder(other).last, other.valid) - first).abs().max() > 1e-3


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30, 7.0])
@torch.inference_mode()
def test_values_in_an_absent_channel_change_nothing(twelve, tiny, junk):
    recipe = tiny()
    model, tokenizer = masked.build(recipe).eval(), tokenizers.build(recipe)
    valid = twelve.valid.copy()
    valid[:, [2, 9]] = False
    results = []
    for filling in (0.0, junk):
        values = np.where(valid, twelve.values, np.float32(filling))
        tokens = tokenizer.tokenize(dataclasses.replace(twelve, values=values, valid=valid))
        visible, hidden = torch.arange(0, 240, 2).expand(4, -1), torch.arange(1, 240, 2).expand(4, -1)
        states = model.encoder(tokens).last
        results.append([states[tokens.valid], model(tokens, visible, hidden), *(p(states, tokens.valid) for p in POOLS.values())])
        assert all(torch.isfinite(r).all() for r in results[-1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@torch.inference_mode()
def test_an_absent_channel_is_as_if_it_were_not_there(twelve, tiny):
    recipe = tiny()
    model, tokenizer = masked.build(recipe).eval(), tokenizers.build(recipe)
    kept = [i for i in range(12) if i not in (2, 9)]
    valid = twelve.valid.copy()
    valid[:, [2, 9]] = False
    absent, without = tokenizer.tokenize(dataclasses.replace(twelve, valid=valid)), tokenizer.tokenize(permuted(twelve, kept))
    for pool in POOLS.values():
        first, second = (pool(model.encoder(t).last, t.valid) for t in (absent, without))
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
