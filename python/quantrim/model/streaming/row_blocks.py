"""Tensors read in blocks of whole rows, on all threads, with memory for a few blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from ... import backend
from ...checks import Array
from ...layouts.base import Chunk
from ...tensor import matrix_shape
from .chunks import CHUNK_BYTES, cut
from .workers import Workers

BLOCK_BYTES = CHUNK_BYTES  # of a tensor as float32


class Tensor(Protocol):
    """A tensor that is read by rows. dtype: of the values. label: how they are kept, for people."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def label(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def rows(self, first: int, count: int) -> Array: ...


T = TypeVar("T", bound=Tensor)
P = TypeVar("P")


def blocks(tensor: Tensor) -> list[Chunk]:
    """Cut the rows of a tensor into blocks of about BLOCK_BYTES, in order; none of an empty one.

    Rows are those of `matrix_shape`, as `rows` has them.
    """
    return list(cut(*matrix_shape(tensor.shape), None, BLOCK_BYTES))


def measured(
    tensors: Iterable[T], measure: Callable[[T, Chunk], P], advance: Callable[[T, int], object] | None = None
) -> Iterator[tuple[T, list[P]]]:
    """Yield each tensor with what `measure` makes of each of its blocks, in order, whatever thread did which.

    advance: called in this thread with (tensor, elements done) before each tensor and after each block.
    """
    plans = [(tensor, blocks(tensor)) for tensor in tensors]
    with Workers(backend.current_threads()) as workers:
        jobs: Iterator[Callable[[], P]] = (
            (lambda tensor=tensor, block=block: measure(tensor, block))  # type: ignore[misc]
            for tensor, each in plans
            for block in each
        )
        results = workers.run(jobs)
        for tensor, each in plans:
            found: list[P] = []
            done = 0
            for block in each:
                if advance:
                    advance(tensor, done)
                found.append(next(results))
                done += block.size
            yield tensor, found
