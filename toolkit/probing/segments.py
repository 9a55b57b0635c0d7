"""Part segmentation on frozen tokens: a linear head says of each group of points which part of an object it belongs to.

Point-MAE and its followers train a decoder that brings parts to points; here nothing but a linear layer is trained, so that
the score speaks of the tokens. A token's part is that of most points of its group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from readers.schema import FloatArray, PointsLike, Window
from toolkit.corpus import framing
from toolkit.corpus.batches import collate
from toolkit.corpus.scaled import Extent, Scaled
from toolkit.errors import UsageError
from toolkit.model import tokenizers
from toolkit.model.masked import MaskedModel
from toolkit.model.tokenizers.points import PointGroups
from toolkit.model.tokens import TokenSet
from toolkit.probing.protocol import ProbeResult, Task, make_folds, run_probe
from toolkit.recipe import Recipe


@dataclass(frozen=True)
class Cloud:
    """A recording of points and the part of each of its rows, int64 (N,) from 0."""

    recording: PointsLike
    part: NDArray[np.int64]


def segment_probe(
    models: Mapping[str, MaskedModel],
    recipe: Recipe,
    clouds: Sequence[Cloud],
    parts: Sequence[str],
    *,
    head: str = "linear",
    folds: int = 5,
    seed: int = 0,
    device: torch.device | None = None,
) -> ProbeResult:
    """Score the tokens of each model, by name, at telling ``parts`` apart; no cloud is on both sides of a fold.

    A row of the result is a token; "majority" is the most frequent part. Raises UsageError: not a recipe of point groups, as
    many labels as a cloud has no rows, one cloud only.
    """
    features, y, cloud = {}, np.zeros(0, np.int64), np.zeros(0, np.int64)
    for name, model in models.items():
        features[name], y, cloud = tokens_with_parts(model, recipe, clouds, device)
    task = Task("binary" if len(parts) == 2 else "multiclass", "part", tuple(parts))
    made, _ = make_folds(cloud, y, task, folds=folds, seed=seed, group_column="cloud")
    return run_probe(features, y, task, cloud, made, head=head, seed=seed)


def tokens_with_parts(
    model: MaskedModel, recipe: Recipe, clouds: Sequence[Cloud], device: torch.device | None = None
) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    """The states (M, D) of all valid tokens, of the recipe's layer, with the part (M,) and the cloud (M,) of each."""
    tokenizer, cutter, on = tokenizers.build(recipe), framing.build(recipe), device or torch.device("cpu")
    if not isinstance(tokenizer, PointGroups):
        raise UsageError(
            f"Parts are told apart among groups of points; recipe '{recipe.name}' has {recipe.tokenizer.kind} tokens."
        )
    model = model.to(on).eval()
    states, parts, numbers = [], [], []
    for number, cloud in enumerate(clouds):
        rows = cutter.length(cloud.recording)
        if len(cloud.part) != rows:
            raise UsageError(f"'{cloud.recording.path}' has {rows} points and {len(cloud.part)} labels of parts.")
        channels = cutter.channels(cloud.recording)
        for window in cutter.plan(cloud.recording, recipe.data.window, recipe.data.window):
            sample = cutter.load(cloud.recording, window, channels)
            tokens = tokenizer.tokenize(collate([sample]), on)
            with torch.inference_mode():
                found = model.features(tokens, recipe.embedding.layer, recipe.embedding.layers).last[0]
            valid = tokens.valid[0].cpu().numpy()
            states.append(found.float().cpu().numpy()[valid])
            parts.append(_parts(cloud, window, sample, tokens, tokenizer)[valid])
            numbers.append(np.full(valid.sum(), number))
    return np.concatenate(states), np.concatenate(parts), np.concatenate(numbers)


def majority(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent of each row's labels (n, k), from 0: (n,). The lowest of equals."""
    counts = (labels[:, :, None] == np.arange(labels.max() + 1)).sum(axis=1)
    return counts.argmax(axis=1)


def _parts(cloud: Cloud, window: Extent, sample: Scaled, tokens: TokenSet, tokenizer: PointGroups) -> NDArray[np.int64]:
    """The part of each token (n,): a group's points are those of the cloud that lie where they do."""
    assert isinstance(window, Window)
    places = sample.scaling.apply(cloud.recording.read(window.start, window.stop).coords.T).T
    members = tokenizer.untokenize(tokens.patches, tokens.coords)[0].cpu().numpy()
    _, row = cKDTree(places).query(members)
    return majority(cloud.part[window.start + row].reshape(len(tokens.patches[0]), -1))
