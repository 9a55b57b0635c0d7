"""PTB-XL's layout from its own table to scores."""

from __future__ import annotations

from pathlib import Path

from tests.ecg import record


def test_from_the_table_to_scores(toolkit, small, tmp_path: Path) -> None:
    rows = ["ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr"]
    for k in range(6):
        record(tmp_path / "records100", f"{k:05d}_lr", seconds=4, bpm=(60, 110)[k % 2], seed=k)
        codes = "\"{'NORM': 100.0, 'SR': 0.0}\"" if k % 2 else "\"{'STACH': 0.0}\""
        rows.append(f"{k},{k // 2},50,0,{codes},{1 if k < 4 else 10},records100/{k:05d}_lr,records500/{k:05d}_hr")
    table = tmp_path / "ptbxl_database.csv"
    table.write_text("\n".join(rows) + "\n")
    toolkit("pretrain", table, *small, "--steps", 2, "--out", tmp_path / "run")
    toolkit("embed", table, "--model", tmp_path / "run", "--out", tmp_path / "e.parquet")
    words = ["--labels", table, "--task", "multilabel", "--no-baselines", "--json"]
    by_fold = toolkit("probe", tmp_path / "e.parquet", *words, "--split", "strat_fold").document
    assert (by_fold["task"], by_fold["classes"], by_fold["windows"]) == ("multilabel", ["NORM", "SR", "STACH"], 12)
    assert by_fold["split"]["column"] == "strat_fold" and by_fold["split"]["group"] == "subject"
    by_patient = toolkit("probe", tmp_path / "e.parquet", *words, "--group", "patient_id").document
    assert by_patient["groups"] == 3
