"""Writing files so that a partial one never looks finished, and refusing to overwrite."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError, UsageError


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
        temporary.replace(path)
    except OSError as problem:
        raise ToolkitError(f"'{path}' could not be written: {problem.strerror or problem}. Nothing that was there "
                           "before is changed. Free space or choose another place, then run again.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write an indented JSON document atomically."""
    write_text(path, json.dumps(document, indent=2, default=str) + "\n")


def sha256(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def claim_output(path: Path, *, overwrite: bool, what: str) -> None:
    """Refuse an output that exists (UsageError), or remove it with --overwrite; check that it can be written."""
    if path.exists() and (path.is_file() or any(path.iterdir())):
        if not overwrite:
            raise UsageError(f"{what} '{path}' exists. Choose another --out, or pass --overwrite to replace it.")
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise UsageError when nothing can be created at ``path``."""
    parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not parent.is_dir() and parent != path.absolute():
        raise UsageError(f"'{path}' cannot be written: '{parent}' is a file, not a folder.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"'{path}' cannot be written: no write permission in '{parent}'.")
