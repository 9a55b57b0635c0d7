"""The door to recordings in files: which reader takes a file, opening it, finding files in a folder, writing back.

Importing this loads numpy only; a format's own package is loaded when a file of that format is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from readers.cardiac import WfdbReader
from readers.schema import Patch, ReadError, Recording, Written

__all__ = ["READERS", "Reader", "claim", "open_recording", "scan", "write"]

HEAD_BYTES = 4096


class Reader(Protocol):
    """One file format. ``suffixes``: of the file that stands for a recording (its handle), lower case.

    ``companions``: suffixes of files that belong to a handle of the same stem in the same folder, even
    where another reader would take them.
    """

    name: str
    domain: str
    suffixes: tuple[str, ...]
    companions: tuple[str, ...]

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the file is of this format, from its first ``HEAD_BYTES`` bytes; its suffix fits already."""

    def members(self, path: Path) -> Iterable[Path]:
        """Other files that the handle itself names; reads headers only and raises nothing."""

    def open(self, path: Path) -> Recording:
        """Open a claimed file. Raises ReadError."""

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a faithful copy in which the patched samples change. Raises ReadError."""


# Asked in this order: the first that claims a file has it. ``Recording.format`` is its reader's name.
READERS: tuple[Reader, ...] = (WfdbReader(),)


def claim(path: Path) -> Reader | None:
    """The reader that takes a file, by its suffix and then by its first bytes; None where no one does."""
    fitting = [reader for reader in READERS if path.name.lower().endswith(reader.suffixes)]
    if not fitting or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return fitting[0]  # opening it will say why it cannot be read
    return next((reader for reader in fitting if reader.claims(path, head)), None)


def open_recording(path: Path) -> Recording:
    """Open a recording; reads headers only. Raises ReadError with the reason, whatever went wrong."""
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise ReadError(f"{path.name} {what}")
    reader = claim(path)
    if reader is None:
        raise ReadError(f"{path.name} is in no format that can be read here")
    try:
        return reader.open(path)
    except ReadError:
        raise
    except Exception as error:  # format libraries raise anything, down to MemoryError and IndexError
        reason = " ".join(str(error).split()) or "no reason given"
        raise ReadError(f"{path.name} cannot be read as {reader.name}: {type(error).__name__}, {reason}") from error


def scan(folder: Path) -> tuple[list[Path], list[Path]]:
    """Recordings in a folder and everything below it: (handles, unclaimed), both sorted.

    ``unclaimed`` are files that no reader takes and folders that cannot be listed. A file that belongs to
    a recording is in neither: one that the handle names, a companion, one of the same stem that no reader
    takes. Hidden files and folders are left out, and a folder that is reached twice, through links, counts
    once. Reads headers only. Raises ReadError where ``folder`` is none.
    """
    if not Path(folder).is_dir():
        raise ReadError(f"{Path(folder).name} is not a folder")
    files, unclaimed = _walk(Path(folder))
    readers = {path: reader for path in files if (reader := claim(path)) is not None}
    members = {path: set(reader.members(path)) - {path} for path, reader in readers.items()}
    # Two handles that name each other are both left to fail with their reason.
    owned = {m for path, named in members.items() for m in named if path not in members.get(m, ())}
    recordings = [path for path in readers if path not in owned]
    # Segment headers have companions as well, hence all of `readers`.
    companions = {(path.parent, path.stem, suffix) for path in readers for suffix in readers[path].companions}
    handles = [path for path in recordings if (path.parent, path.stem, path.suffix.lower()) not in companions]
    stems = {(path.parent, path.stem) for path in readers}
    unclaimed += [path for path in files if path not in owned and (path.parent, path.stem) not in stems]
    return sorted(handles), sorted(unclaimed)


def write(recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
    """Write a faithful copy of a recording at ``path``, in its own format, with only the patched samples changed.

    Raises ReadError.
    """
    reader = next(reader for reader in READERS if reader.name == recording.format)
    try:
        return reader.write(recording, patches, Path(path))
    except ReadError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise ReadError(f"{recording.path.name} cannot be written: {type(error).__name__}, {reason}") from error


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder in sorted order, and folders that could not be listed."""
    files: list[Path] = []
    unreadable: list[Path] = []
    seen: set[str] = set()

    def note(error: OSError) -> None:
        unreadable.append(Path(error.filename))

    for where, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.extend(Path(where) / name for name in sorted(names) if not name.startswith("."))
    return files, unreadable
