"""Small audio files in the real formats, mostly written by libsndfile."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

# A container's name here -> suffix, libsndfile's format, sample types that it is tried with.
CONTAINERS = {
    "wav": (".wav", "WAV", ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    "wavex": (".wav", "WAVEX", ("PCM_16", "PCM_24", "FLOAT")),
    "rf64": (".wav", "RF64", ("PCM_16", "FLOAT")),
    "w64": (".w64", "W64", ("PCM_16", "PCM_24", "DOUBLE")),
    "aiff": (".aiff", "AIFF", ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    "flac": (".flac", "FLAC", ("PCM_S8", "PCM_16", "PCM_24")),
    "ogg": (".ogg", "OGG", ("VORBIS",)),
    "opus": (".opus", "OGG", ("OPUS",)),
    "mp3": (".mp3", "MP3", ("MPEG_LAYER_III",)),
}
GUANO = (
    b"GUANO|Version: 1.0\nMake: Open Acoustic Devices\nModel: AudioMoth\nSerial: 24F3\n"
    b"Timestamp: 2024-05-18T05:30:00+02:00\nLoc Position: 50.1 8.6\n"
)
AUDIOMOTH = "Recorded at 19:17:30 14/08/2018 (UTC) by AudioMoth 0FE081F80FE081F0 at gain setting 2 while battery state was 3.6V"


def song(seconds: float = 0.5, rate: float = 32_000, channels: int = 1, *, seed: int = 0) -> NDArray[np.float64]:
    """(T, C): chirps in brownish noise, well inside full scale."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    chirp = np.sin(2 * np.pi * np.cumsum(1500 + 800 * np.sin(2 * np.pi * 7 * time)) / rate) * (np.sin(2 * np.pi * 3 * time) > 0)
    noise = 0.02 * rng.standard_normal((time.size, channels))
    return 0.3 * chirp[:, None] * np.linspace(1, 0.5, channels) + noise


def audio(
    folder: Path,
    container: str = "wav",
    subtype: str | None = None,
    signals: NDArray[np.float64] | None = None,
    *,
    rate: int = 32_000,
    name: str = "song",
) -> Path:
    """Write a file in one of ``CONTAINERS``, with libsndfile."""
    suffix, fmt, subtypes = CONTAINERS[container]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    values = song(rate=rate) if signals is None else signals
    with soundfile.SoundFile(str(path), "w", rate, values.shape[1], subtype or subtypes[-1], format=fmt) as file:
        for start in range(0, len(values), rate * 10):
            file.write(values[start : start + rate * 10])
    return path


def riff(chunks: list[tuple[bytes, bytes]], *, size: int | None = None, form: bytes = b"RIFF", kind: bytes = b"WAVE") -> bytes:
    """A RIFF or IFF file of these chunks."""
    order = ">" if form in (b"FORM", b"RIFX") else "<"
    body = b"".join(n + struct.pack(order + "I", len(c)) + c + b"\0" * (len(c) % 2) for n, c in chunks)
    return form + struct.pack(order + "I", len(body) + 4 if size is None else size) + kind + body


def fmt_chunk(channels: int = 1, rate: int = 32_000, bits: int = 16, *, tag: int = 1, align: int | None = None) -> bytes:
    """The content of a WAV's fmt chunk."""
    frame = channels * -(-bits // 8) if align is None else align
    return struct.pack("<HHIIHH", tag, channels, rate & 0xFFFFFFFF, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits)


def info_list(**texts: str) -> bytes:
    """The content of a LIST INFO chunk."""
    parts = b""
    for name, text in texts.items():
        content = text.encode() + b"\0"
        parts += name.encode() + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"INFO" + parts


def cues() -> list[tuple[bytes, bytes]]:
    """Two cue points, at samples 1000 and 4000, the second one labelled and 800 samples long."""
    points = b"".join(struct.pack("<II4sIII", k, at, b"data", 0, 0, at) for k, at in ((1, 1000), (2, 4000)))
    label = struct.pack("<I", 2) + b"call\0\0"
    span = struct.pack("<II4sHHHH", 2, 800, b"rgn ", 0, 0, 0, 0)
    adtl = b"adtl" + b"".join(n + struct.pack("<I", len(c)) + c for n, c in ((b"labl", label), (b"ltxt", span)))
    return [(b"cue ", struct.pack("<I", 2) + points), (b"LIST", adtl)]


def field_wav(folder: Path, *, name: str = "field", channels: int = 1, after: bool = True) -> Path:
    """A 16-bit WAV as a recorder writes it: GUANO, a comment, cue points, an odd chunk, and a Raven table beside it."""
    values = song(0.3, channels=channels)
    data = np.rint(values * 32767).astype("<i2").tobytes()
    extra = [(b"LIST", info_list(ICMT=AUDIOMOTH, IART="AudioMoth 0FE081F80FE081F0")), (b"odd ", b"\1\2\3"), *cues()]
    chunks = [(b"fmt ", fmt_chunk(channels)), (b"guan", GUANO), *extra, (b"data", data)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.wav"
    path.write_bytes(riff([*chunks, (b"tail", b"kept too")] if after else chunks))
    raven(folder / f"{name}.Table.1.selections.txt")
    return path


def raven(path: Path) -> Path:
    """A Raven table of two selections, the first one in two views."""
    head = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
    rows = [
        "1\tWaveform 1\t1\t0.05\t0.1\t0\t16000\tMonticola\n",
        "1\tSpectrogram 1\t1\t0.05\t0.1\t1200\t2400\tMonticola\n",
        "2\tSpectrogram 1\t1\t0.02\t0.03\t1000\t2000\tCecropis\n",
    ]
    path.write_text(head + "".join(rows))
    return path


def _short(container: str) -> Callable[[Path], Path]:
    # The tables at the start of an Ogg file are long: without as much sound, damage would only ever meet them.
    rate, seconds = {"opus": (48_000, 3.0), "ogg": (8000, 8.0)}.get(container, (8000, 0.4))
    return lambda folder: audio(folder, container, signals=song(seconds, rate, 2), rate=rate)


# What a fuzzer starts from: a function that writes one small file and returns its path.
FORMATS: dict[str, Callable[[Path], Path]] = {"wav-field": field_wav, **{name: _short(name) for name in CONTAINERS}}
