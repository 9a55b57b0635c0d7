"""Per-channel time patches: EEG, ECG and PPG signals to tokens and back.

Tokens are channel-major: token c * T' + t is patch t of channel c.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from readers.schema import Channel
from toolkit.corpus.batches import Batch
from toolkit.corpus.windows import scale_groups
from toolkit.model.tokens import TokenSet
from toolkit.recipe import Recipe


class SignalPatches:
    """Cuts (B, C, T) signals into (B, C * T / patch, patch) tokens without overlap; exactly invertible.

    A channel named in ``tokenizer.channels`` has an identity of its own; other channels share a few
    identities in the order in which they stand in the sample.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.patch = recipe.tokenizer.patch
        self.rate_hz = recipe.data.rate_hz
        self.scaling = recipe.data.scaling
        self.names = recipe.tokenizer.channels
        self.unknown = recipe.tokenizer.unknown_channels

    @property
    def num_identities(self) -> int:
        """How many channel identities there are, unknown ones included."""
        return len(self.names) + self.unknown

    def identities(self, channels: Sequence[Channel]) -> list[int]:
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

    def tokenize(self, batch: Batch) -> TokenSet:
        """A batch to tokens on the CPU. A token is valid when all its samples are.

        Raises ValueError when T is not a multiple of the patch.
        """
        values, valid = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        size, channels, samples = values.shape
        if samples % self.patch:
            raise ValueError(f"{samples} samples are not a multiple of the patch of {self.patch} samples")
        steps = samples // self.patch
        whole = valid.view(size, channels, steps, self.patch).all(-1)
        patches = values.view(size, channels, steps, self.patch).masked_fill(~whole[..., None], 0.0)
        identity = torch.tensor([self.identities(c) for c in batch.channels])
        scale = torch.tensor([scale_groups(c, self.scaling) for c in batch.channels])
        place = torch.stack([_places(c) for c in batch.channels])
        time = (torch.arange(steps) + 0.5) * (self.patch / self.rate_hz)
        coords = torch.cat([place[:, :, None].expand(-1, -1, steps, -1), time.expand(size, channels, steps)[..., None]], dim=-1)
        return TokenSet(
            patches.reshape(size, channels * steps, self.patch),
            coords.reshape(size, channels * steps, 4),
            identity[:, :, None].expand(-1, -1, steps).reshape(size, -1),
            whole.reshape(size, -1),
            scale[:, :, None].expand(-1, -1, steps).reshape(size, -1),
            (channels, steps),
        )

    def untokenize(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, C * T', patch) back to (B, C, T)."""
        channels, steps = grid
        return patches.reshape(patches.shape[0], channels, steps * self.patch)


@lru_cache(maxsize=4096)
def _places(channels: tuple[Channel, ...]) -> Tensor:
    return torch.tensor([c.position or (0.0, 0.0, 0.0) for c in channels], dtype=torch.float32)
