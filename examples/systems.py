"""The papers' systems on real recordings: held-out masked loss and frozen probes, one command a domain.

    python examples/systems.py /path/to/data OUT [--domains eeg,mri] [--seed 0]

DATA holds one folder a domain (ecg, ppg, eeg, mri, birds, points) with labels beside the recordings, as the table below names
them. For each system: `toolkit pretrain --size tiny` on the unlabelled recordings, then `toolkit probe` of the frozen model by
subject, recordist or object beside majority, hand-crafted features and the same encoder untrained. The masked loss is that of
a second run, trained without a quarter of the recordings (by subject) and scored on them, beside the trivial prediction.
Rows that are done are not run again; the table is printed and written to OUT/systems.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import answer


@dataclass(frozen=True)
class System:
    """A recipe on a domain's data: steps, windows a step, more words for `pretrain`, and what tells such a row from the plain."""

    recipe: str
    steps: int
    batch: int
    more: tuple[str, ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.recipe} {self.variant}".strip()


@dataclass(frozen=True)
class Task:
    """A labels CSV below DATA, the recordings it names, more words for `probe`, and the share of the labels that is used."""

    name: str
    data: str
    labels: str
    more: tuple[str, ...] = ()
    share: float = 1.0


@dataclass(frozen=True)
class Domain:
    """What is trained on, which systems, and what is asked of them."""

    data: tuple[str, ...]
    systems: tuple[System, ...]
    tasks: tuple[Task, ...]
    threads: int = 1


TWINS_ALONE = 'terms=[{ name = "reconstruction", predictor = "joint" }, { name = "second", on = 1, predictor = "joint" }]'

DOMAINS = {
    "cardiac": Domain(
        ("ecg/mitdb", "ecg/svdb", "ecg/troika", "ppg/troika"),
        (System("csfm", 1500, 32),),
        (
            Task("rhythm of 10 s (subjects)", "ecg", "ecg/labels_segments10s.csv"),
            Task("ventricular or normal (subjects)", "ecg", "ecg/labels_segments10s.csv", ("--classes", "normal,ventricular")),
            Task("beats (subjects)", "ecg", "ecg/labels_beats.csv"),
            Task("heart rate class, running, PPG (subjects)", "ppg/troika", "ppg/labels.csv"),
            Task("bpm, running, PPG (subjects)", "ppg/troika", "ppg/labels.csv", ("--target", "hr_bpm", "--task", "regression")),
        ),
    ),
    "eeg": Domain(
        ("eeg",),
        (System("reve", 3000, 16), System("reve", 3000, 16, ("--preset", "wide"), "wide")),
        (Task("rest or arithmetic (subjects)", "eeg", "eeg/labels.csv"),),
    ),
    "mri": Domain(
        ("mri",),
        (System("bm-mae", 2000, 8),),
        (
            Task("sex (subjects)", "mri/ixi", "mri/labels.csv"),
            Task("sex, prototypes", "mri/ixi", "mri/labels.csv", ("--head", "prototypes")),
            Task("age group (subjects)", "mri/ixi", "mri/labels.csv", ("--target", "age_group")),
            Task("age in years (subjects)", "mri/ixi", "mri/labels.csv", ("--target", "age", "--task", "regression")),
        ),
    ),
    "audio": Domain(
        ("birds/audio",),
        (System("bird-mae", 2400, 16),),
        (
            Task("species (recordists)", "birds/audio", "birds/labels.csv", ("--group", "recordist")),
            Task("species, prototypes", "birds/audio", "birds/labels.csv", ("--group", "recordist", "--head", "prototypes")),
        ),
    ),
    "points": Domain(
        ("points",),
        (
            System("point-mae", 800, 32),
            System("point-cmae", 500, 32),
            System("point-cmae", 500, 32, ("--set", TWINS_ALONE), "without consistency"),
            System("psa-ssl", 400, 32),
            System("i2p-mae", 800, 32),
        ),
        (
            Task("class (objects)", "points/dales", "points/labels.csv"),
            Task("class, SVM", "points/dales", "points/labels.csv", ("--head", "svm")),
            Task("class, 2 % of the labels", "points/dales", "points/labels.csv", share=0.02),
            Task("class, 10 % of the labels", "points/dales", "points/labels.csv", share=0.1),
        ),
    ),
}


def image_teacher(out: Path) -> Path:
    """The image model that i2p-mae learns from: none is downloaded, one is trained here on depth maps of made solids."""
    from i2p_table import teachers

    place = out / "teacher"
    return place / "solids.safetensors" if (place / "solids.safetensors").exists() else teachers(place)["solids"]


def kept(path: Path) -> dict[str, Any] | None:
    """A row that was run before."""
    return json.loads(path.read_text()) if path.exists() else None


def system(name: str, chosen: System, data: Path, out: Path, seed: int) -> dict[str, Any]:
    """Train a system and probe it; its row, from its file where it was run before."""
    done, domain = out / name / f"{chosen.name}.json", DOMAINS[name]
    if (row := kept(done)) is not None:
        return row
    model, begun = out / name / chosen.name, time.monotonic()
    teacher = ("--set", f"teacher.path={image_teacher(out / name)}") if chosen.recipe == "i2p-mae" else ()
    facts = answer(
        "pretrain", *(str(data / one) for one in domain.data), "--domain", name, "--recipe", chosen.recipe, "--size", "tiny",
        "--steps", str(chosen.steps), "--batch-size", str(chosen.batch), "--seed", str(seed), "--held-out", "0.2",
        *teacher, *chosen.more, "--out", str(model), "--overwrite", threads=domain.threads,
    )  # fmt: skip
    trained = time.monotonic() - begun
    scores = [asked(task, model, data, domain.threads) for task in domain.tasks]
    row = {
        "domain": name,
        "system": chosen.name,
        "steps": chosen.steps,
        "batch": chosen.batch,
        "loss": facts["held_out"]["loss"],
        "trivial": facts["held_out"]["loss_trivial"],
        "train_minutes": trained / 60,
        "minutes": (time.monotonic() - begun) / 60,
        "tasks": scores,
    }
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(row, indent=1))
    return row


def asked(task: Task, model: Path, data: Path, threads: int) -> dict[str, Any]:
    """The main metric of each row of a probe with its interval; with a share of the labels the mean over five draws of them."""
    few = () if task.share == 1 else ("--label-fractions", str(task.share), "--draws", "5")
    found = answer("probe", str(data / task.data), "--model", str(model), "--labels", str(data / task.labels), *task.more, *few,
                threads=threads)  # fmt: skip
    known = ("majority", "handcrafted", "random-init")
    rows = {
        row["name"] if row["name"] in known else "pretrained": [row["value"], row["low"], row["high"]]
        for row in found["fractions" if few else "results"]
        if row["metric"] == found["main_metric"]
    }
    return {
        "task": task.name,
        "metric": found["main_metric"],
        "groups": found["groups"],
        "windows": found["windows"],
        "rows": rows,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Both tables in Markdown."""
    lines = ["| system | steps x windows | held-out loss | trivial | minutes |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row["system"], f"{row['steps']} x {row['batch']}", f"{row['loss']:.4g}", f"{row['trivial']:.4g}")
        lines.append(f"| {' | '.join(cells)} | {row['minutes']:.0f} |")
    lines += [
        "",
        "| system, task | metric | majority | hand-crafted | random-init | pretrained | apart |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for task in row["tasks"]:
            cells = [task["rows"][key] for key in ("majority", "handcrafted", "random-init", "pretrained")]
            apart = "yes" if cells[3][1] > cells[2][2] else ""
            shown = " | ".join(f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in cells)
            lines.append(f"| {row['system']}: {task['task']}, {task['groups']} groups | {task['metric']} | {shown} | {apart} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--domains", default=",".join(DOMAINS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for name in given.domains.split(","):
        for chosen in DOMAINS[name].systems:
            rows.append(system(name, chosen, given.data, given.out, given.seed))
            print(f"{name} {chosen.name}: done", file=sys.stderr)
    text = f"{platform.machine()}, {os.cpu_count()} cores, no GPU.\n\n{table(rows)}"
    (given.out / "systems.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
