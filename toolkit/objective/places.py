"""Where tokens lie beside one another: places scaled to the sample, connected blocks of them, balls in time, and regions.

One rule for grids and sets: tokens are neighbours by their coordinates, never by their number in the sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.model.tokenizers.points import EXACT, farthest_points
from toolkit.model.tokens import TokenSet

TIME, CHANNEL = 3, 4  # columns of places, after x, y, z
LEAST_SIDE = 0.01  # of a block, so that nothing is divided by 0
EDGE = 1 + 1e-4  # a token on the side of a block is inside it, whatever the rounding
EVENING = 30  # steps of Lucy's iteration; more of them hide all electrodes still more alike, and leave some never a seed


def places(tokens: TokenSet) -> Tensor:
    """x, y, z, t and number of the channel of each token, each from 0 to 1 over the sample's valid tokens: (B, N, 5).

    An axis along which the sample does not extend is 0. Channels are told apart by their positions; their number is
    an axis only in samples where all have the same (contrasts, microphones, electrodes that nobody located).
    """
    size, channels, valid = len(tokens.coords), tokens.grid[0], tokens.valid.cpu()[..., None]
    coords = tokens.coords.cpu().view(size, channels, -1, 4)
    alike = (coords == coords[:, :1]).flatten(1).all(1)
    number = (torch.arange(channels) * alike[:, None]).to(coords)[:, :, None, None].expand(-1, -1, coords.shape[2], -1)
    axes = torch.cat([coords, number], dim=3).flatten(1, 2)
    low = axes.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    extent = axes.masked_fill(~valid, -torch.inf).amax(1, keepdim=True) - low
    return torch.where(extent > 0, (axes - low) / extent, 0.0).clamp(0.0, 1.0)


def regions(place: Tensor, valid: Tensor, count: int) -> Tensor:
    """Divide samples into at most ``count`` regions: int64 (B, N), the same at all times of a place.

    Each token belongs to the nearest of farthest-point seeds in x, y, z; in a sample without extent in space by its
    channel, and with a single channel by time. ``place`` is (B, N, 5) as of :func:`places`, ``valid`` (B, N).
    """
    extends = (place > 0).any(1)
    in_space, in_channels = extends[:, :TIME].any(1)[:, None], extends[:, CHANNEL, None]
    line = torch.where(in_channels, place[..., CHANNEL], place[..., TIME])
    on_line = torch.stack([line, torch.zeros_like(line), torch.zeros_like(line)], dim=2)
    points = torch.where(in_space[..., None], place[..., :TIME], on_line)
    seeds, fresh = farthest_points(points, valid, min(count, valid.shape[1]))
    seeds_at = points.gather(1, seeds[..., None].expand(-1, -1, 3))
    distance = torch.cdist(points, seeds_at, compute_mode=EXACT)
    return distance.masked_fill(~fresh[:, None], torch.inf).argmin(2)


def blocks(place: Tensor, valid: Tensor, count: Tensor, side: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Cover ``count`` int64 (B,) valid tokens of each sample with boxes: float64 (B, N), the ``count`` lowest are covered.

    Each box holds a seed, drawn among the tokens not yet covered, and is as long on each axis as drawn from ``side``, in
    shares of the sample's extent. It lies within the sample, so that the ends of an axis are covered less often than
    the middle, as with the published masks. The last box is cut by distance from its seed, which leaves it connected:
    from any token of a grid some step towards the seed stays in the box and is nearer.
    """
    size, tokens = valid.shape
    axes = [axis.contiguous() for axis in place.unbind(2) if bool((axis > 0).any())]
    order = torch.rand((size, tokens), generator=generator)
    left = order.masked_fill(~valid, torch.inf)  # the lowest is the next seed
    box = torch.full((size, tokens), float(tokens))  # the number of the first box that holds the token
    done = torch.zeros(size)
    seed, half = torch.zeros(size, 1, dtype=torch.int64), torch.ones(size, len(axes))
    for number in range(tokens):
        going = (done < count)[:, None]
        if not bool(going.any()):
            break
        seed = torch.where(going, left.argmin(1, keepdim=True), seed)
        drawn = side[0] + (side[1] - side[0]) * torch.rand((size, len(axes)), generator=generator)
        half = torch.where(going, drawn.clamp(min=LEAST_SIDE) / 2, half)
        new = _inside(axes, valid, seed, half, generator) & going & (left < torch.inf)
        box.masked_fill_(new, number)
        left.masked_fill_(new, torch.inf)
        done += new.float().sum(1)  # many times faster than the sum of bools
    last = box.masked_fill(box == tokens, -1).amax(1, keepdim=True)
    far = _distance(axes, seed, half) + 1e-9 * order
    return box.double() + torch.where(box == last, far / (1 + far), 0.0)


def _inside(axes: list[Tensor], valid: Tensor, seed: Tensor, half: Tensor, generator: torch.Generator) -> Tensor:
    """Valid tokens in a box with these half sides (B, axes) put over its seed (B, 1) at random, within the sample.

    A box that holds no other token grows until it does: bool (B, N).
    """
    shift = half * (2 * torch.rand(half.shape, generator=generator) - 1)
    reach = torch.zeros(valid.shape)  # 1 at the sides of the box
    for number, axis in enumerate(axes):
        h = half[:, number, None]
        middle = torch.minimum(torch.maximum(axis.gather(1, seed) + shift[:, number, None], h), 1 - h)
        torch.maximum(reach, (axis - middle).abs_().div_(h), out=reach)
    inside = (reach <= EDGE) & valid
    alone = inside.float().sum(1) == 1
    if bool(alone.any()):
        other = reach[alone].masked_fill(~valid[alone], torch.inf).scatter_(1, seed[alone], torch.inf)
        inside[alone] |= (other <= other.amin(1, keepdim=True)) & valid[alone]
    return inside


def _distance(axes: list[Tensor], seed: Tensor, half: Tensor) -> Tensor:
    """Distance from the seed in units of the box's sides, float64 (B, N)."""
    squares = torch.zeros(seed.shape[0], axes[0].shape[1] if axes else 1, dtype=torch.float64)
    for number, axis in enumerate(axes):
        squares = squares + ((axis - axis.gather(1, seed)) / half[:, number, None]).double().square()
    return squares.sqrt()


def neighbours(place: Tensor, group: Tensor, valid: Tensor, radius: float) -> Tensor:
    """Which places are hidden together: place (B, S, 3), group int64 (B, S), valid (B, S) -> bool (B, S, S).

    Those of a group, and those within ``radius``, in the unit of the places. A channel that nobody located has the place
    0, 0, 0 and no neighbour.
    """
    known = (place != 0).any(2)
    near = (torch.cdist(place.double(), place.double(), compute_mode=EXACT) <= radius * EDGE) & known[:, :, None] & known[:, None]
    near |= group[:, :, None] == group[:, None]
    return near & valid[:, :, None] & valid[:, None] | torch.eye(valid.shape[1], dtype=torch.bool)


def even_odds(near: Tensor) -> Tensor:
    """Odds of the middles of balls with which all places are covered nearly alike: near bool (B, S, S) -> (B, S).

    With equal odds places that have many neighbours would be hidden more often. Lucy's iteration (1974) keeps odds positive.
    """
    balls = near.float()
    size = balls.sum(2)
    odds = 1 / size
    for _ in range(EVENING):
        odds = odds * torch.bmm(balls, 1 / torch.bmm(balls, odds[..., None]))[..., 0] / size
    return odds / odds.sum(1, keepdim=True)


def spacetime(
    near: Tensor, odds: Tensor, valid: Tensor, held: Tensor, length: int, count: Tensor, generator: torch.Generator
) -> Tensor:
    """Cover ``count`` int64 (B,) valid tokens of each sample: float64 (B, S, T), the ``count`` lowest are covered.

    First come the places ``held`` (B, S), whole; then blocks of all that is ``near`` (B, S, S) a place for ``length`` steps.
    A block holds a token that was not covered, its place drawn by ``odds`` (B, S). It may begin before the sample or end
    behind it, so that all times are covered alike. The last block loses places at random, and of one place its end.
    """
    size, places_, steps = valid.shape
    time = torch.arange(steps)
    starts, weight = _starts(steps, length)
    left = torch.rand((size, places_, steps), generator=generator).clamp(min=1e-9).log_().neg_()
    left = (left / (odds[..., None] * weight)).masked_fill_(~valid | held[..., None], torch.inf)  # the lowest is the next seed
    block = torch.full((size, places_, steps), float("inf"), dtype=torch.float64)
    block.masked_fill_(valid & held[..., None], 0.0)
    done = (valid & held[..., None]).flatten(1).sum(1)
    rows = torch.arange(size)
    for number in range(1, places_ * steps + 1):
        going = done < count
        if not bool(going.any()):
            break
        seed = left.flatten(1).argmin(1)
        site, at = seed // steps, seed % steps
        begin = at - torch.searchsorted(starts[at], torch.rand((size, 1), generator=generator)).clamp(max=length - 1)[:, 0]
        inside = (time >= begin[:, None]) & (time < begin[:, None] + length)
        new = near[rows, site][:, :, None] & inside[:, None] & (left < torch.inf) & going[:, None, None]
        block.masked_fill_(new, float(number))
        left.masked_fill_(new, torch.inf)
        done += new.flatten(1).sum(1)
    cut = torch.rand((size, places_, 1), generator=generator, dtype=torch.float64)
    return block.nan_to_num(posinf=places_ * steps + 1.0) + 0.99 * cut + 0.009 / steps * time


def _starts(steps: int, length: int) -> tuple[Tensor, Tensor]:
    """Blocks that hold a step of time begin 0 to ``length`` - 1 steps before it: cumulated odds (T, length) of how many, and
    weights (T,) of the steps themselves, with which each of the T + length - 1 blocks is as likely as any other."""
    begin = torch.arange(steps)[:, None] - torch.arange(length)
    share = 1 / ((begin + length).clamp(max=steps) - begin.clamp(min=0)).float()
    weight = share.sum(1)
    return (share / weight[:, None]).cumsum(1).contiguous(), weight
