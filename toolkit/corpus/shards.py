"""The files of a corpus: shards that only grow, a journal of what is in them, and the index that makes them a corpus.

A row of the journal or the index names bytes that were written before it was; so whenever the program ends, what
the rows name is whole. Bytes that no row names are dead space.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from readers.prepared_store import INDEX, MANIFEST, entries, read_head, shard_name
from readers.schema import ReadError
from toolkit import files
from toolkit.corpus.decode import Row, aligned

SHARD_BYTES = 2**30  # a shard takes no further recording that would make it larger
JOURNAL = "journal.jsonl"
PARTS = ".parts"
COMMIT_S = 2.0  # a program that is killed loses at most what it did in so many seconds
COPY_BYTES = 2**24


class Shards:
    """The shards in a folder. Raises OSError where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number, self._end = 0, 0
        self._file: IO[bytes] | None = None
        self._waiting: list[Row] = []
        self._committed = time.monotonic()

    def known(self) -> dict[str, Row]:
        """The rows that are there, by path, those of the journal before those of the index; further ones come behind them."""
        rows: dict[str, Row] = {}
        if read_head(self.folder) is not None:
            with suppress(ReadError):
                rows = {entry.row["path"]: dict(entry.row) for entry in entries(self.folder)}
        with suppress(OSError), (self.folder / JOURNAL).open(encoding="utf-8") as lines:
            for line in lines:
                with suppress(ValueError, KeyError):  # the last line of a killed run may be cut
                    row = json.loads(line)
                    rows[row["path"]] = row
        sizes = self.sizes()
        rows = {path: row for path, row in rows.items() if row["offset"] + row["bytes"] <= sizes.get(row["shard"], -1)}
        self._number = max(sizes, default=0)
        self._end = max((r["offset"] + r["bytes"] for r in rows.values() if r["shard"] == self._number), default=0)
        return rows

    def sizes(self) -> dict[int, int]:
        """Bytes of each shard, by number."""
        found = {}
        for path in self.folder.glob("shard-*.bin"):
            digits = path.stem.removeprefix("shard-")
            if digits.isdecimal():
                found[int(digits)] = path.stat().st_size
        return found

    def add(self, row: Row, part: Path) -> Row:
        """Append a part file, which then is gone; returns its row with the place it has now."""
        with part.open("rb") as source:
            placed = self._append(row, source)
        part.unlink()
        self._waiting.append(placed)
        if time.monotonic() - self._committed > COMMIT_S:
            self.commit()
        return placed

    def _append(self, row: Row, source: IO[bytes]) -> Row:
        offset, size = aligned(self._end), int(row["bytes"])
        if self._end and offset + size > SHARD_BYTES:
            self._flush()
            self._number, offset = self._number + 1, 0
        if self._file is None:
            path = self.folder / shard_name(self._number)
            path.touch()
            self._file = path.open("rb+", buffering=0)
            self._file.truncate(self._end if offset else 0)  # what no row names
        self._file.seek(offset)
        left = size
        while left:
            block = source.read(min(COPY_BYTES, left))
            if not block:
                raise OSError(f"{row['path']}: {left} bytes are missing")
            view = memoryview(block)
            while len(view):
                view = view[self._file.write(view) :]
            left -= len(block)
        self._end = offset + size
        return {**row, "shard": self._number, "offset": offset}

    def commit(self) -> None:
        """Put on disk what was added, then the rows that name it."""
        self._committed = time.monotonic()
        if not self._waiting:
            return
        if self._file is not None:
            os.fsync(self._file.fileno())
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(row) + "\n" for row in self._waiting)
            journal.flush()
            os.fsync(journal.fileno())
        self._waiting = []

    def _flush(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
        self._file = None

    def close(self) -> None:
        """Put all on disk, and cut off what a killed run wrote behind it."""
        self.commit()
        self._flush()
        with suppress(FileNotFoundError):
            os.truncate(self.folder / shard_name(self._number), self._end)

    def compact(self, rows: Sequence[Row]) -> list[Row]:
        """Copy what the rows name into new shards; the old ones stay until :meth:`sweep`."""
        self._flush()
        self._number, self._end = max(self.sizes(), default=-1) + 1, 0
        moved = []
        for row in rows:
            with (self.folder / shard_name(row["shard"])).open("rb") as source:
                source.seek(row["offset"])
                moved.append(self._append(row, source))
        self._flush()
        return moved

    def used(self, rows: Iterable[Row]) -> dict[int, int]:
        """Bytes of the shards that rows name, by number."""
        sizes = self.sizes()
        return {number: sizes[number] for number in sorted({int(row["shard"]) for row in rows})}

    def dead(self, rows: Sequence[Row]) -> int:
        """Bytes of those shards that no row names."""
        return max(0, sum(self.used(rows).values()) - sum(aligned(row["bytes"]) for row in rows))

    def publish(self, rows: Sequence[Row], manifest: dict[str, Any]) -> None:
        """Write the index and then the manifest; from then on this is a corpus of these rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA} for row in rows], schema=pa.schema(_types()))
        with files.atomic(self.folder / INDEX) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        files.write_json(self.folder / MANIFEST, manifest)

    def sweep(self, rows: Iterable[Row]) -> None:
        """Remove the journal, the parts, and shards that no row names."""
        (self.folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        named = {row["shard"] for row in rows}
        for number in self.sizes():
            if number not in named:
                (self.folder / shard_name(number)).unlink()


# Columns of the index; the types are pyarrow's. JSON texts hold what has no plain form.
SCHEMA = {
    "path": "string",
    "relative": "string",
    "root": "string",
    "domain": "string",
    "format": "string",
    "axes_kind": "string",
    "shard": "int32",
    "offset": "int64",
    "bytes": "int64",
    "shape": "list<int64>",
    "dtype": "string",
    "stored": "list<int32>",
    "units": "list<string>",
    "rate_hz": "float64",
    "spacing_mm": "float64",
    "affine": "list<float64>",
    "grids": "string",
    "channels": "string",
    "axes": "string",
    "ids": "string",
    "given": "string",
    "parts": "string",
    "files": "string",
    "warnings": "string",
    "findings": "string",
    "events": "string",
    "native": "string",
    "beside": "int64",
}


def _types() -> list[tuple[str, Any]]:
    import pyarrow as pa

    plain = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64()}
    return [(name, pa.list_(plain[t[5:-1]]) if t.startswith("list<") else plain[t]) for name, t in SCHEMA.items()]
