"""Manifests: contrasts that a column puts together, and PTB-XL's own table."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.ecg import record
from tests.mri_files import volume
from toolkit.corpus import labels, manifests, ptbxl
from toolkit.corpus.inputs import gather, open_input
from toolkit.errors import UsageError

SCP = ["{'NORM': 100.0, 'SR': 0.0}", "{'IMI': 35.0, 'ABQRS': 0.0}", "{}"]


def write_ptbxl(folder, *, codes=SCP, rates=("lr", "hr")):
    """Records and ptbxl_database.csv as PTB-XL lays them out."""
    rows = []
    for k, cell in enumerate(codes, 1):
        names = {kind: f"records{rate}/00000/{k:05d}_{kind}" for kind, rate in (("lr", 100), ("hr", 500))}
        for kind in rates:
            record(
                folder / names[kind].rsplit("/", 1)[0], f"{k:05d}_{kind}", seconds=3, rate=100 if kind == "lr" else 500, seed=k
            )
        rows.append((k, f"{15000 + k}.0", 50 + k, k % 2, cell, k % 10 + 1, names["lr"], names["hr"]))
    columns = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
    path = folder / "ptbxl_database.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("rates", "hertz"), [(("lr", "hr"), 500), (("hr",), 500), (("lr",), 100)])
def test_ptbxl_s_table_is_a_manifest(tmp_path, rates, hertz):
    table = write_ptbxl(tmp_path, rates=rates)
    found = gather([str(table)])
    assert [item.path.stem for item in found.items] == [f"{k:05d}_{'hr' if hertz == 500 else 'lr'}" for k in (1, 2, 3)]
    assert [open_input(item).axes.rate_hz for item in found.items] == [hertz] * 3
    first = found.items[0].ids
    assert (first["subject"], first["patient_id"], first["strat_fold"], first["label"]) == ("15001.0", "15001.0", "2", "NORM;SR")


def test_without_any_record_the_500_hz_names_are_kept_and_fail_one_by_one(tmp_path):
    table = write_ptbxl(tmp_path, rates=())
    assert [listed.path.name for listed in manifests.read(table)] == ["00001_hr.hea", "00002_hr.hea", "00003_hr.hea"]


def test_ptbxl_s_table_is_a_table_of_labels(tmp_path):
    table = labels.read(write_ptbxl(tmp_path))
    assert table.rows["label"].tolist() == ["NORM;SR", "IMI;ABQRS", ""]
    assert table.rows["path"][0] == "records500/00000/00001_hr.hea"
    assert table.rows["subject"][0] == "15001.0" and table.rows["strat_fold"].tolist() == ["2", "3", "4"]
    assert table.rows["start"].isna().all()


@pytest.mark.parametrize(
    "cell",
    ["NORM", "{'NORM': 100", "['NORM']", "{'NORM': 'yes'}", "{1: 2.0}", "{'A;B': 1.0}", "{'A': 1e999}",
     "__import__('os').system('true')", "{'A': __import__('os')}", "(" * 5000, "{" * 5000, "{[]: 1}"],
)  # fmt: skip
def test_codes_that_are_no_dict_name_the_row_and_run_nothing(tmp_path, cell):
    table = write_ptbxl(tmp_path, codes=[SCP[0], cell], rates=())
    for read in (labels.read, manifests.read):
        with pytest.raises(UsageError) as caught:
            read(table)
        assert all(word in str(caught.value) for word in ("ptbxl_database.csv", "row 3", "scp_codes"))
        assert len(str(caught.value)) < 400


def test_columns_that_are_there_already_stay(tmp_path):
    given = pd.DataFrame({"filename_lr": ["a"], "label": ["x"], "subject": ["s"], "patient_id": ["p"], "scp_codes": ["{'A': 1}"]})
    table = ptbxl.as_table(given, tmp_path / "t.csv")
    assert table.iloc[0][["path", "label", "subject"]].tolist() == ["a.hea", "x", "s"]
    assert not ptbxl.fits(given.assign(path="a"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_of_one_recording_are_its_contrasts(tmp_path, suffix):
    for name in ("one_a", "one_b", "two"):
        volume(tmp_path / "mri", name)
    rows = {
        "path": [f"mri/{name}.nii" for name in ("one_a", "two", "one_b")],
        "recording": ["one", "", "one"],
        "subject": ["s1", "s2", ""],
    }
    manifest, table = tmp_path / f"list.{suffix}", pd.DataFrame(rows)
    table.to_csv(manifest, index=False) if suffix == "csv" else table.to_parquet(manifest)
    for data in ([str(manifest)], [str(manifest), str(tmp_path / "mri")], [str(tmp_path / "mri"), str(manifest)]):
        items = {item.path.name: item for item in gather(data).items}
        assert set(items) == {"one_a.nii", "two.nii"}
        assert items["one_a.nii"].parts == (tmp_path / "mri" / "one_b.nii",) and items["two.nii"].parts == ()
        assert items["one_a.nii"].ids["subject"] == "s1"
        assert len(open_input(items["one_a.nii"]).channels) == 2 and len(open_input(items["two.nii"]).channels) == 1


def test_a_file_twice_in_one_recording_is_named(tmp_path):
    volume(tmp_path, "a")
    (tmp_path / "list.csv").write_text("path,recording\na.nii,x\n./a.nii,x\n")
    with pytest.raises(UsageError, match=r"row 3: 'a.nii' is in the recording 'x' already"):
        gather([str(tmp_path / "list.csv")])


def test_where_no_reader_groups_the_column_is_like_any_other(tmp_path):
    for name in ("a", "b", "c"):
        record(tmp_path, name, seconds=1)
    (tmp_path / "list.csv").write_text("path,recording\na.hea,rest\nb.hea,rest\nc.hea,rest\n")
    items = gather([str(tmp_path / "list.csv")]).items
    assert [(item.path.name, item.parts, item.ids["recording"]) for item in items] == [
        (f"{name}.hea", (), "rest") for name in "abc"
    ]
