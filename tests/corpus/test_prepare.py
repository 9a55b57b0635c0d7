"""Corpora as DATA: the same results as from the files, brought up to date, and never half made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from readers.prepared_store import MANIFEST, PLAN, entries
from tests import crash, ecg, prepared
from tests.readers.test_prepared import blocking
from toolkit import recipe as recipes
from toolkit.corpus import inputs, shards
from toolkit.corpus import prepare as preparation
from toolkit.corpus.inputs import gather, open_input, subject_of
from toolkit.corpus.notes import Notes
from toolkit.corpus.sources import open_sources
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.embedding.run import Embedding
from toolkit.errors import Interrupted, UsageError
from toolkit.interrupts import StopSignals
from toolkit.model import folder
from toolkit.progress import Progress
from toolkit.training.run import Job

KINDS = tuple(prepared.MAKERS)
CPU = torch.device("cpu")


def quiet():
    return Progress("test", 1, "steps", enabled=False)


@pytest.fixture
def data(tmp_path):
    return prepared.folder_of("wfdb", tmp_path / "data")


@pytest.fixture
def corpus(tmp_path):
    return tmp_path / "corpus"


@pytest.fixture
def recipe():
    return prepared.recipe("wfdb")


def names(corpus):
    return [entry.path.name for entry in entries(corpus)]


def trained(data, recipe, out):
    """A run's weights, the hash of its inputs and what was said of them."""
    sources, failures, notes = open_sources(gather([str(data)]), recipe)
    assert not failures
    job = Job(recipe, sources, failures, out, device=CPU, bf16=False, workers=1)
    job.prepare(init=None, resume=False, overwrite=False)
    job.run(quiet(), StopSignals())
    return (out / folder.WEIGHTS).read_bytes(), job.inputs, list(notes.lines())


def embedded(data, model, out):
    """A table of embeddings, and what was said of its inputs."""
    loaded = folder.load(model)
    window = loaded.recipe.data.window
    options = Options("window", window, window / 2, -1, "mean")
    embedding = Embedding(loaded, RecordingEncoder(loaded.model, loaded.recipe, options, CPU), Notes())
    outcome = embedding.to_file(
        gather([str(data)]).items, out, "parquet", plan={}, resume=False, progress=quiet(), stop=StopSignals()
    )
    assert not outcome.failures and outcome.rows > 3
    return pq.read_table(out), list(embedding.notes.lines())


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_embedding_are_the_same_from_files_and_from_a_corpus(tmp_path, corpus, kind):
    data, recipe = prepared.folder_of(kind, tmp_path / "data"), prepared.recipe(kind)
    prepared.prepare(data, corpus, recipe)
    weights, inputs_hash, notes = trained(data, recipe, tmp_path / "run")
    table, said = embedded(data, tmp_path / "run", tmp_path / "e.parquet")
    shutil.move(data, tmp_path / "elsewhere")  # a corpus needs no file any more
    again, same_hash, same_notes = trained(corpus, recipe, tmp_path / "again")
    assert again == weights and same_hash == inputs_hash and same_notes == notes
    other, same_said = embedded(corpus, tmp_path / "run", tmp_path / "o.parquet")
    assert other.equals(table) and same_said == said
    assert len(set(table["path"].to_pylist())) > 1


def test_neither_training_nor_embedding_from_a_corpus_imports_a_reader_package(tmp_path):
    code = blocking(("mne", "wfdb", "nibabel", "librosa", "soundfile", "open3d", "laspy")) + (
        "import toolkit.training.loop, toolkit.embedding.run, readers.prepared\n"
        "from toolkit.cli.app import app\nfrom toolkit.corpus import inputs, sources, batches\nfrom toolkit import recipe\n"
        f"for kind in {KINDS!r}:\n"
        f"    place = {str(tmp_path)!r} + '/' + kind\n"
        "    made = recipe.resolve(place + '/r.toml')\n"
        "    opened, failures, _ = sources.open_sources(inputs.gather([place + '/corpus']), made)\n"
        "    print(kind, batches.BatchSampler(opened, made).batch(0).valid.any(), len(failures))\n"
        f"place = {str(tmp_path)!r} + '/nifti'\n"
        "words = ['--recipe', place + '/r.toml', '--out', place + '/run', '--device', 'cpu', '-q']\n"
        "app(['pretrain', place + '/corpus', *words], standalone_mode=False)\n"
    )
    for kind in KINDS:
        data, recipe = prepared.folder_of(kind, tmp_path / kind / "data"), prepared.recipe(kind)
        prepared.prepare(data, tmp_path / kind / "corpus", recipe)
        shutil.rmtree(data)
        (tmp_path / kind / "r.toml").write_text(recipes.to_toml(recipe))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*(f"{kind} True 0" for kind in KINDS), str(tmp_path / "nifti" / "run")]


def test_a_corpus_is_data_with_the_order_subjects_and_words_of_its_files(data, corpus, recipe, tmp_path):
    (tmp_path / "list.csv").write_text("path,subject,site\ndata/b/r1.hea,manifest,here\ndata/a/r0.hea,,there\n")
    prepared.prepare(tmp_path / "list.csv", corpus, recipe)
    files, stored = gather([str(tmp_path / "list.csv")]), gather([str(corpus)])
    assert [i.path for i in files.items] == [i.path for i in stored.items] == [data / "b/r1.hea", data / "a/r0.hea"]
    assert [dict(i.ids) for i in files.items] == [dict(i.ids) for i in stored.items]
    assert [subject_of(i, open_input(i)) for i in stored.items] == ["manifest", "p0"]
    prepared.prepare(data, corpus, recipe, overwrite=True)
    files, stored = gather([str(data)]), gather([str(corpus)])
    assert [i.path for i in files.items] == [i.path for i in stored.items] and files.roots == stored.roots
    assert not stored.unclaimed and len(gather([str(corpus)], domain="cardiac").items) == 3
    with pytest.raises(UsageError, match="of domain mri"):
        gather([str(corpus)], domain="mri")
    assert [i.prepared is None for i in gather([str(data / "a"), str(corpus)]).items] == [True, True, False]


def test_a_folder_that_holds_a_corpus_gives_the_recordings_beside_it(data, recipe):
    before = gather([str(data)])
    prepared.prepare(data, data / "corpus", recipe)
    assert gather([str(data)]) == before
    assert prepared.prepare(data, data / "corpus", recipe, resume=True).kept == 3


@pytest.mark.parametrize(
    ("kind", "other", "said"),
    [
        ("wfdb", prepared.recipe("wfdb", data__rate_hz=100.0), r"signals at 80 Hz \(ecg, ppg\); .* reads signals at 100 Hz"),
        ("wfdb", prepared.recipe("edf", data__rate_hz=80.0, tokenizer__patch=80), r"ppg\); .* reads signals at 80 Hz \(eeg\)"),
        ("wfdb", prepared.recipe("nifti"), "signals at 80 Hz .* reads volumes at 3 and 2 mm"),
        ("nifti", prepared.recipe("nifti", data__spacing_mm=2.5, data__window_mm=15.0), "at 3 and 2 mm .* at 2.5 and 2 mm"),
        ("points", prepared.recipe("wfdb"), "holds points; .* reads signals at 80 Hz"),
    ],
)  # fmt: skip
def test_a_recipe_of_another_grid_is_refused_before_any_work(tmp_path, corpus, kind, other, said):
    prepared.prepare(prepared.folder_of(kind, tmp_path / "data"), corpus, prepared.recipe(kind))
    with pytest.raises(UsageError, match=said):
        open_sources(gather([str(corpus)]), other)
    with pytest.raises(UsageError, match="was begun with another recipe"):
        prepared.prepare(tmp_path / "data", corpus, other, resume=True)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("wfdb", {"data__window_s": 1.0, "data__scaling": "none", "data__kinds": ("ecg",)}),
        ("nifti", {"data__spacing_mm": 2.0, "data__window_mm": 12.0}),
        ("points", {"data__points": 16, "data__window_rows": 20}),
    ],
)
def test_a_recipe_that_reads_the_same_grid_is_served(tmp_path, corpus, kind, changes):
    data = prepared.folder_of(kind, tmp_path / "data")
    prepared.prepare(data, corpus, prepared.recipe(kind))
    recipe = prepared.recipe(kind, **changes)
    assert trained(corpus, recipe, tmp_path / "one")[0] == trained(data, recipe, tmp_path / "two")[0]


def test_resume_decodes_what_changed_and_leaves_out_what_is_gone(data, corpus, recipe, monkeypatch):
    assert prepared.prepare(data, corpus, recipe).redone == 3
    shard = (corpus / "shard-00000.bin").read_bytes()
    again = prepared.prepare(data, corpus, recipe, resume=True)
    assert (again.redone, again.kept, again.removed, again.dead) == (0, 3, 0, 0)
    assert (corpus / "shard-00000.bin").read_bytes() == shard

    path = ecg.record(data / "a", "r0", ("I", "II", "V2"), 7, seed=9)
    ecg.record(data / "a", "new", ("II",), 5)
    (data / "a" / "r2.hea").unlink()
    again = prepared.prepare(data, corpus, recipe, resume=True)
    assert (again.redone, again.kept, again.removed) == (2, 1, 1)
    assert 0 < again.dead < again.bytes and not again.compacted
    assert names(corpus) == ["new.hea", "r0.hea", "r1.hea"] == [i.path.name for i in gather([str(data)]).items]
    one, other = (open_input(gather([str(p)]).items[1]).read(0, 500, rate_hz=80.0) for p in (data, corpus))
    assert one.values.tobytes() == other.values.tobytes()

    os.utime(path)  # the same bytes at another time
    assert prepared.prepare(data, corpus, recipe, resume=True).redone == 1


@pytest.mark.parametrize(("limit", "count"), [(6000, 3), (2**30, 1)])
def test_shards_are_dropped_or_written_anew_where_most_of_them_is_dead(data, corpus, recipe, monkeypatch, limit, count):
    monkeypatch.setattr(shards, "SHARD_BYTES", limit)
    assert prepared.prepare(data, corpus, recipe).shards == count
    compacted = []
    for turn in range(4):
        for path in sorted(data.rglob("*.hea"))[:2]:
            os.utime(path, ns=(turn, turn))
        outcome = prepared.prepare(data, corpus, recipe, resume=True)
        compacted.append(outcome.compacted)
        assert outcome.bytes == sum(f.stat().st_size for f in corpus.glob("shard-*.bin")) and outcome.dead <= outcome.bytes / 2
        for one, other in zip(gather([str(data)]).items, gather([str(corpus)]).items, strict=True):
            a, b = (open_input(item).read(0, 600, rate_hz=80.0) for item in (one, other))
            assert a.values.tobytes() == b.values.tobytes() and np.array_equal(a.valid, b.valid)
    assert any(compacted) == (count == 1)


def test_a_failure_is_named_and_the_rest_is_complete(data, corpus, recipe):
    (data / "a" / "broken.hea").write_text("broken 1 100 100\nnowhere.dat 16 200 16 0 0 0 0 II\n")
    outcome = prepared.prepare(data, corpus, recipe)
    (failure,) = outcome.failures
    assert failure.path == str(data / "a" / "broken.hea") and "nowhere.dat" in failure.reason
    assert len(names(corpus)) == 3 and json.loads((corpus / MANIFEST).read_text())["failures"] == [failure.__dict__]
    with pytest.raises(UsageError, match="None of 1 recordings can be used"):
        prepared.prepare(data / "a" / "broken.hea", corpus.with_name("none"), recipe)


def test_what_a_signal_leaves_is_no_corpus_until_it_is_resumed(data, corpus, recipe):
    with pytest.raises(Interrupted, match="0 of 3 recordings are finished"):
        prepared.prepare(data, corpus, recipe, signal=signal.SIGINT)
    with pytest.raises(UsageError, match="was not finished. Continue"):
        gather([str(corpus)])
    with pytest.raises(UsageError, match="exists"):
        prepared.prepare(data, corpus, recipe)
    assert prepared.prepare(data, corpus, recipe, resume=True).redone == 3


def test_a_run_that_is_killed_between_any_two_writes_is_continued(data, corpus, recipe, monkeypatch):
    """Every prefix of what a run puts into the folder, with bytes in the shard that no row names."""
    monkeypatch.setattr(shards, "COMMIT_S", -1.0)
    prepared.prepare(data, corpus, recipe)
    whole = {entry.path: entry.row for entry in entries(corpus)}
    rows = sorted(whole.values(), key=lambda row: row["offset"])
    shard, plan = (corpus / "shard-00000.bin").read_bytes(), (corpus / PLAN).read_bytes()
    for done in range(4):
        for tail in (b"", b"\xff" * 1000):
            for cut in ("", '{"path": "half a li'):
                shutil.rmtree(corpus)
                corpus.mkdir()
                (corpus / PLAN).write_bytes(plan)
                end = rows[done - 1]["offset"] + rows[done - 1]["bytes"] if done else 0
                (corpus / "shard-00000.bin").write_bytes(shard[:end] + tail)
                (corpus / shards.JOURNAL).write_text("".join(json.dumps(row) + "\n" for row in rows[:done]) + cut)
                outcome = prepared.prepare(data, corpus, recipe, resume=True)
                assert (outcome.kept, outcome.redone) == (done, 3 - done)
                assert {entry.path: entry.row for entry in entries(corpus)} == whole
                assert (corpus / "shard-00000.bin").read_bytes() == shard
                assert not (corpus / shards.JOURNAL).exists()


def test_an_index_row_whose_bytes_are_gone_is_decoded_again(data, corpus, recipe):
    prepared.prepare(data, corpus, recipe)
    whole = (corpus / "shard-00000.bin").read_bytes()
    (corpus / "shard-00000.bin").write_bytes(whole[:-10])
    outcome = prepared.prepare(data, corpus, recipe, resume=True)
    assert (outcome.kept, outcome.redone) == (2, 1)
    assert (corpus / "shard-00000.bin").read_bytes() == whole


def test_processes_give_the_same_corpus_and_one_that_dies_costs_one_recording(tmp_path, corpus, recipe, monkeypatch):
    data = tmp_path / "data"
    for number in range(6):
        ecg.record(data, f"s{number}", seconds=4, seed=number)
    prepared.prepare(data, tmp_path / "alone", recipe)
    monkeypatch.setattr(preparation, "_decode", crash.decode)
    outcome = prepared.prepare(data, corpus, recipe, workers=2)
    assert [(f.path, f.reason) for f in outcome.failures] == [(str(data / "s3.hea"), "reading it crashed")]
    assert names(corpus) == [f"s{k}.hea" for k in range(6) if k != 3]
    alone = {item.path: open_input(item).read(0, 400, rate_hz=80.0) for item in gather([str(tmp_path / "alone")]).items}
    for item in gather([str(corpus)]).items:
        assert open_input(item).read(0, 400, rate_hz=80.0).values.tobytes() == alone[item.path].values.tobytes()


def test_out_must_be_new_or_ours_and_data_must_be_files(data, corpus, recipe, tmp_path):
    prepared.prepare(data, corpus, recipe)
    with pytest.raises(UsageError, match="exists. Choose another --out"):
        prepared.prepare(data, corpus, recipe)
    with pytest.raises(UsageError, match="holds no corpus that --resume could continue"):
        prepared.prepare(data, data, recipe, resume=True)
    with pytest.raises(UsageError, match="was not written by this program"):
        prepared.prepare(data, data, recipe, overwrite=True)
    with pytest.raises(UsageError, match="is a prepared corpus, which does not hold the files themselves"):
        prepared.prepare(corpus, tmp_path / "second", recipe)
    assert not (tmp_path / "second").exists()
    assert isinstance(inputs.gather([str(corpus)]).items[0].prepared.row, dict)
