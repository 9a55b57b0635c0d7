"""Windows of recordings through the encoder: deterministic, bounded memory, one recording at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from readers.schema import FloatArray, ReadError, Recording, Window
from toolkit.corpus import windows
from toolkit.corpus.batches import collate
from toolkit.embedding.pooling import POOLS, pooled_width
from toolkit.model.autoencoder import MaskedAutoencoder
from toolkit.model.tokenizers.signal import SignalPatches
from toolkit.model.tokens import TokenSet
from toolkit.recipe import Recipe

DEFAULT_BATCH = 64


@dataclass(frozen=True)
class Options:
    """How windows are cut and pooled. ``window_s`` and ``stride_s`` in seconds; ``layer`` -1 is the last."""

    level: str
    window_s: float
    stride_s: float
    layer: int
    pool: str
    batch_size: int = DEFAULT_BATCH


@dataclass(frozen=True)
class Rows:
    """Rows of one recording: ``start``, ``stop`` float64 (n,) in seconds, ``embedding`` float32 (n, D).

    ``channel`` names a token's channel at token level, else it is None.
    """

    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    embedding: FloatArray
    channel: tuple[str, ...] | None = None


class RecordingEncoder:
    """An encoder with its recipe's preprocessing, on a device."""

    def __init__(
        self, model: MaskedAutoencoder, recipe: Recipe, options: Options, device: torch.device, *, bf16: bool = False
    ) -> None:
        self.model = model.to(device).eval()
        self.recipe, self.options, self.device, self.bf16 = recipe, options, device, bf16
        self.tokenizer = SignalPatches(recipe)
        self.rate = recipe.data.rate_hz
        patch = recipe.tokenizer.patch
        self.window = max(1, round(options.window_s * self.rate / patch)) * patch
        self.stride = max(1, round(options.stride_s * self.rate))

    @property
    def width(self) -> int:
        """Length of one embedding."""
        width = self.recipe.encoder.width
        return width if self.options.level == "token" else pooled_width(self.options.pool, width)

    def rows(self, recording: Recording) -> Iterator[Rows]:
        """Rows of a recording in time order, a few windows at a time. Raises ReadError.

        Windows without one valid token give no row.
        """
        length = windows.length_on_grid(recording, self.rate)
        planned = windows.plan(length, self.window, self.stride)
        blocks = self._blocks(recording, planned, length)
        return iter([_one_row(blocks)]) if self.options.level == "recording" else blocks

    def _blocks(self, recording: Recording, planned: Sequence[Window], length: int) -> Iterator[Rows]:
        channels = windows.channels_for(recording, self.recipe.data)
        for batch in windows.stream(recording, planned, self.recipe.data, channels, self.options.batch_size):
            tokens = self.tokenizer.tokenize(collate(batch))
            states = self._states(tokens)
            start = np.array([s.window.start for s in batch]) / self.rate
            stop = np.minimum([s.window.stop for s in batch], length) / self.rate
            if self.options.level == "token":
                yield self._token_rows(tokens, states, start, [c.name for c in batch[0].channels])
                continue
            kept = tokens.valid.any(1).numpy()
            vectors = POOLS[self.options.pool](states, tokens.valid.to(states.device)).float().cpu().numpy()
            yield Rows(start[kept], stop[kept], vectors[kept])

    def _token_rows(self, tokens: TokenSet, states: torch.Tensor, start: NDArray[np.float64], names: list[str]) -> Rows:
        kept = tokens.valid
        half = self.recipe.tokenizer.patch / self.rate / 2
        time = (torch.from_numpy(start)[:, None] + tokens.coords[..., 3].double())[kept].numpy()
        row = torch.arange(tokens.grid[0]).repeat_interleave(tokens.grid[1]).expand_as(kept)[kept]
        return Rows(time - half, time + half, states.float().cpu()[kept].numpy(), tuple(names[i] for i in row.tolist()))

    def intervals(self, recording: Recording, spans: NDArray[np.float64]) -> FloatArray:
        """One vector for each interval in seconds, spans (n, 2) -> (n, D); NaN where nothing is valid.

        An interval shorter than the model's window is seen within a whole window around it, and only
        its own tokens are pooled; a longer one is the mean of its windows.
        """
        channels = windows.channels_for(recording, self.recipe.data)
        pieces = [(i, *piece) for i, span in enumerate(spans) for piece in self._pieces(*span)]
        total, count = np.zeros((len(spans), self.width)), np.zeros(len(spans))
        for first in range(0, len(pieces), self.options.batch_size):
            part = pieces[first : first + self.options.batch_size]
            batch = [windows.load(recording, w, self.recipe.data, channels) for _, w, _, _ in part]
            tokens = self.tokenizer.tokenize(collate(batch))
            inside = _inside(tokens, [(low, high) for *_, low, high in part])
            vectors = POOLS[self.options.pool](self._states(tokens), inside.to(self.device)).double().cpu().numpy()
            for row, (index, *_), counts in zip(vectors, part, inside.any(1).tolist(), strict=True):
                total[index] += row * counts
                count[index] += counts
        with np.errstate(invalid="ignore"):
            return (total / count[:, None]).astype(np.float32)

    def _pieces(self, start_s: float, stop_s: float) -> list[tuple[Window, float, float]]:
        """Windows that show an interval: (window, first, last second of the interval within the window)."""
        start, stop = round(start_s * self.rate), round(stop_s * self.rate)
        if stop - start > self.window:
            cut = windows.plan(stop - start, self.window, self.window)
            return [(Window(start + w.start, start + w.stop), 0.0, (stop - start - w.start) / self.rate) for w in cut]
        first = (start + stop - self.window) // 2
        return [(Window(first, first + self.window), (start - first) / self.rate, (stop - first) / self.rate)]

    @torch.inference_mode()
    def _states(self, tokens: TokenSet) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.encoder(tokens.to(self.device), self.options.layer).float()


def _inside(tokens: TokenSet, spans: Sequence[tuple[float, float]]) -> torch.Tensor:
    low, high = torch.tensor(spans, dtype=torch.float32).T[:, :, None]
    time = tokens.coords[..., 3]
    inside = (time >= low) & (time < high)
    distance = (time - (low + high) / 2).abs()
    nearest = distance <= distance.amin(1, keepdim=True) + 1e-6
    # An interval shorter than a patch: the patch it lies in.
    return torch.where(inside.any(1, keepdim=True), inside, nearest) & tokens.valid


def _one_row(blocks: Iterator[Rows]) -> Rows:
    """The mean of all rows, from the first start to the last stop. Raises ReadError when there is none."""
    full = (rows for rows in blocks if len(rows.start))
    first = next(full, None)
    if first is None:
        raise ReadError("no window of it has a valid sample")
    total, count, stop = first.embedding.sum(0, dtype=np.float64), len(first.start), first.stop[-1]
    for rows in full:
        total += rows.embedding.sum(0, dtype=np.float64)
        count, stop = count + len(rows.start), rows.stop[-1]
    return Rows(first.start[:1], np.array([stop]), (total / count).astype(np.float32)[None])
