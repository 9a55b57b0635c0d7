"""Small MRI volumes in the real formats, written by nibabel: a head of ellipsoids, in every type and orientation."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

IMAGES = {"nifti1": nib.Nifti1Image, "nifti2": nib.Nifti2Image, "pair": nib.Nifti1Pair, "analyze": nib.AnalyzeImage}
ENDINGS = {"nifti1": ".nii", "nifti2": ".nii", "pair": ".hdr", "analyze": ".hdr"}
# How bright cortex, white matter and fluid are.
BRIGHTNESS = {"T1w": (0.6, 1.0, 0.2), "T1ce": (0.65, 1.0, 0.25), "T2w": (0.7, 0.5, 1.0), "FLAIR": (0.8, 0.6, 0.1)}


def head(shape: Sequence[int] = (20, 24, 18), contrast: str = "T1w", *, seed: int = 0) -> NDArray[np.float64]:
    """A head of three nested ellipsoids with a little noise: 0 outside, up to about 1000 inside."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum((axis / 0.85) ** 2 for axis in grid))
    cortex, white, fluid = (1000 * level for level in BRIGHTNESS.get(contrast, BRIGHTNESS["T1w"]))
    image = np.select([radius < 0.25, radius < 0.7, radius < 1], [fluid, white, cortex], 0.0)
    noise = np.random.default_rng(seed).uniform(-20, 20, image.shape)
    return np.where(image > 0, image + noise, 0.0)


def affine(
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    angles: Sequence[float] = (0.0, 0.0, 0.0),
    origin: Sequence[float] = (-10, -12, -9),
) -> NDArray[np.float64]:
    """RAS mm from indices: rotations about x, y and z in degrees, then the origin."""
    found = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(angles)):
        turn = np.eye(4)
        a, b = [k for k in range(3) if k != axis]
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        found = found @ turn
    found[:3, :3] *= spacing
    found[:3, 3] = origin
    return found


def volume(
    folder: Path,
    name: str,
    values: NDArray[Any] | None = None,
    *,
    kind: str = "nifti1",
    dtype: str = "int16",
    where: NDArray[np.float64] | None = None,
    slope: float | None = None,
    inter: float = 0.0,
    big: bool = False,
    compressed: bool = False,
    change: Callable[[Any], None] = lambda header: None,
) -> Path:
    """Write one volume; ``values`` are the stored numbers where a slope is given too.

    ``change`` may set header fields before the file is written. Returns the handle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.asarray(head() if values is None else values)
    stored = stored.astype(np.dtype(dtype).newbyteorder(">" if big else "<"))
    header = IMAGES[kind].header_class(endianness=">" if big else "<")
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    if kind != "analyze":
        where = affine() if where is None else where
        header.set_zooms([*np.linalg.norm(where[:3, :3], axis=0), *[1.0] * 4][: stored.ndim])
        header.set_xyzt_units("mm")
        header.set_sform(where, 2)
    change(header)
    image = IMAGES[kind](stored, None, header)  # with no affine, nibabel leaves the forms as they are
    path = folder / (name + ENDINGS[kind])
    image.to_filename(path)
    if slope is not None:
        _set_scale(path, kind, ">" if big else "<", slope, inter)
    if compressed:
        path = compress(path)
    return path


def compress(path: Path) -> Path:
    """Turn a .nii, or the .img of a .hdr, into its compressed form; returns the handle."""
    plain = path.with_suffix(".img") if path.suffix == ".hdr" else path
    packed = plain.with_name(plain.name + ".gz")
    with packed.open("wb") as raw, gzip.GzipFile(filename=plain.name, fileobj=raw, mode="wb", mtime=1) as file:
        file.write(plain.read_bytes())
    plain.unlink()
    return path if path.suffix == ".hdr" else packed


def _set_scale(path: Path, kind: str, order: str, slope: float, inter: float) -> None:
    """Set the scaling in a written header: nibabel would choose other stored numbers."""
    content = bytearray(path.read_bytes())
    at, code = (176, "2d") if kind == "nifti2" else (112, "2f")
    struct.pack_into(order + code, content, at, slope, inter)
    path.write_bytes(content)


def session(folder: Path, stem: str = "sub-01_ses-1", contrasts: Sequence[str] = ("T1w", "T2w", "FLAIR")) -> list[Path]:
    """Aligned contrasts of one session, compressed; the paths in the order given."""
    return [volume(folder, f"{stem}_{name}", head(contrast=name, seed=k), compressed=True) for k, name in enumerate(contrasts)]


FORMATS: dict[str, Callable[[Path], Path]] = {
    "nifti1": lambda folder: volume(folder, "a_T1w"),
    "nifti1-float-compressed": lambda folder: volume(folder, "b_T2w", dtype="float32", compressed=True),
    "nifti2-big-endian": lambda folder: volume(folder, "c_FLAIR", kind="nifti2", dtype="uint16", big=True),
    "nifti1-pair": lambda folder: volume(folder, "d_T1w", kind="pair"),
    "analyze": lambda folder: volume(folder, "e_T1w", kind="analyze"),
    "analyze-compressed": lambda folder: compress(volume(folder, "f_T1w", kind="analyze", dtype="uint8", values=head() / 4)),
}
