"""Entropy of codes: the term of E2MC, which spreads what a trained encoder says evenly over its range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ENTROPY = 10.0  # weight against the covariance, E2MC's
TIE = 1e-6  # added to spacings: equal values have a finite entropy and gradient


@dataclass(frozen=True)
class Entropy:
    """Scalars: ``loss`` and its parts, the mean ``entropy`` of a feature in nats and the ``covariance`` between features."""

    loss: Tensor
    entropy: Tensor
    covariance: Tensor


def entropy_loss(z: Tensor) -> Entropy:
    """E2MC (2411.15931): covariance - 10 x entropy of (B, D) features squashed into (0, 1).

    Least for uniform independent features, and never below 0 (to within float32): no values in (0, 1) have an
    entropy above 0. Entropy is Vasicek's (:func:`marginal_entropy`), where E2MC's released code takes one-sided
    spacings; the covariance is as released: squares off the diagonal, summed and divided by D. Raises ValueError
    for one sample.
    """
    if len(z) < 2:
        raise ValueError(f"entropy: got a batch of {len(z)}, expected 2 samples or more")
    with torch.autocast(z.device.type, enabled=False):
        squashed = z.float().sigmoid()
        centred = squashed - squashed.mean(0)
        product = centred.mT @ centred / (len(z) - 1)
    covariance = (product.square().sum() - product.diagonal().square().sum()) / z.shape[1]
    entropy = marginal_entropy(squashed).mean()
    return Entropy(covariance - ENTROPY * entropy, entropy, covariance)


def marginal_entropy(x: Tensor) -> Tensor:
    """Differential entropy in nats of each feature of (n, D), from spacings of m = round(sqrt n) ranks each way: (D,).

    Vasicek (1976): mean of log(n / 2m (x[i + m] - x[i - m])) over the sorted values, with ranks cut at both ends.
    """
    n = len(x)
    m = round(math.sqrt(n))
    ranked, place = x.sort(0).values, torch.arange(n, device=x.device)
    spacing = ranked[(place + m).clamp(max=n - 1)] - ranked[(place - m).clamp(min=0)]
    return (spacing * (n / (2 * m)) + TIE).log().mean(0)


def gaussian_level(size: int, width: int, generator: torch.Generator) -> Entropy:
    """The trivial level of (B, D) features: what independent standard normal ones, such as a normed layer's, would cost."""
    return entropy_loss(torch.randn(size, width, generator=generator))
