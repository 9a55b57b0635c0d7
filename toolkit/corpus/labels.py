"""Label tables: reading, and joining their rows to recordings and windows.

A label row names a recording (relative to the CSV, to a DATA folder, or absolute) and, with ``start``
and ``stop``, an interval of it in the unit of its embeddings: seconds, voxels or rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toolkit.corpus import ptbxl
from toolkit.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Labels:
    """A label table: ``rows`` has columns path, start, stop (NaN where absent) and all others as text."""

    path: Path
    rows: pd.DataFrame

    def column(self, name: str, flag: str) -> pd.Series:
        """A column by name. Raises UsageError that offers the nearest one."""
        if name not in self.rows.columns:
            raise UsageError(f"Labels '{self.path}' have no column '{name}' ({flag}). {did_you_mean(name, self.rows.columns)}")
        return self.rows[name]


def read(path: Path) -> Labels:
    """Read a labels CSV, or PTB-XL's own table. Raises UsageError that names the column or the row."""
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False).fillna("")  # a short row has empty cells
    except (OSError, ValueError) as problem:
        raise UsageError(f"Labels '{path}' cannot be read: {problem}.") from None
    if ptbxl.fits(rows):
        rows = ptbxl.as_table(rows, path)
    if "path" not in rows.columns:
        raise UsageError(f"Labels '{path}' have no column 'path'; the columns are {', '.join(rows.columns)}.")
    if rows.empty:
        raise UsageError(f"Labels '{path}' have a header but no row.")
    for name in ("start", "stop"):
        text = rows[name] if name in rows.columns else pd.Series([""] * len(rows))
        numbers = pd.to_numeric(text.replace("", None), errors="coerce")
        if bad := list(np.flatnonzero((text != "") & numbers.isna()))[:1]:
            raise UsageError(f"Labels '{path}', row {bad[0] + 2}: {name} is '{text.iloc[bad[0]]}', expected seconds.")
        rows[name] = numbers.astype(float)
    half = rows["start"].isna() != rows["stop"].isna()
    backwards = rows["stop"] <= rows["start"]
    if (half | backwards).any():
        row = int(np.flatnonzero(half | backwards)[0])
        raise UsageError(
            f"Labels '{path}', row {row + 2}: start and stop must both be given, and stop be later than start; got "
            f"{rows['start'].iloc[row]} and {rows['stop'].iloc[row]} s."
        )
    return Labels(path, rows)


class PathMatcher:
    """Finds which recording a label row means, among the recordings at hand."""

    def __init__(self, recordings: Iterable[str], roots: Sequence[Path], csv: Path) -> None:
        self.recordings = list(dict.fromkeys(recordings))
        self.folders = [csv.parent, *roots]
        self.by_place = {_stem(Path(r)): r for r in self.recordings}
        self.by_tail: dict[tuple[str, ...], list[str]] = {}
        for recording in self.recordings:
            parts = _stem(Path(recording)).parts
            for length in range(1, len(parts)):
                self.by_tail.setdefault(parts[-length:], []).append(recording)

    def find(self, path: str) -> str | None:
        """The recording's path as it is known here, or None.

        By place first; else, for tables that were moved, by a tail of the path that fits one recording only.
        """
        for bare in (_bare(Path(path)), Path(path)):  # "r1.hea", "r1.dat" and "r1" are r1; "r2.b" may be r2.b.hea
            for folder in self.folders:
                if (found := self.by_place.get((folder / bare).resolve())) is not None:
                    return found
            candidates = self.by_tail.get(bare.parts, [])
            if len(candidates) == 1:
                return candidates[0]
        return None


def _stem(path: Path) -> Path:
    """Absolute path without suffix: a record is the same by its header or its signal file."""
    return _bare(path.resolve())


def _bare(path: Path) -> Path:
    return path.with_suffix("") if path.name else path


def match_windows(
    start: np.ndarray, stop: np.ndarray, label_start: np.ndarray, label_stop: np.ndarray, min_overlap: float
) -> np.ndarray:
    """For each window the row whose interval covers the largest part of it, or -1 below ``min_overlap``.

    All four arrays are of one recording, in one unit; NaN intervals cover everything. Ties go to the first row.
    """
    found = np.full(len(start), -1)
    if not len(label_start):
        return found
    label_start = np.where(np.isnan(label_start), -np.inf, label_start)
    label_stop = np.where(np.isnan(label_stop), np.inf, label_stop)
    for row, (first, last) in enumerate(zip(start, stop, strict=True)):
        covered = (np.minimum(last, label_stop) - np.maximum(first, label_start)) / max(last - first, 1e-12)
        best = covered.argmax()
        if covered[best] > 0 and covered[best] >= min_overlap - 1e-9:
            found[row] = best
    return found
