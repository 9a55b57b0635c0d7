"""Mask sampling: a score per token, then exactly as many hidden tokens as asked.

Constant counts keep every tensor dense. The ways to hide, mixed within a batch by the recipe's odds:

- random: each token on its own;
- spans: runs of time (the last axis of the tokens' grid) hidden in each group of channels on its own;
- gaps: the same runs hidden in all channels, as when the whole device drops out;
- groups: whole groups of channels;
- blocks: boxes of neighbouring tokens, the last one cut at the count (BEiT, 2106.08254; GMML, 2205.14986), or
  everything but such boxes (data2vec 2.0, 2212.07525);
- regions: one region of the sample whole and the same share of every other (FSFM, 2412.12032, whose code draws one
  region a batch; here each sample draws its own);
- budgets: shares of what stays visible drawn for groups of channels from a flat Dirichlet distribution (MultiMAE,
  2204.01678; BM-MAE, 2505.00568);
- prefix: all that comes after a cut in time, or where there is no time beyond a plane of random direction (TokenUnify,
  2405.16847, cuts in raster order);
- spacetime: balls of electrodes for a few patches of time, and a share of the channels throughout (REVE, 2510.21585). REVE
  counts what it hides at each step of time, here in the whole sample; its code writes the indices of these masks in
  another order than that of its tokens, and so trains on nearly random ones, and cuts balls by channel number. Neither is
  followed.

A group is a channel, or channels that the recipe names together: the six limb leads are linear
combinations of two of them (III = II - I, aVR = -(I + II) / 2, ...), so one alone would be given away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.model.tokens import TokenSet
from toolkit.objective.guided import by_neighbourhood, raced, weights
from toolkit.objective.places import TIME, blocks, even_odds, neighbours, places, regions, spacetime
from toolkit.recipe import MaskTable, WaysTable

RAGGED = 1e-12  # breaks ties between the rows of one time step at random
BLOCKS = 4  # the first of the ways that are not read off the grid; see odds_of


@dataclass(frozen=True)
class Mask:
    """Token indices int64: ``visible`` (B, v) enters the encoder, ``hidden`` (B, h) is to be predicted.

    Both have the same number in every sample, and tokens that are not valid, which count for nothing, fill them up.
    """

    visible: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Layout:
    """What the ways beyond the grid look at.

    ``place`` (B, N, 5), ``group`` int64 (B, N) of channels, ``valid`` (B, N), ``coords`` (B, N, 4); ``steps`` of time, the
    tokens' last axis, 1 where there is no time.
    """

    place: Tensor
    group: Tensor
    valid: Tensor
    coords: Tensor
    steps: int

    def rows(self, index: Tensor) -> Layout:
        """Some of the samples."""
        return Layout(self.place[index], self.group[index], self.valid[index], self.coords[index], self.steps)


def num_visible(tokens: int, ratio: float) -> int:
    """Visible tokens of ``tokens``: all at ratio 0, else at least one and at most all but one."""
    return tokens if ratio == 0 else min(max(1, round(tokens * (1 - ratio))), max(1, tokens - 1))


class MaskSampler:
    """Draws masks on the CPU, a pure function of the generator's state, the tokens' layout and the share of the run."""

    def __init__(self, table: MaskTable, names: tuple[str, ...]) -> None:
        self.table = table
        self.group_of = torch.full((len(names),), -1)  # most are groups of their own
        for number, group in enumerate(table.groups_of_channels):
            self.group_of[[names.index(name) for name in group]] = number

    def sample(self, tokens: TokenSet, generator: torch.Generator, done: float = 0.0, salience: Tensor | None = None) -> Mask:
        """Split the tokens, ``done`` (0 to 1) being the share of the run that is over. The mask is on the CPU.

        ``salience`` (B, N) on the CPU, for a guided mask; without it, as where there is no teacher, that is random.

        The ratio holds of the valid tokens of each sample. At ratio 0 all are visible, in their order.
        """
        ratio, ways = self.stage(done)
        size, count = tokens.valid.shape
        if ratio == 0:
            return Mask(torch.arange(count).repeat(size, 1), torch.zeros(size, 0, dtype=torch.int64))
        valid = tokens.valid.cpu()
        visible = torch.tensor([num_visible(n, ratio) for n in valid.sum(1).tolist()])
        way = torch.multinomial(odds_of(ways), size, replacement=True, generator=generator)
        first = first_of_group(self._groups(tokens.channel.cpu().view(size, tokens.grid[0], -1)[:, :, 0]))  # (B, C)
        score = torch.zeros(size, count, dtype=torch.float64)
        if bool((way < BLOCKS).any()):
            score = self._on_grid(way.clamp(max=BLOCKS - 1), first, tokens.grid, generator)
        if bool((way >= BLOCKS).any()):
            group = first[:, :, None].expand(-1, -1, count // tokens.grid[0]).flatten(1)
            coords = tokens.coords.cpu()
            steps = tokens.grid[-1] if bool((coords[..., TIME] != coords[:, :1, TIME]).any()) else 1
            layout = Layout(places(tokens), group, valid, coords, steps)
            scorers = self._blocks, self._regions, self._budgets, self._prefix, self._spacetime
            for number, scored in enumerate(scorers, BLOCKS):
                rows = (way == number).nonzero()[:, 0]
                if len(rows):
                    score[rows] = scored(layout.rows(rows), visible[rows], generator)
        salience = salience if self.table.guided else None
        if self.table.neighbourhoods:
            score = by_neighbourhood(score, tokens, self.table.neighbourhoods, salience)
        elif salience is not None:
            score = raced(score, weights(salience, valid))
        return share_out(score, valid, visible, num_visible(count, ratio))

    def stage(self, done: float) -> tuple[float, WaysTable]:
        """The ratio and the ways at this share of the run: each is that of the last stage begun that names it."""
        ratio, ways = self.table.ratio, self.table.ways
        for stage in sorted(self.table.stages, key=lambda s: s.start):
            if stage.start <= done:
                ratio = ratio if stage.ratio is None else stage.ratio
                ways = ways if stage.ways is None else stage.ways
        return ratio, ways

    def _groups(self, channel: Tensor) -> Tensor:
        """The group of each channel (B, C) by its number; a channel that no group names is a group of its own."""
        own = -1 - torch.arange(channel.shape[1]).expand_as(channel)
        if not len(self.group_of):
            return own
        last = len(self.group_of) - 1
        named = torch.where((channel >= 0) & (channel <= last), self.group_of[channel.clamp(0, last)], -1)
        return torch.where(named >= 0, named, own)

    def _on_grid(self, way: Tensor, first: Tensor, grid: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Scores (B, N) of random tokens (way 0), spans (1), gaps (2) and groups (3)."""
        channels, *rows_of, steps = grid
        size, rows = len(way), math.prod(rows_of)
        apart = self._runs(size, channels, steps, generator).gather(1, first[..., None].expand(-1, -1, steps))
        together = self._runs(size, 1, steps, generator).expand(-1, channels, -1)
        whole = _noise((size, channels), generator).argsort(1).gather(1, first)[..., None] + apart
        # Ties between groups (a gap that is cut off at the count) are broken at random, not by place.
        ties = 1e-9 * _noise((size, channels), generator).gather(1, first)[..., None]
        score = torch.stack([apart, together, whole])[(way - 1).clamp(min=0), torch.arange(size)] + ties  # (B, C, T')
        each = _noise((size, channels, rows, steps), generator)
        score = torch.where((way == 0)[:, None, None, None], each, score[:, :, None] + RAGGED * each)
        return score.flatten(1)

    def _runs(self, size: int, rows: int, steps: int, generator: torch.Generator) -> Tensor:
        """Noise in [0, 1) that is constant over runs of random length: (B, rows, steps), jittered against ties in time."""
        low, high = self.table.span_patches
        length = torch.randint(low, high + 1, (size, 1, 1), generator=generator)
        shift = torch.randint(0, high, (size, rows, 1), generator=generator)
        run = (torch.arange(steps) + shift) // length
        noise = _noise((size, rows, steps + high), generator).gather(2, run)
        return 0.999 * noise + 0.001 * _noise((size, rows, steps), generator)

    def _blocks(self, layout: Layout, visible: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B, N) that hide blocks, or all but blocks."""
        count = visible if self.table.keep else layout.valid.sum(1) - visible
        order = blocks(layout.place, layout.valid, count, self.table.block, generator)
        return order if self.table.keep else -order

    def _regions(self, layout: Layout, visible: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B, N) that hide one region whole, or as much of it as the count allows, and a share of the others."""
        region = regions(layout.place, layout.valid, self.table.regions)
        held = torch.zeros(len(region), self.table.regions, dtype=torch.int64).scatter_add_(1, region, layout.valid.long())
        hide = (layout.valid.sum(1) - visible).clamp(min=0)[:, None]
        whole = _noise(tuple(held.shape), generator).masked_fill(held == 0, -1.0).argmax(1, keepdim=True)
        most = torch.minimum(held.gather(1, whole), hide)
        quota = apportion(held.scatter(1, whole, 0), hide - most, generator).scatter(1, whole, most)
        noise = _noise(tuple(region.shape), generator)
        return noise + first_of_each(region, quota, noise, layout.valid)

    def _budgets(self, layout: Layout, visible: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B, N) that leave each group of channels its share; what one cannot hold is drawn from all the others."""
        held = torch.zeros(len(layout.group), int(layout.group.max()) + 1, dtype=torch.int64)
        held.scatter_add_(1, layout.group, layout.valid.long())
        # Exponential numbers over their sum are a draw from the flat Dirichlet distribution.
        weight = torch.where(held > 0, -torch.log1p(-_noise(tuple(held.shape), generator)), 0.0)
        quota = apportion(weight, torch.minimum(held.sum(1), visible)[:, None], generator)
        noise = _noise(tuple(layout.group.shape), generator)
        return noise - first_of_each(layout.group, quota, noise, layout.valid).double()

    def _prefix(self, layout: Layout, visible: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B, N) that rise with time, or along a random direction; ties are broken at random."""
        place = layout.place
        direction = torch.randn((len(place), 3, 1), generator=generator)
        timed = (place[..., TIME] > 0).any(1, keepdim=True)
        along = torch.where(timed, place[..., TIME], (place[..., :TIME] @ direction)[..., 0])
        return along.double() + 1e-6 * _noise(tuple(along.shape), generator)

    def _spacetime(self, layout: Layout, visible: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B, N) that hide some places throughout and balls of places for ``length_patches`` steps."""
        table, steps = self.table, layout.steps
        valid = layout.valid.unflatten(1, (-1, steps))
        there, place, group = valid.any(2), layout.coords[:, ::steps, :TIME], layout.group[:, ::steps]
        held = torch.zeros_like(there)
        if table.hold:
            near = neighbours(place, group, there, table.hold_radius_m)
            count = (table.hold * there.sum(1) + torch.rand(len(there), generator=generator)).long()
            order = spacetime(near, even_odds(near), there[..., None], held, 1, count, generator)[..., 0]
            held = (order.argsort(1).argsort(1) < count[:, None]) & there
        near = neighbours(place, group, there, table.radius_m)
        hidden = layout.valid.sum(1) - visible
        return -spacetime(near, even_odds(near), valid, held, table.length_patches, hidden, generator).flatten(1)


def odds_of(ways: WaysTable) -> Tensor:
    """The odds in the order in which the ways are numbered, (9,)."""
    first = [ways.random, ways.spans, ways.gaps, ways.groups]
    return torch.tensor([*first, ways.blocks, ways.regions, ways.budgets, ways.prefix, ways.spacetime])


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform noise in float64, where no two scores of a sample come out equal by rounding."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def apportion(weight: Tensor, total: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers that add up to ``total`` int64 (B, 1), each within one of its share by ``weight`` (B, G): int64 (B, G).

    Shares laid end to end are cut at whole numbers from a random start (systematic sampling), so that rounding favours none.
    """
    ends = weight.double().cumsum(1)
    ends = ends / ends[:, -1:].clamp(min=torch.finfo(torch.float64).tiny) * total
    cuts = (ends + _noise((len(ends), 1), generator)).floor().long()
    return cuts.diff(dim=1, prepend=torch.zeros_like(cuts[:, :1]))


def first_of_each(part: Tensor, quota: Tensor, noise: Tensor, valid: Tensor) -> Tensor:
    """Whether a token is among the first of its part (B, N) in the order of the noise in [0, 1), by the quota (B, G)."""
    rank = (part + (noise + ~valid) / 2).argsort(1).argsort(1)  # those that are not valid come last in their part
    held = torch.zeros_like(quota).scatter_add_(1, part, torch.ones_like(part))
    begin = held.cumsum(1) - held
    return rank - begin.gather(1, part) < quota.gather(1, part)


def first_of_group(groups: Tensor) -> Tensor:
    """For each channel the place of the first channel of its group, groups int64 (B, C) -> int64 (B, C)."""
    return (groups[:, :, None] == groups[:, None, :]).int().argmax(2)


def share_out(score: Tensor, valid: Tensor, visible: Tensor, most: int) -> Mask:
    """Show ``visible`` int64 (B,) of each sample's valid tokens, those with the lowest scores, and hide its others.

    Tokens that are not valid fill the visible ones up to ``most``, which no sample exceeds; the rest of them come last
    among the hidden.
    """
    order = score.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    place = torch.arange(valid.shape[1]).expand_as(order)
    shown = (place < visible[:, None]) | (place >= valid.shape[1] - (most - visible)[:, None])
    order = order.gather(1, (~shown).int().argsort(dim=1, stable=True))
    return Mask(order[:, :most], order[:, most:])


def split(score: Tensor, valid: Tensor, visible: int) -> Mask:
    """Hide the tokens with the highest scores; ties by place. ``score`` and ``valid`` are (B, N)."""
    order = score.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    return Mask(order[:, :visible], order[:, visible:])
