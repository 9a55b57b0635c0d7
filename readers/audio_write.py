"""A faithful copy of an audio file in which only the patched samples change, and writing new WAV files."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.audio_flac import splice
from readers.audio_mp3 import Mp3
from readers.audio_pcm import Pcm, integers
from readers.audio_record import BLOCK_VALUES, AudioRecording
from readers.audio_stream import Sndfile, reason
from readers.patching import Int64, Scratch, checked, last_values
from readers.schema import Patch, ReadError, Written

LOSSY = ("mp3", "ogg")
# What a lossy file is written as: 24-bit integers are within 2^-24 of any float32 of full scale.
_LOSSLESS_BITS = 24
_FLAC_LIMITS = (8, 655_350)  # channels, Hz
_TAGS = ("title", "copyright", "artist", "comment", "date", "album", "license", "tracknumber", "genre")


@dataclass
class _Tally:
    """What the patches did, and names of channels with samples that could not be set: NaN, for integers."""

    changed: int = 0
    clipped: int = 0
    beyond: int = 0
    unknown: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Changes:
    """New values of one channel: frames ascending, each once."""

    channel: int
    index: Int64
    values: NDArray[np.float64]

    def between(self, start: int, stop: int) -> tuple[Int64, NDArray[np.float64]]:
        """Frames counted from ``start``, and their values."""
        lo, hi = np.searchsorted(self.index, [start, stop])
        return self.index[lo:hi] - start, self.values[lo:hi]


def write_audio(recording: AudioRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Copy an audio file and set the patched samples in the copy.

    Plain samples (WAV, RF64, Wave64, AIFF) are set in place: every other byte stays. FLAC is encoded anew with the
    same sample type under the same metadata blocks. MP3 and Ogg go to FLAC of 24 bits, within 2^-24 of what
    they decode to. Memory does not grow with the file. An integer is round(value * 2^(bits - 1)), limited to the
    type's range; NaN leaves an integer as it was and is counted in a note. Raises ReadError for a path that is
    the file's own, a patch outside the recording, a codec that cannot be written, and a failing disk.
    """
    path = Path(path)
    checked(recording, patches)
    changes = [_Changes(patch.channel, *last_values(patch)) for patch in patches]
    lossy = recording.format in LOSSY
    target = path.with_suffix(".flac") if lossy else path
    notes = [f"{recording.path.name} is lossy and is written as {target.name}, FLAC of {_LOSSLESS_BITS} bits"] if lossy else []
    if target.resolve() == recording.path.resolve():
        raise ReadError(f"the copy of {recording.path.name} has to go elsewhere than over the file itself")
    tally, decoder = _Tally(), recording.stream.decoder
    try:
        with Scratch(()) as scratch:
            if isinstance(decoder, Pcm):
                copy = scratch.part(target, recording.path)
                for change in changes:
                    _set_in_place(recording, decoder, change, copy, tally)
            elif changes or lossy:
                _encode_anew(recording, changes, scratch.part(target), tally)
            else:
                scratch.part(target, recording.path)
            scratch.finish()
    except OSError as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
    notes += [f"{count} samples of {name} were to be NaN and are left as they were" for name, count in tally.unknown.items()]
    if tally.beyond:
        notes.append(f"{tally.beyond} decoded samples beyond full scale were limited")
    return Written(target, tally.changed, tally.clipped, tuple(notes))


def _known(change: _Changes, start: int, stop: int, name: str, tally: _Tally) -> tuple[Int64, NDArray[np.float64]]:
    """The changes between two frames without those to NaN, which are counted."""
    index, values = change.between(start, stop)
    unknown = np.isnan(values)
    if unknown.any():
        tally.unknown[name] = tally.unknown.get(name, 0) + int(unknown.sum())
    return index[~unknown], values[~unknown]


def _set_in_place(recording: AudioRecording, layout: Pcm, change: _Changes, copy: Path, tally: _Tally) -> None:
    name = recording.channels[change.channel].name
    frame = layout.channels * layout.width
    step = max(BLOCK_VALUES // layout.channels, 1)
    at = 0
    with copy.open("r+b") as file:
        while at < change.index.size:
            start = int(change.index[at])
            stop = min(start + step, int(change.index[-1]) + 1)
            index, values = change.between(start, stop) if layout.is_float else _known(change, start, stop, name, tally)
            before = layout.raw(copy, start, stop)[index, change.channel]
            stored, clipped = layout.encode(values)
            file.seek(layout.offset + start * frame)
            octets = np.frombuffer(bytearray(file.read((stop - start) * frame)), np.uint8).reshape(
                -1, layout.channels, layout.width
            )
            octets[index, change.channel] = layout.pack(stored)
            file.seek(layout.offset + start * frame)
            file.write(octets.tobytes())
            file.flush()
            tally.changed += int(np.count_nonzero(~_same(before, stored)))
            tally.clipped += clipped
            at = int(np.searchsorted(change.index, stop))


def _same(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    both_nan: NDArray[np.bool_] = (before != before) & (after != after)
    same: NDArray[np.bool_] = (before == after) | both_nan
    return same


def _encode_anew(recording: AudioRecording, changes: Sequence[_Changes], scratch: Path, tally: _Tally) -> None:
    """Decode, patch and encode as FLAC in blocks. Raises ReadError, OSError."""
    import soundfile

    stream = recording.stream
    if recording.format in ("wav", "aiff"):
        raise ReadError(f"restore cannot write {stream.subtype}, the codec of {recording.path.name}")
    bits = _LOSSLESS_BITS if recording.flac is None else recording.flac.bits
    subtype = next((kind for most, kind in ((8, "PCM_S8"), (16, "PCM_16"), (24, "PCM_24")) if bits <= most), None)
    if subtype is None or stream.channels > _FLAC_LIMITS[0] or stream.rate_hz > _FLAC_LIMITS[1]:
        what = f"{stream.channels} channels of {bits} bits at {stream.rate_hz:g} Hz"
        raise ReadError(f"{recording.path.name} cannot be written as FLAC: {what}")
    encoded = scratch if recording.flac is None else scratch.with_name(scratch.name + ".frames")
    try:
        with soundfile.SoundFile(str(encoded), "w", int(stream.rate_hz), stream.channels, subtype, format="FLAC") as out:
            if recording.flac is None:
                _copy_tags(recording, out)
            for stored in _patched(recording, changes, bits, tally):
                out.write(stored)
        if recording.flac is not None:
            with scratch.open("wb") as file:
                splice(encoded, recording.path, recording.flac, file)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {reason(error)}") from error
    finally:
        if encoded != scratch:
            encoded.unlink(missing_ok=True)


def _patched(recording: AudioRecording, changes: Sequence[_Changes], bits: int, tally: _Tally) -> Iterator[NDArray[np.int32]]:
    """Blocks of the recording as integers of ``bits`` bits in the upper bits of 32, with the changes in them."""
    for start, stop in recording.blocks():
        stored = _integers(recording, start, stop, bits, tally)
        for change in changes:
            name = recording.channels[change.channel].name
            index, values = _known(change, start, stop, name, tally)
            new, clipped = integers(values, bits)
            tally.clipped += clipped
            tally.changed += int(np.count_nonzero(stored[index, change.channel] != new))
            stored[index, change.channel] = new
        yield (stored << (32 - bits)).astype(np.int32)


def _integers(recording: AudioRecording, start: int, stop: int, bits: int, tally: _Tally) -> Int64:
    decoder = recording.stream.decoder
    if isinstance(decoder, Sndfile) and recording.flac is not None:
        found = decoder.decode(recording.path, start, stop, "int32").astype(np.int64)
        return found >> (32 - bits)
    values = recording.decode(start, stop)
    if not np.isfinite(values).all():
        raise ReadError(f"{recording.path.name} cannot be decoded between samples {start} and {stop}")
    whole, beyond = integers(values.astype(np.float64), bits)
    tally.beyond += beyond
    return whole


def _copy_tags(recording: AudioRecording, out: Any) -> None:
    """Take over what texts libsndfile finds in a file: title, artist, date and their like."""
    import soundfile

    try:
        decoder = recording.stream.decoder
        source = decoder.tags(recording.path) if isinstance(decoder, Mp3) else str(recording.path)
        with soundfile.SoundFile(source) as file:
            texts = file.copy_metadata()
    except (soundfile.SoundFileError, RuntimeError):
        return  # the frames may decode where the header does not
    for tag in _TAGS:
        if text := texts.get(tag):
            setattr(out, tag, text)


# Name, bytes and kind of the sample types of a new WAV.
_NEW = {
    "PCM_U8": (1, False),
    "PCM_16": (2, False),
    "PCM_24": (3, False),
    "PCM_32": (4, False),
    "FLOAT": (4, True),
    "DOUBLE": (8, True),
}


def create_wav(
    path: Path,
    signals: NDArray[np.float64],
    rate_hz: int,
    subtype: str = "PCM_16",
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> Path:
    """Write a new WAV; ``signals`` (T, C) of full scale 1, what lies beyond is limited.

    ``subtype``: PCM_U8, PCM_16, PCM_24, PCM_32, FLOAT or DOUBLE. ``chunks``: name of four bytes and content, such as
    (b"guan", b"GUANO|Version: 1.0"), written before the samples. Raises ValueError for a name that is not four bytes,
    an unknown subtype, NaN among integers, or more than 4 GiB; OSError.
    """
    signals = np.asarray(signals, np.float64)
    width, is_float = _NEW.get(subtype, (0, False))
    if not width or any(len(name) != 4 for name, _ in chunks):
        raise ValueError(f"{subtype} or the name of a chunk is unknown to WAV")
    if not (is_float or np.isfinite(signals).all()):
        raise ValueError("integers cannot hold NaN")
    n_channels = signals.shape[1]
    layout = Pcm(0, n_channels, width, 8 * width, "<", is_float, width == 1)
    frame = n_channels * width
    fmt = struct.pack("<HHIIHH", 3 if is_float else 1, n_channels, rate_hz, rate_hz * frame, frame, 8 * width)
    data = layout.pack(layout.encode(signals.reshape(-1))[0]).tobytes()
    whole = b"".join(_chunk(name, content) for name, content in [(b"fmt ", fmt), *chunks, (b"data", data)])
    if len(whole) + 4 > 0xFFFFFFFF:
        raise ValueError("a WAV holds at most 4 GiB")
    with Scratch(()) as scratch:
        scratch.part(path).write_bytes(b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WAVE" + whole)
        scratch.finish()
    return path


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
