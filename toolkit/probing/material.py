"""What a probe works on: labelled rows, embeddings at hand, and the ways to compute the other feature matrices."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from readers.schema import ReadError
from toolkit import recipe as recipes
from toolkit.corpus import framing, grids
from toolkit.corpus.inputs import Input, Inputs
from toolkit.corpus.labels import Labels
from toolkit.embedding.encoder import Options
from toolkit.embedding.read import EmbeddingTable
from toolkit.errors import ToolkitError, UsageError
from toolkit.model import masked
from toolkit.model.folder import LoadedModel
from toolkit.model.masked import MaskedModel
from toolkit.probing import features
from toolkit.probing.features import Features
from toolkit.probing.folds import Fold
from toolkit.probing.handcrafted import FEATURES
from toolkit.probing.rows import LabelledRows, from_recordings, join_table
from toolkit.probing.task import Task
from toolkit.probing.tune import Tuner, Tuning
from toolkit.probing.tune_windows import Windows
from toolkit.progress import Progress
from toolkit.recipe import Recipe

Maker = Callable[..., Features]  # called with labelled rows, recordings by path, and progress=


@dataclass
class Material:
    """``ready`` are matrices (N, F) that exist; ``makers`` compute the others, or tokens, from the recordings in ``items``."""

    rows: LabelledRows
    ready: dict[str, NDArray] = field(default_factory=dict)
    makers: dict[str, Maker] = field(default_factory=dict)
    items: Mapping[str, Input] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gathered: Inputs | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # which model, for the record
    tuner: Tuner | None = None

    def features(self, *, quiet: bool) -> dict[str, Features]:
        """All matrices and tokens, the model's first. Raises ToolkitError when no recording can be read."""
        found: dict[str, Features] = dict(self.ready)
        for name, make in self.makers.items():
            with Progress(f"probe: {name}", len(self.rows.path), "windows", enabled=not quiet) as progress:
                try:
                    found[name] = make(self.rows, self.items, progress=progress)
                except ReadError as problem:
                    raise self._unreadable(name, problem) from None
        return found

    def tuned(self, y: NDArray, task: Task, folds: Sequence[Fold], seed: int, *, quiet: bool) -> dict[str, Tuning]:
        """What the encoder predicts after training on the folds, a row for each mode of ``tuner``; nothing without one.

        Raises ToolkitError when no recording can be read, or a training fails.
        """
        if self.tuner is None:
            return {}
        found = {}
        with Progress("probe: windows", len(self.rows.path), "windows", enabled=not quiet) as progress:
            try:
                windows = Windows(self.rows, self.items, self.tuner.model.recipe, self.tuner.options, progress)
            except ReadError as problem:
                raise self._unreadable("tune", problem) from None
        for mode in self.tuner.modes:
            name = self.tuner.row(mode)
            with Progress(f"probe: {name}", 0, "steps", enabled=not quiet) as progress:
                found[name] = self.tuner.run(mode, windows, y, task, folds, seed=seed, progress=progress)
        return found

    def _unreadable(self, name: str, problem: ReadError) -> ToolkitError:
        return ToolkitError(
            f"None of the {len(set(self.rows.path))} labelled recordings can be read for the row '{name}': {problem}."
        )


def from_table(table: EmbeddingTable, labels: Labels, min_overlap: float, device: torch.device, *, baselines: bool) -> Material:
    """An embedding table. Baselines are added where its recordings, and what made it, are known."""
    rows = join_table(table, labels, min_overlap)
    facts = {key.removeprefix("toolkit."): value for key, value in table.metadata.items()}
    material = Material(rows, {table.metadata.get("toolkit.recipe", "embedding"): table.vectors[rows.source]}, facts=facts)
    if not baselines:
        return material
    there = {p: Input(Path(p), Path(p).parent) for p in dict.fromkeys(rows.path) if Path(p).exists()}
    if len(there) < len(set(rows.path)):
        material.notes.append(
            "the recordings of this table are not all at hand, so there are no hand-crafted and random-init rows"
        )
    elif "toolkit.preprocessing" not in table.metadata:
        material.notes.append(
            "this format does not say which model made the table, so there are no hand-crafted and random-init "
            "rows; Parquet and Arrow tables do"
        )
    else:
        material.items = there
        recipe = recipes.build(recipes.parse(table.metadata["toolkit.preprocessing"], where="the table"), where="the table")
        options = Options(**json.loads(table.metadata["toolkit.options"]))
        material.makers = _baselines(recipe, options, device, context=False, most=None)
    return material


def from_data(
    gathered: Inputs,
    loaded: LoadedModel,
    labels: Labels,
    options: Options,
    device: torch.device,
    *,
    baselines: bool,
    tokens: bool = False,
    frozen: bool = True,
    tuner: Tuner | None = None,
) -> Material:
    """Recordings and a model: each labelled interval is embedded within a window of the model's length.

    With ``tokens`` encoders give the tokens of an interval, not one vector. ``tuner`` trains the model; its embeddings as
    they are have a row where ``frozen``.
    """
    grids.check(gathered.items, loaded.recipe)
    rows = from_recordings(gathered.items, labels, options.window, framing.build(loaded.recipe))
    most = features.most_tokens(loaded.recipe, len(rows.path)) if tokens else None
    makers = {loaded.recipe.name: _encoded(loaded.model, loaded.recipe, options, device, most)} if frozen else {}
    if baselines:
        # An interval as short as one beat has no rhythm of its own: it is described within the window around it.
        seconds = loaded.recipe.data.axes == "signal"
        short = seconds and bool((rows.stop - rows.start).max() < loaded.recipe.data.window / 2)
        makers |= _baselines(loaded.recipe, options, device, context=short, most=most)
    facts = {
        "model": str(loaded.path),
        "model_hash": loaded.hash,
        "recipe": loaded.recipe.model_dump(mode="json"),
        "recipe_hash": recipes.fingerprint(loaded.recipe),
        "options": options.__dict__,
    }
    items = {str(i.path): i for i in gathered.items}
    material = Material(rows, {}, makers, items, gathered=gathered, facts=facts, tuner=tuner)
    if most is not None and most < features.MOST_TOKENS:
        material.notes.append(
            f"at most {most} tokens of each of the {len(rows.path)} intervals are held in memory, drawn at random"
        )
    return material


def _encoded(model: MaskedModel, recipe: Recipe, options: Options, device: torch.device, most: int | None) -> Maker:
    """What computes embeddings, or at most so many tokens of each interval."""
    if most is None:
        return partial(features.compute, make=features.embedded(model, recipe, options, device))
    return partial(features.compute_tokens, make=features.frozen_tokens(model, recipe, options, device, most))


def _baselines(recipe: Recipe, options: Options, device: torch.device, *, context: bool, most: int | None) -> dict[str, Maker]:
    makers: dict[str, Maker] = {}
    if set(recipe.domains) <= set(FEATURES):
        describe = features.handcrafted(framing.build(recipe), recipe.data.window if context else 0.0)
        makers["handcrafted"] = partial(features.compute, make=describe)
    makers["random-init"] = _encoded(masked.build(recipe), recipe, options, device, most)
    return makers


def only_classes(labels: Labels, target: str, classes: str | None) -> Labels:
    """The label rows of the named classes. Raises UsageError for a class that no row has."""
    if classes is None:
        return labels
    wanted = [c.strip() for c in classes.split(",")]
    column = labels.column(target, "--target")
    if unknown := [c for c in wanted if c not in set(column)]:
        raise UsageError(
            f"--classes: no row of '{labels.path}' has {target} '{unknown[0]}'; it holds {', '.join(sorted(set(column))[:10])}."
        )
    return Labels(labels.path, labels.rows[column.isin(wanted)].reset_index(drop=True))
