"""What one cardiac model knows of the same hearts through twelve leads, one lead, a pulse wave, or both.

    python examples/lead_drop.py OUT [--model RUN] [--subjects 12] [--steps 400]

Writes simulated recordings of sinus rhythm, ectopic beats and fibrillation to OUT once for each set of channels, trains `csfm`
on all of them (or takes RUN), and prints the balanced accuracy of a frozen probe, folds by subject, for each set and how far it
lies below that of twelve leads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from commands import answer

from toolkit.demo import cardiac, heart
from toolkit.demo.cardiac import RHYTHMS, WINDOW_S, Device
from toolkit.demo.labels import write_labels

SECONDS = 40.0
SETS = {
    "12 leads": tuple(heart.LEADS),
    "leads I, II, V2": ("I", "II", "V2"),
    "lead II": ("II",),
    "lead V5": ("V5",),
    "pulse": ("PLETH",),
    "lead II and pulse": ("II", "PLETH"),
}


def device(channels: tuple[str, ...]) -> Device:
    """A recorder of these channels."""
    return Device(tuple((name, name) for name in channels), 250)


def written(folder: Path, channels: tuple[str, ...], subjects: int) -> Path:
    """Recordings of every rhythm from every subject through one recorder; the path of their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(subjects):
        subject, name = heart.draw_subject(np.random.default_rng([7, index])), f"s{index + 1:02d}"
        for order, rhythm in enumerate(RHYTHMS):
            simulation = cardiac.simulate(subject, rhythm, SECONDS, np.random.default_rng([7, index, order + 1]))
            header = cardiac.write_record(folder, f"{name}_{rhythm}", name, simulation, device(channels))
            rows += [(header.name, label, name, a, b) for label, a, b in cardiac.window_labels(rhythm, simulation, WINDOW_S)]
    return write_labels(folder, ("path", "label", "subject", "start", "stop"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    labels = {name: written(given.out / name.replace(" ", "-"), channels, given.subjects) for name, channels in SETS.items()}
    model = given.model or given.out / "run"
    if not (model / "model.safetensors").exists():
        data = [str(path.parent) for path in labels.values()]
        answer(
            "pretrain",
            *data,
            "--recipe",
            "csfm",
            "--size",
            "tiny",
            "--steps",
            str(given.steps),
            "--out",
            str(model),
            "--overwrite",
            codes=(0,),
        )
    best = None
    print(f"{'channels':17} width  majority  random-init  pretrained  below 12 leads")
    for name, path in labels.items():
        found = answer("probe", str(path.parent), "--model", str(model), "--labels", str(path), "--group", "subject", codes=(0,))
        rows = {r["name"]: r["value"] for r in found["results"] if r["metric"] == found["main_metric"]}
        own = next(value for key, value in rows.items() if key not in ("majority", "handcrafted", "random-init"))
        best = own if best is None else best
        table = path.parent / "embeddings.parquet"
        width = answer("embed", str(path.parent), "--model", str(model), "--out", str(table), "--overwrite", codes=(0,))["dim"]
        print(f"{name:17} {width:5} {rows['majority']:9.3f} {rows['random-init']:12.3f} {own:11.3f} {best - own:15.3f}")


if __name__ == "__main__":
    main()
