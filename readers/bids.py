"""The side files of BIDS (Brain Imaging Data Structure): who, which channels, where the electrodes were, what happened."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from readers.electrodes import identify
from readers.leads import si_factor
from readers.schema import Channel, Event

# Larger side files are not read.
MAX_BYTES = 8 * 2**20
MAX_ROWS = 200_000
# An event of the table and a marker of the file this close are the same.
SAME_S = 0.002
# Electrodes lie this far from the origin of any frame of a head, in metres.
HEAD_M = (0.02, 0.3)

_IDS = {"sub": "subject", "ses": "session", "task": "task", "run": "run"}
_KINDS = {"heog": "eog", "veog": "eog", "trig": "stim", "temperature": "temp"}
_SPELLINGS = {"microv": "µV", "microvolt": "µV", "uvolt": "µV", "millivolt": "mV", "volt": "V"}
_METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
# Frames with x to the nose and y to the left, about the middle between the ears; and those that are as MNE's head frame.
_NOSE_FIRST = ("ctf", "eeglab", "4dbti")
_HEAD = ("captrak", "neuromag", "elektaneuromag")
_LABELS = ("trial_type", "value", "event_type")
_TABLES = ("channels.tsv", "electrodes.tsv", "coordsystem.json", "events.tsv")

# A file or folder that has not changed for this long is remembered by its time.
SETTLED_NS = 2_000_000_000
_NEVER_AGAIN = count(-1, -1)

Row = Mapping[str, str | None]


@dataclass(frozen=True)
class Details:
    """What side files add: the channels and events with them, ids, and what is wrong with the files."""

    channels: tuple[Channel, ...]
    events: tuple[Event, ...]
    ids: Mapping[str, str]
    warnings: tuple[str, ...]


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS name, as written (``sub``, ``ses``, ``task``, ...); empty for any other name."""
    parts = path.name.split(".")[0].split("_")
    pairs = [re.fullmatch(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)", part) for part in parts[:-1]]
    found = {pair[1]: pair[2] for pair in pairs if pair}
    if len(parts) < 2 or len(found) < len(parts) - 1 or "sub" not in found or not parts[-1].isalnum():
        return {}
    return found


def details(path: Path, channels: Sequence[Channel], events: Sequence[Event]) -> Details:
    """Add what BIDS side files say about a recording to what its own file said.

    The nearest fitting file counts, the one with the most entities first (inheritance principle): ``channels.tsv``
    (type, units, status, reference), ``electrodes.tsv`` with ``coordsystem.json`` (places in metres, instead of a
    montage's), ``events.tsv`` (instead of the file's markers at the same times), ``participants.tsv``. A side file that
    cannot be used is named in the warnings and otherwise passed over; nothing is raised.
    """
    said = entities(path)
    if not said:
        return Details(tuple(channels), tuple(events), {}, ())
    notes: list[str] = []
    root, side = _side_files(path, said)
    if table := side.get("channels.tsv"):
        channels = _with_types(channels, _rows(table, ("name",), notes), table.name, notes)
    if table := side.get("electrodes.tsv"):
        channels = _with_places(channels, _rows(table, ("name", "x", "y", "z"), notes), side, notes)
    if table := side.get("events.tsv"):
        events = _with_events(events, _rows(table, ("onset",), notes), table.name, notes)
    ids = {name: said[key] for key, name in _IDS.items() if key in said}
    if root and (root / "participants.tsv").is_file():
        people = _participants(root / "participants.tsv", _state(root / "participants.tsv"))
        notes += people.notes
        for row in people.rows.get(f"sub-{said['sub']}", ()):
            ids |= {f"participant.{key}": value for key, value in row.items() if value and key != "participant_id"}
    return Details(tuple(channels), tuple(events), ids, tuple(notes))


def _side_files(path: Path, said: Mapping[str, str]) -> tuple[Path | None, dict[str, Path]]:
    """The dataset's root, where the recording lies in one, and the file of each kind that counts."""
    chain = [path.absolute().parent]
    above = [chain[0], *list(chain[0].parents)[:2]]  # at most sub-*/ses-*/eeg
    subject = next((folder for folder in above if folder.name == f"sub-{said['sub']}"), None)
    if subject:
        chain = [*above[: above.index(subject) + 1], subject.parent]
    found: dict[str, Path] = {}
    for folder in chain:
        fitting: dict[str, tuple[int, str]] = {}
        named = _tables(folder, _state(folder))
        for name, own in (*named.get(None, ()), *named.get(said["sub"], ())):
            kind = name.rpartition("_")[2]
            if all(said.get(key) == value for key, value in own.items()):
                fitting[kind] = max(fitting.get(kind, (-1, "")), (len(own), name))
        found = {kind: folder / name for kind, (_, name) in fitting.items()} | found
    root = chain[-1] if subject or (chain[0] / "dataset_description.json").is_file() else None
    return root, found


def _state(path: Path) -> int:
    """Under which number what a file or folder holds is remembered, so that it is not read anew for each of many subjects.

    Its time; where it changed just now one that never comes again, for a next change may come within a tick of the clock.
    """
    with suppress(OSError):
        changed = path.stat().st_mtime_ns
        if 0 <= changed < time.time_ns() - SETTLED_NS:
            return changed
    return next(_NEVER_AGAIN)


@lru_cache(maxsize=8)
def _tables(folder: Path, state: int) -> Mapping[str | None, Sequence[tuple[str, Mapping[str, str]]]]:
    """Side files of a folder by the subject they name, None those that name none: the name and its entities."""
    found: dict[str | None, list[tuple[str, Mapping[str, str]]]] = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.rpartition("_")[2] in _TABLES:
                own = dict(pair.split("-", 1) for pair in name.split("_")[:-1] if "-" in pair)
                own.pop("space", None)  # of electrodes and their coordinate system
                found.setdefault(own.get("sub"), []).append((name, own))
    return found


class _People(NamedTuple):
    """Rows of a participants.tsv by participant, and what is wrong with it."""

    rows: Mapping[str | None, Sequence[Row]]
    notes: Sequence[str]


@lru_cache(maxsize=2)
def _participants(table: Path, state: int) -> _People:
    rows: dict[str | None, list[Row]] = {}
    notes: list[str] = []
    for row in _rows(table, ("participant_id",), notes):
        rows.setdefault(row["participant_id"], []).append(row)
    return _People(rows, notes)


def _text(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return path.read_bytes().decode("utf-8-sig", "replace")


def _rows(path: Path, needed: Sequence[str], notes: list[str]) -> list[Row]:
    """Rows of a table by its header, ``n/a`` and empty cells as None; [] and a note where it cannot be used."""
    try:
        lines = _text(path).splitlines()
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return []
    header = [name.strip() for name in lines[0].split("\t")] if lines else []
    if not set(needed) <= set(header):
        notes.append(f"{path.name} is not used: it lacks a column {', '.join(n for n in needed if n not in header)}")
        return []
    rows: list[Row] = []
    odd = 0
    if len(lines) - 1 > MAX_ROWS:
        notes.append(f"{path.name} holds {len(lines) - 1} rows; the first {MAX_ROWS} are used")
    for line in lines[1 : MAX_ROWS + 1]:
        cells = [None if cell.strip().lower() in ("", "n/a") else cell.strip() for cell in line.split("\t")]
        if len(cells) == len(header):
            rows.append(dict(zip(header, cells, strict=True)))
        elif line.strip():
            odd += 1
    if odd:
        notes.append(f"{odd} rows of {path.name} have another number of columns than its header and are not used")
    return rows


def _number(cell: str | None) -> float:
    try:
        return float(cell) if cell is not None else math.nan
    except ValueError:
        return math.nan


def _by_channel(rows: Sequence[Row]) -> dict[str, Row]:
    return {name.lower(): row for row in rows if (name := row["name"])}


def _with_types(channels: Sequence[Channel], rows: Sequence[Row], table: str, notes: list[str]) -> list[Channel]:
    """Channels with the type, unit, status and reference of ``channels.tsv``."""
    if not rows:
        return list(channels)
    known = _by_channel(rows)
    described = [known.get(channel.name.strip().lower(), {}) for channel in channels]
    if absent := [c.name for c, row in zip(channels, described, strict=True) if not row]:
        notes.append(f"{table} does not list {len(absent)} channels of the file: {', '.join(absent[:5])}")
    units = [channel.unit or _unit(row) for channel, row in zip(channels, described, strict=True)]
    kinds = [_kind(row, channel) for channel, row in zip(channels, described, strict=True)]
    identities = identify([channel.name for channel in channels], units, kinds)
    found, clashes = [], []
    for channel, row, unit, identity in zip(channels, described, units, identities, strict=True):
        written = _unit(row)
        if written and channel.unit and si_factor(written) != si_factor(channel.unit):
            clashes.append(f"{channel.name} {written} instead of {channel.unit}")
        changed = channel if channel.kind == identity.kind else _as(channel, identity.kind, identity.canonical)
        if identity.position and channel.position_source != "file":
            place = (identity.position, identity.position_frame, identity.position_source)
            changed = replace(changed, position=place[0], position_frame=place[1], position_source=place[2])
        found.append(
            replace(
                changed,
                unit=unit,
                si_factor=channel.si_factor if channel.unit else si_factor(unit),
                reference=row.get("reference") or channel.reference,
                bad=channel.bad or (row.get("status") or "").lower() == "bad",
            )
        )
    if clashes:
        notes.append(f"{table} gives other units than the file, which counts: {', '.join(clashes[:5])}")
    return found


def _unit(row: Row) -> str | None:
    written = row.get("units")
    return _SPELLINGS.get(written.lower().removesuffix("s"), written) if written else None


def _kind(row: Row, channel: Channel) -> str:
    written = (row.get("type") or channel.kind).lower()
    return _KINDS.get(written, written)


def _as(channel: Channel, kind: str, canonical: str) -> Channel:
    """The channel as another kind; a montage's place belonged to the old one."""
    if channel.position_source == "file":
        return replace(channel, kind=kind, canonical=canonical)
    return replace(channel, kind=kind, canonical=canonical, position=None, position_frame=None, position_source=None)


def _with_places(
    channels: Sequence[Channel], rows: Sequence[Row], side: Mapping[str, Path], notes: list[str], unit: str | None = None
) -> Sequence[Channel]:
    """Channels with the places of ``electrodes.tsv``, in ``unit`` where the one that is written cannot be."""
    table = side["electrodes.tsv"].name
    system = side.get("coordsystem.json")
    if not rows or system is None:
        if system is None:
            notes.append(f"{table} is not used: no coordsystem.json says what its numbers mean")
        return channels
    frame, factor = _frame(system, notes)
    factor = _METRES[unit] if unit else factor
    if factor is None:
        return channels
    known = _by_channel(rows)
    found, placed = [], []
    for channel in channels:
        row = known.get(channel.name.strip().lower(), {})
        x, y, z = (_number(row.get(axis)) * factor for axis in "xyz")
        if not all(map(math.isfinite, (x, y, z))):
            found.append(channel)
            continue
        if frame.lower() in _NOSE_FIRST:
            x, y = -y, x
        placed.append(math.hypot(x, y, z))
        name = "head" if frame.lower() in (*_NOSE_FIRST, *_HEAD) else frame
        found.append(replace(channel, position=(x, y, z), position_frame=name, position_source="file"))
    middle = sorted(placed)[len(placed) // 2] if placed else 0.1
    if not HEAD_M[0] <= middle <= HEAD_M[1]:
        fitting = [name for name, size in _METRES.items() if HEAD_M[0] <= middle / factor * size <= HEAD_M[1]]
        if unit is None and len(fitting) == 1:
            notes.append(f"{table} is taken to be in {fitting[0]}: in the unit of {system.name} a head would be {middle:g} m")
            return _with_places(channels, rows, side, notes, fitting[0])
        notes.append(f"{table} is not used: its electrodes lie about {middle:g} m from the origin, a head's about 0.1 m")
        return channels
    return found


def _frame(system: Path, notes: list[str]) -> tuple[str, float | None]:
    """The frame of the electrodes, and what turns their numbers into metres (None: not usable)."""
    try:
        said = json.loads(_text(system))
        frame, unit = (str(said.get(key, "n/a")) for key in ("EEGCoordinateSystem", "EEGCoordinateUnits"))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        notes.append(f"{system.name} cannot be read: {error}")
        return "", None
    factor = _METRES.get(unit.strip().lower())
    if factor is None:
        notes.append(f"electrode positions are not used: their unit in {system.name} is {unit}, expected m, cm or mm")
    return frame, factor


def _with_events(events: Sequence[Event], rows: Sequence[Row], table: str, notes: list[str]) -> list[Event]:
    """The table's events, and the file's at other times."""
    found, unplaced = [], 0
    for row in rows:
        onset, duration = _number(row["onset"]), _number(row.get("duration"))
        if not math.isfinite(onset):
            unplaced += 1
            continue
        column = next((name for name in _LABELS if row.get(name)), None)
        extra = {key: value for key, value in row.items() if key not in ("onset", "duration", column)}
        label = (row[column] if column else None) or "event"
        found.append(Event(onset, duration if math.isfinite(duration) and duration > 0 else 0.0, label, (), extra))
    if unplaced:
        notes.append(f"{unplaced} rows of {table} have no onset and are not used")
    return merged(found, events)


def merged(told: Sequence[Event], events: Sequence[Event]) -> list[Event]:
    """The events of a table, and a file's own at other times, in order of onset."""
    taken = np.sort([event.onset_s for event in told])
    if taken.size:
        onsets = np.array([event.onset_s for event in events])
        after = np.searchsorted(taken, onsets - SAME_S)
        same = (after < taken.size) & (taken[np.minimum(after, taken.size - 1)] <= onsets + SAME_S)
        events = [event for event, repeated in zip(events, same, strict=True) if not repeated]
    return sorted([*told, *events], key=lambda event: event.onset_s)
