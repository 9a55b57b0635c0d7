"""Restoring signals: spans of samples, in one channel or all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from readers.schema import Patch, ReadError, Recording, SignalLike
from toolkit.report.figures import Panel, restoration_png
from toolkit.restoration import damage, metrics, spans, spline
from toolkit.restoration.baselines import BASELINES
from toolkit.restoration.mender import Mended, Mender, Request
from toolkit.restoration.metrics import Piece
from toolkit.restoration.repair import Repaired, regions
from toolkit.restoration.spans import Span

PICTURE_S = 3.0  # seconds shown on either side of the span in the picture
Baselines = Mapping[str, Callable[[SignalLike, Repaired], NDArray[np.float64]]]


class SpanRepairer(Protocol):
    """Makes the samples of damaged spans."""

    def channels(self, recording: Recording) -> list[int]:
        """Channels that can be repaired. Raises ReadError when there are none."""

    def repair(self, recording: SignalLike, spans: Sequence[Span]) -> Iterator[Repaired]:
        """Repair merged spans. Raises ReadError."""


class SignalMender(Mender):
    """Repairs spans of EEG, ECG and PPG."""

    headline = "nmse"
    kinds = tuple(damage.KINDS)
    tasks = ("inpaint", "channels")

    def __init__(self, repairer: SpanRepairer, scale: str | None = None) -> None:
        self.repairer, self.scale = repairer, scale or SignalMended.scale

    def check(self, recording: Recording, rows: pd.DataFrame) -> None:
        """Raises UsageError for a channel that the recording does not have, and for boxes."""
        spans.from_table(rows, _signal(recording), ())

    def mend(self, recording: Recording, request: Request, rows: pd.DataFrame | None) -> SignalMended:
        """Repair spans that are asked for, made or found. Raises ReadError."""
        signal, usable = _signal(recording), self.repairer.channels(recording)
        wanted = self._spans(signal, request, rows, usable)
        notes = [
            f"{recording.channels[c].name} is {recording.channels[c].kind}, which the model does not read; left as it is"
            for c in sorted({s.channel for s in wanted} - set(usable))
        ]
        wanted = [s for s in wanted if s.channel in usable]
        total = sum(recording.stored(c) for c in usable)
        if total and sum(s.stop - s.start for s in wanted) >= total:
            raise ReadError(f"nothing of '{recording.path.name}' is visible to repair from")
        repaired = list(self.repairer.repair(signal, wanted))
        return self.mended(signal, repaired, usable, request, notes)

    def mended(
        self, recording: SignalLike, repaired: Sequence[Repaired], usable: Sequence[int], request: Request, notes: list[str]
    ) -> SignalMended:
        """The result of a repair."""
        made = SignalMended(recording, repaired, usable, request, notes)
        made.scale = self.scale
        return made

    def _spans(self, recording: SignalLike, request: Request, rows: pd.DataFrame | None, usable: Sequence[int]) -> list[Span]:
        found: list[Span] = []
        if request.channels:
            have = [n for n in request.channels if any(n in (c.name, c.canonical) for c in recording.channels)]
            if not have:
                raise ReadError(f"'{recording.path.name}' has no channel {' or '.join(request.channels)}")
            found += spans.whole_channels(recording, have)
        if rows is not None:
            found += spans.from_table(rows, recording, usable)
        if request.damage:
            found += damage.make(recording, usable, request.damage, request.seed)
        return spans.merge(spans.detect(recording, usable) if request.found else found)


class SignalMended(Mended):
    """Repaired spans of one recording."""

    scale = "per window: visible mean of each channel and RMS of all visible channels of a kind"

    def __init__(
        self,
        recording: SignalLike,
        repaired: Sequence[Repaired],
        usable: Sequence[int],
        request: Request,
        notes: list[str],
    ) -> None:
        self.recording, self.repaired, self.usable, self.notes = recording, repaired, usable, notes
        self.patches = [Patch(r.span.channel, np.arange(r.span.start, r.span.stop), r.values) for r in repaired]
        self.changed = [{**self._row(r.span), "method": r.method, "level": r.level} for r in repaired]
        self.detected = [self._row(r.span) for r in repaired if r.span.why in ("invalid", "flat")]
        whole = request.channels or any(r.span.why == "channel" for r in repaired)
        self.task = request.task if request.task != "auto" else "channels" if whole else "inpaint"

    @property
    def baselines(self) -> Baselines:
        """What the repair is compared with: spherical splines, too, where electrodes with known places are seen around it."""
        seen = {r.span: self._seen(r.span) for r in self.repaired}
        if not self.repaired or min(len(channels) for channels in seen.values()) < spline.LEAST:
            return BASELINES
        return {**BASELINES, "spherical spline": lambda recording, one: spline.interpolated(recording, one, seen[one.span])}

    def _seen(self, span: Span) -> list[int]:
        """Electrodes with a place of which nothing is repaired at the time of a span; none where its own has none."""
        if not self._located(span.channel):
            return []
        hidden = {r.span.channel for r in self.repaired if _overlap(self.recording, r.span, span)}
        return [i for i in self.usable if self._located(i) and i not in hidden]

    def _located(self, channel: int) -> bool:
        return self.recording.channels[channel].kind == "eeg" and self.recording.channels[channel].position is not None

    def _row(self, span: Span) -> dict[str, Any]:
        start, stop = spans.seconds(self.recording, span)
        return {"channel": self.recording.channels[span.channel].name, "start": start, "stop": stop, "why": span.why}

    def arrays(self) -> dict[str, NDArray]:
        """Channel, start and stop in stored samples, and method of each span."""
        return {
            "channel": np.array([r.span.channel for r in self.repaired]),
            "start": np.array([r.span.start for r in self.repaired]),
            "stop": np.array([r.span.stop for r in self.repaired]),
            "method": np.array([r.method for r in self.repaired]),
        }

    def score(self, truth: Recording) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """NMSE, RRMSE and correlation, whole and by length."""
        known = self._pieces(_signal(truth))
        return metrics.table(known), {
            name: metrics.table([p.with_estimate(f(self.recording, r)) for p, r in zip(known, self.repaired, strict=True)])
            for name, f in self.baselines.items()
        }

    def _pieces(self, truth: SignalLike) -> list[Piece]:
        """Each repaired span with its truth, read once for the model and its baselines."""
        pieces = []
        hidden = {
            span: {s.channel for s in region if _overlap(truth, s, span)}
            for region in regions(truth, [r.span for r in self.repaired])
            for span in region
        }
        for one in self.repaired:
            span, rate = one.span, spans.rate_of(truth, one.span)
            known = spans.stored_values(truth, span.channel, span.start, span.stop)
            whole = (span.start, span.stop) == (0, truth.stored(span.channel))
            level = float(np.nanmean(known)) if whole else one.level
            alone = bool(set(self.usable) - hidden[span])
            piece = Piece(known, known, level, (span.stop - span.start) / rate, alone, whole)
            pieces.append(piece.with_estimate(one.values))
        return pieces

    def draw(self, truth: Recording | None, path: Path) -> None:
        """Before and after, around a long but not endless span."""
        recording = self.recording
        chosen = min(self.repaired, key=lambda r: abs(self._seconds(r) - 1.5))
        middle = spans.seconds(recording, chosen.span)[0] + min(self._seconds(chosen), 4.0) / 2
        low, high = max(0.0, middle - 2 - PICTURE_S), middle + 2 + PICTURE_S
        bounds = [(r.span.channel, *spans.seconds(recording, r.span)) for r in self.repaired]
        shown = sorted({channel for channel, start, stop in bounds if start < high and stop > low})
        clean = _signal(truth) if truth is not None else None
        restoration_png(path, [_panel(recording, clean, self.repaired, channel, low, high) for channel in shown[:6]])

    def _seconds(self, one: Repaired) -> float:
        start, stop = spans.seconds(self.recording, one.span)
        return stop - start


def _signal(recording: Recording) -> SignalLike:
    if not isinstance(recording, SignalLike):
        raise ReadError(f"'{recording.path.name}' holds no signal")
    return recording


def spliced(
    recording: SignalLike, repaired: Sequence[Repaired], channel: int, first: int, last: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Stored samples first..last of a channel before the repair, NaN where it repairs them, after it, and which those are."""
    before = spans.stored_values(recording, channel, first, last)
    after, hidden = before.copy(), np.zeros(last - first, dtype=bool)
    for one in repaired:
        a, b = max(one.span.start, first), min(one.span.stop, last)
        if one.span.channel == channel and b > a:
            after[a - first : b - first] = one.values[a - one.span.start : b - one.span.start]
            hidden[a - first : b - first] = True
    return np.where(hidden, np.nan, before), after, hidden


def _panel(
    recording: SignalLike, truth: SignalLike | None, repaired: Sequence[Repaired], channel: int, low: float, high: float
) -> Panel:
    rate = recording.channels[channel].rate_hz or 1.0
    first, last = round(low * rate), min(round(high * rate), recording.stored(channel))
    before, after, hidden = spliced(recording, repaired, channel, first, last)
    clean = truth.read(first, last, rate_hz=rate, channels=[channel]) if truth is not None else None
    unit = recording.channels[channel].unit
    return {
        "title": f"{recording.channels[channel].name} ({unit})",
        "time_s": np.arange(first, last) / rate,
        "before": before,
        "after": after,
        "truth": np.where(clean.valid[0], clean.values[0].astype(np.float64), np.nan) if clean is not None else None,
        "hidden": hidden,
    }


def _overlap(recording: SignalLike, one: Span, other: Span) -> bool:
    (a, b), (c, d) = spans.seconds(recording, one), spans.seconds(recording, other)
    return a < d and c < b
