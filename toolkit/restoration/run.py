"""One ``restore``: find or make the damage, repair, write back, score, and leave a sidecar."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import readers
from readers.schema import ReadError, Recording, Written
from toolkit import __version__, files
from toolkit.corpus.inputs import Input, open_input
from toolkit.errors import ToolkitError, UsageError, did_you_mean
from toolkit.model.folder import LoadedModel
from toolkit.restoration.mender import MANY, Mended, Mender, Request, Restored

LONGEST_NAME = 200  # bytes: file systems take 255, temporary names and .restored.json need some
NAMED = 3  # offenders named in a message


class Restoration:
    """Restores inputs into a folder with one model."""

    def __init__(self, mender: Mender, request: Request, out: Path, loaded: LoadedModel) -> None:
        self.mender, self.request, self.out, self.loaded = mender, request, out, loaded

    def check(self, items: Sequence[Input]) -> list[str]:
        """What the request asks of these inputs, by their headers, before any work; returns warnings.

        Raises UsageError: a task or damage that is none of theirs, a channel that no recording has, spans of no recording,
        a reference that is not there.
        """
        if self.request.task not in ("auto", *self.mender.tasks):
            raise UsageError(
                f"--task {self.request.task}: recordings of {' and '.join(self.loaded.recipe.domains)} are repaired by "
                f"{' or '.join(self.mender.tasks)}."
            )
        for kind, _ in self.request.damage:
            if kind not in self.mender.kinds:
                raise UsageError(
                    f"--damage: recordings of {' and '.join(self.loaded.recipe.domains)} know no '{kind}'. "
                    f"{did_you_mean(kind, self.mender.kinds)}"
                )
        recordings = list(_openable(items))
        known = {name for _, recording in recordings for c in recording.channels for name in (c.name, c.canonical)}
        for name in self.request.channels:
            if recordings and name not in known:
                raise UsageError(f"--channels: no recording has a channel '{name}'. {did_you_mean(name, known)}")
        self.mender.check_missing(self.request.missing)
        matched = np.zeros(0 if self.request.table is None else len(self.request.table), dtype=bool)
        for item, recording in recordings:
            self._truth(item, recording)
            if self.request.table is not None:
                mine = self._rows_of(item)
                matched |= mine
                with contextlib.suppress(ReadError):  # said when this file is restored
                    self.mender.check(recording, self.request.table[mine])
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
        if len(os.fsencode(item.path.name)) > LONGEST_NAME:
            raise ReadError(f"its name is longer than {LONGEST_NAME} bytes, which leaves no room for those of its sidecars")
        rows: pd.DataFrame | None = None if self.request.table is None else self.request.table[self._rows_of(item)]
        mended = self.mender.mend(recording, self.request, rows)
        try:
            written = mended.write(recording, self.out / item.relative)
        except ReadError as problem:
            if isinstance(problem.__cause__, OSError):
                raise ToolkitError(
                    f"'{self.out / item.relative}': {problem}. Free space or choose another --out, then run again."
                ) from None
            raise
        facts = self._facts(item, recording, mended, written)
        self._sidecar(mended, facts, written)
        notes = list(mended.notes)
        if written.clipped:
            notes.append(f"{written.clipped} repaired samples were limited to the range that the file can store")
        return Restored(facts, [*notes, *written.notes, *recording.warnings, *recording.verify()])

    def _rows_of(self, item: Input) -> NDArray[np.bool_]:
        """Which rows of the table of spans name this input."""
        assert self.request.table is not None
        here, folders = item.path.resolve(), (self.request.table_folder, item.root)
        paths = self.request.table["path"]
        return np.array([any((folder / p).resolve() == here for folder in folders) for p in paths], dtype=bool)

    def _facts(self, item: Input, recording: Recording, mended: Mended, written: Written) -> dict[str, Any]:
        stored = sum(recording.stored(c) for c in range(len(recording.channels)))
        truth = self._truth(item, recording)
        facts: dict[str, Any] = {
            "path": str(item.path),
            "out": str(written.path),
            "task": mended.task,
            "changed_fraction": written.changed / max(stored, 1),
            "detected": mended.detected[:MANY],
            "repaired": mended.count,
            "clipped": written.clipped,
            "main_metric": self.mender.headline,
            "metrics": None,
            "baselines": None,
            "picture": None,
        }
        if truth is not None and mended.count:
            facts["metrics"], facts["baselines"] = mended.score(truth)
        if mended.count:
            picture = beside(written.path, ".restored.png")
            mended.draw(truth, picture)
            facts["picture"] = str(picture)
        return facts

    def _truth(self, item: Input, recording: Recording) -> Recording | None:
        """The clean recording: the input itself where the damage is ours, else the reference of the same name."""
        if self.request.reference is None:
            return recording if self.request.hides(recording) else None
        place = self.request.reference / item.relative if self.request.reference.is_dir() else self.request.reference
        if not place.exists():
            raise UsageError(f"--reference: '{place}' does not exist; it is looked for by the name of '{item.path}'.")
        try:
            parts = [place.parent / part.name for part in item.parts]
            clean = readers.open_recording(place, [part for part in parts if part.exists()])
        except ReadError as problem:
            raise UsageError(f"--reference: '{place}' cannot be read: {problem}.") from None
        if [c.name for c in clean.channels] != [c.name for c in recording.channels] or clean.axes.shape != recording.axes.shape:
            raise UsageError(
                f"--reference: '{place}' has channels {[c.name for c in clean.channels]} and shape "
                f"{clean.axes.shape}, '{item.path}' has {[c.name for c in recording.channels]} and "
                f"{recording.axes.shape}."
            )
        return clean

    def _sidecar(self, mended: Mended, facts: dict[str, Any], written: Written) -> None:
        document = {
            "toolkit": __version__,
            "model_hash": self.loaded.hash,
            "recipe": self.loaded.recipe.name,
            "changed": mended.changed[:MANY],
            "changed_spans": mended.count,
            "clipped_samples": written.clipped,
            "scale": mended.scale,
            **facts,
        }
        if mended.count > MANY:
            mask = beside(written.path, ".mask.npz")
            with files.atomic(mask) as temporary, temporary.open("wb") as handle:
                np.savez_compressed(handle, allow_pickle=False, **mended.arrays())
            document["mask"] = mask.name
        files.write_json(beside(written.path, ".restored.json"), document)


def beside(path: Path, suffix: str) -> Path:
    """NAME with another suffix, where NAME is without that of its format, which may have two parts."""
    bare = path.name.removesuffix(".gz")
    return path.with_name(Path(bare).stem + suffix)


def _openable(items: Sequence[Input]) -> Iterator[tuple[Input, Recording]]:
    """The inputs whose headers can be read; restoring the others says why they cannot."""
    for item in items:
        with contextlib.suppress(ReadError):
            yield item, open_input(item)
