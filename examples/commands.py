"""Runs the command line from an example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def answer(*words: str | Path, codes: tuple[int, ...] = (0, 3), threads: int | None = None) -> Any:
    """A toolkit command's --json, with as many ``threads`` as asked; ends the program with what it said for other ``codes``.

    Code 3 means that some inputs could not be used.
    """
    said = [str(word) for word in words]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    command = [sys.executable, "-m", "toolkit", *said, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in codes:
        sys.exit(f"{' '.join(said)}: {done.stderr}")
    return json.loads(done.stdout)
