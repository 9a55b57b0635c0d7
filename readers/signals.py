"""Signal recordings: windows of channels with different rates, brought onto one grid."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from readers.schema import BoolArray, FloatArray, ReadError, SignalLike, SignalSample, Window

RESAMPLER = "scipy.signal.resample_poly kaiser 5.0"
KAISER_BETA = 5.0
# Half the length of the filter, in periods of the slower of the two grids.
FILTER_PERIODS = 10
# Largest numerator or denominator of the ratio of two rates; the second is taken where the first would
# drift by more than half a sample over the whole recording.
RATIO_LIMITS = (10_000, 100_000)

Float64 = NDArray[np.float64]


class _Block(NamedTuple):
    """What to read of one channel for one window: all spans half-open, in samples."""

    out: tuple[int, int]  # on the wanted grid, inside the recording
    padded: tuple[int, int]  # on the channel's grid, with margins, may reach outside the recording
    stored: tuple[int, int]  # the part of `padded` inside the recording


class SignalRecording(SignalLike):
    """A recording of channels over time; a subclass supplies the stored samples, each on its own grid.

    Sample k of a channel is at k / its rate seconds, whatever the channel. Values of a channel that is
    read at its own rate are exactly the float32 of the physical value; otherwise they pass
    ``RESAMPLER``, aligned so that windows that overlap agree.
    """

    @abstractmethod
    def _length(self, channel: int) -> int:
        """Stored samples of a channel, on its own grid."""

    @abstractmethod
    def _native(self, channels: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[Float64]:
        """Physical values of a span of each channel, on its own grid, NaN where the file holds none.

        Each span (start, stop) lies inside 0.._length(channel). Raises ReadError.
        """

    def stored(self, channel: int) -> int:
        """Samples of a channel on its own grid."""
        return self._length(channel)

    def read(self, start: int, stop: int, *, rate_hz: float | None = None, channels: Sequence[int] | None = None) -> SignalSample:
        """Read samples start..stop of the grid k / rate_hz (default: ``axes.rate_hz``).

        Returns values float32 (C, T) in each channel's unit. A sample is valid where it lies inside the
        recording and the stored samples within one stored period around it are valid. Raises ReadError.
        """
        rate = self.axes.rate_hz if rate_hz is None else rate_hz
        if rate is None or not (math.isfinite(rate) and rate > 0):
            raise ReadError(f"{self.path.name} cannot be read at {rate} Hz")
        if stop < start:
            raise ReadError(f"{self.path.name} cannot be read from sample {start} to sample {stop}")
        picked = tuple(range(len(self.channels)) if channels is None else channels)
        here = tuple(self.channels[channel] for channel in picked)
        window = Window(start, stop)
        if self._as_stored(picked, start, stop, rate):
            return SignalSample(*self._read_stored(picked, start, stop), here, window, float(rate))
        values: FloatArray = np.zeros((len(picked), stop - start), np.float32)
        valid: BoolArray = np.zeros((len(picked), stop - start), bool)
        rows = [row for row, channel in enumerate(picked) if not self.channels[channel].missing]
        ratios = [self._ratio(picked[row], rate) for row in rows]
        blocks = [_block(start, stop, *q, self._length(picked[row])) for row, q in zip(rows, ratios, strict=True)]
        natives = self._native([picked[row] for row in rows], [block.stored for block in blocks])
        with np.errstate(over="ignore"):
            for row, (up, down), block, native in zip(rows, ratios, blocks, natives, strict=True):
                span = slice(block.out[0] - start, block.out[1] - start)
                values[row, span], valid[row, span] = _on_grid(native, block, up, down)
        valid &= np.isfinite(values)  # a float64 beyond float32's range
        if not valid.all():
            values[~valid] = 0.0
        return SignalSample(values, valid, here, window, float(rate))

    def _as_stored(self, picked: Sequence[int], start: int, stop: int, rate_hz: float) -> bool:
        """Whether all channels are read at their own rate, inside the recording: the usual case, and the quick one."""
        own = all(self.channels[c].rate_hz == rate_hz and not self.channels[c].missing for c in picked)
        return bool(picked) and own and 0 <= start <= stop <= min(self._length(c) for c in picked)

    def _read_stored(self, picked: Sequence[int], start: int, stop: int) -> tuple[FloatArray, BoolArray]:
        """Values float32 and validity (C, T) of stored samples."""
        natives = self._native(picked, [(start, stop)] * len(picked))
        if len(natives) == 1 and natives[0].dtype == np.float32:
            values: FloatArray = np.ascontiguousarray(natives[0], np.float32)[None]
        else:
            values = np.empty((len(picked), stop - start), np.float32)
            with np.errstate(over="ignore"):  # a float64 beyond float32's range is not valid
                for row, native in zip(values, natives, strict=True):
                    row[:] = native
        valid = np.isfinite(values)
        return values if valid.all() else np.where(valid, values, np.float32(0)), valid

    def _ratio(self, channel: int, rate_hz: float) -> tuple[int, int]:
        """The wanted rate over the channel's rate, as a fraction up / down."""
        native_hz = self.channels[channel].rate_hz
        assert native_hz is not None  # every channel of a signal recording has a rate
        ratio = _fraction(rate_hz, native_hz, self._length(channel))
        if ratio is None:
            raise ReadError(f"{self.path.name} holds {native_hz} Hz and cannot be read at {rate_hz} Hz")
        return ratio


@lru_cache(maxsize=1024)
def _fraction(rate_hz: float, native_hz: float, length: int) -> tuple[int, int] | None:
    """rate_hz / native_hz as (up, down), the larger of them within ``RATIO_LIMITS``; None where they lie too far apart."""
    exact = Fraction(rate_hz) / Fraction(native_hz)
    if not 1 / max(RATIO_LIMITS) <= exact <= max(RATIO_LIMITS):
        return None
    for limit in RATIO_LIMITS:
        inverse = 1 / exact if exact > 1 else exact
        ratio = inverse.limit_denominator(limit) or Fraction(1, limit)
        ratio = 1 / ratio if exact > 1 else ratio
        if abs(ratio - exact) * length <= 0.5:
            break
    return ratio.numerator, ratio.denominator


def _reach(up: int, down: int) -> int:
    """Stored samples on either side of an output sample that its filter touches."""
    return -(-FILTER_PERIODS * max(up, down) // up) + 1


def _block(start: int, stop: int, up: int, down: int, length: int) -> _Block:
    inside = -(-length * up // down)
    out = min(max(start, 0), inside), max(min(stop, inside), 0)
    if out[1] <= out[0]:
        return _Block((start, start), (0, 0), (0, 0))
    if up == down:
        return _Block(out, out, out)
    # One reach for the filter, two for _without_gaps; the first sample a multiple of `down`, so that
    # every window meets the same phases of the filter.
    margin = 3 * _reach(up, down)
    first = (out[0] * down // up - margin) // down * down
    last = (out[1] - 1) * down // up + 1 + margin + 1
    return _Block(out, (first, last), (max(first, 0), min(last, length)))


def _on_grid(native: Float64, block: _Block, up: int, down: int) -> tuple[Float64, BoolArray]:
    """Values and validity of the wanted grid's samples ``block.out``."""
    if up == down or native.size == 0:
        known = np.isfinite(native)
        return native if known.all() else np.where(known, native, 0.0), known
    first, last = block.padded
    # The ends of the recording are continued by their last value: a step to zero would ring.
    edges = (block.stored[0] - first, last - block.stored[1])
    padded = np.pad(native, edges, mode="edge")
    known = np.isfinite(padded)
    steps = np.arange(*block.out, dtype=np.int64) * down
    before = steps // up - first
    after = np.minimum(-(-steps // up), block.stored[1] - 1) - first
    from scipy.signal import resample_poly

    smooth = resample_poly(_without_gaps(padded, known, _reach(up, down)), up, down, window=_filter(up, down))
    origin = first // down * up  # the wanted grid's sample at `first`
    return smooth[block.out[0] - origin : block.out[1] - origin], known[before] & known[after]


def _without_gaps(values: Float64, known: BoolArray, reach: int) -> Float64:
    """Values with gaps filled, by a rule that looks no further than the window's margin.

    A gap of up to two reaches is bridged by a straight line; each end of a longer one is held up to its
    middle, where no valid sample feels the step. So every window fills alike what its valid samples feel.
    """
    if known.all():
        return values
    places = np.flatnonzero(known)
    if places.size == 0:
        return np.zeros_like(values)
    wide = np.flatnonzero(np.diff(places) > 2 * reach)
    middle = (places[wide] + places[wide + 1]) // 2
    knots = np.concatenate([places, middle, middle + 1])
    heights = np.concatenate([values[places], values[places[wide]], values[places[wide + 1]]])
    order = np.argsort(knots, kind="stable")
    return np.interp(np.arange(values.size), knots[order], heights[order])


@lru_cache(maxsize=32)
def _filter(up: int, down: int) -> Float64:
    """Low-pass FIR of odd length, on the grid that both rates divide, cut at the lower Nyquist frequency.

    Each of its ``up`` phases is scaled to pass a constant unchanged. Without that an electrode's offset, which
    can be a thousand times the signal, would come out as a ripple of a thousandth of its size.
    """
    from scipy.signal import firwin

    slower = max(up, down)
    taps: Float64 = firwin(2 * FILTER_PERIODS * slower + 1, 1.0 / slower, window=("kaiser", KAISER_BETA))
    phase = np.arange(taps.size) % up
    taps /= np.bincount(phase, taps)[phase] * up
    return taps
