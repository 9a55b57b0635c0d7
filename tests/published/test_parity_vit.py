"""Encoders of Bird-MAE, AudioMAE and MAE against timm's VisionTransformer with the same weights: largest difference 1e-5."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.published.vits import released, states_of, tokens_of, vit
from toolkit.cli.embed import options_for
from toolkit.embedding.pooling import pooled
from toolkit.errors import UsageError
from toolkit.model import masked
from toolkit.model.masked import MaskedModel
from toolkit.published import audio_mae, bird_mae, mae, read
from toolkit.published.base import Release

TOLERANCE = 1e-5


def imported(state: dict[str, Tensor], release: Release) -> MaskedModel:
    converted = read.convert_state(state, release)
    model = masked.build(converted.recipe)
    model.load_state_dict(converted.tensors)
    return model.eval()


def by_mel(states: Tensor, rows: int) -> Tensor:
    """States of tokens that run time first, in our order."""
    return states.unflatten(1, (-1, rows)).transpose(1, 2).flatten(1, 2)


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert theirs.std() > 0.1  # numbers that could differ
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize(
    ("release", "frames"), [(bird_mae.RELEASE, 512), (audio_mae.RELEASE, 1024)], ids=lambda v: getattr(v, "name", "")
)
@pytest.mark.parametrize(("size", "steps", "width"), [(1, 32, 128), (3, 31, 64), (2, 7, 192)])
@torch.inference_mode()
def test_states_are_timm_s_when_time_comes_first(release, frames, size, steps, width):
    theirs = vit((frames, 128), width=width)
    model = imported({f"model.{key}": value for key, value in released(theirs).items()}, release)
    mel = torch.randn(size, 128, 16 * steps, generator=torch.Generator().manual_seed(1))
    expected = theirs.norm(states_of(theirs, mel.transpose(1, 2)[:, None], theirs.pos_embed))
    states = model.features(tokens_of(mel, 16, 0.16))
    assert difference(states.last, by_mel(expected[:, 1:], 8)) <= TOLERANCE
    assert difference(states.class_state(), expected[:, 0]) <= TOLERANCE


@pytest.mark.parametrize(
    ("release", "frames"), [(bird_mae.RELEASE, 512), (audio_mae.RELEASE, 1024)], ids=lambda v: getattr(v, "name", "")
)
@torch.inference_mode()
def test_the_pooled_vector_is_that_of_timm_s_whole_model_with_fc_norm(release, frames):
    theirs = vit((frames, 128), fc_norm=True, global_pool="avg")
    model = imported(released(theirs), release)
    mel = torch.randn(2, 128, frames, generator=torch.Generator().manual_seed(1))
    tokens = tokens_of(mel, 16, 0.16)
    assert model.recipe.embedding.after_norm
    states = model.features(tokens)
    raw = pooled(model.recipe.embedding.pool, replace(states, last=states.layers[-1]), tokens.valid)
    assert difference(model.pool_norm(raw), theirs(mel.transpose(1, 2)[:, None])) <= TOLERANCE


@torch.inference_mode()
def test_a_fine_tuned_audiomae_has_no_final_norm():
    state = released(vit((1024, 128), fc_norm=True, global_pool="avg"))
    state = {key: value for key, value in state.items() if not key.startswith("norm.")}
    model = imported(state | {"head.weight": torch.zeros(527, 128)}, audio_mae.RELEASE)
    assert not model.recipe.encoder.final_norm and model.pool_norm is not None


@pytest.mark.parametrize(("side", "patch", "size", "rows"), [(14, 16, 1, 8), (14, 16, 3, 8), (16, 14, 2, 9)])
@torch.inference_mode()
def test_a_picture_of_three_equal_colours_is_seen_by_mae_as_its_spectrogram(side, patch, size, rows):
    theirs = vit((side * patch,) * 2, colours=3, patch=patch)
    model = imported(released(theirs), mae.RELEASE)
    assert model.recipe.tokenizer.mels == rows * patch
    mel = torch.randn(size, rows * patch, side * patch, generator=torch.Generator().manual_seed(1))
    first = 1 + (side - rows) // 2 * side  # the middle rows of the square table
    table = torch.cat([theirs.pos_embed[:, :1], theirs.pos_embed[:, first : first + rows * side]], dim=1)
    expected = theirs.norm(states_of(theirs, mel[:, None].expand(-1, 3, -1, -1), table))
    states = model.features(tokens_of(mel, patch, patch / 100))
    assert difference(states.last, expected[:, 1:]) <= TOLERANCE
    assert difference(states.class_state(), expected[:, 0]) <= TOLERANCE


@torch.inference_mode()
def test_a_longer_window_than_the_table_is_refused():
    loaded = SimpleNamespace(recipe=imported(released(vit((512, 128))), bird_mae.RELEASE).recipe)
    assert options_for(loaded, "window", None, None, None, None, "auto").window == loaded.recipe.data.window
    with pytest.raises(UsageError, match="longer than the .* that this model has positions for"):
        options_for(loaded, "window", 2 * loaded.recipe.data.window, None, None, None, "auto")
