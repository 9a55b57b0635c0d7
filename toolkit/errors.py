"""Errors a user meets: one paragraph and an exit code (the contract's numbers)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ToolkitError(Exception):
    """Failed while running."""

    exit_code = 1


class UsageError(ToolkitError):
    """A usage, recipe or label error, or an output that exists; raised before any work."""

    exit_code = 2


class Interrupted(ToolkitError):
    """Stopped by a signal after a usable checkpoint or journal was written."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


def shortened(value: object, most: int) -> str:
    """A value as text of at most ``most`` characters, for a message."""
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known word, or lists the known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
