"""SIGINT and SIGTERM as a flag, so that a job stops between two steps and leaves something usable."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from toolkit.errors import Interrupted


class StopSignals:
    """While active, the first SIGINT or SIGTERM sets ``signum``; a second one acts as it always does."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def check(self, left: str) -> None:
        """Raise Interrupted when a signal came; ``left`` says what usable thing was written."""
        if self.signum is not None:
            raise Interrupted(f"Stopped by {signal.Signals(self.signum).name}. {left}", self.signum)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signum = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
