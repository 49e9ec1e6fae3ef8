"""Elements of a strided tensor, in C order, out of the file that holds its storage."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

READ_BYTES = 4 << 20  # of the storage that are in memory at once
GAP_BYTES = 128 << 10  # read rather than skipped: they take about as long as one more call

Read = Callable[[memoryview, int], None]  # fills bytes from an offset of the file


class Strided(NamedTuple):
    """`shape` elements of `itemsize` bytes from byte `begin` of a file on, `strides` bytes apart, none negative."""

    begin: int
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last; 0 without elements."""
        return _span(self.shape, self.strides, self.itemsize)

    @property
    def is_contiguous(self) -> bool:
        """Whether C order is the order of the file."""
        step = self.itemsize
        for dim, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if dim > 1 and stride != step:
                return False
            step *= dim
        return True

    def gather(self, read: Read, out: memoryview, start: int) -> None:
        """Fill `out` with the bytes from byte `start` of the elements in C order on."""
        first, skip = divmod(start, self.itemsize)
        count = -(-(skip + len(out)) // self.itemsize)
        data = np.empty(count, f"V{self.itemsize}")
        done = 0
        for corner, shape in boxes(self.shape, first, first + count):
            size = math.prod(shape)
            begin = self.begin + sum(map(operator.mul, corner, self.strides))
            _copy(read, begin, data[done : done + size].reshape(shape), self.strides)
            done += size
        out[:] = data.view(np.uint8).data[skip : skip + len(out)]


def _span(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    if 0 in shape:
        return 0
    return itemsize + sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))


def boxes(shape: Sequence[int], first: int, last: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(corner, shape) of the boxes that elements `first` to `last` in C order consist of, in that order."""
    if first >= last:
        return
    if len(shape) < 2:
        yield ((first,), (last - first,)) if shape else ((), ())
        return
    inner = math.prod(shape[1:])
    (row, skip), (end, rest) = divmod(first, inner), divmod(last, inner)
    if row == end:
        yield from _boxes_of_row(shape, row, skip, rest)
        return
    if skip:
        yield from _boxes_of_row(shape, row, skip, inner)
        row += 1
    if row < end:
        yield (row, *(0 for _ in shape[1:])), (end - row, *shape[1:])
    yield from _boxes_of_row(shape, end, 0, rest)


def _boxes_of_row(
    shape: Sequence[int], row: int, first: int, last: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for corner, size in boxes(shape[1:], first, last):
        yield (row, *corner), (1, *size)


def _copy(read: Read, begin: int, out: NDArray[Any], strides: tuple[int, ...]) -> None:
    """Fill `out`. Its widest axis is halved until what has to be read at once is small, and mostly wanted."""
    span = _span(out.shape, strides, out.itemsize)
    widest = max((axis for axis, dim in enumerate(out.shape) if dim > 1), key=lambda axis: strides[axis], default=None)
    if widest is None or (span <= READ_BYTES and _gap(out, strides, widest) <= GAP_BYTES):
        data = bytearray(span)
        read(memoryview(data), begin)
        out[...] = np.ndarray(out.shape, out.dtype, data, 0, strides)
        return
    half = out.shape[widest] // 2
    before = (slice(None),) * widest
    low, high = (*before, slice(None, half)), (*before, slice(half, None))
    _copy(read, begin, out[low], strides)
    _copy(read, begin + half * strides[widest], out[high], strides)


def _gap(out: NDArray[Any], strides: tuple[int, ...], axis: int) -> int:
    """Bytes between two neighbours of the widest axis that nobody wants."""
    inner = [1 if k == axis else dim for k, dim in enumerate(out.shape)]
    return strides[axis] - _span(inner, strides, out.itemsize)
