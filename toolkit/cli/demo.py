"""``toolkit demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.console import Debug, Overwrite, put, reports, say

DOMAINS = ("cardiac",)
STEPS = 400
HASTE = ("--set", "data.most_channels=2", "--set", "optimizer.learning_rate=2e-3")  # what two minutes allow


@reports
def demo(
    domain: Annotated[str, typer.Argument(help="Which recordings to generate: cardiac.")] = "cardiac",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for recordings and results.")] = Path("toolkit-demo"),
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.", min=1)] = STEPS,
    subjects: Annotated[int, typer.Option("--subjects", help="Synthetic subjects, three recordings each.", min=3)] = 8,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> int:
    """Generate recordings in a real format, then pretrain, embed, probe and restore them; about two minutes on two cores.

    Example: toolkit demo --out toolkit-demo

    The commands are shown as they run; type them on your own folder. Prints where the table, the scores and the pictures lie.
    """
    from toolkit import files
    from toolkit.demo.cardiac import generate
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.record import RunRecord

    if domain not in DOMAINS:
        raise UsageError(f"There is no demo '{domain}'. {did_you_mean(domain, DOMAINS)}")
    files.claim_output(out, overwrite=overwrite, what="Demo folder")
    record = RunRecord("demo")
    record.write(out / "run.json", exit_code=1)  # also what says to --overwrite that the folder is ours
    data, run, table = out / "recordings", out / "run", out / "embeddings.parquet"
    say(f"Generating ECG and PPG of {subjects} synthetic subjects in '{data}' (WFDB).")
    labels = generate(data, subjects=subjects)
    _toolkit("pretrain", data, "--recipe", "csfm", "--size", "tiny", *HASTE, "--steps", steps, "--out", run)
    _toolkit("embed", data, "--model", run, "--out", table)
    _toolkit("probe", table, "--labels", labels, "--group", "subject", "--out", out / "probe")
    holter, clinic = data / "s03_ectopic.hea", data / "s01_sinus.hea"
    _toolkit("restore", holter, "--model", run, "--damage", "block:0.15", "--out", out / "restored")
    _toolkit("restore", clinic, "--model", run, "--channels", "aVF,V5", "--reference", clinic, "--out", out / "restored")
    for what, path in (
        ("embeddings", table),
        ("scores", out / "probe/metrics.json"),
        ("report", out / "probe/report.html"),
        ("loss curve", run / "loss.png"),
        ("gaps filled", out / "restored/s03_ectopic.restored.png"),
        ("leads rebuilt", out / "restored/s01_sinus.restored.png"),
    ):
        put(f"{what:17} {path}")
    record.write(out / "run.json", exit_code=0)
    return 0


def _toolkit(*words: object) -> None:
    """Run one command of this program, shown as the user would type it. Raises ToolkitError when it fails."""
    from toolkit.cli.app import app
    from toolkit.errors import ToolkitError

    line = shlex.join(["toolkit", *map(str, words)])
    say(f"\n$ {line}")
    code = app([str(w) for w in words], standalone_mode=False)
    if code:
        problem = ToolkitError(f"`{line}` exited {code}.")
        problem.exit_code = int(code)
        raise problem
