"""Annotations of audio: Raven selection tables and Audacity labels beside a file, cue points inside a WAV."""

from __future__ import annotations

import csv
import io
import math
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from readers.audio_chunks import Chunks
from readers.audio_meta import pieces
from readers.schema import Event, ReadError

MAX_TABLE_BYTES = 1 << 26
_BEGIN, _END = "Begin Time (s)", "End Time (s)"
# Columns that hold the label, the first that a table has.
_LABELS = (
    "Species",
    "Common Name",
    "Annotation",
    "Annotations",
    "Label",
    "Species Code",
    "Class",
    "Call Type",
    "Tags",
    "Comments",
)
_TABLE_ENDINGS = (".selections.txt", ".BirdNET.selection.table.txt", *(f".Table.{k}.selections.txt" for k in range(1, 10)))


def tables_beside(path: Path) -> list[Path]:
    """Raven tables and Audacity labels that belong to an audio file, by their names and first bytes."""
    named = [path.with_name(path.stem + ending) for ending in _TABLE_ENDINGS]
    found = [file for file in named if os.path.isfile(file)]  # Path.is_file raises where a name is too long
    labels = path.with_name(path.stem + ".txt")
    if labels.is_file() and _looks_like_table(labels):
        found.append(labels)
    return found


def _looks_like_table(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.read(4096).decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return False
    return bool(first) and (_BEGIN in first[0].split("\t") or _times(first[0].split("\t")) is not None)


def read_table(path: Path, audio: Path) -> list[Event]:
    """The events of a Raven table or Audacity label file, of ``audio`` where it names files. Raises ReadError."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ReadError(f"{path.name} is larger than {MAX_TABLE_BYTES} bytes and is not read as a table of events")
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if _BEGIN in text.split("\n", 1)[0].strip().split("\t"):
        return _raven(path, text, audio)
    return _audacity(path, text)


def _raven(path: Path, text: str, audio: Path) -> list[Event]:
    found: dict[str, Event] = {}
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        if _END not in (table.fieldnames or ()) and "Delta Time (s)" not in (table.fieldnames or ()):
            raise ReadError(f"{path.name} has no column {_END}")
        label = next((name for name in _LABELS if name in (table.fieldnames or ())), None)
        for number, row in enumerate(table):
            if not any(row.values()) or not _names(row, audio):
                continue
            event = _selection(path, number + 2, row, label)
            # A selection has a row for each view, waveform and spectrogram; the latter has the frequencies.
            key = row.get("Selection") or f"row {number}"
            if key not in found or row.get("View", "").startswith("Spectrogram"):
                found[key] = event
    except csv.Error as error:
        raise ReadError(f"{path.name} is no table of events: {error}") from error
    return list(found.values())


def _names(row: dict[str, Any], audio: Path) -> bool:
    """Whether a row is about this file; a table over several files has a column that says which."""
    said = row.get("Begin Path") or row.get("Begin File")
    return not said or PureWindowsPath(said).name.casefold() == audio.name.casefold()


def _selection(path: Path, line: int, row: dict[str, Any], label: str | None) -> Event:
    begin, end = _number(row.get(_BEGIN)), _number(row.get(_END))
    if math.isnan(end):
        end = begin + _number(row.get("Delta Time (s)"))
    if not 0 <= begin <= end < math.inf:
        raise ReadError(f"{path.name} line {line}: a selection from {row.get(_BEGIN)} s to {row.get(_END)} s")
    # In a table over several files times count from the first one's start, the offset from this one's.
    offset = _number(row.get("File Offset (s)"))
    channel = row.get("Channel") or ""
    return Event(
        onset_s=offset if 0 <= offset < math.inf else begin,
        duration_s=end - begin,
        label=(row.get(label) or "").strip() if label else "",
        channels=(f"channel {int(channel)}",) if channel.isascii() and channel.isdigit() and len(channel) < 6 else (),
        extra={str(key): value for key, value in row.items() if key},
    )


def _audacity(path: Path, text: str) -> list[Event]:
    found: list[Event] = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split("\t")
        times = _times(cells[1:] if cells[0] == "\\" else cells)
        if not line.strip():
            continue
        if times is None:
            raise ReadError(f"{path.name} line {number} is no label: start and end in seconds, then text, separated by tabs")
        if cells[0] == "\\" and found:  # the frequencies of the label before
            last = found[-1]
            found[-1] = Event(
                last.onset_s, last.duration_s, last.label, extra={"Low Freq (Hz)": times[0], "High Freq (Hz)": times[1]}
            )
        else:
            found.append(Event(times[0], max(times[1] - times[0], 0.0), "\t".join(cells[2:]).strip()))
    return found


def _times(cells: Sequence[str]) -> tuple[float, float] | None:
    if len(cells) < 2:
        return None
    start, end = _number(cells[0]), _number(cells[1])
    return (start, end) if math.isfinite(start) and math.isfinite(end) and (start >= 0 or end >= 0) else None


def _number(text: str | None) -> float:
    try:
        return float((text or "").strip().replace(",", "."))
    except ValueError:
        return math.nan


def cue_points(chunks: Chunks, rate_hz: float, frames: int) -> list[Event]:
    """The cue points of a WAV inside its samples, with the labels and lengths of its adtl list. Raises OSError."""
    chunk = chunks.first("cue ")
    if chunk is None:
        return []
    content = chunks.content(chunk)
    labels, lengths = _adtl(chunks)
    found = []
    for at in range(4, len(content) - 23, 24):
        number, _, _, _, _, sample = struct.unpack("<II4sIII", content[at : at + 24])
        if sample < frames:
            length = min(lengths.get(number, 0), frames - sample)
            found.append(Event(sample / rate_hz, length / rate_hz, labels.get(number, ""), extra={"cue": number}))
    return found


def _adtl(chunks: Chunks) -> tuple[dict[int, str], dict[int, int]]:
    """Label and length in samples of each cue point that has them."""
    labels: dict[int, str] = {}
    lengths: dict[int, int] = {}
    for chunk in chunks.found:
        content = chunks.content(chunk) if chunk.name == "LIST" else b""
        for name, piece in pieces(content[4:]) if content[:4] == b"adtl" else ():
            number = int.from_bytes(piece[:4], "little")
            if name == "labl":
                labels[number] = piece[4:].split(b"\0")[0].decode("utf-8", "replace").strip()
            elif name == "ltxt" and len(piece) >= 8:
                lengths[number] = int.from_bytes(piece[4:8], "little")
    return labels, lengths


def in_order(events: Iterable[Event]) -> tuple[Event, ...]:
    """Events by onset."""
    return tuple(sorted(events, key=lambda event: event.onset_s))
