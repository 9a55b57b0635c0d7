"""Pooling by the attention that an objective has trained."""

import dataclasses

import pytest
import torch

from readers import open_recording
from toolkit.corpus.batches import collate
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.errors import UsageError
from toolkit.model import masked
from toolkit.recipe import build

CPU = torch.device("cpu")
TERM = {"name": "global", "predictor": "pool", "pool": "attention"}


@pytest.fixture
def records(wfdb_folder):
    return open_recording(wfdb_folder / "a" / "twelve.hea")


def tokens_of(encoder, recording):
    framing = encoder.framing
    window = framing.plan(recording, 2.0, 2.0)[0]
    return encoder.tokenizer.tokenize(collate([framing.load(recording, window, framing.channels(recording))]))


@pytest.fixture
def encoder(tiny):
    table = tiny().model_dump(exclude_unset=True) | {"terms": [{"name": "reconstruction"}, TERM]}
    recipe = build(table, where="test")
    return RecordingEncoder(masked.build(recipe), recipe, Options("window", 2.0, 2.0, -1, "attention", 4), CPU)


def test_a_window_is_what_the_pooling_of_the_term_reads_of_its_states(encoder, records):
    rows = next(encoder.rows(records))
    tokens = tokens_of(encoder, records)
    pool = encoder.model.branches["global"].pool.attention
    with torch.inference_mode():
        expected = pool(encoder.model.encoder(tokens).last, tokens.valid)[0]
    torch.testing.assert_close(torch.from_numpy(rows.embedding[0]), expected, rtol=0, atol=1e-5)


def test_it_reads_only_what_counts(encoder, records):
    tokens = tokens_of(encoder, records)
    states = encoder.model.features(tokens)
    half = tokens.valid.clone()
    half[:, ::2] = False
    other = dataclasses.replace(states, last=states.last + 5.0 * (~half)[..., None])
    part = dataclasses.replace(tokens, valid=half)
    with torch.inference_mode():
        assert torch.equal(encoder.model.summary(part, states), encoder.model.summary(part, other))
        assert not torch.equal(encoder.model.summary(tokens, states), encoder.model.summary(tokens, other))


def test_a_recipe_without_such_a_term_is_refused(tiny):
    table = tiny().model_dump(exclude_unset=True)
    with pytest.raises(UsageError, match="pools by attention"):
        build(table | {"embedding": {"pool": "attention"}}, where="test")
    with pytest.raises(ValueError, match="no term with pool = 'attention'"):
        masked.build(tiny()).summary(None, None)
