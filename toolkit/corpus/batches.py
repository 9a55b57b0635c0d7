"""Training batches as a pure function of seed and step.

Every batch holds samples of one channel count, so that its tensors are dense; the count of a step is
drawn in proportion to the windows that have it. Where the recipe mixes counts (``data.mixed``), samples
are filled up to the largest of their batch with channels that are not valid. Of a recording with more
channels than ``data.most_channels`` each sample takes that many at random: a model of any subset of
leads learns from subsets, and a batch never holds more than ``batch_size`` times as many.

Nothing is skipped or remembered: step 1000 gives the same batch whether or not steps 0 to 999 were run,
which is what makes a resumed run exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from readers.schema import Channel, FloatArray, ReadError, Recording
from toolkit.corpus import framing
from toolkit.corpus.scaled import Scaled
from toolkit.recipe import Recipe

SUBSTITUTES = 16  # recordings tried for one sample before the data count as unreadable
NOBODY = Channel("", "", "none", None, None, None, missing=True)  # fills a sample up to the channels of its batch
TRIES = 8  # draws for a window that is at least half valid before one is taken as it is


@dataclass(frozen=True)
class Batch:
    """B scaled samples of C channels: ``values`` float32 and ``valid`` bool, (B, C, T), (B, C, X, Y, Z) or (B, 3, N).

    ``sources``: the paths of the recordings; ``subjects``: whose they are; ``other``: another window of each of them,
    with the same channels, where the recipe looks at one.
    """

    values: FloatArray
    valid: NDArray[np.bool_]
    channels: tuple[tuple[Channel, ...], ...]
    sources: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    other: Batch | None = None


def collate(samples: Sequence[Scaled], sources: Sequence[str] = (), subjects: Sequence[str] = ()) -> Batch:
    """Stack samples; smaller ones are filled up to the largest along each axis with zeros that are not valid."""
    shape = tuple(np.max([s.values.shape for s in samples], axis=0))
    return Batch(
        np.stack([_filled(s.values, shape) for s in samples]),
        np.stack([_filled(s.valid, shape) for s in samples]),
        tuple((*s.channels, *[NOBODY] * (shape[0] - len(s.values))) for s in samples),
        tuple(sources),
        tuple(subjects),
    )


def _filled(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    if values.shape == shape:
        return values
    return np.pad(values, [(0, whole - own) for whole, own in zip(shape, values.shape, strict=True)])


@dataclass(frozen=True)
class Source:
    """A recording to draw from: its usable channels, its length on the model's grid, and the subject by a manifest."""

    recording: Recording
    channels: tuple[int, ...]
    length: int
    given_subject: str | None = None

    @property
    def path(self) -> str:
        """The recording's path."""
        return str(self.recording.path)

    @property
    def subject(self) -> str:
        """Whose recording it is, by the manifest or the file itself; where neither says, one subject a recording."""
        return self.given_subject or self.recording.ids.get("subject") or self.path


class BatchSampler:
    """Draws training batches. Recordings count by their length, at least one window."""

    def __init__(self, sources: Sequence[Source], recipe: Recipe) -> None:
        self.recipe = recipe
        self.framing = framing.build(recipe)
        self.sources = list(sources)
        weight = np.array([self.framing.weight(s.length) for s in sources], dtype=np.float64)
        counts = np.array([self.framing.layout(s.channels) for s in sources])
        self.layouts = [np.flatnonzero(counts == c) for c in np.unique(counts)]
        self.layout_odds = np.array([weight[rows].sum() for rows in self.layouts]) / weight.sum()
        self.odds = [weight[rows] / weight[rows].sum() for rows in self.layouts]
        self.pairs = any(p.view == "other" for p in recipe.passes)
        self.broken: dict[str, str] = {}  # recordings that turned out to be damaged inside, and why

    @property
    def num_windows(self) -> int:
        """Whole windows in the data: one epoch."""
        return sum(self.framing.count(s.length) for s in self.sources)

    @property
    def subjects(self) -> tuple[str, ...]:
        """All subjects that a batch can name, in order."""
        return tuple(sorted({s.subject for s in self.sources}))

    def batch(self, step: int) -> Batch:
        """The batch of a step; for a window that cannot be read, another recording's. Raises ReadError when none can."""
        rng = np.random.Generator(np.random.Philox(key=[self.recipe.training.seed, step]))
        layout = rng.choice(len(self.layouts), p=self.layout_odds)
        rows = rng.choice(self.layouts[layout], size=self.recipe.training.batch_size, p=self.odds[layout])
        drawn = [self._readable(row, layout, rng) for row in rows]
        about = [source.path for source, _ in drawn], [source.subject for source, _ in drawn]
        first, *others = (collate(samples, *about) for samples in zip(*(views for _, views in drawn), strict=True))
        return replace(first, other=others[0]) if others else first

    def _readable(self, row: int, layout: int, rng: np.random.Generator) -> tuple[Source, list[Scaled]]:
        """The source in ``row`` and one or two samples of it; where it cannot be read, another."""
        for _ in range(SUBSTITUTES):
            source = self.sources[row]
            try:
                return source, self._views(source, rng)
            except ReadError as problem:
                self.broken[source.path] = str(problem)
            row = rng.choice(self.layouts[layout], p=self.odds[layout])
        raise ReadError(self.broken[source.path])

    def _views(self, source: Source, rng: np.random.Generator) -> list[Scaled]:
        """A window and, where the recipe looks at two, another of the same channels, drawn without regard to the first."""
        first, channels = self._draw(source, None, rng)
        return [first, self._draw(source, channels, rng)[0]] if self.pairs else [first]

    def _draw(self, source: Source, channels: list[int] | None, rng: np.random.Generator) -> tuple[Scaled, list[int]]:
        """A window of these channels, or of some that are drawn with it, and which they are."""
        for _ in range(TRIES):
            taken = self.framing.choose(source.channels, rng) if channels is None else channels
            window = self.framing.draw(source.recording, source.length, rng)
            sample = self.framing.load(source.recording, window, taken, rng)
            if sample.valid.mean() >= 0.5:
                break
        return sample, taken


class Prefetcher:
    """Reads the next batches in background threads, in step order."""

    def __init__(self, sampler: BatchSampler, first: int, last: int, workers: int) -> None:
        self._sampler, self._next, self._last = sampler, first, last
        self._pool = ThreadPoolExecutor(max_workers=max(1, workers))
        self._queue: list[Future[Batch]] = []
        self._depth = 2 * max(1, workers)

    def get(self) -> Batch:
        """The next batch. Raises what reading it raised."""
        while len(self._queue) < self._depth and self._next < self._last:
            self._queue.append(self._pool.submit(self._sampler.batch, self._next))
            self._next += 1
        return self._queue.pop(0).result()

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)
