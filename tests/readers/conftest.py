"""WFDB records written by hand, in every format of fixed size, after the text of the specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
BITS = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}


@dataclass
class Signal:
    """One signal of a test record; ``samples`` in stored order, skew not undone."""

    samples: np.ndarray
    name: str = "II"
    per_frame: int = 1
    skew: int = 0
    gain: str = "200(3)/mV"
    file: str | None = None


def encode(fmt: str, flat: Sequence[int]) -> bytes:
    """Pack samples one at a time."""
    values = [int(v) for v in flat]
    if fmt in ("16", "24", "32"):
        return b"".join(v.to_bytes(int(fmt) // 8, "little", signed=True) for v in values)
    if fmt == "8":
        return b"".join(v.to_bytes(1, "little", signed=True) for v in values)
    if fmt == "61":
        return b"".join(v.to_bytes(2, "big", signed=True) for v in values)
    if fmt in ("80", "160"):
        return b"".join((v + (1 << (BITS[fmt] - 1))).to_bytes(BITS[fmt] // 8, "little") for v in values)
    if fmt == "212":
        values += [0] * (len(values) % 2)
        out = bytearray()
        for a, b in zip(values[::2], values[1::2], strict=True):
            a, b = a & 0xFFF, b & 0xFFF
            out += bytes([a & 0xFF, (a >> 8) | (b >> 8) << 4, b & 0xFF])
        return bytes(out)
    values += [0] * (-len(values) % 3)
    out = bytearray()
    for i in range(0, len(values), 3):
        a, b, c = (v & 0x3FF for v in values[i : i + 3])
        if fmt == "311":
            out += (a | b << 10 | c << 20).to_bytes(4, "little")
        else:
            out += (a << 1 | (c & 0x1F) << 11).to_bytes(2, "little") + (b << 1 | (c >> 5) << 11).to_bytes(2, "little")
    return bytes(out)


def _write(
    folder: Path,
    name: str,
    fmt: str,
    signals: Sequence[Signal],
    *,
    rate: str = "100",
    offset: int = 0,
    length: bool = True,
    comments: str = "",
    end: str = "\n",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    n_frames = len(signals[0].samples) // signals[0].per_frame
    lines = [f"{name} {len(signals)} {rate}" + (f" {n_frames}" if length else "")]
    for signal in signals:
        spec = fmt + (f"x{signal.per_frame}" if signal.per_frame > 1 else "")
        spec += (f":{signal.skew}" if signal.skew else "") + (f"+{offset}" if offset else "")
        total = int(np.sum(signal.samples)) % 65536
        total -= 65536 if total > 32767 else 0
        file = signal.file or f"{name}.dat"
        lines.append(f"{file} {spec} {signal.gain} {BITS[fmt]} 0 {int(signal.samples[0])} {total} 0 {signal.name}")
    for file in dict.fromkeys(signal.file or f"{name}.dat" for signal in signals):
        own = [signal for signal in signals if (signal.file or f"{name}.dat") == file]
        stored = [np.diff(s.samples, prepend=s.samples[0]) if fmt == "8" else s.samples for s in own]
        frames = [d.reshape(n_frames, s.per_frame) for d, s in zip(stored, own, strict=True)]
        (folder / file).write_bytes(bytes(offset) + encode(fmt, np.hstack(frames).reshape(-1)))
    path = folder / f"{name}.hea"
    path.write_bytes((end.join(lines) + end + comments).encode())
    return path


@pytest.fixture(scope="session")
def write_record() -> Callable[..., Path]:
    """Write a single-segment record: (folder, name, format, signals, rate=, offset=, ...) -> path of its header."""
    return _write


@pytest.fixture(scope="session")
def signal_line() -> type[Signal]:
    return Signal


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real recordings beside the repository, where there are any."""
    if not SHARED.is_dir():
        pytest.skip("no real recordings here")
    return SHARED
