"""PTB-XL's own table (``ptbxl_database.csv``) and tables made after it, as manifest and as labels.

A row names its record twice, without suffix: ``filename_hr`` (500 Hz) and ``filename_lr`` (100 Hz). ``scp_codes`` is a
Python dict as text, statement -> likelihood in percent, where 0 means that the likelihood was not stated.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from toolkit.errors import UsageError, shortened

NAMES = ("filename_hr", "filename_lr")
CODES = "scp_codes"
SUBJECT = "patient_id"


def fits(table: pd.DataFrame) -> bool:
    """Whether a table without ``path`` names its records as PTB-XL's does."""
    return "path" not in table.columns and any(name in table.columns for name in NAMES)


def as_table(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The table with ``path``, ``subject`` and, from ``scp_codes``, ``label``; a column that is there already stays.

    Cells are text. Paths are those of ``filename_hr``, or of ``filename_lr`` where none of the 500 Hz records is
    beside the table but a 100 Hz one is. A label has every stated code, whatever its likelihood, joined by ";".
    Raises UsageError that names the row.
    """
    table = table.copy()
    chosen = column(table, file)
    table["path"] = [f"{cell}.hea" if cell and not cell.endswith(".hea") else cell for cell in table[chosen]]
    if SUBJECT in table.columns and "subject" not in table.columns:
        table["subject"] = table[SUBJECT]
    if CODES in table.columns and "label" not in table.columns:
        table["label"] = [";".join(codes(cell, f"'{file}', row {number}")) for number, cell in enumerate(table[CODES], 2)]
    return table


def column(table: pd.DataFrame, file: Path) -> str:
    """Which column names the records: the first of ``NAMES`` of which a file is there, else the first there is."""
    present = [name for name in NAMES if name in table.columns]
    there = (name for name in present if any((file.parent / f"{c.removesuffix('.hea')}.hea").is_file() for c in table[name] if c))
    return next(there, present[0])


def codes(text: str, where: str) -> list[str]:
    """The statements of one cell, in the order written; an empty cell has none. Raises UsageError."""
    if not text.strip():
        return []
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        found = None
    if not (isinstance(found, Mapping) and all(_is_statement(code, likelihood) for code, likelihood in found.items())):
        shown = shortened(text, 60)
        raise UsageError(f"{where}: {CODES} is {shown!r}, expected a dict of likelihoods such as {{'NORM': 100.0, 'SR': 0.0}}.")
    return list(found)


def _is_statement(code: object, likelihood: object) -> bool:
    number = isinstance(likelihood, int | float) and not isinstance(likelihood, bool) and math.isfinite(likelihood)
    return isinstance(code, str) and bool(code.strip()) and ";" not in code and number
