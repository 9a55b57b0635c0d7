"""Log-mel patches, computed on the device from the waveform: audio to tokens and back to log-mel energies.

The filterbank is Kaldi's (HTK mel scale, pre-emphasis, frames that lie inside the window), as Bird-MAE and
AudioMAE use it. Tokens are channel-major, then mel, then time, and so are the values of each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.corpus.batches import Batch
from toolkit.model.tokenizers.base import UNSCALED, GridTokenizer
from toolkit.model.tokenizers.descriptors import descriptors
from toolkit.model.tokenizers.identities import Identities, spread
from toolkit.model.tokens import TokenSet
from toolkit.recipe import SpectrogramTokens

PREEMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps  # Kaldi's
MEL_PER_OCTAVES = 1127.0


class SpectrogramPatches(GridTokenizer):
    """(B, C, T) waveforms to (B, C * M' * T', patch^2) tokens of (log-mel - mean) / deviation."""

    def __init__(self, table: SpectrogramTokens, rate_hz: float) -> None:
        super().__init__((table.patch,) * 2)
        self.table, self.rate_hz, self.patch = table, rate_hz, table.patch
        self.frame, self.hop = table.frame(rate_hz), table.hop(rate_hz)
        self.fft = 2 ** math.ceil(math.log2(self.frame))
        self.filters = mel_filters(table.mels, self.fft, rate_hz, table.lowest_hz)
        self.identities = Identities(table.channels)

    def frames(self, samples: int) -> int:
        """Frames of a waveform: those that lie inside it."""
        return 1 + (samples - self.frame) // self.hop if samples >= self.frame else 0

    def log_mel(self, wave: Tensor) -> Tensor:
        """Waveforms (..., T), full scale 1, to natural logarithms of mel energies (..., frames, mels)."""
        frames = wave.unfold(-1, self.frame, self.hop)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        window = torch.hann_window(self.frame, periodic=False, device=wave.device)
        power = torch.fft.rfft((frames - PREEMPHASIS * before) * window, n=self.fft).abs().square()
        return (power @ self.filters.to(wave.device)).clamp(min=FLOOR).log()

    def tokenize(self, batch: Batch, device: torch.device | None = None) -> TokenSet:
        """A token is valid when every sample under its frames is. Raises ValueError for a window shorter than a frame.

        Frames are filled up to whole patches with the log floor, a constant, so that a clip does not depend on the
        others of its batch. A last patch that is more filling than sound is not valid (498 frames of 5 s fill 31 patches
        and two frames of another): its tokens would be nearly the same in every clip. It counts where it is the only one.
        """
        wave, known = torch.from_numpy(batch.values), torch.from_numpy(batch.valid)
        wave, known = (wave, known) if device is None else (wave.to(device), known.to(device))
        count = self.frames(wave.shape[-1])
        if count < 1:
            raise ValueError(f"{wave.shape[-1]} samples are shorter than one frame of {self.frame} samples")
        padding = -count % self.patch
        with torch.autocast(wave.device.type, enabled=False):
            mel = (self.log_mel(wave) - self.table.mean) / self.table.deviation
        whole = known.unfold(-1, self.frame, self.hop).all(-1)  # (B, C, frames)
        mel = functional.pad(mel, (0, 0, 0, padding), value=float((math.log(FLOOR) - self.table.mean) / self.table.deviation))
        whole = functional.pad(whole, (0, padding), value=True)
        size, channels, frames, mels = mel.shape
        rows, steps = mels // self.patch, frames // self.patch
        sound = count - self.patch * torch.arange(steps, device=wave.device)  # frames from each patch on
        enough = (2 * sound >= self.patch) | (steps == 1)
        valid = (whole.unflatten(2, (steps, self.patch)).all(-1) & enough)[:, :, None].expand(-1, -1, rows, -1).flatten(1)
        channel = spread(torch.tensor([self.identities.of(c) for c in batch.channels], device=wave.device), rows * steps)
        return TokenSet(
            self.cut(mel.transpose(2, 3)).masked_fill(~valid[..., None], 0.0),
            self._coords(rows, steps, wave.device).repeat(channels, 1).expand(size, -1, -1),
            channel,
            spread(descriptors(batch.channels, device=wave.device), rows * steps),
            valid,
            torch.full_like(channel, UNSCALED),
            (channels, rows, steps),
        )

    def _coords(self, rows: int, steps: int, device: torch.device) -> Tensor:
        """Middle of each patch of one channel: x its place on the mel scale from 0 to 1, t in seconds; (N, 4)."""
        place = (torch.arange(rows, device=device) + 0.5) / rows
        time = (torch.arange(steps, device=device) + 0.5) * (self.patch * self.hop / self.rate_hz)
        mel, t = torch.meshgrid(place, time, indexing="ij")
        none = torch.zeros_like(mel)
        return torch.stack([mel, none, none, t], dim=-1).flatten(0, 1)

    def untokenize(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, N, patch^2) back to log-mel energies (B, C, frames with padding, mels)."""
        return self.dense(patches, grid).transpose(2, 3) * self.table.deviation + self.table.mean


def mel_filters(mels: int, fft: int, rate_hz: float, lowest_hz: float) -> Tensor:
    """Triangles on the mel scale from ``lowest_hz`` to half the rate, (fft / 2 + 1, mels), as Kaldi places them."""

    def mel(hz: Tensor) -> Tensor:
        return MEL_PER_OCTAVES * torch.log1p(hz / 700.0)

    low, high = mel(torch.tensor([lowest_hz, rate_hz / 2], dtype=torch.float64))
    edges = low + (high - low) * torch.arange(mels + 2, dtype=torch.float64) / (mels + 1)
    bins = mel(torch.arange(fft // 2 + 1, dtype=torch.float64) * (rate_hz / fft))[:, None]
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    weight = torch.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)).clamp(min=0)
    weight[-1] = 0.0  # Kaldi leaves the bin at half the rate out
    return weight.float()
