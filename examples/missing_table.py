"""How close a contrast that is made from the others comes to the scan, beside what is had without a model: a Markdown table.

    python examples/missing_table.py DATA|demo OUT [--model RUN] [--subjects 24] [--steps 300]

DATA holds a folder for each subject, with the contrasts of one session; `demo` writes such heads to OUT. `bm-mae` is trained
with whole contrasts hidden, on three quarters of the subjects (or RUN is taken, which must not have seen the last quarter), and
makes each contrast of the last quarter from their others. PSNR in dB and SSIM, over the head, at the level and scale that fit
the scan best, of every row alike; means over the subjects. "Best copy" is the contrast that is best over all of them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from commands import answer

from toolkit.demo import mri

# Few contrasts are hidden at a time, always whole, and all that a session has are seen together, as when one is missing.
HIDING = ("mask.ways={groups=1.0}", "mask.ratio=0.34", "data.most_channels=3", "training.batch_size=3")
WHOLE = (0,)  # every session must be of use
ROWS = ("model", "best copy", "linear in the others", "flat")


def trained(sessions: list[Path], out: Path, steps: int) -> Path:
    """A small model of these sessions, of which a third of the contrasts is hidden at a time."""
    if not (out / "model.safetensors").exists():
        settings = [word for setting in HIDING for word in ("--set", setting)]
        answer(
            "pretrain",
            *sessions,
            "--recipe",
            "bm-mae",
            "--size",
            "tiny",
            "--steps",
            str(steps),
            *settings,
            "--out",
            out,
            codes=WHOLE,
        )
    return out


def scores(sessions: list[Path], model: Path, contrast: str, out: Path) -> dict[str, tuple[float, float]]:
    """Mean PSNR and SSIM of each row, of a contrast made for these sessions."""
    found = defaultdict(list)
    for one in answer("restore", *sessions, "--model", model, "--missing", contrast, "--out", out, "--overwrite", codes=WHOLE):
        for name, row in {"model": one["metrics"], **one["baselines"]}.items():
            found[name].append((row["psnr_db"], row["ssim"]))
    means = {name: (sum(p for p, _ in rows) / len(rows), sum(s for _, s in rows) / len(rows)) for name, rows in found.items()}
    means["best copy"] = max(value for name, value in means.items() if name.startswith("copy of"))
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    data = Path(given.data) if given.data != "demo" else mri.generate(given.out / "data", subjects=given.subjects).parent
    sessions = sorted(path for path in data.iterdir() if path.is_dir())
    least = max(1, len(sessions) // 4)
    model = given.model or trained(sessions[:-least], given.out / "run", given.steps)
    held = sessions[-least:]
    contrasts = sorted({channel["canonical"] for one in answer("inspect", *held, codes=WHOLE) for channel in one["channels"]})
    print(f"| PSNR (dB), SSIM | {' | '.join(ROWS)} |\n|{'---|' * (1 + len(ROWS))}")
    for contrast in contrasts:
        found = scores(held, model, contrast, given.out / "made" / contrast)
        cells = [f"{found[row][0]:.1f}, {found[row][1]:.2f}" if row in found else "" for row in ROWS]
        print(f"| {contrast} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
