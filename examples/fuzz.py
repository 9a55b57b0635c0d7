"""Damages small valid files of every format, thousands of times each, and checks that nothing but ReadError comes out.

python examples/fuzz.py [--count 5000] [--formats edf wav ...] [--seed 0] [--first 0] [--jobs 2] [--out FOLDER]

Each damaged file is claimed, opened, read in windows as training reads them, verified and written with a patch, in a
child process that may take 10 s of processor time and 1 GiB above what it needs for the whole file. A child that
dies is replaced. Whatever fails is kept in FOLDER with its reason; ``--formats NAME --first N --count 1`` repeats file N.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import json
import os
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from fuzz_damage import write_damaged  # noqa: E402

import readers  # noqa: E402
from readers.schema import Box, Patch, PointsLike, ReadError, Recording, Sample, SignalLike, VolumeLike  # noqa: E402
from tests import audio_files, eeg_files, eeg_mne_files, mri_files, points_files, wfdb_files  # noqa: E402

GIB = 1 << 30
CPU_S, WALL_S = 10.0, 300.0
HANGS = 20  # after so many a format is given up


WFDB_KINDS = ("16", "24", "32", "80", "212", "516")
FORMATS: dict[str, Callable[[Path], Path]] = {
    **{f"wfdb-{fmt}": partial(wfdb_files.packed, fmt=fmt) for fmt in WFDB_KINDS},
    **{f"wfdb-{name}": make for name, make in wfdb_files.FORMATS.items()},
    **eeg_files.FORMATS,
    **audio_files.FORMATS,
    **points_files.FORMATS,
    **mri_files.FORMATS,
    **eeg_mne_files.FORMATS,
}


def read_whole(path: Path) -> Recording:
    """What the program does to read a file. Raises ReadError, and AssertionError for what must not be."""
    reader = readers.claim(path)
    if reader is not None:
        list(reader.members(path))
    recording = readers.open_recording(path)
    assert recording.channels and all(size > 0 for size in recording.axes.shape), f"shape {recording.axes.shape}"
    read_windows(recording)
    list(recording.events)
    recording.verify()
    return recording


def write_patched(recording: Recording, out: Path) -> None:
    """Write a copy with values of all kinds. Raises ReadError, and AssertionError for what must not be."""
    last = len(recording.channels) - 1
    index = np.array([0, recording.stored(last) // 2], np.int64)
    patches = [Patch(0, np.array([0]), np.array([0.5])), Patch(last, index, np.array([1e300, np.nan]))]
    try:
        written = readers.write(recording, patches, out / recording.path.name)
        assert written.path.is_file(), "the copy is not there"
    finally:
        rest = [p.name for p in out.rglob("*.part*")] if out.is_dir() else []
        assert not rest, f"{rest} left behind"


def read_windows(recording: Recording) -> None:
    samples: list[Sample] = []
    if isinstance(recording, SignalLike):
        rate = recording.axes.rate_hz
        assert rate is not None and np.isfinite(rate) and rate > 0, f"rate {rate}"
        n_native = min(round(2 * rate), recording.axes.shape[1] + 50, 2_000_000 // len(recording.channels))
        samples += [recording.read(0, n_native), recording.read(0, 200, rate_hz=100.0)]
    elif isinstance(recording, VolumeLike):
        assert np.isfinite(recording.grid(4.0)[1]).all(), "no grid"
        cube = Box((0, 0, 0), (16, 16, 16))
        samples += [recording.read(cube), recording.read(cube, spacing_mm=4.0)]
    else:
        assert isinstance(recording, PointsLike)
        rows = recording.read(0, 1000, channels=range(len(recording.channels)))
        assert np.isfinite(rows.coords).all(), "coordinates that are not finite"
        samples.append(rows)
    for sample in samples:
        assert sample.values.dtype == np.float32 and sample.values.shape == sample.valid.shape, "wrong tensors"
        assert np.isfinite(sample.values).all() and not sample.values[~sample.valid].any(), "values where there are none"


def out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False


def judge(path: Path, out: Path) -> tuple[str, str]:
    """(read, refused, caught, memory or crashed; the reason). Caught: refused by the door for what a reader let through.

    What was read and cannot be written counts as read.
    """
    status = "refused"
    try:
        recording = read_whole(path)
        status = "read"
        write_patched(recording, out)
    except ReadError as error:
        if out_of_memory(error):
            return "memory", traceback.format_exc()
        if not str(error):
            return "crashed", "a ReadError without a reason"
        by_door = traceback.extract_tb(error.__traceback__)[-1].filename == readers.__file__ and error.__cause__ is not None
        return ("caught", traceback.format_exc()) if by_door else (status, "")
    except BaseException as error:
        return "memory" if out_of_memory(error) else "crashed", traceback.format_exc()
    return status, ""


def memory_kib(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def work(name: str, seed: int, first: int, stop: int, folder: Path) -> None:
    """The child: damage and use one file after the other; a line before and after each."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    home, out = folder / "in", folder / "out"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    handle = FORMATS[name](home)
    clean = {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    status, reason = judge(handle, out)
    if status != "read":
        sys.exit(reason or "the undamaged file is refused")
    base = memory_kib("VmRSS")
    limit = memory_kib("VmSize") * 1024 + GIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, stop):
        write_damaged(clean, handle, random.Random(f"{seed}/{name}/{number}"))
        shutil.rmtree(out, ignore_errors=True)
        print(json.dumps([number]), flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start = sum(os.times()[:4])
        status, reason = judge(handle, out)
        spent, peak = sum(os.times()[:4]) - start, max(memory_kib("VmHWM") - base, 0)
        print(json.dumps([number, status, spent, peak, reason]), flush=True)


@dataclass
class Outcome:
    """Counts of one format, its slowest file (CPU s) and its highest peak above the whole file (MiB)."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    peak: float = 0.0
    failed: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)

    def add(self, status: str) -> None:
        self.counts[status] = self.counts.get(status, 0) + 1


def lines_of(child: subprocess.Popen[bytes]) -> Iterator[list | None]:
    """What a child says, and None about every second in which it says nothing."""
    assert child.stdout is not None
    buffer = b""
    while True:
        ready, _, _ = select.select([child.stdout], [], [], 1.0)
        if not ready:
            yield None
            continue
        part = os.read(child.stdout.fileno(), 1 << 16)
        if not part:
            return
        *lines, buffer = (buffer + part).split(b"\n")
        yield from (json.loads(line) for line in lines)


def cpu_s(child: subprocess.Popen[bytes]) -> float:
    try:
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def supervise(name: str, asked: argparse.Namespace) -> Outcome:
    """Run all files of one format, in as many children as it takes."""
    outcome, number = Outcome(name), asked.first
    while number < asked.first + asked.count and outcome.counts.get("hung", 0) < HANGS:
        with tempfile.TemporaryDirectory() as work_folder, tempfile.TemporaryFile() as errors:
            words = ["--worker", work_folder, "--formats", name, "--seed", asked.seed, "--first", number]
            words += ["--count", asked.first + asked.count - number]
            env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, __file__, *map(str, words)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=work_folder, env=env)
            number = follow(child, outcome, number - 1, Path(work_folder), asked.out, errors) + 1
            if child.wait() and number <= asked.first:
                raise SystemExit(f"{name} cannot be used even undamaged:\n{_said(errors)}")
    return outcome


def _said(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read()[-20_000:].decode("utf-8", "replace")


def follow(child: subprocess.Popen[bytes], outcome: Outcome, number: int, folder: Path, out: Path, errors: IO[bytes]) -> int:
    """Count what a child reports until it ends or is ended; returns the number of its last file."""
    began, cpu, busy = time.monotonic(), 0.0, False
    for line in lines_of(child):
        if line is None:
            if busy and (cpu_s(child) - cpu > CPU_S or time.monotonic() - began > WALL_S):
                child.kill()
                fail(outcome, "hung", number, "still busy", folder, out)
                busy = False
                break
        elif len(line) == 1:
            number, began, cpu, busy = line[0], time.monotonic(), cpu_s(child), True
        else:
            number, status, spent, peak, reason = line
            busy = False
            outcome.slowest, outcome.peak = max(outcome.slowest, spent), max(outcome.peak, peak / 1024)
            status = "hung" if spent > CPU_S else "memory" if peak > GIB // 1024 else status
            if status in ("read", "refused"):
                outcome.add(status)
            else:
                fail(outcome, status, number, reason, folder, out)
    if busy:
        child.wait()
        fail(outcome, "crashed", number, f"{_said(errors)}\nthe process ended with {child.returncode}", folder, out)
    return number


def fail(outcome: Outcome, status: str, number: int, reason: str, folder: Path, out: Path) -> None:
    """Count a failure; the first three of each kind are kept with their reason."""
    outcome.add(status)
    last = (reason.strip().splitlines() or [""])[-1]
    where = re.findall(r'File "(?:.*/)?([^"/]+)", line (\d+)', reason)
    kind = f"{status} {':'.join(where[-1]) if where else ''} {re.sub(r'[0-9]+', 'N', last)[:60]}"
    outcome.kinds[kind] = outcome.kinds.get(kind, 0) + 1
    if outcome.kinds[kind] <= 3:
        kept = out / f"{outcome.name}-{number}"
        shutil.copytree(folder / "in", kept, dirs_exist_ok=True)
        (kept / "reason.txt").write_text(f"{status}\n{reason}")
        outcome.failed.append(f"{kept.name}: {status}, {last[:160]}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--formats", nargs="+", choices=sorted(FORMATS), default=list(FORMATS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-failures")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def report(outcomes: Iterator[Outcome] | Sequence[Outcome]) -> bool:
    """Print a row for each format as it comes; whether nothing failed."""
    columns = ["format", "files", "read", "refused", "caught", "crashed", "hung", "over 1 GiB", "slowest, CPU s", "peak, MiB"]
    print(f"| {' | '.join(columns)} |")
    print("|---|" + "---:|" * 9, flush=True)
    good = True
    for outcome in outcomes:
        numbers = [outcome.counts.get(key, 0) for key in ("read", "refused", "caught", "crashed", "hung", "memory")]
        row = [outcome.name, sum(numbers), *numbers, f"{outcome.slowest:.2f}", f"{outcome.peak:.0f}"]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        for failure in outcome.failed:
            print(f"    {failure}", file=sys.stderr, flush=True)
        good = good and not any(numbers[3:])
    return good


def main() -> int:
    asked = parsed()
    if asked.worker is not None:
        with contextlib.suppress(BrokenPipeError):
            work(asked.formats[0], asked.seed, asked.first, asked.first + asked.count, asked.worker)
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(asked.jobs) as pool:
        good = report(pool.map(lambda name: supervise(name, asked), asked.formats))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
