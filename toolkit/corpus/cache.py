"""What was read from files before, on disk: which reader takes a file, and what its header says.

One SQLite database in ``$TOOLKIT_CACHE``, else ``$XDG_CACHE_HOME/toolkit``, else ``~/.cache/toolkit``; safe to
delete at any time. Nothing here raises: a cache that cannot be read or written is no cache.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import readers
import toolkit
from readers.scan import Claim, Stamp

SCHEMA = 2
NAME = "headers.sqlite"
MAX_BYTES = 2**30  # beyond this size the cache begins anew
SETTLED_NS = 2 * 10**9  # a file that changed later than this before it was read may change again within one tick of its clock
BATCH = 2000  # entries written at a time: each write locks the database for a moment
WAIT_S = 1.0  # for another process that writes
_CORRUPT = (ValueError, TypeError, AttributeError)
_decode = json.JSONDecoder().raw_decode  # without the checks for space around, which cost as much as the rest


class Entry(NamedTuple):
    """What was read from one recording, as JSON text of one line, and the state that its files then were in."""

    state: Any
    text: str


def folder() -> Path:
    """Where caches lie."""
    own, shared = os.environ.get("TOOLKIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path("~/.cache").expanduser()) / "toolkit"


def settled(stamp: Stamp, now_ns: int) -> bool:
    """Whether a file that has this stamp was at rest when it was read at ``now_ns``, so that any change would show."""
    return max(stamp.mtime_ns, stamp.ctime_ns) < now_ns - SETTLED_NS


class HeaderCache:
    """The cache; ``readers.scan.Claims`` of folders and entries of recordings. Use as a context manager."""

    def __init__(self, path: Path | None = None, *, enabled: bool = True) -> None:
        self._base: sqlite3.Connection | None = None
        self._writes = True
        self._waiting: list[tuple[str, bytes, bytes]] = []
        if not enabled:
            return
        try:
            self._path = path or folder() / NAME
            self._base = _opened(self._path)
        except (OSError, RuntimeError, sqlite3.Error):  # a home that cannot be found or written
            self._base = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on(self) -> bool:
        """Whether there is a cache."""
        return self._base is not None

    def recall(self, folder: str, stamps: Mapping[str, Stamp]) -> dict[str, Claim]:
        """What is known of the files of a folder that have the same size and time as then."""
        known: dict[str, Claim] = {}
        for _, value in self._get("folders", [os.path.abspath(folder)]):
            with suppress(*_CORRUPT):
                for name, (size, mtime_ns, reader, *members) in json.loads(value).items():
                    if (stamp := stamps.get(name)) and stamp.size == size and stamp.mtime_ns == mtime_ns:
                        known[name] = Claim(reader, tuple(members))
        return known

    def keep(self, folder: str, stamps: Mapping[str, Stamp], claims: Mapping[str, Claim]) -> None:
        """Remember all claims of a folder, but for files that changed just now."""
        now_ns = time.time_ns()
        known = {
            name: (stamp.size, stamp.mtime_ns, claim.reader, *claim.members)
            for name, claim in claims.items()
            if (stamp := stamps.get(name)) and settled(stamp, now_ns)
        }
        self._put("folders", os.path.abspath(folder), _json(known).encode())

    def entries(self, paths: Sequence[str]) -> dict[str, Entry]:
        """What is known of recordings, by the absolute path of their handle."""
        found = {}
        for key, value in self._get("recordings", paths):
            with suppress(*_CORRUPT):
                state, text = value.decode().split("\n")
                found[os.fsdecode(key)] = Entry(_decode(state)[0], text)
        return found

    def put(self, path: str, entry: Entry) -> None:
        """Remember a recording."""
        self._put("recordings", path, f"{_json(entry.state)}\n{entry.text}".encode())

    def tree(self, key: str) -> bytes | None:
        """What was kept of a whole folder."""
        return next((value for _, value in self._get("folders", [key])), None)

    def keep_tree(self, key: str, value: bytes) -> None:
        """Keep something of a whole folder."""
        self._put("folders", key, value)

    def close(self) -> None:
        """Write what waits, and close."""
        self._flush()
        if self._base is not None:
            with suppress(sqlite3.Error):
                self._base.close()
            self._base = None

    def _get(self, table: str, paths: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
        if self._base is None:
            return
        keys = [os.fsencode(path) for path in paths]
        try:
            marks = ",".join("?" * len(keys))
            yield from self._base.execute(f"SELECT path, value FROM {table} WHERE path IN ({marks})", keys)
        except sqlite3.Error as problem:  # locked for long, or damaged
            self._fail(problem)

    def _put(self, table: str, path: str, value: bytes) -> None:
        if self._base is None or not self._writes:
            return
        self._waiting.append((table, os.fsencode(path), value))
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._base is None or not waiting:
            return
        try:
            with self._base:
                for table in ("folders", "recordings"):
                    rows = [(key, value) for where, key, value in waiting if where == table]
                    self._base.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)
        except sqlite3.OperationalError:  # read-only, full, or locked by another process
            self._writes = False
        except sqlite3.Error as problem:
            self._fail(problem)

    def _fail(self, problem: sqlite3.Error) -> None:
        """Go on without; a database that is damaged is removed, so that the next time begins anew."""
        base, self._base = self._base, None
        with suppress(sqlite3.Error, OSError):
            if base is not None:
                base.close()
            if _damaged(problem):
                self._path.unlink()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > MAX_BYTES:
        path.unlink()
    try:
        return _prepared(path)
    except sqlite3.DatabaseError as problem:
        if not _damaged(problem):
            raise
        path.unlink()
        return _prepared(path)


def _damaged(problem: sqlite3.Error) -> bool:
    """Whether it is the file's fault, and not that it is locked, read-only or on a full disk."""
    return isinstance(problem, sqlite3.DatabaseError) and not isinstance(problem, sqlite3.OperationalError)


def _prepared(path: Path) -> sqlite3.Connection:
    """The database with its tables, emptied where another version of the program made it."""
    base = sqlite3.connect(path, timeout=WAIT_S)
    try:
        base.execute("PRAGMA synchronous = OFF")  # what a power cut breaks is found out and made anew
        stamp = _version()
        if _version_of(base) == stamp:
            return base
        with _exclusive(base):
            if _version_of(base) == stamp:  # another process was faster
                return base
            for table in ("about", "folders", "recordings"):
                base.execute(f"DROP TABLE IF EXISTS {table}")
            base.execute("CREATE TABLE about (version TEXT)")
            base.execute("INSERT INTO about VALUES (?)", (stamp,))
            for table in ("folders", "recordings"):
                base.execute(f"CREATE TABLE {table} (path BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        return base
    except sqlite3.Error:
        base.close()
        raise


def _version_of(base: sqlite3.Connection) -> str | None:
    try:
        return str(base.execute("SELECT version FROM about").fetchone()[0])
    except (sqlite3.OperationalError, TypeError):  # there is no such table yet, or none of its row
        return None


@contextmanager
def _exclusive(base: sqlite3.Connection) -> Iterator[None]:
    base.execute("BEGIN EXCLUSIVE")
    with base:
        yield


def _version() -> str:
    """Of all that decides what is read from a file: the program and the readers' own text."""
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in Path(readers.__file__).parent.glob("*.py"))
    return f"{SCHEMA} {toolkit.__version__} {zlib.crc32(repr(files).encode()):08x}"
