"""Damage to files: numbers in headers overwritten, blocks cut, filled, moved and repeated, samples that are no numbers."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

HEADER = 2048
Damage = Callable[[bytearray, random.Random], None]

TEXTS = [
    *(b"-1", b"0", b"-0", b"1", b"65536", b"2147483648", b"-99999999", b"4294967295", b"9" * 8, b"9" * 18, b"9" * 5000, b"1e30"),
    *(b"1e400", b"1e-300", b"nan", b"-inf", b"inf", b"", b"0x10", b"1_0", b"\xff\xfe", "µ٣".encode(), b"\0", b"%s", b"1/0"),
]
WHOLE = (-1, 0, 1, 2, 127, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -(2**63))
FLOATS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e38, -1e38, 1e-38, 1e300, 5e-324)


def place(raw: bytearray, rng: random.Random) -> int:
    """A place in the header, or anywhere."""
    return rng.randrange(max(min(len(raw), HEADER) if rng.random() < 0.6 else len(raw), 1))


def flip(raw: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 30))):
        if raw:
            raw[place(raw, rng)] = rng.choice((rng.randrange(256), 0, 255))


def text(raw: bytearray, rng: random.Random) -> None:
    """Another text for a number written in ASCII, in the same width or in its own."""
    words = list(re.finditer(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", raw[: rng.choice((HEADER, 1 << 16))]))
    if words:
        word, new = rng.choice(words), rng.choice(TEXTS)
        width = len(word[0])
        raw[word.start() : word.end()] = new[:width].ljust(width) if rng.random() < 0.6 else new


def word(raw: bytearray, rng: random.Random) -> None:
    """One word of the header in place of another."""
    words = list(re.finditer(rb"[A-Za-z_]{2,}", raw[:HEADER]))
    if words:
        old, new = rng.choice(words), rng.choice(words)[0]
        raw[old.start() : old.end()] = new[: len(old[0])].ljust(len(old[0])) if rng.random() < 0.5 else new


def binary(raw: bytearray, rng: random.Random) -> None:
    """An extreme number in place of a binary field."""
    code = rng.choice("bhiqfd")
    if code in "fd":
        value = rng.choice(FLOATS)
        number = struct.pack(rng.choice("<>") + code, max(min(value, 3e38), -3e38) if code == "f" and value == value else value)
    else:
        size = struct.calcsize("<" + code)
        number = (rng.choice(WHOLE) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
    at = place(raw, rng) // 2 * 2
    raw[at : at + len(number)] = number


def payload(raw: bytearray, rng: random.Random) -> None:
    """Numbers that are none, among the samples."""
    for _ in range(rng.choice((1, 5, 40))):
        code = rng.choice(("<f", "<d", ">f", ">d"))
        number = struct.pack(code, rng.choice(FLOATS[:3]))
        at = rng.randrange(len(raw) // 3, len(raw) + 1) // 4 * 4
        raw[at : at + len(number)] = number


def cut(raw: bytearray, rng: random.Random) -> None:
    del raw[rng.choice((place(raw, rng), rng.randrange(len(raw) + 1))) :]


def fill(raw: bytearray, rng: random.Random) -> None:
    at, size = place(raw, rng), rng.choice((1, 4, 16, 100, 1000))
    size = min(size, len(raw) - at)
    raw[at : at + size] = rng.choice((b"\0", b"\xff", b" ", b"\x7f", b"9")) * size


def insert(raw: bytearray, rng: random.Random) -> None:
    at, size = place(raw, rng), rng.choice((1, 2, 7, 64, 3000))
    raw[at:at] = rng.choice((rng.randbytes(size), bytes(size), bytes(raw[max(at - size, 0) : at])))


def delete(raw: bytearray, rng: random.Random) -> None:
    at = place(raw, rng)
    del raw[at : at + rng.choice((1, 2, 7, 64, 1000))]


def swap(raw: bytearray, rng: random.Random) -> None:
    size, a, b = rng.choice((2, 8, 80, 512)), *sorted((place(raw, rng), place(raw, rng)))
    if a + size <= b and b + size <= len(raw):
        raw[a : a + size], raw[b : b + size] = raw[b : b + size], raw[a : a + size]


def noise(raw: bytearray, rng: random.Random) -> None:
    """Random bytes, all of them or behind the true beginning; zeros; nothing."""
    keep = rng.choice((0, 0, 4, 12, 64, 512))
    raw[keep:] = rng.choice((rng.randbytes(rng.choice((10, 5000))), bytes(5000), b""))


DAMAGES: tuple[tuple[Damage, int], ...] = (
    (flip, 5), (text, 7), (word, 2), (binary, 7), (payload, 2), (cut, 3), (fill, 3), (insert, 2), (delete, 2), (swap, 2),
    (noise, 1),
)  # fmt: skip


def damaged(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """A damaged copy; half of the time damaged below its compression or behind its checksums."""
    if rng.random() < 0.5 and suffix == ".gz":
        return gzip.compress(damaged(gzip.decompress(content), "", rng), 1)
    if rng.random() < 0.5 and suffix == ".npz":
        return _repacked(content, rng)
    if rng.random() < 0.7 and suffix == ".set" and content[128:132] == b"\x0f\0\0\0":
        return _in_variables(content, rng)
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choices([d for d, _ in DAMAGES], [w for _, w in DAMAGES])[0](raw, rng)
    if rng.random() < 0.7 and suffix in (".ogg", ".opus"):
        _sum_pages(raw)
    return bytes(raw)


def _repacked(content: bytes, rng: random.Random) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, damaged(old.read(name), "", rng))
    return made.getvalue()


def _in_variables(content: bytes, rng: random.Random) -> bytes:
    """Damage below the compression of the variables of a MAT file."""
    made, at = bytearray(content[:128]), 128
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<2I", content, at)
        body = content[at + 8 : at + 8 + size]
        if kind == 15 and rng.random() < 0.3:
            body = zlib.compress(damaged(zlib.decompress(body), "", rng), 1)
        made += struct.pack("<2I", kind, len(body)) + body
        at += 8 + size
    return bytes(made)


def _sum_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 1 << 31 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return table


OGG_SUMS = _sum_table()


def _sum_pages(raw: bytearray) -> None:
    """Right checksums for the pages of an Ogg file: a decoder throws away those with wrong ones."""
    at = 0
    while raw[at : at + 4] == b"OggS" and len(raw) >= at + 27:
        lengths = raw[at + 27 : at + 27 + raw[at + 26]]
        stop = min(at + 27 + len(lengths) + sum(lengths), len(raw))
        raw[at + 22 : at + 26] = bytes(4)
        value = 0
        for byte in raw[at:stop]:
            value = (value << 8 & 0xFFFFFFFF) ^ OGG_SUMS[value >> 24 ^ byte]
        raw[at + 22 : at + 26] = value.to_bytes(4, "little")
        at = stop


def write_damaged(clean: dict[Path, bytes], handle: Path, rng: random.Random) -> None:
    """Put the files back and damage one or two of them; sometimes a companion is gone."""
    for path, content in clean.items():
        path.write_bytes(content)
    others = [path for path in clean if path != handle]
    victims = [handle] if not others or rng.random() < 0.6 else rng.sample(others, 1)
    for path in victims if rng.random() < 0.9 else list(clean):
        if path != handle and rng.random() < 0.05:
            path.unlink()
        else:
            path.write_bytes(damaged(clean[path], path.suffix, rng))
