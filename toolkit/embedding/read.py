"""Reading an embedding table back: Parquet, Arrow (file or stream), CSV, JSON lines, from a file or stdin."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from toolkit.errors import UsageError

NEEDED = ("path", "start", "stop")


@dataclass(frozen=True)
class EmbeddingTable:
    """N rows: ``path`` as embedded, ``start`` and ``stop`` float64 (N,), ``vectors`` float32 (N, D).

    ``subject`` and ``domain`` are lists of N; ``metadata`` is what the writer put in (empty for CSV and JSON lines).
    """

    path: list[str]
    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    subject: list[str | None]
    domain: list[str]
    vectors: NDArray[np.float32]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_table(data: bytes | Path, name: str) -> EmbeddingTable:
    """Read a table, its format told by its first bytes. Raises UsageError that names ``name``."""
    content = data.read_bytes() if isinstance(data, Path) else data
    try:
        table = _arrow(content)
        return _from_arrow(table) if table is not None else _from_frame(_frame(content))
    except (pa.ArrowException, OSError, ValueError, KeyError) as problem:
        raise UsageError(f"'{name}' is not an embedding table: {problem}. Make one with `toolkit embed`.") from None


def looks_like_table(path: Path) -> bool:
    """Whether a file is an embedding table rather than DATA (a manifest has no embeddings)."""
    if not path.is_file():
        return False
    if path.suffix == ".parquet":
        try:
            return "embedding" in pq.read_schema(path).names
        except (pa.ArrowException, OSError):
            return True  # reading it will say what is wrong
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", errors="replace") as lines:
            return ",e0" in lines.readline()
    return path.suffix in (".arrow", ".feather", ".jsonl")


def _arrow(content: bytes) -> pa.Table | None:
    if content[:4] == b"PAR1":
        return pq.read_table(io.BytesIO(content))
    if content[:6] == b"ARROW1":
        return pa.ipc.open_file(content).read_all()
    if content[:4] == b"\xff\xff\xff\xff":
        return pa.ipc.open_stream(content).read_all()
    return None


def _from_arrow(table: pa.Table) -> EmbeddingTable:
    _check(table.column_names)
    table = table.combine_chunks()
    column = table["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else len(vectors) // max(1, len(column))
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    return EmbeddingTable(
        table["path"].to_pylist(),
        table["start"].to_numpy(),
        table["stop"].to_numpy(),
        table["subject"].to_pylist() if "subject" in table.column_names else [None] * table.num_rows,
        table["domain"].to_pylist() if "domain" in table.column_names else [""] * table.num_rows,
        vectors.reshape(table.num_rows, width),
        metadata,
    )


def _frame(content: bytes) -> pd.DataFrame:
    if not content.strip():
        raise ValueError("it is empty")
    if content[:1] == b"{":
        return pd.DataFrame([json.loads(line) for line in content.decode().splitlines() if line.strip()])
    # Arrow reads numbers back to the last bit and leaves a subject called NA or 007 what it is.
    whole = pa.csv.ReadOptions(block_size=min(len(content) + 1, 2**31 - 1))  # types are inferred from the first block
    text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in ("path", "subject", "domain")})
    frame = pa.csv.read_csv(io.BytesIO(content), whole, pa.csv.ParseOptions(newlines_in_values=True), text).to_pandas()
    numbers = [c for c in frame.columns if c[:1] == "e" and c[1:].isdecimal()]
    if not numbers:
        raise KeyError("columns e0, e1, ...")
    return frame.assign(embedding=pd.Series(list(frame[numbers].to_numpy(np.float32)), dtype=object, index=frame.index))


def _from_frame(frame: pd.DataFrame) -> EmbeddingTable:
    _check(list(frame.columns))
    subject = frame["subject"] if "subject" in frame else pd.Series([None] * len(frame))
    return EmbeddingTable(
        frame["path"].tolist(),
        frame["start"].to_numpy(float),
        frame["stop"].to_numpy(float),
        [None if pd.isna(s) or s == "" else str(s) for s in subject],
        frame["domain"].tolist() if "domain" in frame else [""] * len(frame),
        np.array(frame["embedding"].to_list(), np.float32).reshape(len(frame), -1 if len(frame) else 0),
    )


def _check(columns: list[str]) -> None:
    if missing := [c for c in (*NEEDED, "embedding") if c not in columns]:
        raise KeyError(f"it has no column {missing[0]}")
