"""``toolkit embed``."""

from __future__ import annotations

import shutil
import sys
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
    Precision,
    Quiet,
    Resume,
    Verbose,
    put_json,
    reports,
    say,
    say_inputs,
    warn,
    write_failures,
)

if TYPE_CHECKING:
    from toolkit.corpus.inputs import Input
    from toolkit.embedding.encoder import Options
    from toolkit.embedding.run import Outcome
    from toolkit.model.folder import LoadedModel
    from toolkit.record import RunRecord

KEYS = ("out", "rows", "dim", "failures", "samples_per_s", "peak_memory_mb", "rank")


@reports
def embed(
    data: Annotated[list[str], typer.Argument(help=DATA_HELP)],
    model: Annotated[Path, typer.Option("--model", help="Run folder of `toolkit pretrain`.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Table to write (.parquet .arrow .csv .jsonl .npy), or - for stdout.")],
    level: Annotated[str, typer.Option("--level", help="A row is a window, a recording or a token.")] = "window",
    format_: Annotated[
        str | None, typer.Option("--format", help="parquet, csv, jsonl, npy or arrow (default: by name; stdout arrow).")
    ] = None,
    window: Annotated[float | None, typer.Option("--window", help="Seconds, mm or rows (default: by recipe).", min=0.01)] = None,
    stride: Annotated[float | None, typer.Option("--stride", help="Between window starts (default: --window).", min=0.01)] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="-1 the last, -2 the one before, ... (default: the recipe's).", max=-1)
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", help="mean, max, meanstd, meanmax, class or attention over tokens (default: the recipe's)."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: only every N-th input, from the I-th on; for arrays of jobs.")
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", help="Windows through the encoder at once, or auto.")] = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    domain: Domain = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Turn recordings into a table of embeddings, one row a window.

    Example: toolkit embed recordings/ --model run --out embeddings.parquet

    Columns: path, start, stop, unit, domain, subject, embedding. Nothing is random. Inputs that cannot be
    used are named on stderr, in --json and in OUT.failures.csv (exit 3). With --out - the table alone goes to
    stdout and the --json document to stderr.
    """
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus.notes import Notes
    from toolkit.errors import UsageError
    from toolkit.model import folder
    from toolkit.record import RunRecord

    record = RunRecord("embed")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    kind = _format(out, format_)
    gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain)
    items = _shard(list(gathered.items), shard)
    loaded = folder.load(model)
    options = options_for(loaded, level, window, stride, layer, pool, batch_size)
    plan: dict[str, object] = {
        "model": loaded.hash,
        "options": options.__dict__,
        "format": kind,
        "inputs": [str(i.path) for i in items],
    }
    if resume and (finished := _finished(out, plan)):
        say(f"'{out}' is complete; nothing was done.", quiet=quiet)
        if json_:
            put_json({key: finished[key] for key in KEYS})
        return int(finished["exit"])
    say_inputs(gathered, [], Notes(), quiet=quiet, verbose=verbose)
    outcome, notes = _embed(
        items,
        loaded,
        options,
        out,
        kind,
        plan,
        device=device,
        precision=precision,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
    for line in notes.lines(every_file=verbose):
        warn(line, quiet=quiet)
    for failure in outcome.failures:
        warn(f"{failure.path} gave no rows: {failure.reason}.", quiet=quiet)
    code = 3 if outcome.failures else 0
    _finish(outcome, loaded, plan, items, out, record, code, json_=json_, quiet=quiet)
    return code


def _format(out: str, asked: str | None) -> str:
    from toolkit.embedding.table import FORMATS, WRITERS, default_format
    from toolkit.errors import UsageError, did_you_mean

    kind = asked or default_format(out)
    if kind is None:
        raise UsageError(f"'{out}' does not say its format. End it in {', '.join(FORMATS)}, or pass --format.")
    if kind not in WRITERS:
        raise UsageError(f"There is no format '{kind}'. {did_you_mean(kind, WRITERS)}")
    if out == "-" and kind not in ("csv", "jsonl") and sys.stdout.isatty():
        raise UsageError(
            f"--out - would write {kind}, which is binary, to a terminal. Send it into a pipe or a file, or pass "
            "--format csv or jsonl."
        )
    return kind


def _shard(items: list[Input], shard: str | None) -> list[Input]:
    from toolkit.errors import UsageError

    if shard is None:
        return items
    try:
        index, count = (int(part) for part in shard.split("/"))
    except ValueError:
        index = count = 0
    if not 1 <= index <= count:
        raise UsageError(f"--shard takes I/N with 1 <= I <= N, for instance 1/4; got '{shard}'.")
    if not items[index - 1 :: count]:
        raise UsageError(f"--shard {shard} of {len(items)} inputs is empty.")
    return items[index - 1 :: count]


def options_for(
    loaded: LoadedModel,
    level: str,
    window: float | None,
    stride: float | None,
    layer: int | None,
    pool: str | None,
    batch_size: str,
) -> Options:
    """The options of an embedding, the recipe's where none are given. Raises UsageError."""
    from toolkit.embedding.encoder import DEFAULT_BATCH, Options
    from toolkit.embedding.pooling import POOLINGS
    from toolkit.errors import UsageError, did_you_mean

    recipe = loaded.recipe
    pool, layer = pool or recipe.embedding.pool, layer if layer is not None else recipe.embedding.layer
    if pool not in POOLINGS:
        raise UsageError(f"There is no pooling '{pool}'. {did_you_mean(pool, POOLINGS)}")
    if level not in ("window", "recording", "token"):
        raise UsageError(f"--level is window, recording or token, got '{level}'.")
    if pool in ("class", "classmax") and not getattr(recipe.encoder, "class_token", False):
        raise UsageError(f"--pool {pool} needs a model with a class token; this one was trained without (encoder.class_token).")
    if pool == "attention" and not recipe.pools_by_attention:
        raise UsageError("--pool attention needs a model trained with a term that pools by attention, as reve's 'global'.")
    blocks = recipe.encoder.layers - 1
    if layer < -blocks - 1:
        raise UsageError(f"--layer {layer} is below the first of {blocks} blocks; the lowest is {-blocks - 1}.")
    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size) > 0):
        raise UsageError(f"--batch-size takes a number of windows or auto, got '{batch_size}'.")
    length = window or recipe.data.window
    if recipe.position.code == "grid" and length > recipe.data.window:
        raise UsageError(
            f"--window {length:g} is longer than the {recipe.data.window:g} that this model has positions for; they are a table "
            "(position.code = 'grid'). Take windows of that length, and --level recording for their mean."
        )
    size = DEFAULT_BATCH if batch_size == "auto" else int(batch_size)
    return Options(level, length, stride or length, layer, pool, size, recipe.embedding.layers)


def _finished(out: str, plan: dict[str, object]) -> dict[str, Any] | None:
    """The record of a finished output that came from the same plan; None where there is work left.

    Raises UsageError for an output of another model, other options or other inputs.
    """
    import json

    from toolkit.embedding import journal
    from toolkit.errors import UsageError, shortened

    if out == "-" or not Path(out).is_file() or journal.folder(Path(out)).exists():
        return None
    try:
        record = json.loads(Path(f"{out}.run.json").read_text(encoding="utf-8"))
        before = record["plan"]
    except (OSError, ValueError, KeyError):
        raise UsageError(
            f"'{out}' exists, and there is no '{out}.run.json' to say how it was made. Choose another --out, or "
            "pass --overwrite instead of --resume."
        ) from None
    if changed := [key for key in plan if before.get(key) != plan[key]]:
        raise UsageError(
            f"'{out}' is complete, but was made with another {changed[0]}: there {shortened(before.get(changed[0]), 80)}, "
            f"now {shortened(plan[changed[0]], 80)}. Choose another --out, or pass --overwrite instead of --resume."
        )
    return dict(record)


def _embed(
    items: list[Input],
    loaded: LoadedModel,
    options: Options,
    out: str,
    kind: str,
    plan: dict[str, object],
    *,
    device: str,
    precision: str,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> tuple[Outcome, Any]:
    from toolkit import files, machine
    from toolkit.corpus.notes import Notes
    from toolkit.embedding import journal
    from toolkit.embedding.encoder import RecordingEncoder
    from toolkit.embedding.run import Embedding
    from toolkit.interrupts import StopSignals
    from toolkit.progress import Progress

    on = machine.use_device(device)
    encoder = RecordingEncoder(loaded.model, loaded.recipe, options, on, bf16=machine.use_bf16(precision, on))
    notes = Notes()
    embedding = Embedding(loaded, encoder, notes)
    with StopSignals() as stop, Progress("embed", len(items), "recordings", enabled=not quiet) as progress:
        if out == "-":
            return embedding.to_stream(items, typer.get_binary_stream("stdout"), kind, progress=progress, stop=stop), notes
        target = Path(out)
        files.check_file(target, overwrite=overwrite or resume, what="Output")
        if overwrite:  # an output that is there stays until the new one is complete
            shutil.rmtree(journal.folder(target), ignore_errors=True)
        return embedding.to_file(items, target, kind, plan=plan, resume=resume, progress=progress, stop=stop), notes


def _finish(
    outcome: Outcome,
    loaded: LoadedModel,
    plan: dict[str, object],
    items: list[Input],
    out: str,
    record: RunRecord,
    code: int,
    *,
    json_: bool,
    quiet: bool,
) -> None:
    import json

    from toolkit import machine
    from toolkit.record import manifest_hash

    facts = {
        "out": out,
        "rows": outcome.rows,
        "dim": outcome.dim,
        "failures": [f.__dict__ for f in outcome.failures],
        "samples_per_s": outcome.samples_per_s,
        "peak_memory_mb": machine.peak_memory_mb(),
        "rank": outcome.rank,
    }
    if out != "-":
        write_failures(Path(f"{out}.failures.csv"), outcome.failures)
        record.add_model(loaded)
        record.add(plan=plan, inputs=len(items), input_hash=manifest_hash(i.path for i in items), **facts)
        record.write(Path(f"{out}.run.json"), exit_code=code)
    say(
        f"{outcome.rows} rows of {outcome.dim} numbers from {len(items) - len(outcome.failures)} recordings, "
        f"{outcome.samples_per_s:.1f} rows/s, effective rank {outcome.rank or 0:.1f}",
        quiet=quiet,
    )
    if json_ and out == "-":
        print(json.dumps(facts), file=sys.stderr)
    elif json_:
        put_json(facts)
