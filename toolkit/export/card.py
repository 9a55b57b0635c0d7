"""README.md of an exported model: what it is, what it was trained on, how to read it, and what its licence is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.export import config
from toolkit.model.folder import LoadedModel

NUMBERS = (
    ("steps", "Steps"),
    ("loss", "Loss at the end"),
    ("loss_trivial", "Loss of the trivial predictor"),
    ("init", "Began with"),
)


def text(loaded: LoadedModel, run: Mapping[str, Any], probe: Mapping[str, Any] | None, forms: Mapping[str, str]) -> str:
    """The card. ``run``: what is known of the training; ``probe``: metrics.json of `toolkit probe`; ``forms``: folders beside
    the model, and what they hold.
    """
    recipe = loaded.recipe
    count = sum(value.numel() for value in loaded.model.parameters())
    parts = [
        f"# {recipe.name}",
        f"Masked model of {' and '.join(recipe.domains)} recordings ({recipe.paper}): {config.architecture(recipe)}, "
        f"{count / 1e6:.2f} M parameters with its decoder. Recipe hash and model hash are in config.json.",
        "## Data",
        _data(run),
        "## Preprocessing and units",
        "\n".join(f"- {step}" for step in config.preprocessing(recipe)),
        f"Coordinates of tokens: {config.places(recipe)}.",
        "## Restoring",
        _restoring(loaded),
    ]
    if probe is not None:
        parts += ["## Probe", _probe(probe)]
    parts += ["## Files", _files(forms), "## Licence", _licence(run)]
    return "\n\n".join(parts) + "\n"


def _data(run: Mapping[str, Any]) -> str:
    if run.get("imported"):
        return f"Trained by its authors: {run['system']}. What is known of their data stands in their paper."
    lines = [f"- Recordings: {run.get('inputs', 'not recorded')}"]
    channels = run.get("channels")
    if isinstance(channels, Mapping) and channels:
        named = [f"{name} ({count})" for name, count in list(channels.items())[:30]]
        lines.append(f"- Channels (recordings that have them): {', '.join(named)}{', ...' if len(channels) > 30 else ''}")
    lines.append(f"- Hours: {run['hours']:.1f}" if isinstance(run.get("hours"), (int, float)) else "- Hours: not recorded")
    for key, label in (
        ("steps", "Steps"),
        ("loss", "Loss at the end"),
        ("loss_trivial", "Loss of the trivial predictor"),
        ("init", "Began with"),
    ):
        if run.get(key) is not None:
            lines.append(f"- {label}: {run[key]}")
    return "\n".join(lines)


def _restoring(loaded: LoadedModel) -> str:
    if loaded.untrained:
        return f"It cannot restore: its decoder was never trained. {loaded.untrained}"
    if loaded.model.completes is None:
        return "It cannot restore: no term of its objective predicts patches as they are."
    return "Its decoder predicts hidden patches as they are; `toolkit restore --model` of this folder repairs recordings with it."


def _probe(probe: Mapping[str, Any]) -> str:
    split = probe["split"]
    head = (
        f"Task {probe['task']}, target {probe['target']}, {probe['windows']} windows of {probe['groups']} groups, split by "
        f"{split.get('group') or split.get('kind')}, {split.get('folds')} folds. Intervals as `toolkit probe` prints them."
    )
    rows = ["| what | head | metric | value | from | to |", "|---|---|---|---|---|---|"]
    for row in probe["results"]:
        if row["metric"] == probe["main_metric"]:
            numbers = " | ".join("" if row.get(key) is None else f"{row[key]:.3f}" for key in ("value", "low", "high"))
            rows.append(f"| {row['name']} | {row.get('head') or ''} | {row['metric']} | {numbers} |")
    return f"{head}\n\n" + "\n".join(rows)


def _files(forms: Mapping[str, str]) -> str:
    lines = [
        "- `model.safetensors`, `recipe.toml`: the model; `toolkit embed`, `probe` and `restore` take this folder as --model.",
        "- `config.json`: tables, shapes, preprocessing: enough to rebuild the encoder with torch alone.",
        "- `example.safetensors`: token tensors (`in.*`) and what the encoder makes of them (`out.*`, float32, CPU), to check "
        "a rebuilding against.",
        *(f"- `{name}/`: {what}" for name, what in forms.items()),
    ]
    return "\n".join(lines)


def _licence(run: Mapping[str, Any]) -> str:
    if run.get("licence"):
        how = "Weights" if run.get("imported") else "Trained further from weights"
        return f"{how} of {run['system']}, published at {run['where']}. Their licence, which holds here too: {run['licence']}."
    return "None chosen yet: whoever publishes this folder says here under which licence, and whether the data allow it."
