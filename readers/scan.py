"""Finding recordings in a folder and everything below it.

Only files whose names fit a reader are opened, once each, for their first bytes; what was found out about a
file may be remembered from scan to scan (:class:`Claims`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from readers.schema import ReadError

if TYPE_CHECKING:
    from readers import Reader

HEAD_BYTES = 4096
THREADS = 12
CHUNK = 64  # files that a thread takes at a time: handing them over one by one costs more than opening them


class Claim(NamedTuple):
    """What a file is: its reader's name (None: no reader takes it) and the files that it names, seen from its folder.

    ``sure``: it could be opened, so that this holds until it changes.
    """

    reader: str | None
    members: tuple[str, ...] = ()
    sure: bool = True


class Stamp(NamedTuple):
    """What tells that a file changed: its size in bytes and its times in ns."""

    size: int
    mtime_ns: int
    ctime_ns: int


class Claims(Protocol):
    """What earlier scans found out, asked and told once for each folder; neither may raise."""

    def recall(self, folder: str, stamps: Mapping[str, Stamp]) -> Mapping[str, Claim]:
        """What is known of the files of a folder, by name, that are still as they were."""

    def keep(self, folder: str, stamps: Mapping[str, Stamp], claims: Mapping[str, Claim]) -> None:
        """Remember all claims of a folder; ``stamps`` were taken before the files were opened."""


@dataclass(slots=True)
class _Folder:
    """One folder: names of its visible files, of those that a reader might take, and what they turned out to be."""

    path: str
    names: list[str]
    fitting: list[str]
    stamps: dict[str, Stamp]
    claims: dict[str, Claim] = field(default_factory=dict)

    def where(self, name: str) -> tuple[str, str]:
        """The folder and the name of a file that is named as seen from this folder."""
        if os.sep not in name:
            return self.path, name
        folder, up = self.path, os.pardir + os.sep
        while name.startswith(up):
            folder, name = os.path.dirname(folder), name[len(up) :]
        folder, name = os.path.split(_join(folder, name))
        return folder or os.curdir, name


def suffix_of(name: str, suffixes: Iterable[str]) -> str | None:
    """The longest of the suffixes (lower case, perhaps of two parts: ``.nii.gz``) that a file's name ends with."""
    lower = name.lower()
    return max((suffix for suffix in suffixes if lower.endswith(suffix)), key=len, default=None)


def stem_of(path: Path | str, suffix: str) -> str:
    """A file's name without its suffix, which may have two parts."""
    name = os.path.basename(path)
    return name[: len(name) - len(suffix)]


def claimed_by(path: Path, readers: Sequence[Reader]) -> Reader | None:
    """The first reader that takes a file, by its suffix and then by its first bytes; None where no one does."""
    return _claimed(path, readers)[0] if path.is_file() else None


def scan(folder: Path, readers: Sequence[Reader], claims: Claims | None = None) -> tuple[list[tuple[Path, ...]], list[Path]]:
    """Recordings in a folder and everything below it: (recordings, unclaimed), both sorted.

    A recording is its handle and the other files of its group (``Reader.groups``), which lie in one folder.
    ``unclaimed`` are files that no reader takes and folders that cannot be listed. A file that belongs to
    a recording is in neither: one that the handle names, a companion, one of the same stem that no reader
    takes. Hidden files and folders are left out, and a folder that is reached twice, through links, counts
    once. Reads headers only. Raises ReadError where ``folder`` is none.
    """
    if not Path(folder).is_dir():
        raise ReadError(f"{Path(folder).name} is not a folder")
    places, unclaimed = _walk(str(folder), tuple(s for reader in readers for s in reader.suffixes), stamps=claims is not None)
    _examine_all(places, readers, claims)
    owned = _owned(places)
    by_name = {reader.name: reader for reader in readers}
    recordings: list[tuple[Path, ...]] = []
    for place in places:
        named = owned.get(place.path, set())
        claimed = {name: by_name[claim.reader] for name, claim in place.claims.items() if claim.reader is not None}
        recordings += _recordings(place.path, claimed, named)
        unclaimed += _unclaimed(place, claimed, named)
    recordings.sort(key=lambda group: _order(str(group[0])))
    return recordings, [Path(path) for path in sorted(unclaimed, key=_order)]


def _join(folder: str, name: str) -> str:
    return name if folder in ("", os.curdir) else os.path.join(folder, name)  # as paths are written


def _order(path: str) -> list[str]:
    return path.split(os.sep)  # as paths compare, which is not as their texts do


def _walk(top: str, suffixes: tuple[str, ...], *, stamps: bool) -> tuple[list[_Folder], list[str]]:
    """Every folder below ``top`` with its files, in sorted order, and folders that could not be listed."""
    places: list[_Folder] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    waiting = [top]
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path) as listing:
                entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError:
            unreadable.append(path)
            continue
        folders = {entry.name for entry in entries if _is(entry, "folder")}
        files = [entry for entry in entries if entry.name not in folders] if folders else entries
        fitting = [entry for entry in files if entry.name.lower().endswith(suffixes) and _is(entry, "file")]
        names = [entry.name for entry in fitting]
        known = {entry.name: stamp for entry in fitting if (stamp := _stamp(entry))} if stamps else {}
        places.append(_Folder(path, [entry.name for entry in files], names, known))
        waiting += [_join(path, name) for name in sorted(folders, reverse=True)]
    return places, unreadable


def _is(entry: os.DirEntry[str], what: str) -> bool:
    try:
        return entry.is_dir() if what == "folder" else entry.is_file()
    except OSError:  # a link to itself
        return False


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        stat = entry.stat()
    except OSError:
        return None
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _examine_all(places: Sequence[_Folder], readers: Sequence[Reader], claims: Claims | None) -> None:
    """Fill in the claims of every folder: what is remembered, then what the files themselves say."""
    names = {reader.name for reader in readers}
    jobs: list[tuple[_Folder, str]] = []
    for place in places:
        if claims is not None and place.stamps:
            known = claims.recall(place.path, place.stamps)
            place.claims = {name: claim for name, claim in known.items() if claim.reader is None or claim.reader in names}
        jobs += [(place, name) for name in place.fitting if name not in place.claims]
    for (place, name), claim in zip(jobs, _examined(jobs, readers), strict=True):
        place.claims[name] = claim
    if claims is not None:
        for place in {id(place): place for place, _ in jobs}.values():
            claims.keep(place.path, place.stamps, {name: claim for name, claim in place.claims.items() if claim.sure})


def _examined(jobs: Sequence[tuple[_Folder, str]], readers: Sequence[Reader]) -> Iterator[Claim]:
    """Claims of the files in order: in threads where the disk is waited for, which otherwise only get in each other's way."""

    def examine(chunk: Sequence[tuple[_Folder, str]]) -> list[Claim]:
        return [_examine(place.path, name, readers) for place, name in chunk]

    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    began, busy = time.perf_counter(), time.thread_time()
    for chunk in chunks[:1]:
        yield from examine(chunk)
    waiting = time.perf_counter() - began > 4 * (time.thread_time() - busy)
    if not waiting or len(chunks) < 3:
        yield from (claim for chunk in chunks[1:] for claim in examine(chunk))
        return
    with ThreadPoolExecutor(min(THREADS, len(chunks) - 1)) as pool:
        yield from (claim for found in pool.map(examine, chunks[1:]) for claim in found)


def _examine(folder: str, name: str, readers: Sequence[Reader]) -> Claim:
    path = Path(folder, name)
    reader, sure = _claimed(path, readers)
    if reader is None:
        return Claim(None)
    start = os.path.join(folder, "")
    members = [str(member).removeprefix(start) for member in _members(reader, path) if member != path]
    return Claim(reader.name, tuple(dict.fromkeys(members)), sure)


def _claimed(path: Path, readers: Sequence[Reader]) -> tuple[Reader | None, bool]:
    """The reader that takes a file, and whether that is sure: of one that cannot be opened only the name is known."""
    lower = path.name.lower()
    fitting = [reader for reader in readers if lower.endswith(reader.suffixes)]
    if not fitting:
        return None, True
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return fitting[0], False  # opening it will say why it cannot be read
    return next((reader for reader in fitting if _claims(reader, path, head)), None), True


def _claims(reader: Reader, path: Path, head: bytes) -> bool:
    try:
        return reader.claims(path, head)
    except Exception:  # opening it will say what is wrong with it
        return True


def _members(reader: Reader, path: Path) -> list[Path]:
    try:
        return list(reader.members(path))
    except Exception:  # as above
        return []


def _owned(places: Sequence[_Folder]) -> dict[str, set[str]]:
    """By folder, names of files that a handle names. Two that name each other are both left to fail with their reason."""
    by_path = {place.path: place for place in places}
    owned: dict[str, set[str]] = {}
    for place in places:
        for name, claim in place.claims.items():
            for folder, member in map(place.where, claim.members):
                other = by_path.get(folder)
                back = other.claims.get(member) if other else None
                if other and back and (place.path, name) in map(other.where, back.members):
                    continue
                owned.setdefault(folder, set()).add(member)
    return owned


def _recordings(path: str, claimed: Mapping[str, Reader], owned: set[str]) -> Iterator[tuple[Path, ...]]:
    """The recordings of one folder, the files of each by its reader's groups."""
    passed = _companions(claimed)
    handles: dict[str, tuple[Reader, list[Path]]] = {}
    folder = Path(path)
    for name, reader in claimed.items():
        if name not in passed and name not in owned:
            handles.setdefault(reader.name, (reader, []))[1].append(folder / name)
    for reader, paths in handles.values():
        yield from map(tuple, reader.groups(paths)) if len(paths) > 1 else [(paths[0],)]


def _companions(claimed: Mapping[str, Reader]) -> set[str]:
    """Claimed files that are companions of another: of one that is named by a third as well, as segments' headers are."""
    readers = {reader.name: reader for reader in claimed.values() if reader.companions}
    maybe = [
        (name, reader, suffix)
        for name in claimed
        for reader in readers.values()
        if name.lower().endswith(reader.companions) and (suffix := suffix_of(name, reader.companions))
    ]
    if not maybe:
        return set()
    handles: dict[tuple[str, str], list[str]] = {}
    for name, reader in claimed.items():
        handles.setdefault((reader.name, stem_of(name, suffix_of(name, reader.suffixes) or "")), []).append(name)
    return {name for name, reader, suffix in maybe if set(handles.get((reader.name, stem_of(name, suffix)), [])) - {name}}


def _unclaimed(place: _Folder, claimed: Mapping[str, Reader], owned: set[str]) -> Iterator[str]:
    """Files of a folder that no reader takes and that belong to no recording there."""
    stems = {stem_of(name, suffix_of(name, reader.suffixes) or "") for name, reader in claimed.items()}
    for name in place.names:
        if name not in claimed and name not in owned and not stems.intersection(_stems(name)):
            yield _join(place.path, name)


def _stems(name: str) -> list[str]:
    """What may be the stem of a file of unknown format: without its suffix, and without two where it is compressed."""
    stem, suffix = os.path.splitext(name)
    return [stem, os.path.splitext(stem)[0]] if suffix.lower() == ".gz" else [stem]
