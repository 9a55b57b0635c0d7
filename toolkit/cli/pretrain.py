"""``toolkit pretrain``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

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
    Seed,
    Verbose,
    put,
    put_json,
    reports,
    say,
    say_inputs,
    warn,
)


@reports
def pretrain(
    data: Annotated[list[str], typer.Argument(help=DATA_HELP)],
    recipe: Annotated[str, typer.Option("--recipe", help="Name (`toolkit recipes ls`) or a .toml file.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to create; it is the model that other commands take.")],
    size: Annotated[str | None, typer.Option("--size", help="tiny, small, base or large (default: the paper's).")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="A variant of the recipe, e.g. as its code was released.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, e.g. mask.ratio=0.6; repeatable.")
    ] = None,
    with_: Annotated[
        list[str] | None, typer.Option("--with", help="Objective whose terms are added to the recipe's, as psa-ssl; repeatable.")
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Start from the weights of this model.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps.", min=1)] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data, instead of --steps.", min=0)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Windows a step.", min=1)] = None,
    held_out: Annotated[
        float | None,
        typer.Option("--held-out", help="Keep this share of the subjects back, and say what they cost.", min=0, max=0.9),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Annotated[int, typer.Option("--workers", help="Threads that read ahead.", min=1)] = 1,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe as TOML and stop.")] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    domain: Domain = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Learn a masked model from unlabelled recordings; prints the run folder.

    Example: toolkit pretrain recordings/ --recipe csfm --size tiny --out run

    The run folder holds model.safetensors, recipe.toml, run.json, metrics.jsonl (each line a step with its
    loss beside the loss of predicting every channel's mean) and checkpoints/. SIGINT and SIGTERM leave a
    checkpoint that --resume continues exactly.
    """
    from toolkit import machine
    from toolkit import recipe as recipes
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus.batches import BatchSampler
    from toolkit.corpus.sources import open_sources
    from toolkit.errors import UsageError
    from toolkit.interrupts import StopSignals
    from toolkit.progress import Progress
    from toolkit.recipe import Recipe
    from toolkit.training.held_out import split
    from toolkit.training.run import Job

    if steps is not None and epochs is not None:
        raise UsageError("--steps and --epochs exclude each other.")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    if domain is not None or len(recipes.domains_of(recipe)) == 1:  # its errors come before those of the data
        recipes.resolve(recipe, size=size, preset=preset, settings=settings or (), domain=domain, with_=with_ or ())
    gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain)
    on = corpus.domain_of(gathered, recipes.domains_of(recipe), domain)

    def resolve(steps: int | None) -> Recipe:
        flags = {"training.steps": steps, "training.batch_size": batch_size, "training.seed": seed}
        return recipes.resolve(
            recipe, size=size, preset=preset, settings=settings or (), flags=flags, domain=on, with_=with_ or ()
        )

    resolved = resolve(steps)
    if print_config and epochs is None:
        put(recipes.to_toml(resolved).rstrip())
        return 0
    sources, failures, notes = open_sources(gathered, resolved)
    if not sources:
        raise UsageError(f"None of {len(gathered.items)} recordings can be used. {failures[0].reason}.")
    if epochs is not None:
        whole = max(1, math.ceil(epochs * BatchSampler(sources, resolved).num_windows / resolved.training.batch_size))
        resolved = resolve(whole)
    if print_config:
        put(recipes.to_toml(resolved).rstrip())
        return 0
    say_inputs(gathered, failures, notes, quiet=quiet, verbose=verbose)
    kept, held = split(sources, held_out, resolved.training.seed) if held_out else (sources, [])
    place = machine.use_device(device)
    job = Job(resolved, kept, failures, out, device=place, bf16=machine.use_bf16(precision, place), workers=workers, held=held)
    job.prepare(init=init, resume=resume, overwrite=overwrite)
    say(job.headline, quiet=quiet)
    if job.fresh:
        say(
            f"Not in {init}, so begun afresh: {', '.join(job.fresh[:4])}{' and more' if len(job.fresh) > 4 else ''}.", quiet=quiet
        )
    known = len(failures)
    with StopSignals() as stop, Progress("pretrain", resolved.training.steps, "steps", enabled=not quiet) as progress:
        facts = job.run(progress, stop)
    for failure in failures[known:]:
        warn(f"{failure.path} is damaged inside; other recordings stood in for it: {failure.reason}.", quiet=quiet)
    say(
        f"loss {facts['loss']:.4f} where the trivial prediction costs {facts['loss_trivial']:.4f}; "
        f"{facts['samples_per_s']:.1f} windows/s; curves and pictures in {out / 'report.html'}",
        quiet=quiet,
    )
    if facts["held_out"] is not None:
        cost = facts["held_out"]
        say(
            f"{cost['recordings']} recordings of {cost['subjects']} subjects that were held out: loss {cost['loss']:.4f}, "
            f"trivial {cost['loss_trivial']:.4f}",
            quiet=quiet,
        )
    if json_:
        put_json(facts)
    else:
        put(str(out))
    return 3 if failures else 0
