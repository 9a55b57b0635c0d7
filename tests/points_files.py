"""Small point clouds in every format that is read, written by hand after the formats' descriptions."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readers.points import POINT_READERS, PointReader, create_ply
from readers.schema import Patch, PointsLike, Written

PLY_TYPES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double"}
HAS_LASPY = all(importlib.util.find_spec(name) is not None for name in ("laspy", "lazrs"))

Columns = Mapping[str, NDArray[Any]]


def reader_of(path: Path) -> PointReader | None:
    """The reader that claims a file."""
    with path.open("rb") as file:
        head = file.read(4096)
    fitting = (reader for reader in POINT_READERS if path.name.lower().endswith(reader.suffixes))
    return next((reader for reader in fitting if reader.claims(path, head)), None)


def opened(path: Path) -> PointsLike:
    """A file opened by the reader that claims it; nothing that it raises is made into another error."""
    reader = reader_of(path)
    assert reader is not None
    recording = reader.open(path)
    assert isinstance(recording, PointsLike) and recording.format == reader.name
    return recording


def written(recording: PointsLike, patches: Sequence[tuple[int, Any, Any]], path: Path) -> Written:
    """A copy with patches (channel, rows, values)."""
    reader = next(reader for reader in POINT_READERS if reader.name == recording.format)
    return reader.write(recording, [Patch(c, np.asarray(i, np.int64), np.asarray(v, np.float64)) for c, i, v in patches], path)


def cloud(rows: int = 40, seed: int = 0, *, far: float = 0.0) -> dict[str, NDArray[Any]]:
    """A sphere with colour, normal, intensity and label; ``far`` moves it away from the origin."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(rows, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    xyz = 2.5 * normals + [far, 10 * far, 1]
    coordinate = np.float64 if far else np.float32
    return {
        **{axis: xyz[:, k].astype(coordinate) for k, axis in enumerate("xyz")},
        **{f"n{axis}": normals[:, k].astype(np.float32) for k, axis in enumerate("xyz")},
        **{colour: rng.integers(0, 256, rows).astype(np.uint8) for colour in ("red", "green", "blue")},
        "intensity": rng.random(rows).astype(np.float32),
        "label": rng.integers(0, 9, rows).astype(np.int32),
    }


def ply(
    path: Path, columns: Columns, encoding: str = "binary_little_endian", *, before: str = "", faces: int = 0, end: str = "\n"
) -> Path:
    """A PLY file; ``before``: header lines of an element of two uchars and one row in front of the vertices."""
    rows = len(next(iter(columns.values())))
    lines = ["ply", f"format {encoding} 1.0", "comment made by hand", "obj_info none"]
    lines += [before] if before else []
    lines += [f"element vertex {rows}", *(f"property {PLY_TYPES[v.dtype.str[1:]]} {n}" for n, v in columns.items())]
    lines += [f"element face {faces}", "property list uchar int vertex_indices"] if faces else []
    head = end.join([*lines, "end_header", ""]).encode()
    if encoding == "ascii":
        body = [b"7  8" + end.encode()] if before else []
        body += [("  ".join(str(v[k]) for v in columns.values()) + end).encode() for k in range(rows)]
        body += [f"3 0 1 {k}{end}".encode() for k in range(faces)]
    else:
        order = "<" if "little" in encoding else ">"
        body = [b"\7\10"] if before else []
        body.append(records(columns, order))
        body += [struct.pack(f"{order}B3i", 3, 0, 1, k) for k in range(faces)]
    path.write_bytes(head + b"".join(body))
    return path


def records(columns: Columns, order: str = "<") -> bytes:
    """Columns as interleaved records."""
    table = np.empty(len(next(iter(columns.values()))), [(n, order + v.dtype.str[1:]) for n, v in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table.tobytes()


def pack_rgb(columns: Columns) -> NDArray[np.uint32]:
    """Colours as PCL packs them: 0x00RRGGBB."""
    red, green, blue = (columns[name].astype(np.uint32) for name in ("red", "green", "blue"))
    return red << 16 | green << 8 | blue


def pcd(
    path: Path,
    columns: Columns,
    storage: str = "binary",
    *,
    counts: Mapping[str, int] | None = None,
    height: int = 1,
    extra: str = "",
) -> Path:
    """A PCD file; a column of ``counts`` is (N, count)."""
    counts = counts or {}
    arrays = {name: np.asarray(v).reshape(len(v), -1) for name, v in columns.items()}
    rows = len(next(iter(arrays.values())))
    kinds = {"f": "F", "i": "I", "u": "U"}
    lines = ["# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7", f"FIELDS {' '.join(arrays)}"]
    lines += [f"SIZE {' '.join(str(v.dtype.itemsize) for v in arrays.values())}"]
    lines += [f"TYPE {' '.join(kinds[v.dtype.kind] for v in arrays.values())}"]
    lines += [f"COUNT {' '.join(str(counts.get(n, 1)) for n in arrays)}"]
    lines += [f"WIDTH {rows // height}", f"HEIGHT {height}", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {rows}", f"DATA {storage}", ""]
    if storage == "ascii":
        body = "".join(" ".join(str(x) for v in arrays.values() for x in v[k]) + "\n" for k in range(rows)).encode()
    elif storage == "binary":
        body = b"".join(v[k].tobytes() for k in range(rows) for v in arrays.values())
    else:
        plain = b"".join(v.tobytes() for v in arrays.values())
        packed = lzf(plain)
        body = struct.pack("<II", len(packed), len(plain)) + packed
    path.write_bytes("\n".join(lines).encode() + body + extra.encode())
    return path


def lzf(data: bytes) -> bytes:
    """LZF with back references, a simple compressor of its own."""
    out, literal, seen, at = bytearray(), bytearray(), {}, 0

    def flush() -> None:
        for k in range(0, len(literal), 32):
            run = literal[k : k + 32]
            out.extend(bytes([len(run) - 1]) + run)
        literal.clear()

    while at < len(data):
        key = data[at : at + 3]
        place = seen.get(key)
        seen[key] = at
        if len(key) == 3 and place is not None and at - place <= 8192:
            length = 3
            while length < 264 and at + length < len(data) and data[place + length] == data[at + length]:
                length += 1
            flush()
            back = at - place - 1
            short = length - 2
            out.extend(
                bytes([min(short, 7) << 5 | back >> 8]) + (bytes([short - 7]) if short >= 7 else b"") + bytes([back & 255])
            )
            at += length
        else:
            literal.append(data[at])
            at += 1
    flush()
    return bytes(out)


def text(
    path: Path, columns: Sequence[NDArray[Any]], *, separator: str = " ", head: str = "", end: str = "\n", prefix: str = ""
) -> Path:
    """Rows of numbers after ``head``."""
    rows = (prefix + separator.join(str(value) for value in row) + end for row in zip(*columns, strict=True))
    path.write_bytes((head + "".join(rows)).encode())
    return path


def coordinates(columns: Columns) -> list[NDArray[Any]]:
    return [columns[axis] for axis in "xyz"]


def las(path: Path, columns: Columns, *, point_format: int = 3, version: str = "1.2", extra: bool = False) -> Path:
    """A LAS or LAZ file, by laspy."""
    import laspy

    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales, header.offsets = [0.001, 0.001, 0.01], [float(np.floor(columns[a].min())) for a in "xyz"]
    if extra:
        header.add_extra_dims([laspy.ExtraBytesParams("reflect", np.float32), laspy.ExtraBytesParams("rings", np.uint8)])
    data = laspy.LasData(header)
    data.x, data.y, data.z = coordinates(columns)
    data.intensity = (columns["intensity"] * 65535).astype(np.uint16)
    data.classification = columns["label"].astype(np.uint8)
    data.return_number = columns["label"].astype(np.uint8) % 5 + 1
    if "red" in data.point_format.dimension_names:
        for colour in ("red", "green", "blue"):
            data[colour] = columns[colour].astype(np.uint16) * 257
    if extra:
        data.reflect, data.rings = columns["intensity"] / 2, columns["label"].astype(np.uint8)
    data.write(str(path))
    return path


def _kitti(folder: Path) -> Path:
    (folder / "velodyne").mkdir(parents=True, exist_ok=True)
    path = folder / "velodyne" / "000000.bin"
    columns = cloud()
    path.write_bytes(np.stack([*coordinates(columns), columns["intensity"]], axis=1).astype("<f4").tobytes())
    return path


def _saved(path: Path) -> Path:
    points = np.stack(coordinates(cloud()), axis=1)
    if path.suffix == ".npy":
        np.save(path, points)
    else:
        np.savez_compressed(path, points=points, label=np.arange(len(points)))
    return path


def _off(folder: Path) -> Path:
    return text(folder / "a.off", coordinates(cloud()), head="OFF\n# made by hand\n40 0 0\n")


def _pts(folder: Path) -> Path:
    columns = cloud()
    seven = [*coordinates(columns), columns["intensity"], *(columns[c] for c in ("red", "green", "blue"))]
    return text(folder / "a.pts", seven, head="40\n")


def _rgb_pcd(folder: Path, storage: str) -> Path:
    columns = cloud()
    fields = {**{a: columns[a] for a in "xyz"}, "rgb": pack_rgb(columns), "label": columns["label"]}
    return pcd(folder / "a.pcd", fields, storage)


# One small valid file of each format: a function that writes it into a folder and returns it.
FORMATS: dict[str, Callable[[Path], Path]] = {
    "ply-ascii": lambda folder: ply(folder / "a.ply", cloud(), "ascii", faces=2),
    "ply-little": lambda folder: create_ply(folder / "a.ply", cloud()),
    "ply-big": lambda folder: ply(folder / "a.ply", cloud(), "binary_big_endian", faces=2),
    "pcd-ascii": lambda folder: _rgb_pcd(folder, "ascii"),
    "pcd-binary": lambda folder: _rgb_pcd(folder, "binary"),
    "pcd-compressed": lambda folder: _rgb_pcd(folder, "binary_compressed"),
    "xyz": lambda folder: text(folder / "a.xyz", coordinates(cloud()), head="# x y z\n"),
    "txt": lambda folder: text(folder / "a.txt", [*coordinates(cloud()), cloud()["intensity"]], separator=", "),
    "pts": _pts,
    "off": _off,
    "obj": lambda folder: text(folder / "a.obj", coordinates(cloud()), prefix="v ", head="# made by hand\n"),
    "npy": lambda folder: _saved(folder / "a.npy"),
    "npz": lambda folder: _saved(folder / "a.npz"),
    "kitti": _kitti,
}
if HAS_LASPY:
    FORMATS["las"] = lambda folder: las(folder / "a.las", cloud(), extra=True, version="1.4", point_format=7)
    FORMATS["laz"] = lambda folder: las(folder / "a.laz", cloud())
    FORMATS["laz-layered"] = lambda folder: las(folder / "a.laz", cloud(), extra=True, version="1.4", point_format=7)
