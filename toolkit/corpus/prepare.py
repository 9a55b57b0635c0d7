"""One ``prepare``: what changed is decoded, in processes of their own, and put into the corpus; the rest is kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from readers.prepared_store import FORMAT, PLAN, VERSION, read_head, shard_name
from readers.schema import ReadError
from toolkit import __version__, files
from toolkit.corpus import grids
from toolkit.corpus.catalog import Beside, unchanged
from toolkit.corpus.crew import _no_interrupt
from toolkit.corpus.decode import Decoder, Row, Stopped
from toolkit.corpus.inputs import Failure, Input, Inputs
from toolkit.corpus.shards import PARTS, Shards
from toolkit.errors import ToolkitError, UsageError
from toolkit.interrupts import StopSignals
from toolkit.progress import Progress
from toolkit.recipe import Recipe

FEW = 4  # recordings up to which starting processes costs more than it saves
DEAD_SHARE = 0.5  # of the shards; where more is dead they are written anew
POLL_S = 0.2

LAYOUT = (
    "index.parquet: one row a recording. Its numbers lie in shard-NNNNN.bin from byte 'offset' on: 'dtype' little endian, C "
    "order, of 'shape', NaN where nothing is valid; the rows of signals and volumes are the channels 'stored' (places in the "
    "list 'channels'). Volumes: 'grids' has every spacing, 'at' bytes behind 'offset'. Points: coordinates (N, 3), and behind "
    "them one run of N numbers for each channel in 'stored'. numpy.memmap reads all of it."
)


@dataclass
class Outcome:
    """What a ``prepare`` did. ``kept`` recordings had not changed; ``dead`` bytes of the shards hold nothing any more."""

    recordings: int = 0
    shards: int = 0
    bytes: int = 0
    redone: int = 0
    kept: int = 0
    removed: int = 0
    dead: int = 0
    compacted: bool = False
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # names of files and what is to be said of them


class Preparation:
    """A corpus in the folder ``out``: :meth:`start` checks and creates, :meth:`run` decodes."""

    def __init__(self, recipe: Recipe, gathered: Inputs, out: Path, *, arguments: Sequence[str], workers: int) -> None:
        self.recipe, self.out, self.arguments, self.workers = recipe, out, list(arguments), workers
        self.items = [_absolute(item) for item in gathered.items]
        self.shards = Shards(out)
        self.parts = out / PARTS

    def start(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or take up the one that is there. Raises UsageError before any work."""
        for item in self.items:
            _ = item.relative  # raises for one that comes from a corpus
        there = resume and self.out.is_dir() and any(self.out.iterdir())
        if there:
            self._check_same()
        else:
            files.claim_output(self.out, overwrite=overwrite, what="Corpus")
            self.out.mkdir(parents=True, exist_ok=True)
        files.write_json(self.out / PLAN, self._head())

    def _head(self) -> dict[str, Any]:
        table = self.recipe.data.model_dump(mode="json")
        text = json.dumps(table, sort_keys=True)
        return {
            "format": FORMAT,
            "version": VERSION,
            "toolkit": __version__,
            "recipe": self.recipe.name,
            "size": self.recipe.size,
            "data": table,
            "data_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
            "grid": grids.grid_of(self.recipe.data),
            "arguments": self.arguments,
        }

    def _check_same(self) -> None:
        before = read_head(self.out) or read_head(self.out, PLAN)
        if before is None:
            raise UsageError(f"'{self.out}' holds no corpus that --resume could continue. Choose another --out.")
        if before["version"] != VERSION or before["grid"] != grids.grid_of(self.recipe.data):
            raise UsageError(
                f"'{self.out}' was begun with another recipe: it holds {grids.describe(before['grid'])}, now "
                f"{grids.describe(grids.grid_of(self.recipe.data))} are asked for. Choose another --out, or pass --overwrite "
                "instead of --resume."
            )

    def run(self, progress: Progress, stop: StopSignals) -> Outcome:
        """Decode what is new or changed and write the index. Raises ToolkitError or Interrupted."""
        began, outcome = time.monotonic(), Outcome()
        try:
            rows, todo = self._plan(outcome)
            progress.start_at(outcome.kept)
            self.parts.mkdir(exist_ok=True)
            try:
                self._decode_all(todo, rows, outcome, progress, stop)
            finally:
                self.shards.close()
            done = f"{len(rows)} of {len(self.items)} recordings are finished in '{self.out}'"
            stop.check(f"{done}; continue with --resume.")
            self._publish([rows[str(i.path)] for i in self.items if str(i.path) in rows], outcome)
        except OSError as problem:
            raise ToolkitError(
                f"'{self.out}' could not be written: {problem.strerror or problem}. Free space, then continue with --resume."
            ) from None
        outcome.seconds = time.monotonic() - began
        return outcome

    def _decode_all(
        self, todo: dict[Path, int], rows: dict[str, Row], outcome: Outcome, progress: Progress, stop: StopSignals
    ) -> None:
        with closing(self._decoded(todo, stop)) as results:
            for item, result, part in results:
                if isinstance(result, Failure):
                    outcome.failures.append(result)
                else:
                    rows[str(item.path)] = self.shards.add({**result, "beside": todo[item.path]}, part)
                    outcome.redone += 1
                progress.update(outcome.kept + outcome.redone + len(outcome.failures))

    def _plan(self, outcome: Outcome) -> tuple[dict[str, Row], dict[Path, int]]:
        """Rows to keep by path, and of the inputs to decode a mark of what lies beside them."""
        known, beside = self.shards.known(), Beside()
        rows: dict[str, Row] = {}
        todo: dict[Path, int] = {}
        for item in self.items:
            mark, row = beside.mark(str(item.path)), known.get(str(item.path))
            if row is not None and _holds(row, item, mark):
                rows[str(item.path)] = {**row, **_named(item)}
            else:
                todo[item.path] = mark
        outcome.kept, outcome.removed = len(rows), len(known.keys() - {str(item.path) for item in self.items})
        return rows, todo

    def _decoded(self, todo: dict[Path, int], stop: StopSignals) -> Generator[tuple[Input, Row | Failure, Path], None, None]:
        """Each input with its row or failure, in whatever order they are done, until a signal comes."""
        items = [item for item in self.items if item.path in todo]
        jobs = [(item, self.parts / f"{number}.bin") for number, item in enumerate(items)]
        if self.workers == 1 or len(jobs) <= FEW:
            for item, part in jobs:
                if stop.signum is not None:
                    return
                try:
                    yield item, _decode(self.recipe, item, part, stop), part
                except Stopped:
                    return
        else:
            pool = _Pool(self.recipe, self.parts, min(self.workers, len(jobs)))
            yield from pool.run(jobs, stop)

    def _publish(self, rows: list[Row], outcome: Outcome) -> None:
        if not rows:
            reasons = f" {outcome.failures[0].reason}." if outcome.failures else ""
            raise UsageError(f"None of {len(self.items)} recordings can be used.{reasons}")
        outcome.dead = self.shards.dead(rows)
        if outcome.dead > DEAD_SHARE * sum(self.shards.used(rows).values()):
            rows, outcome.dead, outcome.compacted = self.shards.compact(rows), 0, True
        used = self.shards.used(rows)
        outcome.recordings, outcome.shards, outcome.bytes = len(rows), len(used), sum(used.values())
        outcome.notes = [(Path(r["path"]).name, s) for r in rows for k in ("warnings", "findings") for s in json.loads(r[k])]
        manifest = {
            **self._head(),
            "recordings": outcome.recordings,
            "shards": {shard_name(number): size for number, size in used.items()},
            "bytes": outcome.bytes,
            "dead_bytes": outcome.dead,
            "failures": [failure.__dict__ for failure in outcome.failures],
            "layout": LAYOUT,
        }
        self.shards.publish(rows, manifest)
        self.shards.sweep(rows)


class _Pool:
    """Processes that decode. One that dies costs the recording that it was at, and no other."""

    def __init__(self, recipe: Recipe, parts: Path, workers: int) -> None:
        self.recipe, self.parts, self.workers = recipe, parts, workers

    def run(self, jobs: Sequence[tuple[Input, Path]], stop: StopSignals) -> Iterator[tuple[Input, Row | Failure, Path]]:
        """As ``Preparation._decoded``."""
        left = {job[1]: job for job in jobs}
        alone: list[tuple[Input, Path]] = []
        while left and stop.signum is None:
            # After a process died, the jobs that were begun show one by one which of them ended it.
            ahead, one_by_one, alone = alone or list(left.values()), bool(alone), []
            for job, result in self._together(ahead, 1 if one_by_one else self.workers, stop):
                if isinstance(result, BrokenProcessPool) and not one_by_one:
                    alone.append(job)
                    continue
                del left[job[1]]
                crashed = Failure(str(job[0].path), "reading it crashed")
                yield job[0], crashed if isinstance(result, BrokenProcessPool) else result, job[1]
                if one_by_one:
                    alone = [other for other in ahead if other[1] in left]

    def _together(
        self, jobs: Sequence[tuple[Input, Path]], workers: int, stop: StopSignals
    ) -> Iterator[tuple[tuple[Input, Path], Row | Failure | BrokenProcessPool]]:
        """Results of jobs as they come; after a process died, those of the jobs that were begun are its error."""
        waiting = iter(jobs)
        pending: dict[Future[Row | Failure], tuple[Input, Path]] = {}
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            try:
                broken = False
                while stop.signum is None:
                    while not broken and len(pending) < 2 * workers - 1 and (job := next(waiting, None)) is not None:
                        try:
                            with _no_interrupt():  # submitting starts processes
                                pending[pool.submit(_decode, self.recipe, *job)] = job
                        except BrokenProcessPool as problem:
                            broken = True
                            yield job, problem
                    if not pending:
                        return
                    for future in wait(pending, POLL_S, FIRST_COMPLETED).done:
                        job, error = pending.pop(future), future.exception()
                        broken = broken or isinstance(error, BrokenProcessPool)
                        yield job, error if isinstance(error, BrokenProcessPool) else future.result()
            finally:
                if pending:
                    shutil.rmtree(self.parts, ignore_errors=True)  # which stops them at their next block
                    pool.shutdown(wait=False, cancel_futures=True)


def _decode(recipe: Recipe, item: Input, part: Path, stop: StopSignals | None = None) -> Row | Failure:
    """Decode one input; in a process of its own it stops when the folder of parts is gone. Raises Stopped, ToolkitError."""
    stopped = (lambda: not part.parent.is_dir()) if stop is None else (lambda: stop.signum is not None)
    try:
        return Decoder(recipe, stopped).decode(item, part)
    except ReadError as problem:
        part.unlink(missing_ok=True)
        return Failure(str(item.path), str(problem))
    except (ToolkitError, Stopped):
        raise
    except Exception as problem:  # of a format's library
        part.unlink(missing_ok=True)
        reason = " ".join(str(problem).split()) or "no reason given"
        return Failure(str(item.path), f"{item.path.name} cannot be decoded: {type(problem).__name__}, {reason}")


def _end_with_parent() -> None:
    """Run in a process of the pool: it ends when the program does, however that ends."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _absolute(item: Input) -> Input:
    if item.prepared is not None:
        return item
    path, root, *parts = (Path(os.path.abspath(p)) for p in (item.path, item.root, *item.parts))
    return replace(item, path=path, root=root, parts=tuple(parts))


def _named(item: Input) -> Row:
    """What a row says of how the recording was named."""
    return {"root": str(item.root), "relative": str(item.relative), "given": json.dumps(dict(item.ids))}


def _holds(row: Row, item: Input, mark: int) -> bool:
    """Whether the files of a recording are what they were, in size, time and names."""
    same = json.loads(row["parts"]) == [str(part) for part in item.parts] and row["beside"] == mark
    return same and unchanged(json.loads(row["files"]))
