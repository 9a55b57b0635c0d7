"""``toolkit demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.console import Debug, Overwrite, put, reports, say

if TYPE_CHECKING:
    from toolkit.demo.shows import Show

DOMAINS = ("cardiac", "eeg", "mri", "birds", "points")


@reports
def demo(
    domain: Annotated[str, typer.Argument(help=f"Which recordings to generate: {', '.join(DOMAINS)}, or all.")] = "cardiac",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for recordings and results.")] = Path("toolkit-demo"),
    steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps (default: by domain).", min=1)] = None,
    subjects: Annotated[
        int | None, typer.Option("--subjects", help="Synthetic subjects, bird recordings or scenes (default: by domain).", min=1)
    ] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> int:
    """Generate recordings in a real format, then pretrain, embed, probe and restore them; about two minutes on two cores.

    Example: toolkit demo --out toolkit-demo

    The commands are shown as they run; type them on your own folder. Prints where the table, the scores and the pictures
    lie. With all, every domain has a folder of its own below --out.
    """
    from toolkit import files
    from toolkit.demo.shows import SHOWS
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.record import RunRecord

    if domain not in (*DOMAINS, "all"):
        raise UsageError(f"There is no demo '{domain}'. {did_you_mean(domain, (*DOMAINS, 'all'))}")
    shows = [(name, SHOWS[name]) for name in (DOMAINS if domain == "all" else (domain,))]
    for name, show in shows:
        if subjects is not None and subjects < show.least:
            raise UsageError(f"--subjects {subjects} is too few for the demo of {name}, which takes {show.least} or more.")
    files.claim_output(out, overwrite=overwrite, what="Demo folder")
    record = RunRecord("demo")
    record.write(out / "run.json", exit_code=1)  # also what says to --overwrite that the folder is ours
    for name, show in shows:
        _run(show, out / name if domain == "all" else out, steps, subjects)
    record.write(out / "run.json", exit_code=0)
    return 0


def _run(show: Show, out: Path, steps: int | None, subjects: int | None) -> None:
    """One domain, from its recordings to the list of what came out."""
    data, run, table = out / "recordings", out / "run", out / "embeddings.parquet"
    say(f"Generating {show.what.format(subjects or show.number)} in '{data}'.")
    labels = show.generate(data, subjects or show.number)
    settings = [word for setting in show.settings for word in ("--set", setting)]
    train = ("--recipe", show.recipe, "--size", "tiny", *settings, "--steps", steps or show.steps)
    _toolkit("pretrain", data, *train, "--out", run)
    _toolkit("embed", data, "--model", run, "--out", table)
    about = ("--target", show.target, "--task", show.task, "--group", show.group)
    _toolkit("probe", table, "--labels", labels, *about, "--out", out / "probe")
    results = [
        ("embeddings", table),
        ("scores", out / "probe/metrics.json"),
        ("report", out / "probe/report.html"),
        ("loss curve", run / "loss.png"),
    ]
    for repair in show.repairs:
        recording, into = data / repair.recording, out / "restored"
        options = [option.format(recording) for option in repair.options]
        _toolkit("restore", recording, "--model", run, *options, "--out", into, "--overwrite")
        results += [(repair.shows, picture) for picture in _pictures(into, recording)]
    for what, path in results:
        put(f"{what:18} {path}")


def _pictures(folder: Path, recording: Path) -> list[Path]:
    return sorted(folder.glob("*.restored.png" if recording.is_dir() else f"{recording.stem}.restored.png"))


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
