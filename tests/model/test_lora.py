"""Adapters: nothing at first, of low rank afterwards, and gone without a trace once merged."""

import copy

import pytest
import torch
from torch import nn

from toolkit.corpus.batches import BatchSampler
from toolkit.model import lora, masked, tokenizers
from toolkit.model.lora import LowRank
from toolkit.model.transformer import Attention

RANK = 3


@pytest.fixture(scope="module")
def model(tiny):
    return masked.build(tiny()).eval()


@pytest.fixture(scope="module")
def tokens(tiny, sources):
    recipe = tiny()
    return tokenizers.build(recipe).tokenize(BatchSampler(sources, recipe).batch(0))


def adapted(model, *, moved: bool):
    """A copy with adapters; ``moved``: as if they had been trained."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lora.adapt(other.encoder, RANK)
        if moved:
            for part in other.modules():
                if isinstance(part, LowRank):
                    nn.init.normal_(part.up.weight, std=0.1)
    return other


@torch.no_grad()
def test_fresh_adapters_change_nothing_and_trained_ones_do(model, tokens) -> None:
    plain = model.features(tokens).last
    torch.testing.assert_close(adapted(model, moved=False).features(tokens).last, plain, rtol=0, atol=0)
    assert (adapted(model, moved=True).features(tokens).last - plain).abs().max() > 0.1


@torch.no_grad()
def test_merged_weights_give_the_adapters_outputs_and_are_plain_linears_again(model, tokens) -> None:
    other = adapted(model, moved=True)
    beside = other.features(tokens).last
    lora.merge(other.encoder)
    torch.testing.assert_close(other.features(tokens).last, beside, rtol=0, atol=1e-5)
    assert list(other.state_dict()) == list(model.state_dict())
    assert not any(isinstance(part, LowRank) for part in other.modules())


def test_what_is_added_is_of_the_asked_rank_on_the_three_linears_of_each_attention_and_nothing_else_moves(model) -> None:
    other = adapted(model, moved=True)
    lora.merge(other.encoder)
    before, after = model.state_dict(), other.state_dict()
    attentions = [name for name, part in model.encoder.named_modules() if isinstance(part, Attention)]
    moved = {f"encoder.{name}.{linear}.weight" for name in attentions for linear in ("query", "key_value", "out")}
    assert len(moved) == 6
    for name in before:
        difference = after[name] - before[name]
        assert int(torch.linalg.matrix_rank(difference.double(), rtol=1e-4)) == RANK if name in moved else not difference.any()


def test_only_adapters_learn(model, tokens) -> None:
    other = adapted(model, moved=True)
    other.features(tokens).last.square().mean().backward()
    learned = {name for name, p in other.encoder.named_parameters() if p.grad is not None}
    assert learned == {name for name, _ in other.encoder.named_parameters() if ".down." in name or ".up." in name}
    assert sum(p.numel() for p in other.encoder.parameters() if p.requires_grad) == 2 * RANK * (64 + 96 + 64)


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 9 .* 1 to 8"):
        LowRank(nn.Linear(8, 20), 9)
    with pytest.raises(ValueError, match="no attention"):
        lora.adapt(nn.Sequential(nn.Linear(3, 3)), 1)
