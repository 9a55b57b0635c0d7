"""New NIfTI volumes on the grid of one that is there: a contrast that a session lacks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from readers.mri_names import ENDINGS, UNKNOWN, parts_of, stem_of
from readers.schema import ReadError


def named_like(path: Path, contrast: str) -> Path:
    """The name of another contrast of a file's session: ``sub-1_T1w.nii.gz`` and ``T2w`` give ``sub-1_T2w.nii.gz``."""
    stem, word = stem_of(path), parts_of(path).word
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), ".nii")
    base = f"{stem}_" if word == UNKNOWN else stem[: len(stem) - len(word)]
    return path.with_name(base + contrast + (".nii" if ending == ".hdr" else ending))


def create_nifti(like: Path, values: NDArray[np.floating], path: Path, describe: str) -> None:
    """Write ``values`` (X, Y, Z) as float32 NIfTI-1 on the grid of ``like``: its shape, affine, both codes and units.

    ``describe``: up to 79 letters for the header's own words. Raises ReadError for another shape than that of ``like``,
    numbers that are not finite, and a failing disk.
    """
    import nibabel

    source = nibabel.load(like)
    held = source.shape[:3] if isinstance(source, nibabel.spatialimages.SpatialImage) else ()
    if tuple(held) != values.shape:
        raise ReadError(f"{path.name} has {values.shape} voxels, {like.name} {tuple(held)}")
    assert isinstance(source, nibabel.spatialimages.SpatialImage)
    if not np.isfinite(values).all():
        raise ReadError(f"{path.name} would hold numbers that are not finite")
    image = nibabel.Nifti1Image(values.astype(np.float32), source.affine)
    image.header.set_xyzt_units("mm", "sec")
    if isinstance(source, nibabel.Nifti1Pair):
        image.header.set_xyzt_units(*source.header.get_xyzt_units())
        for kind in ("qform", "sform"):
            affine, code = getattr(source, f"get_{kind}")(coded=True)
            getattr(image, f"set_{kind}")(affine, int(code))
    image.header["descrip"] = describe.encode("ascii", "replace")[:79]
    part = path.with_name("part-" + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, part)
        os.replace(part, path)
    except OSError as error:
        raise ReadError(f"{path.name} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
