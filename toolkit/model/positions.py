"""Position codes on continuous coordinates: Fourier features added to tokens, rotary phases in attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.recipe import PositionTable

TIME = 3  # index of time in (x, y, z, t)


def periods(longest: float, shortest: float, bands: int) -> Tensor:
    """``bands`` periods in geometric steps from longest to shortest, float32 (bands,)."""
    return torch.logspace(math.log10(longest), math.log10(shortest), bands)


class FourierPositions(nn.Module):
    """Coordinates (B, N, 4) to (B, N, width): sine and cosine of each axis in several periods, then linear."""

    frequencies: Tensor

    def __init__(self, table: PositionTable, width: int) -> None:
        super().__init__()
        axes = [1 / periods(long, short, table.bands) for long, short in zip(table.longest, table.shortest, strict=True)]
        self.register_buffer("frequencies", 2 * math.pi * torch.stack(axes), persistent=False)  # (4, bands)
        self.project = nn.Linear(2 * 4 * table.bands, width)

    def forward(self, coords: Tensor) -> Tensor:
        """coords (B, N, 4) in physical units -> (B, N, width)."""
        phase = (coords[..., None] * self.frequencies).flatten(-2)
        return self.project(torch.cat([phase.sin(), phase.cos()], dim=-1))


class RotaryTime(nn.Module):
    """Phases that turn query and key pairs by time, so that attention sees time differences (RoPE, 2104.09864)."""

    frequencies: Tensor

    def __init__(self, table: PositionTable, head_width: int) -> None:
        super().__init__()
        wave = 1 / periods(2 * table.longest[TIME], table.shortest[TIME], head_width // 2)
        self.register_buffer("frequencies", 2 * math.pi * wave, persistent=False)  # (head_width / 2,)

    def forward(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """coords (B, N, 4) -> cosine and sine, each (B, 1, N, head_width / 2)."""
        phase = coords[:, None, :, TIME, None] * self.frequencies
        return phase.cos(), phase.sin()


def rotate(heads: Tensor, phases: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn (B, H, N, D) by phases (B, 1, N, D/2); None leaves it as it is."""
    if phases is None:
        return heads
    cos, sin = phases
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).type_as(heads)
