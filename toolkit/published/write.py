"""A converted release as a MODEL folder: weights, recipe, and a record of where they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from toolkit import files
from toolkit import recipe as recipes
from toolkit.model import folder
from toolkit.published.base import Release
from toolkit.published.read import Converted
from toolkit.record import RunRecord


def save(
    converted: Converted, release: Release, source: Path, out: Path, record: RunRecord, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the folder as a whole or not at all; returns the facts of ``import --json``. Raises UsageError, ToolkitError."""
    facts = {
        "model": str(out),
        "release": release.name,
        "system": release.system,
        "where": release.where,
        "licence": release.licence,
        "source": str(source),
        "source_hash": _sha256(source),
        "restores": not converted.untrained,
        "why_not": converted.untrained or None,
        **converted.ledger,
    }
    with files.atomic_folder(out, overwrite=overwrite, what="Model folder") as building:
        folder.save_tensors(building / folder.WEIGHTS, converted.tensors, folder.untrained_mark(converted.untrained))
        files.write_text(building / folder.RECIPE, recipes.to_toml(converted.recipe))
        record.add(
            recipe=converted.recipe.model_dump(mode="json"),
            recipe_hash=recipes.fingerprint(converted.recipe),
            model_hash=files.sha256(building / folder.WEIGHTS),
            channels=list(converted.recipe.tokenizer.channels),
            parameters=sum(value.numel() for value in converted.tensors.values()),
            **facts,
        )
        record.write(building / folder.RUN, exit_code=0)
    return facts


def _sha256(path: Path) -> str:
    """The whole digest, which authors and hubs publish beside their files."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
