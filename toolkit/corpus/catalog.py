"""What the headers of many recordings say: read in parallel, and remembered from run to run."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from readers.scan import Stamp
from readers.schema import ReadError, Recording
from toolkit import machine
from toolkit.corpus.cache import Entry, HeaderCache, settled
from toolkit.corpus.crew import Crew, Lost
from toolkit.corpus.inputs import Failure, Input, open_input, place, subject_of
from toolkit.progress import Progress

AT_ONCE = 4096  # inputs that are looked up, and held, at a time
FEW = 200  # new inputs up to which starting processes costs more than it saves
ABOVE = 3  # folders above in which tables of a BIDS dataset may lie
TABLES = (".tsv", ".json")


@dataclass(frozen=True, slots=True)
class Row:
    """What one recording's header says: its path as it was named, and the rest as the text of a JSON object.

    ``beyond``: absolute paths of its files that do not lie in the folder of its handle or below.
    """

    path: str
    rest: str
    beyond: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole as JSON on one line."""
        return f'{{"path": {encode_basestring_ascii(self.path)}, {self.rest[1:]}'

    @property
    def document(self) -> dict[str, Any]:
        """The whole as what ``json.loads`` makes of it."""
        return {"path": self.path, **json.loads(self.rest)}


# Of a recording that was opened: its row, and the path, size and time of its files (None: one changed just now).
Seen = tuple[Row, list[tuple[str, int, int]] | None]


def rows(
    items: Sequence[Input], workers: int | None, cache: HeaderCache, progress: Progress
) -> Generator[Row | Failure, None, None]:
    """What each input's header and annotations say, in the order of the inputs.

    A row has the keys of ``toolkit inspect --json``; an input that cannot be read gives a Failure, and so does
    one that crashes its reader when there are many. ``workers``: processes (default: the cores there are).
    """
    new = done = 0
    beside = Beside()
    with Crew[Input, Seen | Failure](look, workers or machine.available_cores()) as crew:
        for start in range(0, len(items), AT_ONCE):
            batch = items[start : start + AT_ONCE]
            known = _known(batch, cache, beside)
            unknown = [item for item, row in zip(batch, known, strict=True) if row is None]
            new += len(unknown)
            fresh = iter(crew.map(unknown) if new > FEW else map(look, unknown))
            for item, row in zip(batch, known, strict=True):
                yield row if row is not None else _taken(item, next(fresh), cache, beside)
                done += 1
                if done % 50 == 0 or done == len(items):
                    progress.update(done)
            next(fresh, None)  # all the processes' results are taken


def look(item: Input) -> Seen | Failure:
    """Open one input and describe it; never raises."""
    began = time.time_ns()
    try:
        recording = open_input(item)
        beyond = () if item.prepared else _beyond(_near(str(file), place(item.path)) for file in recording.files)
        row = Row(str(item.path), json.dumps(describe(item, recording), allow_nan=False), beyond)
        return row, None if item.prepared else _stamps(recording.files, began)  # its files may have changed since
    except ReadError as problem:
        return Failure(str(item.path), str(problem))
    except Exception as problem:  # of a format's library, at the annotations
        reason = " ".join(str(problem).split()) or "no reason given"
        return Failure(str(item.path), f"{item.path.name} cannot be described: {type(problem).__name__}, {reason}")


def describe(item: Input, recording: Recording) -> dict[str, Any]:
    """All of a row but its path: plain numbers, texts and lists; null where something does not apply or is no number."""
    axes = recording.axes
    return {
        "domain": recording.domain,
        "format": recording.format,
        "channels": [
            {"name": c.name, "canonical": c.canonical, "kind": c.kind, "unit": c.unit, "rate_hz": _number(c.rate_hz)}
            for c in recording.channels
        ],
        "shape": [int(n) for n in axes.shape],
        "duration_s": _number(axes.duration_s),
        "spacing_mm": None if axes.spacing_mm is None else [_number(step) for step in axes.spacing_mm],
        "orientation": axes.orientation,
        "points": None if axes.points is None else int(axes.points),
        "subject": subject_of(item, recording),
        "events": len(recording.events),
        "warnings": list(recording.warnings),
    }


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


class Beside:
    """Which files lie beside a recording that may belong to it: one that comes or goes changes what the recording is.

    Those are files of the same name up to the first dot; for BIDS names those of the same subject, and the
    tables in the folders above, which hold for all below. Each folder is listed once.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, int]] = {}
        self._above: dict[str, int] = {}

    def mark(self, path: str) -> int:
        """A number that changes when they do; ``path`` is absolute."""
        folder, _, name = path.rpartition(os.sep)
        folder = folder or os.sep
        if folder not in self._groups:
            self._groups[folder] = _grouped(folder)
        mark = self._groups[folder].get(_shared(name), 0)
        if name.startswith("sub-"):
            if folder not in self._above:
                self._above[folder] = zlib.crc32(repr(_tables_above(folder)).encode())
            mark ^= self._above[folder]
        return mark


def _shared(name: str) -> str:
    return name.split("_", 1)[0] if name.startswith("sub-") else name.split(".", 1)[0]


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _grouped(folder: str) -> dict[str, int]:
    marks: dict[str, int] = {}
    for name in _names(folder):
        key = _shared(name)
        marks[key] = zlib.crc32(os.fsencode(name) + b"/", marks.get(key, 0))
    return marks


def _tables_above(folder: str) -> list[list[str]]:
    """Tables in the folders above one of a BIDS dataset, up to that which holds the subjects."""
    tables = []
    for _ in range(ABOVE):
        folder, below = os.path.split(folder)
        tables.append([name for name in _names(folder) if name.endswith(TABLES)])
        if below.startswith("sub-"):
            return tables
    return []  # the folders are no dataset's


def _known(batch: Sequence[Input], cache: HeaderCache, beside: Beside) -> list[Row | None]:
    """The rows that were read before and still hold."""
    if not cache.on:
        return [None] * len(batch)
    paths = [place(item.path) for item in batch]
    marks = [beside.mark(path) for path in paths]  # of all, so that every folder is listed before its files are opened
    entries = cache.entries(paths)
    found: list[Row | None] = []
    for item, path, mark in zip(batch, paths, marks, strict=True):
        entry = entries.get(path)
        if entry is not None and item.prepared is None and _holds(entry, item, path, mark):
            found.append(Row(str(item.path), entry.text, _beyond(file for file, _, _ in entry.state[3])))
        else:
            found.append(None)
    return found


def _taken(item: Input, seen: Seen | Failure | Lost, cache: HeaderCache, beside: Beside) -> Row | Failure:
    """The row of an input that was opened just now, after it was put into the cache."""
    if isinstance(seen, Lost):
        return Failure(str(item.path), seen.reason)
    if isinstance(seen, Failure):
        return seen
    row, files = seen
    if cache.on and files is not None:
        path = place(item.path)
        state = [dict(item.ids), _parts(item), beside.mark(path), [(_near(f, path), size, at) for f, size, at in files]]
        cache.put(path, Entry(state, row.rest))
    return row


def _beyond(files: Iterable[str]) -> tuple[str, ...]:
    return tuple(file for file in files if file.startswith(os.sep))  # by _near


def _parts(item: Input) -> list[str]:
    return [part.name for part in item.parts]  # of the same folder


def _near(file: str, path: str) -> str:
    folder = os.path.join(os.path.dirname(path), "")
    return os.path.abspath(file).removeprefix(folder)


def _stamps(files: Sequence[Path], began_ns: int) -> list[tuple[str, int, int]] | None:
    """Path, size and time of the files; None where one may have changed since ``began_ns``, so that nothing is known."""
    found = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            return None
        if not settled(Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns), began_ns):
            return None
        found.append((str(file), stat.st_size, stat.st_mtime_ns))
    return found


def _holds(entry: Entry, item: Input, path: str, mark: int) -> bool:
    """Whether the files of a recording are what they were, in size, time, names and the manifest's words."""
    try:
        ids, parts, before, files = entry.state
        if ids != dict(item.ids) or parts != _parts(item) or before != mark or not files:
            return False
        folder = path[: path.rindex(os.sep) + 1]
        return unchanged((name if name.startswith(os.sep) else folder + name, size, at) for name, size, at in files)
    except (ValueError, TypeError):
        return False


def unchanged(files: Iterable[tuple[str, int, int]]) -> bool:
    """Whether files still have the sizes and times that stand beside their paths."""
    try:
        for path, size, at in files:
            stat = os.stat(path)
            if stat.st_size != size or stat.st_mtime_ns != at:
                return False
    except OSError:
        return False
    return True
