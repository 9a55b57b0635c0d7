"""``toolkit probe``."""

from __future__ import annotations

from collections.abc import Sequence
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
    from toolkit.probing.tune import Schedule

MIN_OVERLAP = 0.5
UNTRAINED = ("majority", "handcrafted", "random-init")  # baselines that --tune does not train


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
        str,
        typer.Option(
            "--head",
            help="On frozen embeddings: linear (logistic or ridge), knn or svm. On frozen tokens, at most 1024 an interval, with "
            "--model: prototypes (a call among noise) or attentive.",
        ),
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
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            help="With --model, rows of: frozen (--head on embeddings, the default), lora (adapters in attention are trained), "
            "full (all is trained), scratch (as full, from random weights). Repeatable, or frozen,lora,full.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Of --tune: passes over the training rows (default: about 300 steps, at most 40).", min=1),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Of --tune: the highest (default: 5e-4, of lora 2e-3)."),
    ] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", help="Of --tune lora (default: 8).", min=1)] = None,
    few_shot: Annotated[
        str | None, typer.Option("--few-shot", help="Also with so few labelled rows a class, e.g. 1,5,10.")
    ] = None,
    label_fractions: Annotated[
        str | None, typer.Option("--label-fractions", help="Also with these shares of the training rows, e.g. 0.1,0.3,1.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option("--draws", help="Draws of --few-shot and --label-fractions (default: 3).", min=2)
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
    the embeddings: the majority class, hand-crafted features, and the same encoder with random weights. With --tune the
    encoder itself learns, on the same folds, for a time that is fixed beforehand. Keys of --json:
    task target windows groups classes class_counts split{kind column folds group} main_metric
    results[{name head parameters metric value low high}] kappa differences
    few_shot[{name head shots metric value low high sd draws}] fractions[{name head fraction metric value low high sd draws}]
    confusion warnings. parameters: what the labels of a fold trained.
    """
    from toolkit import files
    from toolkit.corpus.notes import Notes
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.probing.heads import HEADS
    from toolkit.probing.run import Probe, Question
    from toolkit.probing.token_heads import TOKEN_HEADS
    from toolkit.progress import Progress
    from toolkit.record import RunRecord, manifest_hash

    record = RunRecord("probe")
    if head not in HEADS and head not in TOKEN_HEADS:
        raise UsageError(f"There is no head '{head}'. {did_you_mean(head, (*HEADS, *TOKEN_HEADS))}")
    if model is None and head in TOKEN_HEADS:
        raise UsageError(
            f"--head {head} reads the tokens of each interval, which a table of embeddings does not hold: give the recordings "
            f"with --model, or use --head {', '.join(HEADS)}."
        )
    shots = tuple(int(each) for each in _numbers(few_shot, "--few-shot", "whole numbers from 1, e.g. 1,5,10", whole=True))
    fractions = tuple(_numbers(label_fractions, "--label-fractions", "shares above 0, at most 1, e.g. 0.1,0.3,1", whole=False))
    if draws is not None and not shots and not fractions:
        raise UsageError("--draws is how often labels are drawn for --few-shot and --label-fractions; give one of them.")
    modes = _modes(tune, model)
    schedule = _schedule(modes, epochs, learning_rate, lora_rank)
    if out is not None:
        files.check_folder(out, overwrite=overwrite, what="Output folder")
    material, table = _material(
        data,
        labels,
        model,
        target,
        classes,
        min_overlap,
        pool,
        layer,
        device,
        domain,
        baselines=baselines,
        tokens=head in TOKEN_HEADS,
        modes=modes,
        schedule=schedule,
    )
    if material.gathered is not None:
        say_inputs(material.gathered, [], Notes(), quiet=quiet, verbose=verbose)
    for note in (*material.notes, *material.rows.warnings):
        warn(note, quiet=quiet)
    question = Question(target, task, group, split, folds, head, seed, shots=shots, fractions=fractions, draws=draws or 3)
    asked = Probe(material.rows, table, question)
    features = material.features(quiet=quiet)
    tuned = material.tuned(asked.y, asked.task, asked.folds, seed, quiet=quiet)
    for failure in material.rows.failures:
        warn(f"{failure.path}: {failure.reason}.", quiet=quiet)
    with Progress("probe", 0, "fits", enabled=not quiet) as progress:
        result = asked.run(features, progress, tuned)
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
    tokens: bool,
    modes: Sequence[str],
    schedule: Schedule,
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
    from toolkit.probing.tune import FROZEN, Tuner

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
    trained = [mode for mode in modes if mode != FROZEN]
    tuner = Tuner(loaded.model, options, schedule, trained, on) if trained else None
    return material.from_data(
        gathered, loaded, table, options, on, baselines=baselines, tokens=tokens, frozen=FROZEN in modes, tuner=tuner
    ), table


def _modes(tune: list[str] | None, model: Path | None) -> list[str]:
    """The ways of training asked for, each once. Raises UsageError."""
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.probing.tune import FROZEN, MODES

    words = [word.strip() for each in tune or [FROZEN] for word in each.split(",")]
    known = (FROZEN, *MODES)
    if unknown := [word for word in words if word not in known]:
        raise UsageError(f"There is no --tune '{unknown[0]}'. {did_you_mean(unknown[0], known)}")
    if tune and model is None:
        raise UsageError("--tune trains the encoder, which a table of embeddings does not hold: give the recordings and --model.")
    return [mode for mode in known if mode in words]


def _schedule(modes: Sequence[str], epochs: int | None, learning_rate: float | None, lora_rank: int | None) -> Schedule:
    """How long and how fast is trained. Raises UsageError for what would not be used."""
    from toolkit.errors import UsageError
    from toolkit.probing.tune import DEFAULT_RANK, FROZEN, Schedule

    if (epochs or learning_rate is not None) and not set(modes) - {FROZEN}:
        raise UsageError("--epochs and --learning-rate are of a training: say which with --tune lora, full or scratch.")
    if lora_rank and "lora" not in modes:
        raise UsageError("--lora-rank is of adapters, which --tune lora trains.")
    if learning_rate is not None and not 0 < learning_rate <= 1:
        raise UsageError(f"--learning-rate is above 0 and at most 1, got {learning_rate:g}.")
    return Schedule(epochs, learning_rate, lora_rank or DEFAULT_RANK)


def _numbers(text: str | None, option: str, expected: str, *, whole: bool) -> list[float]:
    """The comma-separated numbers of an option, in rising order; none where it is not given. Raises UsageError."""
    from toolkit.errors import UsageError

    found = []
    for each in text.split(",") if text is not None else ():
        try:
            number = float(each)
        except ValueError:
            number = float("nan")
        if not (number >= 1 and number.is_integer() if whole else 0 < number <= 1):
            raise UsageError(f"{option} takes {expected}; got '{each}'.")
        found.append(number)
    return sorted(set(found))


def _print_table(document: dict[str, Any]) -> None:
    """The main metric of every row, for people and for `column -t`."""
    metric = document["main_metric"]
    counts = ", ".join(f"{c} {n}" for c, n in document["class_counts"].items())
    put(
        f"# {document['target']} ({document['task']}): {document['windows']} windows, {document['groups']} groups by "
        f"{document['split']['group']}, {document['split']['folds']} folds{'; ' + counts if counts else ''}"
    )
    wide = max(14, *(len(row["name"]) for row in document["results"]))
    put(f"{'name':{wide}} {'head':10} {metric:>20}      low     high parameters")
    for row in document["results"]:
        if row["metric"] == metric:
            scores = f"{row['value']:20.3f} {row['low']:8.3f} {row['high']:8.3f}"
            put(f"{row['name']:{wide}} {row['head']:10} {scores} {row['parameters']:10}")
    for gap in document["differences"]:
        if gap["b"] not in UNTRAINED:
            put(f"# {gap['a']} minus {gap['b']}: {gap['value']:.3f} (95 %: {gap['low']:.3f} to {gap['high']:.3f})")
    for by, rows in (("shots", document["few_shot"]), ("fraction", document["fractions"])):
        if rows:
            put(f"# mean over {rows[0]['draws']} draws of training rows, its interval over groups, deviation over draws")
            put(f"{'name':14} {'head':10} {metric:>20}      low     high       sd {by:>8}")
        for row in rows:
            if row["metric"] == metric:
                scores = f"{row['value']:20.3f} {row['low']:8.3f} {row['high']:8.3f} {row['sd']:8.3f}"
                put(f"{row['name']:14} {row['head']:10} {scores} {row[by]:8g}")
