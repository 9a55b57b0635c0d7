import io
import json
import os
import resource
import shutil
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from readers.cardiac import create_wfdb
from toolkit.corpus.inputs import gather
from toolkit.corpus.notes import Notes
from toolkit.embedding import journal
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.embedding.read import read_table
from toolkit.embedding.run import Embedding
from toolkit.embedding.table import WRITERS
from toolkit.errors import Interrupted, ToolkitError, UsageError
from toolkit.interrupts import StopSignals
from toolkit.progress import Progress

OPTIONS = Options("window", 2.0, 1.0, -1, "mean", 2)
PLAN = {"model": "m", "options": {"window": 2.0}, "inputs": ["a"]}


class Counting(RecordingEncoder):
    """Notes which recordings were embedded; does something before the n-th."""

    def __init__(self, loaded, act=None, at=None):
        super().__init__(loaded.model, loaded.recipe, OPTIONS, torch.device("cpu"))
        self.seen, self.act, self.at = [], act, at

    def rows(self, recording):
        if len(self.seen) == self.at:
            self.act()
        self.seen.append(recording.path.stem)
        return super().rows(recording)


@pytest.fixture(scope="module")
def data(tmp_path_factory, wfdb_folder):
    """The records, one without its signals and one of nothing but NaN among them."""
    root = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(wfdb_folder, root)
    shutil.copy(root / "a/two.hea", root / "a/lost.hea")
    (root / "a/lost.hea").write_text((root / "a/two.hea").read_text().replace("two", "lost"))
    create_wfdb(root / "b", "blank", np.full((500, 1), np.nan), rate_hz=100, names=["II"], units=["mV"])
    return gather([str(root)]).items


ORDER = ["twelve", "two", "both", "more", "pulse"]


def embed(loaded, items, out, *, kind="parquet", plan=PLAN, resume=False, act=None, at=None):
    encoder = Counting(loaded, act, at)
    with StopSignals() as stop, Progress("embed", len(items), "recordings", enabled=False) as progress:
        made = Embedding(loaded, encoder, Notes())
        outcome = made.to_file(items, out, kind, plan=plan, resume=resume, progress=progress, stop=stop)
    return outcome, encoder.seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory, loaded, data):
    out = tmp_path_factory.mktemp("whole") / "t.parquet"
    return out, embed(loaded, data, out)[0]


def test_rows_come_in_input_order_and_what_failed_is_named(whole, data):
    out, outcome = whole
    got = read_table(out, "t")
    assert list(dict.fromkeys(p.rsplit("/", 1)[1] for p in got.path)) == [f"{name}.hea" for name in ORDER]
    assert outcome.rows == len(got.path) == 10 + 9 + 5 + 7 + 6 and outcome.dim == 32
    for name in ORDER:
        start = got.start[[name in p for p in got.path]]
        np.testing.assert_array_equal(start, np.arange(len(start)))
    assert {f.path.rsplit("/", 1)[1]: f.reason for f in outcome.failures}.keys() == {"lost.hea", "blank.hea"}
    assert "lost.dat" in outcome.failures[0].reason and "valid sample" in outcome.failures[1].reason
    assert list(dict.fromkeys(got.subject)) == ["s1", "s2", "s4", "s3"]
    assert got.metadata["toolkit.recipe"] == "csfm" and len(got.metadata["toolkit.model_hash"]) == 16
    assert json.loads(got.metadata["toolkit.options"])["stride"] == 1.0
    singular = np.linalg.svd(got.vectors.astype(float), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert outcome.rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-3)
    assert [p.name for p in out.parent.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_every_format_holds_the_same_rows_in_a_file_and_on_a_stream(whole, tmp_path, loaded, data, kind):
    expected, out = read_table(whole[0], "t"), tmp_path / f"t.{kind}"
    embed(loaded, data, out, kind=kind)
    stream = io.BytesIO()
    with StopSignals() as stop, Progress("embed", len(data), "recordings", enabled=False) as progress:
        outcome = Embedding(loaded, Counting(loaded), Notes()).to_stream(data, stream, kind, progress=progress, stop=stop)
    assert outcome.rows == 37 and [f.path for f in outcome.failures] == [f.path for f in whole[1].failures]
    for content in (out.read_bytes(), stream.getvalue()):
        if kind == "npy":
            np.testing.assert_array_equal(np.load(io.BytesIO(content)), expected.vectors)
        else:
            got = read_table(content, "t")
            np.testing.assert_array_equal(got.vectors, expected.vectors)
            assert (got.path, got.subject, got.start.tolist()) == (expected.path, expected.subject, expected.start.tolist())


def kill():
    raise KeyError("killed")


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_killed_embed_resumes_to_the_same_table_and_repeats_nothing(whole, tmp_path, loaded, data, after):
    out = tmp_path / "t.parquet"
    with pytest.raises(KeyError):
        embed(loaded, data, out, act=kill, at=after)
    assert not out.exists() and not list(journal.folder(out).glob(".*"))
    with pytest.raises(UsageError, match=r"unfinished run.*--resume"):
        embed(loaded, data, out)
    outcome, seen = embed(loaded, data, out, resume=True)
    assert seen == [n for n in ["twelve", "two", "blank", "both", "more", "pulse"] if n in seen]
    finished = 6 - len(seen)
    assert finished == after and outcome.rows == whole[1].rows and outcome.failures == whole[1].failures
    assert pq.read_table(out).equals(pq.read_table(whole[0])) and out.read_bytes() == whole[0].read_bytes()
    assert not journal.folder(out).exists()


def test_a_signal_stops_between_windows_and_leaves_a_journal(whole, tmp_path, loaded, data):
    out = tmp_path / "t.parquet"
    with pytest.raises(Interrupted, match=r"of 7 inputs are finished in '.*t\.parquet\.journal'.*--resume") as error:
        embed(loaded, data, out, act=lambda: os.kill(os.getpid(), signal.SIGTERM), at=3)
    assert error.value.exit_code == 143 and not out.exists()
    _, seen = embed(loaded, data, out, resume=True)
    assert seen == ["both", "more", "pulse"] and out.read_bytes() == whole[0].read_bytes()


def test_a_full_disk_keeps_the_journal(whole, tmp_path, loaded, data):
    out, before = tmp_path / "t.parquet", resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(ToolkitError, match=r"00000004\.arrow' could not be written: .*[Ff]ile too large"):
            embed(loaded, data, out, act=limit, at=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists() and not list(journal.folder(out).glob(".*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, ["another model", "m, now other"]),
        ({"options": {"window": 3.0}}, ["another options", "3.0"]),
        ({"inputs": ["b"]}, ["another inputs"]),
    ],
)
def test_rows_of_another_plan_are_never_mixed_in(tmp_path, loaded, data, change, words):
    out = tmp_path / "t.parquet"
    with pytest.raises(KeyError):
        embed(loaded, data, out, act=kill, at=2)
    with pytest.raises(UsageError) as error:
        embed(loaded, data, out, plan=PLAN | change, resume=True)
    assert all(word in str(error.value) for word in [*words, "--overwrite"]), str(error.value)


def test_a_journal_that_was_killed_before_its_plan_can_be_resumed(whole, tmp_path, loaded, data):
    out = tmp_path / "t.parquet"
    journal.folder(out).mkdir()
    embed(loaded, data, out, resume=True)
    assert out.read_bytes() == whole[0].read_bytes()


def test_resume_where_nothing_was_begun_begins(whole, tmp_path, loaded, data):
    embed(loaded, data, tmp_path / "t.parquet", resume=True)
    assert (tmp_path / "t.parquet").read_bytes() == whole[0].read_bytes()


def test_failures_alone_make_an_empty_table(tmp_path, loaded, data):
    outcome, _ = embed(loaded, [i for i in data if i.path.stem in ("lost", "blank")], tmp_path / "t.parquet")
    assert outcome.rows == 0 and outcome.rank is None and len(outcome.failures) == 2
    assert read_table(tmp_path / "t.parquet", "t").vectors.shape == (0, 32)


def test_what_the_model_will_not_see_is_noted(loaded, data, tmp_path):
    notes = Notes()
    with StopSignals() as stop, Progress("embed", 1, "recordings", enabled=False) as progress:
        Embedding(loaded, Counting(loaded), notes).to_stream(data, io.BytesIO(), "npy", progress=progress, stop=stop)
    said = "\n".join(notes.lines())
    assert "twelve.hea: recorded at 200 Hz" in said and "pulse.hea: recorded at 50 Hz" in said


def test_a_file_changed_in_the_headers_checksum_is_noted(loaded, data, tmp_path):
    source = next(i.path for i in data if i.path.stem == "two")
    shutil.copy(source, tmp_path)
    content = bytearray(source.with_suffix(".dat").read_bytes())
    content[100] ^= 1
    (tmp_path / "two.dat").write_bytes(content)
    notes = Notes()
    with StopSignals() as stop, Progress("embed", 1, "recordings", enabled=False) as progress:
        made = Embedding(loaded, Counting(loaded), notes)
        made.to_stream(gather([str(tmp_path)]).items, io.BytesIO(), "csv", progress=progress, stop=stop)
    assert "checksum" in "\n".join(notes.lines())
