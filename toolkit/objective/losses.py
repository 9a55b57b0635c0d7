"""Distances between what is predicted and what is true, one number a token, in float32 also under autocast.

Those that compare tokens with one another take ``counts``, bool (B, q): tokens that do not count are compared with
none, cost 0 and get no gradient, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.model.tokenizers.points import EXACT
from toolkit.objective.sinkhorn import sinkhorn

SHORT = 1e-4  # vectors below this length have a smaller cosine instead of a gradient without bound
LEAST = 1e-7  # share of probability that a focal weight keeps: float32's resolution at 1


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of (..., P) patches: (...)."""
    return functional.l1_loss(predicted, target, reduction="none").mean(-1)


def l2(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference."""
    return functional.mse_loss(predicted, target, reduction="none").mean(-1)


def smooth_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Huber's, from squared to absolute at 1."""
    return functional.smooth_l1_loss(predicted, target, reduction="none").mean(-1)


def chamfer(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared Chamfer distance of sets of points (..., 3 k): mean distance to the nearest of the other set, both ways added.

    The "CD-L2" of Point-MAE (2203.06604).
    """
    distance = torch.cdist(predicted.unflatten(-1, (-1, 3)), target.unflatten(-1, (-1, 3)), compute_mode=EXACT).square()
    return distance.amin(-1).mean(-1) + distance.amin(-2).mean(-1)


def cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of (..., D) vectors: (...), from 0 to 2; 1 where either is zero."""
    return 1 - (_unit(predicted) * _unit(target)).sum(-1)


def sce(predicted: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Scaled cosine error of GraphMAE (2205.10803), (1 - cosine)^gamma: (...). Raises ValueError for gamma below 1."""
    if gamma < 1:
        raise ValueError(f"sce: got gamma {gamma}, expected 1 or more; below, what is right already has a gradient without bound")
    return cosine(predicted, target).clamp(min=0).pow(gamma)  # rounding takes 1 - cosine below 0


def cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy in nats of (..., L, K) logits and int64 codes (..., L), mean over the L levels: (...); chance is log K."""
    return -_log_likelihood(logits, codes).mean(-1)


def focal(logits: Tensor, codes: Tensor, gamma: float) -> Tensor:
    """The same times (1 - probability of the code)^gamma (1708.02002): (...); gamma 0 is cross-entropy."""
    likelihood = _log_likelihood(logits, codes)
    return -((-likelihood.expm1()).clamp(min=LEAST).pow(gamma) * likelihood).mean(-1)


def nce(predicted: Tensor, candidates: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Cross-entropy in nats of finding each token's own candidate among its sample's, by cosine: (B, q).

    InfoNCE (1807.03748) within a sample. ``predicted``, ``candidates``: (B, q, D). Only candidates that count
    compete; chance is the log of their number.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        logits = _unit(_only(predicted, counts)) @ _unit(_only(candidates, counts)).mT / temperature
    logits = logits.masked_fill(~counts[:, None], torch.finfo(logits.dtype).min)  # -inf would be NaN where nothing counts
    return -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).masked_fill(~counts, 0.0)


def swapped(
    predicted: Tensor,
    target: Tensor,
    prototypes: Tensor,
    counts: Tensor,
    temperature: float = 0.1,
    epsilon: float = 0.03,
    iterations: int = 10,
) -> Tensor:
    """Cross-entropy in nats of telling each of two features' prototypes from the other feature: (B, q); chance is log K.

    ``predicted``, ``target``: (B, q, D); ``prototypes``: (K, D). SIGMA (2407.15447): both are scored by cosine on the
    prototypes, :func:`sinkhorn` spreads the scores of all counted tokens evenly over prototypes, and the code of
    one is what the other must say. As in its released code, codes are hard (the greatest share), and prototypes learn
    only from the side of the target; the two directions are averaged here, summed there. A target without gradient
    is fine.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        unit = _unit(prototypes)
        from_predicted = _unit(predicted[counts]) @ unit.detach().mT
        from_target = _unit(target[counts]) @ unit.mT
    codes_predicted, codes_target = (sinkhorn(s, epsilon, iterations).argmax(-1) for s in (from_predicted, from_target))
    each = functional.cross_entropy(from_predicted / temperature, codes_target, reduction="none")
    each = each + functional.cross_entropy(from_target / temperature, codes_predicted, reduction="none")
    return each.new_zeros(counts.shape).masked_scatter(counts, each / 2)


def pairs(a: Tensor, b: Tensor, counts: Tensor, partners: str) -> Tensor:
    """Disagreement of two predictions (B, n, D) of the same hidden tokens, 1 - cosine: (B, n).

    Point-CMAE (2407.05862). ``partners`` ``same``: each token with itself. ``all``: with all counted tokens of its
    sample, on average, as in the released code, which draws all tokens of a sample into one direction.
    """
    one, other = _unit(_only(a, counts)), _unit(_only(b, counts))
    with_partner = {
        "same": lambda: other,
        "all": lambda: other.sum(1, keepdim=True) / counts.sum(1).clamp(min=1)[:, None, None],
    }[partners]()
    return (1 - (one * with_partner).sum(-1)).masked_fill(~counts, 0.0)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "l2": l2,
    "smooth_l1": smooth_l1,
    "chamfer": chamfer,
    "cosine": cosine,
}


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=-1, eps=SHORT)


def _only(x: Tensor, counts: Tensor) -> Tensor:
    """Zeros for what does not count: 0 x NaN is NaN, also in a gradient."""
    return x.masked_fill(~counts[..., None], 0.0)


def _log_likelihood(logits: Tensor, codes: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).gather(-1, codes[..., None])[..., 0]
