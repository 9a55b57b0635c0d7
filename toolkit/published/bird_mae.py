"""Bird-MAE, the encoders on the hub (Base, Large, Huge) and Lightning checkpoints of its code.

Paper: "Can Masked Autoencoders Also Listen to Birds?", Rauch et al., TMLR 2025, arXiv 2504.12880. 32 kHz, 5 s, Kaldi
filterbank of 128 mels, (x + 7.2) / (2 * 4.43), patches of 16 frames by 16 bands. The pooled vector is the mean of the
patches' last states before the final norm, then ``fc_norm``. The position table was generated on a grid of 8 by 32 and
is used for tokens that run time first, 32 by 8; it is taken as it is stored, so each token keeps the vector it had.
Theirs fills 498 frames up to 512 with the least value of the whole batch and counts that last column of patches; here a
clip never depends on its batch, and a column of two frames does not count, so pooled vectors differ by it.
"""

from __future__ import annotations

from typing import Any

from toolkit.published import vit
from toolkit.published.base import Release, Transfer

ROWS, STEP_S = 8, 0.16


def convert(t: Transfer) -> dict[str, Any]:
    """The recipe's table; depth, width and steps by the tensors' shapes."""
    encoder = vit.encoder(t)
    steps = vit.time_first(t, ROWS)
    tables = {
        "data": {"kinds": ["audio"], "rate_hz": 32000, "window_s": 5.0, "scaling": "none", "downmix": True},
        "tokenizer": {"kind": "spectrogram", "patch": 16, "mels": 128, "lowest_hz": 20, "mean": -7.2, "deviation": 8.86},
        "position": vit.position(ROWS, steps, STEP_S),
        "mask": {"ratio": 0.75, "ways": {"random": 1.0}},
        "optimizer": {"learning_rate": 4e-4, "weight_decay": 1e-4, "warmup_share": 0.09375},
    }
    return vit.recipe("bird-mae-released", "Bird-MAE, TMLR 2025, arXiv 2504.12880", t, encoder, tables)


RELEASE = Release(
    name="bird-mae",
    system="Bird-MAE, TMLR 2025, arXiv 2504.12880",
    where="https://huggingface.co/DBD-research-group/Bird-MAE-Base (also -Large, -Huge): model.safetensors",
    licence="none stated by the authors, in their code or on the model card: ask them before you use it in your work",
    layout=vit.layout(positions=257, kernel=(None, 1, 16, 16)),
    convert=convert,
    no_restore=f"Bird-MAE's released files hold the encoder alone. {vit.NO_LEVELS}.",
)
