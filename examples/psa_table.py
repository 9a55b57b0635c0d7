"""What boxes and beam patterns add to a recipe of points: prints three tables.

    python examples/psa_table.py POINTS --labels LABELS.csv --out OUT [--steps 200]

Two scanners see the same generated objects. Cosines are of what a model makes of one object seen by either, as they are
and less the mean of all; a box is predicted for clouds as they are, scaled and turned; scores with few labels are of POINTS.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from commands import answer

from toolkit.corpus import framing, inputs
from toolkit.corpus.batches import Batch, collate
from toolkit.corpus.sources import open_sources
from toolkit.demo.points import CLASSES, Scanner, crop, draw_scene, scan, write_points
from toolkit.model import folder, tokenizers

SCANNERS = {"dense": Scanner(), "sparse": Scanner(rings=48, azimuths=1200, height=2.2)}
PLAIN = ["--set", "passes.2.view=plain", "--set", "passes.3.view=plain"]
ARMS = {"recipe alone": [], "with boxes, plain views": ["--with", "psa-ssl", *PLAIN], "with psa-ssl": ["--with", "psa-ssl"]}
SCALES, TURNS = (0.75, 1.0, 1.3), (20, 45, 70)


def objects(out: Path, scenes: range) -> None:
    """Every object of some scenes that both scanners see, a file of one name in each scanner's folder."""
    for number in scenes:
        things = draw_scene(np.random.default_rng([1, number]))
        scans = {name: scan(scanner, things, np.random.default_rng([2, number])) for name, scanner in SCANNERS.items()}
        for thing in (each for each in things if each.name in CLASSES):
            rows = {name: crop(returns, thing) for name, returns in scans.items()}
            if min(map(len, rows.values())) >= 64:
                for name, kept in rows.items():
                    (out / name).mkdir(parents=True, exist_ok=True)
                    path = out / name / f"{number:03d}_{thing.name}.ply"
                    write_points(path, scans[name].points[kept], scans[name].intensity[kept])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean cosine of rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def cosines(run: Path, tests: Path) -> tuple[float, float]:
    """Of the two scanners' embeddings of each object: as they are, and less the mean of all."""
    for name in SCANNERS:
        answer("embed", str(tests / name), "--model", str(run), "--out", str(run / f"{name}.npy"), "--overwrite")
    a, b = (np.load(run / f"{name}.npy") for name in SCANNERS)
    middle = np.concatenate([a, b]).mean(0)
    return cosine(a, b), cosine(a - middle, b - middle)


@torch.no_grad()
def boxes(loaded: folder.LoadedModel, batch: Batch, turn: float = 0.0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the predicted sides (n, 3) and the yaw in degrees (n,) of clouds turned by degrees and scaled."""
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    values = scale * np.einsum("ij,bjn->bin", np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), batch.values)
    tokens = tokenizers.build(loaded.recipe).tokenize(replace(batch, values=values.astype(np.float32)))
    number = [term.name for term in loaded.recipe.terms].index("box")
    every = torch.arange(tokens.valid.shape[1]).expand(tokens.valid.shape)
    looks = [loaded.model.look(n, tokens, every, every[:, :0]) for n in range(len(loaded.recipe.passes))]
    each = loaded.model.predictions(looks, [every] * len(loaded.recipe.terms))[number].values
    counts = tokens.valid[..., None]
    mean = ((each * counts).sum(1) / counts.sum(1)).numpy()
    return mean[:, 3:6], np.rad2deg(np.arctan2(mean[:, 7], mean[:, 6]) / 2)


def box_lines(run: Path, tests: Path) -> list[str]:
    """How predicted sides follow the scale of a cloud (slope of logs, 1 is right), and yaw its turn (error, chance is 45)."""
    loaded = folder.load(run)
    sources, _, _ = open_sources(inputs.gather([str(tests / "dense")]), loaded.recipe)
    made = framing.build(loaded.recipe)
    batch = collate([made.load(s.recording, made.plan(s.recording, 1e6, 1e6)[0], s.channels) for s in sources])
    logs = np.stack([boxes(loaded, batch, scale=scale)[0].mean(0) for scale in SCALES])
    slopes = np.polyfit(np.log(SCALES), logs, 1)[0]
    _, before = boxes(loaded, batch)
    off = [np.median(np.abs((boxes(loaded, batch, turn)[1] - before - turn + 90) % 180 - 90)) for turn in TURNS]
    long = np.array(["table" in source.path or "box" in source.path for source in sources])
    some = [np.median(np.abs((boxes(loaded, batch, t)[1] - before - t + 90) % 180 - 90)[long]) for t in TURNS]
    return [
        "slope of predicted length, width, height by scale: " + ", ".join(f"{slope:.2f}" for slope in slopes),
        "error of predicted yaw, degrees, of clouds turned by "
        + ", ".join(f"{t}: {e:.0f} ({s:.0f} of boxes and tables)" for t, e, s in zip(TURNS, off, some, strict=True)),
    ]


def main() -> None:
    """Train the arms and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="point-cmae")
    parser.add_argument("--steps", default="200")
    asked = parser.parse_args()
    objects(asked.out / "train", range(12))
    objects(asked.out / "test", range(100, 108))
    size = ["--recipe", asked.recipe, "--size", "tiny", "--steps", asked.steps, "--overwrite"]
    print(f"{'two scanners, one object':28} {'cosine':>8} {'less the mean':>14}", flush=True)
    for name, more in ARMS.items():
        run = asked.out / name.replace(" ", "-")
        answer("pretrain", str(asked.out / "train" / "dense"), *size, *more, "--out", str(run))
        print("{:28} {:8.3f} {:14.3f}".format(name, *cosines(run, asked.out / "test")), flush=True)
    print("", *box_lines(run, asked.out / "test"), "", sep="\n", flush=True)
    for name in ("recipe alone", "with psa-ssl"):
        run = asked.out / f"{name.replace(' ', '-')}-given"
        answer("pretrain", asked.points, *size, *ARMS[name], "--out", str(run))
        answer("embed", asked.points, "--model", str(run), "--out", str(run / "rows.parquet"), "--level", "recording")
        found = answer(
            "probe", str(run / "rows.parquet"), "--labels", asked.labels, "--label-fractions", "0.1,0.3,1", "--no-baselines"
        )
        for row in found["fractions"]:
            if row["name"] not in ("majority", "handcrafted", "random-init"):
                print(
                    f"{name:28} labels {row['fraction']:4.0%}: {row['metric']} {row['value']:.3f} ± {row['sd']:.3f}", flush=True
                )


if __name__ == "__main__":
    main()
