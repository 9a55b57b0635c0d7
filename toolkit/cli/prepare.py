"""``toolkit prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.console import (
    DATA_HELP,
    Debug,
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
    write_failures,
)

if TYPE_CHECKING:
    from toolkit.corpus.prepare import Outcome


@reports
def prepare(
    data: Annotated[list[str], typer.Argument(help=DATA_HELP)],
    recipe: Annotated[str, typer.Option("--recipe", help="Name (`toolkit recipes ls`) or a .toml file; its grid is used.")],
    out: Annotated[Path, typer.Option("--out", help="Corpus folder to create; pretrain, embed and probe take it as DATA.")],
    size: Annotated[str | None, typer.Option("--size", help="tiny, small, base or large (default: the paper's).")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, e.g. data.rate_hz=100; repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes that decode (default: the cores).", min=1)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue, or bring up to date: only files that changed are decoded again.")
    ] = False,
    overwrite: Overwrite = False,
    domain: Domain = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Decode recordings once, onto a recipe's grid, into shards that need none of the reader packages; prints the folder.

    Example: toolkit prepare recordings/ --recipe csfm --out corpus

    CORPUS is DATA for pretrain, embed and probe, with the same results as the files; restore needs the files. It holds
    shard-*.bin (float32, NaN where nothing is valid), index.parquet (one row a recording) and manifest.json, which
    says how numpy and pyarrow alone read them. SIGINT and SIGTERM leave what is finished; --resume continues. Inputs that
    cannot be used are named on stderr, in --json and in failures.csv (exit 3). Keys of --json: out recordings
    shards bytes failures seconds redone kept.
    """
    from toolkit import machine
    from toolkit import recipe as recipes
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus.notes import Notes
    from toolkit.corpus.prepare import Preparation
    from toolkit.errors import UsageError
    from toolkit.interrupts import StopSignals
    from toolkit.progress import Progress
    from toolkit.record import RunRecord

    record = RunRecord("prepare")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain)
    on = corpus.domain_of(gathered, recipes.domains_of(recipe), domain)
    resolved = recipes.resolve(recipe, size=size, settings=settings or (), domain=on)
    job = Preparation(resolved, gathered, out, arguments=data, workers=workers or machine.available_cores())
    job.start(resume=resume, overwrite=overwrite)
    say_inputs(gathered, [], Notes(), quiet=quiet, verbose=verbose)
    with StopSignals() as stop, Progress("prepare", len(gathered.items), "recordings", enabled=not quiet) as progress:
        outcome = job.run(progress, stop)
    notes = Notes()
    for name, sentence in outcome.notes:
        notes.add(name, sentence)
    say_inputs(corpus.Inputs(()), outcome.failures, notes, quiet=quiet, verbose=verbose)
    say(_sentence(outcome), quiet=quiet)
    facts = {
        "out": str(out),
        "recordings": outcome.recordings,
        "shards": outcome.shards,
        "bytes": outcome.bytes,
        "failures": [failure.__dict__ for failure in outcome.failures],
        "seconds": outcome.seconds,
        "redone": outcome.redone,
        "kept": outcome.kept,
    }
    code = 3 if outcome.failures else 0
    write_failures(out / "failures.csv", outcome.failures)
    record.add(recipe=resolved.model_dump(mode="json"), recipe_hash=recipes.fingerprint(resolved), **facts)
    record.write(out / "run.json", exit_code=code)
    if json_:
        put_json(facts)
    else:
        put(str(out))
    return code


def _sentence(outcome: Outcome) -> str:
    removed = f", {outcome.removed} that are gone left out" if outcome.removed else ""
    dead = f", of them {_size(outcome.dead)} dead" if outcome.dead > outcome.bytes / 100 else ""
    compacted = "; the shards were written anew, most of them was dead" if outcome.compacted else ""
    shards = f"{outcome.shards} {'shard' if outcome.shards == 1 else 'shards'}"
    return (
        f"{outcome.recordings} recordings in {shards}, {_size(outcome.bytes)}{dead}: {outcome.redone} decoded, "
        f"{outcome.kept} kept{removed}, {outcome.seconds:.1f} s{compacted}"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
