"""A pyramid of point tokens: fine groups, merged scale by scale into fewer and wider ones (Point-M2AE, 2205.14401)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from toolkit.model import positions
from toolkit.model.states import States
from toolkit.model.tokenizers.base import Tokenizer
from toolkit.model.tokenizers.points import EXACT, FAR, farthest_points
from toolkit.model.tokens import TokenSet, gather
from toolkit.model.transformer import norm_of, stack_of
from toolkit.recipe import PositionTable, PyramidTable, TransformerTable

SPREAD = 3  # coarser tokens that a finer one is told of, as in PointNet++ (1706.02413)
NEAR = 1e-6  # squared distance below which tokens are in one place


class Merge(nn.Module):
    """The nearest finer tokens of each centre into one: a small PointNet over their states and their places around it."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(width + 3, out), nn.LayerNorm(out), nn.ReLU(), nn.Linear(out, out))
        self.second = nn.Sequential(nn.Linear(2 * out, out), nn.LayerNorm(out), nn.ReLU(), nn.Linear(out, out))

    def forward(self, x: Tensor, around: Tensor, counts: Tensor) -> Tensor:
        """States (B, m, k, width) at ``around`` (B, m, k, 3) from the centre, of which ``counts`` (B, m, k): (B, m, out)."""
        each = self.first(torch.cat([x, around.type_as(x)], dim=-1))
        together = _most(each, counts)[:, :, None].expand_as(each)
        return _most(self.second(torch.cat([together, each], dim=-1)), counts)


class Spread(nn.Module):
    """Coarser states brought to finer tokens by distance, beside the finer tokens' own, through an MLP (PointNet++)."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(coarse + fine, coarse), nn.LayerNorm(coarse), nn.GELU(), nn.Linear(coarse, coarse))

    def forward(self, coarse: Tensor, fine: Tensor, nearest: Tensor, share: Tensor) -> Tensor:
        """Coarse (B, m, W), fine (B, n, w), ``nearest`` int64 (B, n, k) of the coarse and their ``share``: (B, n, W)."""
        told = (_rows(coarse, nearest) * share[..., None].type_as(coarse)).sum(2)
        return self.mlp(torch.cat([told, fine], dim=-1))


class PyramidEncoder(nn.Module):
    """Token sets of fine groups to states at those groups, through coarser scales.

    Centres of a coarser scale are farthest-point samples of the tokens that entered, so that neither patches nor places
    of hidden ones reach any scale. On the way back each finer token is told of the coarser ones around it.
    The paper has the way back in its decoder, and all centres, hidden ones too, sampled before the mask.
    """

    def __init__(self, table: PyramidTable, position: PositionTable, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.table, self.width, self.every_block = table, table.width, position.every_block
        widths = table.widths
        scales = [_blocks_table(table, scale) for scale in range(len(widths))]
        self.embed_patch = tokenizer.embedder(widths[0])
        places = [positions.build(position, width) for width in widths]
        self.embed_position = nn.ModuleList(nn.Identity() if place is None else place for place in places)
        self.placed = position.code != "none"
        self.merge = nn.ModuleList(Merge(fine, coarse) for fine, coarse in pairwise(widths))
        self.blocks = nn.ModuleList(stack_of(scale) for scale in scales)
        self.norms = nn.ModuleList(norm_of(scale) for scale in scales)
        self.spread = nn.ModuleList(Spread(widths[-1], fine) for fine in widths[:-1])
        self.norm = norm_of(scales[-1])

    def forward(self, tokens: TokenSet, index: Tensor | None = None, layer: int = -1) -> States:
        """States (B, n, W) of the tokens at ``index`` int64 (B, n) (None: all).

        ``layers``: the coarsest state nearest to each token, then ``last``, which has been told of all scales;
        ``layer`` -2 gives the former as ``last`` and leaves the way back out.
        """
        if index is not None:
            tokens = tokens.take(index)
        coords, valid = [tokens.coords], [tokens.valid]
        x = [self._through(0, self.embed_patch(tokens.patches), coords[0], valid[0])]
        for scale, merge in enumerate(self.merge):
            centres, known, nearest, counts = self._centres(scale, coords[-1], valid[-1])
            around = _rows(coords[-1][..., :3], nearest) - centres[:, :, None, :3]
            merged = merge(_rows(x[-1], nearest), around, counts)
            x.append(self._through(scale + 1, merged, centres, known))
            coords.append(centres)
            valid.append(known)
        coarsest, _ = _nearest(coords[0], coords[-1], valid[-1], 1)
        coarse = self.norms[-1](gather(x[-1], coarsest[..., 0]))
        if layer == -2:
            return States(coarse, (coarse,))
        told = self.norms[-1](x[-1])
        for scale in reversed(range(len(self.spread))):
            nearest, share = _nearest(coords[scale], coords[scale + 1], valid[scale + 1], SPREAD)
            told = self.spread[scale](told, self.norms[scale](x[scale]), nearest, share)
        last = self.norm(told)
        return States(last, (coarse, last))

    def _centres(self, scale: int, coords: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places of the coarser tokens, which are real, their finer ones int64 (B, m, k), and which of those count."""
        count = max(1, round(coords.shape[1] / self.table.steps[scale]))
        chosen, known = farthest_points(coords[..., :3], valid, count)
        centres = gather(coords, chosen)
        near = min(self.table.neighbours[scale], coords.shape[1])
        distance = _distances(centres, coords, valid)
        nearest = distance.topk(near, dim=2, largest=False).indices
        return centres, known, nearest, _rows(valid[..., None], nearest)[..., 0]

    def _through(self, scale: int, x: Tensor, coords: Tensor, valid: Tensor) -> Tensor:
        """The blocks of a scale over its tokens (B, n, w)."""
        place = self.embed_position[scale](coords).type_as(x) if self.placed else torch.zeros_like(x)
        x = x if self.every_block else x + place
        mask = _within(coords, valid, self.table.radius[scale])
        for block in self.blocks[scale].children():
            x = block(x + place if self.every_block else x, None, mask)
        return x


def _blocks_table(table: PyramidTable, scale: int) -> TransformerTable:
    """The blocks of one scale; within it the share of samples that skip them rises to ``drop_path``."""
    width = table.widths[scale]
    return TransformerTable(
        width=width,
        depth=table.depths[scale],
        heads=table.heads,
        head_width=width // table.heads,
        mlp=4 * width,
        drop_path=table.drop_path,
    )


def _within(coords: Tensor, valid: Tensor, radius: float) -> Tensor | None:
    """Which tokens attend which, bool (B, n, n): valid ones within ``radius`` (0: all of them), and itself; None for all."""
    if not radius and bool(valid.all()):
        return None
    near = torch.cdist(coords[..., :3], coords[..., :3], compute_mode=EXACT) <= (radius or torch.inf)
    return (near & valid[:, None]) | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)


def _nearest(fine: Tensor, coarse: Tensor, known: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For fine places (B, n, 4) the nearest known coarse (B, m, 4): indices (B, n, k), and shares by inverse squared distance."""
    found = _distances(fine, coarse, known).topk(min(count, coarse.shape[1]), dim=2, largest=False)
    weight = 1 / (found.values.square() + NEAR)
    return found.indices, weight / weight.sum(2, keepdim=True)


def _distances(places: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """Distances (B, n, m) to others (B, m, 4); those that are not known lie far away."""
    return torch.cdist(places[..., :3], others[..., :3].masked_fill(~known[..., None], FAR), compute_mode=EXACT)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, N, D) at ``index`` int64 (B, m, k): (B, m, k, D)."""
    return gather(values, index.flatten(1)).unflatten(1, index.shape[1:])


def _most(x: Tensor, counts: Tensor) -> Tensor:
    """Maximum (B, m, D) over what counts of (B, m, k, D); zero where nothing does."""
    none = ~counts.any(2, keepdim=True)
    return x.masked_fill(~(counts | none)[..., None], -torch.inf).amax(2).masked_fill(none, 0.0)
