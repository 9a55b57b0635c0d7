"""Position codes on continuous coordinates: codes added to tokens, rotary phases in attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class SpaceTimePositions(nn.Module):
    """REVE's code (2510.21585): LayerNorm(waves + MLP) of x, y, z in m and t in steps from patch to patch.

    Waves: cosines, then sines, of 2 pi (f . (place + .4)) / 1.8 for all f in {0 .. F-1}^4, as many as the width takes, t a
    tenth of its steps; along time they repeat every 18 patches, and only the MLP tells later ones apart. ``middle`` and
    ``unit`` bring coordinates to those units. Raises ValueError where F^4 waves are fewer than half the width.
    """

    MARGIN = 0.4
    frequencies: Tensor
    middle: Tensor
    unit: Tensor
    shrink: Tensor

    def __init__(self, table: PositionTable, width: int) -> None:
        super().__init__()
        axis = torch.arange(table.frequencies, dtype=torch.float32)
        waves = torch.cartesian_prod(axis, axis, axis, axis).view(-1, 4)[: width // 2]
        if len(waves) < width // 2:
            raise ValueError(f"position.frequencies: {table.frequencies} give {len(waves)} waves, half the width is {width // 2}")
        self.register_buffer("frequencies", 2 * math.pi / (1 + 2 * self.MARGIN) * waves, persistent=False)
        self.register_buffer("shrink", torch.tensor([1.0, 1.0, 1.0, 0.1]), persistent=False)
        self.register_buffer("middle", torch.tensor(table.middle), persistent=False)
        self.register_buffer("unit", torch.tensor(table.unit), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(4, width, bias=False), nn.GELU(), nn.LayerNorm(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, coords: Tensor) -> Tensor:
        """coords (B, N, 4) in physical units -> (B, N, width)."""
        place = (coords - self.middle) / self.unit
        phase = (place * self.shrink + self.MARGIN) @ self.frequencies.T
        return self.norm(torch.cat([phase.cos(), phase.sin()], dim=-1) + self.mlp(place))


class LearnedPositions(nn.Module):
    """x, y, z through two linears with a GELU between them (Point-MAE, 2203.06604)."""

    HIDDEN = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, self.HIDDEN), nn.GELU(), nn.Linear(self.HIDDEN, width))

    def forward(self, coords: Tensor) -> Tensor:
        """coords (B, N, 4) -> (B, N, width); time is not looked at."""
        return self.layers(coords[..., :3])


class GridPositions(nn.Module):
    """A vector for each cell of a grid: sines and cosines of the cell's number along each axis to begin with.

    An axis of one cell is not looked at. The width is shared out among the others, frequencies 10000^(-k / K) as in MAE
    (2111.06377). A place outside, which only tokens that are not valid should have, counts as in the last cell.
    """

    cell: Tensor
    middle: Tensor

    def __init__(self, table: PositionTable, width: int) -> None:
        super().__init__()
        self.cells = table.cells
        self.register_buffer("cell", torch.tensor(table.cell), persistent=False)
        self.register_buffer("middle", torch.tensor(table.middle), persistent=False)
        self.table = nn.Parameter(grid_sines(table.cells, width), requires_grad=table.learned)

    def forward(self, coords: Tensor) -> Tensor:
        """coords (B, N, 4) in physical units -> (B, N, width)."""
        count = torch.tensor(self.cells, device=coords.device)
        number = torch.where(count > 1, ((coords - self.middle) / self.cell + count / 2).floor().long(), 0)
        number = torch.minimum(number.clamp(min=0), count - 1)
        step = torch.tensor([math.prod(self.cells[axis + 1 :]) for axis in range(4)], device=coords.device)
        # Not an index into the table: its gradient adds up in no fixed order on several cores, and runs would not resume exactly.
        return functional.embedding((number * step).sum(-1), self.table)


def grid_sines(cells: Sequence[int], width: int) -> Tensor:
    """Sines and cosines of the cells' numbers, axis by axis, (cells in all, width); what the axes leave over is 0."""
    axes = [axis for axis, count in enumerate(cells) if count > 1]
    numbers = torch.cartesian_prod(*(torch.arange(count, dtype=torch.float64) for count in cells)).view(-1, len(cells))
    pairs = width // (2 * max(1, len(axes)))
    frequency = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / max(1, pairs))
    parts = [f(numbers[:, axis, None] * frequency) for axis in axes for f in (torch.sin, torch.cos)]
    table = torch.zeros(len(numbers), width, dtype=torch.float64)
    if parts:
        table[:, : 2 * pairs * len(axes)] = torch.cat(parts, dim=1)
    return table.float()


def build(table: PositionTable, width: int) -> nn.Module | None:
    """What is added to tokens by their place, if anything is."""
    if table.code == "space-time":
        return SpaceTimePositions(table, width)
    if table.code == "mlp":
        return LearnedPositions(width)
    if table.code == "grid":
        return GridPositions(table, width)
    return FourierPositions(table, width) if table.code == "fourier" else None


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
