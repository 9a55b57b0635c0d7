"""The feature matrices of a probe: the model's, the same encoder's with random weights, and hand-crafted ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from readers.schema import ReadError, Recording
from toolkit.corpus.framing import Framing
from toolkit.corpus.inputs import Failure, Input, open_input
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.model.masked import MaskedModel
from toolkit.probing.handcrafted import FEATURES
from toolkit.probing.rows import LabelledRows, rows_by_name
from toolkit.probing.token_heads import Tokens
from toolkit.progress import Progress
from toolkit.recipe import Recipe

Matrix = NDArray[np.float32]
PerRecording = Callable[[Recording, NDArray[np.float64]], Matrix]
TokensOf = Callable[[Recording, NDArray[np.float64]], tuple[list[Matrix], Matrix | None]]
Features = Matrix | Tokens
Part = TypeVar("Part")
MOST_TOKENS = 1024  # kept of an interval
MOST_BYTES = 2**30  # of the tokens of one encoder, which are held in memory


def embedded(model: MaskedModel, recipe: Recipe, options: Options, device: torch.device) -> PerRecording:
    """Embeddings of a recording's intervals by this encoder: spans (n, 2) -> (n, D)."""
    return RecordingEncoder(model, recipe, options, device).intervals


def frozen_tokens(model: MaskedModel, recipe: Recipe, options: Options, device: torch.device, most: int) -> TokensOf:
    """At most so many tokens of each of a recording's intervals: spans (n, 2) -> n arrays (t, D), class states (n, D) or None."""
    return partial(RecordingEncoder(model, recipe, options, device).interval_tokens, most=most)


def most_tokens(recipe: Recipe, rows: int) -> int:
    """How many float32 tokens of each of so many intervals are kept: 1024, fewer where they would take more than 1 GiB."""
    return max(1, min(MOST_TOKENS, MOST_BYTES // (4 * recipe.encoder.width * rows)))


def handcrafted(framing: Framing, context: float) -> PerRecording:
    """The domain's hand-crafted features of a recording's intervals, on the model's grid and channels.

    With ``context`` (seconds) each interval is described within a window of that length around it, as the
    encoder sees it.
    """

    def features(recording: Recording, spans: NDArray[np.float64]) -> Matrix:
        describe = FEATURES[recording.domain]
        channels = framing.channels(recording)
        rows = []
        for start, stop in spans:
            margin = max(0.0, context - (stop - start)) / 2
            rows.append(describe(framing.sample(recording, start, stop, channels, margin), margin)[0])
        return np.stack(rows)

    return features


def compute(rows: LabelledRows, items: Mapping[str, Input], make: PerRecording, progress: Progress) -> Matrix:
    """A feature row for each labelled row, (N, F); NaN rows where a recording cannot be read to its end, which becomes a
    failure of ``rows``. Raises ReadError when none can."""
    parts = list(_parts(rows, items, make, progress))
    matrix = np.full((len(rows.path), parts[0][1].shape[1]), np.nan, dtype=np.float32)
    for index, part in parts:
        matrix[index] = part
    return matrix


def compute_tokens(rows: LabelledRows, items: Mapping[str, Input], make: TokensOf, progress: Progress) -> Tokens:
    """The tokens of each labelled row; none where a recording cannot be read. Raises ReadError when none can."""
    parts = list(_parts(rows, items, make, progress))
    width = parts[0][1][0][0].shape[1]
    tokens: list[Matrix] = [np.zeros((0, width), np.float32)] * len(rows.path)
    state = None if parts[0][1][1] is None else np.zeros((len(rows.path), width), np.float32)
    for index, (found, states) in parts:
        for at, row in zip(index.tolist(), found, strict=True):
            tokens[at] = row
        if state is not None:
            state[index] = states
    return Tokens(tokens, state)


def _parts(
    rows: LabelledRows, items: Mapping[str, Input], make: Callable[[Recording, NDArray[np.float64]], Part], progress: Progress
) -> Iterator[tuple[NDArray[np.int64], Part]]:
    """What is made of each recording that can be read, with the numbers of its rows."""
    found, problem = False, None
    for path, index in rows_by_name(rows.path).items():
        try:
            part = make(open_input(items[path]), np.stack([rows.start[index], rows.stop[index]], axis=1))
        except ReadError as caught:
            problem = caught
            failure = Failure(path, f"{caught}; its {len(index)} rows count as missing values")
            if failure not in rows.failures:
                rows.failures.append(failure)
        else:
            found = True
            yield index, part
        progress.update(progress.done + len(index))
    if not found:
        raise problem or ReadError("there is no recording to describe")
