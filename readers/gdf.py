"""GDF recordings (General Data Format for biomedical signals), versions 1 and 2."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from readers.bids import details
from readers.edf_record import domain_of
from readers.eeg_matrix import MAX_CHANNELS, MAX_RATE_HZ, STEP
from readers.electrodes import identify
from readers.file_bytes import fill
from readers.leads import si_factor
from readers.schema import Axes, Channel, Event, ReadError
from readers.signals import Float64, SignalRecording

_TYPES = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<i8", 8: "<u8", 16: "<f4", 17: "<f8"}
_MAX_EVENTS = 300_000
# Data records are read in blocks of about this size.
_BLOCK_BYTES = 1 << 22
# Codes of physical dimensions: the unit in steps of 32, the prefix of ten in between.
_UNITS = {4256: "V", 512: None, 544: "%", 6048: "°C", 2496: "Hz", 3872: "mmHg"}
_PREFIXES = {0: "", 3: "k", 18: "m", 19: "µ", 20: "n", 21: "p"}


@dataclass(frozen=True)
class Line:
    """One channel of the header. ``offset``: of its numbers in a data record, in bytes; physical = stored * gain + base."""

    name: str
    unit: str | None
    per_record: int
    dtype: str
    offset: int
    gain: float
    base: float
    low: float
    high: float


# A channel, its span of samples, and the array for them.
_Wanted = tuple[Line, int, int, Float64]


class GdfRecording(SignalRecording):
    """A GDF recording; each channel keeps its own rate and type."""

    format = "gdf"

    def __init__(self, path: Path) -> None:
        """Read the header and the event table; no sample is read. Raises ReadError."""
        self.path = path
        try:
            self._size = path.stat().st_size
            with path.open("rb") as file:
                self._read(file.read(256 * (MAX_CHANNELS + 1)))
                file.seek(self.data_at + self.n_records * self.record_bytes)
                events = _events(file.read(15 * _MAX_EVENTS), self.version, max(c.rate_hz or 0 for c in self.channels))
        except OSError as error:
            raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
        found = details(path, self.channels, events or [])
        self.channels, self._events = found.channels, found.events
        self.domain = domain_of(channel.kind for channel in found.channels)
        self.ids = {**self.ids, **found.ids}
        self.warnings = (*self._notes, *([] if events is not None else ["the event table cannot be read"]), *found.warnings)

    def _read(self, head: bytes) -> None:
        version = re.fullmatch(rb"GDF (\d\.\d\d?)\s*\0*", head[:8])
        if not version or len(head) < 256:
            raise ReadError(f"{self.path.name} is {'no GDF recording' if head.strip() else 'empty'}")
        self.version = float(version[1])
        old = self.version < 1.9
        n_records, (num, den) = struct.unpack_from("<q", head, 236)[0], struct.unpack_from("<2I", head, 244)
        n_channels = struct.unpack_from("<I" if old else "<H", head, 252)[0]
        if not 0 < n_channels <= MAX_CHANNELS or len(head) < 256 * (n_channels + 1):
            raise ReadError(f"{self.path.name} claims {n_channels} channels, more than it describes")
        self.data_at = struct.unpack_from("<q", head, 184)[0] if old else struct.unpack_from("<H", head, 184)[0] * 256
        if not 256 * (n_channels + 1) <= self.data_at <= self._size:
            raise ReadError(f"{self.path.name} claims a header of {self.data_at} bytes and holds {self._size}")
        self._notes = [] if num else ["the length of a data record is assumed to be 1 s"]
        seconds = (num or 1) / den if den else 0.0
        self.lines = _lines(self.path, head[256:], n_channels, old)
        self.record_bytes = sum(line.per_record * np.dtype(line.dtype).itemsize for line in self.lines)
        held = (self._size - self.data_at) // self.record_bytes
        self.n_records = held if n_records < 0 else n_records
        if not 0 < self.n_records <= held:
            raise ReadError(f"{self.path.name} claims {n_records} data records and holds {held}")
        rates = [line.per_record / seconds if seconds > 0 else 0.0 for line in self.lines]
        if not all(0 < rate <= MAX_RATE_HZ for rate in rates):
            raise ReadError(f"{self.path.name} has a data record of {num} / {den} s")
        self.channels = _channels(self.lines, rates)
        if len(set(rates)) > 1:
            self._notes.append(f"mixed rates: {', '.join(f'{rate:g}' for rate in sorted(set(rates)))} Hz")
        fastest = max(line.per_record for line in self.lines)
        shape = (n_channels, self.n_records * fastest)
        self.axes = Axes(shape, max(rates), self.n_records * seconds, _date(head, old))
        subject = head[8:74].decode("latin-1").split("\0")[0].split(" ")[0].strip()
        self.ids = {} if subject.lower() in ("", "x", "unknown") else {"subject": subject}

    @property
    def events(self) -> Sequence[Event]:
        """The event table and the side files, in order of onset; the label is the number of the event's type."""
        return self._events

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def verify(self) -> tuple[str, ...]:
        """Read every sample; name the channels with values outside the range that the header gives, and late events."""
        outside = np.zeros(len(self.lines), np.int64)
        for channels, spans in self._portions():
            for c, stored in zip(channels, self._stored(channels, spans), strict=True):
                line = self.lines[c]
                outside[c] += np.count_nonzero(~((stored >= line.low) & (stored <= line.high)))
        named = zip(outside, self.channels, strict=True)
        problems = [f"{n} samples of {c.name} lie outside the range that the header gives" for n, c in named if n]
        late = sum(event.onset_s > (self.axes.duration_s or 0) for event in self._events)
        return (*problems, f"{late} events lie outside the recording") if late else tuple(problems)

    def _length(self, channel: int) -> int:
        return self.n_records * self.lines[channel].per_record

    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        lines = [self.lines[channel] for channel in channels]
        return [stored * line.gain + line.base for line, stored in zip(lines, self._stored(channels, spans), strict=True)]

    def _portions(self) -> Iterator[tuple[Sequence[int], list[tuple[int, int]]]]:
        """Channels and their spans of samples which cover the recording, each small enough to be held in memory."""
        if self.record_bytes > _BLOCK_BYTES:
            for c in range(len(self.lines)):
                yield from (([c], [(at, min(at + STEP, self._length(c)))]) for at in range(0, self._length(c), STEP))
            return
        step = _BLOCK_BYTES // self.record_bytes
        for first in range(0, self.n_records, step):
            last = min(first + step, self.n_records)
            yield range(len(self.lines)), [(first * line.per_record, last * line.per_record) for line in self.lines]

    def _stored(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        """Stored numbers of samples start..stop of each channel. Raises ReadError."""
        found = [np.empty(max(stop - start, 0)) for start, stop in spans]
        wanted = [(self.lines[c], *span, values) for c, span, values in zip(channels, spans, found, strict=True) if values.size]
        read = self._wide if self.record_bytes > _BLOCK_BYTES else self._blocks
        try:
            with self.path.open("rb") as file:
                read(file, wanted)
        except OSError as error:
            raise ReadError(f"{self.path.name} cannot be read: {error.strerror or error}") from error
        return found

    def _wide(self, file: BufferedIOBase, wanted: Sequence[_Wanted]) -> None:
        """Read from long data records no more than the samples asked for."""
        for line, start, stop, values in wanted:
            for record in range(start // line.per_record, -(-stop // line.per_record)):
                origin = record * line.per_record
                first, last = max(start, origin), min(stop, origin + line.per_record)
                part = np.empty(last - first, line.dtype)
                at = self.data_at + record * self.record_bytes + line.offset
                fill(self.path, file, at + (first - origin) * part.itemsize, part)
                values[first - start : last - start] = part

    def _blocks(self, file: BufferedIOBase, wanted: Sequence[_Wanted]) -> None:
        """Read whole data records, many at once, and take from them what each channel needs."""
        begin = min((start // line.per_record for line, start, _, _ in wanted), default=0)
        end = max((-(-stop // line.per_record) for line, _, stop, _ in wanted), default=0)
        step = _BLOCK_BYTES // self.record_bytes
        for low in range(begin, end, step):
            records = np.empty((min(step, end - low), self.record_bytes), np.uint8)
            fill(self.path, file, self.data_at + low * self.record_bytes, records)
            for line, start, stop, values in wanted:
                origin = low * line.per_record
                first, last = max(start, origin), min(stop, origin + len(records) * line.per_record)
                if first < last:
                    width = line.per_record * np.dtype(line.dtype).itemsize
                    own = np.ascontiguousarray(records[:, line.offset : line.offset + width]).view(line.dtype).reshape(-1)
                    values[first - start : last - start] = own[first - origin : last - origin]


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin-1").strip()


def _lines(path: Path, raw: bytes, n: int, old: bool) -> tuple[Line, ...]:
    """The channels, from the part of the header that holds each field for all of them in turn."""
    at = {"unit": 96 * n, "code": 102 * n, "low": 104 * n, "spr": 216 * n}
    low, high = (np.frombuffer(raw, "<f8", n, at["low"] + k * 8 * n) for k in (0, 1))
    digital = [np.frombuffer(raw, "<i8" if old else "<f8", n, at["low"] + k * 8 * n).astype(np.float64) for k in (2, 3)]
    counts, types = (np.frombuffer(raw, "<i4", n, at["spr"] + k * 4 * n) for k in (0, 1))
    codes = np.frombuffer(raw, "<u2", n, at["code"])
    found, offset = [], 0
    for c in range(n):
        name = _text(raw[16 * c : 16 * c + 16]) or f"Ch{c + 1}"
        if int(types[c]) not in _TYPES or not 0 < counts[c] <= 2**31 // n:
            raise ReadError(f"{path.name} stores {name} as type {types[c]}, {counts[c]} samples per data record")
        dtype = _TYPES[int(types[c])]
        span, steps = float(high[c] - low[c]), float(digital[1][c] - digital[0][c])
        if not (math.isfinite(span) and math.isfinite(steps)):
            raise ReadError(f"{path.name} gives {name} a range that is no number")
        # A range of zero says nothing: the numbers count as they are, as in MNE.
        gain = (span or 1.0) / (steps or 1.0)
        unit = _text(raw[at["unit"] + 8 * c : at["unit"] + 8 * c + 8]) if old else _unit(int(codes[c]))
        base = float(low[c] - digital[0][c] * gain)
        limits = sorted((float(digital[0][c]), float(digital[1][c])))
        found.append(Line(name, unit or None, int(counts[c]), dtype, offset, gain, base, *limits))
        offset += int(counts[c]) * np.dtype(dtype).itemsize
    return tuple(found)


def _unit(code: int) -> str | None:
    unit, prefix = _UNITS.get(code & ~31), _PREFIXES.get(code & 31)
    return f"{prefix}{unit}" if unit and prefix is not None else None


def _channels(lines: Sequence[Line], rates: Sequence[float]) -> tuple[Channel, ...]:
    identities = identify([line.name for line in lines], [line.unit for line in lines])
    return tuple(
        Channel(
            name=line.name,
            canonical=identity.canonical,
            kind=identity.kind,
            unit=line.unit,
            si_factor=si_factor(line.unit),
            rate_hz=rate,
            position=identity.position,
            position_frame=identity.position_frame,
            position_source=identity.position_source,
            reference=identity.reference,
            dtype=np.dtype(line.dtype).name,
            low=line.low * line.gain + line.base,
            high=line.high * line.gain + line.base,
        )
        for line, rate, identity in zip(lines, rates, identities, strict=True)
    )


def _date(head: bytes, old: bool) -> str | None:
    try:
        if old:
            return datetime.strptime(_text(head[168:182]), "%Y%m%d%H%M%S").isoformat()
        days = struct.unpack_from("<Q", head, 168)[0] / 2**32  # since the year 0
        return (datetime(1, 1, 1) + timedelta(days - 367)).isoformat() if days else None
    except (ValueError, OverflowError):
        return None


def _events(raw: bytes, version: float, rate_hz: float) -> list[Event] | None:
    """Events of the table that begins with these bytes; None where it cannot be read."""
    if len(raw) < 8:
        return []
    if version < 1.94:
        rate, n_events = float(int.from_bytes(raw[1:4], "little")), struct.unpack_from("<I", raw, 4)[0]
    else:
        n_events, rate = int.from_bytes(raw[1:4], "little"), struct.unpack_from("<f", raw, 4)[0]
    rate = rate if math.isfinite(rate) and rate > 0 else rate_hz
    if raw[0] not in (1, 3) or n_events * (12 if raw[0] == 3 else 6) > len(raw) - 8:
        return None
    places, types = np.frombuffer(raw, "<u4", n_events, 8), np.frombuffer(raw, "<u2", n_events, 8 + 4 * n_events)
    lengths = np.frombuffer(raw, "<u4", n_events, 8 + 8 * n_events) if raw[0] == 3 else np.zeros(n_events)
    rows = zip(places.tolist(), types.tolist(), lengths.tolist(), strict=True)
    return sorted((Event((place - 1) / rate, length / rate, str(kind)) for place, kind, length in rows), key=lambda e: e.onset_s)
