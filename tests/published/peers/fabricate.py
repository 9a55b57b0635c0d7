"""Weights that are a function of their names alone: a peer's environment and ours make the same ones, so none are stored.

numpy's RandomState is frozen (NEP 19): its numbers are the same in every version.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Shapes = Mapping[str, Sequence[int]]
WHOLE = "num_batches_tracked"  # a whole number beside running means


def numbers(name: str, *shape: int) -> np.ndarray:
    """Normal numbers float32, a function of the name."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weights(shapes: Shapes) -> dict[str, np.ndarray]:
    """A tensor of each name: matrices keep the size of what goes through, no bias or norm is its neutral one."""
    made = {}
    for name, shape in shapes.items():
        noise = numbers(name, *shape)
        if name.endswith(WHOLE):
            made[name] = np.array(7, np.int64)
        elif name.endswith("running_var"):
            made[name] = np.abs(noise) + np.float32(0.5)
        elif len(shape) < 2:
            made[name] = np.float32(0.3) * noise + np.float32("norm" in name or "weight" in name)
        elif 1 in shape[:2] and len(shape) == 3:  # tokens
            made[name] = noise
        else:
            made[name] = noise / np.sqrt(np.float32(max(1, np.prod(shape[1:]))))
    return made


def wave(number: int, rate: int, seconds: float) -> np.ndarray:
    """A sweep under noise, quieter towards the end, with some complete silence."""
    t = np.arange(round(rate * seconds)) / rate
    sweep = np.sin(2 * np.pi * (200 + 0.2 * rate * t / seconds) * t)
    noise = numbers(f"wave {number}", len(t))
    made = (0.3 * sweep + 0.05 * noise) * np.linspace(1, 0.01, len(t))
    made[len(t) // 3 : len(t) // 3 + len(t) // 6] = 0
    return made.astype(np.float32)


def groups(number: int, size: int, count: int, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbourhoods (size, count, neighbours, 3) around centres (size, count, 3)."""
    near = numbers(f"groups {number}", size, count, neighbours, 3)
    return np.float32(0.1) * near, np.float32(0.5) * numbers(f"centres {number}", size, count, 3)


def shapes_of(state: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Names and shapes of a state dict."""
    return {name: list(tensor.shape) for name, tensor in state.items()}


def record(path: Path, made_with: Mapping[str, str], shapes: Shapes, cases: Sequence[Mapping[str, np.ndarray]]) -> None:
    """One .npz: the arrays of each case as ``NUMBER.NAME``, and under ``about`` versions, key names and shapes as JSON."""
    arrays = {f"{number}.{name}": value for number, case in enumerate(cases) for name, value in case.items()}
    about = {"made_with": dict(made_with), "shapes": {k: list(v) for k, v in shapes.items()}, "cases": len(cases)}
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)


def read(path: Path) -> tuple[dict, list[dict[str, np.ndarray]]]:
    """What :func:`record` wrote: about, cases."""
    with np.load(path) as held:
        about = json.loads(str(held["about"]))
        cases = [
            {key.partition(".")[2]: held[key] for key in held.files if key.partition(".")[0] == str(number)}
            for number in range(about["cases"])
        ]
    return about, cases
