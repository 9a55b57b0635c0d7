"""EDF, EDF+, BDF and BDF+: the reader, and writing new files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from readers.bids import details, merged
from readers.edf_create import create_edf
from readers.edf_header import holds_annotations_only, is_edf
from readers.edf_record import EdfRecording
from readers.edf_write import write_edf
from readers.schema import Patch, Recording, Written

__all__ = ["EdfReader", "create_edf"]

# The .edf of eye trackers (SR Research) and of X-ray images (ESRF).
_OTHERS = (b"SR_RESEARCH", b"{")


class EdfReader:
    """EDF and BDF files, plain, continuous (+C) and discontinuous (+D). ``.rec`` is EDF's older suffix."""

    name = "edf"
    domains: tuple[str, ...] = ("eeg", "cardiac")
    suffixes: tuple[str, ...] = (".edf", ".bdf", ".rec")
    companions: tuple[str, ...] = ()
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the file begins as EDF or BDF and names a signal that is no annotation.

        Any other .edf or .bdf is claimed too, to be reported with its reason, unless it is known to be something else.
        """
        if is_edf(head):
            return not holds_annotations_only(head)
        return path.suffix.lower() != ".rec" and not head.startswith(_OTHERS)

    def members(self, path: Path) -> Iterator[Path]:
        """None: the file is whole in itself."""
        return iter(())

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every file stands alone."""
        return ((path,) for path in paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a file. Raises ReadError."""
        recording = EdfRecording(path)
        found = details(path, recording.channels, ())
        told = merged(found.events, recording.events) if found.events else None
        return recording.with_details(
            channels=found.channels,
            events=told,
            ids={**recording.ids, **found.ids},
            warnings=(*recording.warnings, *found.warnings),
        )

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched samples; see ``edf_write.write_edf``. Raises ReadError."""
        assert isinstance(recording, EdfRecording)
        return write_edf(recording, patches, path)
