"""``toolkit import``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.console import Debug, Json, Overwrite, Quiet, put, put_json, reports, say
from toolkit.published import RELEASES

if TYPE_CHECKING:
    from toolkit.published.base import Release
    from toolkit.published.read import Converted

NAMES = [release.name for release in RELEASES]
FIRST_NUMBER = re.compile(r"(?<!\S)(\S*?\.)(\d+)\.")  # of each name in a line: that of a block
WHERE = "; ".join(f"{release.name}: {release.where}" for release in RELEASES)


@reports
def import_(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The file that the authors publish: .safetensors, or a state dict of tensors alone (.pth, .ckpt, .bin).",
        ),
    ],
    name: Annotated[
        str,
        typer.Option("--as", metavar="NAME", help=f"Which release it is, and where its authors publish it. {WHERE}."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Turn released weights into a model folder for embed, probe and, where they have a decoder, restore; prints the folder.

    Example: toolkit import Bird-MAE-Base.safetensors --as bird-mae --out bird-mae

    Nothing is downloaded. The report on stderr names every tensor that was used, skipped or missing, and the licence that
    the authors give the weights. A file of another layout is refused with the nearest known one. Keys of --json: model
    release system where licence source source_hash restores why_not used skipped missing.
    """
    from toolkit import files
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.published import read, write
    from toolkit.record import RunRecord

    record = RunRecord("import")
    if name not in NAMES:
        raise UsageError(f"There is no release '{name}'. {did_you_mean(name, NAMES)}")
    release = next(one for one in RELEASES if one.name == name)
    files.check_folder(out, overwrite=overwrite, what="Model folder")
    state = read.read_state(weights)
    read.recognise(state, name, RELEASES)
    converted = read.convert_state(state, release)
    facts = write.save(converted, release, weights, out, record, overwrite=overwrite)
    _say(release, converted, quiet=quiet)
    if json_:
        put_json(facts)
    else:
        put(str(out))
    return 0


def _say(release: Release, converted: Converted, *, quiet: bool) -> None:
    """The report: where it comes from, its licence, and what became of every tensor."""
    ledger = converted.ledger
    say(f"{release.system}. Published by its authors: {release.where}. Licence: {release.licence}.", quiet=quiet)
    say(f"Used, {len(ledger['used'])} tensors of the model:", quiet=quiet)
    for line in _lines([f"{row['ours']} <- {', '.join(row['theirs'])}" for row in ledger["used"]]):
        say(line, quiet=quiet)
    for what, side, whose in (("skipped", "theirs", "the file"), ("missing", "ours", "the model")):
        if rows := ledger[what]:
            say(f"{what.capitalize()}, {len(rows)} tensors of {whose}:", quiet=quiet)
            for line in _lines([f"{row[side]} ({row['reason']})" for row in rows]):
                say(line, quiet=quiet)
    if converted.untrained:
        say(f"It embeds and is probed, but cannot restore. {converted.untrained}", quiet=quiet)


def _lines(rows: list[str]) -> list[str]:
    """The lines, of which those that differ by the first number in their names alone are one."""
    shared: dict[str, list[list[int]]] = {}
    for line in rows:
        numbers = [int(number) for _, number in FIRST_NUMBER.findall(line)]
        shared.setdefault(FIRST_NUMBER.sub(r"\1#.", line), []).append(numbers)
    return ["  " + _filled(line, numbers) for line, numbers in shared.items()]


def _filled(line: str, numbers: list[list[int]]) -> str:
    for column in zip(*numbers, strict=True):
        whole = len(column) > 1 and list(column) == list(range(column[0], column[-1] + 1))
        line = line.replace("#", f"{column[0]}-{column[-1]}" if whole else ",".join(map(str, dict.fromkeys(column))), 1)
    return line
