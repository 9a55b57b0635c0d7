"""Labelled rows: windows of an embedding table, or intervals of recordings, joined with a label table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.schema import ReadError
from toolkit.corpus.framing import Framing
from toolkit.corpus.inputs import Failure, Input, open_input, subject_of
from toolkit.corpus.labels import Labels, PathMatcher, match_windows
from toolkit.embedding.read import EmbeddingTable
from toolkit.errors import UsageError

NAMED = 3  # offenders named in a message


@dataclass(frozen=True)
class LabelledRows:
    """N labelled intervals: ``path`` of the recording, ``start``, ``stop`` in its unit, ``label_row`` in the label table.

    ``subject`` where the recording or the embedding says it. ``source`` is the row of the embedding table, when there is one.
    """

    path: list[str]
    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    label_row: NDArray[np.int64]
    subject: list[str | None]
    source: NDArray[np.int64] | None = None
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def rows_by_name(names: Sequence[str | None]) -> dict[str, NDArray[np.int64]]:
    """The rows of each name, in order of first appearance; rows without a name are left out. One pass over all rows."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if name is not None:
            found.setdefault(name, []).append(index)
    return {name: np.array(rows) for name, rows in found.items()}


def join_table(table: EmbeddingTable, labels: Labels, min_overlap: float) -> LabelledRows:
    """Give each embedded window the label whose interval covers most of it, at least ``min_overlap`` of it.

    Raises UsageError when nothing matches.
    """
    roots = list(dict.fromkeys(Path(p).parent for p in table.path))
    matcher = PathMatcher(table.path, roots, labels.path)
    found = [matcher.find(p) for p in labels.rows["path"]]
    paths, label_row = np.array(table.path), np.full(len(table.path), -1)
    starts, stops = labels.rows["start"].to_numpy(float), labels.rows["stop"].to_numpy(float)
    windows_of = rows_by_name(table.path)
    for recording, mine in rows_by_name(found).items():
        rows = windows_of[recording]
        best = match_windows(table.start[rows], table.stop[rows], starts[mine], stops[mine], min_overlap)
        label_row[rows] = np.where(best >= 0, mine[best], -1)
    kept = np.flatnonzero(label_row >= 0)
    warnings = [*_unmatched(labels, found), *_without_label(paths, label_row)]
    if not len(kept):
        raise UsageError(
            f"No window of the {len(set(table.path))} embedded recordings has a label in '{labels.path}'. "
            f"{' '.join(warnings)} Paths are relative to the CSV, to a DATA folder, or absolute; a label must cover "
            f"at least {min_overlap:g} of a window (--min-overlap), so short labels need DATA and --model."
        )
    return LabelledRows(
        [table.path[i] for i in kept],
        table.start[kept],
        table.stop[kept],
        label_row[kept],
        [table.subject[i] for i in kept],
        kept,
        warnings,
    )


def from_recordings(items: Sequence[Input], labels: Labels, window: float, framing: Framing) -> LabelledRows:
    """Each label row is a row of its own: its interval, or every window of its recording where it names none.

    Raises UsageError when nothing matches.
    """
    matcher = PathMatcher([str(i.path) for i in items], list(dict.fromkeys(i.root for i in items)), labels.path)
    found = [matcher.find(p) for p in labels.rows["path"]]
    by_path = {str(i.path): i for i in items}
    rows: list[tuple[str, float, float, int, str | None]] = []
    failures: list[Failure] = []
    for path, mine in rows_by_name(found).items():
        try:
            recording = open_input(by_path[path])
            framing.channels(recording)
            whole = _without_scrap([framing.interval(recording, w) for w in framing.plan(recording, window, window)])
        except ReadError as problem:
            failures.append(Failure(path, str(problem)))
            continue
        subject, end = subject_of(by_path[path], recording), framing.end(recording)
        for index in mine.tolist():
            start, stop = labels.rows["start"].iloc[index], labels.rows["stop"].iloc[index]
            spans = [(start, stop)] if np.isfinite(start) else whole
            rows += [(path, a, b, index, subject) for a, b in spans if a < end]
    warnings = _unmatched(labels, found)
    if not rows:
        if failures:
            reasons = " ".join(f"{f.path}: {f.reason}." for f in failures[:NAMED])
            raise UsageError(f"None of the {len(failures)} recordings that '{labels.path}' names can be used. {reasons}")
        raise UsageError(f"No label of '{labels.path}' names one of the {len(items)} recordings. {' '.join(warnings)}")
    path_, start_, stop_, index_, subject_ = zip(*rows, strict=True)
    return LabelledRows(
        list(path_), np.array(start_), np.array(stop_), np.array(index_), list(subject_), None, warnings, failures
    )


def _without_scrap(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without a last window that shows less than half of what the first does."""
    (a, b), (c, d) = spans[0], spans[-1]
    return spans[:-1] if d - c < (b - a) / 2 else spans


def _unmatched(labels: Labels, found: Sequence[str | None]) -> list[str]:
    missing = Counter(p for p, f in zip(labels.rows["path"], found, strict=True) if f is None)
    if not missing:
        return []
    names = ", ".join(f"'{p}' ({n} rows)" for p, n in list(missing.items())[:NAMED])
    return [
        f"{sum(missing.values())} label rows name {len(missing)} recordings that are not in the data: {names}"
        f"{', ...' if len(missing) > NAMED else ''}."
    ]


def _without_label(paths: NDArray[np.str_], label_row: NDArray[np.int64]) -> list[str]:
    lacking = Counter(paths[label_row < 0].tolist())
    if not lacking:
        return []
    names = ", ".join(f"'{Path(p).name}' ({n})" for p, n in lacking.most_common(NAMED))
    return [
        f"{sum(lacking.values())} of {len(paths)} windows have no label and are left out: {names}"
        f"{', ...' if len(lacking) > NAMED else ''}."
    ]
