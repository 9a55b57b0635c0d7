"""Work on many files in processes of their own: a file on which a process dies or hangs costs only itself."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 32  # items that a process takes at a time
AHEAD = 8  # chunks per process that may be done before the first of them is
LIMIT_S = 60.0  # for one item
NOTHING = -1  # what a process is at before its first item


@dataclass
class Lost:
    """An item that ended the process that worked on it, and how."""

    reason: str


@dataclass
class _Chunk(Generic[T, R]):
    items: Sequence[T]
    lost: dict[int, Lost] = field(default_factory=dict)
    done: list[R | Lost] | None = None

    def finish(self, results: Sequence[R]) -> None:
        """Take the results of all items but the lost ones."""
        left = iter(results)
        self.done = [self.lost[i] if i in self.lost else next(left) for i in range(len(self.items))]


class _Worker(Generic[T, R]):
    """A process, the pipe to it, and a number in shared memory that says which item it is at."""

    def __init__(self, work: Callable[[T], R], chunk: _Chunk[T, R]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of threads that are not there
        self.pipe, theirs = context.Pipe()
        self._at = context.Value("q", NOTHING, lock=False)
        self._process = context.Process(target=_serve, args=(work, theirs, self._at), daemon=True)
        with _no_interrupt():
            self._process.start()
        theirs.close()
        self.give(chunk)

    def give(self, chunk: _Chunk[T, R]) -> None:
        """Send what is left of a chunk."""
        self.chunk: _Chunk[T, R] | None = chunk
        self._at.value = self._seen = NOTHING
        self._since = time.monotonic()
        with suppress(OSError):  # it has died; the pipe's end says so to who waits for the results
            self.pipe.send([(i, item) for i, item in enumerate(chunk.items) if i not in chunk.lost])

    def take(self) -> bool:
        """Take the results that are there; False where the process died instead."""
        try:
            results = self.pipe.recv()
        except (EOFError, OSError):
            return False
        if self.chunk is not None:
            self.chunk.finish(results)
        self.chunk = None
        return True

    def hangs(self) -> bool:
        """Whether it has been at one item for too long."""
        if self._at.value != self._seen:
            self._seen, self._since = self._at.value, time.monotonic()
        # Starting takes what it takes.
        return self._seen != NOTHING and time.monotonic() - self._since > LIMIT_S

    def end(self, reason: str | None = None) -> None:
        """End the process; where it was at an item, that one is lost for the reason (default: how it died).

        Raises ChildProcessError where it died of itself before any item.
        """
        if reason is None:
            self._process.join(1)
        code = self._process.exitcode
        self.close()
        if self.chunk is None:
            return
        how = f"by signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"with code {code}"
        if self._at.value == NOTHING:
            raise ChildProcessError(f"A process that reads files ended {how} before it read any")
        self.chunk.lost[self._at.value] = Lost(reason or f"reading it crashed, {how}")

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


class Crew(Generic[T, R]):
    """Processes that do ``work(item)``, started when they are needed. Use as a context manager.

    ``work`` is a function of a module, never raises and is safe to call twice on an item.
    """

    def __init__(self, work: Callable[[T], R], workers: int) -> None:
        self._work, self._workers = work, workers
        self._crew: list[_Worker[T, R]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._crew:
            worker.close()

    def map(self, items: Sequence[T]) -> Iterator[R | Lost]:
        """The results in order; an item on which its process dies, or spends more than ``LIMIT_S``, gives Lost.

        To be consumed to its end. Raises ChildProcessError where processes cannot run here.
        """
        left = iter([_Chunk[T, R](items[start : start + CHUNK]) for start in range(0, len(items), CHUNK)])
        ahead: deque[_Chunk[T, R]] = deque()  # handed out and not yet yielded, in order
        while True:
            self._hand_out(left, ahead)
            if not ahead:
                return
            self._collect()
            while ahead and (done := ahead[0].done) is not None:
                ahead.popleft()
                yield from done

    def _hand_out(self, left: Iterator[_Chunk[T, R]], ahead: deque[_Chunk[T, R]]) -> None:
        """Give every process that has nothing to do the next chunk, as long as not too many wait for the first."""
        while len(ahead) < AHEAD * self._workers:
            idle = next((worker for worker in self._crew if worker.chunk is None), None)
            if idle is None and len(self._crew) == self._workers:
                return
            chunk = next(left, None)
            if chunk is None:
                return
            ahead.append(chunk)
            if idle is not None:
                idle.give(chunk)
            else:
                self._crew.append(_Worker(self._work, chunk))

    def _collect(self) -> None:
        """Wait for results and take them; replace processes that died or hang."""
        busy = [worker.pipe for worker in self._crew if worker.chunk is not None]
        ready = connection.wait(busy, timeout=1.0) if busy else []
        for number, worker in enumerate(self._crew):
            if (chunk := worker.chunk) is None:
                continue
            if worker.pipe in ready:
                if not worker.take():
                    worker.end()
                    self._crew[number] = _Worker(self._work, chunk)
            elif worker.hangs():
                worker.end(f"reading it took more than {LIMIT_S:g} s")
                self._crew[number] = _Worker(self._work, chunk)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process that is started meanwhile never answers SIGINT: its parent does, and ends it."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set this
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(work: Callable[[T], R], pipe: Any, at: Any) -> None:
    """What a process runs: chunks in, results out, until the pipe closes."""
    while True:
        try:
            chunk = pipe.recv()
        except (EOFError, OSError):
            return
        results = []
        for at.value, item in chunk:
            results.append(work(item))
        with suppress(OSError):  # the parent is gone
            pipe.send(results)
