"""Pretrains i2p-mae on clouds and prints what its image model changes: losses, what stays visible, and a linear SVM.

    python examples/i2p_table.py CLOUDS --labels labels.csv --out OUT [--teacher FILE] [--steps 200]

Without --teacher a small vision transformer of timm is trained here, for a minute or two, to tell seven kinds of made
solids apart by depth maps, and saved as the file that pretraining is given; "untrained" is that model before it. Rows of
the SVM come from `toolkit probe --head svm`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from commands import answer
from safetensors.torch import save_file

from toolkit.model.views2d import project

SHAPES = {"img_size": 64, "patch_size": 16, "embed_dim": 96, "depth": 4, "num_heads": 4}
ARCHITECTURE = "vit_tiny_patch16_224"
METRIC = "balanced_accuracy"


def solid(kind: int, rng: np.random.Generator, points: int = 512) -> np.ndarray:
    """Points (points, 3) on a made solid of one of seven kinds, stretched, turned about z and centred in the unit sphere."""
    u, v = rng.uniform(-1, 1, (2, points))
    angle = np.pi * u
    ring = np.stack([np.cos(angle), np.sin(angle), v], axis=1)
    flat = np.sqrt(1 - v**2)[:, None]
    made = {
        0: lambda: ring,  # a tube
        1: lambda: ring * np.concatenate([flat, flat, np.ones_like(flat)], axis=1),  # a sphere
        2: lambda: np.eye(3)[rng.integers(0, 3, points)] * np.sign(v)[:, None] + 0.0,  # corners, filled below
        3: lambda: ring * [[0.05, 0.05, 1.0]],  # a pole
        4: lambda: np.stack([u, 0.02 * v, v], axis=1),  # a wall
        5: lambda: ring * np.stack([1 - v, 1 - v, 2 + 0 * v], axis=1) / 2,  # a cone
        6: lambda: np.where(rng.random((points, 1)) < 0.3, ring * [[0.1, 0.1, 1.0]], ring * [[0.8, 0.8, 0.3]] + [[0, 0, 1.0]]),
    }[kind]()
    if kind == 2:  # a box: each point on one of its faces
        face = np.abs(made) > 0
        made = np.where(face, made, rng.uniform(-1, 1, (points, 3)))
    made = made * rng.uniform(0.5, 1.5, 3)
    turn = rng.uniform(0, 2 * np.pi)
    made = made @ np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    made = made + rng.normal(0, 0.02, made.shape) - made.mean(0)
    return made / np.linalg.norm(made, axis=1).max()


def teachers(out: Path, steps: int = 400) -> dict[str, Path]:
    """An image model before and after learning to tell made solids apart by their views; the files, and its score on stdout."""
    import timm

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=7, **SHAPES)
    found = {"untrained": save(model, out / "untrained")}
    adam = torch.optim.AdamW(model.parameters(), 5e-4)
    right: list[float] = []
    for _ in range(steps):
        kinds = rng.integers(0, 7, 16)
        clouds = torch.from_numpy(np.stack([solid(int(kind), rng) for kind in kinds])).float()
        views = project(clouds, torch.ones(clouds.shape[:2], dtype=torch.bool), SHAPES["img_size"]).images
        logits = model((views.flatten(0, 1)[:, None].expand(-1, 3, -1, -1) - 0.5) / 0.5)
        asked = torch.from_numpy(kinds).repeat_interleave(3)
        loss = torch.nn.functional.cross_entropy(logits, asked)
        adam.zero_grad()
        loss.backward()
        adam.step()
        right.append(float((logits.argmax(1) == asked).float().mean()))
    print(f"image model: {100 * np.mean(right[-50:]):.0f} % of single views of new solids right, of 7 kinds")
    return found | {"solids": save(model, out / "solids")}


def save(model: torch.nn.Module, stem: Path) -> Path:
    """The model's weights, and the configuration beside them that says what it is."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps({"architecture": ARCHITECTURE, "model_args": SHAPES}))
    return stem.with_suffix(".safetensors")


def pretrained(clouds: Path, run: Path, teacher: Path, steps: int, *settings: str) -> tuple[dict, dict]:
    """The first and the last line of the log of a run."""
    words = [str(word) for word in ("pretrain", clouds, "--recipe", "i2p-mae", "--size", "tiny", "--steps", steps, "--out", run)]
    words += ["--overwrite", *(w for s in (f"teacher.path={teacher}", *settings) for w in ("--set", s))]
    answer(*words)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rows[0], rows[-1]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clouds", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    known = {asked.teacher.stem: asked.teacher} if asked.teacher else teachers(asked.out)
    runs = {f"teacher {name}": (path, ()) for name, path in known.items()}
    last = list(known)[-1]
    runs[f"teacher {last}, masks at random"] = (known[last], ("mask.guided=false",))

    head = f"{'chamfer: first':>14} {'last':>8} {'mean':>8}  {'pictures: first':>15} {'last':>6} {'mean':>6}"
    print(f"\n{'':40} {head}  salient visible")
    for name, (teacher, settings) in runs.items():
        first, end = pretrained(asked.clouds, folder(asked.out, name), teacher, asked.steps, *settings)
        chamfer, pictures = ([row["terms"][term] for row in (first, end)] for term in ("reconstruction", "pictures"))
        shown = end.get("salient")
        kept = f"{shown['visible']:.2f} (random {shown['random']:.2f})" if shown else "as random"
        print(
            f"{name:40} {chamfer[0]['loss']:14.4f} {chamfer[1]['loss']:8.4f} {chamfer[1]['trivial']:8.4f}  "
            f"{pictures[0]['loss']:15.3f} {pictures[1]['loss']:6.3f} {pictures[1]['trivial']:6.3f}  {kept}"
        )

    print(f"\n{'linear SVM on frozen features':40} {'all labels':>24} {'5 labels a class':>18}")
    for name in runs:
        words = ["probe", asked.clouds, "--model", folder(asked.out, name), "--labels", asked.labels, "--head", "svm"]
        found = answer(*map(str, words), "--few-shot", "5")
        few = {row["name"]: f"{row['value']:.3f} +- {row['sd']:.3f}" for row in found["few_shot"] if row["metric"] == METRIC}
        for row in found["results"]:
            learned = row["name"] == "i2p-mae"
            if row["metric"] == METRIC and (learned or name == next(iter(runs))):
                cells = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
                print(f"{name if learned else row['name']:40} {cells:>24} {few.get(row['name'], ''):>18}")


def folder(out: Path, name: str) -> Path:
    """Of the run of a row."""
    return out / name.replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
