"""Embedding tables: their schema, and one writer a format, to a file or to stdout.

Columns: path, start, stop, unit, domain, subject, embedding (FixedSizeList<float32>[D]); at token
level also channel. Rows keep their order; memory does not grow with the number of rows.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from toolkit.embedding.encoder import Rows
from toolkit.objective.spectrum import rank_of_moments

FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".csv": "csv", ".jsonl": "jsonl", ".npy": "npy"}
ROW_GROUP = 4096


def schema(width: int, *, tokens: bool, metadata: Mapping[str, str]) -> pa.Schema:
    """The table's schema with its metadata."""
    fields = [
        pa.field("path", pa.string()),
        pa.field("start", pa.float64()),
        pa.field("stop", pa.float64()),
        pa.field("unit", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("subject", pa.string()),
    ]
    if tokens:
        fields.append(pa.field("channel", pa.string()))
    fields.append(pa.field("embedding", pa.list_(pa.float32(), width)))
    return pa.schema(fields, metadata=dict(metadata))


def record_batch(rows: Rows, table: pa.Schema, *, path: str, domain: str, subject: str | None, unit: str) -> pa.RecordBatch:
    """Rows of one recording as Arrow."""
    n = len(rows.start)
    columns = {
        "path": [path] * n,
        "start": rows.start,
        "stop": rows.stop,
        "unit": [unit] * n,
        "domain": [domain] * n,
        "subject": pa.array([subject] * n, pa.string()),
        "channel": rows.channel,
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.embedding.ravel()), rows.embedding.shape[1]),
    }
    return pa.record_batch(
        [pa.array(columns[name]) if not isinstance(columns[name], pa.Array) else columns[name] for name in table.names],
        schema=table,
    )


def vectors(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """The embedding column as (n, D)."""
    column = batch.column("embedding")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)


class TableWriter(ABC):
    """Writes record batches in order to an open binary stream."""

    def __init__(self, sink: IO[bytes], table: pa.Schema) -> None:
        self.sink, self.table = sink, table

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the table; the sink stays open."""
        self.sink.flush()


class ParquetTable(TableWriter):
    """Parquet with row groups of about 4096 rows."""

    def __init__(self, sink: IO[bytes], table: pa.Schema) -> None:
        super().__init__(sink, table)
        self.writer = pq.ParquetWriter(sink, table, compression="zstd")
        self.held: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self.held.append(batch)
        if sum(map(len, self.held)) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self.held:
            self.writer.write_table(pa.Table.from_batches(self.held, self.table))
            self.held = []

    def close(self) -> None:
        self._flush()
        self.writer.close()
        super().close()


class ArrowTable(TableWriter):
    """The Arrow IPC file format, which is what programs expect of .arrow and .feather files."""

    def __init__(self, sink: IO[bytes], table: pa.Schema) -> None:
        super().__init__(sink, table)
        self.writer = self._open()

    def _open(self) -> pa.ipc.RecordBatchStreamWriter:
        return pa.ipc.new_file(self.sink, self.table)

    def write(self, batch: pa.RecordBatch) -> None:
        self.writer.write_batch(batch)

    def close(self) -> None:
        self.writer.close()
        super().close()


class ArrowStream(ArrowTable):
    """The Arrow IPC stream format, whose rows can be read from a pipe as they come."""

    def _open(self) -> pa.ipc.RecordBatchStreamWriter:
        return pa.ipc.new_stream(self.sink, self.table)


class CsvTable(TableWriter):
    """CSV with one column a dimension: e0, e1, ..."""

    def __init__(self, sink: IO[bytes], table: pa.Schema) -> None:
        super().__init__(sink, table)
        self.plain = [n for n in table.names if n != "embedding"]
        width = table.field("embedding").type.list_size
        self._lines([[*self.plain, *(f"e{i}" for i in range(width))]])

    def _lines(self, rows: list[list[object]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.sink.write(text.getvalue().encode())

    def write(self, batch: pa.RecordBatch) -> None:
        left = [batch.column(n).to_pylist() for n in self.plain]
        self._lines([[*cells, *map(_shortest, vector)] for *cells, vector in zip(*left, vectors(batch), strict=True)])


class JsonLines(TableWriter):
    """One JSON object a row."""

    def write(self, batch: pa.RecordBatch) -> None:
        plain = batch.drop_columns(["embedding"]).to_pylist()
        for row, vector in zip(plain, vectors(batch), strict=True):
            row["embedding"] = [float(_shortest(v)) for v in vector]
            self.sink.write((json.dumps(row) + "\n").encode())


class NpyTable(TableWriter):
    """A float32 (rows, D) array; the header is written again at the end, when the number of rows is known."""

    def __init__(self, sink: IO[bytes], table: pa.Schema) -> None:
        super().__init__(sink, table)
        self.rows = 0
        self._header()

    def _header(self) -> None:
        # The header is padded to a fixed 128 bytes for any row count, so it can be rewritten in place.
        width = self.table.field("embedding").type.list_size
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.rows}, {width}), }}"
        self.sink.write(b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n")

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += len(batch)
        self.sink.write(np.ascontiguousarray(vectors(batch), dtype="<f4").tobytes())

    def close(self) -> None:
        self.sink.seek(0)
        self._header()
        super().close()


WRITERS: dict[str, type[TableWriter]] = {
    "parquet": ParquetTable,
    "arrow": ArrowTable,
    "csv": CsvTable,
    "jsonl": JsonLines,
    "npy": NpyTable,
}
STREAM_WRITERS = WRITERS | {"arrow": ArrowStream}


def _shortest(value: np.float32) -> str:
    return np.format_float_positional(value, unique=True, trim="0") if 1e-4 <= abs(value) < 1e6 else repr(float(value))


class Gram:
    """Accumulates the (D, D) second moments of all rows: enough for the effective rank in one pass."""

    def __init__(self, width: int) -> None:
        self.sum = np.zeros((width, width))
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch."""
        block = vectors(batch).astype(np.float64)
        self.sum += block.T @ block
        self.rows += len(block)

    def effective_rank(self) -> float | None:
        """RankMe of the (rows, D) matrix, see :mod:`toolkit.objective.spectrum`; None for no rows."""
        return rank_of_moments(torch.from_numpy(self.sum)) if self.rows else None


def default_format(out: str) -> str | None:
    """The format a file name asks for; Arrow for stdout."""
    return "arrow" if out == "-" else FORMATS.get(Path(out).suffix)
