"""MPEG audio frames: their headers, the tags around them, and walking through all of a file's frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

GROUP = 8
MAX_FRAME_BYTES = 1441
_BLOCK_BYTES = 1 << 20
# Without a frame for so long the rest is taken for something else than MP3.
_MAX_JUNK = 1 << 18
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HEADER = struct.Struct(">I")


@dataclass(frozen=True)
class Kind:
    """What all frames of a file share, from the header of one: ``top`` are its sync, version and layer bits.

    ``samples`` of a frame; ``side_bytes`` after its header; ``sizes`` in bytes by bit rate, without padding.
    """

    version: int
    rate_hz: int
    mono: bool
    samples: int
    side_bytes: int
    sizes: tuple[int, ...]
    top: int
    rate_bits: int

    @cached_property
    def table(self) -> tuple[int, ...]:
        """Bytes of a frame by the seven bits of its header from bit 9 on; 0 where they are of no frame of this kind."""
        return tuple(
            self.sizes[k >> 3] + (k & 1) if k >> 1 & 3 == self.rate_bits and self.sizes[k >> 3] else 0 for k in range(128)
        )

    def size_of(self, header: int) -> int:
        """Bytes of the frame that a header announces; 0 where it is not of this kind."""
        return self.table[header >> 9 & 127] if header >> 17 == self.top and (header >> 6 & 3 == 3) is self.mono else 0


def kind_of(header: int) -> Kind | None:
    """The kind of layer III frame with this 32-bit header; None where it is none, or of free format."""
    version, layer, rate = header >> 19 & 3, header >> 17 & 3, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer != 1 or rate == 3:
        return None
    rate_hz, samples = _RATES[version][rate], 1152 if version == 3 else 576
    kbps = _KBPS if version == 3 else _KBPS_LOW
    sizes = (*(samples * 125 * k // rate_hz for k in kbps), 0)
    mono = header >> 6 & 3 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    kind = Kind(version, rate_hz, mono, samples, side, sizes, header >> 17, rate)
    return kind if kind.size_of(header) else None


def frames_in(kind: Kind, data: bytes, limit: int, joined: bool) -> tuple[list[int], int, int]:
    """Places of the frames that start before ``limit``, the byte after the last one (0: there is none), their bytes.

    One that does not follow right on the last (``joined``: nor on what was before) counts only where another one,
    or nothing, follows it.
    """
    places: list[int] = []
    at = end = total = 0
    table, top, mono, size_of, unpack = kind.table, kind.top, kind.mono, kind.size_of, _HEADER.unpack_from
    limit = min(limit, len(data)) - 4
    while 0 <= at <= limit:
        header = unpack(data, at)[0]
        size = table[header >> 9 & 127] if header >> 17 == top and (header >> 6 & 3 == 3) is mono else 0
        after = at + size
        if size and after <= len(data) and (joined or after > len(data) - 4 or size_of(unpack(data, after)[0])):
            places.append(at)
            at = end = after
            total += size
            joined = True
        else:
            at, joined = data.find(b"\xff", at + 1), False
    return places, end, total


def sound_span(path: Path, size: int) -> tuple[int, int]:
    """Where the frames start and stop: after ID3v2 tags, before APE and ID3v1 tags."""
    with path.open("rb") as file:
        begin = id3_end(file.read(10), 0)
        file.seek(begin)
        begin = id3_end(file.read(10), begin)
        end = size
        file.seek(max(end - 128, 0))
        end -= 128 if size >= 128 and file.read(3) == b"TAG" else 0
        file.seek(max(end - 32, 0))
        foot = file.read(32)
        if foot[:8] == b"APETAGEX" and 32 <= (length := int.from_bytes(foot[12:16], "little")) < end:
            end -= length + (32 if foot[23] & 0x80 else 0)
    return begin, end


def id3_end(head: bytes, at: int) -> int:
    """Where an ID3v2 tag that starts at ``at`` with these ten bytes stops; ``at`` where none starts."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
        return at
    length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return at + 10 + length + (10 if head[5] & 0x10 else 0)


@dataclass(frozen=True)
class Tag:
    """What the Xing or Info frame says: frames (None: unsaid), and samples to leave out at the ends."""

    frames: int | None
    delay: int
    padding: int


def read_tag(kind: Kind, frame: bytes) -> Tag | None:
    """The Xing or Info tag in a file's first frame; None where that holds sound."""
    at = 4 + kind.side_bytes
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    at += 8
    frames = int.from_bytes(frame[at : at + 4], "big") if flags & 1 and len(frame) >= at + 4 else None
    at += (4 if flags & 1 else 0) + (4 if flags & 2 else 0) + (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    packed = int.from_bytes(frame[at + 21 : at + 24], "big") if len(frame) >= at + 24 else 0
    return Tag(frames, packed >> 12, packed & 0xFFF)


class Walk:
    """One pass over the frames between two bytes of a file, in blocks.

    ``places``: of every ``GROUP``-th frame from the first, ``after_first``: from the second; ``first`` are the bytes
    and ``header`` the header of the first one; ``end`` is the byte after the last one.
    """

    def __init__(self, path: Path, begin: int, end: int) -> None:
        self.kind: Kind | None = None
        self.header = self.frames = 0
        self.first = b""
        self.places: list[int] = []
        self.after_first: list[int] = []
        self.end = begin
        self._frame_bytes = 0
        with path.open("rb") as file:
            self._run(file, begin, end)
        self._stop = end

    @property
    def notes(self) -> list[str]:
        """Warnings: bytes that belong to no frame."""
        notes = []
        between = self.end - self.places[0] - self._frame_bytes if self.places else 0
        if between:
            notes.append(f"{between} bytes between frames are no MP3 and are left out")
        if self._stop - self.end >= 4:
            notes.append(f"the last {self._stop - self.end} bytes hold no whole frame: the file may be cut")
        return notes

    def _run(self, file: BinaryIO, begin: int, end: int) -> None:
        at = begin
        while at + 4 <= end:
            file.seek(at)
            data = file.read(min(_BLOCK_BYTES, end - at))
            final = at + len(data) >= end
            if self.kind is None and not self._start(data, at):
                at += len(data) if final else len(data) - 2 * MAX_FRAME_BYTES - 8
                if at - begin > _MAX_JUNK:
                    return
                continue
            at += self._block(data, at, final)
            if at - self.end > _MAX_JUNK:
                return

    def _start(self, data: bytes, at: int) -> bool:
        """Find the first frame: one that another of its kind follows, or one that fills the rest."""
        for place in _syncs(data[:_MAX_JUNK]):
            header = int.from_bytes(data[place : place + 4], "big")
            kind = kind_of(header)
            if kind is None:
                continue
            after = place + kind.size_of(header)
            if after == len(data) or kind.size_of(int.from_bytes(data[after : after + 4], "big")):
                self.kind, self.header, self.first = kind, header, data[place:after]
                self.end = at
                return True
        return False

    def _block(self, data: bytes, origin: int, final: bool) -> int:
        """Walk through the frames of a block; bytes done with."""
        assert self.kind is not None
        limit = len(data) if final else len(data) - MAX_FRAME_BYTES - 4
        places, end, total = frames_in(self.kind, data, limit, origin == self.end)
        for start, found in ((0, self.places), (1, self.after_first)):
            found.extend(origin + at for at in places[(start - self.frames) % GROUP :: GROUP])
        self.frames += len(places)
        self.end = origin + end if places else self.end
        self._frame_bytes += total
        return len(data) if final else max(limit, end)


def _syncs(data: bytes) -> Iterator[int]:
    at = -1
    while (at := data.find(b"\xff", at + 1, max(len(data) - 3, 0))) >= 0:
        if data[at + 1] & 0xE0 == 0xE0:
            yield at
