"""A guided filter: what is known on a coarse grid as local linear functions of images that are also known finely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from readers.schema import BoolArray

Float64 = NDArray[np.float64]
LEAST = 1e-9  # of a window that must be known


def local_lines(target: Float64, guides: Float64, known: BoolArray, width: int, ease: float) -> tuple[Float64, Float64]:
    """Slopes (K, X, Y, Z) and offset (X, Y, Z) with which ``sum(slopes * guides) + offset`` is close to a target (X, Y, Z).

    He, Sun, Tang, "Guided Image Filtering" (TPAMI 2013), with several guides (K, X, Y, Z) at once: least squares in the cube of
    ``width`` voxels around each voxel, the mean over the cubes that a voxel lies in. As these change slowly, they may be brought
    to a finer grid and applied to the guides there (He, Sun, "Fast Guided Filter", 2015). ``ease`` draws slopes to 0: it is added
    to each guide's variance, in shares of that guide's variance over all that is ``known``. Voxels that are not known have no
    part; NaN where a cube holds none that are.
    """
    share = ndimage.uniform_filter(known.astype(np.float64), width, mode="constant")
    there = share > LEAST

    def mean(values: Float64) -> Float64:
        total = ndimage.uniform_filter(np.where(known, values, 0.0), width, mode="constant")
        return np.where(there, total / np.maximum(share, LEAST), 0.0)

    count = len(guides)
    deviation = np.array([guide[known].std() if known.any() else 1.0 for guide in guides])
    deviation[deviation == 0] = 1.0
    centre = np.array([guide[known].mean() if known.any() else 0.0 for guide in guides])
    scaled = (guides - centre[:, None, None, None]) / deviation[:, None, None, None]
    middle, aim = [mean(guide) for guide in scaled], mean(target)
    square, both = np.empty((*target.shape, count, count)), np.empty((*target.shape, count))
    for i in range(count):
        both[..., i] = mean(scaled[i] * target) - middle[i] * aim
        for j in range(i + 1):
            square[..., i, j] = square[..., j, i] = mean(scaled[i] * scaled[j]) - middle[i] * middle[j]
    square[..., range(count), range(count)] += max(ease, LEAST)
    found = np.moveaxis(np.linalg.solve(square, both[..., None])[..., 0], -1, 0)
    offset = aim - sum(slope * level for slope, level in zip(found, middle, strict=True))
    slopes = np.stack([mean(slope) for slope in found]) / deviation[:, None, None, None]
    offset = mean(offset) - np.tensordot(centre, slopes, axes=1)
    return np.where(there, slopes, np.nan), np.where(there, offset, np.nan)
