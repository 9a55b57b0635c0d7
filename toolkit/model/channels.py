"""How tokens say whose they are: codes of channels by what they are called, or learned vectors and projections by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet


class OwnChannels(nn.Module):
    """A learned vector for each of ``names`` channels; channels that were not named have the code of what they are called."""

    def __init__(self, names: int, width: int) -> None:
        super().__init__()
        self.own = nn.Embedding(names, width)
        self.code = nn.Linear(DESCRIPTOR, width, bias=False)

    def forward(self, tokens: TokenSet) -> Tensor:
        """(B, N, width)."""
        named = tokens.channel < self.own.num_embeddings
        own = self.own(tokens.channel.clamp(max=self.own.num_embeddings - 1))
        return torch.where(named[..., None], own, self.code(tokens.descriptor).to(own.dtype))


class CodedChannels(nn.Linear):
    """A linear of the channel's code."""

    def __init__(self, width: int) -> None:
        super().__init__(DESCRIPTOR, width, bias=False)

    def forward(self, tokens: TokenSet) -> Tensor:  # type: ignore[override]
        """(B, N, width)."""
        return super().forward(tokens.descriptor)


class Projections(nn.Module):
    """A patch projection for each of ``names`` channels, and one for all others, to which their code is added.

    What tells contrasts apart in BM-MAE (2505.00568), which has no other word for them.
    """

    def __init__(self, names: int, values: int, width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Linear(values, width) for _ in range(names))
        self.other = nn.Linear(values, width)
        self.code = nn.Linear(DESCRIPTOR, width, bias=False)

    def forward(self, tokens: TokenSet) -> Tensor:
        """(B, N, width)."""
        strange = (tokens.channel >= len(self.each))[..., None]
        x = torch.where(strange, self.other(tokens.patches) + self.code(tokens.descriptor), 0.0)
        for number in tokens.channel.unique().tolist():
            if number < len(self.each):
                x = torch.where((tokens.channel == number)[..., None], self.each[number](tokens.patches).to(x.dtype), x)
        return x


def build(kind: str, names: int, width: int) -> nn.Module | None:
    """What is added to tokens by their channel, if anything is: ``code``, ``own`` (a code where no channel is named)."""
    if kind == "own" and names:
        return OwnChannels(names, width)
    return CodedChannels(width) if kind in ("code", "own") else None
