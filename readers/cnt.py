"""Neuroscan continuous recordings (.cnt), after the SETUP, ELECTLOC and TEEG structures of Neuroscan's file description."""

from __future__ import annotations

import math
import struct
from datetime import datetime
from pathlib import Path

import numpy as np

from readers.eeg_matrix import MAX_CHANNELS, Block, Layout, MatrixRecording
from readers.electrodes import identify
from readers.leads import si_factor
from readers.schema import Channel, Event, ReadError

UNIT = "µV"
_SETUP_BYTES, _CHANNEL_BYTES = 900, 75
_EVENTS = {1: struct.Struct("<HBBi"), 2: struct.Struct("<HBBihhfBBB"), 3: struct.Struct("<HBBihhfBBB")}
_MAX_EVENT_BYTES = 4 * 2**20
_MAX_BLOCKS = 1_000_000
_REJECT, _ACCEPT = 0xC, 0xD


class CntRecording(MatrixRecording):
    """A Neuroscan recording: integers of 16 or 32 bits, (number - baseline) * sensitivity * calibration / 204.8 in µV."""

    format = "cnt"

    def __init__(self, path: Path) -> None:
        """Read the header and the event table; no sample is read. Raises ReadError."""
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                setup = file.read(_SETUP_BYTES)
                if setup[:4] == b"RIFF":
                    raise ReadError(
                        f"{path.name} is an ANT Neuro recording, not one of Neuroscan: export it as BrainVision or EDF"
                    )
                if len(setup) < _SETUP_BYTES:
                    raise ReadError(f"{path.name} holds {size} bytes, less than the header of a Neuroscan recording")
                n_channels, rate = struct.unpack_from("<H", setup, 370)[0], struct.unpack_from("<H", setup, 376)[0]
                if not (0 < n_channels <= MAX_CHANNELS and rate > 0):
                    raise ReadError(f"{path.name} claims {n_channels} channels at {rate} Hz")
                lines = file.read(n_channels * _CHANNEL_BYTES)
                if len(lines) < n_channels * _CHANNEL_BYTES:
                    raise ReadError(f"{path.name} ends before its {n_channels} channels are described")
                self.layout, table = _layout(path, setup, n_channels, size)
                file.seek(table)
                raw = file.read(min(size - table, _MAX_EVENT_BYTES)) if table < size else b""
        except OSError as error:
            raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
        rows = [lines[k : k + _CHANNEL_BYTES] for k in range(0, len(lines), _CHANNEL_BYTES)]
        self.gains = tuple(_gain(row) for row in rows)
        self.baselines = tuple(float(struct.unpack_from("<h", row, 47)[0]) for row in rows)
        claimed = struct.unpack_from("<i", setup, 864)[0]
        short = claimed != self.layout.n_samples
        notes = [f"the header claims {claimed} samples, the file holds {self.layout.n_samples}"] if short else []
        if any(not (math.isfinite(gain) and gain != 0) for gain in self.gains):
            raise ReadError(f"{path.name} has a channel whose sensitivity or calibration is 0 or no number")
        events = _events(raw, n_channels, self.layout.dtype.itemsize, float(rate))
        if events is None:
            notes.append("the event table cannot be read")
        subject = _text(setup[21:41])
        ids = {"subject": subject} if subject else {}
        self._describe(_channels(rows, float(rate), self.layout.dtype), events or [], _date(setup), ids, notes)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin-1").strip()


def _gain(row: bytes) -> float:
    sensitivity, calibration = struct.unpack_from("<f", row, 59)[0], struct.unpack_from("<f", row, 71)[0]
    return float(sensitivity) * float(calibration) / 204.8


def _date(setup: bytes) -> str | None:
    try:
        return datetime.strptime(f"{_text(setup[225:235])} {_text(setup[235:247])}", "%m/%d/%y %H:%M:%S").isoformat()
    except ValueError:
        return None


def _layout(path: Path, setup: bytes, n_channels: int, size: int) -> tuple[Layout, int]:
    """Where the numbers are, and where the event table begins. Raises ReadError."""
    begin = _SETUP_BYTES + _CHANNEL_BYTES * n_channels
    claimed, table, together = (struct.unpack_from("<i", setup, at)[0] for at in (864, 886, 894))
    if begin < table <= size and size < 2**31:
        # The number of samples is often wrong, the place of the event table behind them is not.
        counts = {width: (table - begin) // (n_channels * width) for width in (2, 4)}
        width = min(counts, key=lambda width: abs(counts[width] - claimed)) if claimed > 0 else 2
        n_samples = counts[width]
    else:  # the position of the table overflows in long recordings
        n_samples = max(claimed, 0)
        width = 4 if begin + n_samples * n_channels * 4 <= size else 2
        table = begin + n_samples * n_channels * width
    if n_samples == 0 or begin + n_samples * n_channels * width > size:
        raise ReadError(f"{path.name} holds {size} bytes, its header claims {n_samples} samples of {n_channels} channels")
    dtype = np.dtype("<i2" if width == 2 else "<i4")
    step = together // width if together > 1 else 1
    if step <= 1:
        return Layout((Block(path, begin, 0, n_samples),), dtype, n_channels), table
    # Old amplifiers wrote several samples of one channel together; a last, incomplete group is left out.
    n_blocks = n_samples // step
    if not 0 < n_blocks <= _MAX_BLOCKS:
        raise ReadError(f"{path.name} claims groups of {step} samples in {n_samples}")
    places = (Block(path, begin + k * step * n_channels * width, k * step, (k + 1) * step) for k in range(n_blocks))
    return Layout(tuple(places), dtype, n_channels, multiplexed=False), table


def _channels(rows: list[bytes], rate: float, dtype: np.dtype) -> list[Channel]:
    names = [_text(row[:10]) or f"Ch{k + 1}" for k, row in enumerate(rows)]
    identities = identify(names, [UNIT] * len(names), ["eeg"] * len(names))
    return [
        Channel(
            name=name,
            canonical=identity.canonical,
            kind=identity.kind,
            unit=UNIT,
            si_factor=si_factor(UNIT),
            rate_hz=rate,
            position=identity.position,
            position_frame=identity.position_frame,
            position_source=identity.position_source,
            reference=identity.reference,
            # Older and newer programs mark bad channels in different bytes.
            bad=bool(row[4] and len(name) < 4) or bool(row[14]),
            dtype=dtype.name,
        )
        for name, row, identity in zip(names, rows, identities, strict=True)
    ]


def _events(raw: bytes, n_channels: int, width: int, rate: float) -> list[Event] | None:
    """Events of the table that begins with these bytes; None where it cannot be read."""
    if len(raw) < 9:
        return []
    kind, length, _ = struct.unpack_from("<Bii", raw)
    if kind not in _EVENTS or length < 0:
        return None
    record = _EVENTS[kind]
    body = raw[9 : 9 + min(length, len(raw) - 9) // record.size * record.size]
    begin = _SETUP_BYTES + _CHANNEL_BYTES * n_channels
    marks = []
    for stimulus, keyboard, keypad, offset, *_ in record.iter_unpack(body):
        # Types 1 and 2 give a place in the file, type 3 counts samples.
        sample = max(offset if kind == 3 else (offset - begin) // (n_channels * width) - 1, 0)
        label = f"KeyPad Response {keypad & 15}" if keypad & 15 else str(stimulus)
        if not keypad & 15 and keyboard:
            label = f"Keyboard Response {keyboard}"
        marks.append((sample / rate, label, keypad >> 4))
    return _spans(marks)


def _spans(marks: list[tuple[float, str, int]]) -> list[Event]:
    """Events; a mark of rejection lasts until the next mark of acceptance."""
    found: list[Event] = []
    rejects = any(state == _REJECT for *_, state in marks)
    accepted: float | None = None
    for onset, label, state in reversed(marks):
        if state == _REJECT:
            long = 0.0 if accepted is None else max(accepted - onset, 0.0)
            found.append(Event(onset, long, f"BAD_{label}"))
        elif not (rejects and state == _ACCEPT):
            found.append(Event(onset, 0.0, label))
        accepted = onset if state == _ACCEPT else accepted
    return found[::-1]
