"""Annotations inside EDF+ and BDF+ files: time-stamped annotation lists (TALs), and when each record begins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from readers.edf_header import EdfHeader
from readers.schema import Event, ReadError

# Records this small are read many at once, larger ones only where their annotations lie; without any, none is read.
_SMALL_RECORD = 8192
_BLOCK_BYTES = 1 << 20

# Onset, duration after 0x15, then texts that 0x14 ends each.
_TAL = re.compile(rb"([+-]?\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?)?)?\x14(?:(.*)\x14)?", re.DOTALL)
_TIME = re.compile(rb"([+-]?\d+(?:\.\d*)?)(?:\x15[\d.]*)?\x14")


class Tal(NamedTuple):
    """One onset (seconds after the start that the header gives), its duration in seconds, and its texts, none empty."""

    onset_s: float
    duration_s: float
    texts: tuple[str, ...]


def parse_tals(data: bytes) -> tuple[list[Tal], int]:
    """The TALs in the annotation bytes of one record, and how many pieces of it are none."""
    found, broken = [], 0
    for piece in data.split(b"\0"):
        if not piece.strip():
            continue
        match = _TAL.fullmatch(piece)
        times = [float(match[1]), float(match[2] or 0)] if match else [math.inf]
        if match is None or not all(map(math.isfinite, times)):
            broken += 1
            continue
        texts = (match[3] or b"").split(b"\x14")
        found.append(Tal(times[0], times[1], tuple(_text(text) for text in texts if text)))
    return found, broken


def annotation_bytes(path: Path, header: EdfHeader, n_records: int) -> Iterator[list[bytes]]:
    """For each record the bytes of each of its annotation signals; memory does not grow with the file. Raises ReadError."""
    width, size = header.width, header.record_bytes
    spans = [(place * width, (place + samples) * width) for place, samples in header.annotations]
    step = max(1, _BLOCK_BYTES // size) if spans and size <= _SMALL_RECORD else 1
    try:
        with path.open("rb", buffering=0) as file:
            for record in range(0, n_records, step):
                count, origin = min(step, n_records - record), header.n_bytes + record * size
                if step > 1:
                    file.seek(origin)
                    block = file.read(count * size)
                    yield from ([block[k + lo : k + hi] for lo, hi in spans] for k in range(0, count * size, size))
                    continue
                chunks = []
                for lo, hi in spans:
                    file.seek(origin + lo)
                    chunks.append(file.read(hi - lo))
                yield chunks
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error


def record_onsets(path: Path, header: EdfHeader, n_records: int) -> Iterator[float | None]:
    """When each record begins, in seconds after the start that the header gives; None where it does not say so."""
    for chunks in annotation_bytes(path, header, n_records):
        # The first TAL of the first annotation signal keeps the time.
        match = _TIME.match(chunks[0]) if chunks else None
        onset = float(match[1]) if match else math.inf
        yield onset if math.isfinite(onset) else None


def read_events(path: Path, header: EdfHeader, n_records: int, start_s: float) -> tuple[tuple[Event, ...], int]:
    """All annotations in order of onset, in seconds after ``start_s``, and how many TALs are broken. Raises ReadError.

    A text that ends in ``@@`` and the name of a signal concerns that channel. The same annotation of several
    channels, one after the other, is one event.
    """
    names = {signal.label for signal in header.signals}
    events: list[Event] = []
    broken = 0
    for chunks in annotation_bytes(path, header, n_records):
        for chunk in chunks:
            tals, bad = parse_tals(chunk)
            broken += bad
            for tal in tals:
                for text in tal.texts:
                    label, _, channel = text.rpartition("@@")
                    label, channels = (label, (channel,)) if label and channel in names else (text, ())
                    _add(events, Event(tal.onset_s - start_s, tal.duration_s, label, channels))
    return tuple(sorted(events, key=lambda event: event.onset_s)), broken


def _add(events: list[Event], event: Event) -> None:
    last = events[-1] if events else None
    if last and event.channels and last.channels and event.channels[0] not in last.channels:
        same = (last.onset_s, last.duration_s, last.label) == (event.onset_s, event.duration_s, event.label)
        if same:
            events[-1] = Event(event.onset_s, event.duration_s, event.label, last.channels + event.channels)
            return
    events.append(event)


def _text(text: bytes) -> str:
    """UTF-8 as the format demands; what is not is taken as Latin-1, which some programs write."""
    try:
        return text.decode("utf-8").strip()
    except UnicodeDecodeError:
        return text.decode("latin-1").strip()
