"""The masked convnet and its U-Net in one, two and three dimensions: no leak, and the plain convnet when nothing is hidden."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from readers.schema import Channel
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch
from toolkit.model import tokenizers
from toolkit.model.convnet import ChannelMix, ConvEncoder, strides
from toolkit.model.convnet_layers import ChannelNorm, Mask, Residual, masked, refuse_unknown
from toolkit.model.pictures import fold, unfold
from toolkit.model.tokens import TokenSet, gather
from toolkit.model.unet import UNet
from toolkit.recipe import ConvTable

DESCRIPTOR = 6
SHAPES = {1: ((12,), (3, 8)), 2: ((8, 8), (2, 3, 4)), 3: ((6, 6, 6), (2, 2, 3, 2))}  # dims: patch, grid
EVERY_DIM = pytest.mark.parametrize("dims", SHAPES)
NORMS = pytest.mark.parametrize("norm", ["layer", "batch"])


def drawn(dims, seed=0, size=2):
    """Tokens of random content, the third of the last sample not valid."""
    patch, grid = SHAPES[dims]
    count, generator = math.prod(grid), torch.Generator().manual_seed(seed)
    valid = torch.ones(size, count, dtype=torch.bool)
    valid[-1, 2] = False
    return TokenSet(
        patches=torch.randn(size, count, math.prod(patch), generator=generator),
        coords=torch.zeros(size, count, 4),
        channel=torch.arange(grid[0]).repeat_interleave(count // grid[0]).expand(size, -1),
        descriptor=torch.randn(size, grid[0], DESCRIPTOR, generator=generator).repeat_interleave(count // grid[0], dim=1),
        valid=valid,
        scale=torch.zeros(size, count, dtype=torch.int64),
        grid=grid,
    )


def models(dims, norm="layer", shaken=True, **decoder):
    """Encoder and predictor, by default with random weights everywhere: zero biases would hide a leak."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        table = ConvTable(kind="convnet", width=16, blocks=1, norm=norm)
        encoder = ConvEncoder(table, SHAPES[dims][0], DESCRIPTOR)
        unet = UNet(16, encoder, **decoder)
        for parameter in (*encoder.parameters(), *unet.parameters()):
            if shaken and parameter.ndim == 1:
                nn.init.normal_(parameter, mean=0.5, std=0.3)
    return encoder, unet


def split(tokens, share=0.4, seed=1):
    """Visible and hidden tokens, in no order."""
    order = torch.rand(tokens.patches.shape[:2], generator=torch.Generator().manual_seed(seed)).argsort(1)
    count = round(share * order.shape[1])
    return order[:, :count], order[:, count:]


def other_content(tokens, hidden, value=None):
    """Other patches in the hidden tokens and in those that are not valid."""
    touched = torch.zeros_like(tokens.valid).scatter(1, hidden, True) | ~tokens.valid
    new = torch.randn(tokens.patches.shape) * 50 if value is None else torch.full_like(tokens.patches, value)
    return dataclasses.replace(tokens, patches=torch.where(touched[..., None], new, tokens.patches))


# The token grid.


def test_strides_multiply_to_the_side():
    asked = {
        25: (5, 5),
        50: (5, 5, 2),
        16: (4, 2, 2),
        6: (3, 2),
        12: (3, 2, 2),
        8: (2, 2, 2),
        200: (8, 5, 5),
        4: (2, 2),
        7: (1, 7),
    }
    assert {side: strides(side) for side in asked} == asked
    for side in range(2, 300):
        assert math.prod(strides(side)) == side and len(strides(side)) in (2, 3)
    with pytest.raises(ValueError, match="no scales"):
        strides(1)


def test_fold_places_each_value_and_unfold_is_its_inverse():
    grid, sides = (2, 3, 4), (2, 5)
    patches = torch.randn(2, 24, 10)
    pictures = fold(patches, grid, sides)
    assert pictures.shape == (4, 1, 6, 20)
    for sample, channel, row, column in np.ndindex(2, 2, 6, 20):
        token, inside = (channel * 3 + row // 2) * 4 + column // 5, 5 * (row % 2) + column % 5
        assert pictures[2 * sample + channel, 0, row, column] == patches[sample, token, inside]
    assert torch.equal(unfold(pictures, grid, sides), patches)


@pytest.mark.parametrize(("name", "sides"), [("csfm", (3, 200)), ("bm-mae", (2, 12, 18, 6)), ("bird-mae", (1, 40_000))])
def test_fold_is_what_the_tokenizer_shows(name, sides):
    recipe = recipes.resolve(name, size="tiny")
    tokenizer = tokenizers.build(recipe)
    rate = getattr(recipe.data, "rate_hz", None)
    names = tuple(Channel(f"c{i}", f"c{i}", "ecg", None, None, rate, None) for i in range(sides[0]))
    values = np.random.default_rng(0).standard_normal((2, *sides)).astype(np.float32)
    tokens = tokenizer.tokenize(Batch(values, np.ones(values.shape, bool), (names,) * 2))
    shown = tokenizer.untokenize(tokens.patches, tokens.grid)
    if recipe.tokenizer.kind == "spectrogram":
        shown = ((shown - recipe.tokenizer.mean) / recipe.tokenizer.deviation).transpose(-1, -2)  # mel, then time
    pictures = fold(tokens.patches, tokens.grid, tokenizer.patch_shape)
    torch.testing.assert_close(pictures, shown.flatten(0, 1)[:, None], atol=1e-5, rtol=0)
    assert torch.equal(unfold(pictures, tokens.grid, tokenizer.patch_shape), tokens.patches)


# Layers under a mask.

LAYERS = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AvgPool3d),
}


def dense_net(dims):
    conv, batch_norm, max_pool, average_pool = LAYERS[dims]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = nn.Sequential(
            conv(2, 4, 3, padding=1),
            batch_norm(4),
            nn.ReLU(),
            max_pool(3, stride=2, padding=1),
            Residual(nn.Sequential(ChannelNorm(4), conv(4, 4, 3, padding=1), nn.GELU())),
            average_pool(3, stride=1, padding=1),
            nn.Identity(),
            conv(4, 3, 3, stride=2, padding=1),
        )
        for parameter in net.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=0.5, std=0.3)
    return net.eval()


def random_mask(dims, seed=0):
    cells = torch.rand(3, 1, *(3, 4, 3)[:dims], generator=torch.Generator().manual_seed(seed)) < 0.5
    cells[:, :, 0] = torch.tensor([True, False, True]).view(3, 1, *[1] * (dims - 1))
    return Mask(cells)


def finer(cells, side):
    return torch.from_numpy(np.kron(cells.numpy(), np.ones((1, 1, *[side] * (cells.ndim - 2))))).bool()


@EVERY_DIM
def test_a_mask_is_its_cells_repeated(dims):
    mask = random_mask(dims)
    for side in (1, 2, 4):
        assert torch.equal(mask.at(tuple(side * n for n in mask.cells.shape[2:])), finer(mask.cells, side))
    with pytest.raises(ValueError, match="does not refine"):
        mask.at(tuple(n + 1 for n in mask.cells.shape[2:]))


@EVERY_DIM
@pytest.mark.parametrize("training", [False, True])
def test_layers_read_nothing_hidden_and_leave_it_zero(dims, training):
    net, mask = dense_net(dims).train(training), random_mask(dims)
    x = torch.randn(3, 2, *(4 * n for n in mask.cells.shape[2:]))
    shown = finer(mask.cells, 4)
    outputs = []
    for content in (x, torch.where(shown, x, 100 * torch.randn_like(x)), torch.where(shown, x, torch.nan)):
        outputs.append(masked(copy.deepcopy(net), content, mask))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[0] != 0, mask.cells.expand_as(outputs[0]))
    for depth in range(1, len(net)):
        x_at = masked(copy.deepcopy(net[:depth]), x, mask)
        assert not x_at[~finer(mask.cells, x_at.shape[2] // mask.cells.shape[2]).expand_as(x_at)].any()


@EVERY_DIM
def test_with_everything_visible_layers_are_dense(dims):
    net, mask = dense_net(dims), random_mask(dims)
    x = torch.randn(3, 2, *(4 * n for n in mask.cells.shape[2:]))
    everything = Mask(torch.ones_like(mask.cells))
    assert torch.equal(masked(net, x, everything), net(x))
    trained, plain = copy.deepcopy(net).train(), copy.deepcopy(net).train()
    torch.testing.assert_close(masked(trained, x, everything), plain(x), atol=1e-5, rtol=1e-5)  # another order of sums
    for mine, theirs in zip(trained.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert (masked(net, x, mask) - net(x)).abs().max() > 0.1


@EVERY_DIM
def test_masked_batch_norm_is_a_formula_over_visible_cells(dims):
    layer, mask = LAYERS[dims][1](5, eps=1e-3, momentum=0.3).train(), random_mask(dims)
    for parameter in layer.parameters():
        nn.init.normal_(parameter).requires_grad_(False)
    x = torch.randn(3, 5, *(2 * n for n in mask.cells.shape[2:])) * 3 + 7
    got = masked(layer, x, mask)
    shown = finer(mask.cells, 2).expand_as(x).numpy()
    for feature in range(5):
        values = x[:, feature].numpy().astype(np.float64)
        inside = values[shown[:, feature]]
        normed = (values - inside.mean()) / np.sqrt(inside.var() + 1e-3)
        expected = np.where(shown[:, feature], normed * float(layer.weight[feature]) + float(layer.bias[feature]), 0)
        np.testing.assert_allclose(got[:, feature], expected, atol=1e-5)
        assert float(layer.running_mean[feature]) == pytest.approx(0.3 * inside.mean(), rel=1e-5)
        assert float(layer.running_var[feature]) == pytest.approx(0.7 + 0.3 * inside.var(ddof=1), rel=1e-5)


@EVERY_DIM
def test_pools_take_the_visible_cells_of_their_window(dims):
    mask = random_mask(dims)
    x = torch.randn(3, 2, *mask.cells.shape[2:]) - 5  # all below zero: a hidden zero would win
    pools = [pool(3, stride=1, padding=1) for pool in LAYERS[dims][2:]]
    highest, mean = (masked(pool, x, mask).numpy() for pool in pools)
    space = mask.cells.shape[2:]
    for cell in np.ndindex(*space):
        window = tuple(slice(max(0, i - 1), i + 2) for i in cell)
        inside = math.prod(len(range(n)[w]) for n, w in zip(space, window, strict=True))
        for sample, feature in np.ndindex(3, 2):
            shown = mask.cells[sample, 0][window].numpy()
            values = x[sample, feature][window].numpy().astype(np.float64)[shown]
            if not mask.cells[sample, 0][cell]:
                assert highest[sample, feature][cell] == mean[sample, feature][cell] == 0
                continue
            assert highest[sample, feature][cell] == pytest.approx(values.max(), rel=1e-6)
            # A pool that counts its padding divides by the whole window; the share outside stays.
            assert mean[sample, feature][cell] == pytest.approx(values.mean() * inside / 3**dims, rel=1e-5)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(2, 2, 2), nn.InstanceNorm2d(2), nn.Sigmoid(), Doubled(2, 2, 1)])
def test_a_layer_without_a_rule_is_refused(layer):
    net = nn.Sequential(nn.ReLU(), Residual(nn.Sequential(nn.Identity(), layer)))
    with pytest.raises(TypeError, match=rf"'1\.inner\.1' is {type(layer).__name__}"):
        refuse_unknown(net)
    with pytest.raises(TypeError, match=type(layer).__name__):
        masked(net, torch.randn(1, 2, 4, 4), Mask(torch.ones(1, 1, 2, 2, dtype=torch.bool)))


# The encoder.


@EVERY_DIM
@NORMS
@pytest.mark.parametrize("value", [None, torch.nan])
def test_nothing_hidden_reaches_states_maps_or_predictions(dims, norm, value):
    tokens, (encoder, unet) = drawn(dims), models(dims, norm)
    shown, hidden = split(tokens)
    results = []
    for content in (tokens, other_content(tokens, hidden, value)):
        own, predictor = copy.deepcopy(encoder), copy.deepcopy(unet)
        states = own(content, shown)
        results.append((states.last, *states.maps, states.seen, predictor(states, content, hidden)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    moved = other_content(tokens, shown)
    assert not torch.equal(encoder(moved, shown).last, results[0][0])


@EVERY_DIM
def test_hidden_cells_are_zero_and_visible_ones_are_not_at_every_scale(dims):
    tokens, (encoder, _) = drawn(dims), models(dims)
    shown, _ = split(tokens)
    shown[-1, 0] = 2  # not valid, and not to be seen though it was asked for
    states = encoder(tokens, shown)
    flags = torch.zeros_like(tokens.valid).scatter(1, shown, True) & tokens.valid
    assert torch.equal(tokens.shown(shown), flags) and not flags.gather(1, shown).all()
    cells = flags.view(-1, 1, *tokens.grid[1:])
    assert torch.equal(states.seen, cells)
    side, widths = SHAPES[dims][0][0], []
    for step, features in zip(strides(side), states.maps, strict=True):
        side //= step
        assert features.shape[2:] == tuple(side * n for n in tokens.grid[1:])
        assert torch.equal((features != 0).any(1, keepdim=True), finer(cells, side))
        widths.append(features.shape[1])
    assert side == 1 and widths == [16 >> i for i in reversed(range(len(widths)))]


@EVERY_DIM
def test_the_net_without_masks_is_the_encoder_that_sees_everything(dims):
    tokens, (encoder, _) = drawn(dims), models(dims, "batch")
    tokens = dataclasses.replace(tokens, valid=torch.ones_like(tokens.valid))
    encoder.eval()
    plain = copy.deepcopy(encoder.net)
    for parameter in plain.parameters():
        nn.init.zeros_(parameter)
    plain.load_state_dict(encoder.net.state_dict())
    patch, grid = SHAPES[dims]
    pictures = fold(tokens.patches, grid, patch)
    descriptor = tokens.descriptor.view(2, grid[0], -1, DESCRIPTOR)[:, :, 0]
    for mine, theirs in zip(encoder(tokens).maps, plain(pictures, descriptor), strict=True):
        assert torch.equal(mine, theirs)
    stage = nn.Sequential(plain.down[0], plain.blocks[0])  # ordinary layers in an ordinary order
    assert torch.equal(stage(pictures), encoder(tokens).maps[0])
    some = encoder(tokens, split(tokens)[0]).maps[0]
    assert not torch.equal(some, encoder(tokens).maps[0])


def test_states_are_the_normed_coarsest_cells_in_the_order_asked():
    tokens, (encoder, _) = drawn(2), models(2)
    shown, _ = split(tokens)
    states = encoder(tokens, shown)
    coarsest = states.maps[-1].detach().numpy().astype(np.float64)
    for sample, place in np.ndindex(*shown.shape):
        channel, row, column = np.unravel_index(int(shown[sample, place]), tokens.grid)
        cell = coarsest[sample * tokens.grid[0] + channel, :, row, column]
        expected = (cell - cell.mean()) / np.sqrt(cell.var() + 1e-5)
        np.testing.assert_allclose(states.last[sample, place].detach(), expected, atol=1e-5)
    assert states.layers[-1] is states.last
    assert torch.equal(
        gather(encoder(tokens).last, shown), encoder(tokens, None).last.gather(1, shown[..., None].expand(-1, -1, 16))
    )


def test_a_place_is_told_the_mean_of_a_function_of_the_channels_visible_there():
    mix, generator = ChannelMix(5, DESCRIPTOR), torch.Generator().manual_seed(2)
    x, descriptor = torch.randn(2 * 3, 5, 4, generator=generator), torch.randn(2, 3, DESCRIPTOR, generator=generator)
    shown = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]).bool().repeat(2, 1)[:, None]
    got = mix(x, descriptor, shown).view(2, 3, 5, 4).detach()
    weights = {name: value.detach().double() for name, value in mix.named_parameters()}

    def linear(name, values):
        return weights[f"{name}.weight"] @ values + weights[f"{name}.bias"]

    for sample, place in np.ndindex(2, 4):
        told = [x.view(2, 3, 5, 4)[sample, c, :, place] + linear("code", descriptor[sample, c].double()) for c in range(3)]
        seen = [linear("read", told[c]) for c in range(3) if shown[c, 0, place]]
        bent = [v * (1 + torch.erf(v / math.sqrt(2))) / 2 for v in seen]
        common = sum(bent) / len(bent) if bent else torch.zeros(5).double()
        for channel in range(3):
            expected = told[channel] + linear("write", common)
            torch.testing.assert_close(got[sample, channel, :, place].double(), expected, atol=1e-5, rtol=0)


def test_channels_inform_one_another_and_their_order_does_not_matter():
    tokens, (encoder, unet) = drawn(1), models(1)
    per_channel = tokens.patches.shape[1] // 3
    everything = torch.arange(3 * per_channel).expand(2, -1)
    tokens = dataclasses.replace(tokens, valid=torch.ones_like(tokens.valid))
    first = everything[:, :per_channel]
    alone, among = encoder(tokens, first), encoder(tokens, everything[:, : 2 * per_channel])
    assert not torch.allclose(alone.last, among.last[:, :per_channel], atol=1e-3)
    order = everything.view(2, 3, -1)[:, [2, 0, 1]].flatten(1)
    turned = dataclasses.replace(tokens.take(order), grid=tokens.grid)
    torch.testing.assert_close(encoder(turned).last, gather(encoder(tokens).last, order), atol=1e-5, rtol=1e-5)
    # A channel that is wholly hidden is predicted from the others, and as the channel it is.
    hidden = everything[:, 2 * per_channel :]
    moved = other_content(tokens, everything[:, : 2 * per_channel])
    shown = everything[:, : 2 * per_channel]
    told = unet(encoder(tokens, shown), tokens, hidden)
    assert not torch.allclose(told, unet(encoder(moved, shown), moved, hidden), atol=1e-3)
    renamed = dataclasses.replace(tokens, descriptor=tokens.descriptor.clone())
    renamed.descriptor[:, 2 * per_channel :] += 1
    assert not torch.allclose(told, unet(encoder(tokens, shown), renamed, hidden), atol=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="unequal sides"):
        ConvEncoder(ConvTable(kind="convnet", width=8), (4, 8), DESCRIPTOR)
    with pytest.raises(ValueError, match="even"):
        ConvEncoder(ConvTable(kind="convnet", width=8, kernel=4), (4,), DESCRIPTOR)
    with pytest.raises(ValueError, match=r"encoder\.width: 6"):
        ConvEncoder(ConvTable(kind="convnet", width=6), (16,), DESCRIPTOR)
    encoder, unet = models(1)
    with pytest.raises(ValueError, match=r"decoder\.width: 6"):
        UNet(6, encoder)
    tokens = drawn(1)
    for wrong in (tokens.take(torch.arange(5).expand(2, -1)), drawn(2)):
        with pytest.raises(ValueError, match="do not fill pictures of 1 axes"):
            encoder(wrong)
    flat = dataclasses.replace(encoder(tokens), maps=(), seen=None)
    with pytest.raises(ValueError, match="no maps"):
        unet(flat, tokens, torch.zeros(2, 1, dtype=torch.int64))


# The U-Net.


@EVERY_DIM
@NORMS
def test_predictions_have_the_patches_shape_and_read_every_scale(dims, norm):
    tokens, (encoder, unet) = drawn(dims), models(dims, norm)
    shown, hidden = split(tokens)
    states = encoder(tokens, shown)
    predicted = unet.eval()(states, tokens, hidden)
    assert predicted.shape == (*hidden.shape, tokens.patches.shape[2])
    everything = unet(states, tokens, torch.arange(tokens.patches.shape[1]).expand(2, -1))
    assert torch.equal(gather(everything, hidden), predicted)
    without_patches = dataclasses.replace(tokens, patches=torch.full_like(tokens.patches, torch.nan))
    assert torch.equal(unet(states, without_patches, hidden), predicted)
    for scale in range(len(states.maps)):
        maps = tuple(torch.zeros_like(m) if i == scale else m for i, m in enumerate(states.maps))
        assert not torch.allclose(unet(dataclasses.replace(states, maps=maps), tokens, hidden), predicted, atol=1e-4)


@EVERY_DIM
def test_hidden_cells_hold_the_token_of_their_scale(dims):
    tokens, (encoder, unet) = drawn(dims), models(dims)
    states = encoder(tokens, split(tokens)[0])
    mask = Mask(states.seen)
    for dense, features in zip(unet.dense, states.maps[::-1], strict=True):
        dense.project = nn.Identity()
        filled, shown = dense(features, mask), mask.at(tuple(features.shape[2:]))
        token = dense.token.view(1, -1, *[1] * dims).expand_as(filled)
        hidden = ~shown.expand_as(filled)
        assert torch.equal(filled[hidden], token[hidden])
        torch.testing.assert_close(filled[~hidden], dense.norm(features)[~hidden])
    tokens_differ = [dense.token.numel() for dense in unet.dense]
    assert len(set(tokens_differ)) == len(tokens_differ)


def test_a_deeper_decoder_has_more_blocks_at_every_scale():
    tokens, (encoder, shallow), (_, deep) = drawn(1), models(1), models(1, depth=3)
    shown, hidden = split(tokens)
    assert deep(encoder(tokens, shown), tokens, hidden).shape == shallow(encoder(tokens, shown), tokens, hidden).shape
    for unet, depth in ((shallow, 1), (deep, 3)):
        assert [sum(isinstance(m, Residual) for m in blocks.modules()) for blocks in unet.blocks] == [depth] * 3


@EVERY_DIM
def test_gradients_reach_every_parameter(dims):
    tokens, (encoder, unet) = drawn(dims), models(dims)
    shown, hidden = split(tokens)
    unet(encoder(tokens, shown), tokens, hidden).square().mean().backward()
    for name, parameter in (*encoder.named_parameters(), *unet.named_parameters()):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@EVERY_DIM
@NORMS
def test_twenty_steps_beat_the_mean_on_hidden_tokens(dims, norm):
    tokens, (encoder, unet) = drawn(dims), models(dims, norm, shaken=False)
    patch, grid = SHAPES[dims]
    axes = [torch.arange(n * side) for n, side in zip(grid[1:], patch, strict=True)]
    wave = sum(torch.meshgrid(*axes, indexing="ij")).mul(0.5).sin()  # what neighbours tell about one another
    tokens = dataclasses.replace(tokens, patches=unfold(wave.expand(2 * grid[0], 1, *wave.shape), grid, patch))
    shown, hidden = split(tokens)
    target = gather(tokens.patches, hidden)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *unet.parameters()], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (unet(encoder(tokens, shown), tokens, hidden) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * target.var() < losses[0]  # better than the mean of what is to be predicted
