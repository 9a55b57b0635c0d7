"""What a prepared corpus is on disk, and what its recordings share. Needs numpy and pyarrow only.

A corpus is a folder of ``manifest.json`` (what it holds), ``index.parquet`` (one row a recording) and
``shard-00000.bin`` and on: float32, little endian, C order, NaN where nothing is valid. ``toolkit prepare`` writes it.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from readers.schema import (
    Axes,
    Channel,
    Event,
    FloatArray,
    ReadError,
    Recording,
)

FORMAT, VERSION = "toolkit corpus", 1
MANIFEST, INDEX, PLAN = "manifest.json", "index.parquet", "plan.json"
ITEM = 4  # bytes of a stored number

Stamp = tuple[Path, int, int]
Size = tuple[int, int, int]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.bin"


def read_head(folder: Path, name: str = MANIFEST) -> dict[str, Any] | None:
    """The manifest of a corpus (or the plan of one that is being made); None where the folder holds none of ours."""
    try:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("format") == FORMAT else None


@dataclass(frozen=True)
class Entry:
    """One recording of a corpus: its row of the index."""

    folder: Path
    row: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file that it was decoded from; it need not be there any more."""
        return Path(self.row["path"])

    @property
    def root(self) -> Path:
        """The folder under which that file was found."""
        return Path(self.row["root"])

    @property
    def given(self) -> dict[str, str]:
        """What a manifest said of it."""
        return dict(json.loads(self.row["given"]))


def entries(folder: Path) -> list[Entry]:
    """The recordings of a corpus, in order. Raises ReadError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    head = read_head(folder)
    if head is None:
        raise ReadError(f"'{folder}' is no finished corpus")
    if head.get("version") != VERSION:
        raise ReadError(f"'{folder}' is a corpus of version {head.get('version')}, this program reads version {VERSION}")
    try:
        rows = pq.read_table(folder / INDEX).to_pylist()
    except (OSError, pa.ArrowException) as problem:
        raise ReadError(f"the index of the corpus '{folder}' cannot be read: {problem}") from None
    return [Entry(folder, row) for row in rows]


class Prepared(Recording):
    """What prepared recordings share. ``stamps``: path, bytes and time of change (ns) of the files it came from."""

    def __init__(self, entry: Entry) -> None:
        row = entry.row
        self.path = entry.path
        self.format, self.domain = str(row["format"]), str(row["domain"])
        self.channels = tuple(Channel(**_tupled(channel)) for channel in json.loads(row["channels"]))
        self.axes = Axes(**_tupled(json.loads(row["axes"])))
        self.ids: dict[str, str] = json.loads(row["ids"])
        self.warnings: tuple[str, ...] = tuple(json.loads(row["warnings"]))
        self.stamps: tuple[Stamp, ...] = tuple((Path(f), int(size), int(at)) for f, size, at in json.loads(row["files"]))
        self._row, self._folder = row, entry.folder
        self._file = entry.folder / shard_name(int(row["shard"]))
        self._native: dict[str, Any] = json.loads(row["native"])
        self._place = {int(channel): k for k, channel in enumerate(row["stored"])}
        if problem := self._lacking():
            raise ReadError(problem)

    @property
    def events(self) -> Sequence[Event]:
        """The annotations, as they were when it was prepared."""
        return tuple(Event(e[0], e[1], e[2], tuple(e[3]), e[4]) for e in json.loads(self._row["events"]))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was decoded from."""
        return tuple(path for path, _, _ in self.stamps)

    def stored(self, channel: int) -> int:
        """Elements of the channel in the file that it was decoded from."""
        return int(self._native["stored"][channel])

    def verify(self) -> tuple[str, ...]:
        """What disagreed in the file when it was prepared, and a shard that is shorter than its index; reads nothing."""
        found = tuple(json.loads(self._row["findings"]))
        return (*found, problem) if (problem := self._lacking()) else found

    @abstractmethod
    def _extents(self) -> list[tuple[int, int]]:
        """First and last byte (exclusive) of each array of it in the shard."""

    def _lacking(self) -> str | None:
        try:
            size = self._file.stat().st_size
        except OSError as problem:
            return f"{self.path.name}: '{self._file}' cannot be read: {problem.strerror}"
        for first, last in self._extents():
            if not 0 <= first <= last <= size:
                return f"{self.path.name}: '{self._file}' has {size} bytes, the index of the corpus says {last}"
        return None

    def _opened(self) -> FileIO:
        try:
            return FileIO(self._file)  # not a mapping: a shard that is cut while it is mapped would end the process
        except OSError as problem:
            raise ReadError(f"{self.path.name}: '{self._file}' cannot be read: {problem.strerror}") from None

    def _take(self, file: FileIO, offset: int, into: FloatArray) -> None:
        """Fill a contiguous array from a byte of the shard on. Raises ReadError."""
        assert into.flags.c_contiguous  # a copy would be filled in its place
        view = into.reshape(-1).view(np.uint8).data
        try:
            file.seek(offset)
            while len(view):
                got = file.readinto(view)
                if not got:
                    raise ReadError(f"{self.path.name}: '{self._file}' ends at byte {file.tell()}, before what the index says")
                view = view[got:]
        except OSError as problem:
            raise ReadError(f"{self.path.name}: '{self._file}' cannot be read: {problem.strerror}") from None

    def _check(self, channels: Sequence[int]) -> None:
        for channel in channels:
            if not 0 <= channel < len(self.channels):
                raise ReadError(f"{self.path.name} has no channel {channel}; it has {len(self.channels)}")

    def _row_of(self, channel: int) -> int:
        """Which stored row a channel is. Raises ReadError for one that the corpus does not hold."""
        if (place := self._place.get(channel)) is None:
            raise ReadError(
                f"{self.path.name}: this corpus does not hold the channel {self.channels[channel].name}, "
                "which its recipe does not read; prepare it again with a recipe that does"
            )
        return place

    def _other_grid(self, held: str, asked: str) -> ReadError:
        return ReadError(f"{self.path.name}: this corpus holds {held}, asked for {asked}; prepare it again with that recipe")


def _tupled(table: Mapping[str, Any]) -> dict[str, Any]:
    """A dataclass's fields as JSON kept them, with its tuples again."""
    return {name: _deep(value) for name, value in table.items()}


def _deep(value: Any) -> Any:
    return tuple(_deep(v) for v in value) if isinstance(value, list) else value
