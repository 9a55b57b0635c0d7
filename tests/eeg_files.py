"""Small EDF and BDF files written byte by byte, after the text of the specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NAMES = ("EEG Fp1", "EEG Cz", "EEG O2", "EEG T3")


@dataclass(frozen=True)
class Line:
    """One signal: stored integers, how many of them a record holds, and what they stand for."""

    stored: np.ndarray
    per_record: int
    name: str = "EEG Cz"
    unit: str = "uV"
    physical: tuple[str, str] = ("-3276.8", "3276.7")
    digital: tuple[str, str] = ("-32768", "32767")

    def values(self) -> np.ndarray:
        """Physical values, float64, by the formula of the specification."""
        (pmin, pmax), (dmin, dmax) = (tuple(map(float, ends)) for ends in (self.physical, self.digital))
        return (pmax - pmin) / (dmax - dmin) * (self.stored.astype(float) - dmin) + pmin


def tal(onset: float | str, *texts: str, duration: str | None = None) -> bytes:
    """One time-stamped annotation list; without texts it only keeps the time."""
    onset = onset if isinstance(onset, str) else f"{onset:+.6f}".rstrip("0").rstrip(".")
    head = onset + (f"\x15{duration}" if duration else "")
    return f"{head}\x14{''.join(text + chr(0x14) for text in texts or ('',))}\0".encode()


def write(
    path: Path,
    lines: Sequence[Line],
    *,
    variant: str = "EDF",
    record_s: str = "1",
    onsets: Sequence[float | str] | None = None,
    notes: Sequence[Sequence[bytes]] = (),
    room: int = 48,
    annotation_signals: int = 1,
    patient: str = "X X X X",
    recording: str = "Startdate X X X X",
    date: str = "01.01.85",
    time: str = "00.00.00",
    claimed: int | None = None,
    extra: bytes = b"",
) -> Path:
    """Write a file of whole records; with a "+" variant each record also holds ``room`` samples of annotations.

    ``onsets``: when each record begins; ``notes``: for each record, TALs for each annotation signal in turn.
    """
    width = 3 if variant.startswith("BDF") else 2
    n_records = len(lines[0].stored) // lines[0].per_record
    rows = [(l.name, "", l.unit, *l.physical, *l.digital, "", str(l.per_record), "") for l in lines]  # noqa: E741
    plus = "+" in variant
    if plus:
        name = variant[:3] + " Annotations"
        rows += [(name, "", "", "-1", "1", "-32768", "32767", "", str(room), "")] * annotation_signals
    version = b"\xffBIOSEMI" if width == 3 else b"0       "
    count = n_records if claimed is None else claimed
    reserved = variant if plus else "24BIT" if width == 3 else ""
    texts = (patient, recording, date, time, 256 * (len(rows) + 1), reserved, count, record_s, len(rows))
    head = version + b"".join(
        str(t).encode("latin-1").ljust(n) for t, n in zip(texts, (80, 80, 8, 8, 8, 44, 8, 8, 4), strict=True)
    )
    for column, size in zip(zip(*rows, strict=True), (16, 80, 8, 8, 8, 8, 8, 80, 8, 32), strict=True):
        head += b"".join(text.encode("latin-1").ljust(size) for text in column)
    body = bytearray()
    for record in range(n_records):
        for line in lines:
            part = line.stored[record * line.per_record : (record + 1) * line.per_record]
            body += b"".join(int(v).to_bytes(width, "little", signed=True) for v in part)
        for number in range(annotation_signals if plus else 0):
            own = list(notes[record])[number::annotation_signals] if record < len(notes) else []
            keep = [tal(onsets[record] if onsets else record * float(record_s))] if number == 0 else []
            filled = b"".join(keep + own).ljust(room * width, b"\0")
            assert len(filled) == room * width
            body += filled
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(body) + extra)
    return path


def lines_of(
    per_record: Sequence[int], n_records: int, *, seed: int = 0, names: Sequence[str] = NAMES, bits: int = 16
) -> list[Line]:
    """Random signals over the whole range of the stored type."""
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1)
    return [
        Line(
            rng.integers(-limit, limit, n * n_records),
            n,
            names[k],
            physical=(f"{-300 - k}", f"{305 + k}"),
            digital=(str(-limit), str(limit - 1)),
        )
        for k, n in enumerate(per_record)
    ]


def _plain(folder: Path) -> Path:
    return write(folder / "plain.edf", lines_of((20, 20), 4))


def _mixed(folder: Path) -> Path:
    return write(folder / "mixed.edf", lines_of((20, 5, 1), 6), record_s="0.5")


def _continuous(folder: Path) -> Path:
    notes = [[tal(0.5, "blink", duration="1.5")], [], [tal(2.25, "a", "b"), tal(2.5, "ü@@EEG Cz")]]
    return write(folder / "plus.edf", lines_of((16, 16), 4), variant="EDF+C", notes=notes, patient="P1 F X X")


def _gaps(folder: Path) -> Path:
    return write(folder / "gaps.edf", lines_of((16, 4), 5), variant="EDF+D", onsets=(0, 1, 3.5, 4.5, 10))


def _bdf(folder: Path) -> Path:
    return write(folder / "plain.bdf", lines_of((16, 16), 4, bits=24), variant="BDF")


def _bdf_gaps(folder: Path) -> Path:
    notes = [[tal(0.25, "go")]]
    return write(folder / "gaps.bdf", lines_of((16, 4), 4, bits=24), variant="BDF+D", onsets=(0.5, 2, 3, 7), notes=notes)


# One small valid file of each kind: a function that writes it into a folder and returns its path.
FORMATS: dict[str, Callable[[Path], Path]] = {
    "edf": _plain,
    "edf-mixed": _mixed,
    "edf+c": _continuous,
    "edf+d": _gaps,
    "bdf": _bdf,
    "bdf+d": _bdf_gaps,
}
