"""Progress on stderr: a live bar on a terminal, otherwise one plain line about every 30 seconds."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

INTERVAL_S = 30.0


class Progress:
    """Shows how far a job is, how fast and how long it still takes. Use as a context manager.

    ``enabled`` False shows nothing (``--quiet``).
    """

    def __init__(self, what: str, total: int, unit: str, *, enabled: bool = True) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._began = self._said = time.monotonic()
        self._first = 0
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bar = _bar() if enabled and terminal else None
        self._plain = enabled and not terminal
        self._task = self._bar.add_task(what, total=total, note="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def start_at(self, done: int) -> None:
        """Count from ``done``: what an earlier run already did."""
        self.done = self._first = done

    def update(self, done: int, note: str = "") -> None:
        """Report ``done`` of ``total`` with a short note, e.g. the loss."""
        self.done = done
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif self._plain and time.monotonic() - self._said >= INTERVAL_S:
            self._said = time.monotonic()
            print(
                f"{self.what}: {done}/{self.total} {self.unit}, {note + ', ' if note else ''}"
                f"about {self.remaining_s():.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def remaining_s(self) -> float:
        """Estimated seconds to the end at the pace so far."""
        pace = (self.done - self._first) / max(time.monotonic() - self._began, 1e-9)
        return (self.total - self.done) / pace if pace > 0 else 0.0


def _bar():  # type: ignore[no-untyped-def]  # rich is imported only where a terminal shows it
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
