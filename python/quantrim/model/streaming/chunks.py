"""A matrix in pieces of bounded size, each of whole rows, or of whole groups of one row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

from ...layouts.base import Chunk

CHUNK_BYTES = (
    2 << 20
)  # of weights as float32, the unit of work of a thread: read, pruned and decoded they fit its cache


def cut(rows: int, cols: int, step: int | None, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Cut rows into chunks of at most `chunk_bytes`, in order.

    A row longer than that is cut at multiples of `step` columns, if given."""
    limit = max(1, chunk_bytes // 4)
    if not rows * cols:
        return
    numbers = count()
    if cols > limit and step is not None:
        width = max(step, limit // step * step)
        for row in range(rows):
            for col in range(0, cols, width):
                yield Chunk(row, 1, col, min(width, cols - col), next(numbers))
        return
    height = max(1, limit // cols)
    for row in range(0, rows, height):
        yield Chunk(row, min(height, rows - row), 0, cols, next(numbers))


def cut_bands(rows: int, cols: int, band: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Cut whole bands of so many rows into chunks, as many as `chunk_bytes` hold, at least one."""
    for chunk in cut(rows // band, cols * band, None, chunk_bytes):
        yield Chunk(chunk.row * band, chunk.rows * band, 0, cols, chunk.number)


def column_step(group_size: int | str, m: int | None = None) -> int | None:
    """Return the step at which a row may be cut: whole groups, 32-bit words of codes, and n:m patterns."""
    return None if isinstance(group_size, str) else math.lcm(group_size, 32, m or 1)
