"""The masked convnet: one encoder for signals, pictures and volumes, after SparK (2301.03580).

Each channel is a picture of its own, so that the weights fit any number of channels; channels of the same place are
mixed at the coarsest scale, where one cell is one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from toolkit.model.convnet_layers import CONV, Mask, block, masked, norm, refuse_unknown
from toolkit.model.pictures import fold
from toolkit.model.states import States
from toolkit.model.tokens import TokenSet, gather
from toolkit.recipe import ConvTable

MOST_SCALES = 3


def strides(side: int) -> tuple[int, ...]:
    """Strides from samples to patches of ``side``, the largest first: its prime factors, small ones merged to three at most.

    A prime has a scale at full resolution before it: (1, side). Raises ValueError for a side below 2.
    """
    if side < 2:
        raise ValueError(f"a patch of {side} a side has no scales; a convnet needs 2 or more")
    factors, rest = [], side
    for prime in range(2, side + 1):
        while rest % prime == 0:
            factors.append(prime)
            rest //= prime
    while len(factors) > MOST_SCALES:
        factors = sorted([factors[0] * factors[1], *factors[2:]])
    return tuple(reversed(factors)) if len(factors) > 1 else (1, side)


class ChannelMix(nn.Module):
    """Tells each channel which it is, and adds at each place what the channels visible there have in common.

    The mean of a learned function over a set (Deep Sets, 1703.06114): any number of channels, in any order.
    """

    def __init__(self, width: int, descriptor: int) -> None:
        super().__init__()
        self.code = nn.Linear(descriptor, width)
        self.read, self.write = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, descriptor: Tensor, visible: Tensor) -> Tensor:
        """x (B * C, F, *cells), descriptor (B, C, D), visible bool (B * C, 1, *cells) -> as x; hidden cells get it too."""
        size = descriptor.shape[:2]
        rows = x.movedim(1, -1).unflatten(0, size)  # (B, C, *cells, F)
        shown = visible.movedim(1, -1).unflatten(0, size)
        code = self.code(descriptor).view(*size, *(1 for _ in x.shape[2:]), -1)
        rows = rows + code
        total = gelu(self.read(rows)).masked_fill(~shown, 0.0).sum(1, keepdim=True)
        common = total / shown.sum(1, keepdim=True).clamp(min=1)
        return (rows + self.write(common)).flatten(0, 1).movedim(-1, 1)


class ConvNet(nn.Module):
    """Pictures to features at two or three scales; an ordinary convnet where it is given no mask.

    The width doubles from scale to scale up to ``table.width``.
    Raises ValueError for an even kernel or a width that cannot be halved so often.
    """

    def __init__(self, table: ConvTable, dims: int, steps: Sequence[int], descriptor: int) -> None:
        super().__init__()
        if table.kernel % 2 == 0:
            raise ValueError(f"encoder.kernel: {table.kernel} is even; a block needs a middle cell")
        if table.width % 2 ** (len(steps) - 1):
            raise ValueError(f"encoder.width: {table.width} cannot be halved {len(steps) - 1} times for strides {tuple(steps)}")
        self.widths = [table.width >> i for i in reversed(range(len(steps)))]
        self.down, self.blocks = nn.ModuleList(), nn.ModuleList()
        for before, width, step in zip([1, *self.widths], self.widths, steps, strict=False):
            enter = [norm(table.norm, dims, before)] if before > 1 else []  # the picture's amplitude is kept
            self.down.append(nn.Sequential(*enter, CONV[dims](before, width, step, step)))
            self.blocks.append(nn.Sequential(*(block(table.norm, dims, width, table.kernel) for _ in range(table.blocks))))
        self.mix = ChannelMix(table.width, descriptor)
        refuse_unknown(nn.Sequential(*self.down, *self.blocks))

    def forward(self, pictures: Tensor, descriptor: Tensor, mask: Mask | None = None) -> tuple[Tensor, ...]:
        """pictures (B * C, 1, *samples), descriptor (B, C, D) -> features of each scale (B * C, F, *cells), finest first.

        With a mask on the coarsest grid hidden cells are zero at every scale and nothing in them is read.
        """
        x, maps = pictures, []
        for scale, (down, blocks) in enumerate(zip(self.down, self.blocks, strict=True)):
            x = masked(down, x, mask) if mask else down(x)
            if scale == len(self.down) - 1:
                x = self.mix(x, descriptor, mask.cells if mask else torch.ones_like(x[:, :1], dtype=torch.bool))
            x = masked(blocks, x, mask) if mask else blocks(x)
            maps.append(x)
        return tuple(maps)


class ConvEncoder(nn.Module):
    """Token sets on a grid to states, through a convnet that sees visible tokens only.

    ``net`` is the convnet without masks. Convolutions know relative places; there is no position code.
    Raises ValueError where the sides of a patch differ.
    """

    def __init__(self, table: ConvTable, patch_shape: tuple[int, ...], descriptor: int) -> None:
        super().__init__()
        if len(set(patch_shape)) != 1:
            raise ValueError(f"a patch of {patch_shape} has unequal sides; a convnet steps equally along all axes")
        self.table, self.width = table, table.width
        self.patch_shape, self.descriptor = patch_shape, descriptor
        self.strides = strides(patch_shape[0])
        self.net = ConvNet(table, len(patch_shape), self.strides, descriptor)

    def forward(self, tokens: TokenSet, index: Tensor | None = None) -> States:
        """States at ``index`` int64 (B, n) (default: all N); the others, and tokens that are not valid, are hidden.

        ``maps``: features of each scale, finest first; ``seen``: visible cells of the coarsest. Raises ValueError for
        tokens without a grid of whole pictures.
        """
        check_grid(tokens, len(self.patch_shape))
        mask = Mask(as_cells(tokens.valid if index is None else tokens.shown(index), tokens.grid))
        pictures = fold(tokens.patches, tokens.grid, self.patch_shape)
        maps = self.net(pictures, per_channel(tokens), mask)
        # No weights in the last norm: a predictor that reads the maps would never train them.
        states = layer_norm(maps[-1].movedim(1, -1), maps[-1].shape[1:2])
        states = states.reshape(len(tokens.patches), -1, states.shape[-1])
        last = states if index is None else gather(states, index)
        return States(last=last, layers=(last,), maps=maps, seen=mask.cells)


def check_grid(tokens: TokenSet, dims: int) -> None:
    """Raises ValueError for tokens that do not fill a grid of ``dims`` axes beside the channels."""
    if len(tokens.grid) != dims + 1 or math.prod(tokens.grid) != tokens.patches.shape[1]:
        raise ValueError(f"{tokens.patches.shape[1]} tokens on a grid {tokens.grid} do not fill pictures of {dims} axes")


def as_cells(flags: Tensor, grid: tuple[int, ...]) -> Tensor:
    """A flag a token (B, C * cells) as one a cell of each channel's picture: (B * C, 1, *cells)."""
    return flags.reshape(-1, 1, *grid[1:])


def per_channel(tokens: TokenSet) -> Tensor:
    """The descriptor of each channel (B, C, D), which all its tokens share."""
    return tokens.descriptor.unflatten(1, (tokens.grid[0], -1))[:, :, 0]
