"""Hides a tenth of the time in blocks, then one lead at a time, and prints the NMSE of the repair beside its baselines.

    python examples/restore_table.py FOLDER --model RUN --out OUT

NMSE is over all hidden samples of a row; predicting every channel's mean scores 1.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from commands import answer


def line(name: str, rows: list[tuple[int, dict[str, float]]]) -> str:
    """The mean over rows (samples hidden, scores), weighted by samples."""
    total = sum(n for n, _ in rows)
    cells = [sum(n * row[key] for n, row in rows) / total for key in ("model", "linear interpolation", "identity")]
    return f"{name:34} {len(rows):5} {cells[0]:8.3f} {cells[1]:8.3f} {cells[2]:8.3f}"


def nmse(document: dict, index: int | None = None) -> dict[str, float]:
    """The scores of the model and its baselines, whole or of one row of by_length."""
    tables = {"model": document["metrics"], **document["baselines"]}
    return {name: (t if index is None else t["by_length"][index])["nmse"] for name, t in tables.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    common = ["--model", asked.model, "--overwrite", "--out", str(asked.out)]

    print(f"{'blocks, 10 % of the time':34} {'spans':>5} {'model':>8} {'linear':>8} {'flat':>8}")
    cells = defaultdict(list)
    for document in answer("restore", str(asked.folder), "--damage", "block:0.1", *common):
        for index, row in enumerate(document["metrics"]["by_length"]):
            upper = f"to {row['up_to_s']:g} s" if row["up_to_s"] else "and longer"
            name = f"{row['longer_than_s']:g} {upper}, {row['channels']} channel{'s' if row['channels'] == 'all' else ''}"
            cells[name] += [(1, nmse(document, index))] * row["spans"]
    for name in sorted(cells):
        print(line(name, cells[name]))

    print(f"\n{'one lead at a time':34} {'leads':>5} {'model':>8} {'linear':>8} {'flat':>8}")
    for seen in answer("inspect", str(asked.folder)):
        leads = [c["name"] for c in seen["channels"] if c["kind"] in ("ecg", "ppg")]
        rows = []
        for lead in dict.fromkeys(leads):
            if leads.count(lead) == len(leads):
                continue  # nothing would be left to rebuild it from
            (document,) = answer("restore", seen["path"], "--channels", lead, "--reference", seen["path"], *common)
            rows.append((1, nmse(document)))
        if rows:
            print(line(Path(seen["path"]).stem, rows))


if __name__ == "__main__":
    main()
