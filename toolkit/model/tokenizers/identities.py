"""Numbers of channels, which masks go by, and what channels have given to their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from readers.schema import Channel


class Identities:
    """Numbers of channels: those of known names have their place among them, others come behind in the order of the sample."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def of(self, channels: Sequence[Channel]) -> list[int]:
        """Number of each channel, all different; equal names beyond the first count as unknown."""
        found: list[int] = []
        strangers = len(self.names)
        for channel in channels:
            number = self.names.index(channel.canonical) if channel.canonical in self.names else strangers
            if number in found:
                number = strangers
            found.append(number)
            strangers += number == strangers
        return found


def spread(per_channel: Tensor, tokens: int) -> Tensor:
    """What each channel has (B, C, ...) for each of its tokens, channel-major: (B, C * tokens, ...).

    Where all samples are views of one, the result is.
    """
    if len(per_channel) and per_channel.stride(0) == 0:
        return per_channel[:1].repeat_interleave(tokens, dim=1).expand(len(per_channel), *[-1] * (per_channel.ndim - 1))
    return per_channel.repeat_interleave(tokens, dim=1)
