"""Masks that leave salient tokens visible, and masks decided for whole neighbourhoods (I2P-MAE, 2212.06785)."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.model.tokenizers.points import EXACT, FAR, farthest_points
from toolkit.model.tokens import TokenSet

TOP = 0.25  # share of the valid tokens that count as the most salient in what is reported


def by_neighbourhood(score: Tensor, tokens: TokenSet, count: int, salience: Tensor | None = None) -> Tensor:
    """Scores (B, N) by which whole neighbourhoods of ``count`` farthest-point centres are hidden; the highest are.

    A neighbourhood takes the score of its centre, and the mean of its tokens' salience (:func:`raced`); one that the
    count cuts keeps the tokens nearest to its centre. So every scale of a pyramid with such centres has the same mask.
    """
    coords, valid = tokens.coords[..., :3].cpu(), tokens.valid.cpu()
    chosen, known = farthest_points(coords, valid, min(count, valid.shape[1]))
    centres = coords.gather(1, chosen[..., None].expand(-1, -1, 3)).masked_fill(~known[..., None], FAR)
    far, group = torch.cdist(coords, centres, compute_mode=EXACT).min(2)
    coarse = score.gather(1, chosen)
    if salience is not None:
        held = torch.zeros_like(coarse).scatter_add_(1, group, valid.to(coarse.dtype))
        total = torch.zeros_like(coarse).scatter_add_(1, group, (weights(salience, valid) * valid).to(coarse.dtype))
        coarse = raced(coarse, total / held.clamp(min=1))
    rank = coarse.masked_fill(~known, torch.inf).argsort(1).argsort(1)
    return rank.gather(1, group) + (far / (1 + far)).double()


def raced(noise: Tensor, weight: Tensor) -> Tensor:
    """Uniform noise in [0, 1) as scores whose lowest are a draw without replacement in proportion to the weights, (B, n).

    The arrival times of a race: exponential noise over the weight (Efraimidis and Spirakis, 2006).
    """
    return -torch.log1p(-noise) / weight.clamp(min=torch.finfo(torch.float32).tiny)


def weights(salience: Tensor, valid: Tensor) -> Tensor:
    """Salience (B, N) in any unit as weights of a draw: the exponential of its deviations from the sample's mean, in theirs.

    The paper takes the softmax of the salience as it is; attention of a class token, which sums to 1 over a picture,
    hardly varies then.
    """
    count = valid.sum(1, keepdim=True).clamp(min=1)
    known = salience.double().masked_fill(~valid, 0.0)
    around = (known - known.sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
    spread = (around.square().sum(1, keepdim=True) / count).sqrt()
    return torch.where(spread > 0, around / spread.clamp(min=1e-12), 0.0).exp()


def kept(salience: Tensor, visible: Tensor, valid: Tensor) -> tuple[float, float]:
    """Which share of the ``TOP`` most salient tokens is visible, and of all tokens, as a random mask would leave of any.

    ``salience`` and ``valid`` (B, N), ``visible`` int64 (B, v); over the valid tokens.
    """
    seen = torch.zeros_like(valid).scatter(1, visible, True) & valid
    rank = salience.masked_fill(~valid, -torch.inf).argsort(1, descending=True).argsort(1)
    top = (rank < (TOP * valid.sum(1, keepdim=True)).round().clamp(min=1)) & valid
    return float((seen & top).sum() / top.sum().clamp(min=1)), float(seen.sum() / valid.sum().clamp(min=1))
