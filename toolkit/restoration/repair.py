"""Repair of damaged spans from everything that is visible around them.

The model predicts hidden patches on its own grid from the visible ones; limb leads are computed from
two visible ones where the recording obeys the limb-lead identities. Predictions are brought to the
channel's own grid and joined to the visible samples without a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from readers.schema import FloatArray, Recording, SignalLike, SignalSample, Window
from toolkit.corpus import framing, windows
from toolkit.corpus.batches import collate
from toolkit.corpus.scaled import Scaled, Scaling
from toolkit.corpus.sessions import measure
from toolkit.model.folder import LoadedModel
from toolkit.model.tokenizers import SignalPatches
from toolkit.recipe import SignalData
from toolkit.restoration import limb
from toolkit.restoration.completion import completed, opened
from toolkit.restoration.spans import Span, seconds

Float64 = NDArray[np.float64]
EDGE_S = 0.04  # visible time beside a span on which the prediction is joined to the signal
CONTEXT_S = 1.0  # spans closer than this are repaired in the same windows
FADE_S = 0.1  # time in which the correction at an edge decays, half a span's length at most; longer made ECG and EEG worse


@dataclass(frozen=True)
class Repaired:
    """New physical values (float64) of one span, how they were made, and the visible mean of the channel."""

    span: Span
    values: Float64
    method: str
    level: float


class Repairer:
    """Repairs recordings with one model, with the preprocessing the model was trained on."""

    def __init__(self, loaded: LoadedModel, device: torch.device) -> None:
        self.model, self.tokenizer, self.data = opened(loaded, device, SignalPatches, SignalData)
        self.device = device
        frame = framing.build(loaded.recipe)
        assert isinstance(frame, framing.SignalFraming)
        self.frame, self.rate, self.samples = frame, self.data.rate_hz, frame.window

    def channels(self, recording: Recording) -> list[int]:
        """Channels of the kinds that the model was trained on. Raises ReadError when there are none."""
        return self.frame.channels(recording)

    def repair(self, recording: SignalLike, spans: Sequence[Span]) -> Iterator[Repaired]:
        """Repair merged spans of channels the model reads, region by region. Raises ReadError."""
        channels = self.channels(recording)
        levels = visible_levels(recording, spans)
        session = None
        if spans and self.data.scaling == "session":  # of what is visible
            session = measure(recording, self.data, channels, lambda sample: hide(sample, recording, channels, spans))
        for region in regions(recording, spans):
            predicted = self._predict(recording, channels, region, levels, session)
            for span in region:
                made, method = limb.derive(recording, span, region), "limb-lead identity"
                if made is None:
                    made, method = self._join(recording, span, region, *predicted[span.channel]), "model"
                yield Repaired(span, made, method, levels[span.channel])

    def _predict(
        self,
        recording: SignalLike,
        channels: Sequence[int],
        region: Sequence[Span],
        levels: dict[int, float],
        session: Scaling | None,
    ) -> dict[int, tuple[Float64, Float64]]:
        """Predictions around the region for each of its channels: times in s and physical values, on the model's grid."""
        low, high = _bounds(recording, region)
        edge = round(2 * EDGE_S * self.rate)
        first, last = int(low * self.rate) - edge, int(np.ceil(high * self.rate)) + edge
        total = np.zeros((len(channels), last - first))
        weight = np.zeros(last - first)
        for window in self._windows(first, last):
            values = self._window(recording, channels, region, levels, session, window)
            fade = np.minimum(np.arange(1, self.samples + 1), np.arange(self.samples, 0, -1))
            a, b = max(first, window.start), min(last, window.stop)
            total[:, a - first : b - first] += (values * fade)[:, a - window.start : b - window.start]
            weight[a - first : b - first] += fade[a - window.start : b - window.start]
        times = np.arange(first, last) / self.rate
        return {c: (times, total[i] / weight) for i, c in enumerate(channels)}

    def _windows(self, first: int, last: int) -> list[Window]:
        """Windows over first..last: one around a short region, half overlapping ones over a long one."""
        size = self.samples
        if last - first <= size // 2:
            start = (first + last - size) // 2
            return [Window(start, start + size)]
        begins = range(first - size // 4, last - size // 4, size // 2)
        return [Window(b, b + size) for b in begins]

    @torch.inference_mode()
    def _window(
        self,
        recording: SignalLike,
        channels: Sequence[int],
        region: Sequence[Span],
        levels: dict[int, float],
        session: Scaling | None,
        window: Window,
    ) -> Float64:
        """One window with the region hidden: the model's prediction of every patch that is not visible, (C, T) physical."""
        sample = recording.read(window.start, window.stop, rate_hz=self.rate, channels=channels)
        sample = hide(sample, recording, channels, region)
        scaling = session or windows.fit_scaling(sample, self.data.scaling)
        unseen = ~sample.valid.any(axis=1)
        scaling = replace(scaling, offset=scaling.offset.copy())
        scaling.offset[unseen] = np.array([levels.get(c, 0.0) for c in channels])[unseen]
        tokens, whole = (
            self.tokenizer.tokenize(collate([Scaled.of(sample.values, sample.valid, sample.channels, by, window)]))
            for by in (scaling, replace(scaling, limit=np.inf))
        )
        patches = completed(self.model, tokens, self.device)
        # Visible samples beyond the limit of the scaling are the model's only as far as the limit, but stay what they are.
        patches = torch.where(tokens.valid[..., None], whole.patches, patches)
        restored: FloatArray = self.tokenizer.untokenize(patches, tokens.grid)[0].numpy()
        return scaling.invert(restored)

    def _join(self, recording: SignalLike, span: Span, region: Sequence[Span], times: Float64, predicted: Float64) -> Float64:
        """The prediction at the span's own samples, corrected so that it meets the visible signal at both edges."""
        rate = recording.channels[span.channel].rate_hz or self.rate
        curve = CubicSpline(times, predicted)
        inside = np.arange(span.start, span.stop) / rate
        before, after = (self._residual(recording, span, region, curve, rate, side) for side in ("before", "after"))
        decay = min(FADE_S, (span.stop - span.start) / rate / 2)
        correction = before * np.exp(-(inside - inside[0]) / decay) + after * np.exp((inside - inside[-1]) / decay)
        return curve(inside) + correction

    def _residual(
        self, recording: SignalLike, span: Span, region: Sequence[Span], curve: CubicSpline, rate: float, side: str
    ) -> float:
        """Mean of signal minus prediction over the visible samples beside an edge; 0 where there are none."""
        width = max(1, round(EDGE_S * rate))
        first = span.start - width if side == "before" else span.stop
        first, last = max(0, first), min(recording.stored(span.channel), first + width)
        if last <= first:
            return 0.0
        sample = recording.read(first, last, rate_hz=rate, channels=[span.channel])
        valid = sample.valid[0].copy()
        for other in (s for s in region if s.channel == span.channel):
            valid[max(0, other.start - first) : max(0, other.stop - first)] = False
        if not valid.any():
            return 0.0
        return float((sample.values[0][valid] - curve(np.arange(first, last)[valid] / rate)).mean())


def regions(recording: SignalLike, spans: Sequence[Span]) -> list[list[Span]]:
    """Spans that lie within a second of one another, in order of time."""

    grouped: list[list[Span]] = []
    reach = -np.inf
    for span in sorted(spans, key=lambda s: seconds(recording, s)):
        start, stop = seconds(recording, span)
        if grouped and start < reach + CONTEXT_S:
            grouped[-1].append(span)
        else:
            grouped.append([span])
        reach = max(reach, stop)
    return grouped


def _bounds(recording: SignalLike, region: Sequence[Span]) -> tuple[float, float]:
    starts, stops = zip(*(seconds(recording, s) for s in region), strict=True)
    return min(starts), max(stops)


def hide(sample: SignalSample, recording: SignalLike, channels: Sequence[int], region: Sequence[Span]) -> SignalSample:
    """The sample with the region's samples not valid, and those beside it that the resampling filter mixed with them."""
    valid = sample.valid.copy()
    for span in region:
        rate = recording.channels[span.channel].rate_hz or sample.rate_hz
        margin = 0.0 if rate == sample.rate_hz else EDGE_S * max(1.0, 250.0 / min(rate, sample.rate_hz))
        low, high = span.start / rate - margin, (span.stop - 1) / rate + margin
        valid[channels.index(span.channel), (sample.time_s >= low - 1e-9) & (sample.time_s <= high + 1e-9)] = False
    return replace(sample, values=np.where(valid, sample.values, np.float32(0)), valid=valid)


def visible_levels(recording: SignalLike, spans: Sequence[Span]) -> dict[int, float]:
    """Mean of each damaged channel over up to a minute of visible samples around its first span; 0 where all is hidden."""
    levels: dict[int, float] = {}
    for channel in {s.channel for s in spans}:
        rate = recording.channels[channel].rate_hz or 1.0
        mine = [s for s in spans if s.channel == channel]
        length, reach = recording.stored(channel), round(60 * rate)
        first = max(0, min(mine[0].start - reach // 2, length - reach))
        sample = recording.read(first, min(length, first + reach), rate_hz=rate, channels=[channel])
        visible = sample.valid[0].copy()
        for span in mine:
            visible[max(0, span.start - first) : max(0, span.stop - first)] = False
        levels[channel] = float(sample.values[0][visible].mean()) if visible.any() else 0.0
    return levels
