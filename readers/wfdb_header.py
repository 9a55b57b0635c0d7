"""The text of a WFDB header (.hea): parsing it, and changing two of its fields without touching the rest.

Grammar: WFDB Applications Guide, header(5). The text is handled as bytes, because a faithful copy has
to keep every byte that was not asked to change, whatever its encoding and line ends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from functools import lru_cache
from itertools import islice

from readers.schema import ReadError

DEFAULT_RATE_HZ = 250.0
DEFAULT_GAIN = 200.0
DEFAULT_UNIT = "mV"
MAX_SIGNALS = 10_000
MAX_RATE_HZ = 1e7
MAX_FRAMES = 10**13
MAX_SAMPLES_PER_FRAME = 100_000
# A file name has at most 255 on common systems; suffixes and those of copies come behind it.
MAX_NAME_BYTES = 200

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# At most 18 digits, which every integer type downstream holds.
_COUNT = r"\d{1,18}"
_RECORD = re.compile(
    rf"(?P<name>[-\w.]+)(?:/(?P<n_segments>{_COUNT}))?\s+(?P<n_signals>{_COUNT})"
    rf"(?:\s+(?P<rate>{_NUMBER})(?:/{_NUMBER}(?:\({_NUMBER}\))?)?"
    rf"(?:\s+(?P<n_frames>{_COUNT})(?:\s+(?P<time>[\d:.]+)(?:\s+(?P<date>[\d/]+))?)?)?)?",
    re.ASCII,
)
# A record line whose numbers may be wrong, and the formats that say that the line after it is a signal's all the same.
_LOOSE_RECORD = re.compile(r"[-\w.]+(?:/\S+)?\s+([-+]?\d+)(?:\s+(\S+)(?:\s+(\S+)(?:\s.*)?)?)?", re.ASCII)
_FORMATS = frozenset(["0", "8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524"])
_SECOND_LINE = re.compile(r"\S+\s+\d+")
_FORMAT = re.compile(rf"({_COUNT})(?:x({_COUNT}))?(?::({_COUNT}))?(?:\+({_COUNT}))?", re.ASCII)
_GAIN = re.compile(rf"({_NUMBER})(?:\(([-+]?{_COUNT})\))?(?:/(\S+))?", re.ASCII)
_SEGMENT = re.compile(rf"(\S+)\s+({_COUNT})(?:\s.*)?", re.ASCII)
# Fields of a signal line after file, format and gain: resolution, zero, initial value, checksum, block size.
_ZERO, _INITIAL, _CHECKSUM, _N_INTEGERS = 1, 2, 3, 5
_INTEGERS = re.compile(rf"(?:[-+]?{_COUNT} ){{0,{_N_INTEGERS}}}", re.ASCII)


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header. ``file`` "~" stores nothing; ``unit`` None: not written; ``skew`` in frames."""

    file: str
    format: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    unit: str | None
    initial: int | None
    checksum: int | None
    name: str | None


@dataclass(frozen=True)
class Header:
    """A parsed header. ``segments``: (name, frames) of each segment, empty for a single-segment record."""

    name: str
    n_signals: int
    rate_hz: float
    rate_written: bool
    n_frames: int | None
    start_date: str | None
    signals: tuple[SignalLine, ...]
    segments: tuple[tuple[str, int], ...]
    comments: tuple[str, ...]

    @property
    def variable_layout(self) -> bool:
        """True where the first segment, of length 0, only lists the signals that may occur."""
        return bool(self.segments) and self.segments[0][1] == 0


def looks_like_header(head: bytes) -> bool:
    """Whether the first bytes of a file read as a WFDB record line and the start of the line after it.

    A record line with a number that cannot be is one where a signal's line follows.
    """
    content = [text for _, text in islice(_content_lines(head), 2)]
    if not content or not _RECORD.fullmatch(content[0]):
        return len(content) == 2 and _LOOSE_RECORD.fullmatch(content[0]) is not None and _is_signal_line(content[1])
    return len(content) == 1 or _SECOND_LINE.match(content[1]) is not None


def parse_header(data: bytes, file_name: str) -> Header:
    """Parse the bytes of a header; ``file_name`` is for messages. Raises ReadError."""
    if not data.strip():
        raise ReadError(f"{file_name} is empty")
    content = [text for _, text in _content_lines(data)]
    match = _RECORD.fullmatch(content[0]) if content else None
    if match is None:
        raise ReadError(_wrong_record(content, file_name))
    n_signals, rate = int(match["n_signals"]), float(match["rate"] or DEFAULT_RATE_HZ)
    if n_signals > MAX_SIGNALS:
        raise ReadError(f"{file_name} claims {n_signals} signals; at most {MAX_SIGNALS} are accepted")
    if not (math.isfinite(rate) and 0 < rate <= MAX_RATE_HZ):
        raise ReadError(f"{file_name} claims a sampling rate of {match['rate']} Hz")
    multi = match["n_segments"] is not None
    wanted = int(match["n_segments"]) if multi else n_signals
    if multi and wanted == 0:
        raise ReadError(f"{file_name} claims to have no segments")
    lines = content[1 : 1 + wanted]
    if len(lines) < wanted:
        raise ReadError(f"{file_name} lists {len(lines)} of the {wanted} {'segments' if multi else 'signals'} it claims")
    return Header(
        name=match["name"],
        n_signals=n_signals,
        rate_hz=rate,
        rate_written=match["rate"] is not None,
        n_frames=int(match["n_frames"]) if match["n_frames"] else None,
        start_date=_start_date(match["date"], match["time"]),
        signals=() if multi else tuple(_signal_line(line, file_name) for line in lines),
        segments=tuple(_segment_line(line, file_name) for line in lines) if multi else (),
        comments=tuple(_comments(data)),
    )


def _is_signal_line(line: str) -> bool:
    tokens = line.split()
    storage = _FORMAT.fullmatch(tokens[1]) if len(tokens) > 2 else None
    return storage is not None and storage[1] in _FORMATS and _scale(tokens[2]) is not None


def _wrong_record(content: list[str], file_name: str) -> str:
    """What is wrong with a header whose first line is no record line."""
    match = _LOOSE_RECORD.fullmatch(content[0]) if len(content) > 1 and _is_signal_line(content[1]) else None
    if match is None:
        return f"{file_name} is not a WFDB header: it has no valid record line"
    count, rate, length = match.groups()
    if not re.fullmatch(_COUNT, count, re.ASCII):
        return f"{file_name} claims {count[:40]} signals"
    if rate and not re.match(rf"{_NUMBER}(?:/|$)", rate, re.ASCII):
        return f"{file_name} claims a sampling rate of {rate[:40]} Hz"
    if length and not re.fullmatch(_COUNT, length, re.ASCII):
        return f"{file_name} claims a length of {length[:40]} samples"
    return f"{file_name} has a record line that cannot be read: {content[0][:80]!r}"


def with_fields(data: bytes, initial: Mapping[int, int], checksum: Mapping[int, int]) -> bytes:
    """The header with new initial values and checksums (by signal number), every other byte as it was.

    A field that the header does not hold is not added.
    """
    lines = data.splitlines(keepends=True)
    numbers = [number for number, _ in _content_lines(data)]
    for signal in sorted({*initial, *checksum}):
        number = numbers[1 + signal]
        line = lines[number]
        spans = [m.span() for m in re.finditer(rb"\S+", line)][3 : 3 + _integer_count(_decode(line).split())]
        # From the right, so that the spans on the left stay true.
        for field, values in ((_CHECKSUM, checksum), (_INITIAL, initial)):
            if signal in values and field < len(spans):
                begin, end = spans[field]
                line = line[:begin] + str(values[signal]).encode() + line[end:]
        lines[number] = line
    return b"".join(lines)


def _decode(line: bytes) -> str:
    # Headers are ASCII by the specification, but "µV" and patients' names occur in both encodings.
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _content_lines(data: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(data.splitlines()):
        text = _decode(line).strip()
        if text and text[0] != "#":
            yield number, text


def _comments(data: bytes) -> Iterator[str]:
    for line in data.splitlines():
        if line.lstrip()[:1] == b"#":
            yield _decode(line).strip().lstrip("#").strip()


def _start_date(day: str | None, clock: str | None) -> str | None:
    """ISO 8601 of a DD/MM/YYYY date and a [[HH:]MM:]SS time; None where there is no valid date."""
    try:
        start = datetime.strptime(day or "", "%d/%m/%Y").date()
    except ValueError:
        return None
    moment = _clock(clock or "")
    return start.isoformat() if moment is None else datetime.combine(start, moment).isoformat()


def _clock(text: str) -> time | None:
    *larger, last = text.split(":")
    try:
        hour, minute = (int(part) for part in ["0"] * (2 - len(larger)) + larger)
        seconds = float(last)
        return time(hour, minute, int(seconds), min(round(seconds % 1 * 1e6), 999_999))
    except (ValueError, OverflowError):
        return None


def _integer_count(tokens: list[str]) -> int:
    """How many of the tokens after file, format and gain are the line's integer fields."""
    match = _INTEGERS.match(" ".join([*tokens[3 : 3 + _N_INTEGERS], ""]))
    return match[0].count(" ") if match else 0


def _signal_line(line: str, file_name: str) -> SignalLine:
    tokens = line.split()
    storage = _storage(tokens[1]) if len(tokens) > 1 else None
    scale = _scale(tokens[2]) if len(tokens) > 2 else (DEFAULT_GAIN, None, None)
    if storage is None or scale is None:
        raise ReadError(f"{file_name} has a signal line that cannot be read: {line[:80]!r}")
    _check_name(tokens[0], file_name, "signal file")
    fmt, per_frame, skew, byte_offset = storage
    gain, baseline, unit = scale
    if not 1 <= per_frame <= MAX_SAMPLES_PER_FRAME:
        raise ReadError(f"{file_name} claims {per_frame} samples per frame")
    count = _integer_count(tokens)
    integers = [*map(int, tokens[3 : 3 + count]), *[None] * (_N_INTEGERS - count)]
    name = line.split(None, 3 + count)[3 + count] if len(tokens) > 3 + count else None
    return SignalLine(
        file=tokens[0],
        format=fmt,
        samples_per_frame=per_frame,
        skew=skew,
        byte_offset=byte_offset,
        gain=gain,
        baseline=(integers[_ZERO] or 0) if baseline is None else baseline,
        unit=unit,
        initial=integers[_INITIAL],
        checksum=integers[_CHECKSUM],
        name=name,
    )


# The signals of a record, and the records of a folder, mostly share these two fields.
@lru_cache(maxsize=256)
def _storage(field: str) -> tuple[str, int, int, int] | None:
    """Format, samples per frame, skew and byte offset; None for what cannot be read."""
    match = _FORMAT.fullmatch(field)
    return match and (str(int(match[1])), int(match[2] or 1), int(match[3] or 0), int(match[4] or 0))


@lru_cache(maxsize=256)
def _scale(field: str) -> tuple[float, int | None, str | None] | None:
    """Gain, baseline and unit; None for what cannot be read."""
    match = _GAIN.fullmatch(field)
    if match is None or not math.isfinite(gain := float(match[1])):
        return None
    # A gain of 0 means "not calibrated", for which the specification says 200 units per mV.
    return gain or DEFAULT_GAIN, int(match[2]) if match[2] else None, match[3]


def _segment_line(line: str, file_name: str) -> tuple[str, int]:
    match = _SEGMENT.fullmatch(line)
    if match is None:
        raise ReadError(f"{file_name} has a segment line that cannot be read: {line[:80]!r}")
    _check_name(match[1], file_name, "segment")
    return match[1], int(match[2])


def _check_name(name: str, file_name: str, kind: str) -> None:
    """A name that a header gives has to be one that a file in the header's folder can have. Raises ReadError."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ReadError(f"{file_name} names a {kind} in {len(name.encode())} bytes; at most {MAX_NAME_BYTES} are accepted")
    if "\0" in name:
        raise ReadError(f"{file_name} names a {kind} that no file can be called: {name[:80]!r}")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise ReadError(f"{file_name} names a {kind} outside its folder: {name[:80]!r}")
