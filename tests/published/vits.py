"""Released vision transformers of small width with random weights, and spectrograms as their pictures and as our tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests import peers
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet


def vit(
    size: tuple[int, int], *, colours: int = 1, patch: int = 16, width: int = 128, depth: int = 3, seed: int = 0, **options: Any
) -> nn.Module:
    """timm's VisionTransformer for pictures of ``size`` (rows, columns), heads 64 wide, weights that keep values near one."""
    theirs = peers.timm().models.vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=colours,
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        num_classes=0,
        **options,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = parameter.dim() == 1
            parameter.copy_(0.3 * noise + 0.5 if norm else noise / parameter[0].numel() ** 0.5)
        theirs.cls_token.copy_(torch.randn(theirs.cls_token.shape, generator=generator))
        theirs.pos_embed.copy_(torch.randn(theirs.pos_embed.shape, generator=generator))
    return theirs.eval()


def released(theirs: nn.Module) -> dict[str, Tensor]:
    """The state dict as a file holds it: with a final norm beside ``fc_norm``, which timm drops."""
    width = theirs.cls_token.shape[-1]
    own = {key: value.clone() for key, value in theirs.state_dict().items()}
    return {"norm.weight": torch.linspace(0.5, 1.5, width), "norm.bias": torch.linspace(-1, 1, width)} | own


def tokens_of(mel: Tensor, patch: int, step_s: float) -> TokenSet:
    """Spectrograms (B, mels, frames) as tokens, mel rows first: each patch cut out by hand, its place by its number."""
    size, mels, frames = mel.shape
    rows, steps = mels // patch, frames // patch
    patches, places = [], []
    for row in range(rows):
        for step in range(steps):
            cut = mel[:, row * patch : (row + 1) * patch, step * patch : (step + 1) * patch]
            patches.append(cut.reshape(size, -1))
            places.append([(row + 0.5) / rows, 0.0, 0.0, (step + 0.5) * step_s])
    none = torch.zeros(size, rows * steps, dtype=torch.int64)
    return TokenSet(
        torch.stack(patches, dim=1),
        torch.tensor(places).expand(size, -1, -1),
        none,
        torch.zeros(size, rows * steps, DESCRIPTOR),
        torch.ones_like(none, dtype=torch.bool),
        none,
        (1, rows, steps),
    )


def states_of(theirs: nn.Module, picture: Tensor, table: Tensor) -> Tensor:
    """Last states, class token first, by timm's parts and the rule of AudioMAE: patches take the first rows of the table."""
    x = theirs.patch_embed.proj(picture).flatten(2).transpose(1, 2)
    x = torch.cat([(theirs.cls_token + table[:, :1]).expand(len(x), -1, -1), x + table[:, 1 : 1 + x.shape[1]]], dim=1)
    for block in theirs.blocks:
        x = block(x)
    return x
