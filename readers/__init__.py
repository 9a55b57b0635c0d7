"""The door to recordings in files: which reader takes a file, opening it, finding files in a folder, writing back.

Importing this loads numpy only; a format's own package is loaded when a file of that format is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from readers.audio import AUDIO_READERS
from readers.brainvision import BrainVisionReader
from readers.cardiac import WfdbReader
from readers.edf import EdfReader
from readers.eeg import CntReader, GdfReader
from readers.eeglab import SetReader
from readers.fif import FifReader
from readers.mri import NiftiReader
from readers.points import POINT_READERS
from readers.scan import Claims, claimed_by
from readers.scan import scan as find
from readers.schema import Patch, ReadError, Recording, Written

__all__ = ["READERS", "Reader", "claim", "copy_path", "open_recording", "scan", "write"]


class Reader(Protocol):
    """One file format. ``suffixes``: of the file that stands for a recording (its handle), lower case.

    ``companions``: suffixes of files that belong to a handle of the same stem in the same folder, even
    where another reader would take them. ``copy_suffix``: of the copies that :meth:`write` makes, where the format
    has no faithful writer and they are of another; else None.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def domains(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def suffixes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def companions(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def copy_suffix(self) -> str | None: ...  # noqa: D102

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the file is of this format, from its first 4096 bytes; its suffix fits already."""

    def members(self, path: Path) -> Iterable[Path]:
        """Other files that the handle itself names; reads headers only and raises nothing."""

    def groups(self, paths: Sequence[Path]) -> Iterable[tuple[Path, ...]]:
        """Which of these handles, all of this format, are one recording (contrasts of one session); by names only.

        Each group in the order of its channels, the handle first; a file that belongs to no other is alone.
        """

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a claimed file, with the other files of its group where it has some. Raises ReadError."""

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a faithful copy in which the patched samples change. Raises ReadError."""


# Asked in this order: the first that claims a file has it. ``Recording.format`` is its reader's name.
READERS: tuple[Reader, ...] = (
    WfdbReader(),
    EdfReader(),
    BrainVisionReader(),
    SetReader(),
    FifReader(),
    GdfReader(),
    CntReader(),
    NiftiReader(),
    *AUDIO_READERS,
    *POINT_READERS,
)


def claim(path: Path) -> Reader | None:
    """The reader that takes a file, by its suffix and then by its first bytes; None where no one does."""
    return claimed_by(path, READERS)


def open_recording(path: Path, parts: Sequence[Path] = ()) -> Recording:
    """Open a recording, with the other files of its group; reads headers only.

    Raises ReadError with the reason, whatever went wrong.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise ReadError(f"{path.name} {what}")
    reader = claim(path)
    if reader is None:
        raise ReadError(f"{path.name} is in no format that can be read here")
    try:
        return reader.open(path, parts)
    except ReadError:
        raise
    except Exception as error:  # format libraries raise anything, down to MemoryError and IndexError
        reason = " ".join(str(error).split()) or "no reason given"
        raise ReadError(f"{path.name} cannot be read as {reader.name}: {type(error).__name__}, {reason}") from error


def scan(folder: Path, claims: Claims | None = None) -> tuple[list[tuple[Path, ...]], list[Path]]:
    """Recordings in a folder and below it, each its handle and the rest of its group, and files that no reader takes.

    ``claims`` remembers what files are from scan to scan; see :func:`readers.scan.scan`. Raises ReadError.
    """
    return find(folder, READERS, claims)


def copy_path(source: Path, path: Path) -> Path:
    """Where :func:`write` puts a copy of ``source`` that is asked for at ``path``."""
    reader = claim(source)
    return path.with_suffix(reader.copy_suffix) if reader is not None and reader.copy_suffix else path


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
