"""How the WFDB signal formats of fixed size lay integers out in bytes: unpacking, and changing single samples.

Formats: WFDB Applications Guide, signal(5). Formats 508, 516 and 524 are FLAC streams and not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
# Bits of one sample inside its block's little-endian word: (place in the word, width, place in the sample).
Pieces = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Packing:
    """One signal format: blocks of ``block_bytes`` that hold ``len(pieces)`` samples of ``bits`` bits.

    ``offset`` is added to the value before storing (offset binary); without it the samples are two's
    complement. ``partial[b]`` counts the samples that b bytes of a broken last block still hold.
    ``differences``: each sample is stored as the change from the one before.
    """

    bits: int
    block_bytes: int
    pieces: tuple[Pieces, ...]
    offset: int = 0
    partial: tuple[int, ...] = (0, 0, 0, 0)
    differences: bool = False

    @property
    def invalid(self) -> int | None:
        """The stored integer that stands for "no value"."""
        return None if self.differences else -(1 << (self.bits - 1))

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer that is a value."""
        return -(1 << (self.bits - 1)) + 1, (1 << (self.bits - 1)) - 1

    def samples_in(self, n_bytes: int) -> int:
        """How many samples ``n_bytes`` hold, from the start of a block."""
        blocks, rest = divmod(max(n_bytes, 0), self.block_bytes)
        return blocks * len(self.pieces) + self.partial[rest]

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """Bytes (start, stop) of the whole blocks that hold samples first..stop."""
        per_block = len(self.pieces)
        return first // per_block * self.block_bytes, -(-stop // per_block) * self.block_bytes


def _whole(bits: int, offset: int = 0, differences: bool = False) -> Packing:
    return Packing(bits, bits // 8, (((0, bits, 0),),), offset, differences=differences)


PACKINGS: dict[str, Packing] = {
    "8": _whole(8, differences=True),
    "16": _whole(16),
    "24": _whole(24),
    "32": _whole(32),
    "61": Packing(16, 2, (((8, 8, 0), (0, 8, 8)),)),  # 16 bits, high byte first
    "80": _whole(8, offset=128),
    "160": _whole(16, offset=32768),
    "212": Packing(12, 3, (((0, 12, 0),), ((16, 8, 0), (12, 4, 8))), partial=(0, 0, 1, 0)),
    "310": Packing(10, 4, (((1, 10, 0),), ((17, 10, 0),), ((11, 5, 0), (27, 5, 5))), partial=(0, 0, 1, 1)),
    "311": Packing(10, 4, (((0, 10, 0),), ((10, 10, 0),), ((20, 10, 0),)), partial=(0, 0, 1, 2)),
}


def unpack(raw: bytes, packing: Packing, skip: int, count: int) -> Int64:
    """``count`` samples of whole blocks ``raw``, leaving out the first ``skip``; format 8: the differences."""
    words = _words(raw, packing)
    per_block = len(packing.pieces)
    samples = np.empty(words.size * per_block, np.int64)
    for place, pieces in enumerate(packing.pieces):
        samples[place::per_block] = _signed(_take(words, pieces), packing)
    return samples[skip : skip + count]


def repack(raw: bytes, packing: Packing, places: Int64, values: Int64) -> tuple[bytes, Int64]:
    """``raw`` with the samples at the unique ``places`` set to ``values``; also what they were before."""
    words = _words(raw, packing)
    per_block = len(packing.pieces)
    before = np.empty(places.size, np.int64)
    coded = ((values + packing.offset) & ((1 << packing.bits) - 1)).astype(np.uint32)
    for place, pieces in enumerate(packing.pieces):
        chosen = np.flatnonzero(places % per_block == place)
        blocks = places[chosen] // per_block
        before[chosen] = _signed(_take(words[blocks], pieces), packing)
        for at, width, origin in pieces:
            mask = np.uint32((1 << width) - 1)
            bits = (coded[chosen] >> np.uint32(origin)) & mask
            words[blocks] = (words[blocks] & ~(mask << np.uint32(at))) | (bits << np.uint32(at))
    octets = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : packing.block_bytes]
    return octets.tobytes()[: len(raw)], before


def _words(raw: bytes, packing: Packing) -> NDArray[np.uint32]:
    """Each block as one number, its first byte lowest; a broken last block is filled up with zeros."""
    raw += bytes(-len(raw) % packing.block_bytes)
    if packing.block_bytes != 3:
        return np.frombuffer(raw, f"<u{packing.block_bytes}").astype(np.uint32)
    octets = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.uint32)
    words: NDArray[np.uint32] = octets[:, 0] | octets[:, 1] << np.uint32(8) | octets[:, 2] << np.uint32(16)
    return words


def _take(words: NDArray[np.uint32], pieces: Pieces) -> NDArray[np.uint32]:
    sample = np.zeros(words.size, np.uint32)
    for at, width, origin in pieces:
        sample |= ((words >> np.uint32(at)) & np.uint32((1 << width) - 1)) << np.uint32(origin)
    return sample


def _signed(coded: NDArray[np.uint32], packing: Packing) -> Int64:
    numbers = coded.astype(np.int64)
    if packing.offset:
        return numbers - packing.offset
    sign = 1 << (packing.bits - 1)
    return (numbers ^ sign) - sign
