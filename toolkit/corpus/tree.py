"""Whole folders remembered: where no file below one changed, all that was said of it still holds."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from readers.scan import Stamp
from toolkit.corpus.cache import HeaderCache, settled
from toolkit.corpus.catalog import ABOVE, TABLES, Row
from toolkit.corpus.inputs import Failure


class Said(NamedTuple):
    """What an inspection of a folder said: files that no reader takes, and a row for each recording."""

    unclaimed: tuple[Path, ...]
    rows: Iterator[Row]


class Tree:
    """One folder given as DATA. What it holds is remembered where every recording in it could be read."""

    def __init__(self, cache: HeaderCache, data: Sequence[str], began_ns: int) -> None:
        plain = len(data) == 1 and cache.on and Path(data[0]).is_dir()
        self.cache, self.folder = cache, str(Path(data[0])) if plain else ""
        self.key = f"tree {os.path.abspath(self.folder)}"
        self.signature = signature(self.folder, began_ns) if plain else None

    def recall(self) -> Said | None:
        """What was said when every file was as it is now."""
        if self.signature is None or (held := self.cache.tree(self.key)) is None:
            return None
        before, unclaimed, *rows = zlib.decompress(held).decode().split("\n")
        if before != self.signature:
            return None
        return Said(tuple(Path(self.folder, name) for name in json.loads(unclaimed)), self._rows(rows))

    def _rows(self, lines: Sequence[str]) -> Iterator[Row]:
        folder = os.path.join(self.folder, "")
        for line in lines:
            name, _, rest = line.partition("\t")
            yield Row(folder + name, rest)

    def remember(self, unclaimed: Sequence[Path], rows: Iterable[Row | Failure]) -> Generator[Row | Failure, None, None]:
        """The same rows; when all have been taken and none is a failure, they are kept."""
        folder, packer = os.path.join(self.folder, ""), zlib.compressobj(1)
        inside = os.path.join(os.path.abspath(self.folder), "")
        whole = self.signature is not None and all(str(path).startswith(folder) for path in unclaimed)
        names = json.dumps([str(path).removeprefix(folder) for path in unclaimed])
        packed = [packer.compress(f"{self.signature}\n{names}".encode())]
        for row in rows:
            # A name with a tab or a line break would not come back as it was.
            whole = whole and isinstance(row, Row) and row.path.startswith(folder) and row.path.isprintable()
            # The signature is of the files below the folder only.
            whole = whole and isinstance(row, Row) and all(file.startswith(inside) for file in row.beyond)
            if whole and isinstance(row, Row):
                packed.append(packer.compress(f"\n{row.path.removeprefix(folder)}\t{row.rest}".encode()))
            yield row
        if whole:
            self.cache.keep_tree(self.key, b"".join([*packed, packer.flush()]))


def signature(folder: str, began_ns: int) -> str | None:
    """A digest of the names, sizes and times of all visible files below a folder, and of tables above one of a BIDS subject.

    None where a folder cannot be listed, or a file may have changed since ``began_ns``.
    """
    digest, seen, waiting = hashlib.blake2b(digest_size=16), set[str](), [folder]
    here = Path(os.path.abspath(folder))
    above = here.parents[:ABOVE] if any(part.startswith("sub-") for part in here.parts) else ()
    try:
        listed = [entry for place in above for entry in os.scandir(place) if entry.name.endswith(TABLES)]
        digest.update(_lines(sorted(listed, key=lambda entry: entry.path), began_ns))
        while waiting:
            path = waiting.pop()
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            with os.scandir(path) as listing:
                entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
            waiting += [entry.path for entry in entries if entry.is_dir()]
            digest.update(_lines(entries, began_ns))
    except OSError:
        return None
    except ValueError:  # from _lines
        return None
    return digest.hexdigest()


def _lines(entries: Sequence[os.DirEntry[str]], began_ns: int) -> bytes:
    """Names, sizes and times. Raises ValueError where one is too new to be sure of."""
    found = []
    for entry in entries:
        stat = entry.stat()
        if not settled(Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns), began_ns):
            raise ValueError(f"{entry.name} changed just now")
        found.append(f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\n")
    return os.fsencode("".join(found))
