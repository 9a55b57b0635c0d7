"""REVE: the encoders on the hub, and masked-autoencoder checkpoints of its code (``encoder.``, ``decoder.``).

Paper: "REVE: A Foundation Model for EEG", El Ouahidi et al., NeurIPS 2025, arXiv 2510.21585. 200 Hz, patches of 1 s every
0.9 s, tail dropped, electrodes by their place in metres. Heads are 64 wide, which shapes of tensors do not tell.

Seen by running the hub's code and braindecode 1.8.1 beside this:

* Time is counted in patches from 0. The waves see a tenth of that number, the MLP the number itself.
* cos comes before sin; frequencies along x change slowest, and of F^4 only as many are used as fill half the width.
* GEGLU: the first half of the linear is the value, the second goes through the GELU.
* ``attention_pooling`` of hub and braindecode reads the last layer alone; training, where its query was learned, reads
  all of them, the embedded patches included, and so does ours.
* braindecode's description pads the last patch; its code drops the tail, as the original does.
* Training scales each channel by mean and deviation of its session and clips at 15, and so does ours; the downstream tasks
  of its code divide microvolts by 100 instead.
"""

from __future__ import annotations

from typing import Any

from toolkit import recipe as recipes
from toolkit.published.base import Release, Transfer

HEAD_WIDTH = 64
RATE_HZ, WINDOW_S = 200, 10.0
STEP = 0.9  # of a patch to the next
GLOBAL = {"name": "global", "weight": 0.1, "predictor": "pool", "pool": "query", "mix_layers": True}
POSITIONS = ("mlp.0.weight", "mlp.2.weight", "mlp.2.bias", "norm.weight", "norm.bias")


def convert(t: Transfer) -> dict[str, Any]:
    """The recipe's table; sizes by the tensors' shapes."""
    width, patch = t.shape("to_patch_embedding.0.weight")
    t.linear("encoder.embed_patch", "to_patch_embedding.0")
    _positions(t, "encoder.embed_position")
    encoder = _stack(t, "encoder.blocks", "transformer.layers")
    t.skip("final_layer.", "a classifier of the classes it was tuned on")
    for part in ("queries", "read"):
        _positions(t, f"branches.reconstruction.predictor.{part}.position")  # the encoder's own code of places
    decoder = _decoder(t) if _has_decoder(t) else _fresh_decoder(t, encoder)
    second = [GLOBAL] if "cls_query_token" in t else []
    if second:
        _global_token(t, width)
    own = recipes.parse(recipes.source("reve"), where="recipe 'reve'")
    return {
        "name": "reve-released",
        "domains": ["eeg"],
        "objective": "global-token",
        "paper": "REVE, NeurIPS 2025, arXiv 2510.21585",
        "size": "released",
        "data": own["data"] | {"rate_hz": RATE_HZ, "window_s": WINDOW_S, "scaling": "session"},
        "tokenizer": {"kind": "signal", "patch": patch, "stride": round(STEP * patch), "identity": "place"},
        "position": {
            "code": "space-time",
            "frequencies": _frequencies(width),
            "middle": [0.0, 0.0, 0.0, patch / RATE_HZ / 2],
            "unit": [1.0, 1.0, 1.0, STEP * patch / RATE_HZ],
            "jitter_m": 0.0025,
            "longest": [1.8, 1.8, 1.8, 16.2],
            "shortest": [0.6, 0.6, 0.6, 5.4],
        },
        "encoder": encoder,
        "decoder": decoder | {"project": False},
        "embedding": {"layer": -1, "pool": "mean"},
        "terms": [{"name": "reconstruction", "predictor": "joint"}, *second],
        **{key: own[key] for key in ("mask", "loss", "optimizer", "training")},
    }


def _frequencies(width: int) -> int:
    """The least F whose F^4 waves fill half the width: 4 of Base, 5 of Large."""
    return next(number for number in range(1, 9) if 2 * number**4 >= width)


def _positions(t: Transfer, ours: str) -> None:
    theirs = ("mlp4d.0.weight", "mlp4d.2.weight", "mlp4d.2.bias", "ln.weight", "ln.bias")
    for mine, old in zip(POSITIONS, theirs, strict=True):
        t.move(f"{ours}.{mine}", old)


def _stack(t: Transfer, ours: str, theirs: str) -> dict[str, Any]:
    """Move the blocks; the table of their transformer."""
    depth = t.count(f"{theirs}.{{}}.0.to_qkv.weight")
    for number in range(depth):
        mine, old = f"{ours}.{number}", f"{theirs}.{number}"
        t.linear(f"{mine}.norm1", f"{old}.0.norm")
        t.fused(f"{mine}.attention", f"{old}.0.to_qkv.weight", "weight")
        t.linear(f"{mine}.attention.out", f"{old}.0.to_out")
        t.linear(f"{mine}.norm2", f"{old}.1.net.0")
        t.linear(f"{mine}.mlp.up", f"{old}.1.net.1")
        t.linear(f"{mine}.mlp.down", f"{old}.1.net.3")
    width, inner = t.shape(f"{theirs}.0.0.to_out.weight")
    return {
        "width": width,
        "depth": depth,
        "heads": inner // HEAD_WIDTH,
        "head_width": HEAD_WIDTH,
        "mlp": t.shape(f"{theirs}.0.1.net.3.weight")[1],
        "norm": "rms",
        "activation": "geglu",
        "bias": "none",
        "final_norm": False,
        "channels": "none",
        "init": "normal",
    }


def _has_decoder(t: Transfer) -> bool:
    """A decoder of another width reads places through a linear of its own, which ours has no place for."""
    return "to_pixels.weight" in t and "pos_enc_to_dec.weight" not in t


def _decoder(t: Transfer) -> dict[str, Any]:
    ours = "branches.reconstruction"
    t.move(f"{ours}.predictor.queries.mask_token", "mask_token")
    t.linear(f"{ours}.head", "to_pixels")
    return _stack(t, f"{ours}.predictor.blocks", "decoder.layers")


def _fresh_decoder(t: Transfer, encoder: dict[str, Any]) -> dict[str, Any]:
    t.fresh(
        "branches.reconstruction.", "the file has no decoder of the encoder's width: starts fresh in `toolkit pretrain --init`"
    )
    for theirs in ("decoder.", "mask_token", "to_pixels.", "enc_to_dec.", "pos_enc_to_dec."):
        t.skip(theirs, "a decoder of another width, with a linear for places that ours does not have")
    return encoder | {"depth": 4}


def _global_token(t: Transfer, width: int) -> None:
    """The query of the second loss, and what it was trained with: (vector + place) through two linears with a ReLU between."""
    from torch import eye, zeros

    ours = "branches.global"
    t.move(f"{ours}.pool.attention.query", "cls_query_token")
    _positions(t, f"{ours}.predictor.queries.position")
    if not _has_decoder(t) or "cls_to_pixels.0.weight" not in t:
        t.fresh(f"{ours}.", "for training alone, not in the file: starts fresh in `toolkit pretrain --init`")
        t.skip("cls_to_pixels.", "the second loss's, of a decoder of another width")
        return
    t.make(f"{ours}.predictor.queries.mask_token", zeros(width), "theirs adds none to the vector")
    t.make(f"{ours}.predictor.project.weight", eye(width), "theirs takes the vector as it is")
    t.make(f"{ours}.predictor.project.bias", zeros(width), "theirs takes the vector as it is")
    t.move(f"{ours}.predictor.mlp.0.weight", "cls_to_pixels.0.weight")
    t.make(f"{ours}.predictor.mlp.0.bias", zeros(4 * width), "theirs has none")
    t.linear(f"{ours}.head", "cls_to_pixels.2")


def _no_restore(t: Transfer) -> str:
    if _has_decoder(t):
        return ""
    return (
        "The file holds no decoder of the encoder's width; those on the hub hold the encoder alone, which embeds and can be "
        "tuned or trained further, but cannot fill in a recording."
    )


RELEASE = Release(
    name="reve",
    system="REVE, NeurIPS 2025, arXiv 2510.21585",
    where="https://huggingface.co/brain-bzh/reve-base (also reve-large), after accepting its terms: model.safetensors",
    licence="the authors' terms of responsible use: no re-identification, no redistribution of weights or derivatives",
    layout={
        "to_patch_embedding.0.weight": (None, None),
        "to_patch_embedding.0.bias": (None,),
        "mlp4d.0.weight": (None, 4),
        "mlp4d.2.weight": (None,),
        "ln.weight": (None,),
        "transformer.layers.0.0.norm.weight": (None,),
        "transformer.layers.0.0.to_qkv.weight": (None, None),
        "transformer.layers.0.0.to_out.weight": (None, None),
        "transformer.layers.0.1.net.1.weight": (None, None),
        "transformer.layers.0.1.net.3.weight": (None, None),
    },
    convert=convert,
    no_restore=_no_restore,
)
