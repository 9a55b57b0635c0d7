"""The label table that stands beside generated recordings."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_labels(folder: Path, columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> Path:
    """Write ``labels.csv`` in ``folder``, a header and one line per row; returns its path."""
    labels = folder / "labels.csv"
    with labels.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return labels
