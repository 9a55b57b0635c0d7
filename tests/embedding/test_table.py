import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.embedding import table
from toolkit.embedding.encoder import Rows
from toolkit.embedding.read import looks_like_table, read_table
from toolkit.errors import UsageError

HARD = np.array([0.1, 1 / 3, -0.0, 1e-45, 3.4028235e38, 1e-4, 9.9999e-5, 1e6, 999999.94, 16777217.0, -7e-9], np.float32)
META = {"toolkit.recipe": "csfm", "toolkit.note": "é"}


def batches(rows, width=11, *, tokens=False, size=5):
    """Blocks of at most ``size`` rows, some of them without a subject; their values hard to print."""
    rng, schema = np.random.default_rng(rows), table.schema(width, tokens=tokens, metadata=META)
    values = rng.normal(size=(rows, width)).astype(np.float32)
    values[: len(values) // 2, : len(HARD)] = HARD[:width]
    made = []
    for first in range(0, rows, size):
        part = values[first : first + size]
        start = np.arange(first, first + len(part)) / 3
        named = Rows(start, start + 1 / 3, part, ("II",) * len(part) if tokens else None)
        subject = [None, "007", "NA"][first // size % 3]
        made.append(
            table.record_batch(named, schema, path=f'a, "b" {first // size}.hea', domain="cardiac", subject=subject, unit="s")
        )
    return schema, made, values


def written(kind, schema, made, *, writers=table.WRITERS):
    sink = io.BytesIO()
    writer = writers[kind](sink, schema)
    for batch in made:
        writer.write(batch)
    writer.close()
    return sink.getvalue()


def same(got, schema, made, *, metadata=True):
    expected = pa.Table.from_batches(made, schema)
    assert got.path == expected["path"].to_pylist() and got.subject == expected["subject"].to_pylist()
    assert got.domain == expected["domain"].to_pylist()
    np.testing.assert_array_equal(got.start, expected["start"])
    np.testing.assert_array_equal(got.stop, expected["stop"])
    values = np.concatenate([table.vectors(b) for b in made])
    assert got.vectors.dtype == np.float32 and got.vectors.tobytes() == values.tobytes()  # the very bits, -0.0 too
    assert got.metadata == (META if metadata else {})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl"])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_table_reads_back_as_written(kind, tokens, tmp_path):
    schema, made, _ = batches(23, tokens=tokens)
    (tmp_path / f"t.{kind}").write_bytes(written(kind, schema, made))
    assert looks_like_table(tmp_path / f"t.{kind}")
    same(read_table(tmp_path / f"t.{kind}", "t"), schema, made, metadata=kind in ("parquet", "arrow"))


def test_parquet_and_arrow_are_what_other_libraries_expect(tmp_path):
    schema, made, values = batches(23)
    expected = pa.Table.from_batches(made, schema)
    for kind in ("parquet", "arrow"):
        (tmp_path / f"t.{kind}").write_bytes(written(kind, schema, made))
    for got in (
        pq.read_table(tmp_path / "t.parquet"),
        pa.feather.read_table(tmp_path / "t.arrow"),
        pa.ipc.open_stream(written("arrow", schema, made, writers=table.STREAM_WRITERS)).read_all(),
    ):
        assert got.cast(schema).equals(expected) and got.schema.metadata == schema.metadata
        column = got.schema.field("embedding").type
        assert column.list_size == 11 and column.value_type == pa.float32()
    assert pd.read_feather(tmp_path / "t.arrow")["path"].tolist() == expected["path"].to_pylist()
    np.testing.assert_array_equal(np.stack(pd.read_parquet(tmp_path / "t.parquet")["embedding"]), values)


def test_csv_and_json_lines_are_what_other_libraries_expect():
    schema, made, values = batches(23)
    frame = pd.read_csv(io.BytesIO(written("csv", schema, made)))
    assert list(frame.columns) == ["path", "start", "stop", "unit", "domain", "subject", *(f"e{i}" for i in range(11))]
    np.testing.assert_array_equal(frame[[f"e{i}" for i in range(11)]].to_numpy(np.float32), values)
    rows = [json.loads(line) for line in written("jsonl", schema, made).decode().splitlines()]
    np.testing.assert_array_equal(np.array([r["embedding"] for r in rows], np.float32), values)
    assert rows[0] == {
        "path": 'a, "b" 0.hea',
        "start": 0.0,
        "stop": 1 / 3,
        "unit": "s",
        "domain": "cardiac",
        "subject": None,
        "embedding": rows[0]["embedding"],
    }
    assert b"0.1," in written("csv", schema, made) and "0.1" in json.dumps(rows[0]["embedding"][0])  # the shortest spelling


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
    st.floats(0, 1e7),
    st.one_of(st.none(), st.text(st.characters(categories=["L", "N", "P"]), min_size=1)),
)
def test_any_float32_and_any_name_survives_text(values, start, subject):
    vector = np.array([values], np.float32)
    schema = table.schema(len(values), tokens=False, metadata={})
    rows = Rows(np.array([start]), np.array([start + 1]), vector)
    made = [table.record_batch(rows, schema, path=subject or "p", domain="cardiac", subject=subject, unit="s")]
    for kind in ("csv", "jsonl"):
        same_values = read_table(written(kind, schema, made), "t")
        assert same_values.vectors.tobytes() == vector.tobytes() and same_values.start[0] == start
        assert same_values.subject == [subject] and same_values.path == [subject or "p"]


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 12345])
def test_a_npy_file_is_the_matrix(rows, tmp_path):
    schema, made, values = batches(rows, size=500)
    (tmp_path / "t.npy").write_bytes(written("npy", schema, made))
    for mode in (None, "r"):
        got = np.load(tmp_path / "t.npy", mmap_mode=mode, allow_pickle=False)
        assert got.dtype == np.dtype("<f4") and got.shape == (rows, 11)
        np.testing.assert_array_equal(got, values)
    content = (tmp_path / "t.npy").read_bytes()
    assert len(content) == 128 + 4 * values.size and content[127:128] == b"\n"


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
def test_a_table_without_rows_is_a_table(kind):
    schema, _, _ = batches(1)
    got = read_table(written(kind, schema, []), "t")
    assert got.path == [] and len(got.vectors) == len(got.start) == 0


def test_parquet_gathers_small_blocks_into_row_groups():
    schema, made, _ = batches(10_000, width=2, size=50)
    meta = pq.ParquetFile(io.BytesIO(written("parquet", schema, made))).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [4100, 4100, 1800]


class Pipe(io.BytesIO):
    """Bytes that go one way."""

    def seekable(self):
        return False

    def seek(self, *where):
        raise OSError("a pipe cannot seek")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl"])
def test_every_format_but_npy_goes_through_a_pipe(kind):
    schema, made, _ = batches(23)
    pipe = Pipe()
    writer = table.STREAM_WRITERS[kind](pipe, schema)
    for batch in made:
        writer.write(batch)
    writer.close()
    same(read_table(pipe.getvalue(), "-"), schema, made, metadata=kind in ("parquet", "arrow"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"path,label\nr1,N\n",
        b"PAR1 cut",
        b"ARROW1 cut",
        b"\xff\xff\xff\xffcut",
        b'{"path": 1}\n',
        b"{broken\n",
        b"\x93NUMPY",
    ],
)
def test_what_is_no_table_is_refused_by_name(content):
    with pytest.raises(UsageError, match="'my table' is not an embedding table"):
        read_table(content, "my table")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_damaged_table_is_refused_by_name(kind):
    content = bytearray(written(kind, *batches(500)[:2]))
    for cut in (content[: len(content) // 2], content[:100] + bytes(len(content) - 200) + content[-100:]):
        with pytest.raises(UsageError, match="is not an embedding table"):
            read_table(bytes(cut), "t")


def test_a_table_of_another_program_may_leave_out_subject_and_domain():
    plain = pa.table({"path": ["a", "b"], "start": [0.0, 1.0], "stop": [1.0, 2.0], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    sink = io.BytesIO()
    pq.write_table(plain, sink)
    got = read_table(sink.getvalue(), "t")
    assert got.subject == [None, None] and got.vectors.tolist() == [[1, 2], [3, 4]]


def test_manifests_labels_and_recordings_do_not_look_like_tables(tmp_path):
    pd.DataFrame({"path": ["a"]}).to_parquet(tmp_path / "manifest.parquet")
    (tmp_path / "labels.csv").write_text("path,label\na,N\n")
    (tmp_path / "r.hea").write_text("r 1 100 10\n")
    assert not any(looks_like_table(tmp_path / name) for name in ("manifest.parquet", "labels.csv", "r.hea", "gone.csv", "."))


@pytest.mark.parametrize(("rows", "width"), [(200, 8), (30, 8), (5, 8), (1, 3)])
def test_the_effective_rank_is_that_of_numpy_s_singular_values(rows, width):
    rng = np.random.default_rng(rows)
    schema = table.schema(width, tokens=False, metadata={})
    values = (rng.normal(size=(rows, width)) * np.geomspace(1, 1e-2, width) + 0.3).astype(np.float32)
    gram = table.Gram(width)
    for first in range(0, rows, 7):
        part = values[first : first + 7]
        named = Rows(np.zeros(len(part)), np.ones(len(part)), part)
        gram.add(table.record_batch(named, schema, path="p", domain="d", subject=None, unit="s"))
    singular = np.linalg.svd(values.astype(float), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert gram.effective_rank() == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    assert 1 <= gram.effective_rank() <= min(rows, width) * 1.001 and table.Gram(3).effective_rank() is None


@pytest.mark.parametrize(
    ("out", "kind"),
    [
        ("-", "arrow"),
        ("a.parquet", "parquet"),
        ("a.feather", "arrow"),
        ("a.npy", "npy"),
        ("a.csv", "csv"),
        ("a.jsonl", "jsonl"),
        ("a.txt", None),
        ("a", None),
    ],
)
def test_a_name_asks_for_a_format(out, kind):
    assert table.default_format(out) == kind
