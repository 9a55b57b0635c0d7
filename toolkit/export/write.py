"""One ``export``: a folder with the model, its description, an example and a card, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit import files
from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.export import card, config, example
from toolkit.export.forms import FORMS
from toolkit.model import folder
from toolkit.model.folder import LoadedModel
from toolkit.record import RunRecord

CONFIG, EXAMPLE, CARD = "config.json", "example.safetensors", "README.md"
KNOWN = ("inputs", "channels", "hours", "steps", "loss", "loss_trivial", "init", "imported", "licence", "system", "where")
INHERITED = ("licence", "system", "where")
LONGEST = 20  # models in a row that began with one another


def export(
    loaded: LoadedModel,
    out: Path,
    record: RunRecord,
    *,
    form: str | None = None,
    probe: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the folder; returns the facts of ``export --json``. Raises UsageError, ToolkitError."""
    files.check_folder(out, overwrite=overwrite, what="Exported folder")
    metrics = _metrics(probe) if probe is not None else None
    run = known(loaded.path)
    with files.atomic_folder(out, overwrite=overwrite, what="Exported folder") as building:
        forms: dict[str, str] = {}
        difference = None
        if form is not None:
            (building / form).mkdir(parents=True)
            forms[form], difference = FORMS[form](loaded, building / form)
        _model(loaded, building)
        files.write_json(building / CONFIG, config.document(loaded))
        files.write_text(building / CARD, card.text(loaded, run, metrics, forms))
        record.add_model(loaded)
        facts: dict[str, Any] = {
            "out": str(out),
            "files": sorted(str(p.relative_to(building)) for p in building.rglob("*") if p.is_file()),
        }
        facts |= {"form": form, "difference": difference, "licence": run.get("licence")}
        record.add(**run, **{k: v for k, v in facts.items() if k != "licence"})
        record.write(building / folder.RUN, exit_code=0)
    return facts


def _model(loaded: LoadedModel, building: Path) -> None:
    """Weights, recipe and example, of the model on the CPU."""
    model = loaded.model.cpu().eval()
    folder.save_tensors(building / folder.WEIGHTS, dict(model.state_dict()), folder.untrained_mark(loaded.untrained))
    files.write_text(building / folder.RECIPE, recipes.to_toml(loaded.recipe))
    given = example.tokens(loaded.recipe)
    both = {f"in.{key}": value for key, value in example.inputs(given).items()}
    both |= {f"out.{key}": value for key, value in example.recorded(model, given).items()}
    folder.save_tensors(building / EXAMPLE, both)


def known(path: Path) -> dict[str, Any]:
    """What run.json beside a model tells of its training; the licence also of the weights that it began with."""
    run = _run(path)
    found = {key: run[key] for key in KNOWN if run.get(key) is not None}
    if run.get("command") == "import":
        found["imported"] = True
    began, links = run, 0
    while "licence" not in found and began.get("init") and links < LONGEST:
        began, links = _run(Path(began["init"])), links + 1
        found |= {key: began[key] for key in INHERITED if key in began}
    return found


def _run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(((path.parent if path.is_file() else path) / folder.RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _metrics(probe: Path) -> Mapping[str, Any]:
    """metrics.json of a folder of `toolkit probe`. Raises UsageError."""
    path = probe / "metrics.json" if probe.is_dir() else probe
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if not {"task", "target", "results", "main_metric", "split"} <= set(metrics):
            raise ValueError("it is not the metrics.json of a probe")
    except (OSError, ValueError, TypeError) as problem:
        raise UsageError(f"--probe '{probe}': {problem}. Give the folder that `toolkit probe --out` wrote.") from None
    return metrics
