"""MP3: frames counted one by one, and spans decoded exactly as the whole file would be.

libsndfile estimates the length of an MP3 without a Xing header from its first frame, and stops there: of a
30 s recording of variable bit rate it may give 12 s. So the frames are counted here, and a span is decoded from
a copy of just the frames that it needs, in memory. Four things make that copy decode to the same bits:

- a few frames more in front, for the bit reservoir (at most 511 bytes of earlier frames) and for the overlap of
  transform and filter bank, which reach back two frames; those that only fill the reservoir are made silent,
  because a frame that fails to decode does not move the filter bank on;
- mpg123's filter bank goes through a ring whose position changes the order of its sums, so a copy starts a
  multiple of 8 frames from where the decoding of the whole file starts;
- an empty Info frame in front, which mpg123 skips, so that no frame of sound is taken for one;
- bytes of zeros at the end, so that the estimated length is never too short.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.audio_flac import crc16
from readers.audio_mpeg import GROUP, MAX_FRAME_BYTES, Kind, Walk, frames_in, id3_end, read_tag, sound_span
from readers.audio_stream import Stream, checked, filled, reason
from readers.schema import ReadError

# Samples by which a decoder is late; encoders state their own delay without it.
DECODER_DELAY = 529
RESERVOIR_BYTES = 511
# Frames decoded at once: at most a few minutes.
_STEP_FRAMES = 4096
_MOST_TAG_BYTES = 1 << 24


@dataclass(frozen=True)
class Mp3:
    """The frames of a file. ``groups``: byte offset of every ``GROUP``-th frame; ``end``: that after the last one.

    The recording is samples ``skip``..``skip + length`` of the decoded frames; ``header`` is that of the first one.
    """

    kind: Kind
    header: int
    frames: int
    end: int
    skip: int
    length: int
    groups: NDArray[np.int64] = field(repr=False, compare=False)

    def read(self, path: Path, start: int, stop: int) -> NDArray[np.floating]:
        """Samples start..stop, (T, C) float32, NaN from where decoding fails. Raises ReadError, OSError."""
        found: list[NDArray[np.floating]] = [np.empty((0, 1 if self.kind.mono else 2), np.float32)]
        at, last = start + self.skip, stop + self.skip
        while at < last:
            frame = at // self.kind.samples
            until = min(last, (frame + _STEP_FRAMES) * self.kind.samples)
            found.append(self._decode(path, at, until))
            at = until
        return found[1] if len(found) == 2 else np.concatenate(found)

    def _decode(self, path: Path, start: int, stop: int) -> NDArray[np.floating]:
        """Samples start..stop of the decoded frames."""
        import soundfile

        samples = self.kind.samples
        first, sounding = self._begin(start // samples)
        frames = min(-(-stop // samples), self.frames) - first
        # Frames that mpg123 skips whole at the start move its ring on twice.
        shim = self.skip // samples % GROUP
        taken = self._bytes(path, first, frames)
        taken = blanked(taken, self.kind, sounding - first)
        head = _info(self.kind, self.header) + _silence(self.kind, self.header) * shim
        data = head + b"".join(taken)
        # What follows the frames is never reached.
        file = io.BytesIO(data + bytes(MAX_FRAME_BYTES * (frames + shim)))
        try:
            decoded = soundfile.read(file, (frames + shim) * samples, dtype="float32", always_2d=True)[0]
        except (soundfile.SoundFileError, RuntimeError) as error:
            span = f"between samples {start - self.skip} and {stop - self.skip}"
            raise ReadError(f"{path.name} cannot be decoded {span}: {reason(error)}") from error
        origin = (first - shim) * samples
        return filled(path, decoded[start - origin : stop - origin], start, stop)

    def tags(self, path: Path) -> io.BytesIO:
        """The file without its sound: its ID3 tags around silence. Raises OSError."""
        with path.open("rb") as file:
            head = file.read(10)
            length = id3_end(head, 0)
            before = (head + file.read(length - 10))[:length] if 10 < length <= _MOST_TAG_BYTES else b""
            file.seek(-min(128, self.end), 2)
            last = file.read()
        silence = _info(self.kind, self.header) + _silence(self.kind, self.header) * GROUP
        return io.BytesIO(before + silence + (last if last[:3] == b"TAG" else b""))

    def _begin(self, frame: int) -> tuple[int, int]:
        """Where to start, so that ``frame`` comes out right: a multiple of ``GROUP``, and the first frame to sound."""
        group = sounding = max(frame - 3, 0) // GROUP
        overhead = GROUP * (4 + 2 + self.kind.side_bytes)
        held = 0
        while group and held < RESERVOIR_BYTES:
            held += max(int(self.groups[group] - self.groups[group - 1]) - overhead, 0)
            group -= 1
        return group * GROUP, sounding * GROUP

    def _bytes(self, path: Path, first: int, frames: int) -> list[bytes]:
        """The bytes of some frames, without what lies between them."""
        last = (first + frames - 1) // GROUP + 1
        begin = int(self.groups[first // GROUP])
        end = int(self.groups[last]) if last < len(self.groups) else self.end
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        places = frames_in(self.kind, data, len(data), True)[0][:frames]
        found = [data[at : at + self.kind.size_of(int.from_bytes(data[at : at + 4], "big"))] for at in places]
        if len(found) < frames:
            raise ReadError(f"{path.name} ends inside its frames: it was changed after it was opened")
        return found


def blanked(frames: list[bytes], kind: Kind, sounding: int) -> list[bytes]:
    """Frames with those before number ``sounding``, and those that lack bytes of earlier ones, made silent.

    Such a frame still lends its bytes, and those it has from the frames before, to the ones after it.
    """
    found: list[bytes] = []
    held = 0
    for number, frame in enumerate(frames):
        start = 4 if frame[1] & 1 else 6
        end = start + kind.side_bytes
        long = kind.version == 3  # the first 9 or 8 bits say how far back the frame's data begin
        back = frame[start] << 1 | frame[start + 1] >> 7 if long else frame[start]
        if number < sounding or back > held:
            side = (min(back, held) << (7 if long else 8)).to_bytes(2, "big").ljust(kind.side_bytes, b"\0")
            checksum = b"" if frame[1] & 1 else crc16(frame[2:4] + side, 0xFFFF).to_bytes(2, "big")
            frame = frame[:4] + checksum + side + frame[end:]
        elif number >= sounding and held >= RESERVOIR_BYTES:
            return found + frames[number:]
        found.append(frame)
        held += max(len(frame) - end, 0)
    return found


def _minimal(kind: Kind, header: int) -> tuple[int, int]:
    """Header and size of the smallest frame of a kind that has room for an Info tag."""
    need = 4 + kind.side_bytes + 16
    rate = next(rate for rate, size in enumerate(kind.sizes) if size >= need)
    # No checksum, no padding.
    return header & ~0xF200 | 0x10000 | rate << 12, kind.sizes[rate]


def _info(kind: Kind, header: int) -> bytes:
    small, size = _minimal(kind, header)
    return (small.to_bytes(4, "big") + bytes(kind.side_bytes) + b"Info").ljust(size, b"\0")


def _silence(kind: Kind, header: int) -> bytes:
    small, size = _minimal(kind, header)
    return small.to_bytes(4, "big").ljust(size, b"\0")


def read_mp3(path: Path) -> Stream:
    """Count the frames of an MP3 file; costs one pass over it. Raises ReadError."""
    size = path.stat().st_size
    begin, end = sound_span(path, size)
    walk = Walk(path, begin, end)
    kind, header = walk.kind, walk.header
    if kind is None:
        raise ReadError(f"{path.name} holds no whole MP3 frame")
    tag = read_tag(kind, walk.first)
    places, frames = walk.places, walk.frames
    if tag is not None:
        places, frames = walk.after_first, frames - 1
    notes = list(walk.notes)
    skip = 0 if tag is None or tag.frames is None else DECODER_DELAY + tag.delay
    length = frames * kind.samples - skip
    if tag is not None and tag.frames == frames:
        length -= max(tag.padding - DECODER_DELAY, 0)
    elif tag is not None and tag.frames is not None:
        notes.append(f"the header claims {tag.frames} frames, the file holds {frames}")
    found = Mp3(kind, header, frames, walk.end, skip, length, np.array(places, np.int64))
    return checked(path.name, Stream("MPEG_LAYER_III", float(kind.rate_hz), 1 if kind.mono else 2, length, found, tuple(notes)))
