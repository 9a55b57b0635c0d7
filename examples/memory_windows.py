"""Reads random windows of very long recordings and of short ones, and prints the peak memory of both.

python examples/memory_windows.py [--windows 200] [--folder WORK]

The long files, 24 hours of EEG, 10 hours of sound and 20 million points, take 6.7 GB of addresses and little disk where
the file system knows holes: only every hundredth block of samples is written. They are removed afterwards. Each row
comes from a process of its own; "above" is the peak above what it held after a window of the short file. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

import readers  # noqa: E402
from readers.schema import PointsLike, SignalLike  # noqa: E402

MB = 1e6
BLOCK = 1 << 20


def fill(path: Path, header: bytes, n_bytes: int) -> Path:
    """Write a header and ``n_bytes`` of samples behind it, most of them a hole."""
    noise = np.random.default_rng(0).integers(-1000, 1000, BLOCK // 2).astype("<i2").tobytes()
    with path.open("wb") as file:
        file.write(header)
        for at in range(0, n_bytes, 100 * BLOCK):
            file.seek(len(header) + at)
            file.write(noise[: n_bytes - at])
        file.truncate(len(header) + n_bytes)
    return path


def edf(path: Path, seconds: int) -> Path:
    """64 channels at 256 Hz, in records of a second."""
    n, rate = 64, 256
    texts = [(8, "0"), (80, "X X X X"), (80, "Startdate 01-JAN-2020 X X X"), (8, "01.01.20"), (8, "00.00.00")]
    texts += [(8, str(256 * (n + 1))), (44, ""), (8, str(seconds)), (8, "1"), (4, str(n))]
    columns = [(16, "EEG {}"), (80, ""), (8, "uV"), (8, "-3276.8"), (8, "3276.7"), (8, "-32768"), (8, "32767")]
    columns += [(80, ""), (8, str(rate)), (32, "")]
    texts += [(width, text.format(k)) for width, text in columns for k in range(n)]
    return fill(path, "".join(text.ljust(width) for width, text in texts).encode(), 2 * n * rate * seconds)


def wav(path: Path, seconds: int) -> Path:
    """One channel of 16 bits at 48 kHz."""
    n_bytes, rate = 2 * 48_000 * seconds, 48_000
    numbers = (1, 1, rate, 2 * rate, 2, 16)
    sizes = (2, 2, 4, 4, 2, 2)
    fmt = b"".join(value.to_bytes(size, "little") for value, size in zip(numbers, sizes, strict=True))
    header = b"RIFF" + (36 + n_bytes).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little") + fmt
    return fill(path, header + b"data" + n_bytes.to_bytes(4, "little"), n_bytes)


def ply(path: Path, points: int) -> Path:
    """x, y, z, intensity and colours: 19 bytes a point."""
    lines = [f"property float {name}" for name in ("x", "y", "z", "intensity")]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {points}", *lines, "end_header", ""]
    return fill(path, "\n".join(head).encode(), 19 * points)


# What is made, from a length; the short and the long length and how they are called; a window, in samples or rows.
CASES: dict[str, tuple[Callable[[Path, int], Path], tuple[int, str], tuple[int, str], int]] = {
    "edf": (edf, (60, "1 minute"), (24 * 3600, "24 hours"), 10 * 256),
    "wav": (wav, (10, "10 s"), (10 * 3600, "10 hours"), 5 * 48_000),
    "ply": (ply, (20_000, "20,000 points"), (20_000_000, "20,000,000 points"), 8192),
}


def memory_mb(name: str) -> float:
    """Resident memory of this process: ``VmRSS`` now, ``VmHWM`` at its highest.

    Not ``ru_maxrss``, which a process inherits from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / MB for line in lines if line.startswith(f"{name}:"))


def measure(short: Path, path: Path, windows: int, size: int) -> dict[str, float]:
    """The child: read a window of the short file, then random windows of ``path``."""
    _read(short, 1, size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    base, start = memory_mb("VmRSS"), time.process_time()
    _read(path, windows, size)
    peak, spent = memory_mb("VmHWM"), time.process_time() - start
    return {"peak": peak, "above": peak - base, "ms": spent / windows * 1e3}


def _read(path: Path, windows: int, size: int) -> None:
    recording, rng = readers.open_recording(path), np.random.default_rng(0)
    if isinstance(recording, SignalLike):
        for _ in range(windows):
            first = int(rng.integers(0, recording.axes.shape[1] - size))
            assert recording.read(first, first + size).valid.all()
    elif isinstance(recording, PointsLike):
        attributes = range(len(recording.channels))
        for _ in range(windows):
            first = int(rng.integers(0, recording.stored(0) - size))
            recording.read(first, first + size, channels=attributes)


def measured(short: Path, path: Path, windows: int, size: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--child", str(short), str(path), str(size), "--windows", str(windows)]
    found: dict[str, float] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        short, path, size = asked.child
        print(json.dumps(measure(Path(short), Path(path), asked.windows, int(size))))
        return
    print(f"{'recording':24}{'file MB':>10}{'peak MB':>9}{'above MB':>10}{'long/short':>11}{'CPU ms a window':>17}")
    for name, (make, *lengths, size) in CASES.items():
        with tempfile.TemporaryDirectory(dir=asked.folder) as work:
            paths = [make(Path(work) / f"{k}.{name}", length) for k, (length, _) in enumerate(lengths)]
            rows = [measured(paths[0], path, asked.windows, size) for path in paths]
            for path, row, (_, title) in zip(paths, rows, lengths, strict=True):
                ratio = f"{row['peak'] / rows[0]['peak']:.3f}"
                facts = f"{path.stat().st_size / MB:10.1f}{row['peak']:9.1f}{row['above']:10.1f}{ratio:>11}{row['ms']:17.2f}"
                print(f"{name + ', ' + title:24}{facts}", flush=True)


if __name__ == "__main__":
    main()
