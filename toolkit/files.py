"""Writing files so that a partial one never looks finished, and refusing to overwrite."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError, UsageError

MARKS = ("run.json", "recipe.toml", "metrics.json", "plan.json")  # one of them lies in every folder that a command writes


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it into place.

    Raises ToolkitError that names the file when the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        mask = os.umask(0)  # some libraries make private files; give it the rights that open() would
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as problem:
        raise ToolkitError(
            f"'{path}' could not be written: {problem.strerror or problem}. Nothing that was there "
            "before is changed. Free space or choose another place, then run again."
        ) from None
    finally:
        with suppress(OSError):  # there is nothing to remove where nothing could be made
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool, what: str) -> Iterator[Path]:
    """Yield a temporary folder's path beside ``path``; on success it takes the place of what may be overwritten there.

    Raises UsageError as :func:`check_folder` does.
    """
    check_folder(path, overwrite=overwrite, what=what)
    building = path.resolve().with_name(f".{path.resolve().name}.{os.getpid()}.tmp")
    try:
        yield building
        claim_output(path, overwrite=overwrite, what=what)
        if path.is_dir():
            path.resolve().rmdir()  # empty by now
        building.replace(path.resolve())
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be any bytes


def write_json(path: Path, document: Any) -> None:
    """Write an indented JSON document atomically."""
    write_text(path, json.dumps(document, indent=2, default=str) + "\n")


def sha256(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def check_file(path: Path, *, overwrite: bool, what: str) -> None:
    """Refuse an output file that exists, unless it may be overwritten, or that cannot be written. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{what} '{path}' is a folder, expected a file to write.")
    if path.exists() and not overwrite:
        raise UsageError(f"{what} '{path}' exists. Choose another --out, or pass --overwrite to replace it.")
    check_writable(path)


def check_folder(path: Path, *, overwrite: bool, what: str) -> None:
    """Refuse an output folder that holds something, unless it is of our making and may be overwritten. Raises UsageError."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{what} '{path}' is a file, expected a folder to write.")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UsageError(f"{what} '{path}' exists. Choose another --out, or pass --overwrite to replace it.")
        if not any((path / mark).exists() for mark in MARKS):
            raise UsageError(
                f"{what} '{path}' holds none of {', '.join(MARKS)}, so it was not written by this program and "
                "--overwrite does not remove it. Choose another --out."
            )
    check_writable(path)


def claim_output(path: Path, *, overwrite: bool, what: str) -> None:
    """Check an output folder; with --overwrite remove what is there. Raises UsageError."""
    check_folder(path, overwrite=overwrite, what=what)
    if path.is_dir() and overwrite:
        shutil.rmtree(path.resolve())
        path.resolve().mkdir()  # what a link points to stays a folder


def check_writable(path: Path) -> None:
    """Raise UsageError when nothing can be created at ``path``."""
    parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not parent.is_dir() and parent != path.absolute():
        raise UsageError(f"'{path}' cannot be written: '{parent}' is a file, not a folder.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"'{path}' cannot be written: no write permission in '{parent}'.")
