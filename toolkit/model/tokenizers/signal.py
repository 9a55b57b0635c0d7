"""Per-channel time patches: EEG, ECG and PPG signals to tokens and back.

Tokens are channel-major: token c * T' + t is patch t of channel c. A token's time is that of its middle, in seconds, so
that of patch k it is (k * stride + patch / 2) / rate; ``position.middle`` and ``position.unit`` turn that into what a
code counts in (REVE's steps from patch to patch: middle = half a patch, unit = a stride, both in seconds).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from readers.schema import Channel
from toolkit.corpus.batches import Batch
from toolkit.corpus.windows import scale_groups
from toolkit.model.tokenizers.base import GridTokenizer
from toolkit.model.tokenizers.descriptors import descriptors
from toolkit.model.tokenizers.identities import Identities, spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import SignalData, SignalTokens


class SignalPatches(GridTokenizer):
    """Cuts (B, C, T) signals into (B, C * T', patch) tokens, one every ``stride`` samples; exactly invertible.

    Without overlap T' is T / patch; with overlap 1 + (T - patch) // stride, and a tail that fills no step is dropped.
    """

    def __init__(self, table: SignalTokens, data: SignalData) -> None:
        super().__init__((table.patch,), (table.step,))
        self.patch, self.stride = table.patch, table.step
        self.rate_hz, self.scaling = data.rate_hz, data.scaling
        self.named, self.normed = table.identity == "name", table.normed
        self.identities = Identities(table.channels)

    def embedder(self, width: int) -> nn.Module:
        """A linear, between two layer norms where patches are ``normed``."""
        linear = super().embedder(width)
        return nn.Sequential(nn.LayerNorm(self.patch), linear, nn.LayerNorm(width)) if self.normed else linear

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A token is valid when all its samples are. Raises ValueError where T is not whole patches, or no patch."""
        values, valid = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        size, channels, samples = values.shape
        if self.stride == self.patch and samples % self.patch:
            raise ValueError(f"{samples} samples are not a multiple of the patch of {self.patch} samples")
        if samples < self.patch:
            raise ValueError(f"{samples} samples are shorter than the patch of {self.patch} samples")
        steps = 1 + (samples - self.patch) // self.stride
        whole = self.cut(valid).all(-1)
        place = torch.stack([_places(c) for c in batch.channels])
        time = (torch.arange(steps) * self.stride + self.patch / 2) / self.rate_hz
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
