"""An audio file as a recording, opened by what it holds whatever its name says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from readers.audio_chunks import Chunks, container_of, read_chunks
from readers.audio_flac import FlacHeader, read_flac, read_flac_header
from readers.audio_meta import made_by, start_in_name
from readers.audio_mp3 import read_mp3
from readers.audio_mpeg import id3_end, kind_of
from readers.audio_notes import cue_points, in_order, read_table, tables_beside
from readers.audio_ogg import read_through_sndfile
from readers.audio_pcm import Pcm, read_pcm
from readers.audio_stream import Sndfile, Stream
from readers.schema import Axes, Channel, Event, ReadError
from readers.signals import Float64, SignalRecording

# Suffixes of each container, by the name of its reader.
SUFFIXES = {
    "wav": (".wav", ".wave", ".bwf", ".rf64", ".w64"),
    "flac": (".flac",),
    "mp3": (".mp3",),
    "ogg": (".ogg", ".oga", ".opus"),
    "aiff": (".aiff", ".aif", ".aifc"),
}
_TITLES = {"wav": "a WAV", "flac": "a FLAC", "mp3": "an MP3", "ogg": "an Ogg", "aiff": "an AIFF"}
# Values decoded at once where a whole file is gone through.
BLOCK_VALUES = 1 << 20
_CLIPPED_RUN = 3


def sniff(head: bytes) -> str | None:
    """The container that starts with ``head``, by its reader's name; None where it is no audio. ID3 stands for MP3."""
    kind = container_of(head)
    if kind is not None:
        return "aiff" if kind in ("AIFF", "AIFC") else "wav"
    if head[:4] in (b"fLaC", b"OggS"):
        return "flac" if head[:1] == b"f" else "ogg"
    if head[:3] == b"ID3" or (len(head) >= 4 and kind_of(int.from_bytes(head[:4], "big")) is not None):
        return "mp3"
    return None


class AudioRecording(SignalRecording):
    """An audio file: every channel at one rate, values of full scale 1.

    Integers are value / 2^(bits - 1); floats and lossy codecs may go beyond full scale. The length is counted,
    not taken from the header. ``format`` is the container that the file really is.
    """

    domain = "audio"

    def __init__(self, path: Path) -> None:
        """Read the header, of an MP3 every frame's header; no sample is decoded. Raises ReadError."""
        self.path = path
        self.format, start, notes = _contained(path)
        self.chunks: Chunks | None = None
        self.flac: FlacHeader | None = None
        self.stream = self._stream(start)
        made: tuple[str | None, dict[str, str]] = (None, {}) if self.chunks is None else made_by(self.chunks)
        began, ids = made
        if began is None and (began := start_in_name(path.stem)) is not None:
            notes.append("start time taken from the file name")
        rate, frames = self.stream.rate_hz, self.stream.frames
        self.channels = tuple(_channel(number, self.stream) for number in range(1, self.stream.channels + 1))
        self.axes = Axes((len(self.channels), frames), rate_hz=rate, duration_s=frames / rate, start_date=began)
        self.ids = ids
        self.warnings = (*notes, *self.stream.warnings)

    def _stream(self, start: int) -> Stream:
        if self.format == "mp3":
            return read_mp3(self.path)
        if self.format == "flac":
            self.flac = read_flac_header(self.path, start)
            return read_flac(self.path, self.flac)
        if self.format == "ogg":
            return read_through_sndfile(self.path)
        self.chunks = read_chunks(self.path)
        return read_pcm(self.chunks) or read_through_sndfile(self.path)

    @property
    def events(self) -> Sequence[Event]:
        """Selections of Raven tables, Audacity labels and cue points, in order of onset; ``verify`` names broken tables."""
        return self._events

    @cached_property
    def _events(self) -> tuple[Event, ...]:
        return in_order([*self._cues, *(event for table in self._tables for event in _read_or_none(table, self.path))])

    @property
    def _cues(self) -> list[Event]:
        if self.chunks is None or self.format != "wav":
            return []
        try:
            return cue_points(self.chunks, self.stream.rate_hz, self.stream.frames)
        except OSError as error:
            raise ReadError(f"{self.path.name} cannot be read: {error.strerror or error}") from error

    @property
    def _tables(self) -> list[Path]:
        return tables_beside(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """The audio file, then the tables of annotations beside it."""
        return (self.path, *self._tables)

    def verify(self) -> tuple[str, ...]:
        """Decode every sample; name what cannot be decoded, NaN, clipping, a wrong checksum, broken tables.

        Clipping counts runs of three or more samples at full scale.
        """
        problems = []
        for table in self._tables:
            try:
                read_table(table, self.path)
            except ReadError as error:
                problems.append(str(error))
        try:
            problems += self._samples_checked()
            problems += self._checksum_checked()
        except ReadError as error:
            problems.append(str(error))
        return tuple(problems)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Spans of frames that cover the recording, each small enough to be held in memory."""
        step = max(BLOCK_VALUES // len(self.channels), 1)
        for start in range(0, self.stream.frames, step):
            yield start, min(start + step, self.stream.frames)

    def decode(self, start: int, stop: int) -> NDArray[np.floating]:
        """Frames start..stop of all channels, (T, C), NaN where they cannot be decoded. Raises ReadError."""
        try:
            return self.stream.decoder.read(self.path, start, stop)
        except OSError as error:
            raise ReadError(f"{self.path.name} cannot be read: {error.strerror or error}") from error

    def _samples_checked(self) -> list[str]:
        unknown = np.zeros(len(self.channels), np.int64)
        runs = np.zeros(len(self.channels), np.int64)
        held = np.zeros(len(self.channels), np.int64)  # length of the run that reaches the block's start
        top = 1.0
        if isinstance(self.stream.decoder, Pcm) and not self.stream.decoder.is_float:
            top -= 2.0 ** (1 - self.stream.decoder.bits)
        elif self.flac is not None:
            top -= 2.0 ** (1 - self.flac.bits)
        for start, stop in self.blocks():
            values = self.decode(start, stop)
            unknown += np.count_nonzero(~np.isfinite(values), axis=0)
            for c in range(values.shape[1]):
                found, held[c] = _runs((values[:, c] >= top) | (values[:, c] <= -1), int(held[c]))
                runs[c] += found
        runs += held >= _CLIPPED_RUN
        names = [channel.name for channel in self.channels]
        bad = [f"{name}: {n} samples are NaN, infinite or cannot be decoded" for name, n in zip(names, unknown, strict=True) if n]
        loud = [
            f"{name}: {n} runs of {_CLIPPED_RUN} or more samples at full scale" for name, n in zip(names, runs, strict=True) if n
        ]
        return bad + loud

    def _checksum_checked(self) -> list[str]:
        header, decoder = self.flac, self.stream.decoder
        if header is None or not any(header.md5) or header.total != self.stream.frames:
            return []
        assert isinstance(decoder, Sndfile)
        found = hashlib.md5(usedforsecurity=False)
        width = -(-header.bits // 8)
        for start, stop in self.blocks():
            stored = decoder.decode(self.path, start, stop, "int32") >> (32 - header.bits)
            octets = np.ascontiguousarray(stored.astype("<i4")).view(np.uint8).reshape(-1, 4)
            found.update(octets[:, :width].tobytes())
        return [] if found.digest() == header.md5 else ["the samples do not have the checksum that the header states"]

    def _length(self, channel: int) -> int:
        return self.stream.frames

    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        wanted = [span for span in spans if span[1] > span[0]]
        if not wanted:
            return [np.empty(0)] * len(channels)
        first, last = min(start for start, _ in wanted), max(stop for _, stop in wanted)
        values = self.decode(first, last)
        found = [
            values[max(start - first, 0) : max(stop - first, 0), c] for c, (start, stop) in zip(channels, spans, strict=True)
        ]
        # float32 holds these values exactly, or the decoder would have given float64.
        return cast(list[Float64], found)


def _contained(path: Path) -> tuple[str, int, list[str]]:
    """The container that a file is, where it starts, and a warning if the name says something else. Raises ReadError."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            start = id3_end(head, 0)
            file.seek(start)
            inner = file.read(4) if start else b""
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if not head:
        raise ReadError(f"{path.name} is empty")
    if not head.strip(b"\0"):
        raise ReadError(f"{path.name} starts with {len(head)} zero bytes and no audio header")
    kind = "flac" if inner == b"fLaC" else sniff(head)
    suffixed = path.name.lower()
    if kind is None and suffixed.endswith(SUFFIXES["mp3"]):
        kind = "mp3"
    if kind is None:
        raise ReadError(f"{path.name} is no audio file that can be read here: it starts with {head[:12]!r}")
    fits = suffixed.endswith(SUFFIXES[kind])
    notes = [] if fits else [f"is {_TITLES[kind]} file named {path.suffix}, opened as what it is"]
    return kind, start if kind == "flac" else 0, notes


def _channel(number: int, stream: Stream) -> Channel:
    return Channel(
        name=f"channel {number}",
        canonical="audio",
        kind="audio",
        unit="FS",
        si_factor=None,
        rate_hz=stream.rate_hz,
        dtype=stream.subtype,
        low=-1.0,
        high=1.0,
    )


def _read_or_none(table: Path, audio: Path) -> list[Event]:
    try:
        return read_table(table, audio)
    except ReadError:
        return []


def _runs(at_limit: NDArray[np.bool_], held: int) -> tuple[int, int]:
    """Runs long enough that end inside this block, the first longer by ``held``, and the length of one that does not end."""
    edges = np.flatnonzero(np.diff(at_limit.astype(np.int8), prepend=0, append=0))
    lengths = edges[1::2] - edges[::2]
    if held and (not at_limit.size or not at_limit[0]):
        lengths = np.concatenate([[held], lengths])
    elif held:
        lengths[0] += held
    last = int(lengths[-1]) if at_limit.size and at_limit[-1] else 0
    ended = lengths[:-1] if last else lengths
    return int(np.count_nonzero(ended >= _CLIPPED_RUN)), last
