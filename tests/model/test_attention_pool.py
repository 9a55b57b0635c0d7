import math

import pytest
import torch

from toolkit.model.attention_pool import AttentionPool


def pool(width=24, heads=3):
    made, generator = AttentionPool(width, heads).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def by_loops(made, states, counts):
    """One sample and one head at a time."""
    layer, rows = made.attention, []
    query = layer.query(made.latent[0, 0])
    for sample, counted in zip(states, counts, strict=True):
        key, value = layer.key_value(sample[counted]).chunk(2, dim=-1)
        heads = []
        for part in torch.arange(24).chunk(3):
            weight = torch.softmax(key[:, part] @ query[part] / math.sqrt(8), dim=0)
            heads.append(weight @ value[:, part])
        x = layer.out(torch.cat(heads))
        rows.append(x + made.mlp(x))
    return torch.stack(rows)


@torch.inference_mode()
def test_the_latent_reads_what_counts_and_nothing_else():
    generator = torch.Generator().manual_seed(1)
    states, counts = torch.randn(3, 11, 24, generator=generator).double(), torch.rand(3, 11, generator=generator) < 0.5
    got = pool()(states, counts)
    torch.testing.assert_close(got, by_loops(pool(), states, counts))
    assert torch.equal(pool()(torch.where(counts[..., None], states, 1e6), counts), got)
    order = torch.randperm(11, generator=generator)
    torch.testing.assert_close(pool()(states[:, order], counts[:, order]), got)


@torch.inference_mode()
def test_a_sample_where_nothing_counts_is_pooled_whole():
    states, counts = torch.randn(2, 5, 24).double(), torch.tensor([[False] * 5, [True] * 5])
    torch.testing.assert_close(pool()(states, counts), by_loops(pool(), states, torch.ones(2, 5, dtype=torch.bool)))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads: 5 do not divide a width of 24"):
        AttentionPool(24, 5)
