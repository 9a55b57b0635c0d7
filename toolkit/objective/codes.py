"""Codes of features: k-means, and codebooks of what the ones before left over.

Codebooks are fitted once and then fixed. They are buffers, so that a checkpoint knows what its codes meant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 50  # Lloyd's, at most
CHUNK = 16384  # rows whose distances to all codes are held at once
SAME = 1e-6  # squared distance below which float32 cannot tell two rows apart, as a share of their squared lengths
ROUNDING = 1e-12  # the same for what is left of rows that a codebook hits
FAR = 1e6  # where codes that stand for nothing lie, in deviations: nearest to no feature


class _Codebooks(nn.Module):
    """Features standardised (and prepared by the class), then one codebook after another on what is left."""

    codebook: Tensor
    mean: Tensor
    deviation: Tensor
    fitted: Tensor

    def __init__(self, width: int, codes: int, levels: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.full((levels, codes, width), FAR))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, features: Tensor, generator: torch.Generator) -> None:
        """Learn the codebooks of (n, D) features. The same on the same machine for the same state of a CPU ``generator``.

        Fewer distinct rows than codes leave codes without use. Raises ValueError for no rows or values not finite.
        """
        rows = features.float()
        if not len(rows) or not torch.isfinite(rows).all():
            raise ValueError(f"codes: expected finite features, got {len(rows)} rows{', some not finite' if len(rows) else ''}")
        spread, mean = torch.std_mean(rows, 0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(spread.masked_fill(spread <= SAME * mean.abs(), 1.0))
        left = self._prepare(rows)
        for book in self.codebook:
            centres = cluster(left, len(book), generator)
            book.fill_(FAR)[: len(centres)] = centres
            left = left - book[nearest(left, book)]
        self.fitted.fill_(True)

    def _prepare(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation

    @torch.no_grad()
    def _assign(self, features: Tensor) -> Tensor:
        """(..., D) to (..., levels)."""
        if not self.fitted:
            raise RuntimeError("codes are not fitted; call fit first")
        left, codes = self._prepare(features.float().flatten(0, -2)), []
        for book in self.codebook:
            codes.append(nearest(left, book))
            left = left - book[codes[-1]]
        return torch.stack(codes, -1).unflatten(0, features.shape[:-1])


class KMeans(_Codebooks):
    """One codebook on standardised features: HuBERT's targets (2106.07447)."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__(width, codes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) to the nearest code of each, int64 (...). Raises RuntimeError before :meth:`fit`."""
        return self._assign(features)[..., 0]


class ResidualCodes(_Codebooks):
    """``levels`` codebooks, each of what the ones before left of standardised features of unit length.

    As MuQ's Mel-RVQ (2501.01108), but fitted by k-means one after another, where the paper trains them jointly with
    an encoder and a decoder: nothing to train, and the error still falls with every level.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) to codes int64 (..., levels). Raises RuntimeError before :meth:`fit`."""
        return self._assign(features)

    def _prepare(self, rows: Tensor) -> Tensor:
        return functional.normalize(super()._prepare(rows), dim=-1)


def cluster(rows: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """K-means centres (k, D) of float32 rows (n, D), k at most ``codes`` and at most the number of distinct rows."""
    centres = _seed(rows, codes, generator)
    members = nearest(rows, centres)
    for _ in range(STEPS):
        count = members.bincount(minlength=len(centres))[:, None]
        total = torch.zeros_like(centres).index_add_(0, members, rows)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
        before, members = members, nearest(rows, centres)
        if torch.equal(before, members):
            break
    return centres


def nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """Number of the centre (K, D) nearest to each of the rows (n, D): int64 (n,)."""
    return torch.cat([_squared(part, centres).argmin(1) for part in rows.split(CHUNK)])


def _seed(rows: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007): of a few rows drawn by squared distance, the one that helps most."""
    chosen = [torch.randint(len(rows), (1,), generator=generator).to(rows.device)]
    closest = _squared(rows, rows[chosen[0]])[:, 0]
    tries = 2 + int(math.log(codes))
    while len(chosen) < codes and closest.any():
        drawn = torch.multinomial(closest.cpu(), tries, replacement=True, generator=generator).to(rows.device)
        each = torch.minimum(_squared(rows, rows[drawn]), closest[:, None])
        best = each.sum(0).argmin()
        chosen.append(drawn[best, None])
        closest = each[:, best]
    return rows[torch.cat(chosen)]


def _squared(rows: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (n, K); 0 where float32 cannot tell."""
    with torch.autocast(rows.device.type, enabled=False):
        size = rows.square().sum(-1)[:, None] + centres.square().sum(-1)
        distance = torch.addmm(size, rows, centres.mT, alpha=-2)
    return distance.masked_fill(distance < SAME * size + ROUNDING, 0.0)
