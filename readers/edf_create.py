"""Writing new EDF+ and BDF+ files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.edf_header import MAX_PHYSICAL, MONTHS
from readers.schema import Event, ReadError

_TYPICAL_S = (0.1, 60.0)  # shortest and longest record that is not odd
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


class _Scale(NamedTuple):
    """The texts of a physical range, and the stored integers of the values in it."""

    low: str
    high: str
    digital: NDArray[np.int64]


def create_edf(
    path: Path,
    signals: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    rates: float | Sequence[float],
    names: Sequence[str],
    units: Sequence[str],
    *,
    events: Sequence[Event] = (),
    patient: str = "X X X X",
    equipment: str = "X",
    start: datetime | None = None,
) -> Path:
    """Write a new continuous EDF+ file, or BDF+ where ``path`` ends in .bdf; returns its path.

    ``signals``: (T, C), or for each channel (T_i,) at its own of ``rates`` (Hz), all of the same duration, in ``units``.
    Each channel's range is spread over all stored integers. Where no record length divides the signals, the last record
    is filled with their last values and an event ``Recording ends`` says where. ``patient``: EDF+ code, sex, birthdate
    and name. Raises ReadError for what the format cannot hold: NaN, differing durations, rates without a common record.
    """
    columns = list(np.asarray(signals).T) if isinstance(signals, np.ndarray) else [np.asarray(s) for s in signals]
    hertz = [float(r) for r in (rates if isinstance(rates, Sequence) else [rates] * len(columns))]
    if not (columns and len(columns) == len(hertz) == len(names) == len(units)):
        raise ReadError(f"{path.name}: {len(columns)} signals, {len(hertz)} rates, {len(names)} names, {len(units)} units")
    if not all(column.ndim == 1 and column.size and np.isfinite(column).all() for column in columns):
        raise ReadError(f"{path.name}: EDF cannot hold a signal that is empty or has samples without a value")
    width = 3 if path.suffix.lower() == ".bdf" else 2
    seconds, per_record, n_records = _records(path, [column.size for column in columns], hertz)
    known = min(column.size / rate for column, rate in zip(columns, hertz, strict=True))
    if n_records * float(seconds) > known + 0.5 / max(hertz):
        events = [*events, Event(known, 0.0, "Recording ends")]
    scales = [_scaled(column, n * n_records, width) for column, n in zip(columns, per_record, strict=True)]
    lists = _tals(events, float(seconds), n_records)
    room = -(-max(map(len, lists)) // width)
    limit = 2 ** (8 * width - 1)
    fields: list[tuple[object, ...]] = [
        (name, "", unit, scale.low, scale.high, -limit, limit - 1, "", n, "")
        for name, unit, scale, n in zip(names, units, scales, per_record, strict=True)
    ]
    fields.append((_kind(width) + " Annotations", "", "", -1, 1, -limit, limit - 1, "", room, ""))
    header = _fixed(width, patient, equipment, start, n_records, _plain(seconds), len(fields))
    for column, size in zip(zip(*fields, strict=True), _WIDTHS, strict=True):
        header += b"".join(_field(path, text, size) for text in column)
    _save(path, header, [scale.digital for scale in scales], [tals.ljust(room * width, b"\0") for tals in lists], width)
    return path


def _save(path: Path, header: bytes, digital: Sequence[NDArray[np.int64]], lists: Sequence[bytes], width: int) -> None:
    rows = [d.astype("<i8").view(np.uint8).reshape(len(lists), -1, 8)[:, :, :width] for d in digital]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.part")
    with scratch.open("wb") as file:
        file.write(header)
        for record, tals in enumerate(lists):
            file.write(b"".join(row[record].tobytes() for row in rows) + tals)
    os.replace(scratch, path)


def _records(path: Path, lengths: Sequence[int], rates: Sequence[float]) -> tuple[Fraction, list[int], int]:
    """Seconds of a record, each signal's samples in it, and how many records hold all samples."""
    exact = [Fraction(rate).limit_denominator(1_000_000) for rate in rates]
    durations = {length / rate for length, rate in zip(lengths, exact, strict=True)}
    if max(durations) - min(durations) > 1 / max(exact):
        raise ReadError(f"{path.name}: signals of {float(min(durations)):g} to {float(max(durations)):g} s cannot be in one file")
    if len(durations) == 1:
        total = durations.pop()
        common = math.gcd(*lengths)
        counts = {n for k in range(1, math.isqrt(common) + 1) if common % k == 0 for n in (k, common // k)}
        fitting = [n for n in counts if _TYPICAL_S[0] <= total / n <= _TYPICAL_S[1] and _plain(total / n)]
        if fitting:
            best = min(fitting, key=lambda n: abs(math.log(total / n)))
            return total / best, [length // best for length in lengths], best
    seconds = Fraction(math.lcm(*(rate.denominator for rate in exact)))
    if seconds > _TYPICAL_S[1]:
        raise ReadError(f"{path.name}: no record length fits signals at {', '.join(f'{rate:g}' for rate in rates)} Hz")
    per_record = [int(rate * seconds) for rate in exact]
    return seconds, per_record, max(-(-length // n) for length, n in zip(lengths, per_record, strict=True))


def _scaled(values: NDArray[np.float64], length: int, width: int) -> _Scale:
    """A channel's range as the header can write it, and its integers, the last one repeated up to ``length``."""
    low, high = float(values.min()), float(values.max())
    if max(abs(low), abs(high)) > MAX_PHYSICAL:
        raise ReadError(f"{max(abs(low), abs(high)):g} is too large for EDF; another unit would help")
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        # The eight characters of the header would make a flat channel's ends the same.
        low, high = low - max(1.0, abs(low)), high + max(1.0, abs(high))
    texts = _outward(low, ROUND_FLOOR), _outward(high, ROUND_CEILING)
    bottom, top = map(float, texts)
    limit = 2 ** (8 * width - 1)
    digital = np.rint((values - bottom) * ((2 * limit - 1) / (top - bottom)) - limit).astype(np.int64)
    return _Scale(*texts, np.pad(np.clip(digital, -limit, limit - 1), (0, length - values.size), mode="edge"))


def _outward(value: float, rounding: str) -> str:
    """A number of at most eight characters, not below (or above) the value."""
    for digits in range(7, 0, -1):
        number = Context(prec=digits, rounding=rounding).create_decimal(value)
        for text in (f"{number:f}", f"{number.normalize():E}".replace("E+", "E")):
            if len(text) <= 8:
                return text
    raise ReadError(f"{value:g} is too large or too small for EDF; another unit would help")


def _plain(number: Fraction) -> str:
    """The number in at most eight characters, exactly; empty where that cannot be."""
    text = f"{float(number):.7f}".rstrip("0").rstrip(".")
    return text if len(text) <= 8 and Fraction(text) == number else ""


def _tals(events: Sequence[Event], record_s: float, n_records: int) -> list[bytes]:
    """Each record's annotation bytes: when it begins, and the events that begin in it."""
    lists = [f"{_onset(record * record_s)}\x14\x14\0".encode() for record in range(n_records)]
    for event in events:
        record = min(max(int(event.onset_s // record_s), 0), n_records - 1)
        when = _onset(event.onset_s) + (f"\x15{_onset(event.duration_s)[1:]}" if event.duration_s > 0 else "")
        label = event.label.translate({0: " ", 0x14: " ", 0x15: " "})
        for text in [f"{label}@@{channel}" for channel in event.channels] or [label]:
            lists[record] += f"{when}\x14{text}\x14\0".encode()
    return lists


def _onset(seconds: float) -> str:
    return f"{round(seconds, 7) + 0.0:+.7f}".rstrip("0").rstrip(".")


def _kind(width: int) -> str:
    return "BDF" if width == 3 else "EDF"


def _fixed(
    width: int, patient: str, equipment: str, start: datetime | None, n_records: int, seconds: str, n_signals: int
) -> bytes:
    """The part of the header that does not grow with the signals."""
    day = f"{start.day:02}-{MONTHS[start.month - 1]}-{start.year:04}" if start else "X"
    when = f"{start:%d.%m.%y%H.%M.%S}" if start else "01.01.8500.00.00"
    recording = f"Startdate {day} X X {equipment.replace(' ', '_')}"
    rest = f"{patient:<80.80}{recording:<80.80}{when}{256 * (n_signals + 1):<8}{_kind(width) + '+C':<44}"
    rest += f"{n_records:<8}{seconds:<8}{n_signals:<4}"
    return (b"\xffBIOSEMI" if width == 3 else b"0       ") + rest.encode("latin-1", "replace")


def _field(path: Path, value: object, size: int) -> bytes:
    text = str(value).encode("latin-1", "replace")
    if len(text) > size:
        raise ReadError(f"{path.name}: {str(value)!r} is longer than the {size} characters that EDF has for it")
    return text.ljust(size)
