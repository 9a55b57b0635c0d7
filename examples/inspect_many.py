"""Times ``toolkit inspect`` on folders of many small recordings, the first time and again, and prints a table.

python examples/inspect_many.py [--counts 1000 10000 100000] [--formats wav edf ply wfdb] [--folder WORK]

The files are made in a folder that is removed afterwards, 500 in each subfolder; they are in the page cache when
they are read, so what is measured is the program and not the disk. ``cpu us`` is processor time a file, of all processes
together: on a machine with neighbours it says more than the seconds do. Peak memory is of the largest process.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

import readers

A_FOLDER = 500
SETTLES_S = 2.5  # a file that changed just now is not remembered


def make_wav(path: Path) -> None:
    """A tenth of a second of 16-bit mono sound at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(3200))


def make_edf(path: Path) -> None:
    """Four EEG channels, one second at 100 Hz."""
    names = ["EEG Fp1", "EEG Fp2", "EEG C3", "EEG C4"]
    fields = [(16, names), (80, [""] * 4), (8, ["uV"] * 4), (8, ["-200"] * 4), (8, ["200"] * 4), (8, ["-2048"] * 4)]
    fields += [(8, ["2047"] * 4), (80, [""] * 4), (8, ["100"] * 4), (32, [""] * 4)]
    first = [(8, "0"), (80, "X X X X"), (80, "Startdate 01-JAN-2020 X X X"), (8, "01.01.20"), (8, "00.00.00"), (8, "1280")]
    first += [(44, ""), (8, "1"), (8, "1"), (4, "4")]
    text = "".join(value.ljust(width) for width, value in first)
    text += "".join(value.ljust(width) for width, values in fields for value in values)
    path.write_bytes(text.encode() + bytes(2 * 4 * 100))


def make_ply(path: Path) -> None:
    """Thirty points with intensity, binary."""
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex 30\n{names}end_header\n"
    path.write_bytes(header.encode() + struct.pack("<120f", *range(120)))


def make_wfdb(path: Path) -> None:
    """Two leads of 40 samples, in format 16."""
    stem = path.stem
    lines = [f"{stem} 2 100 40", *(f"{stem}.dat 16 200/mV 16 0 0 0 0 {lead}" for lead in ("II", "V5")), "# subject: p"]
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".dat").write_bytes(bytes(160))


MAKERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "wav": (".wav", make_wav),
    "edf": (".edf", make_edf),
    "ply": (".ply", make_ply),
    "wfdb": (".hea", make_wfdb),
}


def fill(folder: Path, kind: str, count: int) -> None:
    """Make ``count`` recordings of one format."""
    suffix, make = MAKERS[kind]
    for number in range(count):
        below = folder / f"{number // A_FOLDER:04}"
        if number % A_FOLDER == 0:
            below.mkdir(parents=True)
        make(below / f"r{number:06}{suffix}")


def inspect(folder: Path, cache: Path) -> tuple[float, float, float]:
    """Wall time in s, processor time in s and peak memory in MB of one inspect."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "inspect", str(folder), "--json", "--quiet"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TOOLKIT_CACHE": str(cache)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"inspect ended with {os.waitstatus_to_exitcode(status)}")
    memory = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, memory


def main() -> None:
    """Measure, and print one line a folder as it is done."""
    known = {suffix for reader in readers.READERS for suffix in reader.suffixes}
    readable = [kind for kind, (suffix, _) in MAKERS.items() if suffix in known]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--formats", nargs="+", choices=readable, default=readable)
    parser.add_argument("--folder", type=Path, help="where to work (default: the folder for temporary files)")
    asked = parser.parse_args()
    heads = ("first s", "us/file", "cpu us", "again s", "us/file", "cpu us", "times", "peak MB")
    print(f"{'format':8}{'files':>8}{''.join(f'{head:>9}' for head in heads)}", flush=True)
    for kind in asked.formats:
        for count in asked.counts:
            with tempfile.TemporaryDirectory(dir=asked.folder) as work:
                fill(Path(work) / "data", kind, count)
                time.sleep(SETTLES_S)
                runs = [inspect(Path(work) / "data", Path(work) / "cache") for _ in range(2)]
            times = "".join(f"{wall:9.2f}{wall / count * 1e6:9.0f}{cpu / count * 1e6:9.0f}" for wall, cpu, _ in runs)
            ratio, peak = runs[0][0] / runs[1][0], max(memory for _, _, memory in runs)
            print(f"{kind:8}{count:8}{times}{ratio:9.1f}{peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
