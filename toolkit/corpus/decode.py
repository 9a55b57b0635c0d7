"""Decoding one recording onto a recipe's grid: its numbers into a part file, everything else into a row of the index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.prepared_store import ITEM
from readers.schema import Box, PointsLike, ReadError, Recording, SignalLike, VolumeLike
from toolkit.corpus import framing
from toolkit.corpus.grids import spacings
from toolkit.corpus.inputs import Input, open_input
from toolkit.errors import ToolkitError
from toolkit.recipe import Recipe, SignalData, VolumeData

ALIGN = 64  # bytes: a cache line, and every vector register
BLOCK_S = 60.0  # signals are decoded so much at a time,
BLOCK_VALUES = 2**23  # or so many numbers, where that is less
SLAB_VOXELS = 2**25

Row = dict[str, Any]
Values = NDArray[np.float32]


class Stopped(Exception):
    """Decoding was given up because the program is to end."""


def aligned(size: int) -> int:
    """The next multiple of ``ALIGN`` bytes."""
    return -(-size // ALIGN) * ALIGN


class Decoder:
    """Decodes recordings for one recipe; ``stopped`` is asked between blocks."""

    def __init__(self, recipe: Recipe, stopped: Callable[[], bool]) -> None:
        self.data, self.frame, self._stopped = recipe.data, framing.build(recipe), stopped

    def decode(self, item: Input, part: Path) -> Row:
        """Write the numbers to ``part``; returns the row of the index, with offsets from the start of ``part``.

        Raises ReadError, Stopped, or ToolkitError where nothing can be written.
        """
        recording = open_input(item)
        before = _stamps(recording)
        channels = self.frame.channels(recording)
        try:
            with FileIO(part, "w") as file:
                place = self._write(recording, channels, file)
                size = file.seek(0, 2)
        except OSError as problem:
            raise ToolkitError(f"'{part.parent}' could not be written: {problem.strerror or problem}") from None
        findings = recording.verify()
        row = {**_facts(item, recording, before), **place, "bytes": size, "findings": json.dumps(findings)}
        if _stamps(recording) != before:
            raise ReadError(f"{item.path.name} changed while it was read")
        return row

    def _write(self, recording: Recording, channels: Sequence[int], file: FileIO) -> Row:
        if isinstance(recording, SignalLike) and isinstance(self.data, SignalData):
            return self._signal(recording, channels, self.data.rate_hz, file)
        if isinstance(recording, VolumeLike) and isinstance(self.data, VolumeData):
            return self._volume(recording, channels, spacings(self.data), file)
        assert isinstance(recording, PointsLike)  # the framing has seen to it
        return self._points(recording, file)

    def _signal(self, recording: SignalLike, channels: Sequence[int], rate: float, file: FileIO) -> Row:
        length = max(_samples(recording, channel, rate) for channel in channels)
        step = int(np.clip(BLOCK_VALUES // len(channels), 1, max(1, round(BLOCK_S * rate))))
        file.truncate(len(channels) * length * ITEM)
        for start in self._blocks(length, step):
            sample = recording.read(start, min(start + step, length), rate_hz=rate, channels=channels)
            for row, line in enumerate(_marked(sample.values, sample.valid)):
                _put(file, (row * length + start) * ITEM, line)
        return {**_place("signal", recording, channels), "shape": [len(channels), length], "rate_hz": rate}

    def _volume(self, recording: VolumeLike, channels: Sequence[int], at_mm: Sequence[float], file: FileIO) -> Row:
        grids, base = [], 0
        for spacing in at_mm:
            shape, affine = recording.grid(spacing)
            planes = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
            for k, channel in enumerate(channels):
                for x in self._blocks(shape[0], planes):
                    box = Box((x, 0, 0), (min(x + planes, shape[0]), shape[1], shape[2]))
                    sample = recording.read(box, spacing_mm=spacing, channels=[channel])
                    _put(file, base + (k * shape[0] + x) * shape[1] * shape[2] * ITEM, _marked(sample.values, sample.valid))
            whole = [len(channels), *shape]
            grids.append({"at": base, "shape": whole, "spacing_mm": spacing, "affine": affine.tolist()})
            base = aligned(base + math.prod(whole) * ITEM)
        first = grids[0]
        affine_ = [value for line in first["affine"] for value in line]
        same = {"shape": first["shape"], "spacing_mm": first["spacing_mm"], "affine": affine_, "grids": json.dumps(grids)}
        return {**_place("volume", recording, channels), **same}

    def _points(self, recording: PointsLike, file: FileIO) -> Row:
        total, attributes = recording.axes.points or 0, range(3, len(recording.channels))
        file.truncate(total * (3 + len(attributes)) * ITEM)
        step = max(4096, BLOCK_VALUES // (3 + len(attributes)))
        for start in self._blocks(total, step):
            sample = recording.read(start, start + step, channels=attributes)
            _put(file, start * 3 * ITEM, _marked(sample.coords, np.repeat(sample.known[:, None], 3, axis=1)))
            for row, line in enumerate(_marked(sample.values, sample.valid)):
                _put(file, ((3 + row) * total + start) * ITEM, line)
        return {**_place("points", recording, attributes), "shape": [total, 3]}

    def _blocks(self, length: int, step: int) -> Iterator[int]:
        for start in range(0, length, step):
            if self._stopped():
                raise Stopped
            yield start


def _samples(recording: SignalLike, channel: int, rate_hz: float) -> int:
    """Samples of the grid that a channel reaches; one more where the ratio of the rates is rounded in reading."""
    native = recording.channels[channel].rate_hz
    assert native is not None  # every channel of a signal recording has a rate
    ratio = Fraction(rate_hz) / Fraction(native)
    return math.ceil(recording.stored(channel) * ratio) + (ratio.limit_denominator(10_000) != ratio)


def _marked(values: Values, valid: NDArray[np.bool_]) -> Values:
    """NaN where not valid."""
    return np.where(valid, values, np.float32(np.nan))


def _put(file: FileIO, offset: int, values: Values) -> None:
    view = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
    file.seek(offset)
    while len(view):
        view = view[file.write(view) or 0 :]


def _place(kind: str, recording: Recording, channels: Sequence[int]) -> Row:
    return {
        "axes_kind": kind,
        "dtype": "float32",
        "stored": list(channels),
        "units": [recording.channels[i].unit for i in channels],
    }


def _facts(item: Input, recording: Recording, stamps: list[list[Any]]) -> Row:
    native: Row = {"stored": [int(recording.stored(i)) for i in range(len(recording.channels))]}
    if isinstance(recording, VolumeLike):
        shape, affine = recording.grid()
        every = range(len(recording.channels))
        native["grid"] = {"shape": list(shape), "affine": affine.tolist()}
        native["shapes"] = [recording.shape_of(i) for i in every]
        native["affines"] = [recording.affine_of(i).tolist() for i in every]
    events = [[e.onset_s, e.duration_s, e.label, e.channels, dict(e.extra)] for e in recording.events]
    return {
        "path": str(item.path),
        "relative": str(item.relative),
        "root": str(item.root),
        "domain": recording.domain,
        "format": recording.format,
        "channels": _json([asdict(channel) for channel in recording.channels]),
        "axes": _json(asdict(recording.axes)),
        "ids": _json(dict(recording.ids)),
        "given": _json(dict(item.ids)),
        "parts": _json([str(part) for part in item.parts]),
        "files": _json(stamps),
        "warnings": _json(recording.warnings),
        "events": _json(events),
        "native": _json(native),
    }


def _stamps(recording: Recording) -> list[list[Any]]:
    """Path, bytes and time of change (ns) of each file. Raises ReadError."""
    try:
        return [[str(path), (state := path.stat()).st_size, state.st_mtime_ns] for path in recording.files]
    except OSError as problem:
        raise ReadError(f"{problem.filename}: {problem.strerror}") from None


def _json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's; anything else by its text."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)
