"""The header of an EDF, EDF+, BDF or BDF+ file: parsing and checking it, and counting its data records.

Formats: Kemp B et al., Electroenceph clin Neurophysiol 1992; 82:391-393 (EDF), Kemp B, Olivan J, Clin
Neurophysiol 2003; 114:1755-1761 (EDF+); BDF is EDF with 24-bit samples, as BioSemi describes it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path

from readers.schema import ReadError

MAX_SIGNALS = 4096
MAX_RATE_HZ = 1e7
MAX_RECORDS = 10_000_000
MAX_SECONDS = 366 * 86_400
# Annotations of one record are held in memory at once.
MAX_ANNOTATION_BYTES = 16_000_000
# What follows is float32.
MAX_PHYSICAL = 1e30
MAX_DIGITAL = 2**31

_FIXED = 256
_PER_SIGNAL = 256
# Name and width in bytes of a signal's fields, in file order: each field of all signals, then the next.
_FIELDS = (
    ("label", 16), ("transducer", 80), ("unit", 8), ("physical minimum", 8), ("physical maximum", 8),
    ("digital minimum", 8), ("digital maximum", 8), ("prefilter", 80), ("samples", 8), ("reserved", 32),
)  # fmt: skip
_ENDS = ("physical minimum", "physical maximum", "digital minimum", "digital maximum")
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_NUMBER = re.compile(r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_COUNT = re.compile(r"[-+]?\d+", re.ASCII)
_DATE = re.compile(r"(\d\d?)\D(\d\d?)\D(\d\d)", re.ASCII)
_PLUS_DATE = re.compile(r"Startdate\s+(\d\d?)-([A-Za-z]{3})-(\d{4})(?:\s|$)", re.ASCII)
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@dataclass(frozen=True)
class EdfSignal:
    """One signal. A stored integer d stands for (d - digital[0]) * gain + physical[0], in ``unit``.

    ``samples`` in each data record, the first of them ``place`` samples from the record's start. Not
    ``scaled``: the header gives no usable range, and the values are the stored integers.
    """

    label: str
    unit: str | None
    physical: tuple[float, float]
    digital: tuple[int, int]
    gain: float
    scaled: bool
    samples: int
    place: int


@dataclass(frozen=True)
class EdfHeader:
    """A parsed header; ``annotations`` are (place, samples) of the annotation signals, which are no ``signals``.

    ``variant``: EDF or BDF, with +C or +D; ``width``: bytes of a stored sample; ``claimed``: number of records as
    written, -1 for unknown.
    """

    variant: str
    width: int
    patient: str
    recording: str
    start: datetime | None
    claimed: int
    record_s: Fraction
    signals: tuple[EdfSignal, ...]
    annotations: tuple[tuple[int, int], ...]
    record_samples: int
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the header: where the first data record begins."""
        return _FIXED + _PER_SIGNAL * (len(self.signals) + len(self.annotations))

    @property
    def record_bytes(self) -> int:
        """Bytes of one data record."""
        return self.record_samples * self.width

    @property
    def discontinuous(self) -> bool:
        """Whether the records may have gaps between them."""
        return self.variant.endswith("+D")

    def ids(self) -> dict[str, str]:
        """Subject and device as an EDF+ header states them; plain EDF has no fields for them."""
        if "+" not in self.variant:
            return {}
        patient, recording = self.patient.split(), self.recording.split()
        # "Startdate 02-MAR-2002 administration-code technician equipment"
        stated = {
            "subject": patient[0] if patient else "X",
            "device": recording[4] if len(recording) > 4 and recording[0] == "Startdate" else "X",
        }
        return {key: value for key, value in stated.items() if value.upper() != "X"}


def is_edf(head: bytes) -> bool:
    """Whether a file's first bytes are those of EDF or BDF."""
    return head[:8] == b"\xffBIOSEMI" or (len(head) >= 8 and head[:8].strip(b" \0") == b"0")


def holds_annotations_only(head: bytes) -> bool:
    """Whether every signal that a header's first bytes name is an annotation signal: a file of scores or notes."""
    count = _string(head[252:_FIXED])
    if not _COUNT.fullmatch(count) or not 0 < int(count) <= (len(head) - _FIXED) // 16:
        return False
    return all(_string(head[_FIXED + 16 * k : _FIXED + 16 * (k + 1)]) in _ANNOTATIONS for k in range(int(count)))


def read_header(path: Path) -> EdfHeader:
    """Read and check a header; no size that it claims is trusted. Raises ReadError."""
    try:
        with path.open("rb") as file:
            fixed = file.read(_FIXED)
            if not fixed:
                raise ReadError(f"{path.name} is empty")
            if not is_edf(fixed):
                raise ReadError(f"{path.name} does not begin as an EDF or BDF file")
            if len(fixed) < _FIXED:
                raise ReadError(f"{path.name} has {len(fixed)} bytes, an EDF header at least {_FIXED}")
            count = _integer(path, "number of signals", fixed[252:])
            if not 1 <= count <= MAX_SIGNALS:
                raise ReadError(f"{path.name} claims {count} signals; 1 to {MAX_SIGNALS} are accepted")
            table = file.read(_PER_SIGNAL * count)
    except OSError as error:
        raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if len(table) < _PER_SIGNAL * count:
        size = len(fixed) + len(table)
        raise ReadError(f"{path.name} has {size} bytes, the header of its {count} signals takes {_FIXED + _PER_SIGNAL * count}")
    return _parse(path, fixed, table, count)


def count_records(path: Path, header: EdfHeader) -> tuple[int, list[str]]:
    """How many whole data records the file holds as its header claims, and remarks about its size. Raises ReadError."""
    found, rest = divmod(path.stat().st_size - header.n_bytes, header.record_bytes)
    notes = []
    n_records = header.claimed
    if n_records == -1:
        n_records = found
        notes.append(f"the header does not say how many records there are; counted {found} from the size of the file")
        if rest:
            notes.append(f"{rest} bytes of an unfinished record are left out")
    elif n_records > found:
        raise ReadError(
            f"{path.name} is cut short: the header claims {n_records} records of {header.record_bytes} bytes, "
            f"the file holds {found}"
        )
    elif found > n_records or rest:
        surplus = (found - n_records) * header.record_bytes + rest
        notes.append(f"{surplus} bytes follow the {n_records} records that the header claims; they are left out")
    if not 0 < n_records <= MAX_RECORDS:
        raise ReadError(f"{path.name} holds {n_records} data records; 1 to {MAX_RECORDS} are accepted")
    if n_records * header.record_s > MAX_SECONDS:
        raise ReadError(f"{path.name} claims to last {float(n_records * header.record_s):g} s; {MAX_SECONDS} s are accepted")
    return n_records, notes


def _parse(path: Path, fixed: bytes, table: bytes, count: int) -> EdfHeader:
    bdf = fixed[0] == 0xFF
    plus = re.match(rb"[EB]DF(\+[CD])", fixed[192:236])
    claimed_bytes = _integer(path, "size of the header", fixed[184:192])
    if claimed_bytes != _FIXED + _PER_SIGNAL * count:
        raise ReadError(
            f"{path.name} claims a header of {claimed_bytes} bytes; {count} signals take {_FIXED + _PER_SIGNAL * count}"
        )
    width = 3 if bdf else 2
    claimed = _integer(path, "number of records", fixed[236:244])
    if claimed < -1:
        raise ReadError(f"{path.name} claims {claimed} data records")
    recording = _string(fixed[88:168])
    signals, annotations, record_samples = _signals(path, table, count, width)
    record_s = _duration(path, fixed[244:252], signals)
    start, notes = _start(recording, _string(fixed[168:176]), _string(fixed[176:184]))
    unscaled = [signal.label for signal in signals if not signal.scaled]
    if unscaled:
        notes.append(f"no usable physical range, values are stored integers: {', '.join(unscaled)}")
    limit = 2 ** (8 * width - 1)
    beyond = [signal.label for signal in signals if min(signal.digital) < -limit or max(signal.digital) >= limit]
    if beyond:
        notes.append(f"digital range beyond {8 * width} bits: {', '.join(beyond)}")
    turned = [signal.label for signal in signals if signal.digital[0] > signal.digital[1]]
    if turned:
        notes.append(f"digital minimum above the maximum: {', '.join(turned)}")
    return EdfHeader(
        variant=("BDF" if bdf else "EDF") + (plus[1].decode() if plus else ""),
        width=width,
        patient=_string(fixed[8:88]),
        recording=recording,
        start=start,
        claimed=claimed,
        record_s=record_s,
        signals=signals,
        annotations=annotations,
        record_samples=record_samples,
        notes=tuple(notes),
    )


def _signals(path: Path, table: bytes, count: int, width: int) -> tuple[tuple[EdfSignal, ...], tuple[tuple[int, int], ...], int]:
    """Ordinary signals, annotation signals, and samples of one record in all."""
    signals, annotations, place = [], [], 0
    for number in range(count):
        fields, at = {}, 0
        for name, size in _FIELDS:
            fields[name] = table[at + size * number : at + size * (number + 1)]
            at += size * count
        label = _string(fields["label"])
        samples = _integer(path, f"number of samples in a record of {label}", fields["samples"])
        if samples < 1:
            raise ReadError(f"{path.name} claims {samples} samples of {label} in a record")
        if label in _ANNOTATIONS:
            annotations.append((place, samples))
            if samples * width > MAX_ANNOTATION_BYTES:
                raise ReadError(f"{path.name} claims {samples * width} bytes of annotations in each record")
        else:
            signals.append(_signal(path, fields, label, samples, place, width))
        place += samples
    if not signals:
        raise ReadError(f"{path.name} holds annotations only, no signals")
    return tuple(signals), tuple(annotations), place


def _signal(path: Path, fields: dict[str, bytes], label: str, samples: int, place: int, width: int) -> EdfSignal:
    written = all(_string(fields[end]) for end in _ENDS)
    low, high, *ends = (_number(path, f"{end} of {label}", fields[end]) if written else 0.0 for end in _ENDS)
    first, last = map(round, ends)
    limit = 2 ** (8 * width - 1)
    sane = max(abs(low), abs(high)) <= MAX_PHYSICAL and max(abs(first), abs(last)) <= MAX_DIGITAL
    gain = (high - low) / (last - first) if sane and first != last else 0.0
    scaled = abs(gain) > 1 / MAX_PHYSICAL
    unit = _string(fields["unit"]).replace("Âµ", "µ") or None  # UTF-8 read as Latin-1
    return EdfSignal(
        label=label,
        unit=unit if scaled else None,
        physical=(low, high) if scaled else (float(-limit), float(limit - 1)),
        digital=(first, last) if scaled else (-limit, limit - 1),
        gain=gain if scaled else 1.0,
        scaled=scaled,
        samples=samples,
        place=place,
    )


def _duration(path: Path, field: bytes, signals: tuple[EdfSignal, ...]) -> Fraction:
    """Seconds of one record, exactly as written."""
    seconds = _number(path, "duration of a record", field)
    fastest = max(signal.samples for signal in signals)
    if not (seconds > 0 and fastest / seconds <= MAX_RATE_HZ and seconds <= MAX_SECONDS):
        raise ReadError(f"{path.name} claims records of {seconds:g} s with {fastest} samples of a signal")
    return Fraction(_string(field).replace(",", "."))


def _start(recording: str, date: str, time: str) -> tuple[datetime | None, list[str]]:
    """When the recording began: the four-digit year of EDF+, else the two-digit one, 85 to 99 meaning 19xx.

    01.01.85, which EDF+ writes for a date that is withheld, is none.
    """
    plus, short = _PLUS_DATE.match(recording), _DATE.fullmatch(date)
    if plus and plus[2].upper() in MONTHS:
        year, month, day = int(plus[3]), MONTHS.index(plus[2].upper()) + 1, int(plus[1])
    elif short:
        year, month, day = int(short[3]), int(short[2]), int(short[1])
        year += 1900 if year >= 85 else 2000
    else:
        return None, []
    if not plus and (year, month, day) == (1985, 1, 1):
        return None, []
    clock = [int(part) for part in re.findall(r"\d+", time, re.ASCII)]
    hour, minute, second = clock if len(clock) == 3 else (0, 0, 0)
    try:
        return datetime(year, month, day, hour, minute, second), []
    except ValueError:
        return None, [f"the start {date} {time} is no date and time"]


def _string(field: bytes) -> str:
    return field.decode("latin-1").split("\0")[0].strip()


def _number(path: Path, what: str, field: bytes) -> float:
    text = _string(field)
    value = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ReadError(f"{path.name} gives {text!r} as {what}, not a number")
    return value


def _integer(path: Path, what: str, field: bytes) -> int:
    text = _string(field)
    if not _COUNT.fullmatch(text):
        raise ReadError(f"{path.name} gives {text!r} as {what}, not a whole number")
    return int(text)
