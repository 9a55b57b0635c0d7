"""What stands between states and a head: a gate changes gradients and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reverse(x: Tensor, scale: float) -> Tensor:
    """``x`` of any shape, unchanged; on the way back its gradient is multiplied by ``-scale``.

    The gradient reversal of Ganin and Lempitsky (1409.7495). What comes after learns at its own rate; ``scale``
    weighs only how hard what came before works against it, as in FMAE-IAT (2407.11243).
    """
    return _Reverse.apply(x, scale)
