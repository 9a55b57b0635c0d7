"""Uncompressed samples in WAV, RF64, Wave64 and AIFF files: how they are laid out, decoded and encoded."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from readers.audio_chunks import SAMPLES, STREAMED, Chunk, Chunks
from readers.audio_stream import Stream, check_claims, checked
from readers.schema import ReadError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WAV_CODECS = {2: "MS_ADPCM", 6: "ALAW", 7: "ULAW", 0x11: "IMA_ADPCM", 0x31: "GSM610", 0x55: "MPEG_LAYER_III"}
# Largest float, of full scale 1, that is taken for a sample.
_LARGEST = 1e30
# AIFF-C compression types that hold plain samples: byte order, float, unsigned.
_AIFC_PLAIN = {
    b"NONE": (">", False, False),
    b"twos": (">", False, False),
    b"in24": (">", False, False),
    b"in32": (">", False, False),
    b"sowt": ("<", False, False),
    b"raw ": (">", False, True),
    b"fl32": (">", True, False),
    b"FL32": (">", True, False),
    b"fl64": (">", True, False),
    b"FL64": (">", True, False),
}


@dataclass(frozen=True)
class Pcm:
    """Interleaved samples of ``width`` bytes from byte ``offset`` on; ``bits`` of them count, the highest ones.

    Integers stand for value / 2^(8 width - 1) of full scale; unsigned ones are 8 bits wide around 128.
    """

    offset: int
    channels: int
    width: int
    bits: int
    order: str
    is_float: bool
    unsigned: bool

    def read(self, path: Path, start: int, stop: int) -> NDArray[np.floating]:
        """Frames start..stop, (T, C), full scale 1; float64 where float32 cannot hold them, else float32. Raises OSError."""
        raw = self.raw(path, start, stop)
        if self.is_float:
            # Damage, not sound; resampled it would overflow.
            floats: NDArray[np.floating] = raw.astype(np.float64 if self.width == 8 else np.float32, copy=False)
            floats[~((floats <= _LARGEST) & (floats >= -_LARGEST))] = np.nan
            return floats
        kind = np.float64 if self.width == 4 and self.bits > 24 else np.float32
        values: NDArray[np.floating] = raw.astype(kind)
        if self.unsigned:
            values -= 128
        values *= kind(1.0 / self.full_scale)
        return values

    def raw(self, path: Path, start: int, stop: int) -> NDArray[np.generic]:
        """Stored samples of frames start..stop, (T, C); 24-bit ones as int32, in its upper bytes. Raises OSError."""
        with path.open("rb") as file:
            file.seek(self.offset + start * self.channels * self.width)
            count = (stop - start) * self.channels
            data = _triples(file, count, self.order) if self.width == 3 else np.fromfile(file, self.dtype, count)
        if data.size != count:
            raise ReadError(f"{path.name} ends inside its samples: it was changed after it was opened")
        return data.reshape(-1, self.channels)

    @property
    def dtype(self) -> np.dtype:
        """Of one stored sample; for three bytes that of four."""
        kind = "f" if self.is_float else "u" if self.unsigned else "i"
        return np.dtype(f"{self.order}{kind}{4 if self.width == 3 else self.width}")

    @property
    def full_scale(self) -> int:
        """The integer, as :meth:`raw` gives it, that stands for 1."""
        return 1 << (8 * self.dtype.itemsize - 1)

    def encode(self, values: NDArray[np.float64]) -> tuple[NDArray[np.generic], int]:
        """Stored samples, as :meth:`raw` gives them, and how many had to be limited; NaN only for floats."""
        if self.is_float:
            largest = float(np.finfo(self.dtype).max)
            limited = np.clip(values, -largest, largest)
            return limited.astype(self.dtype), int(np.count_nonzero((limited != values) & ~np.isnan(values)))
        whole, clipped = integers(values, self.bits)
        stored = (whole << (8 * self.dtype.itemsize - self.bits)) + (128 if self.unsigned else 0)
        return stored.astype(self.dtype), clipped

    def pack(self, stored: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Stored samples (K,) as bytes (K, width)."""
        octets = np.ascontiguousarray(stored.astype(self.dtype)).view(np.uint8).reshape(stored.size, -1)
        if self.width == 3:
            return octets[:, slice(1, 4) if self.order == "<" else slice(0, 3)]
        return octets


def integers(values: NDArray[np.float64], bits: int) -> tuple[NDArray[np.int64], int]:
    """Values of full scale 1, none of them NaN, as integers of ``bits`` bits, and how many had to be limited."""
    half = 1 << (bits - 1)
    wanted = np.rint(values * half)
    limited = np.clip(wanted, -half, half - 1)
    return limited.astype(np.int64), int(np.count_nonzero(limited != wanted))


def _triples(file: BinaryIO, count: int, order: str) -> NDArray[np.int32]:
    """Three-byte integers as the upper bytes of four: every fourth byte is the neighbour's, and is cleared."""
    data = file.read(3 * count)
    padded = b"\0" + data if order == "<" else data + b"\0"
    found: NDArray[np.int32] = np.ndarray((len(data) // 3,), f"{order}i4", padded, strides=(3,)) & -256
    return found


@dataclass(frozen=True)
class _Format:
    """What a WAV's fmt or an AIFF's COMM chunk says."""

    channels: int
    rate_hz: float
    width: int
    bits: int
    order: str
    is_float: bool = False
    unsigned: bool = False
    codec: str | None = None
    frames: int | None = None
    warnings: tuple[str, ...] = ()


def read_pcm(chunks: Chunks) -> Stream | None:
    """The samples of a chunked file; None where they are compressed. Raises ReadError."""
    name = chunks.path.name
    made = _comm(chunks) if chunks.kind in ("AIFF", "AIFC") else _fmt(chunks)
    check_claims(name, made.channels, made.rate_hz)
    if made.codec is not None:
        return None
    if not (made.width in ((4, 8) if made.is_float else (1, 2, 3, 4)) and 1 < made.bits <= 8 * made.width):
        raise ReadError(f"{name} claims {made.bits}-bit {'float' if made.is_float else 'integer'} samples, which do not exist")
    data = next((chunk for chunk in chunks.found if chunk.name in SAMPLES), None)
    if data is None:
        raise ReadError(f"{name} has no chunk of samples")
    skip = _ssnd_offset(chunks, data)
    frame = made.channels * made.width
    frames = max(data.held - skip, 0) // frame
    notes = [*made.warnings, *_length_notes(data, skip, frame, made, frames)]
    if made.frames is not None and 0 < made.frames < frames:
        frames = made.frames
    layout = Pcm(data.start + skip, made.channels, made.width, made.bits, made.order, made.is_float, made.unsigned)
    return checked(name, Stream(_subtype(layout), float(made.rate_hz), made.channels, frames, layout, tuple(notes)))


def _subtype(layout: Pcm) -> str:
    """The name that libsndfile gives this sample type."""
    if layout.is_float:
        return "FLOAT" if layout.width == 4 else "DOUBLE"
    if layout.width == 1:
        return "PCM_U8" if layout.unsigned else "PCM_S8"
    return f"PCM_{8 * layout.width}"


def _length_notes(data: Chunk, skip: int, frame: int, made: _Format, frames: int) -> list[str]:
    claimed = max(data.claimed - skip, 0) // frame if made.frames is None else made.frames
    if data.claimed in (0, STREAMED) and frames:
        return [f"the header states no length: {frames} samples counted"]
    if frames < claimed:
        return [f"the header claims {claimed} samples, the file holds {frames}"]
    if made.frames is not None and frames > claimed:
        return [f"the header claims {claimed} samples, its chunk of samples holds {frames}"]
    if data.held % frame and made.frames is None:
        return [f"{data.held % frame} bytes after the last whole sample are left out"]
    return []


def _fmt(chunks: Chunks) -> _Format:
    chunk = chunks.first("fmt ")
    name = chunks.path.name
    content = b"" if chunk is None else chunks.content(chunk)
    if len(content) < 16:
        raise ReadError(f"{name} has no whole fmt chunk, which says how samples are stored")
    order = chunks.byte_order
    tag, channels, rate, _, align, bits = struct.unpack(order + "HHIIHH", content[:16])
    valid = bits
    if tag == _EXTENSIBLE and len(content) >= 26:
        valid, tag = struct.unpack(order + "H4xH", content[18:26])
    if tag not in (_PCM, _FLOAT):
        if tag not in _WAV_CODECS:
            raise ReadError(f"{name} stores samples by codec {tag:#06x}, which cannot be read here")
        return _Format(channels, rate, 0, bits, order, codec=_WAV_CODECS[tag])
    # Fewer bits than the sample's bytes hold, such as 24 in 4, are its highest.
    width = -(-bits // 8)
    notes: tuple[str, ...] = ()
    if channels and align != channels * width:
        if align % channels == 0 and width < align // channels <= 4:
            width = align // channels
        else:
            notes = (f"the header claims {align} bytes a frame, {channels} channels of {bits} bits take {channels * width}",)
    valid = valid if 0 < valid <= bits else bits
    return _Format(channels, rate, width, valid, order, tag == _FLOAT, tag == _PCM and width == 1, warnings=notes)


def _comm(chunks: Chunks) -> _Format:
    chunk = chunks.first("COMM")
    content = b"" if chunk is None else chunks.content(chunk)
    if len(content) < 18:
        raise ReadError(f"{chunks.path.name} has no whole COMM chunk, which says how samples are stored")
    channels, frames, bits = struct.unpack(">HIH", content[:8])
    rate = _extended(content[8:18])
    kind = content[18:22] if chunks.kind == "AIFC" and len(content) >= 22 else b"NONE"
    if kind not in _AIFC_PLAIN:
        return _Format(channels, rate, 0, bits, ">", codec=kind.decode("latin-1"))
    order, is_float, unsigned = _AIFC_PLAIN[kind]
    if is_float:
        bits = 64 if kind in (b"fl64", b"FL64") else 32
    width = -(-bits // 8)
    return _Format(channels, rate, width, bits, order, is_float, unsigned and width == 1, frames=frames)


def _extended(content: bytes) -> float:
    """An 80-bit number, as AIFF stores its rate; NaN where it stands for none."""
    exponent, mantissa = struct.unpack(">HQ", content)
    if exponent >= 0x7FFF:
        return math.nan
    return math.ldexp(mantissa, exponent - 16383 - 63) if exponent < 16383 + 64 else math.inf


def _ssnd_offset(chunks: Chunks, data: Chunk) -> int:
    """Bytes of a chunk of samples before the first sample."""
    if data.name != "SSND":
        return 0
    content = data._replace(held=min(data.held, 8))
    head = chunks.content(content)
    return 8 + int(struct.unpack(">I", head[:4])[0]) if len(head) == 8 else data.held
