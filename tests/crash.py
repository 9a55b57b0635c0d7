"""Work for a process of a pool that dies at one recording; imports nothing heavy, for every such process imports it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

NAME = "s3"


def decode(recipe: Any, item: Any, part: Path) -> Any:
    """As ``toolkit.corpus.prepare._decode``, but for one name."""
    if item.path.stem == NAME:
        os._exit(11)
    from toolkit.corpus.prepare import _decode

    return _decode(recipe, item, part)
