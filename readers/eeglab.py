"""EEGLAB recordings (.set, with the data inside or in a .fdt)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from readers import mat5
from readers.eeg_matrix import MAX_CHANNELS, MAX_RATE_HZ, Block, Layout, MatrixRecording
from readers.eeglab_file import SetFile
from readers.electrodes import Position, identify, on_head
from readers.leads import si_factor
from readers.mat5 import Node, Variable
from readers.schema import Channel, Event, Patch, ReadError, Recording, Written
from readers.signals import Float64

UNIT = "µV"
_KINDS = ("eeg", "eog", "ecg", "emg", "resp", "ppg", "temp", "stim", "misc", "meg")
_FIDUCIALS = {"nz": "nasion", "nas": "nasion", "nasion": "nasion", "lpa": "left", "rpa": "right"}
# The mean radius of a head's electrodes is below the first number in the unit of the second (metres).
_UNITS = ((0.25, 1.0), (2.5, 0.1), (25.0, 0.01), (math.inf, 0.001))


class SetRecording(MatrixRecording):
    """A continuous EEGLAB data set."""

    format = "eeglab"

    def __init__(self, path: Path) -> None:
        """Read the fields that describe the data; no sample is read. Raises ReadError."""
        self.path = path
        try:
            self._read(SetFile(path))
        except OSError as error:
            raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error

    def _read(self, file: SetFile) -> None:
        path = file.path
        n_channels, n_samples = _count(file, "nbchan", MAX_CHANNELS), _count(file, "pnts", 2**48)
        rate, trials = file.number("srate") or 0.0, file.number("trials")
        if trials is not None and trials != 1:
            raise ReadError(f"{path.name} holds {trials:g} epochs, not a continuous recording")
        if not 0 < rate <= MAX_RATE_HZ:
            raise ReadError(f"{path.name} has the sampling rate {rate:g} Hz")
        self.embedded: Variable | None = None
        self._part: tuple[int, int, str] | None = None
        self.data_file = path
        self.layout = self._layout(file, n_channels, n_samples)
        self.gains = (1.0,) * n_channels
        ids = {key: value for key in ("subject", "session") if (value := _identifier(file, key))}
        notes: list[str] = (
            ["the data are compressed inside the .set: the first window takes as long as the whole"] if self.embedded else []
        )
        self._describe(_channels(file, n_channels, rate, self.layout.dtype), _events(file, rate), None, ids, notes)

    def _layout(self, file: SetFile, n_channels: int, n_samples: int) -> Layout:
        peek = file.variables.get("data")
        if peek and peek.compressed and not file.whole and peek.dims == (n_channels, n_samples):
            self.embedded = peek  # not inflated before a sample is asked for
            return Layout((Block(file.path, 0, 0, n_samples),), np.dtype("<f4"), n_channels)
        buffer, node = file.node("data")
        if node is not None and node.is_text:
            return self._beside(mat5.text(buffer, node, file.order), n_channels, n_samples)
        if node is None or node.part is None or node.dims != (n_channels, n_samples):
            dims = " x ".join(map(str, node.dims if node else peek.dims if peek else ()))
            raise ReadError(f"{file.path.name} holds data of {dims or 'no size'}, its header says {n_channels} x {n_samples}")
        variable = file.variable("data")
        if variable.compressed:
            self.embedded, self._part = variable, node.part
        dtype = np.dtype(f"{file.order}{node.part[2]}")
        return Layout((Block(file.path, variable.start + node.part[0], 0, n_samples),), dtype, n_channels)

    def _beside(self, name: str, n_channels: int, n_samples: int) -> Layout:
        """The layout of a .fdt: 32-bit floats, samples one after the other."""
        if name.lower().endswith(".dat"):
            raise ReadError(f"{self.path.name} has its data in {name}, an old format; save it again from EEGLAB")
        named = self.path.parent / name.replace("\\", "/").rpartition("/")[2]
        self.data_file = named if named.is_file() else self.path.with_suffix(".fdt")
        if not self.data_file.is_file():
            gone = "no file" if named.name and named.exists() else "missing"
            raise ReadError(f"{named.name or 'the data file'}, named by {self.path.name}, is {gone}")
        held, claimed = self.data_file.stat().st_size, n_channels * n_samples * 4
        if held != claimed:
            raise ReadError(f"{self.data_file.name} holds {held} bytes, {self.path.name} claims {claimed}")
        return Layout((Block(self.data_file, 0, 0, n_samples),), np.dtype("<f4"), n_channels)

    @property
    def files(self) -> tuple[Path, ...]:
        """The .set, and the .fdt where there is one."""
        return tuple(dict.fromkeys([self.path, self.data_file]))

    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        if self.embedded is None:
            return super()._native(channels, spans)
        values = self.inflated()
        return [values[start:stop, c].astype(np.float64) for c, (start, stop) in zip(channels, spans, strict=True)]

    def inflated(self) -> np.ndarray:
        """The numbers (samples, channels) of data that are compressed inside the .set. Raises ReadError."""
        assert self.embedded
        n_channels = len(self.channels)
        try:
            order = mat5.variables(self.path)[0]
            buffer = mat5.buffer_of(self.path, self.embedded)
            node = Node((n_channels, self.layout.n_samples), (0, 0), part=self._part) if self._part else mat5.parse(buffer, order)
            if node.dims != (n_channels, self.layout.n_samples) or node.part is None:
                raise ReadError("holds broken data")
            return mat5.numbers(buffer, node, order)[: n_channels * self.layout.n_samples].reshape(-1, n_channels)
        except OSError as error:
            raise ReadError(f"{self.path.name} cannot be read: {error.strerror or error}") from error
        except (ValueError, ReadError) as error:
            raise ReadError(f"{self.path.name} {error}") from error

    def verify(self) -> tuple[str, ...]:
        """Read every number; name what is not finite, and events outside the recording."""
        if self.embedded is None:
            return super().verify()
        bad = np.count_nonzero(~np.isfinite(self.inflated()), axis=0)
        problems = [f"{n} samples of {c.name} are not finite" for n, c in zip(bad, self.channels, strict=True) if n]
        return tuple(problems)


def _count(file: SetFile, name: str, most: float) -> int:
    value = file.number(name)
    if value is None or not 1 <= value <= most or value != int(value):
        raise ReadError(f"{file.path.name} has the {name} {value}, expected a whole number up to {most:g}")
    return int(value)


def _identifier(file: SetFile, name: str) -> str:
    number = file.number(name)
    return file.text(name).strip() or (f"{number:g}" if number is not None else "")


def _channels(file: SetFile, n_channels: int, rate: float, dtype: np.dtype) -> list[Channel]:
    rows = file.table("chanlocs")
    if rows and len(rows) != n_channels:
        raise ReadError(f"{file.path.name} names {len(rows)} channels and claims {n_channels}")
    names = [_name(row.get("labels")) or f"Ch{k + 1}" for k, row in enumerate(rows or [{}] * n_channels)]
    types = [str(row.get("type") or "").lower() for row in rows or [{}] * n_channels]
    hints = [kind if kind in _KINDS else None for kind in types]
    # Without a type every channel is EEG to EEGLAB; a cap label or a number says no more.
    hints = [hint or ("eeg" if rows else None) for hint in hints]
    identities = identify(names, [UNIT] * n_channels, hints)
    frame, source, places = _places(file, rows) if rows else ("head", "file", {})
    average = "average" if file.text("ref").lower().startswith("aver") else None
    found = []
    for number, (name, identity) in enumerate(zip(names, identities, strict=True)):
        own = places.get(number) if identity.kind == "eeg" else None
        place: tuple[Position | None, str | None, str | None]
        if own is not None and (source == "file" or identity.position is None):
            place = (own, frame, source)
        else:
            place = (identity.position, identity.position_frame, identity.position_source)
        found.append(
            Channel(
                name=name,
                canonical=identity.canonical,
                kind=identity.kind,
                unit=UNIT,
                si_factor=si_factor(UNIT),
                rate_hz=rate,
                position=place[0],
                position_frame=place[1],
                position_source=place[2],
                reference=identity.reference or average,
                dtype=dtype.name,
            )
        )
    return found


def _places(file: SetFile, rows: Sequence[Mapping[str, object]]) -> tuple[str, str, dict[int, Position]]:
    """Frame, source and places in metres of the channels that have one; EEGLAB's x is to the nose, its y to the left.

    Places on a sphere are a drawing of the cap: they go onto the montage's head, for electrodes without a better one.
    With fiducials the places are put into the head frame; else the frame is called ``eeglab``.
    """
    raw = {k: place for k, row in enumerate(rows) if (place := _xyz(row)) is not None}
    if not raw:
        return "head", "file", {}
    points = np.array(list(raw.values()))
    radii = np.linalg.norm(points, axis=1)
    if radii.std() < 0.01 * radii.mean():
        unit = points / radii[:, None]
        return "head", "file (unit sphere)", {k: on_head((p[0], p[1], p[2])) for k, p in zip(raw, unit.tolist(), strict=True)}
    factor = next(factor for limit, factor in _UNITS if radii.mean() < limit)
    turned = _into_head(file, points)
    frame, points = ("eeglab", points) if turned is None else ("head", turned)
    return frame, "file", {k: (p[0], p[1], p[2]) for k, p in zip(raw, (points * factor).tolist(), strict=True)}


def _xyz(row: Mapping[str, object]) -> tuple[float, float, float] | None:
    x, y, z = (row.get(axis) for axis in "XYZ")
    if isinstance(x, float) and isinstance(y, float) and isinstance(z, float) and all(map(math.isfinite, (x, y, z))):
        return (-y, x, z) if (x, y, z) != (0.0, 0.0, 0.0) and max(abs(x), abs(y), abs(z)) < 1e6 else None
    return None


def _into_head(file: SetFile, points: np.ndarray) -> np.ndarray | None:
    """Points in the frame whose x axis runs through LPA and RPA and whose y axis through the nasion."""
    buffer, info = file.node("chaninfo")
    marks = info.items[0].get("nodatchans") if info and info.items else None
    found = {}
    for item in marks.items if marks else []:
        row = {key: file.cell(buffer, cell) for key, cell in item.items()}
        name = _FIDUCIALS.get(str(row.get("labels")).lower())
        if name and (place := _xyz(row)) is not None:
            found[name] = np.array(place)
    if len(found) < 3:
        return None
    across = found["right"] - found["left"]
    if not np.linalg.norm(across) > 0:
        return None
    x = across / np.linalg.norm(across)
    origin = found["left"] + x * ((found["nasion"] - found["left"]) @ x)
    y = found["nasion"] - origin
    if not np.linalg.norm(y) > 0:
        return None
    y = y / np.linalg.norm(y)
    return (points - origin) @ np.stack([x, y, np.cross(x, y)], axis=1)


def _name(value: str | float | None) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return value or ""


def _events(file: SetFile, rate: float) -> list[Event]:
    found = []
    for row in file.table("event"):
        latency, duration, kind = row.pop("latency", None), row.pop("duration", None), row.pop("type", None)
        if not isinstance(latency, float) or not math.isfinite(latency):
            continue
        long = duration / rate if isinstance(duration, float) and math.isfinite(duration) and duration > 0 else 0.0
        found.append(Event((latency - 1) / rate, long, _name(kind) or "event", (), dict(row)))
    return found


class SetReader:
    """EEGLAB files, handled by their .set."""

    name = "eeglab"
    domains: tuple[str, ...] = ("eeg", "cardiac")
    suffixes: tuple[str, ...] = (".set",)
    companions: tuple[str, ...] = (".fdt",)
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """Whether the file is one of MATLAB; an empty file is claimed, to be reported as empty."""
        return not head.strip() or head[:6] == b"MATLAB" or head[:8] == b"\x89HDF\r\n\x1a\n"

    def members(self, path: Path) -> Iterator[Path]:
        """The .fdt of the same name, where there is one."""
        if path.with_suffix(".fdt").is_file():
            yield path.with_suffix(".fdt")

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every recording stands alone."""
        return ((path,) for path in paths)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a recording. Raises ReadError."""
        return SetRecording(path)

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched samples; see ``eeglab_write``. Raises ReadError."""
        from readers.eeglab_write import write_set

        assert isinstance(recording, SetRecording)
        return write_set(recording, patches, path)
