"""MATLAB files as signal files: where the matrix that a WFDB header points into is not what the header says.

A level-4 MATLAB file is 20 bytes of header, the variable's name, and the numbers column by column, so a matrix of
(signals, samples) is what WFDB stores anyway and the header says format 16 from byte 24 on (``16+24``).
Layout: MathWorks, MAT-File Format, "Level 4 MAT-File Format".
"""

from __future__ import annotations

import struct
from pathlib import Path

from readers.schema import ReadError

_LEVEL_5 = b"MATLAB "  # text header of levels 5 and 7.3
_LEVEL_5_BYTES = 128
_HEADER_BYTES = 20
_MAX_NAME = 64
# (big endian, number type) of level 4 -> WFDB format; other types have no format that reads them.
_FORMATS = {(0, 2): "32", (0, 3): "16", (0, 4): "160", (0, 5): "80", (1, 3): "61", (1, 5): "80"}
_TYPES = ("float64", "float32", "int32", "int16", "uint16", "uint8")


def check_matlab(path: Path, fmt: str, byte_offset: int, frame_samples: int) -> None:
    """Refuse a .mat signal file whose own header contradicts the record's; reads 20 bytes.

    A file of neither level is left to the record's header. Raises ReadError for a level that cannot be read so,
    another number type, a transposed matrix, and an offset that is not where the numbers begin.
    """
    if path.suffix.lower() != ".mat":
        return
    with path.open("rb", buffering=0) as file:
        head = file.read(_HEADER_BYTES)
    said = f"{fmt}+{byte_offset}" if byte_offset else fmt
    if head.startswith(_LEVEL_5) and byte_offset < _LEVEL_5_BYTES:
        raise ReadError(
            f"{path.name} is a MATLAB file of level 5 or later, not of level 4 as format {said} means; save it with -v4"
        )
    for order in "<>":
        fields = struct.unpack(f"{order}5i", head) if len(head) == _HEADER_BYTES else (-1,) * 5
        kind, rows, columns, imaginary, name_bytes = fields
        big, number = divmod(kind, 1000)[0], kind // 10 % 10
        plausible = kind % 10 == 0 and kind // 100 % 10 == 0 and big == (order == ">") and number < len(_TYPES)
        if not (plausible and rows > 0 and columns > 0 and imaginary == 0 and 0 < name_bytes <= _MAX_NAME):
            continue
        if byte_offset != _HEADER_BYTES + name_bytes:
            raise ReadError(
                f"{path.name} has its numbers from byte {_HEADER_BYTES + name_bytes} on, format {said} says {byte_offset}"
            )
        if _FORMATS.get((big, number)) != fmt:
            endian = "big-endian " if big else ""
            raise ReadError(f"{path.name} holds {endian}{_TYPES[number]} numbers, not those of WFDB format {said}")
        if rows != frame_samples and not (frame_samples == 1 and columns == 1):
            raise ReadError(f"{path.name} holds a matrix of {rows} x {columns}, expected {frame_samples} signals x samples")
