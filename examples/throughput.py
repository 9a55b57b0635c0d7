"""Random windows a second, by the plain library call, by our readers, and from a prepared corpus, in one run.

    python examples/throughput.py [--seconds 1.5] [--only mp3,nii.gz] [--json]

Makes one recording of each format in a temporary folder (about 200 MB), prepares it, and reads the same random windows
in every way, each at the file's own rate or spacing. The files lie in the operating system's cache and the seconds are
processor time: the figures compare decoding, not disks, and hardly depend on what else the machine does. Needs soundfile,
mne, wfdb, nibabel and open3d.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import readers
from readers.cardiac import create_wfdb
from readers.edf import create_edf
from readers.points import create_ply
from readers.schema import Box, PointsLike, SignalLike, VolumeLike
from toolkit import machine
from toolkit import recipe as recipes
from toolkit.corpus import inputs
from toolkit.corpus.prepare import Preparation
from toolkit.interrupts import StopSignals
from toolkit.progress import Progress

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ELECTRODES = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T3", "C3", "Cz", "C4", "T4", "T5", "P3", "Pz", "P4", "T6", "O1", "O2")
RATES = {"wfdb": 500, "edf": 200, "wav": 32_000, "flac": 32_000, "mp3": 32_000}
SECONDS = {"wfdb": 1800, "edf": 1800, "wav": 600, "flac": 600, "mp3": 600}  # lengths of the recordings
WINDOW_S = {"wfdb": 10, "edf": 10, "wav": 5, "flac": 5, "mp3": 5}
VOXELS, CUBE = (192, 224, 192), 64
POINTS, ROWS = 1_000_000, 65_536
RECIPES = {"wfdb": "csfm", "edf": "reve", "nii.gz": "bm-mae", "ply": "point-cmae"}
FORMATS = ("wfdb", "edf", "edf (opened once)", "wav", "flac", "mp3", "nii.gz", "ply")

Read = Callable[[np.random.Generator], Any]


def noise(length: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """(T, C) brownish noise within +-0.9: compresses about as natural sound does."""
    walk = np.cumsum(rng.standard_normal((length, channels)), axis=0)
    walk -= np.linspace(walk[0], walk[-1], length)
    fast = rng.standard_normal((length, channels))
    return 0.8 * walk / np.abs(walk).max(axis=0) + 0.1 * fast / np.abs(fast).max(axis=0)


def make(kind: str, folder: Path) -> Path:
    """Write one recording."""
    import nibabel as nib
    import soundfile

    rng = np.random.default_rng(0)
    folder.mkdir()
    length = SECONDS.get(kind, 0) * RATES.get(kind, 0)
    if kind == "wfdb":
        return create_wfdb(folder, "r", noise(length, 12, rng), rate_hz=500, names=list(LEADS), units=["mV"] * 12)
    if kind == "edf":
        return create_edf(folder / "r.edf", 100 * noise(length, 19, rng), 200, ELECTRODES, ["uV"] * 19)
    if kind in ("wav", "flac", "mp3"):
        path = folder / f"r.{kind}"
        with soundfile.SoundFile(path, "w", RATES[kind], 1, format=kind.upper()) as file:
            values = noise(length, 1, rng)
            for start in range(0, length, RATES[kind] * 10):  # libsndfile's MP3 encoder crashes on large blocks
                file.write(values[start : start + RATES[kind] * 10])
        return path
    if kind == "nii.gz":
        path = folder / "sub-01_T1w.nii.gz"
        values = np.cumsum(rng.normal(0, 20, VOXELS), axis=0) + 500
        nib.save(nib.Nifti1Image(np.clip(values, 0, 4000).astype(np.int16), np.eye(4)), path)
        return path
    table = {axis: rng.uniform(0, 50, POINTS).astype(np.float32) for axis in "xyz"}
    return create_ply(folder / "r.ply", {**table, "intensity": rng.uniform(size=POINTS).astype(np.float32)})


def by_library(kind: str, path: Path) -> Read:
    """How the format's own package reads one random window."""
    import mne
    import nibabel as nib
    import open3d
    import soundfile
    import wfdb

    rate, size = RATES.get(kind, 0), RATES.get(kind, 0) * WINDOW_S.get(kind, 0)
    last = SECONDS.get(kind, 0) * rate - size

    def edf(rng: np.random.Generator) -> Any:
        start = int(rng.integers(last))
        return mne.io.read_raw_edf(path, preload=False, verbose="error")[:, start : start + size][0]

    def record(rng: np.random.Generator) -> Any:
        start = int(rng.integers(last))
        return wfdb.rdrecord(str(path.with_suffix("")), sampfrom=start, sampto=start + size).p_signal

    def sound(rng: np.random.Generator) -> Any:
        with soundfile.SoundFile(path) as file:
            file.seek(int(rng.integers(last)))
            return file.read(size, dtype="float32")

    def volume(rng: np.random.Generator) -> Any:
        x, y, z = (int(rng.integers(n - CUBE)) for n in VOXELS)
        return np.asarray(nib.Nifti1Image.from_filename(path).dataobj[x : x + CUBE, y : y + CUBE, z : z + CUBE])

    def cloud(rng: np.random.Generator) -> Any:
        start = int(rng.integers(POINTS - ROWS))
        return np.asarray(open3d.io.read_point_cloud(str(path)).points)[start : start + ROWS]

    return {"edf": edf, "wfdb": record, "nii.gz": volume, "ply": cloud}.get(kind, sound)


def opened_edf(path: Path) -> Read:
    """mne on one raw that stays open in the program's hands."""
    import mne

    raw = mne.io.read_raw_edf(path, preload=False, verbose="error")
    size = RATES["edf"] * WINDOW_S["edf"]

    def read(rng: np.random.Generator) -> Any:
        start = int(rng.integers(SECONDS["edf"] * RATES["edf"] - size))
        return raw[:, start : start + size][0]

    return read


def by_recording(kind: str, item: inputs.Input) -> Read:
    """How training reads, from a file or a corpus: the recording is opened once, which keeps no file open."""
    recording = inputs.open_input(item)
    size = RATES.get(kind, 0) * WINDOW_S.get(kind, 0)

    def read(rng: np.random.Generator) -> Any:
        if isinstance(recording, SignalLike):
            start = int(rng.integers(SECONDS[kind] * RATES[kind] - size))
            return recording.read(start, start + size, rate_hz=float(RATES[kind])).values
        if isinstance(recording, VolumeLike):
            x, y, z = (int(rng.integers(n - CUBE)) for n in VOXELS)
            return recording.read(Box((x, y, z), (x + CUBE, y + CUBE, z + CUBE)), spacing_mm=1.0).values
        assert isinstance(recording, PointsLike)
        start = int(rng.integers(POINTS - ROWS))
        return recording.read(start, start + ROWS).coords

    return read


def rate_of(read: Read, seconds: float) -> float:
    """Windows a second of processor time, after one to warm up."""
    rng = np.random.default_rng(1)
    read(rng)
    began, count = time.process_time(), 0
    while count < 3 or time.process_time() - began < seconds:
        read(rng)
        count += 1
    return count / (time.process_time() - began)


def prepare(kind: str, data: Path, out: Path) -> inputs.Input:
    """A corpus of one recording at its own rate."""
    grid: dict[str, Any] = {"data.rate_hz": float(RATES[kind])} if kind in RATES else {}
    name = RECIPES.get(kind, "bird-mae")
    job = Preparation(recipes.resolve(name, flags=grid), inputs.gather([str(data)]), out, arguments=[], workers=1)
    job.start(resume=False, overwrite=False)
    job.run(Progress("prepare", 1, "recordings", enabled=False), StopSignals())
    return inputs.gather([str(out)]).items[0]


def measure(kind: str, place: Path, seconds: float) -> dict[str, Any]:
    """One row of the table: windows a second in each way, the best of two rounds."""
    base, once = kind.split()[0], "opened" in kind
    folder = place / base
    path = next(iter(sorted(folder.glob("*.hea")) or sorted(folder.iterdir()))) if folder.exists() else make(base, folder)
    item = inputs.Input(path, folder)
    assert readers.claim(path) is not None
    corpus = prepare(base, folder, place / f"{kind}-corpus")
    ways = {
        "library": opened_edf(path) if once else by_library(base, path),
        "files": by_recording(base, item),
        "corpus": by_recording(base, corpus),
    }
    found = {name: max(rate_of(read, seconds) for _ in range(2)) for name, read in ways.items()}
    return {
        "format": kind,
        **found,
        "files_ratio": found["files"] / found["library"],
        "corpus_ratio": found["corpus"] / found["library"],
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    options.add_argument("--only", default="", help="formats, separated by commas")
    options.add_argument("--json", action="store_true")
    asked = options.parse_args()
    kinds = [kind for kind in FORMATS if not asked.only or kind in asked.only.split(",")]
    with tempfile.TemporaryDirectory() as place:
        rows = [measure(kind, Path(place), asked.seconds) for kind in kinds]
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "wfdb", "mne", "soundfile", "nibabel", "open3d")}
    host = {"machine": platform.platform(), "cores": machine.available_cores(), "python": platform.python_version()}
    if asked.json:
        print(json.dumps({"rows": rows, "versions": versions, **host}, indent=2))
        return
    print(f"{'format':<18} {'library/s':>10} {'files/s':>10} {'corpus/s':>10} {'files/lib':>10} {'corpus/lib':>10}")
    for row in rows:
        print(f"{row['format']:<18}" + "".join(f" {row[k]:>10.1f}" for k in list(row)[1:]))
    print(", ".join(f"{name} {value}" for name, value in {**host, **versions}.items()))


if __name__ == "__main__":
    main()
