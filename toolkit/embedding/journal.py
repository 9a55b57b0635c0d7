"""The journal of an unfinished ``embed``: one file a finished input, so that a kill costs one input.

``OUT.journal/`` holds ``plan.json`` (what was asked), ``N.arrow`` (the rows of input N) or ``N.json``
(why it could not be used). All appear by rename. When every input is there, the rows are joined in
input order into OUT and the journal goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from toolkit import files
from toolkit.corpus.inputs import Failure
from toolkit.errors import UsageError, shortened


class Journal:
    """The parts of one output. ``plan`` is compared on resume: rows of another model or window never mix."""

    def __init__(self, out: Path, plan: dict[str, Any], table: pa.Schema) -> None:
        self.folder = folder(out)
        self.plan, self.table = plan, table

    def start(self, *, resume: bool) -> None:
        """Begin, or take up what is there. Raises UsageError when the plan differs or a journal is in the way."""
        plan_file = self.folder / "plan.json"
        if plan_file.exists() and resume:
            before = json.loads(plan_file.read_text(encoding="utf-8"))
            changed = [k for k in self.plan if before.get(k) != self.plan[k]]
            if changed:
                raise UsageError(
                    f"'{self.folder}' was begun with another {changed[0]}: {shortened(before.get(changed[0]), 60)}, now "
                    f"{shortened(self.plan[changed[0]], 60)}. Use --overwrite to start anew."
                )
        elif self.folder.exists() and not resume:
            raise UsageError(f"'{self.folder}' is left from an unfinished run. Continue it with --resume, or pass --overwrite.")
        else:
            files.write_json(plan_file, self.plan)

    def has(self, index: int) -> bool:
        """Whether an input is finished, well or badly."""
        return self._rows(index).exists() or self._failure(index).exists()

    def add(self, index: int, batches: Iterable[pa.RecordBatch]) -> int:
        """Write the rows of one input as they come; returns their number."""
        count = 0
        with files.atomic(self._rows(index)) as temporary, pa.ipc.new_stream(temporary, self.table) as writer:
            for batch in batches:
                writer.write_batch(batch)
                count += len(batch)
        return count

    def fail(self, index: int, failure: Failure) -> None:
        """Note why an input gave no rows."""
        files.write_json(self._failure(index), failure.__dict__)

    def batches(self, inputs: int) -> Iterator[pa.RecordBatch]:
        """All rows, in input order."""
        for index in range(inputs):
            if self._rows(index).exists():
                with pa.ipc.open_stream(self._rows(index)) as reader:
                    yield from reader

    def failures(self, inputs: int) -> list[Failure]:
        """All failures, in input order."""
        return [
            Failure(**json.loads(self._failure(i).read_text(encoding="utf-8")))
            for i in range(inputs)
            if self._failure(i).exists()
        ]

    def remove(self) -> None:
        """Delete the journal."""
        shutil.rmtree(self.folder)

    def _rows(self, index: int) -> Path:
        return self.folder / f"{index:08d}.arrow"

    def _failure(self, index: int) -> Path:
        return self.folder / f"{index:08d}.json"


def folder(out: Path) -> Path:
    """Where the journal of an output lies."""
    return out.with_name(out.name + ".journal")
