"""Importing open3d, which on a bare machine can fail for the want of libusb, and saying what is missing."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

# A wheel that ships libusb-1.0 for machines without it.
LIBUSB_WHEEL = "libusb_package"


def load_open3d() -> ModuleType:
    """The open3d package. Where its import fails for libusb-1.0, the one of a ``libusb-package`` wheel is loaded first.

    Raises ImportError saying what is missing.
    """
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        if "libusb" not in str(error):
            raise ImportError(f"open3d cannot be imported: {error}") from error
        library = _shipped_libusb()
        if library is None:
            raise ImportError(
                f"open3d cannot be imported: {error}; install the system's libusb-1.0 or: pip install libusb-package"
            ) from error
        for name in [name for name in sys.modules if name == "open3d" or name.startswith("open3d.")]:
            del sys.modules[name]  # what the failed import left behind
    # Its name inside is libusb-1.0.so.0: once loaded for all, the loader finds it by that name.
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("open3d")


def _shipped_libusb() -> Path | None:
    """The shared library inside the ``libusb-package`` wheel, where that is installed."""
    spec = importlib.util.find_spec(LIBUSB_WHEEL)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("libusb-1.0.*"))), None)


def open3d_status(timeout_s: float = 120) -> tuple[bool, str]:
    """Whether open3d can be used, and its version or what is missing.

    Tried in a process of its own: a library that does not fit the machine may end the process that loads it.
    """
    if importlib.util.find_spec("open3d") is None:
        return False, "open3d is not installed; pip install open3d"
    code = "from readers.open3d_import import load_open3d; print(load_open3d().__version__)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).resolve().parents[1],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"open3d could not be tried: {error}"
    if done.returncode == 0 and done.stdout.strip():
        return True, f"open3d {done.stdout.split()[-1]}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return False, lines[-1].removeprefix("ImportError: ") if lines else f"importing open3d ended with {done.returncode}"
