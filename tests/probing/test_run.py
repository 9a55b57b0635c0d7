"""From labels and recordings to rows, matrices and a report."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.ecg import record
from toolkit.corpus import framing, inputs, labels
from toolkit.corpus.inputs import Inputs
from toolkit.corpus.labels import Labels
from toolkit.embedding.encoder import Options
from toolkit.embedding.read import EmbeddingTable
from toolkit.errors import UsageError
from toolkit.model.folder import LoadedModel
from toolkit.probing import material
from toolkit.probing.rows import from_recordings, join_table
from toolkit.probing.run import Probe, Question
from toolkit.progress import Progress

CPU = torch.device("cpu")
OPTIONS = Options("window", 2.0, 2.0, -1, "mean")


@pytest.fixture(scope="module")
def gathered(tmp_path_factory) -> Inputs:
    folder = tmp_path_factory.mktemp("records")
    for index in range(6):
        record(folder, f"s{index}", seconds=6.5, bpm=60 + 10 * index, seed=index, subject=f"p{index // 2}")
    return inputs.gather([str(folder)])


def table_of(text: str, folder: Path) -> Labels:
    (folder / "labels.csv").write_text(text)
    return labels.read(folder / "labels.csv")


def embeddings(gathered: Inputs, *, width: int = 4) -> EmbeddingTable:
    """Windows of 2 s of every recording; the vectors are random."""
    rows = [(str(i.path), 2.0 * k) for i in gathered.items for k in range(3)]
    path, start = [p for p, _ in rows], np.array([s for _, s in rows])
    vectors = np.random.default_rng(0).normal(size=(len(rows), width)).astype(np.float32)
    return EmbeddingTable(path, start, start + 2, [None] * len(rows), ["cardiac"] * len(rows), vectors)


def test_a_window_takes_the_label_that_covers_most_of_it(gathered, tmp_path) -> None:
    text = "path,label,start,stop\ns0.hea,a,0,2.5\ns0.hea,b,2.5,6\ns1.hea,c,,\ns2.hea,d,1.2,3\nx.hea,e,,\n"
    chosen = table_of(text, tmp_path)
    rows = join_table(embeddings(gathered), chosen, 0.5)
    got = [(Path(p).stem, s, chosen.rows["label"].iloc[r]) for p, s, r in zip(rows.path, rows.start, rows.label_row, strict=True)]
    assert got == [("s0", 0, "a"), ("s0", 2, "b"), ("s0", 4, "b"), ("s1", 0, "c"), ("s1", 2, "c"), ("s1", 4, "c"), ("s2", 2, "d")]
    assert any("'x.hea' (1 rows)" in w for w in rows.warnings)
    assert any("11 of 18 windows have no label" in w for w in rows.warnings)
    assert len(join_table(embeddings(gathered), chosen, 0.3).path) == 8


def test_labels_without_intervals_make_windows_of_the_recording(gathered, loaded: LoadedModel, tmp_path) -> None:
    chosen = table_of("path,label,start,stop\ns0.hea,a,,\ns1.dat,b,1,1.5\ns1,b,6.4,6.6\ns2.hea,a,7,8\n", tmp_path)
    rows = from_recordings(gathered.items, chosen, 2.0, framing.build(loaded.recipe))
    got = [(Path(p).stem, a, b) for p, a, b in zip(rows.path, rows.start, rows.stop, strict=True)]
    assert got == [("s0", 0, 2), ("s0", 2, 4), ("s0", 4, 6), ("s1", 1, 1.5), ("s1", 6.4, 6.6)]
    assert rows.subject == ["p0"] * 5


def test_nothing_that_matches_is_an_error(gathered, loaded: LoadedModel, tmp_path) -> None:
    chosen = table_of("path,label\nx.hea,a\n", tmp_path)
    with pytest.raises(UsageError, match=r"x\.hea"):
        join_table(embeddings(gathered), chosen, 0.5)
    with pytest.raises(UsageError, match=r"x\.hea"):
        from_recordings(gathered.items, chosen, 2.0, framing.build(loaded.recipe))


def test_recordings_and_a_model_give_three_matrices(gathered, loaded: LoadedModel, tmp_path) -> None:
    chosen = table_of(
        "path,label,start,stop\n" + "".join(f"s{i}.hea,{'ab'[k]},{3 * k},{3 * k + 2}\n" for i in range(6) for k in range(2)),
        tmp_path,
    )
    made = material.from_data(gathered, loaded, chosen, OPTIONS, CPU, baselines=True)
    matrices = made.features(quiet=True)
    assert list(matrices) == ["csfm", "handcrafted", "random-init"]
    assert all(len(m) == 12 and np.isfinite(m).any(axis=1).all() for m in matrices.values())
    assert matrices["csfm"].shape == (12, 32)
    assert list(material.from_data(gathered, loaded, chosen, OPTIONS, CPU, baselines=False).features(quiet=True)) == ["csfm"]
    assert made.facts["model_hash"] == loaded.hash


def test_a_recording_that_breaks_off_while_it_is_read_becomes_a_failure(loaded: LoadedModel, tmp_path) -> None:
    for index in range(3):
        record(tmp_path, f"s{index}", seconds=4, seed=index)
    found = inputs.gather([str(tmp_path)])
    made = material.from_data(
        found, loaded, table_of("path,label\ns0.hea,a\ns1.hea,b\ns2.hea,a\n", tmp_path), OPTIONS, CPU, baselines=True
    )
    (tmp_path / "s1.dat").unlink()
    matrices = made.features(quiet=True)
    assert np.isnan(matrices["csfm"][2:4]).all()
    assert [Path(f.path).name for f in made.rows.failures] == ["s1.hea"]


def test_only_classes(tmp_path) -> None:
    chosen = table_of("path,label\na,x\nb,y\nc,z\n", tmp_path)
    assert material.only_classes(chosen, "label", None) is chosen
    assert material.only_classes(chosen, "label", "x, z").rows["path"].tolist() == ["a", "c"]
    with pytest.raises(UsageError, match="'w'"):
        material.only_classes(chosen, "label", "w")


def labelled(gathered: Inputs, folder: Path, columns: str = "") -> tuple[Labels, EmbeddingTable]:
    rows = "".join(
        f"s{i}.hea,{'ab'[i % 2]},g{i // 2},{'test' if i > 3 else 'train'},{60 + 10 * i},{'u;v' if i % 2 else 'u'}\n"
        for i in range(6)
    )
    return table_of("path,label,who,side,rate,many\n" + rows, folder), embeddings(gathered)


@pytest.mark.parametrize(
    "question",
    [
        Question(group="who"),
        Question(group="who", split="side"),
        Question(group="who", target="rate", task="regression"),
        Question(group="who", target="many"),
        Question(group="who", head="knn"),
        Question(group="who", folds=2),
    ],
)
def test_no_group_is_ever_on_both_sides(gathered, tmp_path, question: Question) -> None:
    chosen, table = labelled(gathered, tmp_path)
    probe = Probe(join_table(table, chosen, 0.5), chosen, question)
    assert probe.folds
    for train, test in probe.folds:
        assert not set(probe.groups[train]) & set(probe.groups[test])
    result = probe.run({"m": table.vectors}, Progress("probe", 0, "fits", enabled=False))
    document = json.loads(json.dumps(probe.document(result), default=float))
    assert {r["name"] for r in document["results"]} == {"m", "majority"}
    assert document["results"][0]["metric"] == document["main_metric"]
    probe.write(result, probe.document(result), tmp_path / "out")
    predictions = pq.read_table(tmp_path / "out/predictions.parquet")
    assert predictions.num_rows == 18
    assert set(predictions["group"].to_pylist()) == {"g0", "g1", "g2"}
    assert (tmp_path / "out/report.html").read_text().count("<img") >= 1


def test_a_group_on_both_sides_of_a_split_is_refused(gathered, tmp_path) -> None:
    chosen, table = labelled(gathered, tmp_path)
    chosen.rows.loc[4, "side"] = "train"
    with pytest.raises(UsageError, match="'g2'"):
        Probe(join_table(table, chosen, 0.5), chosen, Question(group="who", split="side"))


def test_without_a_group_column_the_recording_is_the_group(gathered, tmp_path) -> None:
    chosen, table = labelled(gathered, tmp_path)
    probe = Probe(join_table(table, chosen, 0.5), chosen, Question())
    assert probe.group_name == "path"
    assert len(set(probe.groups)) == 6
