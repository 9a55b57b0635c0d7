"""Position codes on continuous coordinates: Fourier features added to tokens, rotary phases in attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.recipe import PositionTable

AXES = ("x", "y", "z", "t")


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


class Rotary(nn.Module):
    """Phases that turn query and key pairs by coordinates, so that attention sees coordinate differences (RoPE, 2104.09864).

    The pairs of a head are shared out among ``table.rotary``, earlier axes taking what is left over; an axis's periods
    go from twice its longest, so that the ends of the range do not meet, to its shortest. RoPE counts tokens along one
    axis in fixed periods; here coordinates are in physical units. Raises ValueError when a head has fewer pairs than
    there are axes.
    """

    axis: Tensor
    frequencies: Tensor

    def __init__(self, table: PositionTable, head_width: int) -> None:
        super().__init__()
        pairs, axes = head_width // 2, [AXES.index(name) for name in table.rotary]
        if pairs < len(axes):
            raise ValueError(f"head_width: {head_width} holds {pairs} pairs, expected one or more for each of {table.rotary}")
        share = [(pairs + len(axes) - 1 - place) // len(axes) for place in range(len(axes))]
        wave = [1 / periods(2 * table.longest[axis], table.shortest[axis], n) for axis, n in zip(axes, share, strict=True)]
        self.register_buffer(
            "axis", torch.repeat_interleave(torch.tensor(axes), torch.tensor(share), output_size=pairs), persistent=False
        )
        self.register_buffer("frequencies", 2 * math.pi * torch.cat(wave), persistent=False)  # both (head_width / 2,)

    def forward(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """coords (B, N, 4) -> cosine and sine, each (B, 1, N, head_width / 2)."""
        phase = coords[:, None, :, self.axis] * self.frequencies
        return phase.cos(), phase.sin()


def rotate(heads: Tensor, phases: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn (B, H, N, D) by phases (B, 1, N, D/2); None leaves it as it is."""
    if phases is None:
        return heads
    cos, sin = phases
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).type_as(heads)
