"""The tags of a FIF file, walked and checked before anything is read: where the data buffers are, which file comes next."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from readers.eeg_matrix import Block
from readers.schema import ReadError

# Kinds of tags, of blocks, and of numbers, by the names of the FIF specification.
FILE_ID, DIR_POINTER, DIR = 100, 101, 102
_BLOCK_START, _REF_ROLE, _REF_FILE_NUM, _REF_FILE_NAME = 104, 115, 117, 118
_FIRST_SAMPLE, _DATA_BUFFER, _DATA_SKIP = 208, 300, 301
_NEXT_FILE = 2
_RAW, _EVOKED, _CONTINUOUS, _MAXSHIELD, _EPOCHS = 102, 104, 112, 119, 373
_OTHER = {
    _EPOCHS: "epochs",
    _EVOKED: "averages",
    355: "a covariance",
    351: "a source space",
    352: "a forward solution",
    374: "ICA",
}
_NUMBERS = {2: ">i2", 16: ">i2", 3: ">i4", 4: ">f4", 5: ">f8"}
MAX_TAGS = 600_000
MAX_PARTS = 1000


class Tag(NamedTuple):
    """``data``: where its bytes begin."""

    kind: int
    type: int
    size: int
    data: int


@dataclass(frozen=True)
class Part:
    """One file of a recording: its tags that matter for the data, and the next file's name."""

    path: Path
    tags: tuple[Tag, ...]
    blocks: frozenset[int]
    next: Path | None


def walk(path: Path) -> list[Tag]:
    """Every tag of a file: those that its directory lists, else one after the other. Raises ReadError where one is broken.

    MNE follows the directory, so each entry has to be what lies at its place.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        handle = file.fileno()
        first, follow = _tag(path, handle, 0, size)
        pointer, _ = _tag(path, handle, follow or first.data + first.size, size)
        if first.kind != FILE_ID or pointer.kind != DIR_POINTER or pointer.size != 4:
            raise ReadError(f"{path.name} is no FIF file: it has no directory pointer")
        (at,) = struct.unpack(">i", os.pread(handle, 4, pointer.data))
        return _listed(path, handle, at, size) if at > 0 else _chained(path, handle, size)


def _tag(path: Path, handle: int, at: int, size: int) -> tuple[Tag, int]:
    """The tag at a place, and what it says of the next one's place (0: behind it, negative: there is none)."""
    raw = os.pread(handle, 16, at) if 0 <= at <= size - 16 else b""
    kind, type_, length, follow = struct.unpack(">4i", raw) if len(raw) == 16 else (0, 0, -1, -1)
    if not 0 <= length <= size - at - 16:
        raise ReadError(f"{path.name} is {f'cut short or broken at byte {at} of {size}' if size else 'empty'}")
    return Tag(kind, type_, length, at + 16), follow


def _listed(path: Path, handle: int, at: int, size: int) -> list[Tag]:
    directory, _ = _tag(path, handle, at, size)
    if directory.kind != DIR or directory.size > MAX_TAGS * 16:
        raise ReadError(f"{path.name} is cut short or broken: its directory at byte {at} is not there")
    raw = os.pread(handle, directory.size // 16 * 16, directory.data)
    found = []
    for kind, type_, length, place in np.frombuffer(raw, ">i4").reshape(-1, 4).tolist():
        if kind < 0:
            break
        tag, _ = _tag(path, handle, place, size)
        if tag[:3] != (kind, type_, length):
            raise ReadError(f"{path.name} is broken: its directory does not agree with its contents")
        found.append(tag)
    return found


def _chained(path: Path, handle: int, size: int) -> list[Tag]:
    found: list[Tag] = []
    at = 0
    while 0 <= at <= size - 16:
        tag, follow = _tag(path, handle, at, size)
        found.append(tag)
        if 0 < follow <= at or len(found) > MAX_TAGS:
            raise ReadError(f"{path.name} is broken at byte {at}: its tags run in a circle")
        at = follow or tag.data + tag.size
    return found


def read_parts(path: Path) -> list[Part]:
    """The files of a recording in order, the one at ``path`` first. Raises ReadError."""
    parts: list[Part] = []
    follow: Path | None = path
    while follow is not None:
        if not follow.is_file():
            raise ReadError(f"{follow.name}, which continues {parts[-1].path.name}, is missing")
        if follow.resolve() in [part.path.resolve() for part in parts] or len(parts) >= MAX_PARTS:
            raise ReadError(f"{follow.name} continues itself")
        parts.append(_part(follow))
        follow = parts[-1].next
    return parts


def _part(path: Path) -> Part:
    try:
        tags = walk(path)
        with path.open("rb") as file:
            return _read_part(path, tags, file.fileno())
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _read_part(path: Path, tags: list[Tag], handle: int) -> Part:
    def number(tag: Tag) -> int:
        raw = os.pread(handle, 4, tag.data)
        return int(struct.unpack(">i", raw)[0]) if tag.size == 4 and len(raw) == 4 else 0

    blocks = frozenset(number(tag) for tag in tags if tag.kind == _BLOCK_START)
    role, name, place = 0, "", 0
    for tag in tags:
        if tag.kind == _REF_ROLE:
            role = number(tag)
        elif tag.kind == _REF_FILE_NAME and role == _NEXT_FILE:
            name = os.pread(handle, min(tag.size, 4096), tag.data).decode("latin-1").strip("\0 ")
        elif tag.kind == _REF_FILE_NUM and role == _NEXT_FILE:
            place = number(tag)
    wanted = [tag for tag in tags if tag.kind in (_FIRST_SAMPLE, _DATA_BUFFER, _DATA_SKIP)]
    if not name and place > 0:
        name = re.sub(r"-\d+$", "", path.stem) + f"-{place}{path.suffix}"
    return Part(path, tuple(wanted), blocks, path.parent / name if name else None)


def require_raw(parts: list[Part]) -> None:
    """Raise ReadError where a file holds something else than a continuous recording."""
    for part in parts:
        held = next((text for block, text in _OTHER.items() if block in part.blocks), None)
        if held or not part.blocks & {_RAW, _CONTINUOUS, _MAXSHIELD}:
            raise ReadError(f"{part.path.name} holds {held or 'no raw data'}, not a continuous recording")


def data_blocks(parts: list[Part], n_channels: int) -> tuple[list[Block], np.dtype]:
    """Blocks of samples, with the gaps that skips leave, and their dtype. Raises ReadError."""
    found: list[Block] = []
    types: set[int] = set()
    at = 0
    for part in parts:
        skip, own = 0, len(found)
        for tag in part.tags:
            if tag.kind == _DATA_SKIP:
                skip = _int(part.path, tag)
            elif tag.kind == _DATA_BUFFER:
                if tag.type not in _NUMBERS:
                    raise ReadError(f"{part.path.name} holds complex numbers or an unknown type ({tag.type})")
                types.add(tag.type)
                n_samples = tag.size // (n_channels * np.dtype(_NUMBERS[tag.type]).itemsize)
                # A skip before the first buffer belongs to the time before the recording.
                at += skip * n_samples if len(found) > own else 0
                skip = 0
                if n_samples:
                    found.append(Block(part.path, tag.data, at, at + n_samples))
                    at += n_samples
    if not found or len({_NUMBERS[type_] for type_ in types}) != 1:
        raise ReadError(f"{parts[0].path.name} holds {'samples of several types' if found else 'no samples'}")
    if at > 2**48:
        raise ReadError(f"{parts[0].path.name} claims {at} samples")
    return found, np.dtype(_NUMBERS[types.pop()])


def _int(path: Path, tag: Tag) -> int:
    with path.open("rb") as file:
        file.seek(tag.data)
        raw = file.read(4)
    value = int(struct.unpack(">i", raw)[0]) if tag.size == 4 and len(raw) == 4 else -1
    if value < 0:
        raise ReadError(f"{path.name} holds a broken gap")
    return value
