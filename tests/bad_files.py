"""Files of every domain that a user might meet and no reader can use, and what is to be said about each."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.audio_files import audio, fmt_chunk, riff, song
from tests.ecg import record
from tests.eeg_files import lines_of
from tests.eeg_files import write as edf
from tests.eeg_mne_files import brainvision, cnt, eeglab, fif, gdf
from tests.mri_files import volume
from tests.points_files import cloud, pcd, ply


@dataclass(frozen=True)
class Case:
    """One bad file: ``make`` writes it into a folder of its own and returns what embed names.

    ``reason`` is a pattern of the reason; None for a file that is passed over as of no known format. ``opens``: its header
    is in order, so that inspect has nothing to say against it.
    """

    make: Callable[[Path], Path]
    reason: str | None
    opens: bool = False


def named(name: str, content: bytes) -> Callable[[Path], Path]:
    """A file of these bytes."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return folder / name

    return make


def noise(name: str, size: int = 5000) -> Callable[[Path], Path]:
    """A file of random bytes."""
    return named(name, np.random.default_rng(1).bytes(size))


def cut(make: Callable[[Path], Path], share: float) -> Callable[[Path], Path]:
    """A file that ends too early."""

    def truncated(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return truncated


def patched(make: Callable[[Path], Path], at: int, new: bytes) -> Callable[[Path], Path]:
    """A file with bytes of its header overwritten."""

    def overwritten(folder: Path) -> Path:
        path = make(folder)
        content = bytearray(path.read_bytes())
        content[at : at + len(new)] = new
        path.write_bytes(content)
        return path

    return overwritten


def swapped(make: Callable[[Path], Path], old: bytes, new: bytes) -> Callable[[Path], Path]:
    """A file in which some text is another."""

    def replaced(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        return path

    return replaced


def renamed(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    """A file under the name of another format."""

    def moved(folder: Path) -> Path:
        return make(folder).rename(folder / name)

    return moved


def without(make: Callable[[Path], Path], *names: str, instead: bytes | str | None = None) -> Callable[[Path], Path]:
    """A recording whose companions are gone, or hold other bytes, or are a folder, a pipe or a link to themselves."""

    def bereft(folder: Path) -> Path:
        path = make(folder)
        for name in names:
            (folder / name).unlink()
            if isinstance(instead, bytes):
                (folder / name).write_bytes(instead)
            elif instead == "folder":
                (folder / name).mkdir()
            elif instead == "pipe":
                os.mkfifo(folder / name)
            elif instead == "loop":
                (folder / name).symlink_to(folder / name)
        return path

    return bereft


def _pipe_beside(make: Callable[[Path], Path], *names: str) -> Callable[[Path], Path]:
    """A sound recording beside which pipes have the names of its side files: to open one is to wait for ever."""

    def beside(folder: Path) -> Path:
        path = make(folder)
        for name in names:
            os.mkfifo(folder / name)
        return path

    return beside


def scan_eeg(folder: Path) -> Path:
    return edf(folder / "rec.edf", lines_of((100, 100), 6))


def _bdf(folder: Path) -> Path:
    return edf(folder / "rec.bdf", lines_of((100, 100), 6, bits=24), variant="BDF")


def _fdt(folder: Path) -> Path:
    return eeglab(folder, beside=True)


def _bids_pipes(folder: Path) -> Path:
    """A recording of a BIDS dataset whose tables are pipes."""
    stem = "sub-1_task-rest"
    tables = [f"{stem}_{table}" for table in ("channels.tsv", "electrodes.tsv", "events.tsv", "coordsystem.json", "eeg.json")]
    path = _pipe_beside(scan_eeg, "participants.tsv", *tables)(folder)
    return path.rename(folder / f"{stem}_eeg.edf")


def _nan_matrix(folder: Path) -> Path:
    return brainvision(folder, data=np.full((4, 500), np.nan), fmt="IEEE_FLOAT_32")


def _infinite_set(folder: Path) -> Path:
    return eeglab(folder, data=np.full((4, 500), np.inf))


# In an EDF header: 236 number of records, 244 seconds of one, 252 number of signals; two signals follow.
EEG = {
    "edf-empty": Case(named("x.edf", b""), "x.edf is empty"),
    "bdf-empty": Case(named("x.bdf", b""), "x.bdf is empty"),
    "vhdr-empty": Case(named("x.vhdr", b""), "x.vhdr is empty"),
    "set-empty": Case(named("x.set", b""), "x.set is empty"),
    "fif-empty": Case(named("x_raw.fif", b""), "x_raw.fif is empty"),
    "gdf-empty": Case(named("x.gdf", b""), "x.gdf is empty"),
    "edf-cut-header": Case(cut(scan_eeg, 0.1), "has 316 bytes, the header of its 2 signals takes 768"),
    "edf-cut": Case(cut(scan_eeg, 0.7), "claims 6 records of 400 bytes, the file holds 3"),
    "bdf-cut": Case(cut(_bdf, 0.7), "claims 6 records of 600 bytes, the file holds 3"),
    "set-cut": Case(cut(eeglab, 0.6), "cut short"),
    "fif-cut": Case(cut(fif, 0.6), "cut short"),
    "gdf-cut": Case(cut(gdf, 0.7), "claims 5 data records and holds 3"),
    "cnt-cut": Case(cut(cnt, 0.5), "claims 500 samples of 4 channels"),
    **{f"{suffix}-noise": Case(noise(f"x.{suffix}"), f"x.{suffix} does not begin as an EDF") for suffix in ("edf", "bdf")},
    "vhdr-noise": Case(noise("x.vhdr"), "x.vhdr is no BrainVision header"),
    "fif-noise": Case(noise("x_raw.fif"), "x_raw.fif is (no FIF file|cut short or broken at byte 0)"),
    "gdf-noise": Case(noise("x.gdf"), "x.gdf is no GDF recording"),
    **{f"{suffix}-noise": Case(noise(f"x.{suffix}"), None) for suffix in ("set", "cnt")},
    "edf-claims-more": Case(patched(scan_eeg, 236, b"99999999"), "claims 99999999 records"),
    "edf-negative-records": Case(patched(scan_eeg, 236, b"-5      "), "claims -5 data records"),
    "edf-no-time": Case(patched(scan_eeg, 244, b"0       "), "records of 0 s"),
    "edf-negative-time": Case(patched(scan_eeg, 244, b"-1      "), "records of -1 s"),
    "edf-nan-time": Case(patched(scan_eeg, 244, b"nan     "), "'nan' as duration"),
    "edf-9999-signals": Case(patched(scan_eeg, 252, b"9999"), "claims 9999 signals"),
    "edf-minus-signals": Case(patched(scan_eeg, 252, b"-1  "), "claims -1 signals"),
    "edf-negative-samples": Case(patched(scan_eeg, 256 + 2 * 216, b"-100    "), "-100 samples of EEG Fp1"),
    "edf-huge-samples": Case(patched(scan_eeg, 256 + 2 * 216, b"99999999"), "99999999 samples"),
    "set-no-fdt": Case(without(_fdt, "rec.fdt"), "rec.fdt, .* missing"),
    "set-empty-fdt": Case(without(_fdt, "rec.fdt", instead=b""), "rec.fdt holds 0 bytes, .* 8000"),
    "set-pipe-fdt": Case(without(_fdt, "rec.fdt", instead="pipe"), "rec.fdt, .* no file"),
    "vhdr-no-eeg": Case(without(brainvision, "rec.eeg"), "rec.eeg, .* missing"),
    "vhdr-empty-eeg": Case(without(brainvision, "rec.eeg", instead=b""), "rec.eeg holds 0 bytes"),
    "vhdr-folder-eeg": Case(without(brainvision, "rec.eeg", instead="folder"), "rec.eeg, .* no file"),
    "vhdr-pipe-eeg": Case(without(brainvision, "rec.eeg", instead="pipe"), "rec.eeg, .* no file"),
    "vhdr-loop-eeg": Case(without(brainvision, "rec.eeg", instead="loop"), "rec.eeg, .* missing"),
    "vhdr-rate-0": Case(swapped(brainvision, b"SamplingInterval=10000.0", b"SamplingInterval=0"), "SamplingInterval 0, expected"),
    "vhdr-rate-minus": Case(
        swapped(brainvision, b"SamplingInterval=10000.0", b"SamplingInterval=-10"), "SamplingInterval -10, expected"
    ),
    "vhdr-rate-nan": Case(
        swapped(brainvision, b"SamplingInterval=10000.0", b"SamplingInterval=nan"), "SamplingInterval nan, expected"
    ),
    "vhdr-channels": Case(swapped(brainvision, b"NumberOfChannels=4", b"NumberOfChannels=1000000000"), "NumberOfChannels 1e"),
    "set-rate-minus": Case(lambda folder: eeglab(folder, srate=-100.0), "sampling rate -100 Hz"),
    "set-rate-nan": Case(lambda folder: eeglab(folder, srate=float("nan")), "sampling rate nan Hz"),
    "set-channels": Case(lambda folder: eeglab(folder, nbchan=1e9), "nbchan 1000000000"),
    "vhdr-nan": Case(_nan_matrix, "no window .* valid sample", opens=True),
    "set-infinite": Case(_infinite_set, "no window .* valid sample", opens=True),
}


def heart(folder: Path) -> Path:
    return record(folder, "rec")


CARDIAC = {
    "hea-empty": Case(named("x.hea", b""), "x.hea is empty"),
    "hea-noise": Case(noise("x.hea"), None),
    "hea-rate-0": Case(swapped(heart, b"rec 2 100", b"rec 2 0"), "sampling rate of 0 Hz"),
    "hea-rate-minus": Case(swapped(heart, b"rec 2 100", b"rec 2 -100"), "sampling rate of -100 Hz"),
    "hea-rate-nan": Case(swapped(heart, b"rec 2 100", b"rec 2 nan"), "rec.hea claims a sampling rate of nan Hz"),
    "hea-rate-huge": Case(swapped(heart, b"rec 2 100", b"rec 2 1e300"), "sampling rate of 1e"),
    "hea-channels": Case(swapped(heart, b"rec 2 100", b"rec 999999999 100"), "999999999 signals"),
    "hea-length": Case(swapped(heart, b" 1200", b" 999999999999"), "rec.dat holds 1200 of the 999999999999 samples"),
    "hea-length-minus": Case(swapped(heart, b" 1200", b" -1200"), "rec.hea claims a length of -1200 samples"),
    "dat-gone": Case(without(heart, "rec.dat"), "rec.dat, .* missing"),
    "dat-empty": Case(without(heart, "rec.dat", instead=b""), "rec.dat holds 0 of the 1200 samples"),
    "dat-folder": Case(without(heart, "rec.dat", instead="folder"), "rec.dat, .* no file"),
    "dat-pipe": Case(without(heart, "rec.dat", instead="pipe"), "rec.dat, .* no file"),
    "dat-loop": Case(without(heart, "rec.dat", instead="loop"), "rec.dat, .* missing"),
}


def brain(folder: Path) -> Path:
    return volume(folder, "rec_T1w")


def _packed(folder: Path) -> Path:
    return volume(folder, "rec_T1w", compressed=True)


def _pair(folder: Path) -> Path:
    return volume(folder, "rec_T1w", kind="pair")


def _wrong_crc(folder: Path) -> Path:
    path = _packed(folder)
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"\1\2\3\4" + content[-4:])
    return path


def _volume_bomb(folder: Path) -> Path:
    """A header of 1 TB of voxels over 256 MB of zeros, in about 1 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    header = nib.Nifti1Header()
    header.set_data_dtype("u1")
    header.set_data_shape((10_000, 10_000, 10_000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return _zeros_after(folder / "bomb.nii.gz", bytes(header.binaryblock) + bytes(4))


def _volume_then_zeros(folder: Path) -> Path:
    """A sound small volume, behind which 256 MB of zeros follow."""
    plain = volume(folder, "rec_T1w")
    path = _zeros_after(folder / "slack_T1w.nii.gz", plain.read_bytes())
    plain.unlink()
    return path


def _zeros_after(path: Path, start: bytes) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(16):
            file.write(bytes(16 * 2**20))
    return path


def _not_a_number(folder: Path) -> Path:
    return volume(folder, "rec_T1w", np.full((20, 24, 18), np.nan), dtype="float32")


# In a NIfTI-1 header: 40 dim (int16), 70 datatype, 76 pixdim (float32), 108 vox_offset (float32), 112 slope.
MRI = {
    "nii-empty": Case(named("x.nii", b""), "x.nii is empty"),
    "gz-empty": Case(named("x.nii.gz", b""), "x.nii.gz is empty"),
    "gz-of-nothing": Case(named("x.nii.gz", gzip.compress(b"")), "x.nii.gz is empty"),
    "hdr-empty": Case(named("x.hdr", b""), None),
    "nii-cut-header": Case(cut(brain, 0.01), "ends after 176 bytes"),
    "nii-cut": Case(cut(brain, 0.7), "17632 bytes; its file holds at most"),
    "gz-cut": Case(cut(_packed, 0.7), "damaged", opens=True),
    "nii-noise": Case(noise("x.nii"), "no NIfTI file"),
    "gz-noise": Case(noise("x.nii.gz"), "no NIfTI file"),
    "nii-as-hdr": Case(renamed(brain, "x.hdr"), "no x.img beside it"),
    "nii-shape-minus": Case(patched(brain, 42, struct.pack("<3h", 20, -24, 18)), "20 x -24 x 18 voxels"),
    "nii-shape-0": Case(patched(brain, 42, struct.pack("<3h", 20, 0, 18)), "20 x 0 x 18 voxels"),
    "nii-shape-huge": Case(patched(brain, 42, struct.pack("<3h", 32767, 32767, 32767)), "32767 x 32767 x 32767 voxels"),
    "nii-spacing-0": Case(patched(patched(brain, 252, bytes(4)), 80, struct.pack("<3f", 0, 0, 0)), "spacing of 0 mm"),
    "nii-spacing-nan": Case(patched(patched(brain, 252, bytes(4)), 80, struct.pack("<3f", np.nan, 1, 1)), "spacing of nan mm"),
    "nii-type": Case(patched(brain, 70, struct.pack("<h", 999)), "data type 999"),
    "nii-offset-minus": Case(patched(brain, 108, struct.pack("<f", -1e9)), "first voxel at byte -1000000000"),
    "nii-offset-nan": Case(patched(brain, 108, struct.pack("<f", np.nan)), "first voxel at byte nan"),
    "gz-crc": Case(_wrong_crc, "damaged: CRC", opens=True),
    "gz-bomb": Case(_volume_bomb, "10000 x 10000 x 10000 voxels"),
    "hdr-no-img": Case(without(_pair, "rec_T1w.img"), "rec_T1w.img"),
    "hdr-empty-img": Case(without(_pair, "rec_T1w.img", instead=b""), "holds at most 0"),
    "hdr-folder-img": Case(without(_pair, "rec_T1w.img", instead="folder"), "rec_T1w.img"),
    "hdr-pipe-img": Case(without(_pair, "rec_T1w.img", instead="pipe"), "rec_T1w.img"),
    "nii-nan": Case(_not_a_number, "no window .* valid sample", opens=True),
}


def bird(folder: Path) -> Path:
    return audio(folder, "wav", "PCM_16", song(2, 16_000), rate=16_000)


def _mp3(folder: Path) -> Path:
    return audio(folder, "mp3", signals=song(2, 16_000), rate=16_000)


def _garbled(folder: Path) -> Path:
    """An MP3 with 2 kB of noise in its middle."""
    path = _mp3(folder)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + np.random.default_rng(2).bytes(2000) + content[len(content) // 2 :])
    return path


def wav(name: str, **fields: int) -> Callable[[Path], Path]:
    """A WAV with another fmt chunk."""
    return named(name, riff([(b"fmt ", fmt_chunk(**fields)), (b"data", bytes(32_000))]))


def _silent_nan(folder: Path) -> Path:
    data = np.full(32_000, np.nan, "<f4").tobytes()
    return named("nan.wav", riff([(b"fmt ", fmt_chunk(1, 16_000, 32, tag=3)), (b"data", data)]))(folder)


AUDIO = {
    **{f"{kind}-empty": Case(named(f"x.{kind}", b""), f"x.{kind} is empty") for kind in ("wav", "flac", "mp3", "ogg", "aiff")},
    **{
        f"{kind}-zeros": Case(named(f"x.{kind}", bytes(5000)), "zero bytes and no audio header")
        for kind in ("wav", "flac", "mp3", "ogg")
    },
    **{
        f"{kind}-noise": Case(noise(f"x.{kind}"), f"x.{kind} is no audio file that can be read here")
        for kind in ("wav", "w64", "rf64", "flac", "ogg", "aif")
    },
    "mp3-noise": Case(noise("x.mp3"), "x.mp3 "),
    "wav-cut-header": Case(cut(bird, 0.0003), "no whole fmt chunk"),
    "flac-cut": Case(cut(lambda folder: audio(folder, "flac", signals=song(2)), 0.005), "cannot be decoded", opens=True),
    "ogg-cut": Case(cut(lambda folder: audio(folder, "ogg", signals=song(2)), 0.03), "cannot be decoded"),
    "wav-rate-0": Case(wav("x.wav", rate=0), "rate of 0 Hz"),
    "wav-rate-huge": Case(wav("x.wav", rate=4_294_967_295), r"rate of 4.29497e\+09 Hz"),
    "wav-no-channels": Case(wav("x.wav", channels=0, align=2), "claims 0 channels"),
    "wav-channels": Case(wav("x.wav", channels=65_535, align=2), "claims 65535 channels"),
    "wav-no-data": Case(named("x.wav", riff([(b"fmt ", fmt_chunk())])), "no chunk of samples"),
    "wav-nan": Case(_silent_nan, "no window .* valid sample", opens=True),
}


def town(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return ply(folder / "rec.ply", cloud(200))


def _ascii(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return ply(folder / "rec.ply", cloud(200), "ascii")


def _pcd(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return pcd(folder / "rec.pcd", cloud(200), "binary_compressed")


def _pickled(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "objects.npz", points=np.array([{"x": 1}, [2]], dtype=object))
    return folder / "objects.npz"


def _points_bomb(folder: Path) -> Path:
    """A table of 10 billion points by its header, over 256 MB of zeros, in about 1 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**10, 3)})
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("points.npy", "w") as file,
    ):
        file.write(head.getvalue())
        for _ in range(16):
            file.write(bytes(16 * 2**20))
    return folder / "bomb.npz"


def _nowhere(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return ply(folder / "nan.ply", {axis: np.full(50, np.nan, np.float32) for axis in "xyz"})


POINTS = {
    **{
        f"{kind}-empty": Case(named(f"x.{kind}", b""), "empty")
        for kind in ("ply", "pcd", "xyz", "off", "obj", "npy", "npz", "las")
    },
    "ply-noise": Case(noise("x.ply"), "does not begin with the line 'ply'"),
    "pcd-noise": Case(noise("x.pcd"), "header line"),
    "xyz-noise": Case(noise("x.xyz"), "x.xyz is no text"),
    "off-noise": Case(noise("x.off"), "x.off is no text"),
    "obj-noise": Case(noise("x.obj"), None),
    "npy-noise": Case(noise("x.npy"), "no readable NPY header"),
    "npz-noise": Case(noise("x.npz"), "no readable NPZ archive"),
    "las-noise": Case(noise("x.las"), "no LAS header"),
    "ply-cut": Case(cut(town, 0.7), "claims 200 points of 35 bytes, and holds 137"),
    "ply-cut-header": Case(cut(town, 0.02), "no end_header"),
    "ply-ascii-cut": Case(cut(_ascii, 0.7), "claims 200 points, and holds 140"),
    "pcd-cut": Case(cut(_pcd, 0.7), "claims 6763 bytes"),
    "ply-as-pcd": Case(renamed(town, "x.pcd"), "line 'ply'"),
    "ply-1e12": Case(
        swapped(town, b"vertex 200", b"vertex 1000000000000"), "claims 1000000000000 points of 35 bytes, and holds 200"
    ),
    "ply-ascii-1e12": Case(swapped(_ascii, b"vertex 200", b"vertex 1000000000000"), "claims 1000000000000 points"),
    "ply-minus": Case(swapped(town, b"vertex 200", b"vertex -200"), "element vertex -200"),
    "pcd-1e12": Case(swapped(_pcd, b"POINTS 200", b"POINTS 1000000000000"), "1000000000000 points"),
    "off-minus": Case(named("x.off", b"OFF\n-40 -2 0\n0 0 0\n"), "'-40 -2 0'"),
    "npz-pickled": Case(_pickled, "Python objects, which are not loaded"),
    "npz-bomb": Case(_points_bomb, "claims|holds"),
    "ply-nan": Case(_nowhere, "no window .* valid sample", opens=True),
    "xyz-words": Case(named("x.xyz", b"these are\nno numbers at all\n"), "rows of numbers"),
}

# Recordings that are used although something about them is wrong: what makes them, and what inspect says where it does.
ODD: dict[str, dict[str, tuple[Callable[[Path], Path], str | None]]] = {
    "eeg": {
        "edf-as-bdf": (renamed(scan_eeg, "x.bdf"), None),
        "bdf-as-edf": (renamed(_bdf, "x.edf"), None),
        "edf-flat-range": (patched(scan_eeg, 256 + 2 * 120, b"32767   " * 2), "no usable physical range"),
        "vhdr-pipe-vmrk": (without(brainvision, "rec.vmrk", instead="pipe"), "rec.vmrk"),
        "vhdr-no-vmrk": (without(brainvision, "rec.vmrk"), "rec.vmrk"),
        "bids-pipes": (_bids_pipes, None),
    },
    "cardiac": {"atr-pipe": (_pipe_beside(heart, "rec.atr"), None)},
    "mri": {
        "gz-slack": (_volume_then_zeros, None),
        "gz-as-nii": (renamed(_packed, "rec_T1w.nii"), None),
        "nii-as-gz": (renamed(brain, "rec_T1w.nii.gz"), None),
        "json-pipe": (_pipe_beside(brain, "rec_T1w.json"), None),
    },
    "audio": {
        "wav-as-mp3": (renamed(bird, "x.mp3"), "named .mp3"),
        "mp3-garbage": (_garbled, None),
        "mp3-cut": (cut(_mp3, 0.6), None),
        "wav-cut": (cut(bird, 0.6), None),
        "txt-pipe": (_pipe_beside(bird, "song.Table.1.selections.txt", "song.txt"), None),
    },
    "points": {},
}
GOOD: dict[str, Callable[[Path], Path]] = {"eeg": scan_eeg, "cardiac": heart, "mri": brain, "audio": bird, "points": town}
BAD: dict[str, dict[str, Case]] = {"eeg": EEG, "cardiac": CARDIAC, "mri": MRI, "audio": AUDIO, "points": POINTS}
