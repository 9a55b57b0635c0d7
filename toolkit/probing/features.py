"""The feature matrices of a probe: the model's, the same encoder's with random weights, and hand-crafted ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from readers.schema import ReadError, Recording
from toolkit.corpus.framing import Framing
from toolkit.corpus.inputs import Failure, Input, open_input
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.model import masked
from toolkit.model.masked import MaskedModel
from toolkit.probing.handcrafted import FEATURES
from toolkit.probing.rows import LabelledRows, rows_by_name
from toolkit.progress import Progress
from toolkit.recipe import Recipe

Matrix = NDArray[np.float32]
PerRecording = Callable[[Recording, NDArray[np.float64]], Matrix]


def embedded(model: MaskedModel, recipe: Recipe, options: Options, device: torch.device) -> PerRecording:
    """Embeddings of a recording's intervals by this encoder: spans (n, 2) -> (n, D)."""
    return RecordingEncoder(model, recipe, options, device).intervals


def random_weights(recipe: Recipe, options: Options, device: torch.device) -> PerRecording:
    """Embeddings by the same architecture before any training."""
    return embedded(masked.build(recipe), recipe, options, device)


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
    parts: dict[str, tuple[NDArray[np.int64], Matrix]] = {}
    problem: ReadError | None = None
    for path, index in rows_by_name(rows.path).items():
        try:
            parts[path] = (index, make(open_input(items[path]), np.stack([rows.start[index], rows.stop[index]], axis=1)))
        except ReadError as caught:
            problem = caught
            failure = Failure(path, f"{caught}; its {len(index)} rows count as missing values")
            if failure not in rows.failures:
                rows.failures.append(failure)
        progress.update(progress.done + len(index))
    if not parts:
        raise problem or ReadError("there is no recording to describe")
    width = next(iter(parts.values()))[1].shape[1]
    matrix = np.full((len(rows.path), width), np.nan, dtype=np.float32)
    for index, part in parts.values():
        matrix[index] = part
    return matrix
