"""What all forms of an export share: the other program's module, and how far its numbers may lie from ours."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import Tensor

from toolkit.errors import UsageError

TOLERANCE = 1e-4  # of states whose deviation is near one


def imported(name: str, form: str) -> ModuleType:
    """The module of another program. Raises UsageError where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as problem:  # a torchvision built for another torch raises RuntimeError
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"--as {form} is checked by running it, which needs {name}: {first}. Install it: pip install "
            f"'masked-recordings[{form}]'; without --as the folder is readable with torch and safetensors alone."
        ) from None


def checked(difference: float, form: str) -> float:
    """A difference that is small enough. Raises UsageError for one that is not."""
    if not difference <= TOLERANCE:
        raise UsageError(
            f"--as {form}: the states that {form} computes differ by {difference:.1e} from ours, expected {TOLERANCE:.0e} or "
            "less. Nothing was written; export without --as."
        )
    return difference


def furthest(theirs: Tensor, ours: Tensor | None) -> float:
    """The largest difference between states."""
    assert ours is not None
    return float((theirs - ours).abs().max())
