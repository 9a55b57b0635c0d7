"""``toolkit inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.cli.console import DATA_HELP, Debug, Domain, Json, Quiet, Verbose, put, put_json, reports, say_inputs, warn

if TYPE_CHECKING:
    from readers.schema import Recording
    from toolkit.corpus.inputs import Input


@reports
def inspect(
    data: Annotated[list[str], typer.Argument(help=DATA_HELP)],
    domain: Domain = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Say what is read from recordings: channels, units, rates, length, subject, events, warnings.

    Example: toolkit inspect recordings/ --json

    Only headers and annotations are read. The keys of --json: path domain format channels[{name canonical kind unit rate_hz}]
    shape duration_s spacing_mm orientation points subject events warnings.
    """
    from readers.schema import ReadError
    from toolkit.corpus import inputs as corpus
    from toolkit.corpus.notes import Notes

    gathered = corpus.gather(data, stdin=typer.get_binary_stream("stdin"), domain=domain)
    say_inputs(gathered, [], Notes(), quiet=quiet, verbose=verbose)
    seen, failed = [], 0
    for item in gathered.items:
        try:
            seen.append(describe(item, corpus.open_input(item)))
        except ReadError as problem:
            failed += 1
            warn(f"{item.path} cannot be read: {problem}.", quiet=quiet)
            continue
        if not json_:
            put(_line(seen[-1]))
    if json_:
        put_json(seen)
    return 3 if failed else 0


def describe(item: Input, recording: Recording) -> dict[str, Any]:
    """The document of one recording."""
    from toolkit.corpus.inputs import subject_of

    axes = recording.axes
    return {
        "path": str(item.path),
        "domain": recording.domain,
        "format": recording.format,
        "channels": [
            {"name": c.name, "canonical": c.canonical, "kind": c.kind, "unit": c.unit, "rate_hz": c.rate_hz}
            for c in recording.channels
        ],
        "shape": list(axes.shape),
        "duration_s": axes.duration_s,
        "spacing_mm": axes.spacing_mm,
        "orientation": axes.orientation,
        "points": axes.points,
        "subject": subject_of(item, recording),
        "events": len(recording.events),
        "warnings": list(recording.warnings),
    }


def _line(seen: dict[str, Any]) -> str:
    channels = ", ".join(f"{c['name']} ({c['kind']}, {c['unit']}, {c['rate_hz']:g} Hz)" for c in seen["channels"])
    parts = [f"{seen['path']}: {seen['domain']} {seen['format']}, {seen['duration_s']:.1f} s, {channels}"]
    parts += [f"subject {seen['subject']}"] if seen["subject"] else []
    parts += [f"{seen['events']} events"] if seen["events"] else []
    return "; ".join(parts + [f"warning: {w}" for w in seen["warnings"]])
