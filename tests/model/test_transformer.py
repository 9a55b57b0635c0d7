import math

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.model import autoencoder
from toolkit.model.positions import FourierPositions, RotaryTime, periods, rotate
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import Attention, CrossBlock, SelfBlock, key_mask
from toolkit.recipe import PositionTable, TransformerTable

TABLE = TransformerTable(width=32, depth=1, heads=4, head_width=8, mlp=48)
POSITION = PositionTable(bands=4, longest=(4.0, 4.0, 4.0, 20.0), shortest=(1.0, 1.0, 1.0, 0.2))


def copied(block: SelfBlock) -> nn.TransformerEncoderLayer:
    """PyTorch's own pre-norm layer with the block's weights."""
    layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    fill_attention(layer.self_attn, block.attention)
    for mine, theirs in zip(
        (block.norm1, block.norm2, block.mlp[0], block.mlp[2]),
        (layer.norm1, layer.norm2, layer.linear1, layer.linear2),
        strict=True,
    ):
        theirs.load_state_dict(mine.state_dict())
    return layer


def fill_attention(theirs: nn.MultiheadAttention, mine: Attention) -> None:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([mine.query.bias, mine.key_value.bias]))
        theirs.out_proj.load_state_dict(mine.out.state_dict())


def shaken(module: nn.Module) -> nn.Module:
    """Every parameter random: zero biases and unit norms would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


@pytest.mark.parametrize("masked", [False, True])
def test_a_self_block_is_torch_s_pre_norm_layer(masked):
    block, x = shaken(SelfBlock(TABLE)), torch.randn(3, 17, 32)
    valid = torch.rand(3, 17) < 0.6 if masked else None
    expected = copied(block)(x, src_key_padding_mask=None if valid is None else ~valid)
    torch.testing.assert_close(block(x, None, valid), expected, atol=1e-5, rtol=1e-5)


def test_a_cross_block_is_torch_s_attention_over_the_normalised_queries():
    block, x, memory = shaken(CrossBlock(TABLE, 32)), torch.randn(2, 5, 32), torch.randn(2, 9, 32)
    valid = torch.rand(2, 9) < 0.6
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    fill_attention(theirs, block.attention)
    mixed = x + theirs(block.norm1(x), memory, memory, key_padding_mask=~valid, need_weights=False)[0]
    torch.testing.assert_close(block(x, memory, None, None, valid), mixed + block.mlp(block.norm2(mixed)), atol=1e-5, rtol=1e-5)


def test_the_encoder_is_its_parts_in_order_and_layers_count_from_the_end(tiny):
    recipe = tiny(position__rotary=False)
    encoder = shaken(autoencoder.build(recipe).encoder)
    tokens = some_tokens(recipe.tokenizer.patch)
    x = (
        tokens.patches @ encoder.embed_patch.weight.T
        + encoder.embed_patch.bias
        + encoder.embed_position(tokens.coords)
        + encoder.embed_channel.weight[tokens.channel]
    )
    expected = [x]
    for block in encoder.blocks:
        expected.append(block(expected[-1], None, None))
    for layer in (-2, -3):
        torch.testing.assert_close(encoder(tokens, layer), expected[layer], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(tokens), encoder.norm(expected[-1]), atol=1e-5, rtol=1e-5)


def some_tokens(patch, shift=0.0, size=2, count=15):
    generator = torch.Generator().manual_seed(1)
    coords = torch.rand(size, count, 4, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 10.0])
    coords[..., 3] += shift
    channel = torch.randint(0, 5, (size, count), generator=generator)
    fields = {
        "patches": torch.randn(size, count, patch, generator=generator),
        "coords": coords,
        "channel": channel,
        "valid": torch.ones(size, count, dtype=torch.bool),
        "scale": torch.zeros_like(channel),
        "grid": (count,),
    }
    return TokenSet(**{name: fields[name] for name in TokenSet.__dataclass_fields__})


def test_rotary_attention_sees_time_differences_only():
    rotary, attention = RotaryTime(POSITION, 8), Attention(TABLE, 32)
    x, memory = torch.randn(2, 15, 32), torch.randn(2, 15, 32)

    def attend(query_shift, memory_shift):
        phases = [rotary(some_tokens(10, shift).coords) for shift in (query_shift, memory_shift)]
        return attention(x, memory, *phases, None)

    torch.testing.assert_close(attend(0, 0), attend(7.3, 7.3), atol=1e-5, rtol=1e-5)
    assert (attend(0, 0) - attend(0, 0.5)).abs().max() > 1e-3
    assert (attend(0, 0) - attention(x, memory, None, None, None)).abs().max() > 1e-3


def test_rotation_is_a_turn_of_complex_numbers_by_their_own_frequency():
    coords, heads = some_tokens(10).coords, torch.randn(2, 3, 15, 8)
    got = rotate(heads, RotaryTime(POSITION, 8)(coords)).numpy().astype(np.float64)
    wave = 1 / np.geomspace(2 * 20.0, 0.2, 4)
    turn = np.exp(2j * math.pi * coords.numpy()[:, None, :, 3, None].astype(np.float64) * wave)
    expected = (heads[..., :4].numpy() + 1j * heads[..., 4:].numpy()) * turn
    np.testing.assert_allclose(got[..., :4] + 1j * got[..., 4:], expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), np.linalg.norm(heads.numpy(), axis=-1), rtol=1e-5)


def test_fourier_positions_are_sines_and_cosines_of_every_axis():
    positions, coords = FourierPositions(POSITION, 16), some_tokens(10).coords
    np.testing.assert_allclose(periods(20.0, 0.2, 4), np.geomspace(20, 0.2, 4), rtol=1e-5)
    features, place = [], coords.numpy().astype(np.float64)
    for wave in (np.sin, np.cos):
        for axis, (long, short) in enumerate([(4, 1), (4, 1), (4, 1), (20, 0.2)]):
            features += [wave(2 * math.pi * place[..., axis] / period) for period in np.geomspace(long, short, 4)]
    weight, bias = positions.project.weight.detach().numpy(), positions.project.bias.detach().numpy()
    np.testing.assert_allclose(positions(coords).detach(), np.stack(features, -1) @ weight.T + bias, atol=1e-3)


def test_the_key_mask_is_none_for_all_and_opens_only_where_a_sample_has_nothing():
    assert key_mask(torch.ones(2, 3, dtype=torch.bool)) is None
    valid = torch.tensor([[True, False, True], [False, False, False]])
    assert key_mask(valid).tolist() == [[True, False, True], [True, True, True]]


def test_a_sample_with_nothing_valid_gives_finite_states(tiny):
    recipe = tiny()
    tokens = some_tokens(recipe.tokenizer.patch)
    tokens.valid[1] = False
    alone = some_tokens(recipe.tokenizer.patch)
    encoder = autoencoder.build(recipe).eval().encoder
    assert torch.isfinite(encoder(tokens)).all()
    torch.testing.assert_close(encoder(tokens)[0], encoder(alone)[0], atol=1e-6, rtol=0)


@torch.inference_mode()
def test_hidden_content_reaches_neither_states_nor_predictions(tiny):
    recipe = tiny()
    model, tokens = shaken(autoencoder.build(recipe)).eval(), some_tokens(recipe.tokenizer.patch, count=20)
    visible, hidden = torch.arange(0, 8).expand(2, -1), torch.arange(8, 20).expand(2, -1)
    before = model.encoder(tokens.take(visible)), model(tokens, visible, hidden)
    tokens.patches[:, 8:] = torch.randn(2, 12, recipe.tokenizer.patch) * 1e6
    after = model.encoder(tokens.take(visible)), model(tokens, visible, hidden)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    tokens.patches[:, 0] += 1
    assert (model(tokens, visible, hidden) - before[1]).abs().max() > 1e-3  # what is visible does reach them


@torch.inference_mode()
def test_predictions_come_in_the_order_of_the_queries_and_do_not_see_one_another(tiny):
    recipe = tiny()
    model, tokens = shaken(autoencoder.build(recipe)).eval(), some_tokens(recipe.tokenizer.patch, count=20)
    visible, hidden = torch.arange(0, 8).expand(2, -1), torch.arange(8, 20).expand(2, -1)
    full = model(tokens, visible, hidden)
    torch.testing.assert_close(model(tokens, visible, hidden.flip(1)), full.flip(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(tokens, visible, hidden[:, 3:4]), full[:, 3:4], atol=1e-4, rtol=1e-4)


def test_weights_are_a_function_of_the_seed_and_leave_the_random_state_alone(tiny):
    state = torch.get_rng_state()
    one, same, other = (autoencoder.build(tiny(), seed).state_dict() for seed in (None, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
