"""What models and objectives ask of a tokenizer, and what those have in common whose tokens tile a picture."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.corpus.batches import Batch
from toolkit.model.pictures import averaged, fold, overlapping, unfold
from toolkit.model.tokens import TokenSet

UNSCALED = -1  # TokenSet.scale of tokens whose amplitude has a fixed unit
LAGS = (1, 2, 4)  # steps between the values whose differences are changes
STYLE = 0.1  # share of each frequency axis that is style, counted from 0
LEAST_VARIANCE = 1e-6  # MAE's
FLOOR = 0.01  # power below which a spectrum no longer counts, in that of white noise of unit variance


class Tokenizer(ABC):
    """``values``: numbers a token; ``spectrum_size`` and ``changes_size``: numbers of those targets; ``least``: points of a
    cloud that fill all tokens."""

    least: int = 1
    values: int
    spectrum_size: int
    changes_size: int

    @abstractmethod
    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A batch to tokens on a device (default: the CPU)."""

    def embedder(self, width: int) -> nn.Module:
        """What turns patches (B, N, values) into (B, N, width)."""
        return nn.Linear(self.values, width)

    @abstractmethod
    def normalised(self, patches: Tensor) -> Tensor:
        """Patches (B, N, values) without their level and size, of the same shape."""

    @abstractmethod
    def spectrum(self, patches: Tensor) -> Tensor:
        """How the variance of each patch (B, N, values) is spread: (B, N, spectrum_size), 0 or more."""

    @abstractmethod
    def changes(self, patches: Tensor) -> Tensor:
        """Differences within each patch (B, N, values) at the lags that fit: (B, N, changes_size).

        MME (2210.06096) predicts how things move in the place of how they look; its trajectories need optical flow,
        and this is what is left of them where there is none.
        """

    @abstractmethod
    def restyle(self, tokens: TokenSet, partner: Tensor, share: float = STYLE) -> TokenSet:
        """Samples in the style of sample ``partner`` int64 (B,) of the batch; tokens that are not valid stay as they are."""


class GridTokenizer(Tokenizer):
    """Tokens that tile a picture of each channel: a signal, a spectrogram or a volume.

    ``patch_shape``: sides of a token along the axes of its grid, in which order its values are, the last one fastest.
    ``patch_steps``: from one token to the next; where they are shorter than the sides, tokens overlap.
    """

    def __init__(self, patch_shape: Sequence[int], steps: Sequence[int] | None = None) -> None:
        self.patch_shape = tuple(patch_shape)
        self.patch_steps = tuple(steps or patch_shape)
        self.values = math.prod(self.patch_shape)
        self.spectrum_size = self.values // self.patch_shape[-1] * (self.patch_shape[-1] // 2 + 1)
        self.changes_size = sum(self.values // side * (side - lag) for side in self.patch_shape for lag in LAGS if lag < side)

    def dense(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Patches (B, N, values) on a grid (C, *steps) to the pictures they cover, (B, C, *sides); overlaps are averaged."""
        if self.patch_steps != self.patch_shape:
            return averaged(patches, grid, self.patch_shape, self.patch_steps)
        return fold(patches, grid, self.patch_shape)[:, 0].unflatten(0, (len(patches), grid[0]))

    def cut(self, pictures: Tensor) -> Tensor:
        """Pictures (B, C, *sides) to patches (B, N, values), which :meth:`dense` puts back; overlapping ones drop a tail."""
        if self.patch_steps != self.patch_shape:
            return overlapping(pictures, self.patch_shape, self.patch_steps)
        steps = (n // side for n, side in zip(pictures.shape[2:], self.patch_shape, strict=True))
        return unfold(pictures, (pictures.shape[1], *steps), self.patch_shape)

    def untokenize(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Patches (B, N, values) back to what they were cut from, (B, C, *sides); overlapping samples are averaged."""
        return self.dense(patches, grid)

    def normalised(self, patches: Tensor) -> Tensor:
        """Each patch less its mean and over its deviation (MAE, 2111.06377; its code divides the variance by one less)."""
        variance, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
        return (patches - mean) / (variance + LEAST_VARIANCE).sqrt()

    def spectrum(self, patches: Tensor) -> Tensor:
        """log(1 + power / FLOOR) of the Fourier components of each patch less its mean; bins of the last axis up to Nyquist's.

        White noise of unit variance has a mean power of 1 in each.
        """
        tiles = (patches - patches.mean(-1, keepdim=True)).unflatten(-1, self.patch_shape)
        power = torch.fft.rfftn(tiles, dim=self._axes, norm="ortho").abs().square()
        return (power / FLOOR).log1p().flatten(-len(self.patch_shape))

    def changes(self, patches: Tensor) -> Tensor:
        """Values less those 1, 2 and 4 before, along each axis of the patch."""
        tiles = patches.unflatten(-1, self.patch_shape)
        parts = [
            (tiles.narrow(axis, lag, side - lag) - tiles.narrow(axis, 0, side - lag)).flatten(-len(self.patch_shape))
            for axis, side in zip(self._axes, self.patch_shape, strict=True)
            for lag in LAGS
            if lag < side
        ]
        return torch.cat(parts, dim=-1) if parts else patches[..., :0]

    def restyle(self, tokens: TokenSet, partner: Tensor, share: float = STYLE) -> TokenSet:
        """Amplitudes of the lowest frequencies of each channel become those of the partner's channel; phases stay.

        Per-batch style standardisation in pictures of one channel. What is not valid counts as 0 on either side.
        """
        pictures = self.dense(tokens.patches.masked_fill(~tokens.valid[..., None], 0.0), tokens.grid)
        sides = pictures.shape[2:]
        parts = torch.fft.rfftn(pictures, dim=self._axes)
        amplitude = parts.abs()
        low = _lowest(sides, share).to(pictures.device)
        styled = torch.polar(torch.where(low, amplitude[partner], amplitude), parts.angle())
        patches = self.cut(torch.fft.irfftn(torch.where(low, styled, parts), s=sides, dim=self._axes))
        return replace(tokens, patches=torch.where(tokens.valid[..., None], patches, tokens.patches))

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.patch_shape), 0))


def _lowest(sides: Sequence[int], share: float) -> Tensor:
    """Which components of a real transform of these sides lie in the lowest ``share`` of each axis, 0 always: bool."""
    axes = [*(torch.fft.fftfreq(n, dtype=torch.float64) for n in sides[:-1]), torch.fft.rfftfreq(sides[-1], dtype=torch.float64)]
    low = torch.ones((), dtype=torch.bool)
    for frequency in axes:
        low = low[..., None] & (frequency.abs() <= share / 2 + 1e-9)
    return low
