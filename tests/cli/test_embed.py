"""``toolkit embed``: rows, formats, options, and outputs that exist."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ecg import record

KEYS = {"out", "rows", "dim", "failures", "samples_per_s", "peak_memory_mb", "rank"}
COLUMNS = ["path", "start", "stop", "unit", "domain", "subject", "embedding"]
RECORD = {
    "argv",
    "recipe",
    "recipe_hash",
    "model_hash",
    "packages",
    "input_hash",
    "seconds",
    "samples_per_s",
    "peak_memory_mb",
    "exit",
    "failures",
}


def vectors(table: pa.Table) -> np.ndarray:
    return table["embedding"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


@pytest.fixture
def embed(toolkit, data, model):
    """Rows of the three records with more words, as an Arrow table."""

    def run(*more: object) -> pa.Table:
        return pa.ipc.open_stream(toolkit("embed", data, "--model", model, "--out", "-", *more).raw).read_all()

    return run


def test_a_table_has_the_rows_in_order_and_says_what_made_it(toolkit, data, model, tmp_path) -> None:
    out = tmp_path / "e.parquet"
    done = toolkit("embed", data, "--model", model, "--out", out, "--json")
    assert set(done.document) == KEYS
    assert done.document["rows"] == 18
    table = pq.read_table(out)
    assert table.column_names == COLUMNS
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert [Path(p).name for p in table["path"].to_pylist()] == ["s0.hea"] * 6 + ["s1.hea"] * 6 + ["s2.hea"] * 6
    assert table["start"].to_pylist()[:6] == [0, 2, 4, 6, 8, 10]
    assert table["stop"].to_pylist()[5] == 12
    assert set(table["subject"].to_pylist()) == {"p0", "p1", "p2"}
    assert set(table["unit"].to_pylist()) == {"s"}
    metadata = {k.decode() for k in table.schema.metadata}
    assert {"toolkit.model_hash", "toolkit.recipe", "toolkit.version", "toolkit.preprocessing"} <= metadata
    record = json.loads(Path(f"{out}.run.json").read_text())
    assert set(record) >= RECORD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.parquet", "e.parquet.run.json"]


def test_every_format_holds_the_same_numbers_in_a_file_and_on_stdout(toolkit, data, model, table, tmp_path) -> None:
    want = vectors(pq.read_table(table))

    def read(kind: str, content: bytes) -> np.ndarray:
        if kind == "csv":
            return pd.read_csv(io.BytesIO(content)).filter(regex=r"^e\d+$").to_numpy()
        if kind == "jsonl":
            return np.array([json.loads(line)["embedding"] for line in content.splitlines()])
        if kind == "npy":
            return np.load(io.BytesIO(content))
        if kind == "parquet":
            return vectors(pq.read_table(io.BytesIO(content)))
        in_a_file = content.startswith(b"ARROW1")  # the stream format has no end that a reader could seek to
        return vectors((pa.ipc.open_file if in_a_file else pa.ipc.open_stream)(content).read_all())

    for kind in ("parquet", "csv", "jsonl", "npy", "arrow"):
        out = tmp_path / f"e.{kind}"
        toolkit("embed", data, "--model", model, "--out", out)
        np.testing.assert_array_equal(read(kind, out.read_bytes()).astype(np.float32), want)
        piped = toolkit("embed", data, "--model", model, "--out", "-", "--format", kind)
        np.testing.assert_array_equal(read(kind, piped.raw).astype(np.float32), want)
    assert out.with_suffix(".csv").read_text().startswith("path,start,stop,")


def test_levels(embed) -> None:
    windows, recordings, tokens = embed(), embed("--level", "recording"), embed("--level", "token")
    assert (windows.num_rows, recordings.num_rows, tokens.num_rows) == (18, 3, 18 * 2 * 20)
    np.testing.assert_allclose(vectors(recordings)[0], vectors(windows)[:6].mean(0), rtol=1e-4, atol=1e-6)
    assert set(tokens["channel"].to_pylist()) == {"II", "V5"}
    np.testing.assert_allclose(vectors(tokens)[:40].mean(0), vectors(windows)[0], rtol=1e-4, atol=1e-6)
    length = np.array(tokens["stop"].to_pylist()) - np.array(tokens["start"].to_pylist())
    np.testing.assert_allclose(length, 0.1)


def test_window_stride_layer_pool_batch_precision_and_shard_do_something(embed) -> None:
    plain = embed()
    assert embed("--window", 4).num_rows == 9
    assert embed("--stride", 1)["start"].to_pylist()[:3] == [0, 1, 2]
    assert not np.array_equal(vectors(embed("--layer", -2)), vectors(plain))
    assert vectors(embed("--pool", "meanstd")).shape == (18, 64)
    np.testing.assert_array_equal(vectors(embed("--pool", "meanstd"))[:, :32], vectors(plain))
    assert not np.array_equal(vectors(embed("--pool", "max")), vectors(plain))
    np.testing.assert_allclose(vectors(embed("--batch-size", 1)), vectors(plain), atol=1e-5)
    half = vectors(embed("--precision", "bf16"))
    assert not np.array_equal(half, vectors(plain))
    np.testing.assert_allclose(half, vectors(plain), atol=0.2)
    shards = [embed("--shard", f"{i}/2") for i in (1, 2)]
    assert [len(set(s["path"].to_pylist())) for s in shards] == [2, 1]
    assert sum(s.num_rows for s in shards) == 18


def test_inputs_of_every_kind(toolkit, data, model, tmp_path) -> None:
    def count(*inputs: object, stdin: bytes = b"") -> int:
        return len(toolkit("embed", *inputs, "--model", model, "--out", "-", "--format", "jsonl", stdin=stdin).out.splitlines())

    assert count(data / "s0.hea", data / "s0.hea") == 6
    assert count(data / "s[01].hea") == 12
    assert count("-", stdin=f"{data / 's0.hea'}\n{data / 's1.hea'}\n".encode()) == 12
    assert count("-", stdin=f"{data / 's0.hea'}\0{data / 's2.hea'}".encode()) == 12
    manifest = tmp_path / "all.csv"
    manifest.write_text(f"path,subject\n{data / 's0.hea'},somebody\n{data / 's1.hea'},\n")
    assert count(manifest) == 12
    rows = toolkit("embed", manifest, "--model", model, "--out", "-", "--format", "jsonl").out.splitlines()
    assert {json.loads(row)["subject"] for row in rows} == {"somebody", "p1"}
    pd.read_csv(manifest).to_parquet(tmp_path / "all.parquet")
    assert count(tmp_path / "all.parquet") == 12


def test_names_with_spaces_and_accents(toolkit, model, tmp_path) -> None:
    record(tmp_path / "Ménière ward/день 1", "s0", subject="p")
    (tmp_path / "Ménière ward/.hidden").mkdir()
    record(tmp_path / "Ménière ward/.hidden", "h")
    rows = [
        json.loads(r)
        for r in toolkit(
            "embed",
            tmp_path / "Ménière ward",
            "--model",
            model,
            "-o",
            "-",
            "--format",
            "jsonl",
        ).out.splitlines()
    ]
    assert {r["path"] for r in rows} == {str(tmp_path / "Ménière ward/день 1/s0.hea")}


def test_json_goes_to_stderr_when_the_table_goes_to_stdout(toolkit, data, model) -> None:
    done = toolkit("embed", data, "--model", model, "--out", "-", "--json", "--quiet")
    assert set(json.loads(done.err)) == KEYS
    assert pa.ipc.open_stream(done.raw).read_all().num_rows == 18
    assert toolkit("embed", data, "--model", model, "--out", "-", "--quiet").err == ""


def test_an_output_that_exists_is_refused_resumed_or_replaced(toolkit, data, model, tmp_path) -> None:
    words = ["embed", data, "--model", model, "--out", tmp_path / "e.parquet"]
    toolkit(*words)
    before = (tmp_path / "e.parquet").read_bytes()
    assert "exists" in toolkit(*words, code=2).error
    done = toolkit(*words, "--resume", "--json")
    assert set(done.document) == KEYS
    assert "complete" in done.err
    assert (tmp_path / "e.parquet").read_bytes() == before
    assert "options" in toolkit(*words, "--resume", "--window", 4, code=2).error
    assert "inputs" in toolkit("embed", data / "s0.hea", *words[2:], "--resume", code=2).error
    assert "exclude" in toolkit(*words, "--resume", "--overwrite", code=2).error
    toolkit(*words, "--overwrite", "--window", 4)
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 9
    assert not list(tmp_path.glob("*.journal"))


def test_resume_of_a_finished_output_of_another_model_is_refused(toolkit, data, model, small, tmp_path) -> None:
    toolkit("pretrain", data, *small, "--steps", 1, "--out", tmp_path / "other")
    toolkit("embed", data, "--model", model, "--out", tmp_path / "e.csv")
    assert (
        "another model"
        in toolkit("embed", data, "--model", tmp_path / "other", "--out", tmp_path / "e.csv", "--resume", code=2).error
    )
    (tmp_path / "e.csv.run.json").unlink()
    assert "run.json" in toolkit("embed", data, "--model", model, "--out", tmp_path / "e.csv", "--resume", code=2).error


def test_overwrite_takes_no_folder_for_a_file(toolkit, data, model, tmp_path) -> None:
    (tmp_path / "e.parquet").mkdir()
    (tmp_path / "e.parquet/kept").write_text("x")
    assert "folder" in toolkit("embed", data, "--model", model, "--out", tmp_path / "e.parquet", "--overwrite", code=2).error
    assert (tmp_path / "e.parquet/kept").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--format", "parket", "--out", "x"], "'parquet'"),
        (["--out", "x.xlsx"], ".parquet"),
        (["--pool", "men", "--out", "x.csv"], "'mean'"),
        (["--level", "row", "--out", "x.csv"], "recording"),
        (["--layer", -9, "--out", "x.csv"], "-9"),
        (["--batch-size", "many", "--out", "x.csv"], "many"),
        (["--shard", "5/4", "--out", "x.csv"], "5/4"),
        (["--shard", "4/4", "--out", "x.csv"], "empty"),
        (["--window", 0, "--out", "x.csv"], "--window"),
    ],
)
def test_a_mistyped_option_is_a_usage_error(toolkit, data, model, tmp_path, monkeypatch, words, hint) -> None:
    monkeypatch.chdir(tmp_path)
    assert hint in toolkit("embed", data, "--model", model, *words, code=2).err
    assert not list(tmp_path.iterdir())
