"""One ``restore``: find or make the damage, repair, write back, score, and leave a sidecar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import readers
from readers.schema import ReadError, Recording
from toolkit import __version__, files
from toolkit.corpus import windows
from toolkit.corpus.inputs import Input, open_input
from toolkit.errors import ToolkitError, UsageError, did_you_mean
from toolkit.report.figures import Panel, restoration_png
from toolkit.restoration import damage, metrics, spans
from toolkit.restoration.baselines import BASELINES
from toolkit.restoration.metrics import Piece
from toolkit.restoration.repair import Repaired, Repairer, as_patches, regions
from toolkit.restoration.spans import Span

MANY = 200  # spans; beyond them the sidecar refers to NAME.mask.npz
NAMED = 3  # offenders named in a message
PICTURE_S = 3.0  # seconds shown on either side of the span in the picture


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


@dataclass
class Restored:
    """The document of one restored file, and where its picture lies."""

    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)


class Restoration:
    """Restores inputs into a folder with one model."""

    def __init__(self, repairer: Repairer, request: Request, out: Path, model_hash: str) -> None:
        self.repairer, self.request, self.out, self.model_hash = repairer, request, out, model_hash

    def check(self, items: Sequence[Input]) -> list[str]:
        """What the request asks of these inputs, by their headers, before any work; returns warnings.

        Raises UsageError: a channel that no recording has, spans of no recording, a reference that is not there.
        """
        recordings = list(_openable(items))
        known = {name for _, recording in recordings for c in recording.channels for name in (c.name, c.canonical)}
        for name in self.request.channels:
            if recordings and name not in known:
                raise UsageError(f"--channels: no recording has a channel '{name}'. {did_you_mean(name, known)}")
        matched = np.zeros(0 if self.request.table is None else len(self.request.table), dtype=bool)
        for item, recording in recordings:
            self._truth(item, recording)
            if self.request.table is not None:
                mine = self._rows_of(item)
                matched |= mine
                spans.from_table(self.request.table[mine], recording, ())
        if self.request.table is None or matched.all():
            return []
        missing = list(dict.fromkeys(self.request.table["path"][~matched]))
        names = ", ".join(f"'{p}'" for p in missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        text = f"{(~matched).sum()} of {len(matched)} spans name recordings that are not in the data: {names}"
        if recordings and not matched.any():
            raise UsageError(f"{text}. Paths are relative to the CSV, to a DATA folder, or absolute.")
        return [text + "."]

    def restore(self, item: Input) -> Restored:
        """Restore one recording. Raises ReadError (this file cannot be), ToolkitError (nothing can be written)."""
        recording = open_input(item)
        usable = windows.channels_for(recording, self.repairer.recipe.data)
        wanted = self._spans(item, recording, usable)
        notes = [
            f"{recording.channels[c].name} is {recording.channels[c].kind}, which the model does not read; left as it is"
            for c in sorted({s.channel for s in wanted} - set(usable))
        ]
        wanted = [s for s in wanted if s.channel in usable]
        total = sum(spans.native_length(recording, c) for c in usable)
        if total and sum(s.stop - s.start for s in wanted) >= total:
            raise ReadError(f"nothing of '{item.path.name}' is visible to repair from")
        repaired = list(self.repairer.repair(recording, wanted))
        try:
            written = readers.write(recording, as_patches(repaired), self.out / item.relative)
        except ReadError as problem:
            if isinstance(problem.__cause__, OSError):
                raise ToolkitError(
                    f"'{self.out / item.relative}': {problem}. Free space or choose another --out, then run again."
                ) from None
            raise
        facts = self._facts(item, recording, repaired, written.path, written.changed, written.clipped)
        self._sidecar(written.path, recording, repaired, facts, written.clipped)
        if written.clipped:
            notes.append(f"{written.clipped} repaired samples were limited to the range that the file can store")
        return Restored(facts, [*notes, *written.notes, *recording.warnings, *recording.verify()])

    def _spans(self, item: Input, recording: Recording, usable: Sequence[int]) -> list[Span]:
        request = self.request
        found: list[Span] = []
        if request.channels:
            have = [n for n in request.channels if any(n in (c.name, c.canonical) for c in recording.channels)]
            if not have:
                raise ReadError(f"'{item.path.name}' has no channel {' or '.join(request.channels)}")
            found += spans.whole_channels(recording, have)
        if request.table is not None:
            found += spans.from_table(request.table[self._rows_of(item)], recording, usable)
        if request.damage:
            found += damage.make(recording, usable, request.damage, request.seed)
        if not (request.channels or request.table is not None or request.damage):
            found = spans.detect(recording, usable)
        return spans.merge(found)

    def _rows_of(self, item: Input) -> NDArray[np.bool_]:
        """Which rows of the table of spans name this input."""
        assert self.request.table is not None
        here, folders = item.path.resolve(), (self.request.table_folder, item.root)
        paths = self.request.table["path"]
        return np.array([any((folder / p).resolve() == here for folder in folders) for p in paths], dtype=bool)

    def _facts(
        self, item: Input, recording: Recording, repaired: Sequence[Repaired], path: Path, changed: int, clipped: int
    ) -> dict[str, Any]:
        stored = sum(spans.native_length(recording, c) for c in range(len(recording.channels)))
        truth = self._truth(item, recording)
        facts: dict[str, Any] = {
            "path": str(item.path),
            "out": str(path),
            "task": self._task(repaired),
            "changed_fraction": changed / max(stored, 1),
            "detected": [_row(recording, r.span) for r in repaired[:MANY] if r.span.why in ("invalid", "flat")],
            "repaired_spans": len(repaired),
            "clipped": clipped,
            "metrics": None,
            "baselines": None,
            "picture": None,
        }
        if truth is not None and repaired:
            known = self._pieces(truth, repaired)
            facts["metrics"] = metrics.table(known)
            facts["baselines"] = {
                name: metrics.table([p.with_estimate(f(recording, r)) for p, r in zip(known, repaired, strict=True)])
                for name, f in BASELINES.items()
            }
        if repaired:
            facts["picture"] = str(self._picture(recording, truth, repaired, path))
        return facts

    def _task(self, repaired: Sequence[Repaired]) -> str:
        if self.request.task != "auto":
            return self.request.task
        return "channels" if self.request.channels or any(r.span.why == "channel" for r in repaired) else "inpaint"

    def _truth(self, item: Input, recording: Recording) -> Recording | None:
        """The clean recording: the input itself where the damage is ours, else the reference of the same name."""
        if self.request.reference is None:
            return recording if self.request.damage else None
        place = self.request.reference / item.relative if self.request.reference.is_dir() else self.request.reference
        if not place.exists():
            raise UsageError(f"--reference: '{place}' does not exist; it is looked for by the name of '{item.path}'.")
        try:
            clean = readers.open_recording(place)
        except ReadError as problem:
            raise UsageError(f"--reference: '{place}' cannot be read: {problem}.") from None
        if [c.name for c in clean.channels] != [c.name for c in recording.channels] or clean.axes.shape != recording.axes.shape:
            raise UsageError(
                f"--reference: '{place}' has channels {[c.name for c in clean.channels]} and shape "
                f"{clean.axes.shape}, '{item.path}' has {[c.name for c in recording.channels]} and "
                f"{recording.axes.shape}."
            )
        return clean

    def _pieces(self, truth: Recording, repaired: Sequence[Repaired]) -> list[Piece]:
        """Each repaired span with its truth, read once for the model and its baselines."""
        pieces = []
        usable = set(windows.channels_for(truth, self.repairer.recipe.data))
        hidden = {
            span: {s.channel for s in region if _overlap(truth, s, span)}
            for region in regions(truth, [r.span for r in repaired])
            for span in region
        }
        for one in repaired:
            span, rate = one.span, spans.rate_of(truth, one.span)
            sample = truth.read(span.start, span.stop, rate_hz=rate, channels=[span.channel])
            known = np.where(sample.valid[0], sample.values[0].astype(np.float64), np.nan)
            whole = (span.start, span.stop) == (0, spans.native_length(truth, span.channel))
            level = float(np.nanmean(known)) if whole else one.level
            piece = Piece(known, known, level, (span.stop - span.start) / rate, bool(usable - hidden[span]), whole)
            pieces.append(piece.with_estimate(one.values))
        return pieces

    def _sidecar(
        self, path: Path, recording: Recording, repaired: Sequence[Repaired], facts: dict[str, Any], clipped: int
    ) -> None:
        listed = [{**_row(recording, r.span), "method": r.method, "level": r.level} for r in repaired[:MANY]]
        document = {
            "toolkit": __version__,
            "model_hash": self.model_hash,
            "recipe": self.repairer.recipe.name,
            "changed": listed,
            "changed_spans": len(repaired),
            "clipped_samples": clipped,
            "scale": "per window: visible mean of each channel and RMS of all visible channels of a kind",
            **facts,
        }
        if len(repaired) > MANY:
            mask = path.with_suffix(".mask.npz")
            with files.atomic(mask) as temporary, temporary.open("wb") as handle:
                np.savez_compressed(
                    handle,
                    channel=[r.span.channel for r in repaired],
                    start=[r.span.start for r in repaired],
                    stop=[r.span.stop for r in repaired],
                    method=[r.method for r in repaired],
                )
            document["mask"] = mask.name
        files.write_json(path.with_suffix(".restored.json"), document)

    def _picture(self, recording: Recording, truth: Recording | None, repaired: Sequence[Repaired], path: Path) -> Path:
        """Before and after, around a long but not endless span."""
        chosen = max(repaired, key=lambda r: -abs((r.span.stop - r.span.start) / spans.rate_of(recording, r.span) - 1.5))
        middle = (
            chosen.span.start / spans.rate_of(recording, chosen.span)
            + min((chosen.span.stop - chosen.span.start) / spans.rate_of(recording, chosen.span), 4.0) / 2
        )
        low, high = max(0.0, middle - 2 - PICTURE_S), middle + 2 + PICTURE_S
        shown = sorted(
            {
                r.span.channel
                for r in repaired
                if spans.seconds(recording, r.span)[0] < high and spans.seconds(recording, r.span)[1] > low
            }
        )
        panels = [_panel(recording, truth, repaired, channel, low, high) for channel in shown[:6]]
        picture = path.with_suffix(".restored.png")
        restoration_png(picture, panels)
        return picture


def _openable(items: Sequence[Input]) -> Iterator[tuple[Input, Recording]]:
    """The inputs whose headers can be read; restoring the others says why they cannot."""
    for item in items:
        with contextlib.suppress(ReadError):
            yield item, open_input(item)


def _panel(
    recording: Recording, truth: Recording | None, repaired: Sequence[Repaired], channel: int, low: float, high: float
) -> Panel:
    rate = recording.channels[channel].rate_hz or 1.0
    first, last = round(low * rate), min(round(high * rate), spans.native_length(recording, channel))

    def read(source: Recording) -> np.ndarray:
        sample = source.read(first, last, rate_hz=rate, channels=[channel])
        return np.where(sample.valid[0], sample.values[0].astype(np.float64), np.nan)

    before, hidden = read(recording), np.zeros(last - first, dtype=bool)
    after = before.copy()
    for one in repaired:
        a, b = max(one.span.start, first), min(one.span.stop, last)
        if one.span.channel == channel and b > a:
            after[a - first : b - first] = one.values[a - one.span.start : b - one.span.start]
            hidden[a - first : b - first] = True
    unit = recording.channels[channel].unit
    return {
        "title": f"{recording.channels[channel].name} ({unit})",
        "time_s": np.arange(first, last) / rate,
        "before": np.where(hidden, np.nan, before),
        "after": after,
        "truth": read(truth) if truth is not None else None,
        "hidden": hidden,
    }


def _overlap(recording: Recording, one: Span, other: Span) -> bool:
    (a, b), (c, d) = spans.seconds(recording, one), spans.seconds(recording, other)
    return a < d and c < b


def _row(recording: Recording, span: Span) -> dict[str, Any]:
    start, stop = spans.seconds(recording, span)
    return {"channel": recording.channels[span.channel].name, "start": start, "stop": stop, "why": span.why}
