"""Point-MAE and Point-CMAE: masked autoencoders of point clouds, and encoders that were tuned from them.

Papers: "Masked Autoencoders for Point Cloud Self-supervised Learning", Pang et al., ECCV 2022, arXiv 2203.06604; "Bringing
Masked Autoencoders Explicit Contrastive Properties for Point Cloud Self-Supervised Learning", Ren et al., ACCV 2024, arXiv
2407.05862. 1024 points in the unit sphere, 64 groups of 32 nearest neighbours, places added before every block of encoder
and decoder. Six heads and layer norms of eps 1e-5, which tensors do not tell.

Where the releases differ from what is done here:

* Their farthest points begin with the first row of the file and leave out points within 0.03 of the origin (a cloud of
  small numbers collapses into one centre without a word); ours begin with the farthest from the centroid and leave none
  out. With the same groups the states are the same.
* Point-MAE pretrains without a class token, and fine-tuning adds a fresh one: a file of pretraining is pooled by mean and
  maximum, one of fine-tuning by the class token beside the maximum of the others, as its head reads it.
* Point-CMAE shows its two masks two class tokens; ours shows both the first. The class projection enters no loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.published.base import Release, Transfer, timm_blocks

if TYPE_CHECKING:
    from torch import Tensor

HEADS, EPS = 6, 1e-5
NEIGHBOURS = 32  # of a file without a decoder
PLACES = ("0.weight", "0.bias", "2.weight", "2.bias")
POINTNET = (("first", "encoder.first_conv"), ("second", "encoder.second_conv"))
TUNED, FIRST_VIEW = ("cls_token", "cls_pos"), ("cls_token1", "cls_pos1")  # class token and its place
TWO_VIEWS = "the second view's, which ours shows the first class token"


def convert_mae(t: Transfer) -> dict[str, Any]:
    """The recipe's table of a Point-MAE; sizes by the tensors' shapes."""
    if "cls_token1" in t:
        raise UsageError("The file holds two class tokens and two decoders, those of Point-CMAE: pass --as point-cmae.")
    tuned = "cls_token" in t
    table = _common(t, "point-mae-released", "Point-MAE, ECCV 2022, arXiv 2203.06604", TUNED if tuned else None)
    if _has_decoder(t):
        table["decoder"] |= _decoder(t, "reconstruction", "mask_token", "decoder_pos_embed", "MAE_decoder", "increase_dim")
    else:
        t.fresh("branches.", "the file has no decoder: starts fresh in `toolkit pretrain --init`")
    t.skip("cls_head_finetune.", "a classifier of the classes it was tuned on")
    return table | {"objective": "mae", "terms": [{"name": "reconstruction", "predictor": "joint"}]}


def convert_cmae(t: Transfer) -> dict[str, Any]:
    """The recipe's table of a Point-CMAE, twin decoders and all."""
    table = _common(t, "point-cmae-released", "Point-CMAE, ACCV 2024, arXiv 2407.05862", FIRST_VIEW)
    first = ("mask_token1", "decoder_pos_embed1", "MAE_decoder", "increase_dim")
    second = ("mask_token2", "decoder_pos_embed2", "MAE_decoder_", "increase_dim_")
    table["decoder"] |= _decoder(t, "reconstruction", *first) | {"read_extra": False}
    _decoder(t, "second", *second)
    t.skip("cls_token2", TWO_VIEWS)
    t.skip("cls_pos2", TWO_VIEWS)
    t.skip("proj_cls.", "enters no loss")
    same = {"predictor": "same", "of": "reconstruction", "target": "twin", "twin": "second", "loss": "pairs", "partners": "all"}
    terms = [
        {"name": "reconstruction", "predictor": "joint"},
        {"name": "second", "on": 1, "predictor": "joint"},
        {"name": "consistency", "weight": 0.001, **same},
    ]
    return table | {"objective": "double-mask", "passes": [{}, {}], "terms": terms}


def _common(t: Transfer, name: str, paper: str, token: tuple[str, str] | None) -> dict[str, Any]:
    width = t.shape("norm.weight")[0]
    for ours, theirs in POINTNET:
        _pointnet(t, f"encoder.embed_patch.{ours}", theirs)
    _places(t, "encoder.embed_position", "pos_embed")
    timm_blocks(t, "encoder.blocks", "blocks.blocks", t.count("blocks.blocks.{}.norm1.weight"))
    t.linear("encoder.norm", "norm")
    if token is not None:
        t.move("encoder.extra", token[0], lambda value: value[0])
        t.move("encoder.extra_position", token[1], lambda value: value[0])
    neighbours = t.shape("increase_dim.0.weight")[0] // 3 if "increase_dim.0.weight" in t else NEIGHBOURS
    encoder = _stack(t, "blocks.blocks", width)
    own = recipes.parse(recipes.source("point-mae"), where="recipe 'point-mae'")
    return {
        "name": name,
        "domains": ["points"],
        "paper": paper,
        "size": "released",
        "data": own["data"] | {"points": 1024},
        "tokenizer": {"kind": "points", "centres": 64, "neighbours": neighbours, "norm": "batch"},
        "position": {"code": "mlp", "every_block": True, "longest": [4.0, 4.0, 4.0, 1.0], "shortest": [0.125, 0.125, 0.125, 1.0]},
        "encoder": encoder | {"class_token": token is not None},
        "decoder": encoder | {"depth": 4, "project": False},
        "embedding": {"layer": -1, "pool": "meanmax" if token is None else "classmax"},
        **{key: own[key] for key in ("mask", "loss", "optimizer", "training")},
    }


def _stack(t: Transfer, theirs: str, width: int) -> dict[str, Any]:
    return {
        "width": width,
        "depth": t.count(f"{theirs}.{{}}.norm1.weight"),
        "heads": HEADS,
        "head_width": width // HEADS,
        "mlp": t.shape(f"{theirs}.0.mlp.fc1.weight")[0],
        "eps": EPS,
        "bias": "all" if f"{theirs}.0.attn.qkv.bias" in t else "no-qkv",
        "channels": "none",
        "drop_path": 0.1,
    }


def _pointnet(t: Transfer, ours: str, theirs: str) -> None:
    """Convolutions over single points are linears; a norm over the batch between them."""
    for layer in (0, 3):
        t.move(f"{ours}.{layer}.weight", f"{theirs}.{layer}.weight", _flat)
        t.move(f"{ours}.{layer}.bias", f"{theirs}.{layer}.bias")
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        t.move(f"{ours}.1.{kind}", f"{theirs}.1.{kind}")


def _flat(kernel: Tensor) -> Tensor:
    return kernel.flatten(1)


def _places(t: Transfer, ours: str, theirs: str) -> None:
    for part in PLACES:
        t.move(f"{ours}.layers.{part}", f"{theirs}.{part}")


def _has_decoder(t: Transfer) -> bool:
    return "MAE_decoder.norm.weight" in t


def _decoder(t: Transfer, term: str, token: str, places: str, blocks: str, head: str) -> dict[str, Any]:
    """Move one decoder to the branch of ``term``; what its table says otherwise than the encoder's."""
    ours = f"branches.{term}"
    t.move(f"{ours}.predictor.queries.mask_token", token, lambda value: value[0, 0])
    for part in ("queries", "read"):
        _places(t, f"{ours}.predictor.{part}.position", places)
    depth = t.count(f"{blocks}.blocks.{{}}.norm1.weight")
    timm_blocks(t, f"{ours}.predictor.blocks", f"{blocks}.blocks", depth)
    t.linear(f"{ours}.predictor.norm", f"{blocks}.norm")
    t.move(f"{ours}.head.weight", f"{head}.0.weight", _flat)
    t.move(f"{ours}.head.bias", f"{head}.0.bias")
    return {"depth": depth}


def _no_restore(t: Transfer) -> str:
    if _has_decoder(t):
        return ""
    return "The file holds the encoder alone, as after fine-tuning; files of pretraining hold the decoder too."


LAYOUT = {
    "encoder.first_conv.0.weight": (None, 3, 1),
    "encoder.first_conv.1.running_mean": (None,),
    "encoder.second_conv.3.weight": (None, None, 1),
    "pos_embed.0.weight": (None, 3),
    "blocks.blocks.0.attn.qkv.weight": (None, None),
    "blocks.blocks.0.mlp.fc1.weight": (None, None),
    "norm.weight": (None,),
}
POINT_MAE = Release(
    name="point-mae",
    system="Point-MAE, ECCV 2022, arXiv 2203.06604",
    where="https://github.com/Pang-Yatian/Point-MAE, its releases: pretrain.pth, and one file for each set it was tuned on",
    licence="MIT",
    layout=LAYOUT,
    convert=convert_mae,
    no_restore=_no_restore,
)
POINT_CMAE = Release(
    name="point-cmae",
    system="Point-CMAE, ACCV 2024, arXiv 2407.05862",
    where="https://github.com/Amazingren/Point-CMAE (MIT) offers none yet; files that its code writes can be imported",
    licence="MIT (of the code)",
    layout=LAYOUT | {"cls_token1": (1, 1, None), "cls_pos1": (1, 1, None), "cls_token2": (1, 1, None)},
    convert=convert_cmae,
    no_restore=_no_restore,
)
