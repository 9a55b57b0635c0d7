"""What commands say, and how they end: messages on stderr, data on stdout, one paragraph an error."""

from __future__ import annotations

import functools
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.corpus.inputs import Failure, Inputs
    from toolkit.corpus.notes import Notes

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Name every file in every warning.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; keys in README.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same command.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random (default: the recipe's).", min=0)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option("--precision", help="auto (bf16 where a CUDA device has it), fp32 or bf16.")]

P = ParamSpec("P")

Domain = Annotated[str | None, typer.Option("--domain", help="Use only recordings of this domain; `toolkit readers` lists them.")]

DATA_HELP = (
    "Files, folders (searched recursively, hidden files skipped), a corpus of `toolkit prepare`, quoted globs, a manifest "
    ".csv or .parquet with a 'path' column, or - for paths on stdin."
)

EXIT_CODES = (
    "Exit codes: 0 all done; 1 failed while running; 2 usage, recipe or label error, or an output that exists; "
    "3 some inputs could not be used, the rest is complete; 130 or 143 stopped by a signal after a usable "
    "checkpoint or journal was written."
)


def say(message: str, *, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str, *, quiet: bool = False) -> None:
    """A warning, on stderr."""
    say(f"Warning: {message}", quiet=quiet)


def put(text: str) -> None:
    """A line of what was asked for, on stdout."""
    print(text, flush=True)


def put_json(document: Any) -> None:
    """A JSON document on stdout; numbers that JSON lacks become null."""
    put(json.dumps(_finite(document), indent=2, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def reports(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn a command's result and errors into an exit code and one paragraph on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs) or 0
            sys.stdout.flush()
        except ToolkitError as problem:
            _trace(kwargs)
            code = _fail(str(problem), problem.exit_code)
        except KeyboardInterrupt:
            code = _fail("Stopped by SIGINT.", 130)
        except BrokenPipeError:  # the reader of our pipe left; what Unix tools answer with SIGPIPE
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except OSError as problem:
            _trace(kwargs)
            where = f"'{problem.filename}': " if problem.filename else ""
            code = _fail(f"{where}{problem.strerror or problem}.", 1)
        except Exception as problem:
            _trace(kwargs)
            code = _fail(f"Unexpected {type(problem).__name__}: {problem}. This is a defect; --debug shows where.", 1)
        raise typer.Exit(code)

    return run


def _trace(options: Mapping[str, Any]) -> None:
    if options.get("debug"):
        traceback.print_exc()


def _fail(message: str, code: int) -> int:
    width = min(os.get_terminal_size(2).columns or 80, 120) if sys.stderr.isatty() else 10_000  # a terminal may say 0
    say(textwrap.fill(f"Error: {message}", width, break_long_words=False, break_on_hyphens=False))
    return code


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Name what failed, and why, in a CSV beside an output; without failures none is left from an earlier run."""
    import csv
    import io

    from toolkit import files

    path.unlink(missing_ok=True)
    if failures:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *((f.path, f.reason) for f in failures)])
        files.write_text(path, text.getvalue())


def say_inputs(gathered: Inputs, failures: list[Failure], notes: Notes, *, quiet: bool, verbose: bool) -> None:
    """Name what was passed over, what failed and what was lost."""
    if gathered.unclaimed:
        names = ", ".join(str(p) if verbose else p.name for p in gathered.unclaimed[: None if verbose else 3])
        count = len(gathered.unclaimed)
        say(
            f"{count} {'file' if count == 1 else 'files'} of no known format passed over: {names}"
            f"{'' if verbose or count <= 3 else ', ...'}",
            quiet=quiet,
        )
    for failure in failures:
        warn(f"{failure.path} was left out: {failure.reason}.", quiet=quiet)
    for line in notes.lines(every_file=verbose):
        warn(line, quiet=quiet)
