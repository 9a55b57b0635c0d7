"""Synthetic head scans of several people in three contrasts, some with lesions, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from toolkit.demo import head
from toolkit.demo.head import Anatomy, FloatArray
from toolkit.demo.labels import write_labels
from toolkit.errors import UsageError

CONTRASTS = ("T1w", "T2w", "PDw")
SHAPE = (64, 72, 60)  # voxels along right, anterior and superior
SPACING_MM = (3.0, 3.0, 3.2)
LABELS = ("healthy", "lesion")


@dataclass(frozen=True)
class Scanner:
    """How a scanner stores a volume: axes of the stored array, number type, its largest value, noise and coil."""

    axes: str  # the direction towards which each stored axis grows
    dtype: DTypeLike
    full: int  # the stored value of the brightest tissue
    noise: float  # standard deviation over the brightest tissue
    shading: float  # of the coil's sensitivity, about its largest deviation from 1


SCANNERS = (
    Scanner("RAS", np.int16, 1000, 0.02, 0.15),
    Scanner("PSR", np.uint8, 220, 0.03, 0.10),
    Scanner("LAS", np.int16, 600, 0.025, 0.25),
)


def grid(scanner: Scanner, tilt: FloatArray) -> tuple[tuple[int, int, int], FloatArray]:
    """Stored shape and affine (4, 4) from stored voxels to mm, centred on the origin.

    ``tilt`` (3, 3): how the scanner's axes are turned against the room's, as an operator turns an oblique slab.
    """
    order = [next(k for k, pair in enumerate(("RL", "AP", "SI")) if axis in pair) for axis in scanner.axes]
    x, y, z = (SHAPE[k] for k in order)
    affine = np.eye(4)
    for column, (k, axis) in enumerate(zip(order, scanner.axes, strict=True)):
        affine[:3, column] = tilt[:, k] * SPACING_MM[k] * (1 if axis in "RAS" else -1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    return (x, y, z), affine


def places(shape: Sequence[int], affine: FloatArray) -> FloatArray:
    """Centres (X, Y, Z, 3) in mm of the stored voxels."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3])


def turn(degrees: FloatArray) -> FloatArray:
    """Rotation (3, 3) by angles about x, y and z, one after the other."""
    total = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[a, b], [a, b]] = np.cos(angle)
        step[b, a], step[a, b] = np.sin(angle), -np.sin(angle)
        total = step @ total
    return total


def sensitivity(where: FloatArray, shading: float, rng: np.random.Generator) -> FloatArray:
    """A coil's sensitivity (...) at places (..., 3) in mm: positive, smooth over the head, about 1 +- ``shading``."""
    waves = head.draw_waves(rng, 5, 260, 500, 1.0)
    return np.asarray(np.exp(shading * np.tanh(waves.at(where))))


def scan(fractions: FloatArray, contrast: str, coil: FloatArray, scanner: Scanner, rng: np.random.Generator) -> NDArray:
    """The stored volume of one contrast from the tissues (T, X, Y, Z) and the coil's sensitivity."""
    tissues = head.contrast_signals(contrast)
    clean = np.tensordot(tissues, fractions, axes=1) * coil
    noisy = head.rician(clean / tissues.max(), scanner.noise, rng)
    limit = np.iinfo(np.dtype(scanner.dtype)).max
    return np.clip(np.rint(noisy * scanner.full), 0, limit).astype(scanner.dtype)


def ventricle_volume(fractions: FloatArray) -> float:
    """Millilitres of fluid in the ventricles."""
    return float(fractions[head.NAMES.index("ventricle")].sum() * np.prod(SPACING_MM) / 1000)


def write_volume(path: Path, volume: NDArray, affine: FloatArray) -> Path:
    """Write a volume as NIfTI with its type kept, qform and sform both "scanner"; returns its path."""
    import nibabel  # here, so that the simulation alone needs no file format

    image = nibabel.Nifti1Image(volume, affine, dtype=volume.dtype)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header["descrip"] = b"synthetic: toolkit demo"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def draw_session(index: int, seed: int) -> tuple[str, Anatomy]:
    """The label and the head of a subject: in each pair of subjects one, drawn by chance, has lesions."""
    first = bool(np.random.default_rng([seed, index // 2, 7]).integers(2))
    lesions = first == (index % 2 == 0)
    return LABELS[lesions], head.draw_anatomy(np.random.default_rng([seed, index, 1]), lesions)


def generate(folder: Path, *, subjects: int = 12, seed: int = 0) -> Path:
    """Write three contrasts of every subject to ``folder``, named as BIDS has it, and return the path of ``labels.csv``.

    The labels have one row per subject, by its T1w scan: ``path,label,subject,age,ventricle_ml``. Scanners take
    turns, so orientations and number types differ. The same seed gives the same files, and asking for more subjects
    leaves the earlier ones as they are.
    """
    if subjects < 1:
        raise UsageError(f"A demo needs at least one subject: got {subjects}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[str | float]] = []
    for index in range(subjects):
        name = f"sub-{index + 1:02d}"
        label, anatomy = draw_session(index, seed)
        rng = np.random.default_rng([seed, index, 2])
        scanner = SCANNERS[index % len(SCANNERS)]
        shape, affine = grid(scanner, turn(rng.normal(0, 3, 3)))
        centres = places(shape, affine)
        where = (centres - rng.normal(0, 3, 3)) @ turn(rng.normal(0, 4, 3))  # the head does not lie straight
        fractions = head.tissues(where, anatomy)
        coil = sensitivity(centres, scanner.shading, rng)
        anat = folder / name / "anat"
        for contrast in CONTRASTS:
            write_volume(anat / f"{name}_{contrast}.nii.gz", scan(fractions, contrast, coil, scanner, rng), affine)
        handle = f"{name}/anat/{name}_{CONTRASTS[0]}.nii.gz"
        rows.append((handle, label, name, round(anatomy.age, 1), round(ventricle_volume(fractions), 1)))
    return write_labels(folder, ("path", "label", "subject", "age", "ventricle_ml"), rows)
