"""What one kind of recording needs to be restored: finding or making damage, repairing it, scoring and showing the repair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import readers
from readers.schema import Patch, Recording, Written
from toolkit.errors import UsageError

MANY = 200  # changes; beyond them the sidecar refers to NAME.mask.npz


@dataclass(frozen=True)
class Request:
    """What is to be repaired: explicit channels, a table of spans, known damage, or what is found in the file."""

    task: str = "auto"
    channels: tuple[str, ...] = ()
    table: pd.DataFrame | None = None
    table_folder: Path = Path()
    damage: tuple[tuple[str, float], ...] = ()
    reference: Path | None = None
    seed: int = 0
    missing: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether nothing is asked for, so that the damage is what the file itself shows."""
        return not (self.channels or self.missing or self.table is not None or self.damage)

    def hides(self, recording: Recording) -> bool:
        """Whether what is repaired is there, hidden for evaluation: made damage, or a "missing" contrast that is not."""
        return bool(self.damage) or any(c.canonical in self.missing for c in recording.channels)


class Mended(ABC):
    """A repaired recording: new values, what is said of them, how good they are.

    ``changed`` are the sidecar's rows, ``detected`` those of damage that was found in the file.
    """

    patches: Sequence[Patch]
    task: str
    changed: list[dict[str, Any]]
    detected: list[dict[str, Any]]
    scale: str  # how the model's numbers became units
    notes: list[str]

    @property
    def count(self) -> int:
        """How many spans, boxes or groups were repaired."""
        return len(self.changed)

    def write(self, recording: Recording, path: Path) -> Written:
        """Write the repaired recording. Raises ReadError."""
        return readers.write(recording, self.patches, path)

    @abstractmethod
    def arrays(self) -> dict[str, NDArray]:
        """The changes as arrays, for NAME.mask.npz."""

    @abstractmethod
    def score(self, truth: Recording) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Metrics of the repair, and of each classical baseline, against the clean recording. Raises ReadError."""

    @abstractmethod
    def draw(self, truth: Recording | None, path: Path) -> None:
        """Write a picture of the repair."""


class Mender(ABC):
    """Repairs recordings of one kind with one model. ``headline`` is the metric that is said first (lower is better)."""

    headline: str
    kinds: tuple[str, ...]  # of --damage
    tasks: tuple[str, ...]

    @abstractmethod
    def check(self, recording: Recording, rows: pd.DataFrame) -> None:
        """Raises UsageError where rows of --spans do not fit a recording."""

    def check_missing(self, names: Sequence[str]) -> None:
        """Raises UsageError for contrasts that it cannot make."""
        if names:
            raise UsageError("--missing makes contrasts of MRI sessions; channels of a recording are rebuilt with --channels.")

    @abstractmethod
    def mend(self, recording: Recording, request: Request, rows: pd.DataFrame | None) -> Mended:
        """Find or make the damage and repair it; ``rows`` are those of --spans for this file. Raises ReadError."""


@dataclass
class Restored:
    """The document of one restored file, and what is to be said of it."""

    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def generator(seed: int, index: int) -> np.random.Generator:
    """Random numbers, a function of two integers: of a seed and the index of a kind of --damage, of a channel and a sample."""
    return np.random.Generator(np.random.Philox(key=[seed, index]))
