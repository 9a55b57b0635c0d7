"""One ``embed``: inputs in order, rows out in order, failures and mismatches named."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa

from readers.schema import ReadError, Recording
from toolkit import __version__, files
from toolkit import recipe as recipes
from toolkit.corpus import grids
from toolkit.corpus.inputs import Failure, Input, open_input, subject_of
from toolkit.corpus.notes import Notes
from toolkit.embedding import table
from toolkit.embedding.encoder import RecordingEncoder
from toolkit.embedding.journal import Journal
from toolkit.interrupts import StopSignals
from toolkit.model.folder import LoadedModel
from toolkit.progress import Progress


@dataclass
class Outcome:
    """What an ``embed`` did."""

    rows: int = 0
    dim: int = 0
    failures: list[Failure] = field(default_factory=list)
    rank: float | None = None
    embedded: int = 0  # rows made now, without those that an earlier run left in the journal
    seconds: float = 0.0

    @property
    def samples_per_s(self) -> float:
        """Rows made a second, reading included."""
        return self.embedded / max(self.seconds, 1e-9)


class Embedding:
    """Embeds inputs with one model; ``notes`` gathers what the preprocessing lost or never saw."""

    def __init__(self, loaded: LoadedModel, encoder: RecordingEncoder, notes: Notes) -> None:
        self.loaded, self.encoder, self.notes = loaded, encoder, notes
        self.schema = table.schema(encoder.width, tokens=encoder.options.level == "token", metadata=self._metadata())

    def _metadata(self) -> dict[str, str]:
        options = self.encoder.options
        return {
            "toolkit.version": __version__,
            "toolkit.recipe": self.loaded.recipe.name,
            "toolkit.model_hash": self.loaded.hash,
            "toolkit.model": str(self.loaded.path.absolute()),
            "toolkit.preprocessing": recipes.to_toml(self.loaded.recipe),
            "toolkit.options": json.dumps(options.__dict__),
        }

    def to_file(
        self,
        inputs: Sequence[Input],
        out: Path,
        kind: str,
        *,
        plan: dict[str, object],
        resume: bool,
        progress: Progress,
        stop: StopSignals,
    ) -> Outcome:
        """Write a table file through a journal. Raises UsageError, Interrupted or ToolkitError."""
        grids.check(inputs, self.loaded.recipe)
        began = time.monotonic()
        journal = Journal(out, plan, self.schema)
        journal.start(resume=resume)
        finished = sum(journal.has(i) for i in range(len(inputs)))
        progress.start_at(finished)
        embedded = 0
        for index, item in enumerate(inputs):
            if journal.has(index):
                continue

            def check(done: int = finished) -> None:
                stop.check(f"{done} of {len(inputs)} inputs are finished in '{journal.folder}'; continue with --resume.")

            try:
                embedded += journal.add(index, self._batches(item, check))
            except ReadError as problem:
                journal.fail(index, Failure(str(item.path), str(problem)))
            finished += 1
            progress.update(finished)
        with files.atomic(out) as temporary, temporary.open("wb") as sink:
            outcome = self._join(journal.batches(len(inputs)), table.WRITERS[kind](sink, self.schema))
        outcome.failures, outcome.embedded, outcome.seconds = journal.failures(len(inputs)), embedded, time.monotonic() - began
        journal.remove()
        return outcome

    def to_stream(self, inputs: Sequence[Input], sink: IO[bytes], kind: str, *, progress: Progress, stop: StopSignals) -> Outcome:
        """Write a table to a pipe as the rows come. Raises UsageError or Interrupted."""
        grids.check(inputs, self.loaded.recipe)
        began, failures = time.monotonic(), list[Failure]()

        def batches() -> Iterator[pa.RecordBatch]:
            for done, item in enumerate(inputs, 1):
                try:
                    yield from self._batches(item, lambda: stop.check("Rows of the inputs so far went to stdout."))
                except ReadError as problem:
                    failures.append(Failure(str(item.path), str(problem)))
                progress.update(done)

        if kind == "npy":  # its header holds the number of rows
            with tempfile.TemporaryFile() as held:
                outcome = self._join(batches(), table.STREAM_WRITERS[kind](held, self.schema))
                held.seek(0)
                shutil.copyfileobj(held, sink)
        else:
            outcome = self._join(batches(), table.STREAM_WRITERS[kind](sink, self.schema))
        outcome.failures, outcome.embedded, outcome.seconds = failures, outcome.rows, time.monotonic() - began
        return outcome

    def _batches(self, item: Input, check: Callable[[], None]) -> Iterator[pa.RecordBatch]:
        check()
        recording = open_input(item)
        self.note(item, recording)
        subject, rows = subject_of(item, recording), 0
        for block in self.encoder.rows(recording):
            check()
            if len(block.start):
                rows += len(block.start)
                unit = self.encoder.framing.unit
                yield table.record_batch(
                    block, self.schema, path=str(item.path), domain=recording.domain, subject=subject, unit=unit
                )
        if not rows:
            raise ReadError(f"no window of '{item.path.name}' has a valid sample")

    def note(self, item: Input, recording: Recording) -> None:
        """Gather what is worth a warning about one recording."""
        chosen = self.encoder.framing.channels(recording)
        found = self.encoder.framing.mismatches(recording, self.loaded.channels, chosen)
        for sentence in (*recording.warnings, *found, *recording.verify()):
            self.notes.add(item.path.name, sentence)

    def _join(self, batches: Iterator[pa.RecordBatch], writer: table.TableWriter) -> Outcome:
        gram = table.Gram(self.encoder.width)
        for batch in batches:
            writer.write(batch)
            gram.add(batch)
        writer.close()
        return Outcome(gram.rows, self.encoder.width, rank=gram.effective_rank())
