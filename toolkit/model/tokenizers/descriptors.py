"""Codes of channels by what they are called: an electrode, lead or contrast that was never seen still has one.

Feature hashing (Weinberger et al., 2009, 0902.2206) of a channel's name, the letters in it, its kind and its repeat.
The paper adds each feature to one place of the code; here each is a vector of signs over all 64, which tells as
many channels apart with so few numbers. Codes are fixed: models learn what to make of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from readers.schema import Channel

DESCRIPTOR = 64  # numbers a code: the bits of an 8-byte digest
LONGEST = 3  # letters that are looked at together
START, STOP = "\x02", "\x03"  # around a name, so that its first and last letters differ from those inside


def descriptor(channels: Sequence[Channel], named: bool = True) -> Tensor:
    """Unit codes float32 (C, DESCRIPTOR) of the channels of one sample; shared, not to be written to.

    The first channel of a name always has the same code, the second another, and so on; similar names (V1, V2) have
    similar codes. Without ``named``, all channels with a position have the code of their kind, and only the
    position tells them apart.
    """
    return _codes(tuple((c.canonical, c.kind, named or c.position is None) for c in channels))


def descriptors(batch: Sequence[Sequence[Channel]], named: bool = True, device: torch.device | None = None) -> Tensor:
    """Codes of the channels of B samples with C channels each, (B, C, DESCRIPTOR); one row, expanded, where all are alike."""
    rows = [descriptor(channels, named) for channels in batch]
    if all(row is rows[0] for row in rows):
        return rows[0].to(device).expand(len(rows), -1, -1)
    return torch.stack(rows).to(device)


@lru_cache(maxsize=4096)
def _codes(channels: tuple[tuple[str, str, bool], ...]) -> Tensor:
    met: Counter[tuple[str, str]] = Counter()
    rows = []
    for name, kind, named in channels:
        rows.append(_code(name, kind, met[name, kind]) if named else _signs(f"kind {kind}"))
        met[name, kind] += 1
    codes = torch.from_numpy(np.array(rows, np.float64).reshape(-1, DESCRIPTOR))
    return functional.normalize(codes, dim=1).float()


def _code(name: str, kind: str, repeat: int) -> NDArray[np.float64]:
    """Kind, whole name, letters and repeat weigh alike; the first of a name has no repeat."""
    bounded = f"{START}{name}{STOP}"
    runs = [bounded[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(bounded) - n + 1)]
    letters = [_signs(f"part {run}") for run in runs if run not in (START, STOP)]  # which every name has
    code = _signs(f"kind {kind}") + _signs(f"name {name}") + np.sum(letters, axis=0) / len(letters) ** 0.5
    return code + _signs(f"repeat {repeat}") if repeat else code


def _signs(feature: str) -> NDArray[np.float64]:
    """A vector of -1 and 1 that is a function of the text alone."""
    digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=DESCRIPTOR // 8).digest()
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float64) * 2 - 1
