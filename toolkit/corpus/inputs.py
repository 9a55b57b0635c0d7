"""DATA arguments: files, folders, globs, manifests and stdin become a list of inputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import readers
from readers.scan import Claims
from readers.schema import ReadError, Recording
from toolkit.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Input:
    """One recording to read: its handle, the folder it was found under, and what a manifest says of it.

    ``parts`` are the other files of its group: contrasts of one session.
    """

    path: Path
    root: Path
    ids: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()

    @property
    def relative(self) -> Path:
        """The path below the folder it was found under."""
        return self.path.relative_to(self.root)


@dataclass(frozen=True)
class Inputs:
    """What DATA came to: inputs in order, files no reader claims, folders that could not be read."""

    items: tuple[Input, ...]
    unclaimed: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Failure:
    """An input that could not be used, and why."""

    path: str
    reason: str


def gather(
    data: Sequence[str], *, stdin: IO[bytes] | None = None, domain: str | None = None, claims: Claims | None = None
) -> Inputs:
    """Resolve DATA arguments (see ``toolkit embed --help``); ``claims`` remembers what files are.

    Raises UsageError when nothing is there.
    """
    if domain is not None and domain not in (known := sorted({d for r in readers.READERS for d in r.domains})):
        raise UsageError(f"There is no domain '{domain}'. {did_you_mean(domain, known)}")
    items: dict[str, Input] = {}  # by absolute path: a recording counts once, however it is named
    others: dict[str, Path] = {}
    roots: list[Path] = []
    for path, ids in _expand(data, stdin):
        found, passed = _from_path(path, ids, claims)
        for item in found:
            before = items.setdefault(_place(item.path), item)
            items[_place(item.path)] = replace(before, ids={**item.ids, **before.ids})
        for other in passed:
            others.setdefault(_place(other), other)
        roots.append(path if path.is_dir() else path.parent)
    unclaimed = tuple(others.values())
    kept = tuple(i for i in items.values() if domain is None or _may_be(i, domain))
    if not kept:
        asked = ", ".join(f"'{d}'" for d in data)
        also = f"{len(unclaimed)} files there are of no known format, for instance '{unclaimed[0].name}'. " if unclaimed else ""
        raise UsageError(
            f"No recordings in {asked}{f' of domain {domain}' if domain else ''}. {also}`toolkit readers` lists the formats."
        )
    return Inputs(kept, unclaimed, tuple(dict.fromkeys(roots)))


def open_input(item: Input) -> Recording:
    """Open a recording. Raises ReadError with the reason."""
    try:
        str(item.path).encode()
    except UnicodeEncodeError:
        raise ReadError("its name is not valid UTF-8, in which tables hold it; rename the file") from None
    if not item.path.exists():
        raise ReadError(f"'{item.path.name}' does not exist")
    return readers.open_recording(item.path, item.parts)


def subject_of(item: Input, recording: Recording) -> str | None:
    """The subject by the manifest, else by the file itself, else None: never guessed from a name."""
    return item.ids.get("subject") or recording.ids.get("subject")


def _place(path: Path) -> str:
    return os.path.abspath(path)  # without following links: two names of one file may be two subjects


def _may_be(item: Input, domain: str) -> bool:
    """Whether an input is of a domain; one that cannot be opened may be, and is then reported as a failure."""
    reader = readers.claim(item.path)
    if reader is None:
        return True
    if domain not in reader.domains or len(reader.domains) == 1:
        return domain in reader.domains
    try:
        return open_input(item).domain == domain
    except ReadError:
        return True


def _expand(data: Sequence[str], stdin: IO[bytes] | None) -> list[tuple[Path, Mapping[str, str]]]:
    expanded: list[tuple[Path, Mapping[str, str]]] = []
    for argument in data:
        if argument == "-":
            if stdin is None:
                raise UsageError("'-' reads paths from stdin, which is not available here.")
            expanded += [(Path(p), {}) for p in _split_paths(stdin.read())]
        elif Path(argument).suffix in (".csv", ".parquet") and Path(argument).is_file():
            expanded += _manifest(Path(argument))
        elif argument and Path(argument).exists():
            expanded.append((Path(argument), {}))
        elif matches := sorted(glob.glob(argument, recursive=True)):
            expanded += [(Path(m), {}) for m in matches]
        else:
            raise UsageError(f"'{argument}' does not exist.")
    return expanded


def _split_paths(text: bytes) -> list[str]:
    paths = text.split(b"\0") if b"\0" in text else [line.removesuffix(b"\r") for line in text.split(b"\n")]
    return [os.fsdecode(p) for p in paths if p]


def _manifest(path: Path) -> list[tuple[Path, Mapping[str, str]]]:
    import pandas

    try:
        table = (
            pandas.read_parquet(path)
            if path.suffix == ".parquet"
            else pandas.read_csv(path, dtype=str, index_col=False, keep_default_na=False)
        )
    except (OSError, ValueError) as problem:
        raise UsageError(f"Manifest '{path}' cannot be read: {problem}.") from None
    if "path" not in table.columns:
        raise UsageError(f"Manifest '{path}' has no column 'path'; its columns are {', '.join(map(str, table.columns))}.")
    rows = table.to_dict("records")
    found: list[tuple[Path, Mapping[str, str]]] = []
    for number, row in enumerate(rows, 2):
        ids = {str(k): str(v) for k, v in row.items() if pandas.api.types.is_scalar(v) and not pandas.isna(v) and v != ""}
        if "path" not in ids:
            raise UsageError(f"Manifest '{path}', row {number}: path is empty.")
        found.append((path.parent / ids.pop("path"), ids))
    return found


def _from_path(path: Path, ids: Mapping[str, str], claims: Claims | None) -> tuple[list[Input], list[Path]]:
    if path.is_dir() and readers.claim(path) is None:
        handles, passed = readers.scan(path, claims)
        return [Input(handle, path, ids, tuple(parts)) for handle, *parts in handles], list(passed)
    if path.exists() and readers.claim(path) is None:
        handle = _handle(path)
        return ([Input(handle, handle.parent, ids)], []) if handle else ([], [path])
    return [Input(path, path.parent, ids)], []  # a manifest's missing file becomes a failure with its reason


def _handle(path: Path) -> Path | None:
    """The header beside a signal or annotation file that was named in its place."""
    beside = [path.with_suffix(s) for r in readers.READERS if path.suffix in r.companions for s in r.suffixes]
    return next((handle for handle in beside if handle.is_file()), None)
