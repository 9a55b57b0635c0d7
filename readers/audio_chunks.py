"""The chunks of RIFF, RIFX, RF64, BW64, Wave64 and AIFF files: where each lies and what it holds."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from readers.schema import ReadError

# More chunks than any recorder writes; a file of zeros would otherwise be walked eight bytes at a time.
MAX_CHUNKS = 2000
# Largest chunk, other than the samples, that is read into memory.
MAX_TEXT_BYTES = 1 << 22
# The size of a chunk that is stated elsewhere or nowhere.
STREAMED = 0xFFFFFFFF
_BIG_ENDIAN = ("RIFX", "AIFF", "AIFC")

# Wave64 names its chunks by GUIDs; those of RIFF's own names share their last twelve bytes.
W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
SAMPLES = ("data", "SSND")


class Chunk(NamedTuple):
    """One chunk: its name, where its content starts, the bytes it claims and the bytes the file holds of them."""

    name: str
    start: int
    claimed: int
    held: int


@dataclass(frozen=True)
class Chunks:
    """The chunks of a file in order. ``kind``: RIFF, RIFX, RF64, BW64, W64, AIFF or AIFC."""

    path: Path
    kind: str
    found: tuple[Chunk, ...]

    def first(self, name: str) -> Chunk | None:
        """The first chunk of a name."""
        return next((chunk for chunk in self.found if chunk.name == name), None)

    def content(self, chunk: Chunk) -> bytes:
        """What a chunk other than the samples holds, up to ``MAX_TEXT_BYTES``. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(chunk.start)
            return file.read(min(chunk.held, MAX_TEXT_BYTES))

    @property
    def byte_order(self) -> str:
        """Of the numbers in chunks, as ``struct`` writes it."""
        return ">" if self.kind in _BIG_ENDIAN else "<"


def container_of(head: bytes) -> str | None:
    """The kind of chunked audio file that starts with ``head`` (40 bytes are enough); None where it is none."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return head[:4].decode()
    if head[:16] == W64_RIFF and head[24:28].lower() == b"wave":
        return "W64"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return head[8:12].decode()
    return None


def read_chunks(path: Path) -> Chunks:
    """Walk a file's chunks, reading their headers only; stops where the file ends. Raises ReadError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = container_of(file.read(40))
        if kind is None:
            raise ReadError(f"{path.name} is no WAV, RF64, Wave64 or AIFF file")
        found = _walk_w64(file, size) if kind == "W64" else _walk(file, size, kind)
    return Chunks(path, kind, tuple(found))


def _walk(file: BinaryIO, size: int, kind: str) -> list[Chunk]:
    order = ">" if kind in _BIG_ENDIAN else "<"
    found: list[Chunk] = []
    large: dict[str, int] = {}  # 64-bit sizes, by RF64's ds64 chunk
    at = 12
    while at + 8 <= size and len(found) < MAX_CHUNKS:
        file.seek(at)
        header = file.read(8)
        name = header[:4].decode("latin-1")
        claimed = int(struct.unpack(order + "I", header[4:])[0])
        if name == "ds64" and claimed >= 24:
            fields = file.read(24)
            if len(fields) == 24:
                large = {"data": struct.unpack("<QQQ", fields)[1]}
        if claimed == STREAMED and name in large:
            claimed = large[name]
        held = min(claimed, size - at - 8)
        if name == "data" and claimed == 0 and not _chunk_follows(file, at + 8, size, order):
            held = size - at - 8  # written by a recorder that never came back to fill in the length
        found.append(Chunk(name, at + 8, claimed, held))
        at += 8 + max(claimed, held) + max(claimed, held) % 2
    return found


def _chunk_follows(file: BinaryIO, at: int, size: int, order: str) -> bool:
    """Whether a chunk that the file holds whole starts here, or the file ends."""
    file.seek(at)
    header = file.read(8)
    if not header:
        return True
    if len(header) < 8 or not all(32 <= byte < 127 for byte in header[:4]):
        return False
    return bool(at + 8 + struct.unpack(order + "I", header[4:])[0] <= size)


def _walk_w64(file: BinaryIO, size: int) -> list[Chunk]:
    found: list[Chunk] = []
    at = 40
    while at + 24 <= size and len(found) < MAX_CHUNKS:
        file.seek(at)
        guid, claimed = struct.unpack("<16sQ", file.read(24))
        name = guid[:4].decode("latin-1") if guid[4:] == _W64_TAIL else guid.hex()
        content = max(claimed - 24, 0)  # the size counts the header
        if name == "data" and claimed <= 24:
            content = 0
            held = size - at - 24
        else:
            held = min(content, size - at - 24)
        found.append(Chunk(name, at + 24, content, held))
        at += 24 + -(-max(content, held) // 8) * 8
    return found
