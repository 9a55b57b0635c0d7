"""BM-MAE: masked autoencoders of four MRI contrasts of brains with tumours (``bmmae.pth``, ``bmmae_tcga.pth``).

Paper: "Multimodal Masked Autoencoder Pre-training for 3D MRI-Based Brain Tumor Analysis with Missing Modalities", Robinet et
al., 2025, arXiv 2505.00568. 1 mm, cubes of 128 mm, patches of 16 mm; a patch projection for each contrast is all that tells
contrasts apart in the encoder. Twelve heads in encoder and decoder and layer norms of eps 1e-5, which tensors do not tell.

Where the release differs from what is done here:

* It crops the middle 128 mm, and takes axes as the file stores them (BraTS: left, posterior, superior), each mirrored half
  the time in training. Here axes are right, anterior, superior, and windows cover the whole head.
* It scales each contrast by the mean and deviation of its voxels that are not zero, and so does ours: heads must be
  stripped of their skulls, as BraTS's are, and air be zero.
* It wants all four contrasts to restore one; here the others are simply not there.
* Files written with MONAI 1.6 have layers (``norm_cross_attn``) that no block reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.published.base import Release, Transfer, timm_blocks

if TYPE_CHECKING:
    from torch import Tensor

CONTRASTS = {"t1": "T1w", "t1ce": "T1ce", "t2": "T2w", "flair": "FLAIR"}  # theirs -> ours, in their order
HEADS, EPS, SPACING_MM = 12, 1e-5, 1.0
PARTS = {"attn.proj": "attn.out_proj", "mlp.fc1": "mlp.linear1", "mlp.fc2": "mlp.linear2"}
UNNAMED = "contrasts that the release does not know"


def convert(t: Transfer) -> dict[str, Any]:
    """The recipe's table; sizes by the tensors' shapes."""
    patch = t.shape(_projection("t1") + ".weight")[-1]
    table = _encoder_positions(t)
    side = round(len(table) ** (1 / 3))
    _projections(t)
    t.move("encoder.extra", "cls_token", lambda token: token[0])
    timm_blocks(t, "encoder.blocks", "blocks", t.count("blocks.{}.norm1.weight"), PARTS)
    t.linear("encoder.norm", "norm")
    _skip(t)
    own = recipes.parse(recipes.source("bm-mae"), where="recipe 'bm-mae'")
    encoder = _stack(t, "blocks") | {"class_token": True, "channels": "projection"}
    return {
        "name": "bm-mae-released",
        "domains": ["mri"],
        "objective": "modality-budgets",
        "paper": "BM-MAE, arXiv 2505.00568",
        "size": "released",
        "data": own["data"]
        | {
            "kinds": [*CONTRASTS.values()],
            "spacing_mm": SPACING_MM,
            "window_mm": side * patch * SPACING_MM,
            "scaling": "nonzero",
        },
        "tokenizer": {"kind": "volume", "patch": patch, "channels": [*CONTRASTS.values()]},
        "position": {
            "code": "grid",
            "cells": [side, side, side, 1],
            "cell": [patch * SPACING_MM] * 3 + [1.0],
            "longest": [400.0, 400.0, 400.0, 1.0],
            "shortest": [32.0, 32.0, 32.0, 1.0],
        },
        "encoder": encoder,
        "decoder": _decoder(t) if _has_decoder(t) else _fresh_decoder(t, encoder),
        "embedding": {"layer": -1, "pool": "class"},
        "terms": [{"name": "reconstruction", "predictor": "joint", "sum_channels": True}],
        **{key: own[key] for key in ("mask", "loss", "optimizer", "training")},
    }


def _projection(contrast: str) -> str:
    return f"tokenizers.{contrast}.patch_embedding.patch_embeddings"


def _encoder_positions(t: Transfer) -> Tensor:
    """The table of places, which the release holds once for each contrast and never trained."""
    keys = [f"tokenizers.{name}.patch_embedding.position_embeddings" for name in CONTRASTS]
    tables = [t.use(key)[0] for key in keys]
    if any(not table.equal(tables[0]) for table in tables):
        raise UsageError(
            "The contrasts of this file have different tables of positions, those of BM-MAE one and the same: it was trained "
            "by other code."
        )
    t.put("encoder.embed_position.table", tables[0], *keys)
    return tables[0]


def _projections(t: Transfer) -> None:
    from torch import stack, zeros

    from toolkit.model.tokenizers.descriptors import DESCRIPTOR

    kernels, biases = [], []
    for number, name in enumerate(CONTRASTS):
        t.move(f"encoder.embed_patch.each.{number}.weight", f"{_projection(name)}.weight", lambda kernel: kernel.flatten(1))
        t.move(f"encoder.embed_patch.each.{number}.bias", f"{_projection(name)}.bias")
        kernels.append(t.ours[f"encoder.embed_patch.each.{number}.weight"])
        biases.append(t.ours[f"encoder.embed_patch.each.{number}.bias"])
    mean = f"{UNNAMED} go through the mean of its projections"
    t.make("encoder.embed_patch.other.weight", stack(kernels).mean(0), mean)
    t.make("encoder.embed_patch.other.bias", stack(biases).mean(0), mean)
    t.make("encoder.embed_patch.code.weight", zeros(len(biases[0]), DESCRIPTOR), f"no word for {UNNAMED}")


def _skip(t: Transfer) -> None:
    for blocks in ("blocks", "decoder.decoder_blocks"):
        for number in range(t.count(f"{blocks}.{{}}.norm1.weight")):
            t.skip(
                f"{blocks}.{number}.norm_cross_attn.", "of cross-attention, which BM-MAE has none of (MONAI 1.6's blocks hold it)"
            )
    t.skip("output_layer.", "a classifier of the classes it was tuned on")


def _stack(t: Transfer, theirs: str) -> dict[str, Any]:
    mlp, width = t.shape(f"{theirs}.0.mlp.linear1.weight")
    depth = t.count(f"{theirs}.{{}}.norm1.weight")
    return {"width": width, "depth": depth, "heads": HEADS, "head_width": width // HEADS, "mlp": mlp, "eps": EPS}


def _has_decoder(t: Transfer) -> bool:
    return "decoder.decoder_pred.weight" in t


def _decoder(t: Transfer) -> dict[str, Any]:
    """Every token but the class token gets its place and a vector of its contrast."""
    from torch import cat, zeros

    from toolkit.model.tokenizers.descriptors import DESCRIPTOR

    ours = "branches.reconstruction"
    vectors = [f"decoder.modality_embeddings.{name}" for name in CONTRASTS]
    t.move(f"{ours}.predictor.queries.mask_token", "decoder.mask_tokens", lambda token: token[0, 0])
    t.linear(f"{ours}.predictor.read.project", "decoder.decoder_embed")
    for part in ("queries", "read"):
        to = f"{ours}.predictor.{part}"
        t.move(f"{to}.position.table", "decoder.position_embeddings", lambda table: table[0])
        t.join(f"{to}.channel.own.weight", vectors, lambda *each: cat(each)[:, 0])
        width = t.shape(vectors[0])[-1]
        t.make(f"{to}.channel.code.weight", zeros(width, DESCRIPTOR), f"no word for {UNNAMED}")
    timm_blocks(t, f"{ours}.predictor.blocks", "decoder.decoder_blocks", t.count("decoder.decoder_blocks.{}.norm1.weight"), PARTS)
    t.linear(f"{ours}.predictor.norm", "decoder.decoder_norm")
    t.linear(f"{ours}.head", "decoder.decoder_pred")
    return _stack(t, "decoder.decoder_blocks") | {"dropout": 0.1, "channels": "own"}


def _fresh_decoder(t: Transfer, encoder: dict[str, Any]) -> dict[str, Any]:
    t.fresh("branches.", "the file has no decoder: starts fresh in `toolkit pretrain --init`")
    width = encoder["width"] // 2
    sizes = {"width": width, "depth": 3, "heads": HEADS, "head_width": width // HEADS, "mlp": encoder["mlp"], "eps": EPS}
    return sizes | {"dropout": 0.1, "channels": "own"}


def _no_restore(t: Transfer) -> str:
    if _has_decoder(t):
        return ""
    return "The file holds BM-MAE's encoder alone, as after fine-tuning; bmmae.pth and bmmae_tcga.pth hold the decoder too."


RELEASE = Release(
    name="bm-mae",
    system="BM-MAE, arXiv 2505.00568",
    where="https://huggingface.co/luklebigbosse/BM-MAE: bmmae.pth (BraTS 2021), bmmae_tcga.pth (without the TCGA cohort)",
    licence="CC BY-NC 4.0: not for commercial use",
    layout={
        "cls_token": (1, 1, None),
        "norm.weight": (None,),
        "blocks.0.attn.qkv.weight": (None, None),
        "blocks.0.attn.out_proj.weight": (None, None),
        "blocks.0.mlp.linear1.weight": (None, None),
        **{f"{_projection(name)}.weight": (None, 1, None, None, None) for name in CONTRASTS},
        **{f"tokenizers.{name}.patch_embedding.position_embeddings": (1, None, None) for name in CONTRASTS},
    },
    convert=convert,
    no_restore=_no_restore,
)
