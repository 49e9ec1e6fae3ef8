"""Threads that each do one piece of work at a time, with the kernels inside them single-threaded."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

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


class Workers:
    """A pool of threads whose kernels are single-threaded, and otherwise compute as the calling thread does. As a
    context manager it ends when the pieces in hand are done, others are dropped."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "quantrim", backend.as_here(threads=1))
        self._pending: set[Future[Any]] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for future in self._pending:
            future.cancel()
        interrupt: KeyboardInterrupt | None = None
        while True:  # no thread may write any more when the files are closed, however often Ctrl-C is pressed
            try:
                wait(self._pending)
                self._pool.shutdown()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt and kind is None:
            raise interrupt

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Yield the results in the order of the jobs; raises the first error in that order. Few jobs wait at a time."""
        queue: deque[Future[T]] = deque()
        try:
            for job in jobs:
                queue.append(self._submit(job))
                if len(queue) > 2 * self._count:
                    yield self._next(queue)
            while queue:
                yield self._next(queue)
        finally:  # the caller may want no more of them
            self._pending -= {future for future in queue if future.cancel()}

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        future = self._pool.submit(job)
        self._pending.add(future)
        return future

    def _next(self, queue: deque[Future[T]]) -> T:
        future = queue.popleft()
        result = future.result()
        self._pending.discard(future)
        return result


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
