"""Every objective in every domain: loss against its trivial level, effective rank, linear probe against random-init, time.

    python examples/objectives.py /path/to/data OUT [--domains cardiac,eeg] [--objectives mae,cae]

DATA holds one folder a domain (ecg, eeg, mri, birds, points) with labels beside the recordings, as the table below names
them. Each cell is `toolkit pretrain --recipe OBJECTIVE --size tiny` for the domain's steps, then `toolkit probe` by
subject, recordist or object. Cells that are done are not run again; the table is printed and written to OUT/objectives.md,
with a sentence for each cell that does not beat random-init.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import answer

from toolkit import recipe as recipes

LATER = ("bert", "mmc", "tokenunify")  # run with --objectives
FINISHED = {"distill": ("teacher", "mae"), "e2mc": ("init", "mae")}  # objectives that go on from a finished run of another


@dataclass(frozen=True)
class Domain:
    """Recordings and labels below DATA, and a run of about 20 s on one core."""

    data: str
    labels: str
    steps: int
    batch: int
    options: tuple[str, ...] = ()


DOMAINS = {
    "cardiac": Domain("ecg/mitdb", "ecg/labels_segments10s.csv", 80, 16),
    "eeg": Domain("eeg", "eeg/labels.csv", 60, 16),
    "mri": Domain("mri/ixi", "mri/labels.csv", 40, 6),
    "audio": Domain("birds/audio", "birds/labels.csv", 40, 8, ("--group", "recordist")),
    "points": Domain("points/dales", "points/labels.csv", 150, 16),
}


def objectives() -> list[str]:
    """The recipes that run in every domain; those that others go on from first."""
    everywhere = [name for name in recipes.names() if set(recipes.domains_of(name)) == set(recipes.SYSTEMS)]
    names = [name for name in everywhere if name not in LATER]
    return sorted(names, key=lambda name: (name in FINISHED, name != "mae", name))


def cell(objective: str, name: str, data: Path, out: Path) -> dict[str, Any]:
    """One cell of the table, from its file where it was run before."""
    done, domain = out / name / f"{objective}.json", DOMAINS[name]
    if done.exists():
        return json.loads(done.read_text())
    model = out / name / objective
    how, of = FINISHED.get(objective, ("", ""))
    more = {"teacher": ["--set", f"teacher.path={out / name / of}"], "init": ["--init", str(out / name / of)]}.get(how, [])
    size = ["--steps", str(domain.steps), "--batch-size", str(domain.batch), "--seed", "1", "--set", "training.log_every=10"]
    answer("pretrain", str(data / domain.data), "--recipe", objective, "--domain", name, "--size", "tiny", *size, *more,
        "--out", str(model), "--overwrite", threads=1)  # fmt: skip
    rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    last = rows[-max(1, len(rows) // 10) :]
    resolved = recipes.resolve(str(model / "recipe.toml"))
    same = recipes.resolve(recipes.SYSTEMS[name], size="tiny")
    own = (resolved.encoder, resolved.embedding, resolved.tokenizer) != (same.encoder, same.embedding, same.tokenizer)
    row = {
        "objective": objective,
        "domain": name,
        "loss": mean(last, "loss"),
        "trivial": mean(last, "loss_trivial"),
        "rank_first": rows[0].get("rank"),
        "rank": mean(last, "rank"),
        "collapsed": rows[-1]["collapsed"],
        "seconds": domain.batch / max(r["samples_per_s"] for r in rows),  # of the stretch least disturbed by neighbours
        "scores": scores(model, name, data, baselines=own),
    }
    done.write_text(json.dumps(row))
    return row


def scores(model: Path, name: str, data: Path, *, baselines: bool) -> dict[str, list[float]]:
    """The main metric of each row of a probe with its interval: {"model": [value, low, high], "random-init": ...}."""
    domain = DOMAINS[name]
    found = answer("probe", str(data / domain.data), "--model", str(model), "--labels", str(data / domain.labels),
                *domain.options, "--baselines" if baselines else "--no-baselines", threads=1)  # fmt: skip
    known = ("majority", "handcrafted", "random-init")
    return {
        row["name"] if row["name"] in known else "model": [row["value"], row["low"], row["high"]]
        for row in found["results"]
        if row["metric"] == found["main_metric"]
    }


def mean(rows: list[dict[str, Any]], key: str) -> float:
    """Mean of a figure over log lines."""
    return sum(row[key] for row in rows) / len(rows)


def baselines(name: str, data: Path, out: Path) -> dict[str, list[float]]:
    """Majority, hand-crafted and random-init of a domain, with the encoder that most objectives share."""
    done = out / name / "baselines.json"
    if not done.exists():
        done.write_text(json.dumps(scores(out / name / "mae", name, data, baselines=True)))
    return json.loads(done.read_text())


def why(row: dict[str, Any], random: list[float]) -> str:
    """A sentence on a cell that does not beat random-init, from what was measured."""
    value, low, high = row["scores"]["model"]
    parts = []
    if row["loss"] > 0.98 * row["trivial"]:
        parts.append(f"its loss ({row['loss']:.3f}) is not yet below the trivial level ({row['trivial']:.3f})")
    if row["collapsed"]:
        parts.append(f"{', '.join(row['collapsed'])} no longer varies")
    if row["rank"] < 0.7 * row["rank_first"]:
        parts.append(f"the effective rank of its states fell from {row['rank_first']:.0f} to {row['rank']:.0f}")
    if low <= random[0] <= high:
        parts.append("the difference lies within the interval")
    reason = ", and ".join(parts) or "what it has learnt by then is not what the labels ask"
    return f"- {row['objective']} on {row['domain']}: {value:.3f} [{low:.3f}, {high:.3f}] against {random[0]:.3f}: {reason}."


def table(rows: list[dict[str, Any]], base: dict[str, dict[str, list[float]]]) -> str:
    """The table in Markdown: a line an objective, a column a domain, and the sentences."""
    names = list(base)
    cells = {(row["objective"], row["domain"]): row for row in rows}
    head = "| objective | " + " | ".join(f"{n} ({DOMAINS[n].steps} x {DOMAINS[n].batch})" for n in names) + " |"
    lines = [head, "|---" * (len(names) + 1) + "|"]
    for key in ("majority", "handcrafted", "random-init"):
        lines.append(f"| *{key}* | " + " | ".join(f"{base[n][key][0]:.3f}" for n in names) + " |")
    losing = []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        found = []
        for name in names:
            row = cells[objective, name]
            random = row["scores"].get("random-init", base[name]["random-init"])
            value = row["scores"]["model"][0]
            mark = "**" if value > random[0] else ""
            found.append(
                f"{mark}{value:.3f}{mark} ({random[0]:.3f}); {row['loss']:.3g} / {row['trivial']:.3g}; "
                f"{row['rank']:.0f}; {row['seconds']:.2f} s"
            )
            if value <= random[0]:
                losing.append(why(row, random))
        lines.append(f"| {objective} | " + " | ".join(found) + " |")
    words = (
        "Cells: probe (random-init); loss / trivial level; effective rank; seconds a step. Steps x windows a step in the head."
    )
    machine = f"{platform.machine()}, one thread a run, two runs at a time, {os.cpu_count()} cores."
    return "\n".join([words, machine, "", *lines, "", "Not ahead of random-init:", "", *(losing or ["(none)"])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--domains", default=",".join(DOMAINS))
    parser.add_argument("--objectives", default=",".join(objectives()))
    parser.add_argument("--parallel", type=int, default=2)
    asked = parser.parse_args()
    names, chosen = asked.domains.split(","), asked.objectives.split(",")
    for name in names:
        (asked.out / name).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for wave in ([o for o in chosen if o not in FINISHED], [o for o in chosen if o in FINISHED]):
        with ThreadPoolExecutor(asked.parallel) as pool:
            waiting = [pool.submit(cell, o, n, asked.data, asked.out) for o in wave for n in names]
            for one in waiting:
                rows.append(one.result())
                print(f"{rows[-1]['domain']:8} {rows[-1]['objective']:18} {rows[-1]['scores']['model'][0]:.3f}", file=sys.stderr)
    text = table(rows, {name: baselines(name, asked.data, asked.out) for name in names})
    (asked.out / "objectives.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
