"""Small EEG files in the real formats: written byte by byte (BrainVision, GDF, CNT), by scipy (EEGLAB) and by MNE (FIF)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("Fp1", "Cz", "T3", "VEOG")
RATE_HZ = 100.0


def numbers(n_channels: int = len(NAMES), n_samples: int = 500, seed: int = 0) -> np.ndarray:
    """(channels, samples) whole numbers that fit 16 bits: a slow wave and noise."""
    rng = np.random.default_rng(seed)
    wave = 300 * np.sin(np.arange(n_samples) / 9 + np.arange(n_channels)[:, None])
    return np.rint(wave + rng.normal(0, 40, (n_channels, n_samples)))


def brainvision(
    folder: Path,
    name: str = "rec",
    *,
    data: np.ndarray | None = None,
    names: Sequence[str] = NAMES,
    fmt: str = "INT_16",
    orientation: str = "MULTIPLEXED",
    resolutions: Sequence[str] = ("0.5", "0.1", "1", ""),
    units: Sequence[str] = ("µV", "µV", "mV", ""),
    encoding: str = "utf-8",
    rate: float = RATE_HZ,
    markers: Sequence[str] = ("New Segment,,1,1,0,20200102030405678901", "Stimulus,S  1,11,1,0", "Comment,a\\1b,101,50,2"),
    data_name: str | None = None,
    end: str = "\r\n",
    extra: Sequence[str] = (),
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = numbers(len(names)) if data is None else data
    dtype = {"INT_16": "<i2", "INT_32": "<i4", "IEEE_FLOAT_32": "<f4"}[fmt]
    stored = data.T if orientation == "MULTIPLEXED" else data
    (folder / f"{name}.eeg").write_bytes(np.ascontiguousarray(stored, dtype).tobytes())
    lines = [
        "Brain Vision Data Exchange Header File Version 1.0",
        "; made for a test",
        "[Common Infos]",
        f"DataFile={data_name or name + '.eeg'}",
        f"MarkerFile={name}.vmrk",
        "DataFormat=BINARY",
        f"DataOrientation={orientation}",
        f"NumberOfChannels={len(names)}",
        f"DataPoints={data.shape[1]}",
        f"SamplingInterval={1e6 / rate!r}",
        "[Binary Infos]",
        f"BinaryFormat={fmt}",
        "[Channel Infos]",
        *(f"Ch{k}={n},,{r},{u}" for k, (n, r, u) in enumerate(zip(names, resolutions, units, strict=True), 1)),
        *extra,
        "[Comment]",
        "Ch1=this is no channel",
        "",
    ]
    (folder / f"{name}.vhdr").write_bytes(end.join(lines).encode(encoding))
    marks = ["Brain Vision Data Exchange Marker File, Version 1.0", "[Common Infos]", f"DataFile={name}.eeg", "[Marker Infos]"]
    marks += [f"Mk{k}={line}" for k, line in enumerate(markers, 1)]
    (folder / f"{name}.vmrk").write_bytes(end.join([*marks, ""]).encode(encoding))
    return folder / f"{name}.vhdr"


def eeglab_fields(data: Any, n_samples: int, names: Sequence[str] = NAMES, places: np.ndarray | None = None) -> dict[str, Any]:
    """The EEG structure as scipy writes it."""
    chanlocs = np.zeros((1, len(names)), [(key, object) for key in ("labels", "type", "X", "Y", "Z")])
    for k, name in enumerate(names):
        xyz = [np.zeros((0, 0))] * 3 if places is None else [float(v) for v in places[k]]
        chanlocs[0, k] = (name, "EOG" if "EOG" in name else "", *xyz)
    event = np.zeros((1, 2), [(key, object) for key in ("latency", "type", "duration", "colour")])
    event[0, 0], event[0, 1] = (11.0, "boundary", 20.0, "red"), (101.0, 7.0, 0.0, "")
    return {
        "setname": "a test", "nbchan": float(len(names)), "pnts": float(n_samples), "trials": 1.0, "srate": RATE_HZ, "xmin": 0.0,
        "subject": "S07", "chanlocs": chanlocs, "event": event, "data": data, "ref": "averef", "icaact": np.zeros((0, 0)),
        "etc": {"deep": {"deeper": np.arange(3.0)}},
    }  # fmt: skip


def eeglab(
    folder: Path,
    name: str = "rec",
    *,
    data: np.ndarray | None = None,
    dtype: str = "f4",
    flat: bool = False,
    compressed: bool = False,
    beside: bool = False,
    **changes: Any,
) -> Path:
    import scipy.io

    folder.mkdir(parents=True, exist_ok=True)
    values = np.asarray(numbers() / 8 if data is None else data).astype(dtype)
    places = changes.pop("places", None)
    names = changes.pop("names", NAMES)
    inside = changes.pop("instead", values)
    fields = eeglab_fields(f"{name}.fdt" if beside else inside, values.shape[1], names, places) | changes
    if beside:
        (folder / f"{name}.fdt").write_bytes(np.ascontiguousarray(values.T, "<f4").tobytes())
        fields["datfile"] = f"{name}.fdt"
    content = fields if flat else {"EEG": fields}
    scipy.io.savemat(folder / f"{name}.set", content, appendmat=False, do_compression=compressed)
    return folder / f"{name}.set"


def fif(
    folder: Path,
    name: str = "rec_raw",
    *,
    fmt: str = "single",
    split: str | None = None,
    n_samples: int = 500,
    skip: bool = False,
) -> Path:
    import mne

    folder.mkdir(parents=True, exist_ok=True)
    info = mne.create_info([*NAMES, "STI 014"], RATE_HZ, ["eeg"] * 3 + ["eog", "stim"])
    info["bads"] = ["Cz"]
    scale = 1.0 if fmt in ("int", "short") else 1e-7
    data = np.vstack([numbers(n_samples=n_samples), np.zeros(n_samples)]) * scale
    raw = mne.io.RawArray(data, info, first_samp=50, verbose="error")
    raw.set_meas_date(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
    marks = mne.Annotations([0.7, 1.5], [0.5, 0], ["BAD_jump" if skip else "blink", "tone"], ch_names=[[], ["Cz"]],
                            orig_time=raw.info["meas_date"])  # fmt: skip
    raw.set_annotations(marks, verbose="error")
    path = folder / f"{name}.fif"
    raw.save(path, fmt=fmt, buffer_size_sec=1.0, overwrite=True, split_size=split or "2GB", verbose="error")
    return path


def gdf(
    folder: Path,
    name: str = "rec",
    *,
    version: str = "1.25",
    names: Sequence[str] = NAMES,
    per_record: Sequence[int] | None = None,
    n_records: int = 5,
    seed: int = 0,
    events: Sequence[tuple[int, int, int]] = ((11, 769, 20), (101, 770, 0)),
) -> Path:
    """Data records of 1 s, int16, 0.5 µV a step; ``events``: position from 1, type, duration in samples."""
    folder.mkdir(parents=True, exist_ok=True)
    n, old = len(names), version < "1.9"
    counts = list(per_record or [100] * n)
    data = [numbers(1, count * n_records, seed + k)[0].astype("<i2") for k, count in enumerate(counts)]
    head = bytearray(256)
    head[:8] = f"GDF {version}".ljust(8).encode()
    head[8:16] = b"P3 X X X"
    struct.pack_into("<q", head, 236, n_records)
    struct.pack_into("<2I", head, 244, 1, 1)
    if old:
        head[168:184] = b"2020010203040500"
        struct.pack_into("<q", head, 184, 256 * (n + 1))
        struct.pack_into("<I", head, 252, n)
    else:
        days = (datetime(2020, 1, 2, 3, 4, 5) - datetime(1, 1, 1)).total_seconds() / 86400 + 367
        struct.pack_into("<Q", head, 168, int(days * 2**32))
        struct.pack_into("<H", head, 184, n + 1)
        struct.pack_into("<H", head, 252, n)
    limits = [-1000.0] * n, [1000.0] * n, [-2000] * n, [2000] * n
    fields = [b"".join(label.encode().ljust(16, b"\0") for label in names), bytes(80 * n)]
    fields += [b"uV".ljust(8, b"\0") * n] if old else [bytes(6 * n), struct.pack(f"<{n}H", *[4275] * n)]
    fields += [struct.pack(f"<{n}d", *limit) for limit in limits[:2]]
    fields += [struct.pack(f"<{n}{'q' if old else 'd'}", *limit) for limit in limits[2:]]
    fields += [bytes(80 * n)] if old else [bytes(68 * n), bytes(12 * n)]
    fields += [struct.pack(f"<{n}i", *counts), struct.pack(f"<{n}i", *[3] * n), bytes(32 * n)]
    records = b"".join(d[r * c : (r + 1) * c].tobytes() for r in range(n_records) for d, c in zip(data, counts, strict=True))
    e = len(events)
    table = struct.pack("<B", 3)
    table += struct.pack("<3BI", 100, 0, 0, e) if version < "1.94" else struct.pack("<3Bf", e, 0, 0, 100.0)
    for column, code in ((0, "I"), (1, "H")):
        table += struct.pack(f"<{e}{code}", *[event[column] for event in events])
    table += struct.pack(f"<{e}H", *[0] * e) + struct.pack(f"<{e}I", *[event[2] for event in events])
    (folder / f"{name}.gdf").write_bytes(bytes(head) + b"".join(fields) + records + table)
    return folder / f"{name}.gdf"


def cnt(
    folder: Path,
    name: str = "rec",
    *,
    dtype: str = "<i2",
    names: Sequence[str] = NAMES,
    n_samples: int = 500,
    event_type: int = 1,
    together: int = 0,
    bad: str | None = None,
    claimed: int | None = None,
) -> Path:
    """Neuroscan: baseline k and sensitivity 2 + k for channel k, calibration 1."""
    folder.mkdir(parents=True, exist_ok=True)
    data, n, width = numbers(len(names), n_samples).astype(dtype), len(names), np.dtype(dtype).itemsize
    head = bytearray(900)
    head[:12] = b"Version 3.0\0"
    head[21:24] = b"P04"
    head[225:235], head[235:247] = b"01/02/20\0\0", b"03:04:05\0\0\0\0"
    begin = 900 + 75 * n
    struct.pack_into("<H", head, 370, n)
    struct.pack_into("<H", head, 376, round(RATE_HZ))
    struct.pack_into("<i", head, 864, n_samples if claimed is None else claimed)
    struct.pack_into("<i", head, 886, begin + data.nbytes)
    struct.pack_into("<i", head, 894, together * width)
    lines = bytearray(75 * n)
    for k, label in enumerate(names):
        lines[75 * k : 75 * k + len(label)] = label.encode()
        lines[75 * k + 14] = label == bad
        struct.pack_into("<2f", lines, 75 * k + 19, 10.0 * k, 5.0 * (k % 2))
        struct.pack_into("<h", lines, 75 * k + 47, k)
        struct.pack_into("<f", lines, 75 * k + 59, 2.0 + k)
        struct.pack_into("<f", lines, 75 * k + 71, 1.0)
    grouped = data.T if not together else data.reshape(n, -1, together).transpose(1, 0, 2)
    marks = [(10, 5, 0), (100, 6, 0), (200, 0, 0xC0), (300, 0, 0xD0)]
    places = [at if event_type == 3 else begin + (at + 1) * n * width for at, _, _ in marks]
    if event_type == 1:
        body = b"".join(struct.pack("<HBBi", code, 0, pad, p) for p, (_, code, pad) in zip(places, marks, strict=True))
    else:
        body = b"".join(
            struct.pack("<HBBihhfBBB", code, 0, pad, p, 0, 0, 0.0, 0, 0, 0)
            for p, (_, code, pad) in zip(places, marks, strict=True)
        )
    table = struct.pack("<Bii", event_type, len(body), 0) + body
    (folder / f"{name}.cnt").write_bytes(bytes(head) + bytes(lines) + np.ascontiguousarray(grouped).tobytes() + table)
    return folder / f"{name}.cnt"


# Format -> writes one small valid file into a folder, with its companions; returns its handle.
FORMATS: dict[str, Callable[[Path], Path]] = {
    "brainvision": brainvision,
    "brainvision-float": lambda folder: brainvision(folder, fmt="IEEE_FLOAT_32", orientation="VECTORIZED"),
    "eeglab": eeglab,
    "eeglab-flat-compressed": lambda folder: eeglab(folder, flat=True, compressed=True),
    "eeglab-compressed": lambda folder: eeglab(folder, compressed=True),
    "eeglab-fdt": lambda folder: eeglab(folder, beside=True),
    "fif": fif,
    "gdf1": gdf,
    "gdf2": lambda folder: gdf(folder, version="2.20"),
    "cnt": cnt,
}
