"""This machine: cores that may really be used, compute device and precision, peak memory."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import UsageError

if TYPE_CHECKING:
    import torch


def available_cores() -> int:
    """Cores this process may use: its affinity, limited by the cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _threads() -> int:
    """Threads for torch: a core each, or as many as OMP_NUM_THREADS asks for."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = available_cores()
    return min(int(asked), cores) if asked.isdecimal() and int(asked) > 0 else cores


def use_device(name: str) -> torch.device:
    """The torch device for auto|cpu|cuda|mps, with thread counts set. Raises UsageError."""
    import torch

    torch.set_num_threads(_threads())
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if have[n])
    if name not in have:
        raise UsageError(f"--device is auto, cpu, cuda or mps, got '{name}'.")
    if not have[name]:
        raise UsageError(
            f"--device {name} was asked for, but this machine has none that torch can use "
            f"(torch {torch.__version__}). Use --device auto or cpu."
        )
    return torch.device(name)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: auto means where a CUDA device has it. Raises UsageError."""
    import torch

    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"--precision is auto, fp32 or bf16, got '{precision}'.")
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB; on CUDA see torch's own counter."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
