"""Known damage for evaluation: what `restore --damage KIND:SEVERITY` hides from a clean recording."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from readers.schema import SignalLike
from toolkit.errors import UsageError, did_you_mean
from toolkit.restoration.mender import generator
from toolkit.restoration.spans import Span, clip, merge

SHORTEST_S, LONGEST_S = 0.3, 5.0  # block lengths, log-uniform: from less than a beat to several
APART_S = 0.5  # visible time kept between blocks
MOST = 0.8  # largest share of time that blocks can hide and still leave APART_S between them


def parse(text: str) -> list[tuple[str, float]]:
    """ "block:0.1,channel:0.2" to kinds and severities. Raises UsageError, also for blocks that would hide nearly everything."""
    parsed = []
    for part in text.split(","):
        kind, _, number = part.partition(":")
        if kind not in KINDS:
            raise UsageError(f"--damage: there is no kind '{kind}'. {did_you_mean(kind, KINDS)}")
        try:
            severity = float(number)
        except ValueError:
            severity = math.nan
        if not 0 <= severity <= 1:
            raise UsageError(f"--damage {part}: severity is '{number}', expected a number from 0 to 1, as in {kind}:0.1.")
        if kind == "block" and severity > MOST:
            raise UsageError(f"--damage {part} leaves nothing to repair from; at most block:{MOST}.")
        parsed.append((kind, severity))
    return parsed


def make(recording: SignalLike, channels: Sequence[int], damage: Sequence[tuple[str, float]], seed: int) -> list[Span]:
    """The spans that damage hides; the same seed and recording length give the same spans."""
    spans: list[Span] = []
    for index, (kind, severity) in enumerate(damage):
        rng = generator(seed, index)
        spans += KINDS[kind](recording, channels, severity, rng)
    return merge(spans)


def blocks(recording: SignalLike, channels: Sequence[int], severity: float, rng: np.random.Generator) -> list[Span]:
    """Blocks that cover a share ``severity`` of the time, half of them in all channels, half in one.

    Lengths are log-uniform from 0.3 to 5 s.
    """
    duration = recording.axes.duration_s or 0.0
    lengths: list[float] = []
    longest = min(LONGEST_S, max(SHORTEST_S, severity * duration))
    while severity > 0 and (missing := severity * duration - sum(lengths)) > 1e-6:
        drawn = math.exp(rng.uniform(math.log(SHORTEST_S), math.log(longest)))
        lengths.append(min(drawn, missing))
    free = duration - sum(lengths)
    apart = min(APART_S, free / (len(lengths) + 1))
    extra = np.sort(rng.uniform(0, free - apart * (len(lengths) + 1), len(lengths)))
    spans = []
    for index, length in enumerate(lengths):
        start = extra[index] + apart * (index + 1) + sum(lengths[:index])
        hit = channels if rng.random() < 0.5 else [int(rng.choice(channels))]
        spans += [clip(recording, channel, start, start + length, "block") for channel in hit]
    return spans


def lost_channels(recording: SignalLike, channels: Sequence[int], severity: float, rng: np.random.Generator) -> list[Span]:
    """Whole channels, a share ``severity`` of them, at least one; one channel always stays where there are two."""
    count = min(max(1, round(severity * len(channels))), max(1, len(channels) - 1)) if severity > 0 else 0
    chosen = rng.choice(np.asarray(channels), size=count, replace=False)
    return [Span(int(c), 0, recording.stored(int(c)), "channel") for c in sorted(chosen)]


KINDS: dict[str, Callable[[SignalLike, Sequence[int], float, np.random.Generator], list[Span]]] = {
    "block": blocks,
    "channel": lost_channels,
}
