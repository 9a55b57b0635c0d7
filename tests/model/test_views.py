"""What objectives ask of tokenizers: pictures, targets and styles, against numpy in float64 and by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from readers.schema import Channel
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch
from toolkit.model import tokenizers

VOXELS = {"data.points": 200, "tokenizer": {"kind": "voxels", "side": 12, "patch": 3}, "loss.kind": "l2"}
FLAGS = {
    "csfm": {"data.rate_hz": 100.0, "data.window_s": 2.0, "tokenizer.patch": 10},
    "bird-mae": {"tokenizer.mels": 16, "tokenizer.patch": 4},
    "bm-mae": {"tokenizer.patch": 3},
    "voxels": VOXELS,
    "point-cmae": {"data.points": 200, "tokenizer.centres": 16, "tokenizer.neighbours": 8},
}
SHAPES = {
    "csfm": (4, 3, 200),
    "bird-mae": (4, 1, 32_000),
    "bm-mae": (4, 2, 9, 6, 12),
    "voxels": (4, 3, 200),
    "point-cmae": (4, 3, 200),
}
GRIDS = ("csfm", "bird-mae", "bm-mae", "voxels")


def tokens_of(name, spoilt=False):
    """A tokenizer and tokens of noise; ``spoilt``: a fifth is missing at places that differ between samples."""
    rng, shape = np.random.default_rng(3), SHAPES[name]
    tokenizer = tokenizers.build(recipes.resolve({"voxels": "point-cmae"}.get(name, name), size="tiny", flags=FLAGS[name]))
    values = rng.normal(size=shape).astype(np.float32)
    valid = np.ones(shape, bool)
    if name in ("voxels", "point-cmae"):
        values = (values / np.linalg.norm(values, axis=1).max() * [[[1]], [[0.8]], [[0.6]], [[0.4]]]).astype(np.float32)
        values *= np.array([1, 0.5, 0.3], np.float32)[:, None]
        if spoilt:
            valid[0, :, 12:] = False  # fewer points than centres
    elif spoilt:
        for row in range(4):
            valid[row, ..., 20 * row : 20 * row + 3] = False
            valid[row, ..., row + 1] = False
    channels = tuple(Channel(str(c), str(c), "ecg", None, None, None) for c in range(1 if name == "bird-mae" else shape[1]))
    return tokenizer, tokenizer.tokenize(Batch(values, valid, (channels,) * 4))


# Pictures.


@pytest.mark.parametrize("name", GRIDS)
def test_pictures_and_patches_are_inverses_and_values_lie_where_their_axes_say(name):
    tokenizer, tokens = tokens_of(name)
    (channels, *steps), sides = tokens.grid, tokenizer.patch_shape
    patches = torch.arange(tokens.patches[:2].numel(), dtype=torch.float64).view(2, -1, tokenizer.values)
    pictures = tokenizer.dense(patches, tokens.grid)
    assert pictures.shape == (2, channels, *(n * side for n, side in zip(steps, sides, strict=True)))
    assert torch.equal(tokenizer.cut(pictures), patches)
    for token, place in enumerate(itertools.product(range(channels), *map(range, steps))):
        tile = pictures[1, place[0]]
        for axis, (at, side) in enumerate(zip(place[1:], sides, strict=True)):
            tile = tile.narrow(axis, at * side, side)
        assert torch.equal(tile.flatten(), patches[1, token])


# Targets.


@pytest.mark.parametrize("name", GRIDS)
def test_normalised_patches_are_z_scores(name):
    tokenizer, tokens = tokens_of(name)
    given = tokens.patches.double().numpy()
    want = (given - given.mean(-1, keepdims=True)) / np.sqrt(given.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(tokenizer.normalised(tokens.patches), want, atol=1e-4)
    moved = tokenizer.normalised(tokens.patches * 3 + 7)
    busy = tokens.patches.std(-1) > 0.1
    torch.testing.assert_close(moved[busy], tokenizer.normalised(tokens.patches)[busy], atol=1e-3, rtol=0)
    assert not tokenizer.normalised(torch.full((1, 2, tokenizer.values), 5.0)).any()


@pytest.mark.parametrize("name", GRIDS)
def test_the_spectrum_is_the_log_of_numpy_s(name):
    tokenizer, tokens = tokens_of(name)
    given = tokens.patches[:, :5].double().numpy()
    tiles = (given - given.mean(-1, keepdims=True)).reshape(4, 5, *tokenizer.patch_shape)
    axes = tuple(range(2, tiles.ndim))
    power = np.abs(np.fft.rfftn(tiles, axes=axes)) ** 2 / tokenizer.values
    want = np.log(1 + 100 * power).reshape(4, 5, -1)
    got = tokenizer.spectrum(tokens.patches[:, :5])
    assert got.shape == (4, 5, tokenizer.spectrum_size)
    np.testing.assert_allclose(got, want, atol=2e-3)
    torch.testing.assert_close(tokenizer.spectrum(tokens.patches + 3)[:, :5], got, atol=2e-2, rtol=0)  # the level does not count


def test_the_spectrum_of_a_tone_peaks_at_its_bin_and_white_noise_is_flat():
    tokenizer, _ = tokens_of("csfm")
    tone = torch.sin(2 * torch.pi * 3 * torch.arange(10) / 10)
    assert tokenizer.spectrum(tone.view(1, 1, 10)).argmax() == 3
    noise = torch.randn(1, 20_000, 10, generator=torch.Generator().manual_seed(0))
    power = (tokenizer.spectrum(noise).expm1() * 0.01).mean((0, 1))
    np.testing.assert_allclose(power[1:], 1.0, atol=0.05)


@pytest.mark.parametrize("name", GRIDS)
def test_changes_are_the_differences_that_a_loop_finds(name):
    tokenizer, tokens = tokens_of(name)
    tile = tokens.patches[2, 3].double().numpy().reshape(tokenizer.patch_shape)
    want = []
    for axis, side in enumerate(tokenizer.patch_shape):
        for lag in (1, 2, 4):
            if lag < side:
                later, before = (np.take(tile, range(a, a + side - lag), axis) for a in (lag, 0))
                want.append((later - before).ravel())
    got = tokenizer.changes(tokens.patches)
    assert got.shape == (*tokens.valid.shape, tokenizer.changes_size)
    np.testing.assert_allclose(got[2, 3], np.concatenate(want), atol=1e-5)


def test_targets_of_groups_are_those_of_numpy():
    tokenizer, tokens = tokens_of("point-cmae")
    groups = tokens.patches.double().numpy().reshape(4, 16, 8, 3)
    size = np.sqrt((groups**2).sum(-1).mean(-1))
    np.testing.assert_allclose(
        tokenizer.normalised(tokens.patches), (groups / size[..., None, None]).reshape(4, 16, 24), atol=1e-3
    )
    spectrum, changes = tokenizer.spectrum(tokens.patches), tokenizer.changes(tokens.patches)
    assert spectrum.shape[-1] == tokenizer.spectrum_size == 11 and changes.shape[-1] == tokenizer.changes_size == 3 * (7 + 6 + 4)
    for row, token in ((0, 0), (3, 9)):
        group = groups[row, token]
        radii = np.sort((group**2).sum(-1))
        spread = np.sort(np.linalg.eigvalsh(np.cov(group.T, bias=True)))
        want = np.log(1 + 1e4 * np.concatenate([radii, spread]))
        np.testing.assert_allclose(spectrum[row, token], want, atol=5e-3)
        want = np.concatenate([(group[lag:] - group[:-lag]).ravel() for lag in (1, 2, 4)])
        np.testing.assert_allclose(changes[row, token], want, atol=1e-6)


def test_the_spectrum_of_a_group_does_not_turn_with_it():
    tokenizer, tokens = tokens_of("point-cmae")
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = (tokens.patches.unflatten(-1, (8, 3)) @ torch.from_numpy(turn).float()).flatten(-2)
    torch.testing.assert_close(tokenizer.spectrum(turned), tokenizer.spectrum(tokens.patches), atol=2e-2, rtol=0)
    assert (turned - tokens.patches).abs().max() > 0.1


@pytest.mark.parametrize("name", [*GRIDS, "point-cmae"])
def test_targets_of_tokens_that_are_not_valid_are_finite(name):
    tokenizer, tokens = tokens_of(name, spoilt=True)
    assert name == "voxels" or not tokens.valid.all()
    for made in (tokenizer.normalised, tokenizer.spectrum, tokenizer.changes):
        assert torch.isfinite(made(tokens.patches)).all()


# Styles.

PARTNER = [2, 0, 3, 1]


def low_band(sides, share):
    """Where the frequency on every axis is at most so much of the highest one, for a full transform."""
    grids = np.meshgrid(*[np.abs(np.fft.fftfreq(n)) for n in sides], indexing="ij")
    return np.all([g <= share / 2 + 1e-9 for g in grids], axis=0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("name", GRIDS)
def test_a_style_is_the_partner_s_amplitude_in_the_low_band_and_nothing_else(name, share):
    tokenizer, tokens = tokens_of(name)
    keep = torch.ones_like(tokens.valid)  # the filling of a spectrogram's last column counts as well here
    tokens = dataclasses.replace(tokens, valid=keep)
    styled = tokenizer.restyle(tokens, torch.tensor(PARTNER), share)
    before, after = (tokenizer.dense(t.patches, t.grid).double().numpy() for t in (tokens, styled))
    axes, low = tuple(range(2, before.ndim)), low_band(before.shape[2:], share)
    parts, amplitude = np.fft.fftn(before, axes=axes), np.abs(np.fft.fftn(before, axes=axes))
    phase = np.exp(1j * np.angle(parts))
    want = np.where(low, amplitude[PARTNER], amplitude) * phase
    assert low.any() and (share == 0.5 or low.mean() < 0.3)
    np.testing.assert_allclose(after, np.fft.ifftn(want, axes=axes).real, atol=5e-4 * np.abs(before).max())
    got = np.fft.fftn(after, axes=axes)
    np.testing.assert_allclose(np.abs(got)[..., low], amplitude[PARTNER][..., low], atol=1e-4 * amplitude.max())
    np.testing.assert_allclose(got[..., ~low], parts[..., ~low], atol=1e-4 * amplitude.max())
    assert np.abs(after - before).max() > 1e-3
    for field in ("coords", "channel", "descriptor", "valid", "scale"):
        assert torch.equal(getattr(styled, field), getattr(tokens, field))


def spectrum_of_extents(coords, valid):
    return [np.linalg.eigvalsh(np.cov(c[v, :3].double().numpy().T, bias=True)) for c, v in zip(coords, valid, strict=True)]


def test_a_cloud_takes_the_partner_s_extents_and_keeps_its_directions():
    tokenizer, tokens = tokens_of("point-cmae", spoilt=True)
    styled = tokenizer.restyle(tokens, torch.tensor(PARTNER))
    own, got = (spectrum_of_extents(t.coords, t.valid) for t in (tokens, styled))
    np.testing.assert_allclose(got, np.array(own)[PARTNER], rtol=2e-3)
    assert np.abs(np.array(own)[PARTNER] / own - 1).max() > 0.5
    for row in range(4):
        valid = tokens.valid[row]
        points, moved = (t.coords[row, valid, :3].double().numpy() for t in (tokens, styled))
        np.testing.assert_allclose(moved.mean(0), points.mean(0), atol=1e-5)
        # The same linear map takes the groups along: it is that of the centres, found by least squares, and symmetric.
        matrix = np.linalg.lstsq(points - points.mean(0), moved - moved.mean(0), rcond=None)[0]
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-3)
        groups = tokens.patches[row, valid].double().numpy().reshape(-1, 3)
        np.testing.assert_allclose(styled.patches[row, valid].reshape(-1, 3), groups @ matrix, atol=1e-3)


def test_a_cloud_that_is_flat_or_a_point_stays_finite():
    tokenizer, tokens = tokens_of("point-cmae")
    coords, valid = tokens.coords.clone(), tokens.valid.clone()
    coords[0, :, 2] = 0.1
    valid[1, 1:] = False
    valid[2] = False
    changed = dataclasses.replace(tokens, coords=coords, valid=valid)
    styled = tokenizer.restyle(changed, torch.tensor([3, 0, 1, 2]))
    assert torch.isfinite(styled.coords).all() and torch.isfinite(styled.patches).all()
    torch.testing.assert_close(styled.coords[0, :, 2], coords[0, :, 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(styled.coords[3], coords[3], atol=1e-5, rtol=0)  # its partner has no extents


@pytest.mark.parametrize("name", ["csfm", "bird-mae", "bm-mae", "point-cmae"])
def test_tokens_that_are_not_valid_stay_and_say_nothing(name):
    tokenizer, tokens = tokens_of(name, spoilt=True)
    gone = ~tokens.valid
    junk = dataclasses.replace(tokens, patches=tokens.patches.masked_fill(gone[..., None], 99.0))
    first, second = (tokenizer.restyle(t, torch.tensor(PARTNER)) for t in (tokens, junk))
    assert gone.any() and (second.patches[gone] == 99).all() and torch.equal(first.patches[~gone], second.patches[~gone])
    assert torch.equal(first.coords[gone], tokens.coords[gone])


@pytest.mark.parametrize("name", [*GRIDS, "point-cmae"])
def test_the_style_of_oneself_changes_nothing(name):
    tokenizer, tokens = tokens_of(name)
    same = tokenizer.restyle(tokens, torch.arange(4))
    torch.testing.assert_close(same.patches, tokens.patches, atol=1e-4, rtol=0)
    torch.testing.assert_close(same.coords, tokens.coords, atol=1e-4, rtol=0)
