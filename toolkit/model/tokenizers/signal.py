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
from toolkit.model.tokenizers.base import GridTokenizer
from toolkit.model.tokenizers.descriptors import descriptors
from toolkit.model.tokenizers.identities import Identities, spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import SignalData, SignalTokens


class SignalPatches(GridTokenizer):
    """Cuts (B, C, T) signals into (B, C * T / patch, patch) tokens without overlap; exactly invertible."""

    def __init__(self, table: SignalTokens, data: SignalData) -> None:
        super().__init__((table.patch,))
        self.patch = table.patch
        self.rate_hz, self.scaling = data.rate_hz, data.scaling
        self.named = table.identity == "name"
        self.identities = Identities(table.channels)

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A token is valid when all its samples are. Raises ValueError when T is not a multiple of the patch."""
        values, valid = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        size, channels, samples = values.shape
        if samples % self.patch:
            raise ValueError(f"{samples} samples are not a multiple of the patch of {self.patch} samples")
        steps = samples // self.patch
        whole = self.cut(valid).all(-1)
        place = torch.stack([_places(c) for c in batch.channels])
        time = (torch.arange(steps) + 0.5) * (self.patch / self.rate_hz)
        coords = torch.cat([place[:, :, None].expand(-1, -1, steps, -1), time.expand(size, channels, steps)[..., None]], dim=-1)
        tokens = TokenSet(
            self.cut(values).masked_fill(~whole[..., None], 0.0),
            coords.flatten(1, 2),
            spread(torch.tensor([self.identities.of(c) for c in batch.channels]), steps),
            spread(descriptors(batch.channels, self.named), steps),
            whole,
            spread(torch.tensor([scale_groups(c, self.scaling) for c in batch.channels]), steps),
            (channels, steps),
        )
        return tokens.to(device) if device is not None else tokens


@lru_cache(maxsize=4096)
def _places(channels: tuple[Channel, ...]) -> Tensor:
    return torch.tensor([c.position or (0.0, 0.0, 0.0) for c in channels], dtype=torch.float32)
