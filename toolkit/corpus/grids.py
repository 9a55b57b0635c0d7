"""Which grid a recipe reads recordings on, and whether a prepared corpus holds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from readers import prepared_store
from toolkit.corpus.framing.volumes import FINE_MM
from toolkit.corpus.inputs import Input
from toolkit.errors import UsageError
from toolkit.recipe import DataTable, Recipe, SignalData, VolumeData


def spacings(data: VolumeData) -> list[float]:
    """The spacings (mm) at which volumes are read: the model's, and that of hand-crafted features where it is finer."""
    return list(dict.fromkeys([data.spacing_mm, min(data.spacing_mm, FINE_MM)]))


def grid_of(data: DataTable) -> dict[str, Any]:
    """What of a data table decides the prepared numbers, as plain JSON."""
    if isinstance(data, SignalData):
        return {"axes": data.axes, "kinds": list(data.kinds), "rate_hz": data.rate_hz}
    if isinstance(data, VolumeData):
        return {"axes": data.axes, "kinds": list(data.kinds), "spacing_mm": spacings(data)}
    return {"axes": data.axes}


def describe(grid: dict[str, Any]) -> str:
    """A grid in words, e.g. ``signals at 250 Hz (ecg, ppg)``."""
    kinds = f" ({', '.join(grid['kinds'])})" if "kinds" in grid else ""
    if grid["axes"] == "signal":
        return f"signals at {grid['rate_hz']:g} Hz{kinds}"
    if grid["axes"] == "volume":
        return f"volumes at {' and '.join(f'{s:g}' for s in grid['spacing_mm'])} mm{kinds}"
    return str(grid["axes"])


def serves(held: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether recordings prepared on one grid can be read on another."""
    if held["axes"] != wanted["axes"] or held.get("rate_hz") != wanted.get("rate_hz"):
        return False
    return all(set(wanted.get(key, ())) <= set(held.get(key, ())) for key in ("kinds", "spacing_mm"))


def check(items: Iterable[Input], recipe: Recipe) -> None:
    """Raises UsageError where inputs come from a corpus on another grid than the recipe's."""
    folders: dict[Path, None] = dict.fromkeys(item.prepared.folder for item in items if item.prepared is not None)
    wanted = grid_of(recipe.data)
    for folder in folders:
        head = prepared_store.read_head(folder)
        if head is None or not serves(head["grid"], wanted):
            held = describe(head["grid"]) if head else "nothing that can be read"
            raise UsageError(
                f"The corpus '{folder}' holds {held}; the recipe '{recipe.name}' reads {describe(wanted)}. "
                "Prepare it again with that recipe: toolkit prepare DATA --recipe RECIPE --out CORPUS."
            )
