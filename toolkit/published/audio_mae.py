"""AudioMAE: the pretrained and the fine-tuned ViT-B of AudioSet.

Paper: "Masked Autoencoders that Listen", Huang et al., NeurIPS 2022, arXiv 2207.06405. 16 kHz, 10 s, Kaldi filterbank of
128 mels, (x + 4.2677393) / (2 * 4.5689974), patches of 16 frames by 16 bands. The position table was generated on a grid
of 8 by 64 and is used for tokens that run time first, 64 by 8; it is taken as it is stored. Theirs fills 998 frames up to
1024 with zeros of log energy; here the 64th step is not made, and of the 63rd what is mostly filling does not count.
"""

from __future__ import annotations

from typing import Any

from toolkit.published import vit
from toolkit.published.base import Release, Transfer

ROWS, STEP_S = 8, 0.16
MEAN, DEVIATION = -4.2677393, 2 * 4.5689974


def convert(t: Transfer) -> dict[str, Any]:
    """The recipe's table; depth, width and steps by the tensors' shapes."""
    encoder = vit.encoder(t)
    steps = vit.time_first(t, ROWS)
    tables = {
        "data": {"kinds": ["audio"], "rate_hz": 16000, "window_s": 10.0, "scaling": "none", "downmix": True},
        "tokenizer": {"kind": "spectrogram", "patch": 16, "mels": 128, "lowest_hz": 20, "mean": MEAN, "deviation": DEVIATION},
        "position": vit.position(ROWS, steps, STEP_S),
        "mask": {"ratio": 0.8, "ways": {"random": 1.0}},
        "optimizer": {"learning_rate": 2e-4, "weight_decay": 1e-4, "warmup_share": 0.09},
    }
    return vit.recipe("audio-mae-released", "AudioMAE, NeurIPS 2022, arXiv 2207.06405", t, encoder, tables)


RELEASE = Release(
    name="audio-mae",
    system="AudioMAE, NeurIPS 2022, arXiv 2207.06405",
    where="https://github.com/facebookresearch/AudioMAE (README, sections 1 and 2: links to pretrained.pth and finetuned.pth)",
    licence="CC BY-NC 4.0 by the file LICENSE of the repository (its README says CC BY 4.0): take it for non-commercial",
    layout=vit.layout(positions=513, kernel=(None, 1, 16, 16)),
    convert=convert,
    no_restore=f"{vit.NO_LEVELS} (and AudioMAE's is a shifted-window transformer, which this program does not build).",
)
