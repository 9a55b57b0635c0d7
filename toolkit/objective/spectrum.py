"""How much of their space states fill: the signs of a collapse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7  # RankMe's, for float32


def effective_rank(states: Tensor) -> float:
    """RankMe (2210.02885) of the (n, D) matrix: exp of the entropy of its normalised singular values.

    From 1 (all rows on one line) to min(n, D). Rows are not centred, as in the paper: a common mean lowers it.
    NaN for no rows or values that are not finite, so that a run that diverges can still be logged.
    """
    rows = states.detach().cpu().double()
    return rank_of_moments(rows.mT @ rows if len(rows) > rows.shape[1] else rows @ rows.mT)


def rank_of_moments(moments: Tensor) -> float:
    """The same from second moments, float64 (D, D): the sum of the outer products of all rows, which can be added up."""
    if not moments.numel() or not torch.isfinite(moments).all():
        return math.nan
    singular = torch.linalg.eigvalsh(moments).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-300) + EPS
    return float((-share * share.log()).sum().exp())


def deviation(x: Tensor) -> Tensor:
    """Mean over the D features of (..., D) of their standard deviation over everything else; 0 when all are alike.

    Scalar, in the unit of ``x``, without gradient. The quantity that data2vec 2.0 (2212.07525) watches.
    """
    return x.detach().float().flatten(0, -2).std(0, correction=0).mean()
