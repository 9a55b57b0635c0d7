"""Writing BrainVision: a faithful copy with patched samples, and a new recording."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.brainvision import BrainVisionRecording
from readers.brainvision_header import decode
from readers.eeg_matrix import apply
from readers.patching import Scratch
from readers.schema import Event, Patch, ReadError, Written


def write_brainvision(recording: BrainVisionRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Copy header, data and markers beside ``path`` (a .vhdr) and patch the stored numbers in the copy.

    A value becomes round(value / resolution), limited to the type's range; NaN leaves an integer as it is, and is
    stored where the type is a float. Data and markers take the new stem, and the two texts name them so; every other
    byte stays. Raises ReadError for a copy that would overwrite the recording, and a failing disk.
    """
    path = Path(path)
    if path.suffix.lower() != ".vhdr":
        raise ReadError(f"the copy of {recording.path.name} has to end in .vhdr, not become {path.name}")
    data = path.with_name(path.stem + recording.header.data.suffix)
    markers = path.with_name(path.stem + recording.markers.suffix) if recording.markers else None
    if len({path, data, markers}) < 3:
        raise ReadError(f"{recording.path.name} has data or markers of the suffix {path.suffix}, which cannot be copied")
    try:
        with Scratch(recording.files) as scratch:
            copy = scratch.part(data, recording.header.data)
            tally = apply(recording, patches, {recording.header.data: copy})
            names = {"DataFile": data.name, "MarkerFile": markers.name if markers else None}
            if recording.markers and markers:
                scratch.part(markers).write_bytes(_renamed(recording.markers, path.stem, names))
            scratch.part(path).write_bytes(_renamed(recording.path, path.stem, names))
            scratch.finish()
    except OSError as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
    return Written(path, tally.changed, tally.clipped, tally.notes)


def _renamed(source: Path, stem: str, names: dict[str, str | None]) -> bytes:
    """The bytes of a header or marker file, naming the files of the copy."""
    raw = source.read_bytes()
    _, encoding = decode(raw)
    for key, name in names.items():
        pattern = re.compile(rb"(?im)^([ \t]*" + key.encode() + rb"[ \t]*=[ \t]*)([^\r\n]*?)([ \t]*)$")
        match = pattern.search(raw.replace(b"\r", b"\n"))
        if not match or name is None:
            continue
        written = match[2].decode(encoding, "replace").replace("$b", stem)
        if written != name:
            try:
                new = name.encode(encoding)
            except UnicodeEncodeError:
                raise ReadError(f"{source.name} is written in Latin-1, which cannot spell the name {name}") from None
            raw = raw[: match.start(2)] + new + raw[match.end(2) :]
    return raw


def create_brainvision(
    path: Path,
    signals: NDArray[np.floating] | Iterable[NDArray[np.floating]],
    *,
    rate_hz: float,
    names: Sequence[str],
    units: Sequence[str | None],
    events: Sequence[Event] = (),
    start_date: str | None = None,
    comment: str = "",
) -> Path:
    """Write a new recording of 32-bit floats; ``signals`` (channels, samples) in the given units, or blocks of them in order.

    NaN stays NaN. Returns the header's path. Raises ReadError for a wrong shape or suffix, and a failing disk.
    """
    path = Path(path)
    if path.suffix.lower() != ".vhdr":
        raise ReadError(f"a BrainVision recording has to end in .vhdr, not be called {path.name}")
    blocks = [signals] if isinstance(signals, np.ndarray) else signals
    n_samples = 0
    try:
        with Scratch(()) as scratch:
            with scratch.part(path.with_suffix(".eeg")).open("wb") as data:
                for block in blocks:
                    if block.ndim != 2 or block.shape[0] != len(names):
                        raise ReadError(f"{path.name} takes (channels, samples) of {len(names)} channels, got {block.shape}")
                    n_samples += block.shape[1]
                    data.write(np.ascontiguousarray(block.T, "<f4").tobytes())
            marks = _markers(path, events, rate_hz, names, start_date)
            scratch.part(path.with_suffix(".vmrk")).write_text(marks, "utf-8", newline="")
            text = _header(path, rate_hz, names, units, n_samples, comment)
            scratch.part(path).write_text(text, "utf-8", newline="")
            scratch.finish()
    except OSError as error:
        raise ReadError(f"{path.name} cannot be written: {error.strerror or error}") from error
    return path


def _field(text: str) -> str:
    """A value of a comma-separated line."""
    return re.sub(r"[\x00-\x1f]", " ", text).replace(",", "\\1")


def _header(path: Path, rate_hz: float, names: Sequence[str], units: Sequence[str | None], n_samples: int, comment: str) -> str:
    lines = [
        "Brain Vision Data Exchange Header File Version 1.0",
        "",
        "[Common Infos]",
        "Codepage=UTF-8",
        f"DataFile={path.stem}.eeg",
        f"MarkerFile={path.stem}.vmrk",
        "DataFormat=BINARY",
        "DataOrientation=MULTIPLEXED",
        f"NumberOfChannels={len(names)}",
        f"DataPoints={n_samples}",
        f"SamplingInterval={float(1e6 / rate_hz)!r}",
        "",
        "[Binary Infos]",
        "BinaryFormat=IEEE_FLOAT_32",
        "",
        "[Channel Infos]",
        *(f"Ch{k}={_field(n)},,1,{_field(unit or 'n/a')}" for k, (n, unit) in enumerate(zip(names, units, strict=True), 1)),
        "",
        *(["[Comment]", comment, ""] if comment else []),
    ]
    return "\r\n".join(lines)


def _markers(path: Path, events: Sequence[Event], rate_hz: float, names: Sequence[str], start_date: str | None) -> str:
    digits = re.sub(r"\D", "", re.sub(r"(?:Z|[+-]\d\d:?\d\d)$", "", start_date or ""))
    date = digits.ljust(20, "0")[:20] if len(digits) >= 14 else "0" * 20
    lines = [
        "Brain Vision Data Exchange Marker File, Version 1.0",
        "",
        "[Common Infos]",
        "Codepage=UTF-8",
        f"DataFile={path.stem}.eeg",
        "",
        "[Marker Infos]",
        f"Mk1=New Segment,,1,1,0,{date}",
    ]
    for number, event in enumerate(events, 2):
        kind, slash, text = event.label.partition("/")
        if not slash:
            kind, text = "Comment", event.label
        channel = names.index(event.channels[0]) + 1 if len(event.channels) == 1 and event.channels[0] in names else 0
        size = max(round(event.duration_s * rate_hz), 1)
        lines.append(f"Mk{number}={_field(kind)},{_field(text)},{round(event.onset_s * rate_hz) + 1},{size},{channel}")
    return "\r\n".join([*lines, ""])
