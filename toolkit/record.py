"""run.json: what was run, on what, with what, and how it went."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__, files, machine
from toolkit import recipe as recipes

if TYPE_CHECKING:
    from toolkit.model.folder import LoadedModel

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "wfdb")


class RunRecord:
    """Collects the facts of one command; :meth:`write` puts them beside its output."""

    def __init__(self, command: str) -> None:
        self.began = time.monotonic()
        self.facts: dict[str, Any] = {
            "command": command,
            "argv": sys.argv,
            "toolkit": __version__,
            "python": platform.python_version(),
            "packages": _versions(),
            "machine": {"platform": platform.platform(), "cores": machine.available_cores()},
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def add(self, **facts: Any) -> None:
        """Add or replace facts."""
        self.facts.update(facts)

    def add_model(self, loaded: LoadedModel) -> None:
        """Add the model that was used and the recipe it replays."""
        self.add(
            model=str(loaded.path),
            model_hash=loaded.hash,
            recipe=loaded.recipe.model_dump(mode="json"),
            recipe_hash=recipes.fingerprint(loaded.recipe),
        )

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.began

    def write(self, path: Path, *, exit_code: int) -> None:
        """Write the record atomically."""
        self.add(seconds=round(self.seconds, 3), peak_memory_mb=round(machine.peak_memory_mb(), 1), exit=exit_code)
        files.write_json(path, self.facts)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def manifest_hash(paths: Iterable[Path], stamps: Iterable[tuple[Path, int, int]] = ()) -> str:
    """Hash of (path, size, mtime) of every input file, first 16 hex digits of SHA-256; a missing file counts by its path.

    ``stamps`` are files whose size and mtime are known: those of a prepared corpus, which need not be there any more.
    """
    known = {path: (size, mtime_ns) for path, size, mtime_ns in stamps}
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path}\0{_state(path, known.get(path))}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _state(path: Path, stamp: tuple[int, int] | None) -> str:
    """Size and mtime of a file as text, or ``missing``; not looked up where ``stamp`` gives them."""
    try:
        size, mtime_ns = stamp or ((status := path.stat()).st_size, status.st_mtime_ns)
    except OSError:
        return "missing"
    return f"{size}\0{mtime_ns}"
