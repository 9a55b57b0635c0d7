"""Samples as tokenizers take them: scaled by an invertible transform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from readers.schema import BoolArray, Box, Channel, FloatArray, Window

Extent = Window | Box


@dataclass(frozen=True)
class Scaling:
    """values = offset + scale * scaled, per channel; ``offset`` and ``scale`` are float64 (C,).

    Scaled values beyond ``limit`` are cut to it; of those :meth:`invert` does not give back what they were.
    """

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]
    limit: float = np.inf

    def apply(self, values: FloatArray) -> FloatArray:
        """Physical (C, ...) to scaled (C, ...)."""
        scaled = (values - _beside(self.offset, values)) / _beside(self.scale, values)
        return scaled.clip(-self.limit, self.limit).astype(np.float32)

    def invert(self, scaled: FloatArray) -> NDArray[np.float64]:
        """Scaled (C, ...) to physical (C, ...)."""
        return scaled.astype(np.float64) * _beside(self.scale, scaled) + _beside(self.offset, scaled)


def _beside(numbers: NDArray[np.float64], values: NDArray) -> NDArray[np.float64]:
    return numbers.reshape(-1, *[1] * (values.ndim - 1))


@dataclass(frozen=True)
class Scaled:
    """A sample ready for a tokenizer.

    ``values`` float32, scaled, 0 where not ``valid``: signals (C, T), volumes (C, X, Y, Z), points (3, N).
    """

    values: FloatArray
    valid: BoolArray
    channels: tuple[Channel, ...]
    scaling: Scaling
    window: Extent

    @classmethod
    def of(cls, values: FloatArray, valid: BoolArray, channels: tuple[Channel, ...], scaling: Scaling, window: Extent) -> Scaled:
        """Scale physical values; what is not valid becomes 0."""
        return cls(np.where(valid, scaling.apply(values), np.float32(0)), valid, channels, scaling, window)
