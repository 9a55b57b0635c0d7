"""What a probe works on: labelled rows, embeddings at hand, and the ways to compute the other feature matrices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from toolkit.model.folder import LoadedModel
from toolkit.probing import features
from toolkit.probing.features import PerRecording
from toolkit.probing.handcrafted import FEATURES
from toolkit.probing.rows import LabelledRows, from_recordings, join_table
from toolkit.progress import Progress
from toolkit.recipe import Recipe


@dataclass
class Material:
    """``ready`` are matrices (N, F) that exist; ``makers`` compute the others from the recordings in ``items``."""

    rows: LabelledRows
    ready: dict[str, NDArray] = field(default_factory=dict)
    makers: dict[str, PerRecording] = field(default_factory=dict)
    items: Mapping[str, Input] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gathered: Inputs | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # which model, for the record

    def features(self, *, quiet: bool) -> dict[str, NDArray]:
        """All matrices, the model's first. Raises ToolkitError when no recording can be read."""
        matrices = dict(self.ready)
        for name, make in self.makers.items():
            with Progress(f"probe: {name}", len(self.rows.path), "windows", enabled=not quiet) as progress:
                try:
                    matrices[name] = features.compute(self.rows, self.items, make, progress)
                except ReadError as problem:
                    raise ToolkitError(
                        f"None of the {len(set(self.rows.path))} labelled recordings can be read for the row '{name}': {problem}."
                    ) from None
        return matrices


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
        material.makers = _baselines(recipe, options, device, context=False)
    return material


def from_data(
    gathered: Inputs, loaded: LoadedModel, labels: Labels, options: Options, device: torch.device, *, baselines: bool
) -> Material:
    """Recordings and a model: each labelled interval is embedded within a window of the model's length."""
    grids.check(gathered.items, loaded.recipe)
    rows = from_recordings(gathered.items, labels, options.window, framing.build(loaded.recipe))
    makers = {loaded.recipe.name: features.embedded(loaded.model, loaded.recipe, options, device)}
    if baselines:
        # An interval as short as one beat has no rhythm of its own: it is described within the window around it.
        seconds = loaded.recipe.data.axes == "signal"
        short = seconds and bool((rows.stop - rows.start).max() < loaded.recipe.data.window / 2)
        makers |= _baselines(loaded.recipe, options, device, context=short)
    facts = {
        "model": str(loaded.path),
        "model_hash": loaded.hash,
        "recipe": loaded.recipe.model_dump(mode="json"),
        "recipe_hash": recipes.fingerprint(loaded.recipe),
        "options": options.__dict__,
    }
    return Material(rows, {}, makers, {str(i.path): i for i in gathered.items}, gathered=gathered, facts=facts)


def _baselines(recipe: Recipe, options: Options, device: torch.device, *, context: bool) -> dict[str, PerRecording]:
    makers: dict[str, PerRecording] = {}
    if set(recipe.domains) <= set(FEATURES):
        makers["handcrafted"] = features.handcrafted(framing.build(recipe), recipe.data.window if context else 0.0)
    makers["random-init"] = features.random_weights(recipe, options, device)
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
