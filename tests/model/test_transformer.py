import pytest
import torch
from torch import nn

from toolkit.model import masked
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import Attention, CrossBlock, SelfBlock, key_mask, mlp, norm_of
from toolkit.recipe import TransformerTable

TABLE = TransformerTable(width=32, depth=1, heads=4, head_width=8, mlp=48)


def copied(block: SelfBlock) -> nn.TransformerEncoderLayer:
    """PyTorch's own pre-norm layer with the block's weights."""
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True, "layer_norm_eps": 1e-6}
    layer = nn.TransformerEncoderLayer(32, 4, 48, **options)
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


@torch.inference_mode()
@pytest.mark.parametrize("masked", [False, True])
def test_keys_are_the_only_tokens_that_can_be_attended(masked):
    block, x = shaken(SelfBlock(TABLE)).eval(), torch.randn(3, 17, 32)
    keys = torch.stack([torch.randperm(17)[:6] for _ in range(3)])
    valid = torch.arange(6).expand(3, 6) < 4 if masked else None
    seen = torch.zeros(3, 17, dtype=torch.bool).scatter(1, keys[:, :4] if masked else keys, True)
    expected = copied(block)(x, src_key_padding_mask=~seen)
    torch.testing.assert_close(block(x, None, valid, keys), expected, atol=1e-5, rtol=1e-5)
    changed = torch.where(seen[..., None], x, 1e4)
    assert torch.equal(block(changed, None, valid, keys)[seen], block(x, None, valid, keys)[seen])


@torch.inference_mode()
@pytest.mark.parametrize("activation", ["geglu", "swiglu"])
def test_a_gated_mlp_is_its_formula(activation):
    part = shaken(mlp(TransformerTable(width=32, depth=1, heads=4, head_width=8, mlp=24, activation=activation))).double()
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    (value, gate), (a, b) = part.up.weight.chunk(2), part.up.bias.chunk(2)
    u, v = x @ value.T + a, x @ gate.T + b
    v = v * torch.special.ndtr(v) if activation == "geglu" else v / (1 + (-v).exp())
    torch.testing.assert_close(part(x), (u * v) @ part.down.weight.T + part.down.bias)


def test_norms_are_their_formulas_and_small_values_count():
    x = 1e-3 * torch.randn(4, 32, dtype=torch.float64)  # of the size of the root of 1e-6, so that it shows
    layer, rms = (shaken(norm_of(TABLE.model_copy(update={"norm": kind}))).double() for kind in ("layer", "rms"))
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(rms(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * rms.weight)


def test_a_block_takes_its_norm_and_its_mlp_from_the_table():
    block = SelfBlock(TransformerTable(width=32, depth=1, heads=4, head_width=8, mlp=48, norm="rms", activation="swiglu"))
    assert isinstance(block.norm1, nn.RMSNorm) and isinstance(block.norm2, nn.RMSNorm)
    x = torch.randn(2, 5, 32)
    mixed = x + block.attention(block.norm1(x), block.norm1(x), None, None, None)
    torch.testing.assert_close(block(x, None, None), mixed + block.mlp(block.norm2(mixed)))
    assert block.mlp.up.weight.shape == (96, 32)


def test_a_cross_block_is_torch_s_attention_over_the_normalised_queries():
    block, x, memory = shaken(CrossBlock(TABLE, 32)), torch.randn(2, 5, 32), torch.randn(2, 9, 32)
    valid = torch.rand(2, 9) < 0.6
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    fill_attention(theirs, block.attention)
    mixed = x + theirs(block.norm1(x), memory, memory, key_padding_mask=~valid, need_weights=False)[0]
    torch.testing.assert_close(block(x, memory, None, None, valid), mixed + block.mlp(block.norm2(mixed)), atol=1e-5, rtol=1e-5)


def test_the_encoder_is_its_parts_in_order_and_layers_count_from_the_end(tiny):
    recipe = tiny(position__rotary=())
    encoder = shaken(masked.build(recipe).encoder)
    tokens = some_tokens(recipe.tokenizer.patch)
    x = (
        tokens.patches @ encoder.embed_patch.weight.T
        + encoder.embed_patch.bias
        + encoder.embed_position(tokens.coords)
        + tokens.descriptor @ encoder.embed_channel.weight.T
    )
    expected = [x]
    for block in encoder.blocks:
        expected.append(block(expected[-1], None, None))
    for layer in (-2, -3):
        states = encoder(tokens, layer=layer)
        torch.testing.assert_close(states.last, expected[layer], atol=1e-5, rtol=1e-5)
        assert len(states.layers) == 4 + layer  # blocks beyond are not run
    states = encoder(tokens)
    torch.testing.assert_close(states.last, encoder.norm(expected[-1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(list(states.layers), expected, atol=1e-5, rtol=1e-5)
    assert states.extra is None


def test_only_the_tokens_at_the_index_enter_in_its_order(tiny):
    recipe = tiny()
    encoder = shaken(masked.build(recipe).encoder)
    tokens = some_tokens(recipe.tokenizer.patch)
    index = torch.stack([torch.randperm(15, generator=torch.Generator().manual_seed(s))[:7] for s in range(2)])
    torch.testing.assert_close(encoder(tokens, index).last, encoder(tokens.take(index)).last)
    assert (encoder(tokens, index).last - encoder(tokens).last.gather(1, index[..., None].expand(-1, -1, 32))).abs().max() > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize(("class_token", "registers"), [(True, 0), (False, 3), (True, 2)])
def test_class_token_and_registers_are_tokens_without_a_place_that_all_attend(tiny, class_token, registers):
    """As if they had been put in front of the embedded tokens, at angle 0, and read by everybody."""
    recipe = tiny(encoder__class_token=class_token, encoder__registers=registers)
    encoder = shaken(masked.build(recipe).encoder).eval()
    tokens = some_tokens(recipe.tokenizer.patch)
    tokens.valid[1, 4:] = False
    embedded = (
        encoder.embed_patch(tokens.patches.masked_fill(~tokens.valid[..., None], 0.0))
        + encoder.embed_channel(tokens)
        + encoder.embed_position(tokens.coords)
    )
    extras = class_token + registers
    x = torch.cat([encoder.extra.expand(2, -1, -1), embedded], dim=1)
    nowhere = torch.cat([torch.zeros(2, extras, 4), tokens.coords], dim=1)
    valid = torch.cat([torch.ones(2, extras, dtype=torch.bool), tokens.valid], dim=1)
    for block in encoder.blocks:
        x = block(x, encoder.rotary(nowhere), valid)
    states, x = encoder(tokens), encoder.norm(x)
    assert states.extra.shape == (2, extras, 32) and states.last.shape == (2, 15, 32)
    torch.testing.assert_close(states.extra, x[:, :extras], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states.last, x[:, extras:], atol=1e-5, rtol=1e-5)


def some_tokens(patch, shift=0.0, size=2, count=15):
    generator = torch.Generator().manual_seed(1)
    coords = torch.rand(size, count, 4, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 10.0])
    coords[..., 3] += shift
    channel = torch.randint(0, 5, (size, count), generator=generator)
    fields = {
        "patches": torch.randn(size, count, patch, generator=generator),
        "coords": coords,
        "channel": channel,
        "descriptor": torch.randn(size, count, DESCRIPTOR, generator=generator),
        "valid": torch.ones(size, count, dtype=torch.bool),
        "scale": torch.zeros_like(channel),
        "grid": (count,),
    }
    return TokenSet(**{name: fields[name] for name in TokenSet.__dataclass_fields__})


def test_the_key_mask_is_none_for_all_and_opens_only_where_a_sample_has_nothing():
    assert key_mask(torch.ones(2, 3, dtype=torch.bool)) is None
    valid = torch.tensor([[True, False, True], [False, False, False]])
    assert key_mask(valid).tolist() == [[True, False, True], [True, True, True]]


def test_a_sample_with_nothing_valid_gives_finite_states(tiny):
    recipe = tiny()
    tokens = some_tokens(recipe.tokenizer.patch)
    tokens.valid[1] = False
    alone = some_tokens(recipe.tokenizer.patch)
    encoder = masked.build(recipe).eval().encoder
    assert torch.isfinite(encoder(tokens).last).all()
    torch.testing.assert_close(encoder(tokens).last[0], encoder(alone).last[0], atol=1e-6, rtol=0)


@torch.inference_mode()
def test_hidden_content_reaches_neither_states_nor_predictions(tiny):
    recipe = tiny()
    model, tokens = shaken(masked.build(recipe)).eval(), some_tokens(recipe.tokenizer.patch, count=20)
    visible, hidden = torch.arange(0, 8).expand(2, -1), torch.arange(8, 20).expand(2, -1)
    before = model.encoder(tokens, visible).last, model(tokens, visible, hidden)
    tokens.patches[:, 8:] = torch.randn(2, 12, recipe.tokenizer.patch) * 1e6
    after = model.encoder(tokens, visible).last, model(tokens, visible, hidden)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    tokens.patches[:, 0] += 1
    assert (model(tokens, visible, hidden) - before[1]).abs().max() > 1e-3  # what is visible does reach them


@torch.inference_mode()
def test_predictions_come_in_the_order_of_the_queries_and_do_not_see_one_another(tiny):
    recipe = tiny()
    model, tokens = shaken(masked.build(recipe)).eval(), some_tokens(recipe.tokenizer.patch, count=20)
    visible, hidden = torch.arange(0, 8).expand(2, -1), torch.arange(8, 20).expand(2, -1)
    full = model(tokens, visible, hidden)
    torch.testing.assert_close(model(tokens, visible, hidden.flip(1)), full.flip(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(tokens, visible, hidden[:, 3:4]), full[:, 3:4], atol=1e-4, rtol=1e-4)


def test_weights_are_a_function_of_the_seed_and_leave_the_random_state_alone(tiny):
    state = torch.get_rng_state()
    one, same, other = (masked.build(tiny(), seed).state_dict() for seed in (None, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
