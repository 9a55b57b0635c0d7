"""``toolkit probe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.console import (
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
    from toolkit.corpus.labels import Labels
    from toolkit.probing.material import Material

MIN_OVERLAP = 0.5


@reports
def probe(
    data: Annotated[
        list[str], typer.Argument(help="One embedding table (.parquet .arrow .csv .jsonl, or - for stdin), or DATA with --model.")
    ],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels", help="CSV with path, label, optional start and stop (seconds, voxels or rows), and any other columns."
        ),
    ],
    model: Annotated[
        Path | None, typer.Option("--model", help="Embed DATA with this model; each labelled interval becomes a row.")
    ] = None,
    head: Annotated[
        str, typer.Option("--head", help="linear (logistic or ridge) or knn, fitted on frozen embeddings.")
    ] = "linear",
    task: Annotated[str, typer.Option("--task", help="auto, binary, multiclass, multilabel or regression.")] = "auto",
    target: Annotated[str, typer.Option("--target", help="Label column to predict.")] = "label",
    group: Annotated[
        str | None, typer.Option("--group", help="Column that no fold may split (default: subject, else the recording).")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Column with train and test, or with the names of folds.")] = None,
    folds: Annotated[int, typer.Option("--folds", help="Folds by group, where --split is not given.", min=2)] = 5,
    min_overlap: Annotated[
        float | None,
        typer.Option(
            "--min-overlap", help=f"Of a table: share of a window that a label must cover (default: {MIN_OVERLAP}).", min=0, max=1
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Use only rows of these classes, e.g. normal,ventricular.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", help="With --model: mean, max, meanstd, meanmax, class or attention over tokens (default: the recipe's)."
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="With --model: -1 the last, -2 the one before, ...", max=-1)
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Compute hand-crafted and random-init rows where the recordings are at hand."
        ),
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for metrics.json, predictions.parquet, report.html and PNGs.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of folds and bootstrap.", min=0)] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    domain: Domain = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Say honestly what frozen embeddings know, against a labels CSV.

    Example: toolkit embed recordings/ --model run -o - | toolkit probe - --labels labels.csv --group subject --json

    No group (subject) is ever on both sides of a fold, and what the head tunes is chosen inside the training part. Beside
    the embeddings: the majority class, hand-crafted features, and the same encoder with random weights. Keys of --json:
    task target windows groups classes class_counts split{kind column folds group} main_metric
    results[{name head metric value low high}] kappa differences confusion warnings.
    """
    from toolkit import files
    from toolkit.corpus.notes import Notes
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.probing.heads import HEADS
    from toolkit.probing.run import Probe, Question
    from toolkit.progress import Progress
    from toolkit.record import RunRecord, manifest_hash

    record = RunRecord("probe")
    if head not in HEADS:
        raise UsageError(f"There is no head '{head}'. {did_you_mean(head, HEADS)}")
    if out is not None:
        files.check_folder(out, overwrite=overwrite, what="Output folder")
    material, table = _material(
        data, labels, model, target, classes, min_overlap, pool, layer, device, domain, baselines=baselines
    )
    if material.gathered is not None:
        say_inputs(material.gathered, [], Notes(), quiet=quiet, verbose=verbose)
    for note in (*material.notes, *material.rows.warnings):
        warn(note, quiet=quiet)
    asked = Probe(material.rows, table, Question(target, task, group, split, folds, head, seed))
    features = material.features(quiet=quiet)
    for failure in material.rows.failures:
        warn(f"{failure.path}: {failure.reason}.", quiet=quiet)
    with Progress("probe", 0, "fits", enabled=not quiet) as progress:
        result = asked.run(features, progress)
    for line in result.warnings:
        warn(line, quiet=quiet)
    document = asked.document(result)
    code = 3 if material.rows.failures else 0
    if out is not None:
        files.claim_output(out, overwrite=overwrite, what="Output folder")
        asked.write(result, document, out)
        record.add(
            labels=str(labels),
            label_hash=files.sha256(labels),
            seed=seed,
            inputs=len(set(material.rows.path)),
            input_hash=manifest_hash(Path(p) for p in dict.fromkeys(material.rows.path)),
            **material.facts,
            failures=[f.__dict__ for f in material.rows.failures],
            results=document["results"],
        )
        record.write(out / "run.json", exit_code=code)
        say(f"report in {out / 'report.html'}", quiet=quiet)
    if json_:
        put_json(document)
    else:
        _print_table(document)
    return code


def _material(
    data: list[str],
    labels: Path,
    model: Path | None,
    target: str,
    classes: str | None,
    min_overlap: float | None,
    pool: str | None,
    layer: int | None,
    device: str,
    domain: str | None,
    *,
    baselines: bool,
) -> tuple[Material, Labels]:
    """The labelled rows and features of an embedding table, or of DATA with a model."""
    from toolkit import machine
    from toolkit.cli.embed import options_for
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus import labels as tables
    from toolkit.embedding.read import looks_like_table, read_table
    from toolkit.errors import UsageError
    from toolkit.model import folder
    from toolkit.probing import material

    table = material.only_classes(tables.read(labels), target, classes)
    on = machine.use_device(device)
    if model is None:
        place = Path(data[0])
        if len(data) > 1 or not (data[0] == "-" or looks_like_table(place)):
            if data[0] != "-" and not place.exists():
                raise UsageError(f"'{data[0]}' does not exist.")
            raise UsageError(f"'{data[0]}' is not an embedding table. To probe recordings, name the model with --model.")
        if pool is not None or layer is not None:
            raise UsageError("--pool and --layer need --model; a table's embeddings are already pooled.")
        if domain is not None:
            raise UsageError("--domain needs --model; a table has the rows that it has.")
        content = typer.get_binary_stream("stdin").read() if data[0] == "-" else place
        rows = read_table(content, "stdin" if data[0] == "-" else data[0])
        share = MIN_OVERLAP if min_overlap is None else min_overlap
        return material.from_table(rows, table, share, on, baselines=baselines), table
    if min_overlap is not None:
        raise UsageError("--min-overlap is for a table's windows; with --model every labelled interval becomes a row.")
    gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain)
    loaded = folder.load(model)
    options = options_for(loaded, "window", None, None, layer, pool, "auto")
    return material.from_data(gathered, loaded, table, options, on, baselines=baselines), table


def _print_table(document: dict[str, Any]) -> None:
    """The main metric of every row, for people and for `column -t`."""
    metric = document["main_metric"]
    counts = ", ".join(f"{c} {n}" for c, n in document["class_counts"].items())
    put(
        f"# {document['target']} ({document['task']}): {document['windows']} windows, {document['groups']} groups by "
        f"{document['split']['group']}, {document['split']['folds']} folds{'; ' + counts if counts else ''}"
    )
    put(f"{'name':14} {'head':9} {metric:>20}      low     high")
    for row in document["results"]:
        if row["metric"] == metric:
            put(f"{row['name']:14} {row['head']:9} {row['value']:20.3f} {row['low']:8.3f} {row['high']:8.3f}")
