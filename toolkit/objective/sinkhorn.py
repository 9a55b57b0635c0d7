"""Even assignments of features to prototypes by optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.03, iterations: int = 10) -> Tensor:
    """Shares of (n, K) scores, float32: every row sums to 1, every column to n / K as nearly as ``iterations`` bring it.

    Sinkhorn-Knopp with entropy ``epsilon``, as in SwAV (2006.09882) and SIGMA (2407.15447), on logarithms: nothing
    underflows however small ``epsilon``. Columns first, rows last, so rows are exact. No gradient.
    """
    log = scores.float() / epsilon
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()
