"""DATA arguments: files, folders, globs, manifests and stdin become a list of inputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import readers
from readers import prepared_store
from readers.prepared import open_entry
from readers.prepared_store import Entry
from readers.scan import Claims
from readers.schema import ReadError, Recording
from toolkit.corpus import manifests
from toolkit.corpus.manifests import Listed
from toolkit.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Input:
    """One recording to read: its handle, the folder it was found under, and what a manifest says of it.

    ``parts`` are the other files of its group: contrasts of one session. ``prepared``: where a corpus holds it.
    """

    path: Path
    root: Path
    ids: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()
    prepared: Entry | None = None

    @property
    def relative(self) -> Path:
        """The path below the folder it was found under, for what works on the file itself. Raises UsageError for a corpus."""
        if self.prepared is not None:
            raise UsageError(
                f"'{self.prepared.folder}' is a prepared corpus, which does not hold the files themselves, and this needs "
                f"them. Name the recordings instead, for instance '{self.root}'."
            )
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
    for listed in _expand(data, stdin):
        path = listed.path
        found, passed = _from_path(path, listed.ids, claims)
        for item in found:
            here = place(item.path)
            before = items.setdefault(here, item)
            parts = listed.parts or before.parts  # what a manifest says is one recording is
            if before is not item or parts != item.parts:
                items[here] = replace(before, ids={**item.ids, **before.ids}, parts=parts)
        for other in passed:
            others.setdefault(place(other), other)
        corpus = list(dict.fromkeys(item.root for item in found if item.prepared is not None))
        roots += corpus or [path if path.is_dir() else path.parent]
    unclaimed = tuple(others.values())
    inside = {place(part) for item in items.values() for part in item.parts}
    kept = tuple(i for here, i in items.items() if here not in inside and (domain is None or _may_be(i, domain)))
    if not kept:
        asked = ", ".join(f"'{d}'" for d in data)
        also = f"{len(unclaimed)} files there are of no known format, for instance '{unclaimed[0].name}'. " if unclaimed else ""
        raise UsageError(
            f"No recordings in {asked}{f' of domain {domain}' if domain else ''}. {also}`toolkit readers` lists the formats."
        )
    return Inputs(kept, unclaimed, tuple(dict.fromkeys(roots)))


def open_input(item: Input) -> Recording:
    """Open a recording. Raises ReadError with the reason."""
    if item.prepared is not None:
        return open_entry(item.prepared)
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


def place(path: Path) -> str:
    """The absolute path, without following links: two names of one file may be two subjects."""
    text = str(path)
    return text if text.startswith("/") and "/.." not in text else os.path.abspath(text)


def _may_be(item: Input, domain: str) -> bool:
    """Whether an input is of a domain; one that cannot be opened may be, and is then reported as a failure."""
    if item.prepared is not None:
        return bool(item.prepared.row["domain"] == domain)
    reader = readers.claim(item.path)
    if reader is None:
        return True
    if domain not in reader.domains or len(reader.domains) == 1:
        return domain in reader.domains
    try:
        return open_input(item).domain == domain
    except ReadError:
        return True


def _expand(data: Sequence[str], stdin: IO[bytes] | None) -> list[Listed]:
    expanded: list[Listed] = []
    for argument in data:
        if argument == "-":
            if stdin is None:
                raise UsageError("'-' reads paths from stdin, which is not available here.")
            expanded += [Listed(Path(p)) for p in _split_paths(stdin.read())]
        elif Path(argument).suffix in (".csv", ".parquet") and Path(argument).is_file():
            expanded += manifests.read(Path(argument))
        elif argument and Path(argument).exists():
            expanded.append(Listed(Path(argument)))
        elif matches := sorted(glob.glob(argument, recursive=True)):
            expanded += [Listed(Path(m)) for m in matches]
        else:
            raise UsageError(f"'{argument}' does not exist.")
    return expanded


def _split_paths(text: bytes) -> list[str]:
    paths = text.split(b"\0") if b"\0" in text else [line.removesuffix(b"\r") for line in text.split(b"\n")]
    return [os.fsdecode(p) for p in paths if p]


def _from_path(path: Path, ids: Mapping[str, str], claims: Claims | None) -> tuple[list[Input], list[Path]]:
    if path.is_dir():
        if corpus := _from_corpus(path, ids):
            return corpus, []
        handles, passed = readers.scan(path, claims)
        shards = _corpora([*(handle for handle, *_ in handles), *passed])
        found = [Input(handle, path, ids, tuple(parts)) for handle, *parts in handles if handle.parent not in shards]
        return found, [other for other in passed if other.parent not in shards]
    if path.is_file() and readers.claim(path) is None:
        handle = _handle(path)
        return ([Input(handle, handle.parent, ids)], []) if handle else ([], [path])
    return [Input(path, path.parent, ids)], []  # a missing file, or a pipe, becomes a failure with its reason


def _from_corpus(folder: Path, ids: Mapping[str, str]) -> list[Input]:
    """The recordings of a prepared corpus; none where the folder is no corpus. Raises UsageError for an unfinished one."""
    if prepared_store.read_head(folder) is None:
        if prepared_store.read_head(folder, prepared_store.PLAN) is not None:
            raise UsageError(
                f"'{folder}' is a corpus that was not finished. Continue the same `toolkit prepare` with --resume first."
            )
        return []
    try:
        entries = prepared_store.entries(folder)
    except ReadError as problem:
        raise UsageError(f"{problem}. Prepare it again.") from None
    return [Input(entry.path, entry.root, {**entry.given, **ids}, prepared=entry) for entry in entries]


def _corpora(paths: Sequence[Path]) -> set[Path]:
    """Which of the folders that hold these files are corpora: their shards are no recordings."""
    heads = (prepared_store.MANIFEST, prepared_store.PLAN)
    folders = {path.parent for path in paths if path.name in heads or path.name.startswith("shard-")}
    return {folder for folder in folders if any(prepared_store.read_head(folder, head) for head in heads)}


def _handle(path: Path) -> Path | None:
    """The header beside a signal or annotation file that was named in its place."""
    beside = [path.with_suffix(s) for r in readers.READERS if path.suffix in r.companions for s in r.suffixes]
    return next((handle for handle in beside if handle.is_file()), None)


def domain_of(gathered: Inputs, domains: Sequence[str], domain: str | None = None) -> str | None:
    """The domain of DATA for a recipe that runs on several ``domains``: the one asked for, or the one all inputs are of.

    None for a recipe of one domain. Raises UsageError where inputs are of several, or none can be opened.
    """
    if len(domains) == 1 or domain is not None:
        return domain if len(domains) > 1 else None
    found: dict[str, int] = {}
    for item in gathered.items:
        try:
            one = str(item.prepared.row["domain"]) if item.prepared else open_input(item).domain
        except ReadError:
            continue
        found[one] = found.get(one, 0) + 1
    if len(found) != 1:
        raise UsageError(
            f"This recipe runs on one of {', '.join(domains)}, and DATA has "
            f"{', '.join(f'{count} of {name}' for name, count in sorted(found.items())) or 'none that can be opened'}. "
            "Choose with --domain."
        )
    return next(iter(found))
