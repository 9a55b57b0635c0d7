"""FLAC: its metadata blocks, its length counted from its last whole frame, and new frames under the old metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from readers.audio_stream import Sndfile, Stream, checked
from readers.schema import ReadError

STREAMINFO, PADDING, SEEKTABLE = 0, 1, 3
_MAX_BLOCKS = 1000
# The end of a file that is searched for its last frame, in bytes; the next size is tried where one holds none.
_TAILS = (1 << 16, 1 << 19, 1 << 22)
_MAX_CANDIDATES = 64
_BLOCK_SIZES = {1: 192, **{k: 576 << (k - 2) for k in range(2, 6)}, **{k: 256 << (k - 8) for k in range(8, 16)}}


@dataclass(frozen=True)
class FlacHeader:
    """STREAMINFO, and where every metadata block lies: (kind, start of its content, bytes)."""

    blocks: tuple[tuple[int, int, int], ...]
    audio: int
    max_block: int
    rate_hz: int
    channels: int
    bits: int
    total: int
    md5: bytes


def read_flac_header(path: Path, start: int) -> FlacHeader:
    """Read the metadata of the FLAC stream that starts at byte ``start``. Raises ReadError."""
    size = path.stat().st_size
    blocks: list[tuple[int, int, int]] = []
    with path.open("rb") as file:
        at = start + 4
        last = False
        while not last and len(blocks) < _MAX_BLOCKS:
            file.seek(at)
            head = file.read(4)
            length = int.from_bytes(head[1:], "big")
            if len(head) < 4 or at + 4 + length > size:
                raise ReadError(f"{path.name} ends inside its metadata")
            last = bool(head[0] & 0x80)
            blocks.append((head[0] & 0x7F, at + 4, length))
            at += 4 + length
        if blocks[0][0] != STREAMINFO or blocks[0][2] < 34:
            raise ReadError(f"{path.name} does not start with a STREAMINFO block")
        file.seek(blocks[0][1])
        info = file.read(34)
    largest = int.from_bytes(info[2:4], "big")
    packed = int.from_bytes(info[10:18], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    return FlacHeader(tuple(blocks), at, largest, rate, channels, bits, packed & (1 << 36) - 1, info[18:])


def read_flac(path: Path, header: FlacHeader) -> Stream:
    """The frames of a FLAC stream, counted from the last whole frame of the file. Raises ReadError."""
    counted, whole = _count(path, header)
    notes = []
    if counted is None:
        counted = header.total
        notes.append(f"no whole frame found at the end: {counted} samples by the header, not counted")
        if counted * 11 > path.stat().st_size * 65_535:  # a frame has 11 bytes at least and 65535 samples at most
            raise ReadError(f"{path.name} claims {counted} samples in {path.stat().st_size} bytes")
    elif header.total == 0:
        notes.append(f"the header states no length: {counted} samples counted")
    elif counted != header.total:
        notes.append(f"the header claims {header.total} samples, the file holds {counted}")
    if not whole:
        notes.append("the file is cut inside its last frame")
    told = b"" if counted == header.total else _retold(path, header, counted)
    subtype = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}.get(header.bits, f"PCM_{header.bits}")
    return checked(path.name, Stream(subtype, float(header.rate_hz), header.channels, counted, Sndfile(told), tuple(notes)))


def _retold(path: Path, header: FlacHeader, frames: int) -> bytes:
    """The file's first bytes with the counted length in STREAMINFO; libsndfile reads no further than that says."""
    at = header.blocks[0][1]
    with path.open("rb") as file:
        head = bytearray(file.read(at + 34))
    packed = int.from_bytes(head[at + 10 : at + 18], "big") >> 36 << 36 | frames
    head[at + 10 : at + 18] = packed.to_bytes(8, "big")
    head[at + 18 : at + 34] = bytes(16)  # no checksum
    return bytes(head)


def _count(path: Path, header: FlacHeader) -> tuple[int | None, bool]:
    """Frames up to the end of the last whole FLAC frame (None: not found), and whether the file ends there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - 128, 0))
        size -= 128 if file.read(3) == b"TAG" else 0  # an ID3v1 tag
        for length in _TAILS:
            begin = max(header.audio, size - length)
            file.seek(begin)
            tail = file.read(size - begin)
            found = _last_frame(tail, header)
            if found is not None:
                return found
            if begin == header.audio:
                break
    return None, True


def _last_frame(tail: bytes, header: FlacHeader) -> tuple[int, bool] | None:
    starts: dict[int, int] = {}  # first sample of each frame announced further back in the file -> place
    for _, (at, first, stop) in zip(range(_MAX_CANDIDATES), _candidates(tail, header), strict=False):
        end = starts.get(stop, len(tail))
        if crc16(tail[at:end]) == 0:
            return stop, end == len(tail)
        starts[first] = at
    return None


def _candidates(tail: bytes, header: FlacHeader) -> Iterator[tuple[int, int, int]]:
    """What looks like a frame header, from the end backwards: its place, and the samples where the frame starts and stops."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        frame = _frame(tail, at, header)
        if frame is not None:
            yield at, *frame


def _frame(tail: bytes, at: int, header: FlacHeader) -> tuple[int, int] | None:
    """First sample and sample after the last of the frame whose header is at ``at``; None where there is none."""
    head = tail[at : at + 16]
    if len(head) < 6 or head[0] != 0xFF or head[1] not in (0xF8, 0xF9) or head[3] & 1:
        return None
    ones = 8 - (~head[4] & 0xFF).bit_length()
    extra = max(ones - 1, 0)
    size_code, rate_code = head[2] >> 4, head[2] & 15
    place = 5 + extra
    after = place + {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if ones in (1, 8) or size_code == 0 or rate_code == 15 or after >= len(head) or _crc8(head[:after]) != head[after]:
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5:place]:
        number = number << 6 | byte & 0x3F
    block = _BLOCK_SIZES.get(size_code) or int.from_bytes(head[place : place + size_code - 5], "big") + 1
    first = number if head[1] & 1 else number * header.max_block
    return first, first + block


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    found = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        found.append(value)
    return tuple(found)


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


def crc16(data: bytes, value: int = 0) -> int:
    """CRC-16 of polynomial 0x8005, as FLAC and MP3 have it, from a start value."""
    for byte in data:
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
    return value


def splice(encoded: Path, original: Path, header: FlacHeader, out: BinaryIO) -> None:
    """Write the frames of ``encoded`` under its STREAMINFO and the other metadata blocks of ``original``.

    SEEKTABLE and PADDING stay behind: the first would point wrong, the second holds nothing. Raises ReadError, OSError.
    """
    new = read_flac_header(encoded, 0)
    kept = [block for block in header.blocks if block[0] not in (STREAMINFO, PADDING, SEEKTABLE)]
    with encoded.open("rb") as fresh, original.open("rb") as old:
        out.write(b"fLaC" + bytes([STREAMINFO | (0 if kept else 0x80)]) + (34).to_bytes(3, "big"))
        fresh.seek(new.blocks[0][1])
        out.write(fresh.read(34))
        for place, (kind, at, length) in enumerate(kept):
            out.write(bytes([kind | (0x80 if place == len(kept) - 1 else 0)]) + length.to_bytes(3, "big"))
            old.seek(at)
            out.write(old.read(length))
        fresh.seek(new.audio)
        while data := fresh.read(1 << 20):
            out.write(data)
