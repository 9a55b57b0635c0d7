"""The two texts of a BrainVision recording: its header (.vhdr) and its markers (.vmrk)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from readers.eeg_matrix import MAX_CHANNELS, MAX_RATE_HZ
from readers.electrodes import Position, on_head
from readers.schema import Event, ReadError

MAX_HEADER_BYTES = 8 * 2**20
_TYPES = {"INT_16": "<i2", "INT_32": "<i4", "UINT_16": "<u2", "IEEE_FLOAT_32": "<f4"}
_NEW_SEGMENT = "New Segment"


@dataclass(frozen=True)
class ChannelLine:
    """One line of [Channel Infos]; ``resolution`` units per stored number."""

    name: str
    reference: str | None
    resolution: float
    unit: str | None


@dataclass(frozen=True)
class Header:
    """What a .vhdr says. ``data`` and ``markers`` are paths."""

    data: Path
    markers: Path | None
    dtype: str
    multiplexed: bool
    rate_hz: float
    n_points: int | None
    channels: tuple[ChannelLine, ...]
    places: Mapping[int, Position]


def looks_like_header(head: bytes) -> bool:
    """Whether a file begins as a .vhdr does."""
    return bool(re.match(rb"(?:\xef\xbb\xbf)?\s*;?\s*Brain ?Vision", head, re.I))


def decode(raw: bytes) -> tuple[str, str]:
    """Text and its encoding: UTF-8 where it is valid, else Latin-1, as recorders of Windows wrote it."""
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


def sections(text: str) -> dict[str, dict[str, str]]:
    """The ini-like text: section -> key -> value, both names in lower case; free text after [Comment] is left out."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and "]" in line:
            name = line[1 : line.index("]")].strip().lower()
            current = {} if name == "comment" else found.setdefault(name, {})
        elif line and not line.startswith(";") and "=" in line:
            key, _, value = line.partition("=")
            current.setdefault(key.strip().lower(), value.strip())
    return found


def read_text(path: Path) -> str:
    """A header's or marker file's text. Raises ReadError."""
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise ReadError(f"{path.name} is larger than {MAX_HEADER_BYTES >> 20} MiB, too large for a BrainVision header")
        return decode(path.read_bytes())[0]
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error


def read_header(path: Path) -> Header:
    """Parse a .vhdr. Raises ReadError."""
    text = read_text(path)
    if not looks_like_header(text[:200].encode()):
        raise ReadError(f"{path.name} is {'no BrainVision header' if text.strip() else 'empty'}")
    parts = sections(text)
    common = parts.get("common infos", {})
    if common.get("dataformat", "BINARY").upper() != "BINARY":
        raise ReadError(f"{path.name} holds its data as {common['dataformat']}; only binary BrainVision data can be read")
    orientation = common.get("dataorientation", "MULTIPLEXED").upper()
    if orientation not in ("MULTIPLEXED", "VECTORIZED"):
        raise ReadError(f"{path.name} has the data orientation {orientation}, expected MULTIPLEXED or VECTORIZED")
    kind = parts.get("binary infos", {}).get("binaryformat", "INT_16").upper()
    if kind not in _TYPES:
        raise ReadError(f"{path.name} has the binary format {kind}, expected one of {', '.join(_TYPES)}")
    big_endian = parts.get("binary infos", {}).get("usebigendianorder", "NO").upper() == "YES"
    n_channels = _number(path, common, "NumberOfChannels", MAX_CHANNELS)
    interval = _number(path, common, "SamplingInterval", 1e12)
    if 1e6 / interval > MAX_RATE_HZ:
        raise ReadError(f"{path.name} has the sampling interval {interval:g} µs, too short for a recording")
    points = common.get("datapoints", "")
    return Header(
        data=_file(path, common.get("datafile", "$b.eeg")),
        markers=_file(path, common["markerfile"]) if common.get("markerfile") else None,
        dtype=_TYPES[kind].replace("<", ">") if big_endian else _TYPES[kind],
        multiplexed=orientation == "MULTIPLEXED",
        rate_hz=1e6 / interval,
        n_points=int(points) if points.isascii() and points.isdigit() and len(points) < 16 else None,
        channels=tuple(_channel_lines(path, parts.get("channel infos", {}), int(n_channels))),
        places=_places(parts.get("coordinates", {}), int(n_channels)),
    )


def _number(path: Path, common: Mapping[str, str], key: str, most: float) -> float:
    try:
        value = float(common[key.lower()])
    except (KeyError, ValueError):
        raise ReadError(f"{path.name} has the {key} {common.get(key.lower(), 'missing')}, expected a number") from None
    if not 0 < value <= most or (key == "NumberOfChannels" and value != int(value)):
        raise ReadError(f"{path.name} has the {key} {value:g}, expected a number above 0 and up to {most:g}")
    return value


def _file(path: Path, name: str) -> Path:
    return path.parent / name.replace("$b", path.stem)


def _channel_lines(path: Path, lines: Mapping[str, str], n_channels: int) -> Iterator[ChannelLine]:
    for number in range(1, n_channels + 1):
        line = lines.get(f"ch{number}")
        if line is None:
            raise ReadError(f"{path.name} describes {len(lines)} channels and claims {n_channels}: Ch{number} is missing")
        name, reference, resolution, unit, *_ = [part.strip().replace("\\1", ",") for part in line.split(",")] + [""] * 3
        try:
            step = float(resolution) if resolution else 1.0
        except ValueError:
            step = 0.0
        if not (math.isfinite(step) and step != 0 and 1e-30 < abs(step) < 1e30):
            raise ReadError(f"{path.name} gives {name or f'channel {number}'} the resolution {resolution}, expected a number")
        yield ChannelLine(name or f"Ch{number}", reference or None, step, unit or None)


def _places(lines: Mapping[str, str], n_channels: int) -> dict[int, Position]:
    """Places of [Coordinates] (radius, inclination from the vertex, azimuth from the right ear) for radius 1."""
    found = {}
    for number in range(n_channels):
        try:
            radius, inclination, azimuth = (float(part) for part in lines[f"ch{number + 1}"].split(",")[:3])
        except (KeyError, ValueError):
            continue
        angles = math.radians(inclination), math.radians(azimuth)
        if radius == 1 and all(map(math.isfinite, angles)):
            across = math.sin(angles[0])
            found[number] = on_head((across * math.cos(angles[1]), across * math.sin(angles[1]), math.cos(angles[0])))
    return found


def read_markers(path: Path, rate_hz: float, names: Sequence[str]) -> tuple[list[Event], str | None, int]:
    """Events of a .vmrk, the ISO date of its first segment, and how many lines are no markers. Raises ReadError.

    The label is TYPE/DESCRIPTION. A later ``New Segment`` is an event: the recording was interrupted there.
    """
    text = read_text(path)
    events: list[Event] = []
    date, odd = None, 0
    for key, line in sections(text).get("marker infos", {}).items():
        kind, text, position, size, channel, *rest = [part.replace("\\1", ",") for part in line.split(",")] + [""] * 5
        if not re.fullmatch(r"mk\d+", key) or not re.fullmatch(r"\s*-?\d{1,15}\s*", position):
            odd += 1
            continue
        when = _date(rest[0]) if kind == _NEW_SEGMENT else None
        date = date or when
        if kind == _NEW_SEGMENT and int(position) <= 1:
            continue
        long = int(size) / rate_hz if re.fullmatch(r"\s*\d{1,15}\s*", size) else 0.0
        own = int(channel) if re.fullmatch(r"\s*\d{1,6}\s*", channel) else 0
        label = f"{kind}/{text}" if text else kind
        only = (names[own - 1],) if 0 < own <= len(names) else ()
        events.append(Event((int(position) - 1) / rate_hz, long, label or "marker", only, {"date": when} if when else {}))
    return events, date, odd


def _date(text: str) -> str | None:
    """ISO 8601 of the twenty digits YYYYMMDDhhmmssuuuuuu; None for none, and for a date of zeros."""
    match = re.fullmatch(r"([12]\d{3})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d{6})", text.strip())
    if not match:
        return None
    year, month, day, hour, minute, second, micro = match.groups()
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}.{micro}"
