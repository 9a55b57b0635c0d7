"""Windows of recordings through the encoder: deterministic, bounded memory, one recording at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from readers.schema import FloatArray, ReadError, Recording
from toolkit.corpus import framing
from toolkit.corpus.batches import collate
from toolkit.corpus.scaled import Extent, Scaled
from toolkit.embedding.pooling import pooled_width, vectors
from toolkit.model import tokenizers
from toolkit.model.masked import MaskedModel
from toolkit.model.states import States
from toolkit.model.tokens import TokenSet
from toolkit.recipe import Recipe

DEFAULT_BATCH = 64


@dataclass(frozen=True)
class Options:
    """How windows are cut and pooled. ``window`` and ``stride`` in seconds, mm or rows; ``layer`` -1 is the last;
    the mean of ``layers`` up to it is taken."""

    level: str
    window: float
    stride: float
    layer: int
    pool: str
    batch_size: int = DEFAULT_BATCH
    layers: int = 1


@dataclass(frozen=True)
class Rows:
    """Rows of one recording: ``start``, ``stop`` float64 (n,) in the framing's unit, ``embedding`` float32 (n, D).

    ``channel`` names a token's channel at token level, else it is None.
    """

    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    embedding: FloatArray
    channel: tuple[str, ...] | None = None


class RecordingEncoder:
    """An encoder with its recipe's preprocessing, on a device."""

    def __init__(self, model: MaskedModel, recipe: Recipe, options: Options, device: torch.device, *, bf16: bool = False) -> None:
        self.model = model.to(device).eval()
        self.recipe, self.options, self.device, self.bf16 = recipe, options, device, bf16
        self.tokenizer = tokenizers.build(recipe)
        self.framing = framing.build(recipe)

    @property
    def width(self) -> int:
        """Length of one embedding."""
        width = self.recipe.encoder.width
        return width if self.options.level == "token" else pooled_width(self.options.pool, width)

    def rows(self, recording: Recording) -> Iterator[Rows]:
        """Rows of a recording in order, a few windows at a time. Raises ReadError.

        Windows without one valid token give no row.
        """
        planned = self.framing.plan(recording, self.options.window, self.options.stride)
        blocks = self._blocks(recording, planned)
        return iter([_one_row(blocks, recording.path.name)]) if self.options.level == "recording" else blocks

    def _blocks(self, recording: Recording, planned: Sequence[Extent]) -> Iterator[Rows]:
        channels = self.framing.channels(recording)
        for first in range(0, len(planned), self.options.batch_size):
            part = planned[first : first + self.options.batch_size]
            batch = [self.framing.load(recording, window, channels) for window in part]
            tokens, states = self._states(batch)
            if self.options.level == "token":
                yield self._token_rows(recording, part, batch[0], tokens, states.last.float())
                continue
            kept = tokens.valid.any(1)
            pooled = self._pooled(tokens, states, tokens.valid).float()[kept].cpu().numpy()
            spans = np.array([self.framing.interval(recording, window) for window in part])[kept.cpu().numpy()]
            yield Rows(spans[:, 0], spans[:, 1], pooled)

    def _token_rows(
        self, recording: Recording, part: Sequence[Extent], sample: Scaled, tokens: TokenSet, states: torch.Tensor
    ) -> Rows:
        kept, coords = tokens.valid.cpu(), tokens.coords.cpu().numpy()
        names = np.repeat([c.name for c in sample.channels[: tokens.grid[0]]], kept.shape[1] // tokens.grid[0])
        found = [self.framing.token_intervals(recording, window, coords[i]) for i, window in enumerate(part)]
        start, stop = (np.concatenate([pair[k][kept[i].numpy()] for i, pair in enumerate(found)]) for k in (0, 1))
        channel = [name for row in kept.numpy() for name in names[row].tolist()]
        return Rows(start, stop, states.cpu()[kept].numpy(), tuple(channel))

    def intervals(self, recording: Recording, spans: NDArray[np.float64]) -> FloatArray:
        """One vector for each interval, spans (n, 2) in the framing's unit -> (n, D); NaN where nothing is valid.

        An interval shorter than the model's window is seen within a whole window around it, and only
        its own tokens are pooled; a longer one is the mean of its windows.
        """
        total, count = np.zeros((len(spans), self.width)), np.zeros(len(spans))
        for part, tokens, states, own in self._pieces(recording, spans):
            found = self._pooled(tokens, states, own).double().cpu().numpy()
            for row, index, counts in zip(found, part, own.any(1).tolist(), strict=True):
                total[index] += row * counts
                count[index] += counts
        with np.errstate(invalid="ignore"):
            return (total / count[:, None]).astype(np.float32)

    def interval_tokens(
        self, recording: Recording, spans: NDArray[np.float64], most: int
    ) -> tuple[list[FloatArray], FloatArray | None]:
        """The tokens of each interval, not pooled: n arrays (t, D), t from 0 to ``most``, and their class states (n, D).

        Which tokens are an interval's is as in :meth:`intervals`; a longer one has those of all its windows, and the mean of
        their class states. Of more than ``most`` so many are taken at random, the same of equal numbers: taken at even
        steps they would share a row or a column of a grid. None without a class token.
        """
        found: list[list[FloatArray]] = [[] for _ in spans]
        classed = bool(getattr(self.recipe.encoder, "class_token", False))
        total, count = np.zeros((len(spans), self.recipe.encoder.width)), np.zeros(len(spans))
        for part, _, states, own in self._pieces(recording, spans):
            last, kept = states.last.float().cpu().numpy(), own.cpu().numpy()
            whole = states.class_state().double().cpu().numpy() if classed else np.zeros((len(part), 1))
            for at, index in enumerate(part):
                found[index].append(last[at][kept[at]])
                total[index] += whole[at]
                count[index] += 1
        none = np.zeros((0, total.shape[1]), np.float32)
        rows = [_at_most(np.concatenate(pieces) if pieces else none, most) for pieces in found]
        return rows, (total / np.maximum(count, 1)[:, None]).astype(np.float32) if classed else None

    def _pieces(
        self, recording: Recording, spans: NDArray[np.float64]
    ) -> Iterator[tuple[list[int], TokenSet, States, torch.Tensor]]:
        """Windows that show the intervals, a batch at a time: whose they are, tokens, states, and which tokens are inside."""
        channels = self.framing.channels(recording)
        pieces = [
            (i, piece) for i, (a, b) in enumerate(spans) for piece in self.framing.around(recording, a, b, self.options.window)
        ]
        for first in range(0, len(pieces), self.options.batch_size):
            part = pieces[first : first + self.options.batch_size]
            tokens, states = self._states([self.framing.load(recording, piece.window, channels) for _, piece in part])
            yield [i for i, _ in part], tokens, states, inside(tokens, [(piece.low, piece.high) for _, piece in part])

    @torch.inference_mode()
    def _pooled(self, tokens: TokenSet, states: States, counts: torch.Tensor) -> torch.Tensor:
        return vectors(self.model, self.options.pool, self.options.layer, tokens, states, counts)

    @torch.inference_mode()
    def _states(self, batch: Sequence[Scaled]) -> tuple[TokenSet, States]:
        tokens = self.tokenizer.tokenize(collate(batch), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return tokens, self.model.features(tokens, self.options.layer, self.options.layers)


def _at_most(tokens: FloatArray, most: int) -> FloatArray:
    if len(tokens) <= most:
        return tokens
    return tokens[np.sort(np.random.default_rng(len(tokens)).permutation(len(tokens))[:most])]


def inside(tokens: TokenSet, spans: Sequence[tuple[float, float]]) -> torch.Tensor:
    """Which valid tokens (B, N) lie in each sample's span of time; where none does, the nearest."""
    time = tokens.coords[..., 3]
    low, high = torch.tensor(spans, dtype=torch.float32, device=time.device).T[:, :, None]
    within = (time >= low) & (time < high)
    distance = (time - (low + high) / 2).abs().nan_to_num(posinf=0.0)
    nearest = distance <= distance.amin(1, keepdim=True) + 1e-6
    # An interval shorter than a patch: the patch it lies in.
    return torch.where(within.any(1, keepdim=True), within, nearest) & tokens.valid


def _one_row(blocks: Iterator[Rows], name: str) -> Rows:
    """The mean of all rows, from the least start to the greatest stop. Raises ReadError when there is none."""
    full = (rows for rows in blocks if len(rows.start))
    first = next(full, None)
    if first is None:
        raise ReadError(f"no window of '{name}' has a valid sample")
    total, count = first.embedding.sum(0, dtype=np.float64), len(first.start)
    # Windows of a volume come in anatomical order, which need not be that of the file.
    start, stop = first.start.min(), first.stop.max()
    for rows in full:
        total += rows.embedding.sum(0, dtype=np.float64)
        count, start, stop = count + len(rows.start), min(start, rows.start.min()), max(stop, rows.stop.max())
    return Rows(np.array([start]), np.array([stop]), (total / count).astype(np.float32)[None])
