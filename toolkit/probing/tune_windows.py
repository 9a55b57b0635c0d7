"""The windows of labelled intervals as tokens: decoded once, kept in a temporary file, drawn in any order."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from readers.schema import FloatArray, Recording
from toolkit.corpus import framing
from toolkit.corpus.batches import collate
from toolkit.corpus.inputs import Input
from toolkit.embedding.encoder import Options, inside
from toolkit.model import tokenizers
from toolkit.model.tokens import PER_TOKEN, TokenSet
from toolkit.probing import features
from toolkit.probing.rows import LabelledRows
from toolkit.progress import Progress
from toolkit.recipe import Recipe

INSIDE = "inside"  # which tokens are the interval's own, beside the fields of a token set


@dataclass(frozen=True)
class Group:
    """Windows of one layout: ``at`` int64 (B,), their places in what was asked for; ``inside`` bool (B, N): own tokens."""

    at: Tensor
    tokens: TokenSet
    inside: Tensor


class Windows:
    """Token sets of the windows that show N labelled intervals. ``of``: the windows of each row, empty where nothing is valid.

    The file has no name and goes with the process. Raises ReadError where no recording can be read; one that cannot
    becomes a failure of ``rows``.
    """

    def __init__(
        self, rows: LabelledRows, items: Mapping[str, Input], recipe: Recipe, options: Options, progress: Progress
    ) -> None:
        self.framing, self.tokenizer, self.options = framing.build(recipe), tokenizers.build(recipe), options
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this object
        self.places: list[tuple[int, int, tuple[int, ...]]] = []  # start, bytes, grid of the tokens
        found = features.compute(rows, items, self._keep, progress)  # exact below 2 ** 24 windows
        self.of = [np.arange(a, a + n, dtype=np.int64) for a, n in np.nan_to_num(found).astype(np.int64).tolist()]

    def _keep(self, recording: Recording, spans: NDArray[np.float64]) -> FloatArray:
        """Write the windows of a recording's intervals (n, 2): the number of the first of each and how many they are, (n, 2)."""
        channels = self.framing.channels(recording)
        found = np.empty((len(spans), 2), dtype=np.float32)
        for row, (start, stop) in enumerate(spans):
            pieces = self.framing.around(recording, start, stop, self.options.window)
            found[row, 0] = len(self.places)
            for first in range(0, len(pieces), self.options.batch_size):
                part = pieces[first : first + self.options.batch_size]
                samples = [self.framing.load(recording, piece.window, channels) for piece in part]
                tokens = self.tokenizer.tokenize(collate(samples))
                self._write(tokens, inside(tokens, [(piece.low, piece.high) for piece in part]))
            found[row, 1] = len(self.places) - found[row, 0]
        return found

    def _write(self, tokens: TokenSet, own: Tensor) -> None:
        for at in own.any(1).nonzero()[:, 0].tolist():
            fields = {name: getattr(tokens, name)[at].contiguous() for name in PER_TOKEN} | {INSIDE: own[at].contiguous()}
            content = safetensors.torch.save(fields)
            start = self.file.seek(0, 2)
            self.file.write(content)
            self.places.append((start, len(content), tokens.grid))

    def groups(self, numbers: Sequence[int], device: torch.device) -> list[Group]:
        """The windows of these numbers, those of one layout together."""
        by_grid: dict[tuple[int, ...], list[int]] = {}
        for at, number in enumerate(numbers):
            by_grid.setdefault(self.places[number][2], []).append(at)
        return [self._group(grid, at, [numbers[i] for i in at], device) for grid, at in by_grid.items()]

    def _group(self, grid: tuple[int, ...], at: list[int], numbers: list[int], device: torch.device) -> Group:
        read = [self._read(number) for number in numbers]
        fields = {name: torch.stack([each[name] for each in read]) for name in (*PER_TOKEN, INSIDE)}
        own = fields.pop(INSIDE).to(device)
        return Group(torch.tensor(at, device=device), TokenSet(**fields, grid=grid).to(device), own)

    def _read(self, number: int) -> dict[str, Tensor]:
        start, length, _ = self.places[number]
        self.file.seek(start)
        return safetensors.torch.load(self.file.read(length))
