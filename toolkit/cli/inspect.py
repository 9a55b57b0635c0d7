"""``toolkit inspect``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.console import DATA_HELP, Debug, Domain, Json, Quiet, reports, say_inputs, warn

if TYPE_CHECKING:
    from toolkit.corpus.catalog import Row
    from toolkit.corpus.inputs import Failure

FEW_CHANNELS = 16  # up to as many are named one by one


@reports
def inspect(
    data: Annotated[list[str], typer.Argument(help=DATA_HELP)],
    domain: Domain = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Read every file anew, and remember nothing for the next time.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Name every channel, and every file in every warning.")
    ] = False,
    debug: Debug = False,
) -> int:
    """Say what is read from recordings: channels, units, rates, length, subject, events, warnings.

    Example: toolkit inspect recordings/ --json

    Only headers and annotations are read, and files that did not change since an earlier inspect are not opened:
    what they said lies in $TOOLKIT_CACHE, else $XDG_CACHE_HOME/toolkit, else ~/.cache/toolkit (--no-cache leaves it
    alone). The document of --json has one recording a line. Its keys: path domain format channels[{name canonical
    kind unit rate_hz}] shape duration_s spacing_mm orientation points subject events warnings.
    """
    import time
    from contextlib import closing

    from toolkit.corpus import catalog
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus.cache import HeaderCache
    from toolkit.corpus.notes import Notes
    from toolkit.corpus.tree import Tree
    from toolkit.progress import Progress

    with HeaderCache(enabled=not no_cache) as cache:
        tree = Tree(cache, () if domain else data, time.time_ns())
        if (said := tree.recall()) is not None:
            say_inputs(corpus.Inputs((), said.unclaimed), [], Notes(), quiet=quiet, verbose=verbose)
            return _put(said.rows, json_=json_, verbose=verbose, quiet=quiet)
        gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain, claims=cache)
        say_inputs(gathered, [], Notes(), quiet=quiet, verbose=verbose)
        # Lines on a terminal show by themselves how far it is.
        shown = not quiet and (json_ or not sys.stdout.isatty())
        with (
            Progress("inspect", len(gathered.items), "recordings", enabled=shown) as progress,
            closing(catalog.rows(gathered.items, None, cache, progress)) as rows,
        ):
            return _put(tree.remember(gathered.unclaimed, rows), json_=json_, verbose=verbose, quiet=quiet)


def _put(rows: Iterable[Row | Failure], *, json_: bool, verbose: bool, quiet: bool) -> int:
    """Write each row as it comes: a line of text, or of one JSON list."""
    from toolkit.corpus.inputs import Failure

    failed, before = False, "[\n"
    for row in rows:
        if isinstance(row, Failure):
            failed = True
            warn(f"{row.path} cannot be read: {row.reason}.", quiet=quiet)
        elif json_:
            sys.stdout.write(before + row.text)
            before = ",\n"
        else:
            line = _line(row.document, every_channel=verbose)
            sys.stdout.write(line.encode(errors="backslashreplace").decode() + "\n")  # names of channels may be anything
    if json_:
        sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
    return 3 if failed else 0


def _line(row: dict[str, Any], *, every_channel: bool) -> str:
    size = []
    if row["duration_s"] is not None:
        size.append(f"{row['duration_s']:.1f} s")
    if row["spacing_mm"] is not None:
        steps = " x ".join("?" if step is None else f"{step:.4g}" for step in row["spacing_mm"])
        size.append(f"{' x '.join(map(str, row['shape']))} voxels of {steps} mm")
    if row["orientation"] is not None:
        size.append(row["orientation"])
    if row["points"] is not None:
        size.append(f"{row['points']} points")
    channels = row["channels"]
    named = (
        [f"{c['name']} ({_facts(c)})" for c in channels] if every_channel or len(channels) <= FEW_CHANNELS else _summed(channels)
    )
    parts = [", ".join([f"{row['path']}: {row['domain']} {row['format']}", *size, *named])]
    parts += [f"subject {row['subject']}"] if row["subject"] else []
    parts += [f"{row['events']} events"] if row["events"] else []
    return "; ".join(parts + [f"warning: {w}" for w in row["warnings"]])


def _facts(channel: dict[str, Any]) -> str:
    rate = None if channel["rate_hz"] is None else f"{channel['rate_hz']:g} Hz"
    return ", ".join(word for word in (channel["kind"], channel["unit"], rate) if word is not None)


def _summed(channels: list[dict[str, Any]]) -> list[str]:
    """Channels of one kind, unit and rate together, with the first of their names."""
    groups: dict[str, list[str]] = {}
    for channel in channels:
        groups.setdefault(_facts(channel), []).append(channel["name"])
    return [
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} ({facts})"
        for facts, names in groups.items()
    ]
