"""Where, when and with what a recording was made, as its own chunks say: GUANO, AudioMoth comments, bext."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from readers.audio_chunks import Chunks

_AUDIOMOTH = re.compile(
    r"Recorded at (\d{1,2}):(\d{2}):(\d{2})(?:\.\d+)? (\d{1,2})/(\d{1,2})/(\d{4}) \(UTC([+-]\d{1,2})?(?::?(\d{2}))?\)", re.ASCII
)
_AUDIOMOTH_ID = re.compile(r"AudioMoth ([0-9A-F]{16})\b")
_IN_NAME = re.compile(r"(?<!\d)(\d{8})[_T-](\d{6})(?!\d)(Z?)", re.ASCII)


def made_by(chunks: Chunks) -> tuple[str | None, dict[str, str]]:
    """Start of the recording (ISO 8601; None: not said) and ``ids``: device, site. Raises OSError."""
    guano, info = guano_of(chunks), info_of(chunks)
    comment = info.get("ICMT", "")
    start = _iso(guano.get("Timestamp", "")) or _audiomoth_start(comment) or _bext_start(chunks)
    device = " ".join(part for key in ("Make", "Model", "Serial") if (part := guano.get(key, "")))
    moth = _AUDIOMOTH_ID.search(comment) or _AUDIOMOTH_ID.search(info.get("IART", ""))
    if not device and moth:
        device = moth.group(0)
    found = {"device": device, "site": guano.get("Site Name", "") or guano.get("Loc Position", "")}
    return start, {key: value for key, value in found.items() if value}


def guano_of(chunks: Chunks) -> dict[str, str]:
    """The fields of the GUANO chunk; empty where there is none. Raises OSError."""
    chunk = chunks.first("guan")
    if chunk is None:
        return {}
    lines = chunks.content(chunk).decode("utf-8", "replace").strip("\0").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def info_of(chunks: Chunks) -> dict[str, str]:
    """The texts of the LIST INFO chunk by their four-letter names; empty where there is none. Raises OSError."""
    found: dict[str, str] = {}
    for chunk in chunks.found:
        if chunk.name == "LIST" and chunk.held >= 4:
            content = chunks.content(chunk)
            if content[:4] == b"INFO":
                for name, text in pieces(content[4:]):
                    found.setdefault(name, text.split(b"\0")[0].decode("utf-8", "replace").strip())
    return found


def pieces(content: bytes) -> list[tuple[str, bytes]]:
    """The chunks inside a LIST chunk: name and content, the last one as far as it goes."""
    found = []
    at = 0
    while at + 8 <= len(content):
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        found.append((content[at : at + 4].decode("latin-1"), content[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def start_in_name(stem: str) -> str | None:
    """The time in a file name such as SITE_20240518_053000, ISO 8601; None where there is none."""
    match = _IN_NAME.search(stem)
    if match is None:
        return None
    found = _iso(f"{match[1]}T{match[2]}")
    return None if found is None else found + ("+00:00" if match[3] else "")


def _iso(text: str) -> str | None:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found.isoformat() if 1900 <= found.year <= 2200 else None


def _audiomoth_start(comment: str) -> str | None:
    match = _AUDIOMOTH.search(comment)
    if match is None:
        return None
    hour, minute, second, day, month, year = (int(match[k]) for k in range(1, 7))
    hours, minutes = int(match[7] or 0), int(match[8] or 0)
    shift = timedelta(hours=hours, minutes=-minutes if (match[7] or "").startswith("-") else minutes)
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone(shift)).isoformat()
    except ValueError:
        return None


def _bext_start(chunks: Chunks) -> str | None:
    chunk = chunks.first("bext")
    if chunk is None:
        return None
    text = chunks.content(chunk)[320:338].decode("latin-1")  # yyyy-mm-dd and hh:mm:ss, whatever between their parts
    date, time = (re.findall(r"\d+", part) for part in (text[:10], text[10:]))
    if len(date) != 3 or len(time) != 3:
        return None
    return _iso("-".join(part.zfill(2) for part in date) + "T" + ":".join(part.zfill(2) for part in time))
