"""The feature matrices of a probe: the model's, the same encoder's with random weights, and hand-crafted ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from readers.schema import ReadError, Recording
from toolkit.corpus import windows
from toolkit.corpus.inputs import Failure, Input, open_input
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.model import autoencoder
from toolkit.model.autoencoder import MaskedAutoencoder
from toolkit.probing.handcrafted import FEATURES, Context
from toolkit.probing.rows import LabelledRows, rows_by_name
from toolkit.progress import Progress
from toolkit.recipe import DataTable, Recipe

Matrix = NDArray[np.float32]
PerRecording = Callable[[Recording, NDArray[np.float64]], Matrix]


def embedded(model: MaskedAutoencoder, recipe: Recipe, options: Options, device: torch.device) -> PerRecording:
    """Embeddings of a recording's intervals by this encoder: spans (n, 2) in s -> (n, D)."""
    return RecordingEncoder(model, recipe, options, device).intervals


def random_weights(recipe: Recipe, options: Options, device: torch.device) -> PerRecording:
    """Embeddings by the same architecture before any training."""
    return embedded(autoencoder.build(recipe), recipe, options, device)


def handcrafted(data: DataTable, *, context: bool) -> PerRecording:
    """The domain's hand-crafted features of a recording's intervals, on the model's grid and channels.

    With ``context`` each interval is described within a window of the model's length around it, as the
    encoder sees it.
    """

    def features(recording: Recording, spans: NDArray[np.float64]) -> Matrix:
        compute = FEATURES[recording.domain]
        channels = windows.channels_for(recording, data)
        rows = []
        for start_s, stop_s in spans:
            first, last = round(start_s * data.rate_hz), round(stop_s * data.rate_hz)
            around = max(0, round(data.window_s * data.rate_hz) - (last - first)) // 2 if context else 0
            sample = recording.read(first - around, last + around, rate_hz=data.rate_hz, channels=channels)
            inside = slice(around, around + last - first)
            names = [c.canonical if c.kind != "ppg" else "PPG" for c in sample.channels]
            wider = Context(sample.values, sample.valid, around, around + last - first) if context else None
            rows.append(compute(sample.values[:, inside], sample.valid[:, inside], data.rate_hz, names, wider)[0])
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
