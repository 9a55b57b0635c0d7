"""A faithful copy of an EEGLAB recording in which only the patched samples change."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from readers import mat5
from readers.eeg_matrix import Tally, apply, digital
from readers.eeglab import SetRecording
from readers.eeglab_file import SetFile
from readers.patching import Scratch, checked, last_values
from readers.schema import Patch, ReadError, Written


def write_set(recording: SetRecording, patches: Sequence[Patch], path: Path) -> Written:
    """Copy the .set, and its .fdt where it has one, to ``path`` and patch the numbers in the copy.

    Data in a .fdt or uncompressed in the .set are patched in place; compressed data are compressed again, every other
    variable and field keeps its bytes. A new name is written into the fields that name the .fdt. Raises ReadError for a
    copy that would overwrite the recording, and a failing disk.
    """
    path = Path(path)
    if path.suffix.lower() != ".set":
        raise ReadError(f"the copy of {recording.path.name} has to end in .set, not become {path.name}")
    checked(recording, patches)
    try:
        with Scratch(recording.files) as scratch:
            if recording.data_file != recording.path:
                data = path.with_suffix(recording.data_file.suffix)
                tally = apply(recording, patches, {recording.data_file: scratch.part(data, recording.data_file)})
                copy = scratch.part(path, recording.path)
                if data.name != recording.data_file.name:
                    _rename(SetFile(recording.path), copy, data.name)
            elif recording.embedded is None and not _narrow(recording):
                tally = apply(recording, patches, {recording.path: scratch.part(path, recording.path)})
            else:
                tally = _embedded(recording, patches, scratch.part(path, recording.path))
            scratch.finish()
    except OSError as error:
        raise ReadError(f"the copy of {recording.path.name} cannot be written: {error.strerror or error}") from error
    return Written(path, tally.changed, tally.clipped, tally.notes)


def _narrow(recording: SetRecording) -> bool:
    """Whether the numbers are stored in a narrower type than that of their array, as MATLAB does with whole numbers."""
    _, node = SetFile(recording.path).node("data")
    return node is not None and node.part is not None and node.part[2] != node.dtype


def _embedded(recording: SetRecording, patches: Sequence[Patch], copy: Path) -> Tally:
    """Patch data that have to be encoded again."""
    file, tally = SetFile(recording.path), Tally()
    buffer, node = file.node("data")
    if node is None or node.dtype is None:
        raise ReadError(f"{recording.path.name} holds broken data")
    n_channels = len(recording.channels)
    stored = mat5.numbers(buffer, node, file.order)
    values = stored.astype(node.dtype)
    table = values[: n_channels * recording.layout.n_samples].reshape(-1, n_channels)
    notes: dict[str, None] = {}
    for patch in patches:
        index, wanted = last_values(patch)
        numbers, known, clipped = digital(wanted, table.dtype)
        old = table[index, patch.channel]
        different = known & ~((old == numbers) | (np.isnan(old) & np.isnan(numbers)))
        table[index[different], patch.channel] = numbers[different]
        tally.changed, tally.clipped = tally.changed + int(different.sum()), tally.clipped + clipped
        if not known.all():
            name = recording.channels[patch.channel].name
            notes[f"{int((~known).sum())} NaN of {name} cannot be stored as {table.dtype.name}: the old values stay"] = None
    tally.notes = tuple(notes)
    if tally.changed:
        # What stayed within the stored type keeps it; MATLAB reads either.
        narrow = values.astype(stored.dtype.newbyteorder("="))
        part = narrow if np.array_equal(narrow, values) else values
        _exchange(file, "data", mat5.element(buffer, node, part, file.order), copy)
    return tally


def _rename(file: SetFile, copy: Path, name: str) -> None:
    """Name another .fdt in the fields ``data`` and ``datfile`` of a copy."""
    codes = np.frombuffer(name.encode("utf-16-le"), "<u2")
    for key in ("data", "datfile"):
        buffer, node = file.node(key)
        if node is not None and node.is_text:
            _exchange(file, key, mat5.element(buffer, node, codes, file.order, (1, codes.size)), copy)
            file = SetFile(copy)


def _exchange(file: SetFile, key: str, element: bytes, copy: Path) -> None:
    """Put a changed element of a field into the copy of the file."""
    buffer, node = file.node(key)
    variable = file.variable(key)
    assert node is not None
    if file.path.stat().st_size > mat5.MAX_INFLATED_BYTES:
        raise ReadError(f"{file.path.name} is too large to be encoded again: save it from EEGLAB with its data in a .fdt")
    changed = mat5.with_element(buffer, node, element, file.order)
    if variable.compressed:
        packed = zlib.compress(changed)
        changed = np.array([15, len(packed)], f"{file.order}u4").tobytes() + packed
    raw = file.path.read_bytes()
    copy.write_bytes(raw[: variable.start] + changed + raw[variable.stop :])
