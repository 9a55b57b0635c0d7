"""The pyramid of point tokens: scales, what each token can know, and what it must not."""

from dataclasses import replace

import pytest
import torch

from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.model import tokenizers
from toolkit.model.pyramid import PyramidEncoder
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.model.transformer import init_weights

NEIGHBOURS = 4
SIZE = {"widths": (8, 12, 16), "depths": (1, 2, 1), "steps": (2, 2), "neighbours": (4, 3), "heads": 2, "radius": (0.0, 0.0, 0.0)}


def made(seed=0, **changes):
    flags = {f"encoder.{key}": value for key, value in (SIZE | changes).items()}
    flags |= {"tokenizer.centres": 24, "tokenizer.neighbours": NEIGHBOURS}
    recipe = recipes.resolve("i2p-mae", size="tiny", flags=flags)
    torch.manual_seed(seed)
    model = PyramidEncoder(recipe.encoder, recipe.position, tokenizers.build(recipe))
    init_weights(model)
    return model.eval()


def tokens_of(coords, valid=None, seed=0):
    """Tokens with random patches at (B, N, 3)."""
    size, count = coords.shape[:2]
    patches = 0.2 * torch.randn(size, count, 3 * NEIGHBOURS, generator=torch.Generator().manual_seed(seed))
    none = torch.zeros(size, count, dtype=torch.int64)
    places = torch.cat([coords, torch.zeros(size, count, 1)], dim=2)
    valid = torch.ones(size, count, dtype=torch.bool) if valid is None else valid
    return TokenSet(patches, places, none, torch.zeros(size, count, DESCRIPTOR), valid, none - 1, (1, count))


def cloud(size=2, count=24, seed=1):
    return torch.rand(size, count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_states_are_of_the_fine_tokens_and_the_layer_below_is_of_the_coarsest():
    model, tokens = made(), tokens_of(cloud())
    states = model(tokens)
    assert states.last.shape == (2, 24, 16) and [layer.shape for layer in states.layers] == [(2, 24, 16)] * 2
    for row in states.layers[0]:  # 24 tokens, then 12, then 6: each fine one has that of the nearest
        assert len(row.unique(dim=0)) == 6
    assert len(states.last[0].unique(dim=0)) == 24
    below = model(tokens, layer=-2)
    assert torch.equal(below.last, states.layers[0])
    assert torch.equal(model(tokens, torch.arange(24).expand(2, -1)).last, states.last)


@torch.no_grad()
def test_the_order_of_tokens_does_not_matter():
    model, tokens = made(), tokens_of(cloud())
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3)).expand(2, -1)
    moved, plain = model(tokens.take(order)), model(tokens)
    for mine, theirs in zip(moved.layers, plain.layers, strict=True):
        torch.testing.assert_close(mine, theirs[:, order[0]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("radius", [0.0, 0.7])
def test_tokens_that_are_not_valid_reach_no_other(radius):
    model, valid = made(radius=(radius,) * 3), torch.ones(2, 24, dtype=torch.bool)
    valid[0, 15:], valid[1] = False, False
    tokens = tokens_of(cloud(), valid)
    spoilt = replace(
        tokens,
        patches=torch.where(valid[..., None], tokens.patches, 1e3),
        coords=torch.where(valid[..., None], tokens.coords, 0.3),
    )
    plain, other = model(tokens), model(spoilt)
    assert torch.equal(plain.last[0, :15], other.last[0, :15]) and torch.isfinite(other.last).all()


@torch.no_grad()
def test_neither_patches_nor_places_of_hidden_tokens_reach_any_scale():
    model, tokens = made(), tokens_of(cloud())
    index = torch.tensor([[1, 4, 5, 9, 20, 21, 23]]).expand(2, -1)
    shown = torch.zeros(2, 24, dtype=torch.bool).scatter(1, index, True)[..., None]
    spoilt = replace(
        tokens,
        patches=torch.where(shown, tokens.patches, 50.0),
        coords=torch.where(shown, tokens.coords, tokens.coords.flip(1)),
    )
    plain, other = model(tokens, index), model(spoilt, index)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, other.layers, strict=True))


@torch.no_grad()
def test_within_a_radius_a_token_knows_of_nothing_further_away():
    """Two clusters ten apart. With radius 1 at all scales, what is in one does not reach the other; without, it does."""
    coords = cloud(1) / 3
    coords[:, 12:, 0] += 10
    tokens = tokens_of(coords)
    spoilt = replace(tokens, patches=torch.where(torch.arange(24)[:, None] < 12, tokens.patches, -tokens.patches))
    near, far = made(radius=(1.0, 1.0, 1.0)), made()
    assert torch.equal(near(tokens).last[:, :12], near(spoilt).last[:, :12])
    assert not torch.allclose(near(tokens).last[:, 12:], near(spoilt).last[:, 12:], atol=1e-3)
    assert not torch.allclose(far(tokens).last[:, :12], far(spoilt).last[:, :12], atol=1e-4)


@torch.no_grad()
def test_a_single_token_has_a_state():
    model, tokens = made(), tokens_of(cloud(count=1))
    assert torch.isfinite(model(tokens).last).all()


def test_every_parameter_learns():
    model = made()
    model(tokens_of(cloud())).last.square().sum().backward()  # of a sum alone, a final norm would cancel it all
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of keys moves all of a softmax alike: that of values, the second half of key_value's, is what learns.
    assert untouched == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder.depths": (1, 2)}, ["encoder.depths", "expected 3"]),
        ({"encoder.steps": (2,)}, ["encoder.steps", "expected 2"]),
        ({"encoder.heads": 5}, ["encoder.widths: 32", "encoder.heads = 5"]),
        ({"embedding.layer": -3}, ["embedding.layer", "-2"]),
        ({"position.rotary": ("x",)}, ["position.rotary", "pyramid"]),
        (
            {"tokenizer": {"kind": "voxels", "side": 12, "patch": 4}, "loss.kind": "l2"},
            ["encoder.kind", "point tokens", "'voxels'"],
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UsageError) as error:
        recipes.resolve("i2p-mae", size="tiny", flags=changes)
    assert all(word in str(error.value) for word in words), str(error.value)
