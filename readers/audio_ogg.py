"""Ogg (Vorbis, Opus, FLAC) and compressed WAV and AIFF: what libsndfile decodes and finds the length of by itself."""

from __future__ import annotations

from pathlib import Path

from readers.audio_stream import Sndfile, Stream, checked, reason
from readers.schema import ReadError

# No codec here makes more samples of a byte, silence included: a Vorbis packet of one byte can stand for 4096.
_MOST_PER_BYTE = 4096
_LAST_PAGE = 0x04
_PAGE_BYTES = 65_307


def read_through_sndfile(path: Path) -> Stream:
    """The samples of a file that libsndfile decodes; of an Ogg file up to its last whole page. Raises ReadError."""
    import soundfile

    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ReadError(f"{path.name} cannot be decoded: {reason(error)}") from error
    size = path.stat().st_size
    if info.frames > size * _MOST_PER_BYTE:
        raise ReadError(f"{path.name} claims {info.frames} samples in {size} bytes")
    notes = ("the last page is not marked as the last: the file may be cut",) if _is_cut(path, size) else ()
    return checked(path.name, Stream(info.subtype, float(info.samplerate), info.channels, info.frames, Sndfile(), notes))


def _is_cut(path: Path, size: int) -> bool:
    """Whether an Ogg file ends elsewhere than after a page that is marked as its last."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        file.seek(max(size - _PAGE_BYTES, 0))
        tail = file.read(_PAGE_BYTES)
    at = tail.rfind(b"OggS")
    page = tail[at:] if at >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return not page[5] & _LAST_PAGE or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
