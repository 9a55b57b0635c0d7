"""MAE of images as the start of an encoder of spectrograms.

Paper: "Masked Autoencoders Are Scalable Vision Learners", He et al., CVPR 2022, arXiv 2111.06377. It never heard a sound;
its encoder is worth starting from, as AST (Gong et al., 2104.01778) does from image transformers, and as AST does, a
spectrogram is taken for a picture with mel along its height. Its three colours are the same picture, so patch weights are summed
over them (AST: the mean, which sees a third of it), and of the square table of positions the middle rows stay, as many as
there are mel patches. Spectrograms are scaled as AudioMAE's, near to what normalised pictures are. The decoder paints
colours of pictures and is left out.
"""

from __future__ import annotations

import math
from typing import Any

from toolkit.errors import UsageError
from toolkit.published import audio_mae, vit
from toolkit.published.base import Release, Transfer

RATE_HZ, WINDOW, HOP, MELS = 32000, 800, 320, 128  # samples under a frame and between frames: 25 and 10 ms


def convert(t: Transfer) -> dict[str, Any]:
    """The recipe's table: as many frames as the pictures were wide, bands in whole patches up to 128."""
    side, patch = math.isqrt(t.shape("pos_embed")[1] - 1), t.shape("patch_embed.proj.weight")[-1]
    if side**2 + 1 != t.shape("pos_embed")[1]:
        raise UsageError(
            f"'pos_embed' has {t.shape('pos_embed')[1]} positions, expected one and a square number: a square picture's."
        )
    rows = min(side, MELS // patch)
    encoder = vit.encoder(t)
    t.move("encoder.embed_patch.weight", "patch_embed.proj.weight", vit.summed)
    t.move("encoder.embed_position.table", "pos_embed", lambda table: vit.middle_rows(table, side, rows))
    vit.fresh_positions(t)
    window_s = (WINDOW + (side * patch - 1) * HOP) / RATE_HZ
    tables = {
        "data": {"kinds": ["audio"], "rate_hz": RATE_HZ, "window_s": window_s, "scaling": "none", "downmix": True},
        "tokenizer": {
            "kind": "spectrogram",
            "patch": patch,
            "mels": rows * patch,
            "lowest_hz": 20,
            "mean": audio_mae.MEAN,
            "deviation": audio_mae.DEVIATION,
        },
        "position": vit.position(rows, side, patch * HOP / RATE_HZ),
        "mask": {"ratio": 0.75, "ways": {"random": 1.0}},
        "optimizer": {"learning_rate": 1.5e-4},
    }
    return vit.recipe("mae-released", "MAE, CVPR 2022, arXiv 2111.06377", t, encoder, tables)


RELEASE = Release(
    name="mae",
    system="MAE of images, as a start for spectrograms, CVPR 2022, arXiv 2111.06377",
    where="https://github.com/facebookresearch/mae (README: mae_pretrain_vit_base.pth, -large, -huge)",
    licence="CC BY-NC 4.0",
    layout=vit.layout(positions=None, kernel=(None, 3, None, None)),
    convert=convert,
    no_restore="MAE's decoder paints pictures; what is taken over is the encoder alone.",
)
