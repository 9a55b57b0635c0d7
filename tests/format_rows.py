"""Every format as its own library reads it: what the table of formats compares the readers with.

A row makes a small file and says how mne, wfdb, nibabel, soundfile, open3d, laspy or numpy reads it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import audio_files, eeg_files, eeg_mne_files, mri_files, points_files, wfdb_files
from tests.points_files import cloud, coordinates

Float64 = NDArray[np.float64]
GAP_ONSETS = (0, 1, 3.5, 4.5, 10)  # of the records of the discontinuous file, in s


@dataclass(frozen=True)
class Truth:
    """A file as a library reads it.

    ``values``: float64 of each channel, in the order in which patches count, NaN where the file holds none; of volts
    where ``header["si"]``. ``grid``: of a volume, the same with axes towards right, anterior and superior.
    ``header``: everything else that is read; a copy has to have the same. ``relative``: how exact the values are, as a
    share of the largest; the rest is what float64 formulas in another order leave.
    """

    values: list[Float64]
    header: dict[str, Any]
    grid: Float64 | None = None
    relative: float = 1e-12


@dataclass(frozen=True)
class Row:
    """One row of the table. ``written``: how the library reads a copy that is of another format, within ``slack``.

    ``refused``: it is not written at all.
    """

    title: str
    library: str
    make: Callable[[Path], Path]
    truth: Callable[[Path], Truth]
    written: Callable[[Path], Truth] | None = None
    slack: float = 0.0
    refused: bool = False
    note: str = ""

    @property
    def available(self) -> bool:
        """Whether the library is installed, and what it needs."""
        needed = {"laspy": ("laspy", "lazrs")}.get(self.library, (self.library,))
        return all(importlib.util.find_spec(name) is not None for name in needed)


def by_mne(path: Path, *, onsets: Sequence[float] | None = None) -> Truth:
    """Volts; ``onsets``: when the records of 1 s begin, which mne joins where there are gaps between them."""
    import mne

    read = {".cnt": partial(mne.io.read_raw_cnt, data_format="int16")}.get(path.suffix, mne.io.read_raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = read(path, preload=True, verbose="error")
    values, rate = raw.get_data(), float(raw.info["sfreq"])
    if onsets is not None:
        per_record = round(rate)
        spread = np.full((len(values), round((onsets[-1] + 1) * rate)), np.nan)
        for number, onset in enumerate(onsets):
            at = round(onset * rate)
            spread[:, at : at + per_record] = values[:, number * per_record : (number + 1) * per_record]
        values = spread
    marks = [(float(o), float(d), str(t)) for o, d, t in zip(*_columns(raw.annotations), strict=True)]
    header = {"names": raw.ch_names, "rate": rate, "bads": raw.info["bads"], "marks": marks, "si": True}
    return Truth(list(values), header | {"units": dict(raw._orig_units), "date": raw.info["meas_date"]})


def _columns(annotations: Any) -> tuple[Any, Any, Any]:
    return annotations.onset, annotations.duration, annotations.description


def by_wfdb(path: Path) -> Truth:
    """Physical units. The checksums of a copy are its own."""
    import wfdb

    stem = str(path.with_suffix(""))
    record = wfdb.rdrecord(stem)
    names, units, rate = record.sig_name, record.units, float(record.fs)
    header = {"names": names, "units": units, "rate": rate, "gains": record.adc_gain, "baselines": record.baseline}
    found = wfdb.rdann(stem, "atr") if path.with_suffix(".atr").is_file() else None
    notes = [] if found is None else [found.sample.tolist(), found.symbol]
    return Truth(list(record.p_signal.T), header | {"formats": record.fmt, "comments": record.comments, "notes": notes})


def by_nibabel(path: Path) -> Truth:
    """Scaled values; the whole header as nibabel holds it."""
    import nibabel as nib

    image: Any = nib.load(path)
    nearest: Any = nib.as_closest_canonical(image)
    header = {"affine": image.affine.tolist(), "shape": image.shape, "raw": image.header.binaryblock}
    header |= {"spacing": [float(v) for v in image.header.get_zooms()[:3]], "grid": nearest.affine.tolist()}
    header["type"] = image.get_data_dtype().name
    return Truth([image.get_fdata().reshape(-1)], header, nearest.get_fdata())


def by_soundfile(path: Path) -> Truth:
    """Values of full scale 1."""
    import soundfile

    values, rate = soundfile.read(str(path), dtype="float64", always_2d=True)
    info = soundfile.info(str(path))
    return Truth(list(values.T), {"rate": float(rate), "subtype": info.subtype, "container": info.format})


def by_open3d(path: Path) -> Truth:
    """Coordinates and attributes; meshes give their vertices."""
    from readers.open3d_import import load_open3d

    open3d = load_open3d()
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    if path.suffix in (".off", ".obj"):
        mesh = open3d.io.read_triangle_mesh(str(path))
        found = _points(xyz=np.asarray(mesh.vertices), faces=np.asarray(mesh.triangles).tolist())
        return replace(found, relative=2.0**-23) if path.suffix == ".obj" else found
    if path.suffix == ".xyz":
        return _points(xyz=np.asarray(open3d.io.read_point_cloud(str(path)).points))
    point = open3d.t.io.read_point_cloud(str(path)).point
    rest = {name.replace("intensities", "intensity"): point[name].numpy() for name in point}
    return _points(rest.pop("positions"), rest.pop("normals", None), rest.pop("colors", None), rest)


def _points(
    xyz: NDArray[Any],
    normals: NDArray[Any] | None = None,
    colors: NDArray[Any] | None = None,
    rest: dict[str, NDArray[Any]] | None = None,
    faces: list[Any] | None = None,
) -> Truth:
    columns = dict(zip("xyz", xyz.T, strict=True))
    columns |= {} if normals is None else dict(zip(("nx", "ny", "nz"), normals.T, strict=True))
    columns |= {} if colors is None else dict(zip(("red", "green", "blue"), colors.T, strict=True))
    columns |= {name: values.reshape(-1) for name, values in sorted((rest or {}).items())}
    types = {name: values.dtype.str for name, values in columns.items()}
    return Truth([v.astype(np.float64) for v in columns.values()], {"names": list(columns), "types": types, "faces": faces})


def by_laspy(path: Path) -> Truth:
    """Scaled coordinates and every dimension."""
    import laspy

    data = laspy.read(str(path))
    head, names = data.header, [name for name in data.point_format.dimension_names if name not in ("X", "Y", "Z")]
    columns = {name: np.asarray(data[name]) for name in ("x", "y", "z", *names)}
    header = {"scales": head.scales.tolist(), "offsets": head.offsets.tolist(), "format": head.point_format.id}
    return Truth(
        [v.astype(np.float64) for v in columns.values()], header | {"names": list(columns), "version": str(head.version)}
    )


def by_numpy(path: Path) -> Truth:
    """Plain arrays and what else an archive holds."""
    if path.suffix == ".bin":
        table = np.fromfile(path, "<f4").reshape(-1, 4)
        return Truth(list(table.T.astype(np.float64)), {"names": ["x", "y", "z", "intensity"]})
    found = np.load(path)
    array, others = (found, {}) if path.suffix == ".npy" else (found["points"], {k: found[k].tolist() for k in found.files[1:]})
    return Truth(list(array.T.astype(np.float64)), {"names": ["x", "y", "z"], "type": array.dtype.str, "others": others})


def _wfdb(fmt: str) -> Callable[[Path], Path]:
    return partial(wfdb_files.packed, fmt=fmt, baseline=(3, 0))


def _mesh(folder: Path, kind: str) -> Path:
    """Vertices of an OFF or OBJ, with a strip of faces: open3d leaves out vertices of OBJ that no face has."""
    off, path = kind == "off", folder / f"a.{kind}"
    head = "OFF\n40 38 0\n" if off else "# made by hand\n"
    points_files.text(path, coordinates(cloud()), head=head, prefix="" if off else "v ")
    with path.open("a") as file:
        file.writelines(f"3 {k} {k + 1} {k + 2}\n" if off else f"f {k + 1} {k + 2} {k + 3}\n" for k in range(38))
    return path


def _gaps(folder: Path) -> Path:
    return eeg_files.write(folder / "gaps.edf", eeg_files.lines_of((16, 16), 5), variant="EDF+D", onsets=GAP_ONSETS)


def _sound(container: str, subtype: str | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rate = 48_000 if container == "opus" else 32_000
        return audio_files.audio(folder, container, subtype, audio_files.song(0.3, rate, 2), rate=rate)

    return make


def _made(module: Any, name: str) -> Callable[[Path], Path]:
    return module.FORMATS[name]


_EDF = Row("EDF", "mne", _made(eeg_files, "edf"), by_mne)
_WAV = Row("WAV", "soundfile", _made(audio_files, "wav-field"), by_soundfile)
_PLY = Row("PLY ascii", "open3d", _made(points_files, "ply-ascii"), by_open3d)
_NII = Row("NIfTI-1 `.nii`", "nibabel", _made(mri_files, "nifti1"), by_nibabel)
_NEW_LAS: dict[str, Any] = {"extra": True, "version": "1.4", "point_format": 7}
_LOSSY: dict[str, Any] = {
    "written": by_soundfile,
    "slack": 2.0**-24,
    "note": "written as FLAC of 24 bits, within 2⁻²⁴ of what it decodes to",
}
_FLOATS: dict[str, Any] = {"written": by_mne, "slack": 2.0**-23, "note": "written as BrainVision, 32-bit floats"}

ROWS: tuple[Row, ...] = (
    _EDF,
    replace(_EDF, title="EDF+C", make=_made(eeg_files, "edf+c")),
    replace(
        _EDF,
        title="EDF+D",
        make=_gaps,
        truth=partial(by_mne, onsets=GAP_ONSETS),
        note="mne joins the records; here they are put where their onsets say",
    ),
    replace(_EDF, title="BDF", make=_made(eeg_files, "bdf")),
    replace(_EDF, title="BrainVision, integers", make=_made(eeg_mne_files, "brainvision")),
    replace(_EDF, title="BrainVision, floats, vectorized", make=_made(eeg_mne_files, "brainvision-float")),
    replace(_EDF, title="EEGLAB `.set`", make=_made(eeg_mne_files, "eeglab")),
    replace(_EDF, title="EEGLAB `.set`, compressed", make=_made(eeg_mne_files, "eeglab-compressed")),
    replace(_EDF, title="EEGLAB `.set` and `.fdt`", make=_made(eeg_mne_files, "eeglab-fdt")),
    replace(_EDF, title="FIF", make=_made(eeg_mne_files, "fif")),
    Row("GDF 1", "mne", _made(eeg_mne_files, "gdf1"), by_mne, **_FLOATS),
    Row("GDF 2", "mne", _made(eeg_mne_files, "gdf2"), by_mne, **_FLOATS),
    Row("CNT", "mne", _made(eeg_mne_files, "cnt"), by_mne, **_FLOATS),
    *(Row(f"WFDB, format {fmt}", "wfdb", _wfdb(fmt), by_wfdb) for fmt in ("16", "24", "32", "80", "212")),
    Row("WFDB, FLAC (516)", "wfdb", _wfdb("516"), by_wfdb, refused=True, note="read only"),
    Row("WFDB, MATLAB `.mat`", "wfdb", wfdb_files.FORMATS["matlab"], by_wfdb),
    _NII,
    replace(_NII, title="NIfTI-1 `.nii.gz`", make=_made(mri_files, "nifti1-float-compressed")),
    replace(_NII, title="NIfTI-1 `.hdr` and `.img`", make=_made(mri_files, "nifti1-pair")),
    replace(_NII, title="NIfTI-2", make=_made(mri_files, "nifti2-big-endian")),
    replace(_NII, title="Analyze 7.5", make=_made(mri_files, "analyze")),
    _WAV,
    replace(_WAV, title="WAV, 24 bits", make=_sound("wavex", "PCM_24")),
    replace(_WAV, title="WAV, floats", make=_sound("wav", "FLOAT")),
    replace(_WAV, title="RF64", make=_sound("rf64", "PCM_16")),
    replace(_WAV, title="W64", make=_sound("w64", "PCM_24")),
    replace(_WAV, title="AIFF", make=_sound("aiff", "PCM_16")),
    replace(_WAV, title="FLAC", make=_sound("flac", "PCM_16")),
    Row("MP3", "soundfile", _sound("mp3"), by_soundfile, **_LOSSY),
    Row("Ogg Vorbis", "soundfile", _sound("ogg"), by_soundfile, **_LOSSY),
    Row("Ogg Opus", "soundfile", _sound("opus"), by_soundfile, **_LOSSY),
    _PLY,
    replace(_PLY, title="PLY binary", make=_made(points_files, "ply-little")),
    replace(_PLY, title="PLY binary, big-endian", make=_made(points_files, "ply-big")),
    replace(_PLY, title="PCD ascii", make=_made(points_files, "pcd-ascii")),
    replace(_PLY, title="PCD binary", make=_made(points_files, "pcd-binary")),
    replace(_PLY, title="PCD compressed", make=_made(points_files, "pcd-compressed")),
    replace(_PLY, title="XYZ", make=_made(points_files, "xyz")),
    replace(_PLY, title="PTS", make=_made(points_files, "pts")),
    replace(_PLY, title="OFF", make=partial(_mesh, kind="off"), note="vertices; faces are kept"),
    replace(
        _PLY,
        title="OBJ",
        make=partial(_mesh, kind="obj"),
        note="vertices; faces are kept; open3d rounds to float32 and one step off",
    ),
    Row("NPY", "numpy", _made(points_files, "npy"), by_numpy),
    Row("NPZ", "numpy", _made(points_files, "npz"), by_numpy),
    Row("KITTI", "numpy", _made(points_files, "kitti"), by_numpy),
    Row("LAS", "laspy", lambda folder: points_files.las(folder / "a.las", cloud(), **_NEW_LAS), by_laspy),
    Row("LAZ", "laspy", lambda folder: points_files.las(folder / "a.laz", cloud()), by_laspy),
    Row("LAZ, layered", "laspy", lambda folder: points_files.las(folder / "a.laz", cloud(), **_NEW_LAS), by_laspy),
)
