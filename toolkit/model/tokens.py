"""The token set: where the domains become one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSet:
    """B samples of N tokens of P values.

    ``patches`` float (B, N, P); ``coords`` float (B, N, 4): x, y, z and time in physical units;
    ``channel`` int64 (B, N): number of the channel, which masks go by; ``descriptor`` float (B, N, DESCRIPTOR): code of
    the channel, which models go by (see :mod:`toolkit.model.tokenizers.descriptors`);
    ``valid`` bool (B, N): False tokens must not influence anything;
    ``scale`` int64 (B, N): tokens with equal numbers share one amplitude scale (leads of a kind do);
    ``grid``: the layout of the N tokens, channels first, e.g. (C, time patches).
    """

    patches: Tensor
    coords: Tensor
    channel: Tensor
    descriptor: Tensor
    valid: Tensor
    scale: Tensor
    grid: tuple[int, ...]

    def take(self, index: Tensor) -> TokenSet:
        """The tokens at ``index`` int64 (B, n), in that order; the result has no grid."""
        return TokenSet(
            gather(self.patches, index),
            gather(self.coords, index),
            self.channel.gather(1, index),
            gather(self.descriptor, index),
            self.valid.gather(1, index),
            self.scale.gather(1, index),
            (index.shape[1],),
        )

    def joined(self, other: TokenSet) -> TokenSet:
        """These tokens, then the others of the same samples; the result has no grid."""
        pairs = {name: torch.cat([getattr(self, name), getattr(other, name)], dim=1) for name in PER_TOKEN}
        return TokenSet(**pairs, grid=(pairs["valid"].shape[1],))

    def repeated(self, times: int) -> TokenSet:
        """Each sample so many times in a row."""
        if times == 1:
            return self
        return replace(self, **{name: getattr(self, name).repeat_interleave(times, dim=0) for name in PER_TOKEN})

    def shown(self, index: Tensor) -> Tensor:
        """Which of all tokens are at ``index`` int64 (B, n) and valid: bool (B, N)."""
        return torch.zeros_like(self.valid).scatter(1, index, True) & self.valid

    def to(self, device: torch.device) -> TokenSet:
        """The same tokens on another device."""
        return replace(
            self,
            patches=self.patches.to(device),
            coords=_moved(self.coords, device),
            channel=self.channel.to(device),
            descriptor=_moved(self.descriptor, device),
            valid=self.valid.to(device),
            scale=self.scale.to(device),
        )


PER_TOKEN = ("patches", "coords", "channel", "descriptor", "valid", "scale")  # all but the grid


def jittered(tokens: TokenSet, deviation: float, generator: torch.Generator) -> TokenSet:
    """Tokens whose channels are moved by N(0, ``deviation``) in m along x, y and z, all tokens of a channel alike.

    REVE (2510.21585) trains so: caps do not sit where the atlas has them.
    """
    if not deviation:
        return tokens
    size, channels = len(tokens.coords), tokens.grid[0]
    shift = deviation * torch.randn((size, channels, 1, 3), generator=generator).to(tokens.coords.device)
    places = tokens.coords.unflatten(1, (channels, -1))
    return replace(tokens, coords=torch.cat([places[..., :3] + shift, places[..., 3:]], dim=-1).flatten(1, 2))


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on another device; samples that are views of one travel once."""
    if len(values) and values.stride(0) == 0:
        return values[:1].to(device).expand_as(values)
    return values.to(device)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``values`` (B, N, D) at ``index`` (B, n): (B, n, D)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def placed(rows: Tensor, index: Tensor, tokens: int) -> Tensor:
    """Rows (B, n, D) put at ``index`` (B, n) among ``tokens``: (B, tokens, D), zero elsewhere. What ``gather`` undoes."""
    whole = rows.new_zeros(len(rows), tokens, rows.shape[-1])
    return whole.scatter(1, index[..., None].expand_as(rows), rows)
