"""Records MONAI 1.3.0's parts of BM-MAE: `python bm_mae.py OUT.npz` in an environment with monai==1.3.0 and einops.

Encoder and decoder are put together here from MONAI's patch embedding, transformer blocks and sin-cos table in the order
that the paper's public code describes (later MONAI versions have blocks of another layout): a projection and the
positions for each contrast, a class token in front, blocks, norm; for the decoder a linear layer, mask tokens at what is
hidden, positions and a vector of the contrast on all but the class token, blocks, norm, linear.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import fabricate
import numpy as np
import torch
from monai.networks.blocks import PatchEmbeddingBlock, TransformerBlock
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from torch import nn

CONTRASTS = ("t1", "t1ce", "t2", "flair")
# Samples, contrasts that are there, whether some of their tokens are hidden.
CASES = ((1, ("t1",), False), (2, ("t1ce", "flair"), False), (1, CONTRASTS, False), (2, CONTRASTS, True))
SIDE, PATCH, WIDTH, HEADS, NARROW = 32, 8, 48, 12, 24  # the release: 128, 16, 768, 12, 384
TOKENS = (SIDE // PATCH) ** 3


class Parts(nn.Module):
    """BM-MAE's layout of names."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizers = nn.ModuleDict()
        for name in CONTRASTS:
            embedding = PatchEmbeddingBlock(1, (SIDE,) * 3, (PATCH,) * 3, WIDTH, HEADS, proj_type="conv", pos_embed_type="sincos")
            self.tokenizers[name] = nn.ModuleDict({"patch_embedding": embedding})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, 2 * WIDTH, HEADS, qkv_bias=True) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.decoder = nn.Module()
        self.decoder.mask_tokens = nn.Parameter(torch.zeros(1, 1, NARROW))
        self.decoder.position_embeddings = build_sincos_position_embedding([SIDE // PATCH] * 3, NARROW)
        self.decoder.decoder_embed, self.decoder.decoder_norm = nn.Linear(WIDTH, NARROW), nn.LayerNorm(NARROW)
        self.decoder.decoder_pred = nn.Linear(NARROW, PATCH**3)
        self.decoder.modality_embeddings = nn.ParameterDict({n: nn.Parameter(torch.zeros(1, 1, NARROW)) for n in CONTRASTS})
        self.decoder.decoder_blocks = nn.ModuleList([TransformerBlock(NARROW, 2 * WIDTH, HEADS, qkv_bias=True)])

    def encode(self, volumes: dict[str, torch.Tensor], seen: torch.Tensor | None) -> torch.Tensor:
        """Volumes (B, 1, X, Y, Z) by contrast, seen int64 (B, n) or None (all) -> (B, 1 + n, W)."""
        x = torch.cat([self.tokenizers[name]["patch_embedding"](volume) for name, volume in volumes.items()], dim=1)
        x = x if seen is None else x.gather(1, seen[..., None].expand(-1, -1, WIDTH))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def decode(self, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """States of :meth:`encode` of all four contrasts -> voxels of every token (B, 4 * TOKENS, PATCH^3)."""
        part = self.decoder
        x = part.decoder_embed(states)
        whole = part.mask_tokens.repeat(len(x), len(CONTRASTS) * TOKENS, 1)
        whole = whole.scatter(1, seen[..., None].expand(-1, -1, NARROW), x[:, 1:])
        whole = whole + torch.cat([part.position_embeddings + part.modality_embeddings[name] for name in CONTRASTS], dim=1)
        x = torch.cat([x[:, :1], whole], dim=1)
        for block in part.decoder_blocks:
            x = block(x)
        return part.decoder_pred(part.decoder_norm(x))[:, 1:]


def main(out: Path) -> None:
    model = Parts().eval()
    state = model.state_dict()
    shapes = fabricate.shapes_of(state)
    made = {k: torch.from_numpy(v) for k, v in fabricate.weights(shapes).items() if not k.endswith("position_embeddings")}
    model.load_state_dict(made, strict=False)
    cases = []
    for number, (size, names, hides) in enumerate(CASES):
        volumes = {n: torch.from_numpy(fabricate.numbers(f"{n} {number}", size, 1, SIDE, SIDE, SIDE)) for n in names}
        order = np.argsort(fabricate.numbers(f"order {number}", size, len(names) * TOKENS), axis=1)
        seen = torch.from_numpy(order[:, : order.shape[1] // 4].copy()) if hides else None
        with torch.no_grad():
            states = model.encode(volumes, seen)
            case = {"size": np.array(size), "names": np.array(names), "class": states[:, 0].numpy()}
            if hides:
                voxels = model.decode(states, seen)
                case |= {"seen": seen.numpy(), "states": states[:, 1:].numpy(), "voxels": voxels[:, ::8, ::8].numpy()}
            else:
                case |= {"states": states[:, 1:].numpy()}
        cases.append(case)
    # The released tables are MONAI's sines, those of the encoder once for each contrast.
    cases[0]["table_encoder"] = state["tokenizers.t1.patch_embedding.position_embeddings"].numpy()
    cases[0]["table_decoder"] = state["decoder.position_embeddings"].numpy()
    versions = {name: importlib.metadata.version(name) for name in ("monai", "torch")}
    fabricate.record(out, versions, shapes, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
