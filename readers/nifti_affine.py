"""Where a NIfTI or Analyze header places its voxels in space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from readers.schema import ReadError
from readers.volume_grid import Float64, spacing_of

Fields = dict[str, tuple[Any, ...]]

# Millimetres. A scanner is smaller than ten metres, and no voxel is smaller than a cell's tenth.
MAX_EXTENT_MM = 10_000.0
MIN_SPACING_MM = 1e-4
# Two forms of one header that place the volume's corners further apart than this are told apart aloud.
FORMS_AGREE_MM = 1e-3

_UNITS = {1: ("metres", 1e3), 2: ("mm", 1.0), 3: ("micrometres", 1e-3)}


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is told as such
def affine_of(fields: Fields, version: str, shape: tuple[int, int, int], name: str, notes: list[str]) -> Float64:
    """Affine (4, 4) from stored indices to RAS mm: the sform where its code is set, else the qform, else the spacing.

    What a user should know of it is added to ``notes``. Raises ReadError for one that places no volume.
    """
    zooms = np.abs(np.array(fields["pixdim"][1:4], np.float64))
    unit, factor = ("mm", 1.0) if version == "Analyze 7.5" else _unit(fields["units"][0], notes)
    q_code, s_code = fields.get("codes", (0, 0))
    qform = _qform(fields) if q_code > 0 else None
    if s_code > 0:
        affine = np.vstack([np.reshape(fields["srow"], (3, 4)), [0, 0, 0, 1]]).astype(np.float64)
        _check_affine(affine, shape, factor, unit, f"sform of {name}")
        if qform is not None:
            _compare_forms(affine, qform, shape, factor, notes)
        elif q_code > 0:
            notes.append("its qform is no rotation: the sform counts")
    else:
        for axis, spacing in enumerate(fields["pixdim"][1:4]):
            if not (math.isfinite(spacing) and spacing > 0):
                raise ReadError(f"{name} has a spacing of {spacing:g} {unit} along axis {axis + 1}")
        if q_code > 0 and qform is None:
            said = f"its quaternion is {_numbers(fields['quatern'])}, its offset {_numbers(fields['qoffset'])} {unit}"
            raise ReadError(f"the qform of {name} is no rotation and place: {said}")
        affine = _base(fields, version, shape) if qform is None else qform
        if qform is None:
            notes.append("its header holds no orientation: the axes count as left, anterior, superior")
        _check_affine(affine, shape, factor, unit, f"qform of {name}" if q_code > 0 else f"grid of {name}")
    spacing = spacing_of(affine)
    if not np.allclose(spacing, zooms, rtol=1e-2, atol=0):
        notes.append(f"its spacing is {_numbers(zooms)} {unit} by pixdim and {_numbers(spacing)} by its sform, which counts")
    affine[:3] *= factor
    return affine


def _unit(code: int, notes: list[str]) -> tuple[str, float]:
    if code & 7 not in _UNITS:
        notes.append("its unit of length is not set: mm assumed")
        return "mm", 1.0
    unit, factor = _UNITS[code & 7]
    if factor != 1:
        notes.append(f"its lengths are in {unit} and were turned into mm")
    return unit, factor


def _qform(fields: Fields) -> Float64 | None:
    """The affine of the quaternion, or None where that is no rotation or not finite."""
    b, c, d = (float(v) for v in fields["quatern"])
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest > -1e-4:  # float32 rounding reaches 1e-6; NaN is caught as well
        return None
    a = math.sqrt(max(rest, 0.0)) if abs(rest) > 3.6e-7 else 0.0
    a, b, c, d = (v / math.sqrt(a * a + b * b + c * c + d * d) for v in (a, b, c, d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(fields["pixdim"][1:4], np.float64)
    affine[:3, 2] *= -1.0 if fields["pixdim"][0] < 0 else 1.0
    affine[:3, 3] = fields["qoffset"]
    return affine if np.isfinite(affine).all() else None


def _base(fields: Fields, version: str, shape: tuple[int, int, int]) -> Float64:
    """Spacing alone: x to the left, zero in the middle of the volume, or at the origin that SPM stores in Analyze."""
    zooms = np.array(fields["pixdim"][1:4], np.float64) * (-1, 1, 1)
    sizes = np.array(shape)
    centre = (sizes - 1) / 2
    if version == "Analyze 7.5":
        origin = np.array(fields["origin"])
        if origin.any() and (origin > -sizes).all() and (origin < 2 * sizes).all():
            centre = origin - 1.0
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = -centre * zooms
    return affine


def _check_affine(affine: Float64, shape: tuple[int, int, int], factor: float, unit: str, what: str) -> None:
    if not np.isfinite(affine).all():
        raise ReadError(f"the {what} holds numbers that are not finite")
    spacing = spacing_of(affine) * factor
    if spacing.min() == 0 or abs(np.linalg.det(affine[:3, :3] * factor / spacing)) < 1e-4:
        raise ReadError(f"the {what} is singular: its axes do not span space")
    if spacing.min() < MIN_SPACING_MM or (spacing * shape).max() > MAX_EXTENT_MM:
        where = int(np.argmin(spacing)) if spacing.min() < MIN_SPACING_MM else int(np.argmax(spacing * shape))
        at = f"spacing of {spacing[where]:g} mm along axis {where + 1}, {spacing[where] * shape[where]:g} mm in all"
        raise ReadError(f"the {what} has a {at} (unit: {unit}); {MIN_SPACING_MM:g} mm to {MAX_EXTENT_MM:g} mm are possible")
    if np.abs(affine[:3, 3] * factor).max() > 1e6:
        raise ReadError(f"the {what} places the volume {np.abs(affine[:3, 3] * factor).max():g} mm away")


def _compare_forms(sform: Float64, qform: Float64, shape: tuple[int, int, int], factor: float, notes: list[str]) -> None:
    apart = corners_apart(sform, qform, shape) * factor
    if not apart <= FORMS_AGREE_MM:
        notes.append(f"its sform and qform place voxels up to {apart:.4g} mm apart: the sform counts")


def corners_apart(one: Float64, other: Float64, shape: tuple[int, int, int]) -> float:
    """Largest distance between where two affines place a corner of a grid."""
    corners = np.array([[x, y, z, 1.0] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    return float(np.sqrt((((one - other) @ corners.T)[:3] ** 2).sum(0)).max())


def _numbers(values: Any) -> str:
    return " x ".join(f"{float(value):.5g}" for value in values)
