"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5 files, after the text of their specifications: bytes in, a grid out."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from readers.nifti_affine import Fields, affine_of
from readers.schema import ReadError
from readers.volume_grid import spacing_of

# Bytes that hold the longest of the three headers.
HEADER_BYTES = 540
MAX_AXIS = 65_535

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {
    1: "one bit a voxel",
    32: "complex64",
    128: "RGB colours",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA colours",
}

# Field: byte offset, struct code. "cal" and "gl" are (largest, smallest).
_ANALYZE: dict[str, tuple[int, str]] = {
    "dim": (40, "8h"),
    "datatype": (70, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scale": (112, "2f"),
    "cal": (124, "2f"),
    "gl": (140, "2i"),
    "origin": (253, "3h"),
}
_NIFTI1 = _ANALYZE | {
    "units": (123, "B"),
    "codes": (252, "2h"),
    "quatern": (256, "3f"),
    "qoffset": (268, "3f"),
    "srow": (280, "12f"),
}
_NIFTI2: dict[str, tuple[int, str]] = {
    "datatype": (12, "h"),
    "dim": (16, "8q"),
    "pixdim": (104, "8d"),
    "vox_offset": (168, "q"),
    "scale": (176, "2d"),
    "cal": (192, "2d"),
    "codes": (344, "2i"),
    "quatern": (352, "3d"),
    "qoffset": (376, "3d"),
    "srow": (400, "12d"),
    "units": (500, "i"),
}


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says of its voxels.

    ``offset``: bytes before the first voxel; voxels are stored with the first axis fastest. ``affine`` (4 rows) takes
    stored indices to RAS mm. A physical value is stored * slope + inter. ``low`` and ``high``: the range for
    display, where one is set.
    """

    version: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: tuple[tuple[float, ...], ...]
    low: float | None
    high: float | None
    warnings: tuple[str, ...]

    @property
    def voxels(self) -> int:
        """Voxels of the volume."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored voxels."""
        return self.voxels * self.dtype.itemsize

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels along each stored axis."""
        return tuple(float(s) for s in spacing_of(np.array(self.affine)))


def looks_like_header(head: bytes) -> bool:
    """Whether bytes begin a NIfTI or Analyze header: its length, in either byte order."""
    return _layout(head) is not None


def parse(raw: bytes, name: str, *, pair: bool, room: int) -> NiftiHeader:
    """Parse a header; ``name`` is the file's, for messages; ``pair``: voxels are in a file of their own.

    ``room``: the bytes that the file with the voxels can hold at most, its header among them.
    Raises ReadError for what is no such header, or is one of no volume that can be read here.
    """
    layout = _layout(raw)
    if layout is None:
        raise ReadError(f"{name} is no NIfTI file: it begins with neither 348 nor 540, the length of a header")
    version, order, size, table = layout
    if len(raw) < size:
        raise ReadError(f"{name} ends after {len(raw)} bytes, inside its header of {size}")
    if not pair and version == "Analyze 7.5":
        raise ReadError(f"{name} is no NIfTI file: the mark n+1 is missing from its header")
    fields = {key: struct.unpack_from(order + code, raw, at) for key, (at, code) in table.items()}
    shape = _shape(fields["dim"], name)
    dtype = _dtype(fields["datatype"][0], order, name)
    offset = _offset(fields["vox_offset"][0], pair, size, name)
    if (needed := offset + math.prod(shape) * dtype.itemsize) > room:
        text = " x ".join(str(n) for n in shape)
        raise ReadError(f"{name} claims {text} voxels of {dtype.name}, {needed} bytes; its file holds at most {room}")
    notes: list[str] = []
    if dtype.kind in "iu" and dtype.itemsize == 8:
        notes.append(f"stored as {dtype.name}: values beyond 16777216 lose digits in float32")
    slope, inter = _scale(fields, version, notes)
    affine = affine_of(fields, version, shape, name, notes)
    low, high = fields["cal"][1], fields["cal"][0]
    ranged = math.isfinite(low) and math.isfinite(high) and low < high
    return NiftiHeader(
        version=version,
        shape=shape,
        dtype=dtype,
        offset=offset,
        slope=slope,
        inter=inter,
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        low=low if ranged else None,
        high=high if ranged else None,
        warnings=tuple(notes),
    )


def _layout(raw: bytes) -> tuple[str, str, int, dict[str, tuple[int, str]]] | None:
    """Name, byte order, length and fields of the header that these bytes begin."""
    for order in "<>":
        size = struct.unpack(order + "i", raw[:4])[0] if len(raw) >= 4 else 0
        if size == 540:
            return "NIfTI-2", order, 540, _NIFTI2
        if size == 348:
            marked = raw[344:348] in (b"n+1\0", b"ni1\0")
            return ("NIfTI-1", order, 348, _NIFTI1) if marked else ("Analyze 7.5", order, 348, _ANALYZE)
    return None


def _shape(dim: tuple[int, ...], name: str) -> tuple[int, int, int]:
    if not 1 <= dim[0] <= 7:
        raise ReadError(f"{name} claims {dim[0]} axes; 1 to 7 are possible")
    sizes = dim[1 : dim[0] + 1]
    text = " x ".join(str(size) for size in sizes)
    if min(sizes) < 1 or max(sizes) > MAX_AXIS:
        raise ReadError(f"{name} claims {text} voxels; an axis has 1 to {MAX_AXIS}")
    if len(sizes) < 3:
        raise ReadError(f"{name} is {len(sizes)}-D, {text} voxels; a volume has three axes")
    if (more := math.prod(sizes[3:])) > 1:
        raise ReadError(
            f"{name} is {len(sizes)}-D, {text}: {more} volumes in one file (a time series, diffusion directions or "
            "vectors), and one volume a file is read here; take one of them out first (fslroi, nibabel's slicer)"
        )
    return sizes[0], sizes[1], sizes[2]


def _dtype(code: int, order: str, name: str) -> np.dtype[Any]:
    if code in _TYPES:
        return np.dtype(order + _TYPES[code])
    raise ReadError(
        f"{name} stores {_REFUSED.get(code, f'data type {code}')}; one real number a voxel, of at most 64 bits, is read"
    )


def _offset(vox_offset: float, pair: bool, size: int, name: str) -> int:
    if not math.isfinite(vox_offset) or vox_offset < 0 or vox_offset > 2**62:
        raise ReadError(f"{name} places its first voxel at byte {vox_offset}")
    if pair:
        return int(vox_offset)
    first = size + 4
    if 0 < vox_offset < first:
        raise ReadError(f"{name} places its first voxel at byte {vox_offset:g}, inside its header of {first}")
    return int(vox_offset) or first


def _scale(fields: Fields, version: str, notes: list[str]) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where the header holds none."""
    slope, inter = fields["scale"]
    if math.isfinite(slope) and slope != 0:
        if not math.isfinite(inter):
            notes.append(f"the intercept of its values is {inter} and counts as 0")
            inter = 0.0
        return float(slope), float(inter)
    if version == "Analyze 7.5":
        (high, low), (largest, smallest) = fields["cal"], fields["gl"]
        if math.isfinite(high - low) and high != low and largest != smallest:
            slope = (high - low) / (largest - smallest)
            notes.append(f"values are scaled so that {smallest} to {largest} stand for {low:g} to {high:g}")
            return slope, low - slope * smallest
    return 1.0, 0.0
