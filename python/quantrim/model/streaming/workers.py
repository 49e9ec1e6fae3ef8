"""Threads that each do one piece of work at a time, with the kernels inside them single-threaded."""

from __future__ import annotations

import _thread
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np

from ... import backend
from ...checks import Array

T = TypeVar("T")
BATCH_BYTES = 1 << 20  # of small jobs that a thread does in one go
BATCH_JOBS = 64


def gathered(jobs: Iterable[tuple[Callable[[], T], int]]) -> Iterator[Callable[[], list[T]]]:
    """Group jobs in order, as few groups as their sizes allow; each gives the results of its jobs.

    To hand one over costs more than a small tensor's work. jobs: with the bytes that each deals with."""
    batch: list[Callable[[], T]] = []
    held = 0
    for job, nbytes in jobs:
        if batch and (held + nbytes > BATCH_BYTES or len(batch) == BATCH_JOBS):
            yield partial(_results, batch)
            batch, held = [], 0
        batch.append(job)
        held += nbytes
    if batch:
        yield partial(_results, batch)


def _results(jobs: list[Callable[[], T]]) -> list[T]:
    return [job() for job in jobs]


class _Run(Generic[T]):
    """What is asked of the threads at a time: results arrive in any order. dropped: whether nobody wants them now."""

    def __init__(self) -> None:
        self.results: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()
        self.dropped = False

    def do(self, number: int, job: Callable[[], T]) -> None:
        """Do a job in the calling thread, and tell of it."""
        try:
            self.results.put((number, None if self.dropped else job(), None))
        except BaseException as error:
            self.results.put((number, None, error))


class Workers:
    """A pool of threads whose kernels are single-threaded, and otherwise compute as the calling thread does. As a
    context manager it ends when the pieces in hand are done, others are dropped.

    Not a ThreadPoolExecutor: Ctrl-C between two lines of its Python may leave one of its locks held, for which its
    threads then wait for ever. A SimpleQueue has no lock of Python's.
    """

    def __init__(self, count: int) -> None:
        self._count, self._begin = count, backend.as_here(threads=1)
        self._jobs: SimpleQueue[tuple[_Run[Any], int, Callable[[], Any]] | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._runs: set[_Run[Any]] = set()
        self._threads: list[int] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        interrupt: KeyboardInterrupt | None = None
        stopped = 0
        gone: list[None] = []
        # none may write any more when files are closed, however often Ctrl-C is pressed
        while len(gone) < len(self._threads):
            try:
                for run in self._runs:
                    run.dropped = True
                while stopped < len(self._threads):
                    self._jobs.put(None)
                    stopped += 1
                gone.extend(map(SimpleQueue.get, repeat(self._ended, 1)))  # none is lost between two lines
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt and kind is None:
            raise interrupt

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Yield the results in the order of the jobs; raises the first error in that order. Few jobs wait at a time."""
        run: _Run[T] = _Run()
        self._runs.add(run)
        found: dict[int, tuple[T | None, BaseException | None]] = {}
        given = taken = 0
        try:
            for job in jobs:
                self._start()
                self._jobs.put((run, given, job))
                given += 1
                if given - taken > 2 * self._count:
                    yield self._result(run, found, taken)
                    taken += 1
            while taken < given:
                yield self._result(run, found, taken)
                taken += 1
        finally:  # the caller may want no more of them
            run.dropped = True
            self._runs.discard(run)

    def _start(self) -> None:
        """Start the threads, once: in one call without a line of Python in it, so that each is in the list or is not
        there."""
        if not self._threads:
            self._threads.extend(map(_thread.start_new_thread, repeat(self._work, self._count), repeat(())))

    def _work(self) -> None:
        try:
            self._begin()
            while (piece := self._jobs.get()) is not None:
                run, number, job = piece
                run.do(number, job)
                del piece, run, job  # results are the caller's alone
        finally:
            self._ended.put(None)

    def _result(self, run: _Run[T], found: dict[int, tuple[T | None, BaseException | None]], wanted: int) -> T:
        while wanted not in found:
            number, result, error = run.results.get()
            found[number] = result, error
        result, error = found.pop(wanted)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None only where a job gave it


class Buffers(threading.local):
    """Memory of one thread, used again for every piece of work."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with undefined contents; what `get` gave before under this name is undefined from now on."""
        size = math.prod(shape) * dtype.itemsize
        held = self._held.get(name)
        if held is None or held.nbytes < size:
            held = self._held[name] = np.empty(size, np.uint8)
        return held[:size].view(dtype).reshape(shape)
