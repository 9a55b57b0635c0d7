"""Manifests: tables that name recordings and say what they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import readers
from toolkit.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

RECORDING = "recording"


@dataclass(frozen=True)
class Listed:
    """One recording of a manifest: its handle, the other files of its group, and every other column as ids."""

    path: Path
    ids: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()


def read(path: Path) -> list[Listed]:
    """The recordings of a ``.csv`` or ``.parquet`` manifest, in its order.

    A row names a file in ``path``, seen from the manifest's folder, or as PTB-XL's table does (see
    ``toolkit.corpus.ptbxl``). MRI files of rows with the same ``recording`` are the contrasts of one recording: the
    first row's file is its handle, and ids are those of the first row that states them. Raises UsageError.
    """
    from toolkit.corpus import ptbxl

    table = _table(path)
    if ptbxl.fits(table):
        table = ptbxl.as_table(_as_text(table), path)
    if "path" not in table.columns:
        raise UsageError(f"Manifest '{path}' has no column 'path'; its columns are {', '.join(map(str, table.columns))}.")
    found: dict[str | int, Listed] = {}
    for number, ids in enumerate(_rows(table), 2):
        if "path" not in ids:
            raise UsageError(f"Manifest '{path}', row {number}: path is empty.")
        row = Listed(path.parent / ids.pop("path"), ids)
        together = ids.get(RECORDING)
        before = found.get(together) if together else None
        if before is None or not _grouped(row.path):
            found[together if together and before is None else number] = row
        else:
            found[together or number] = _joined(before, row, f"Manifest '{path}', row {number}")
    return list(found.values())


def _joined(first: Listed, row: Listed, where: str) -> Listed:
    """The recording of the rows so far, with one more file."""
    if os.path.abspath(row.path) in map(os.path.abspath, (first.path, *first.parts)):
        raise UsageError(f"{where}: '{row.path.name}' is in the {RECORDING} '{row.ids[RECORDING]}' already.")
    return Listed(first.path, {**row.ids, **first.ids}, (*first.parts, row.path))


def _grouped(path: Path) -> bool:
    """Whether several files of this format can be one recording; elsewhere ``recording`` is a column like any other."""
    reader = readers.claim(path)
    return reader is not None and "mri" in reader.domains


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False)
    except (OSError, ValueError) as problem:
        raise UsageError(f"Manifest '{path}' cannot be read: {problem}.") from None


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Cells that hold something, as text."""
    from pandas import isna
    from pandas.api.types import is_scalar

    rows = table.to_dict("records")
    return [{str(k): str(v) for k, v in row.items() if is_scalar(v) and not isna(v) and v != ""} for row in rows]


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(_rows(table), columns=[str(name) for name in table.columns], dtype=object).fillna("")
