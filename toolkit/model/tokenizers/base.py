"""What a model asks of its tokenizer, and identities of channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from readers.schema import Channel
from toolkit.corpus.batches import Batch
from toolkit.model.tokens import TokenSet

UNSCALED = -1  # TokenSet.scale of tokens whose amplitude has a fixed unit


class Tokenizer(ABC):
    """``values``: numbers a token; ``num_identities``: channel identities, unknown ones included."""

    values: int
    num_identities: int

    @abstractmethod
    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A batch to tokens on a device (default: the CPU)."""

    def embedder(self, width: int) -> nn.Module:
        """What turns patches (B, N, values) into (B, N, width)."""
        return nn.Linear(self.values, width)


class Identities:
    """Numbers for channels: those of known names each have one, others share a few in the order of the sample."""

    def __init__(self, names: Sequence[str], unknown: int) -> None:
        self.names, self.unknown = tuple(names), unknown

    def __len__(self) -> int:
        return len(self.names) + self.unknown

    def of(self, channels: Sequence[Channel]) -> list[int]:
        """Identity of each channel; equal names beyond the first count as unknown."""
        seen: set[str] = set()
        found, strangers = [], 0
        for channel in channels:
            if channel.canonical in self.names and channel.canonical not in seen:
                found.append(self.names.index(channel.canonical))
                seen.add(channel.canonical)
            else:
                found.append(len(self.names) + strangers % self.unknown)
                strangers += 1
        return found


class PlacedOrNot(Identities):
    """One identity for all channels with a position, which tells them apart; slots for those without."""

    def __init__(self, unknown: int) -> None:
        super().__init__(("placed",), unknown)

    def of(self, channels: Sequence[Channel]) -> list[int]:
        """0 for a channel with a position, else the next slot."""
        found, strangers = [], 0
        for channel in channels:
            if channel.position is not None:
                found.append(0)
            else:
                found.append(1 + strangers % self.unknown)
                strangers += 1
        return found


def spread(per_channel: Tensor, tokens: int) -> Tensor:
    """A number of each channel (B, C) for each of its tokens, channel-major: (B, C * tokens)."""
    return per_channel[:, :, None].expand(-1, -1, tokens).flatten(1)
