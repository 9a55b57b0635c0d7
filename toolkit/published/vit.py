"""Vision transformers on spectrograms, as AudioMAE, Bird-MAE and MAE keep them: one class token, one table of positions.

Encoder (timm's VisionTransformer): a convolution whose kernel is its stride, the class token in front, a table of
positions for class token and patches, pre-norm blocks, layer norms of eps 1e-6. Theirs flatten time first and mel last, or
rows of a picture; here tokens are flattened mel first, and the table is looked up by place. A token gets the vector that
it got there, even where the table was made for another order of tokens (AudioMAE, Bird-MAE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.published.base import Transfer, timm_blocks

if TYPE_CHECKING:
    from torch import Tensor

HEADS = {768: 12, 1024: 16, 1280: 16}  # of the released sizes; shapes of tensors do not tell
HEAD_WIDTH = 64  # of other widths
NO_LEVELS = (
    "The decoder of this release, where a file has it, predicts patches that were each scaled to mean 0 and deviation 1, so it "
    "knows no levels and cannot repair a recording"
)


def layout(positions: int | None, kernel: tuple[int | None, ...]) -> dict[str, tuple[int | None, ...]]:
    """What a file must hold: a table of so many positions, a patch embedding of this shape, and blocks. None: any number."""
    return {
        "cls_token": (1, 1, None),
        "pos_embed": (1, positions, None),
        "patch_embed.proj.weight": kernel,
        "patch_embed.proj.bias": (None,),
        "blocks.0.norm1.weight": (None,),
        "blocks.0.attn.qkv.weight": (None, None),
        "blocks.0.attn.qkv.bias": (None,),
        "blocks.0.attn.proj.weight": (None, None),
        "blocks.0.mlp.fc1.weight": (None, None),
        "blocks.0.mlp.fc2.weight": (None, None),
    }


def encoder(t: Transfer) -> dict[str, Any]:
    """Move class token, blocks and norm; the encoder's table. Patches and positions are the release's own matter."""
    depth, width = t.count("blocks.{}.norm1.weight"), t.shape("cls_token")[-1]
    t.join("encoder.extra", ["cls_token", "pos_embed"], lambda token, table: token[0] + table[0, :1])
    t.move("encoder.embed_patch.bias", "patch_embed.proj.bias")
    timm_blocks(t, "encoder.blocks", "blocks", depth)
    final = "norm.weight" in t
    if final:
        t.linear("encoder.norm", "norm")
    t.skip("head.", "a classifier of the classes it was tuned on")
    t.skip("decoder", f"{NO_LEVELS}; pretraining starts a fresh one")
    t.skip("mask_token", "the decoder's")
    t.fresh("branches.", "decoder: starts fresh in `toolkit pretrain --init`")
    heads = HEADS.get(width, max(1, width // HEAD_WIDTH))
    return {
        "width": width,
        "depth": depth,
        "heads": heads,
        "head_width": width // heads,
        "mlp": t.shape("blocks.0.mlp.fc1.weight")[0],
        "class_token": True,
        "channels": "none",
        "final_norm": final,
    }


def decoder(width: int) -> dict[str, Any]:
    """The published decoder's table (8 blocks of 512), no wider than the encoder."""
    width = min(512, width)
    heads = max(1, width // 32)
    return {"width": width, "depth": 8, "heads": heads, "head_width": width // heads, "mlp": 4 * width, "channels": "none"}


def pooling(t: Transfer) -> dict[str, Any]:
    """Mean of the patches' states; where the file has ``fc_norm``, of those before the final norm, normed by it."""
    if "fc_norm.weight" not in t:
        return {"layer": -1, "pool": "mean"}
    t.linear("pool_norm", "fc_norm")
    return {"layer": -1, "pool": "mean", "after_norm": True}


def time_first(t: Transfer, rows: int) -> int:
    """Patches and positions of an encoder whose pictures have time along their rows; steps of the table.

    A patch's kernel has time, then mel; the table has ``rows`` mel patches for each step.
    """
    t.move("encoder.embed_patch.weight", "patch_embed.proj.weight", lambda w: w[:, 0].transpose(1, 2).flatten(1))
    steps = (t.shape("pos_embed")[1] - 1) // rows

    def by_mel(table: Tensor) -> Tensor:
        return table[0, 1:].unflatten(0, (steps, rows)).transpose(0, 1).flatten(0, 1)

    t.move("encoder.embed_position.table", "pos_embed", by_mel)
    fresh_positions(t)
    return steps


def fresh_positions(t: Transfer) -> None:
    """A decoder's table of positions is sines to begin with."""
    for part in ("queries", "read"):
        t.fresh(f"branches.reconstruction.predictor.{part}.position.", "sines of the decoder")


def position(rows: int, steps: int, step_s: float) -> dict[str, Any]:
    """The grid's table: ``rows`` on the mel scale from 0 to 1, ``steps`` of so many seconds from 0 on."""
    return {
        "code": "grid",
        "cells": [rows, 1, 1, steps],
        "cell": [1 / rows, 1.0, 1.0, step_s],
        "middle": [0.5, 0.0, 0.0, steps * step_s / 2],
        "longest": [4.0, 1.0, 1.0, 10.0],
        "shortest": [0.25, 1.0, 1.0, 0.32],
    }


def recipe(name: str, paper: str, t: Transfer, encoder: dict[str, Any], tables: dict[str, Any]) -> dict[str, Any]:
    """A recipe of masked spectrograms around an encoder; ``tables`` are the release's own."""
    return {
        "name": name,
        "domains": ["audio"],
        "objective": "mae",
        "paper": paper,
        "size": "released",
        "encoder": encoder,
        "decoder": decoder(encoder["width"]),
        "embedding": pooling(t),
        "loss": {"kind": "l2"},
        "terms": [{"name": "reconstruction", "predictor": "joint", "target": "patch_norm"}],
        "training": {"steps": 100000, "batch_size": 256},
        **tables,
    }


def summed(weight: Tensor) -> Tensor:
    """A kernel (W, 3, side, side) for pictures whose three colours are one spectrogram, flattened (W, side^2)."""
    return weight.sum(1).flatten(1)


def middle_rows(table: Tensor, side: int, rows: int) -> Tensor:
    """The middle ``rows`` of a square table of positions (1, 1 + side^2, W), row after row (rows * side, W)."""
    first = (side - rows) // 2
    return table[0, 1:].unflatten(0, (side, side))[first : first + rows].flatten(0, 1)
