"""Point clouds: the readers of PLY, PCD, text tables, OFF, OBJ, NPY, NPZ, KITTI scans and LAS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from readers.points_arrays import KITTI_BYTES, open_kitti, open_npy, open_npz, read_layout
from readers.points_laz import open_las
from readers.points_pcd import open_pcd
from readers.points_ply import open_ply
from readers.points_record import PointsRecording
from readers.points_text import looks_like_table, open_obj, open_off, open_xyz, preamble
from readers.points_write import create_ply, write_points
from readers.scan import HEAD_BYTES
from readers.schema import Patch, ReadError, Recording, Written

__all__ = [
    "POINT_READERS",
    "KittiReader",
    "LasReader",
    "NpyReader",
    "NpzReader",
    "ObjReader",
    "OffReader",
    "PcdReader",
    "PlyReader",
    "XyzReader",
    "create_ply",
]

_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".m4a")
_KITTI_FOLDERS = ("velodyne", "velodyne_points")


class PointReader(ABC):
    """What the readers of one-file formats share: no companions, every file alone, copies with patched elements."""

    name = ""
    domains: tuple[str, ...] = ("points",)
    suffixes: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    copy_suffix: str | None = None

    def claims(self, path: Path, head: bytes) -> bool:
        """The suffix says it; a file that is not what it says is reported when it is opened."""
        return True

    def members(self, path: Path) -> Iterator[Path]:
        """No other files."""
        return iter(())

    def groups(self, paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Every cloud stands alone."""
        return ((path,) for path in paths)

    @abstractmethod
    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""

    def write(self, recording: Recording, patches: Sequence[Patch], path: Path) -> Written:
        """Write a copy with patched elements; see ``points_write.write_points``. Raises ReadError."""
        assert isinstance(recording, PointsRecording)
        return write_points(recording, patches, path)


class PlyReader(PointReader):
    """PLY, ascii and binary of both byte orders: the vertices and all their properties."""

    name = "ply"
    suffixes = (".ply",)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_ply(path)


class PcdReader(PointReader):
    """PCD, ascii, binary and compressed."""

    name = "pcd"
    suffixes = (".pcd",)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_pcd(path)


class XyzReader(PointReader):
    """Tables of x y z and attributes in text."""

    name = "xyz"
    suffixes = (".xyz", ".pts", ".txt")

    def claims(self, path: Path, head: bytes) -> bool:
        """A .txt only where its first lines are rows of three or more numbers, and no sound file lies beside it.

        An .xyz or .pts in any case, but molecules (a count, a title, then element names) and landmarks.
        """
        cut = len(head) == HEAD_BYTES
        if path.suffix.lower() == ".txt":
            return looks_like_table(head, cut) and not _audio_beside(path)
        if head.lstrip().startswith(b"version"):
            return False
        lines = head.split(b"\n", 3)
        atoms = lines[0].strip().isdigit() and len(lines) > 2 and lines[2].lstrip()[:1].isalpha()
        return preamble(head, cut=cut) is not None or not atoms

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_xyz(path)


def _audio_beside(path: Path) -> bool:
    """Whether the text may be labels of a sound file."""
    return any(path.with_suffix(case).is_file() for suffix in _AUDIO for case in (suffix, suffix.upper()))


class OffReader(PointReader):
    """OFF: the vertices, with colours and normals."""

    name = "off"
    suffixes = (".off",)

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_off(path)


class ObjReader(PointReader):
    """OBJ: the vertices, with colours."""

    name = "obj"
    suffixes = (".obj",)

    def claims(self, path: Path, head: bytes) -> bool:
        """Text only: a compiler's object files have the same suffix."""
        return b"\0" not in head

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_obj(path)


class NpyReader(PointReader):
    """NPY: an array (points, 3 or more)."""

    name = "npy"
    suffixes = (".npy",)

    def claims(self, path: Path, head: bytes) -> bool:
        """Not an array of another shape; one whose header cannot be read, or that holds objects, is reported."""
        try:
            with path.open("rb") as file:
                layout = read_layout(file, path.name, path.stat().st_size)
        except (OSError, ReadError):
            return True
        return layout.is_cloud

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_npy(path)


class NpzReader(PointReader):
    """NPZ: the only array, or the one called xyz, points, coords or pos."""

    name = "npz"
    suffixes = (".npz",)

    def claims(self, path: Path, head: bytes) -> bool:
        """Not the masks that lie beside restored files."""
        return not path.name.lower().endswith(".mask.npz")

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_npz(path)


class KittiReader(PointReader):
    """KITTI scans: float32 x, y, z, intensity without a header.

    Any file could be one, so the folder has to say it: ``velodyne/`` (object, odometry, SemanticKITTI) or
    ``velodyne_points/`` (raw) above the file.
    """

    name = "kitti"
    suffixes = (".bin",)

    def claims(self, path: Path, head: bytes) -> bool:
        """A file below a folder called velodyne or velodyne_points, of a multiple of 16 bytes."""
        folders = {folder.lower() for folder in path.resolve().parts[:-1]}
        return not folders.isdisjoint(_KITTI_FOLDERS) and path.stat().st_size % KITTI_BYTES == 0

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_kitti(path)


class LasReader(PointReader):
    """LAS, and LAZ where lazrs is installed."""

    name = "las"
    suffixes = (".las", ".laz")

    def claims(self, path: Path, head: bytes) -> bool:
        """Not a well log: those have the same suffix and begin with a tilde."""
        return not head.lstrip().startswith((b"~", b"#"))

    def open(self, path: Path, parts: Sequence[Path] = ()) -> Recording:
        """Open a cloud. Raises ReadError."""
        return open_las(path)


# Ready to be asked in this order.
POINT_READERS: tuple[PointReader, ...] = (
    PlyReader(),
    PcdReader(),
    XyzReader(),
    OffReader(),
    ObjReader(),
    NpyReader(),
    NpzReader(),
    KittiReader(),
    LasReader(),
)
