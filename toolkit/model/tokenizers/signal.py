"""Per-channel time patches: EEG, ECG and PPG signals to tokens and back.

Tokens are channel-major: token c * T' + t is patch t of channel c.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from readers.schema import Channel
from toolkit.corpus.batches import Batch
from toolkit.corpus.windows import scale_groups
from toolkit.model.tokenizers.base import Identities, PlacedOrNot, Tokenizer, spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import SignalData, SignalTokens


class SignalPatches(Tokenizer):
    """Cuts (B, C, T) signals into (B, C * T / patch, patch) tokens without overlap; exactly invertible."""

    def __init__(self, table: SignalTokens, data: SignalData) -> None:
        self.patch = self.values = table.patch
        self.rate_hz, self.scaling = data.rate_hz, data.scaling
        by_place = table.identity == "place"
        self.identities = PlacedOrNot(table.unknown_channels) if by_place else Identities(table.channels, table.unknown_channels)
        self.num_identities = len(self.identities)

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A token is valid when all its samples are. Raises ValueError when T is not a multiple of the patch."""
        values, valid = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        size, channels, samples = values.shape
        if samples % self.patch:
            raise ValueError(f"{samples} samples are not a multiple of the patch of {self.patch} samples")
        steps = samples // self.patch
        whole = valid.view(size, channels, steps, self.patch).all(-1)
        patches = values.view(size, channels, steps, self.patch).masked_fill(~whole[..., None], 0.0)
        place = torch.stack([_places(c) for c in batch.channels])
        time = (torch.arange(steps) + 0.5) * (self.patch / self.rate_hz)
        coords = torch.cat([place[:, :, None].expand(-1, -1, steps, -1), time.expand(size, channels, steps)[..., None]], dim=-1)
        tokens = TokenSet(
            patches.flatten(1, 2),
            coords.flatten(1, 2),
            spread(torch.tensor([self.identities.of(c) for c in batch.channels]), steps),
            whole.flatten(1),
            spread(torch.tensor([scale_groups(c, self.scaling) for c in batch.channels]), steps),
            (channels, steps),
        )
        return tokens.to(device) if device is not None else tokens

    def untokenize(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, C * T', patch) back to (B, C, T)."""
        channels, steps = grid
        return patches.reshape(patches.shape[0], channels, steps * self.patch)


@lru_cache(maxsize=4096)
def _places(channels: tuple[Channel, ...]) -> Tensor:
    return torch.tensor([c.position or (0.0, 0.0, 0.0) for c in channels], dtype=torch.float32)
