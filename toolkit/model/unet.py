"""The hierarchical predictor of a masked convnet: hidden cells filled at every scale, then up to samples (SparK, 2301.03580)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.model.convnet import ChannelMix, ConvEncoder, check_grid, per_channel
from toolkit.model.convnet_layers import CONV, TRANSPOSED, Mask, block, masked, norm
from toolkit.model.pictures import unfold
from toolkit.model.states import States
from toolkit.model.tokens import TokenSet, gather


class Densify(nn.Module):
    """Features of one scale, hidden cells holding a learned token, projected to the decoder's width."""

    def __init__(self, kind: str, dims: int, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.norm = norm(kind, dims, width)
        self.token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.token, std=0.02)
        self.project = CONV[dims](width, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        """x (B, F, *cells) -> (B, out, *cells)."""
        token = self.token.view(1, -1, *(1 for _ in x.shape[2:]))
        normed = masked(self.norm, x, mask)
        return self.project(torch.where(mask.at(tuple(x.shape[2:])), normed, token.to(normed.dtype)))


class UNet(nn.Module):
    """Predicts patches from the maps of a ``ConvEncoder``; ``width`` features at the coarsest scale, half of them a scale up.

    Skips are added, as in SparK. Unlike there, the step from the finest scale to samples is one linear layer (at full
    resolution convolutions would cost more than all the rest), pairs of convolutions are residual, and pictures are single
    channels: each is told which channel it is and what the channels visible at the same place show, or a channel that
    is wholly hidden could not be predicted. ``depth``: residual blocks a scale.
    Raises ValueError for a width that cannot be halved so often.
    """

    def __init__(self, width: int, encoder: ConvEncoder, depth: int = 1) -> None:
        super().__init__()
        steps, dims, kind = encoder.strides[::-1], len(encoder.patch_shape), encoder.table.norm
        if width % 2 ** (len(steps) - 1):
            raise ValueError(f"decoder.width: {width} cannot be halved {len(steps) - 1} times for strides {encoder.strides}")
        self.patch_shape = encoder.patch_shape
        widths = [width >> i for i in range(len(steps))]  # coarsest first
        self.dense = nn.ModuleList(
            Densify(kind, dims, features, out, kernel=3 if i else 1)
            for i, (features, out) in enumerate(zip(encoder.net.widths[::-1], widths, strict=True))
        )
        self.mix = ChannelMix(width, encoder.descriptor)
        self.up = nn.ModuleList(_finer(dims, *step) for step in zip(widths, widths[1:], steps, strict=False))
        self.blocks = nn.ModuleList(nn.Sequential(*(block(kind, dims, w, 3) for _ in range(depth))) for w in widths)
        self.head = _finer(dims, widths[-1], 1, steps[-1])

    def forward(self, states: States, tokens: TokenSet, queries: Tensor) -> Tensor:
        """Patches (B, q, P) at ``queries`` int64 (B, q); of ``tokens`` only grid and descriptors are read.

        Raises ValueError for states without maps, or tokens without a grid of whole pictures.
        """
        if states.seen is None:
            raise ValueError("these states have no maps of several scales; a U-Net reads those of a convnet")
        check_grid(tokens, len(self.patch_shape))
        mask, coarsest_first = Mask(states.seen), states.maps[::-1]
        x = self.mix(self.dense[0](coarsest_first[0], mask), per_channel(tokens), mask.cells)
        x = self.blocks[0](x)
        for up, dense, features, blocks in zip(self.up, self.dense[1:], coarsest_first[1:], self.blocks[1:], strict=True):
            x = blocks(up(x) + dense(features, mask))
        return gather(unfold(self.head(x), tokens.grid, self.patch_shape), queries)


def _finer(dims: int, before: int, after: int, step: int) -> nn.Module:
    """A transposed convolution to ``step`` times finer cells. Halves overlap (kernel 4), as in SparK; other steps do not."""
    kernel, padding = (4, 1) if step == 2 else (step, 0)
    return TRANSPOSED[dims](before, after, kernel, step, padding)
