"""REVE, BM-MAE, Point-MAE and Point-CMAE: every tensor of a file is accounted for, and files that differ are told apart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.published.peers import fabricate, ours
from toolkit.errors import UsageError
from toolkit.published import bm_mae, point_mae, read, reve
from toolkit.published.base import UNKNOWN, Release

FIXTURES = Path(__file__).parent / "fixtures"
RELEASES = {
    "reve": reve.RELEASE,
    "reve_mae": reve.RELEASE,
    "bm_mae": bm_mae.RELEASE,
    "point_mae": point_mae.POINT_MAE,
    "point_cmae": point_mae.POINT_CMAE,
}


def released(name: str) -> dict[str, Tensor]:
    """A small state dict under the names of a release."""
    about, cases = fabricate.read(FIXTURES / f"{name}.npz")
    if name != "bm_mae":
        return ours.state_of(about)
    tables = {".position_embeddings": cases[0]["table_encoder"], "decoder.position_embeddings": cases[0]["table_decoder"]}
    return ours.state_of(about, **tables)


def shaped(name: str, **changed: tuple[int, ...]) -> dict[str, Tensor]:
    """The same, some tensors of another shape."""
    about, _ = fabricate.read(FIXTURES / f"{name}.npz")
    shapes = about["shapes"] | {key: list(shape) for key, shape in changed.items()}
    return {key: torch.from_numpy(value) for key, value in fabricate.weights(shapes).items()}


def converted(state: dict[str, Tensor], release: Release) -> read.Converted:
    return read.convert_state(state, release)


@pytest.mark.parametrize("name", RELEASES)
def test_every_tensor_is_used_or_skipped_for_a_reason(name: str) -> None:
    state = released(name)
    found = converted(state, RELEASES[name])
    used = {key for row in found.ledger["used"] for key in row["theirs"]}
    skipped = {row["theirs"]: row["reason"] for row in found.ledger["skipped"]}
    assert len(used) + len(skipped) == len(state)
    assert UNKNOWN not in skipped.values()
    assert set(skipped) == ({"cls_token2", "cls_pos2"} if name == "point_cmae" else set())


@pytest.mark.parametrize("name", RELEASES)
def test_numbers_arrive_once(name: str) -> None:
    """As many numbers as the file has are in the encoder, but for what decoders hold and places that contrasts share."""
    state = {key: value for key, value in released(name).items() if value.is_floating_point()}
    found = converted(released(name), RELEASES[name])
    made = {row["ours"] for row in found.ledger["missing"]}
    theirs = (
        "mask_token",
        "decoder",
        "MAE_decoder",
        "increase_dim",
        "to_pixels",
        "cls_",
        "MAE_encoder.cls_token2",
        "MAE_encoder.cls_pos2",
    )
    encoder = sum(value.numel() for key, value in state.items() if not key.startswith(theirs))
    if name == "bm_mae":
        encoder -= 3 * state["tokenizers.t1.patch_embedding.position_embeddings"].numel() - state["cls_token"].numel()
    mine = {key: value for key, value in found.tensors.items() if key.startswith("encoder.") and key not in made}
    assert sum(value.numel() for value in mine.values() if value.is_floating_point()) == encoder


def test_decoders_restore_and_encoders_say_why_they_do_not() -> None:
    for name in ("reve_mae", "bm_mae", "point_mae", "point_cmae"):
        assert converted(released(name), RELEASES[name]).untrained == ""
    assert "hub hold the encoder alone" in converted(released("reve"), reve.RELEASE).untrained
    alone = {key: value for key, value in released("bm_mae").items() if not key.startswith("decoder.")}
    assert "encoder alone" in converted(alone, bm_mae.RELEASE).untrained


def test_reve_without_a_query_has_no_second_loss() -> None:
    """A query that was never trained would pool at random without a word."""
    state = released("reve")
    assert {term.name for term in converted(state, reve.RELEASE).recipe.terms} == {"reconstruction", "global"}
    del state["cls_query_token"]
    assert [term.name for term in converted(state, reve.RELEASE).recipe.terms] == ["reconstruction"]


def test_reve_counts_frequencies_by_its_width() -> None:
    """4^4 = 256 waves are half of Base's 512; Large's 1216 take 5^4."""
    for width, count in ((128, 3), (512, 4), (514, 5), (1216, 5)):
        assert math.ceil((width / 2) ** 0.25 - 1e-9) == count == reve._frequencies(width)
    assert converted(released("reve"), reve.RELEASE).recipe.position.frequencies == 3


def test_reve_with_a_decoder_of_another_width_gives_its_encoder() -> None:
    state = released("reve_mae") | {"pos_enc_to_dec.weight": torch.zeros(64, 128), "enc_to_dec.weight": torch.zeros(64, 128)}
    found = converted(state, reve.RELEASE)
    assert "another width" in {row["reason"] for row in found.ledger["skipped"]}.pop()
    assert "no decoder of the encoder's width" in found.untrained
    assert torch.equal(found.tensors["branches.global.pool.attention.query"], state["cls_query_token"])


def test_point_mae_after_fine_tuning_is_pooled_as_its_head_reads_it() -> None:
    state = {key.removeprefix("MAE_encoder."): value for key, value in released("point_mae").items() if "MAE_encoder" in key}
    state |= {"cls_token": torch.full((1, 1, 48), 0.5), "cls_pos": torch.full((1, 1, 48), 0.25)}
    state |= {"cls_head_finetune.0.weight": torch.zeros(256, 96), "cls_head_finetune.0.bias": torch.zeros(256)}
    found = converted({f"module.{key}": value for key, value in state.items()}, point_mae.POINT_MAE)
    assert (found.recipe.embedding.pool, found.recipe.encoder.class_token) == ("classmax", True)
    assert (found.tensors["encoder.extra"] == 0.5).all()
    assert (found.tensors["encoder.extra_position"] == 0.25).all()
    assert {row["reason"] for row in found.ledger["skipped"]} == {"a classifier of the classes it was tuned on"}
    assert "encoder alone" in found.untrained


def test_point_mae_and_point_cmae_are_told_apart() -> None:
    with pytest.raises(UsageError, match="pass --as point-cmae"):
        converted(released("point_cmae"), point_mae.POINT_MAE)
    with pytest.raises(UsageError, match="not laid out as point-cmae: .*cls_token1"):
        converted(released("point_mae"), point_mae.POINT_CMAE)


def test_bm_mae_written_with_a_later_monai_is_the_same_model() -> None:
    state = released("bm_mae")
    later = {
        f"{block}.norm_cross_attn.{kind}": torch.ones(48) for block in ("blocks.0", "blocks.1") for kind in ("weight", "bias")
    }
    plain, with_more = converted(state, bm_mae.RELEASE), converted(state | later, bm_mae.RELEASE)
    assert all(torch.equal(plain.tensors[key], value) for key, value in with_more.tensors.items())
    assert {row["theirs"] for row in with_more.ledger["skipped"]} == set(later)


def test_bm_mae_with_places_that_differ_among_contrasts_is_refused() -> None:
    state = released("bm_mae")
    state["tokenizers.t2.patch_embedding.position_embeddings"] = state["tokenizers.t2.patch_embedding.position_embeddings"] + 1
    with pytest.raises(UsageError, match="different tables of positions"):
        converted(state, bm_mae.RELEASE)


def test_a_block_of_another_shape_is_refused_by_name() -> None:
    state = shaped("point_mae", **{"MAE_encoder.blocks.blocks.1.mlp.fc1.weight": (100, 48)})
    with pytest.raises(UsageError, match=r"'encoder.blocks.1.mlp.0.weight' has shape \(100, 48\), expected \(192, 48\)"):
        converted(state, point_mae.POINT_MAE)
