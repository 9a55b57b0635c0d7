"""Layers of a convnet that can run under a mask: what each does when part of its input is hidden.

Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling" (SparK, 2301.03580).
The mask is an argument, not a global as in the released code, and a layer without a rule is refused: that code fails
on Conv1d and leaves Conv3d dense, which leaks. Compute is dense; nothing gets cheaper by being hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Mask:
    """The visible cells of the coarsest grid, bool (B, 1, *space), and the same cells on every finer grid."""

    def __init__(self, cells: Tensor) -> None:
        self.cells = cells
        self._finer: dict[tuple[int, ...], Tensor] = {}

    def at(self, space: tuple[int, ...]) -> Tensor:
        """The mask on a grid of ``space`` cells, bool (B, 1, *space). Raises ValueError for one that does not refine it."""
        if space not in self._finer:
            coarse = self.cells.shape[2:]
            if len(space) != len(coarse) or any(s % c for s, c in zip(space, coarse, strict=True)):
                raise ValueError(f"a grid of {tuple(space)} cells does not refine the mask's {tuple(coarse)}")
            mask = self.cells
            for axis, (fine, cells) in enumerate(zip(space, coarse, strict=True), start=2):
                mask = mask.repeat_interleave(fine // cells, dim=axis)
            self._finer[space] = mask
        return self._finer[space]

    def hide(self, x: Tensor) -> Tensor:
        """x (B, F, *space) with zeros in hidden cells, whatever they held: also NaN."""
        return x.masked_fill(~self.at(tuple(x.shape[2:])), 0.0)


class ChannelNorm(nn.Module):
    """Layer norm over the features of each cell of (B, F, *space)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, *space) -> the same shape."""
        # Contiguous, because a convolution sums in another order where the layout is another, masked or not.
        return layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1).contiguous()


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, *space) -> the same shape."""
        return x + self.inner(x)


def norm(kind: str, dims: int, width: int) -> nn.Module:
    """The norm that a recipe's ``layer`` or ``batch`` means."""
    return {"layer": ChannelNorm, "batch": BATCH_NORM[dims]}[kind](width)


def block(kind: str, dims: int, width: int, kernel: int) -> Residual:
    """A pre-activation residual block (1603.05027) of two convolutions with an odd kernel."""

    def half() -> list[nn.Module]:
        return [norm(kind, dims, width), nn.GELU(), CONV[dims](width, width, kernel, padding=kernel // 2)]

    return Residual(nn.Sequential(*half(), *half()))


def masked(net: nn.Module, x: Tensor, mask: Mask) -> Tensor:
    """A net's output when only the visible cells of x (B, F, *space) exist; hidden cells are zero in and out.

    Raises TypeError for a layer that has no rule.
    """
    return _run(net, mask.hide(x), mask)


def refuse_unknown(net: nn.Module) -> None:
    """Raises TypeError that names the first layer of ``net`` that cannot run under a mask."""
    for name, layer in net.named_modules():
        if type(layer) not in _RULES:
            raise TypeError(f"layer '{name}' is {type(layer).__name__}, which has no rule for masked cells")


def _run(layer: nn.Module, x: Tensor, mask: Mask) -> Tensor:
    # By exact type: a subclass may do anything.
    if type(layer) not in _RULES:
        refuse_unknown(layer)
    return _RULES[type(layer)](layer, x, mask)


def _sequence(layers: nn.Sequential, x: Tensor, mask: Mask) -> Tensor:
    for layer in layers:
        x = _run(layer, x, mask)
    return x


def _residual(layer: Residual, x: Tensor, mask: Mask) -> Tensor:
    return x + _run(layer.inner, x, mask)


def _hide_after(layer: nn.Module, x: Tensor, mask: Mask) -> Tensor:
    """Hidden cells count as zeros, and a bias or a neighbour does not fill them."""
    return mask.hide(layer(x))


def _keeps_zero(layer: nn.Module, x: Tensor, mask: Mask) -> Tensor:
    return layer(x)


def _batch_norm(layer: Any, x: Tensor, mask: Mask) -> Tensor:
    """Mean and variance over the visible cells of the batch; the running ones follow them."""
    if not layer.training and layer.running_mean is not None:
        return _hide_after(layer, x, mask)
    visible = mask.at(tuple(x.shape[2:]))[:, 0]
    rows = x.movedim(1, -1)[visible].T  # (F, cells)
    normed = layer(rows.reshape(1, *rows.shape, *(1 for _ in x.shape[3:]))).flatten(1).view_as(rows).T
    return normed.new_zeros(x.movedim(1, -1).shape).index_put((visible,), normed).movedim(-1, 1)


def _max_pool(layer: nn.Module, x: Tensor, mask: Mask) -> Tensor:
    lowest = x.masked_fill(~mask.at(tuple(x.shape[2:])), -torch.inf)  # a zero of a hidden cell must not win
    return mask.hide(layer(lowest))


def _average_pool(layer: nn.Module, x: Tensor, mask: Mask) -> Tensor:
    visible = mask.at(tuple(x.shape[2:])).to(x.dtype)
    share, whole = layer(visible), layer(torch.ones_like(visible))
    return mask.hide(layer(x) * torch.where(share > 0, whole / share, 0.0))


_RULES: dict[type[nn.Module], Callable[[Any, Tensor, Mask], Tensor]] = {
    nn.Sequential: _sequence,
    Residual: _residual,
    nn.Conv1d: _hide_after,
    nn.Conv2d: _hide_after,
    nn.Conv3d: _hide_after,
    ChannelNorm: _hide_after,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.MaxPool3d: _max_pool,
    nn.AvgPool1d: _average_pool,
    nn.AvgPool2d: _average_pool,
    nn.AvgPool3d: _average_pool,
    nn.GELU: _keeps_zero,
    nn.ReLU: _keeps_zero,
    nn.Identity: _keeps_zero,
}
