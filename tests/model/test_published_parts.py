"""Parts that released systems are made of, against formulas in float64."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from toolkit import recipe as recipes
from toolkit.model import masked, positions
from toolkit.model.attention_pool import QueryPool
from toolkit.model.channels import OwnChannels, Projections
from toolkit.model.positions import GridPositions, SpaceTimePositions, grid_sines
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokenizers.points import BatchPointEmbedding
from toolkit.model.tokens import TokenSet, jittered
from toolkit.model.transformer import Drop, stack_of
from toolkit.recipe import PositionTable, TransformerTable

PERIODS = {"longest": (4.0, 4.0, 4.0, 4.0), "shortest": (0.1, 0.1, 0.1, 0.1)}


def shaken(module: nn.Module, std: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return module


def token_set(channel: torch.Tensor, values: int = 6, channels: int = 1) -> TokenSet:
    size, count = channel.shape
    generator = torch.Generator().manual_seed(1)
    patches, coords = (torch.randn(size, count, n, generator=generator) for n in (values, 4))
    codes = torch.randn(size, count, DESCRIPTOR, generator=generator)
    return TokenSet(patches, coords, channel, codes, channel >= 0, channel * 0, (channels, count // channels))


def layer_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy()


@torch.no_grad()
@pytest.mark.parametrize(("frequencies", "width"), [(2, 32), (3, 100), (4, 512)])
def test_space_time_positions_are_waves_beside_an_mlp(frequencies, width):
    """REVE's code, wave by wave: margin .4, period 1.8, t in steps of .9 s, of which waves take a tenth."""
    table = PositionTable(**PERIODS, code="space-time", frequencies=frequencies, middle=(0, 0, 0, 0.5), unit=(1, 1, 1, 0.9))
    code = shaken(SpaceTimePositions(table, width))
    coords = torch.tensor([[[0.03, -0.07, 0.1, 0.5 + 0.9 * step] for step in range(11)]])
    place = np.array([[0.03, -0.07, 0.1, step] for step in range(11)])
    shrunk = place * [1, 1, 1, 0.1]
    waves = [sum(f * (c + 0.4) for f, c in zip(fs, shrunk.T, strict=True)) for fs in product(range(frequencies), repeat=4)]
    waves = waves[: width // 2]
    phase = 2 * math.pi * np.stack(waves, axis=1) / 1.8
    first, _, second = code.mlp
    inner = place @ first.weight.double().numpy().T
    inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    expected = layer_norm(np.concatenate([np.cos(phase), np.sin(phase)], axis=1) + layer_norm(inner, second), code.norm)
    np.testing.assert_allclose(code(coords)[0].numpy(), expected, atol=2e-5)


def test_space_time_positions_refuse_a_width_that_the_waves_do_not_fill():
    with pytest.raises(ValueError, match="81 waves, half the width is 100"):
        SpaceTimePositions(PositionTable(**PERIODS, code="space-time", frequencies=3), 200)


def test_a_grid_of_positions_has_a_row_for_each_cell_in_order():
    table = PositionTable(
        **PERIODS, code="grid", cells=(2, 1, 1, 3), cell=(0.5, 1, 1, 0.16), middle=(0.5, 0, 0, 0.24), learned=True
    )
    code = GridPositions(table, 8)
    coords = torch.tensor([[[x, 0, 0, t] for x in (0.25, 0.75) for t in (0.08, 0.24, 0.40)]])
    assert torch.equal(code(coords)[0], code.table)
    coords[0, 0] = torch.tensor([9.0, 0, 0, -1.0])  # of a token that is not valid
    assert torch.equal(code(coords)[0, 0], code.table[3])


def test_sines_of_a_grid_are_those_of_each_axis():
    table = grid_sines((3, 1, 1, 4), 12)  # two axes of 3 frequencies
    for number, (x, t) in enumerate(product(range(3), range(4))):
        angles = [place * 10000 ** (-k / 3) for place in (x, t) for k in range(3)]
        expected = [f(a) for axis in (angles[:3], angles[3:]) for f in (math.sin, math.cos) for a in axis]
        np.testing.assert_allclose(table[number].numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_named_channels_have_a_vector_of_their_own_and_strangers_their_code():
    tokens = token_set(torch.tensor([[0, 2, 5, 1]]))
    own, each = shaken(OwnChannels(3, 8)), shaken(Projections(3, 6, 8))
    got, projected = own(tokens)[0], each(tokens)[0]
    for place, name in ((0, 0), (1, 2), (3, 1)):
        torch.testing.assert_close(got[place], own.own.weight[name])
        torch.testing.assert_close(projected[place], each.each[name](tokens.patches[0, place]))
    torch.testing.assert_close(got[2], own.code(tokens.descriptor[0, 2]))
    torch.testing.assert_close(projected[2], each.other(tokens.patches[0, 2]) + each.code(tokens.descriptor[0, 2]))


@torch.no_grad()
def test_a_query_pools_by_its_products_with_states_and_never_reads_what_does_not_count():
    pool, states = shaken(QueryPool(8), 1.0), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    counts = torch.tensor([[True] * 5, [True, False, True, False, True]])
    got = pool(states, counts)
    for row in range(2):
        kept = states[row][counts[row]].double()
        weight = (kept @ pool.query[0, 0].double() / 8**0.5).softmax(0)
        torch.testing.assert_close(got[row].double(), weight @ kept, atol=1e-6, rtol=1e-6)


def test_groups_that_are_not_there_have_no_part_in_the_norms_over_the_batch():
    first, second = (shaken(BatchPointEmbedding(4, 24)).train() for _ in range(2))
    patches = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(3))
    padded = torch.cat([patches, torch.zeros(2, 2, 12)], dim=1)
    got = first(padded)
    torch.testing.assert_close(got[:, :3], second(patches))
    assert not got[:, 3:].any()
    torch.testing.assert_close(first.first[1].running_mean, second.first[1].running_mean)


def test_whole_blocks_are_skipped_more_often_the_later_and_never_in_evaluation():
    table = TransformerTable(width=8, depth=5, heads=2, head_width=4, mlp=8, drop_path=0.4)
    assert [round(block.drop.path, 3) for block in stack_of(table)] == [0, 0.1, 0.2, 0.3, 0.4]
    drop, x = Drop(0.0, 0.25), torch.ones(4000, 1, 1)
    torch.manual_seed(0)
    out = drop.train()(x).flatten()
    assert sorted(out.unique().tolist()) == pytest.approx([0.0, 4 / 3]) and abs(out.mean() - 1) < 0.05
    assert torch.equal(drop.eval()(x), x)


def test_moved_channels_move_whole_and_in_space_only():
    tokens = token_set(torch.arange(4).repeat_interleave(3)[None].repeat(2, 1), channels=4)
    moved = jittered(tokens, 0.01, torch.Generator().manual_seed(0))
    shift = (moved.coords - tokens.coords).unflatten(1, (4, 3))
    assert not shift[..., 3].any() and 0.003 < float(shift[..., :3].std()) < 0.02
    torch.testing.assert_close(shift, shift[:, :, :1].expand_as(shift))
    assert jittered(tokens, 0.0, torch.Generator()) is tokens


@torch.no_grad()
def test_a_norm_after_pooling_reads_the_last_block_before_the_final_norm():
    from toolkit.embedding.encoder import Options, RecordingEncoder

    recipe = recipes.resolve(
        "bird-mae", size="tiny", settings=["embedding.after_norm=true", "embedding.layer=-1", "embedding.pool=mean"]
    )
    model = shaken(masked.build(recipe)).eval()
    encoder = RecordingEncoder(model, recipe, Options("window", 5, 5, -1, "mean"), torch.device("cpu"))
    tokens = token_set(torch.zeros(2, 6, dtype=torch.int64), 256)
    tokens = replace(tokens, coords=tokens.coords.sigmoid())  # inside a clip
    states = model.features(tokens)
    got = encoder._pooled(tokens, states, tokens.valid)
    expected = layer_norm(states.layers[-1].double().mean(1).numpy(), model.pool_norm)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


def test_no_position_at_all_is_a_choice():
    assert positions.build(PositionTable(**PERIODS, code="none"), 8) is None
