"""Audio files: one reader for each container, WAV and its 64-bit kin, FLAC, MP3, Ogg and AIFF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from readers.audio_notes import tables_beside
from readers.audio_record import SUFFIXES, AudioRecording
from readers.audio_write import LOSSY, write_audio
from readers.schema import Patch, Recording, Written


@dataclass
class AudioReader:
    """One container of audio. A file that holds another one than its suffix says is opened as what it holds."""

    name: str
    suffixes: tuple[str, ...]
    domains: tuple[str, ...] = ("audio",)
    companions: tuple[str, ...] = (".txt",)

    @property
    def copy_suffix(self) -> str | None:
        """Lossy audio is copied as FLAC, whose samples stay what they were."""
        return ".flac" if self.name in LOSSY else None

    def claims(self, path: Path, head: bytes) -> bool:
        """True: the suffixes are audio's alone, and a file that is damaged is reported with its reason."""
        return True

    def members(self, path: Path) -> Iterable[Path]:
        """Tables of annotations beside the file."""
        return tables_beside(path)

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every file stands alone."""
        return ((path,) for path in paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a file. Raises ReadError."""
        return AudioRecording(path)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched samples; see ``audio_write.write_audio``. Raises ReadError."""
        assert isinstance(recording, AudioRecording)
        return write_audio(recording, patches, path)


AUDIO_READERS = tuple(AudioReader(name, suffixes) for name, suffixes in SUFFIXES.items())
