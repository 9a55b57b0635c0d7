"""``toolkit restore``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.console import (
    DATA_HELP,
    Debug,
    Device,
    Domain,
    Json,
    Overwrite,
    Quiet,
    Verbose,
    put,
    put_json,
    reports,
    say,
    say_inputs,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.corpus.inputs import Input
    from toolkit.restoration.mender import Request


TASKS = ("auto", "inpaint", "channels", "modality")


@reports
def restore(
    data: Annotated[list[str], typer.Argument(help=DATA_HELP)],
    model: Annotated[Path, typer.Option("--model", help="Run folder of `toolkit pretrain`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the restored files into; inputs are never touched.")],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="auto (what the file and the other options say), inpaint (parts only), channels or modality (whole ones only).",
        ),
    ] = "auto",
    channels: Annotated[
        str | None,
        typer.Option("--channels", help="Channels to rebuild from the others, e.g. V5,V6 or T2w; names as in the file."),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            "--missing",
            help="Contrasts that MRI sessions lack, e.g. T2w or T2w,FLAIR: each is made from the others and written on their "
            "grid. Where a session has one, its file is hidden and what is made in its place is scored against it.",
        ),
    ] = None,
    spans: Annotated[
        Path | None,
        typer.Option(
            "--spans",
            help="CSV of what to repair: path,start,stop (seconds or rows) or path,x0,x1,y0,y1,z0,z1 (voxels); optional channel.",
        ),
    ] = None,
    damage: Annotated[
        str | None,
        typer.Option(
            "--damage",
            help="For evaluation, KIND:SEVERITY[,...]: block:0.1 hides a tenth, of signals in blocks of 0.3 to 5 s, of heads in "
            "boxes of 20 to 40 mm, of points in balls; channel:0.2 a fifth of the channels or contrasts.",
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Clean recording, or a folder of them by the same names, to score against.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of --damage.", min=0)] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    domain: Domain = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Repair damaged or missing parts of recordings and write them back in their own format; prints the paths.

    Example: toolkit restore recordings/ --model run --out restored

    Without --channels, --spans or --damage it repairs what the file marks invalid (NaN, gaps) and flat lines of a
    second or longer. Only repaired samples, voxels or points change; MP3 and OGG are written as FLAC, GDF and CNT as
    BrainVision. Beside each file: NAME.restored.json (what changed, how, the model) and NAME.restored.png. Keys of
    --json: path out task changed_fraction detected repaired clipped main_metric metrics baselines picture.
    """
    from readers.schema import ReadError
    from toolkit import machine
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus.notes import Notes
    from toolkit.errors import ToolkitError, UsageError
    from toolkit.interrupts import StopSignals
    from toolkit.model import folder
    from toolkit.progress import Progress
    from toolkit.record import RunRecord, manifest_hash
    from toolkit.restoration import menders
    from toolkit.restoration.run import Restoration

    record = RunRecord("restore")
    request = _request(task, channels, missing, spans, damage, reference, seed)
    gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain)
    loaded = folder.load(model)
    if loaded.untrained:
        raise UsageError(
            f"Model '{model}' cannot repair: its decoder was never trained. {loaded.untrained} `toolkit embed` and `toolkit "
            f"probe` run on it. To repair, train a decoder on your own recordings: toolkit pretrain DATA --init {model} --recipe "
            f"{model / folder.RECIPE} --set terms.0.target=raw --out RUN."
        )
    on = machine.use_device(device)
    _check_out(out, gathered.items, overwrite=overwrite)
    _check_new(out, gathered.items, request.missing, overwrite=overwrite)
    say_inputs(gathered, [], Notes(), quiet=quiet, verbose=verbose)
    job = Restoration(menders.build(loaded, on), request, out, loaded)
    for note in job.check(gathered.items):
        warn(note, quiet=quiet)
    done: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    record.add_model(loaded)
    record.add(
        device=str(on),
        seed=seed,
        inputs=len(gathered.items),
        input_hash=manifest_hash(i.path for i in gathered.items),
        failures=failures,
        restored=done,
    )
    try:
        with StopSignals() as stop, Progress("restore", len(gathered.items), "recordings", enabled=not quiet) as progress:
            for item in gathered.items:
                stop.check(f"{len(done)} of {len(gathered.items)} recordings are restored and complete in '{out}'.")
                try:
                    restored = job.restore(item)
                except ReadError as problem:
                    failures.append({"path": str(item.path), "reason": str(problem)})
                    warn(f"{item.path} was not restored: {problem}.", quiet=quiet)
                    continue
                done.append(restored.facts)
                for note in restored.notes:
                    warn(f"{item.path.name}: {note}.", quiet=quiet)
                say(_sentence(restored.facts), quiet=quiet)
                progress.update(len(done) + len(failures))
    except ToolkitError as problem:
        record.add(error=str(problem))
        with contextlib.suppress(ToolkitError):  # a full disk is full for the record too
            record.write(out / folder.RUN, exit_code=problem.exit_code)
        raise
    code = 3 if failures else 0
    record.write(out / folder.RUN, exit_code=code)
    if json_:
        put_json(done)
    else:
        for facts in done:
            put(facts["out"])
    return code


def _request(
    task: str,
    channels: str | None,
    missing: str | None,
    spans: Path | None,
    damage: str | None,
    reference: Path | None,
    seed: int,
) -> Request:
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.restoration import damage as damages
    from toolkit.restoration import spans as tables
    from toolkit.restoration.mender import Request

    if task not in TASKS:
        raise UsageError(f"There is no task '{task}'. {did_you_mean(task, TASKS)}")
    made = tuple(damages.parse(damage)) if damage else ()
    kinds = {kind for kind, _ in made}
    whole = channels is not None or missing is not None or "channel" in kinds
    if task == "inpaint" and whole:
        raise UsageError(
            "--task inpaint repairs parts; --channels, --missing and --damage channel ask for whole ones: leave out --task."
        )
    if task in ("channels", "modality") and not whole:
        raise UsageError(f"--task {task} needs --channels or --missing (which to rebuild) or --damage channel:SEVERITY.")
    for name in _names(missing):
        if name != Path(name).name:
            raise UsageError(f"--missing names contrasts, as T2w, and the new files are named by them; got '{name}'.")
    if missing is not None and (reference is not None or made):
        raise UsageError(
            "--missing is scored against the session's own file where it has one; --reference and --damage are for what it has: "
            "leave them out, or name contrasts that are there with --channels."
        )
    if task in ("channels", "modality") and (spans is not None or "block" in kinds):
        raise UsageError(f"--task {task} rebuilds whole ones; --spans and --damage block name parts: leave out --task.")
    if reference is not None and not reference.exists():
        raise UsageError(f"--reference '{reference}' does not exist.")
    return Request(
        task,
        _names(channels),
        tables.read_table(spans) if spans else None,
        spans.parent if spans else Path(),
        made,
        reference,
        seed,
        _names(missing),
    )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _check_new(out: Path, items: Sequence[Input], missing: Sequence[str], *, overwrite: bool) -> None:
    """Files of contrasts that sessions lack replace none that is there, and none of each other's."""
    from readers.mri_create import named_like
    from toolkit.errors import UsageError

    targets: dict[Path, Path] = {}
    for item in items:
        for name in missing:
            target = named_like(out / item.relative, name)
            if (other := targets.setdefault(target, item.path)) != item.path:
                raise UsageError(
                    f"'{target}' would be made from '{other}' and from '{item.path}', each alone. Name the folder of their "
                    "session, from whose files together it is made, or one of them."
                )
            if target.exists() and not overwrite:
                raise UsageError(f"'{target}' exists. Choose another --out, or pass --overwrite to replace it.")


def _check_out(out: Path, items: Sequence[Input], *, overwrite: bool) -> None:
    from readers import copy_path
    from toolkit import files
    from toolkit.errors import UsageError

    targets: dict[Path, Path] = {}
    for item in items:
        target = copy_path(item.path, out / item.relative)
        if (other := targets.setdefault(target, item.path)) != item.path:
            raise UsageError(
                f"'{other}' and '{item.path}' would both be restored to '{target}'. Restore them into "
                "folders of their own, or name the folder that holds both."
            )
        if target.resolve() == item.path.resolve():
            raise UsageError(
                f"--out '{out}' is where '{item.path}' lies; restored files never overwrite inputs. Choose another folder."
            )
        if target.exists() and not overwrite:
            raise UsageError(f"'{target}' exists. Choose another --out, or pass --overwrite to replace it.")
    if out.is_file():
        raise UsageError(f"--out '{out}' is a file, expected a folder.")
    files.check_writable(out)


def _sentence(facts: dict[str, Any]) -> str:
    count, metric = facts["repaired"], facts["main_metric"]
    text = (
        f"{facts['out']}: {count} {'part' if count == 1 else 'parts'} repaired, "
        f"{100 * facts['changed_fraction']:.2f} % of what is stored"
    )
    if facts["metrics"]:
        others = ", ".join(f"{name} {row[metric]:.3f}" for name, row in facts["baselines"].items())
        text += f"; {metric.upper()} {facts['metrics'][metric]:.3f} ({others})"
        if "ssim" in facts["metrics"]:  # a whole contrast: what it is usually measured by
            others = ", ".join(f"{name} {row['psnr_db']:.2f}" for name, row in facts["baselines"].items())
            text += f"; PSNR {facts['metrics']['psnr_db']:.2f} dB ({others})"
            others = ", ".join(f"{name} {row['ssim']:.3f}" for name, row in facts["baselines"].items())
            text += f"; SSIM {facts['metrics']['ssim']:.3f} ({others}); all at the level and scale that fit best, in the head"
    return text
