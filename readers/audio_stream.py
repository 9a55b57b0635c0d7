"""What the containers of audio have in common: a stream of frames, counted, and the way to decode a span of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from readers.schema import ReadError

MAX_CHANNELS = 1024
MAX_RATE_HZ = 10_000_000


class Decoder(Protocol):
    """Decodes a span of a file; holds no open file."""

    def read(self, path: Path, start: int, stop: int) -> NDArray[np.floating]:
        """Frames start..stop as (T, C) of full scale 1, NaN where they cannot be decoded. Raises ReadError, OSError."""


@dataclass(frozen=True)
class Stream:
    """The samples of a file: stored type by libsndfile's name, rate, channels, frames counted, and their decoder."""

    subtype: str
    rate_hz: float
    channels: int
    frames: int
    decoder: Decoder
    warnings: tuple[str, ...] = ()


def check_claims(name: str, channels: int, rate_hz: float) -> None:
    """Refuse numbers of a header that cannot be true, NaN included. Raises ReadError."""
    if not 0 < channels <= MAX_CHANNELS:
        raise ReadError(f"{name} claims {channels} channels; 1 to {MAX_CHANNELS} are accepted")
    if not 1 <= rate_hz <= MAX_RATE_HZ:
        raise ReadError(f"{name} claims a sampling rate of {rate_hz:g} Hz; 1 to {MAX_RATE_HZ} Hz are accepted")


def checked(name: str, stream: Stream) -> Stream:
    """The stream, where its numbers can be true. Raises ReadError."""
    check_claims(name, stream.channels, stream.rate_hz)
    if stream.frames <= 0:
        raise ReadError(f"{name} holds no samples")
    return stream


@dataclass(frozen=True)
class Sndfile:
    """Decodes through libsndfile. ``header``: bytes that stand in for the file's own first bytes, if it has to be told."""

    header: bytes = b""

    def read(self, path: Path, start: int, stop: int) -> NDArray[np.floating]:
        """Frames start..stop, (T, C) float32, NaN from where decoding fails. Raises ReadError."""
        return self.decode(path, start, stop, "float32")

    def decode(self, path: Path, start: int, stop: int, kind: str) -> NDArray[Any]:
        """Frames start..stop, (T, C), as libsndfile's ``kind``. Float where it ends early is NaN. Raises ReadError."""
        import soundfile

        try:
            with self.open(path) as file:
                if start:
                    file.seek(start)
                found = file.read(stop - start, kind, always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise ReadError(f"{path.name} cannot be decoded between samples {start} and {stop}: {reason(error)}") from error
        return filled(path, found, start, stop)

    @contextmanager
    def open(self, path: Path) -> Iterator[Any]:
        """The file as a ``soundfile.SoundFile``, while the context lasts. Raises what soundfile raises."""
        import soundfile

        if not self.header:
            with soundfile.SoundFile(str(path)) as file:
                yield file
            return
        with closing(Overlay(path, self.header)) as overlay, soundfile.SoundFile(overlay) as file:
            yield file


def filled(path: Path, found: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    """What was decoded of frames start..stop, with NaN for those at the end that are missing. Raises ReadError for integers."""
    missing = stop - start - len(found)
    if missing <= 0:
        return found
    if found.dtype.kind != "f":
        raise ReadError(f"{path.name} cannot be decoded from sample {start + len(found)} on")
    return np.concatenate([found, np.full((missing, found.shape[1]), np.nan, found.dtype)])


def reason(error: Exception) -> str:
    """What a library says went wrong, in one line."""
    said = " ".join(str(getattr(error, "error_string", error)).split())
    return said.removeprefix("Error : ").rstrip(".") or type(error).__name__


class Overlay:
    """A file, opened for reading, whose first bytes are replaced; what libsndfile needs of a file object."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._file = path.open("rb")
        self._header = header

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes."""
        at = self._file.tell()
        found = self._file.read(size)
        return self._header[at : at + len(found)] + found[max(len(self._header) - at, 0) :]

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as ``io`` does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where the next byte comes from."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
