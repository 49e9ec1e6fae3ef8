"""The CRC-32 of bytes that come in any order, piece by piece."""

from __future__ import annotations

import threading
import zlib
from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
_MOST = 100_000  # gaps between pieces: who reads so wildly is not checked


class Pieces:
    """The CRC-32 of `size` bytes, of which each comes once. Threads may add at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._by_begin: dict[int, tuple[int, int]] = {}  # first byte -> end, CRC-32
        self._by_end: dict[int, int] = {}  # end -> first byte
        self._lock = threading.Lock()

    @property
    def value(self) -> int | None:
        """None where there are bytes that did not come yet, or came twice."""
        if not self._size:
            return 0
        end, crc = self._by_begin.get(0, (0, 0))
        return crc if end == self._size and len(self._by_begin) == 1 else None

    def add(self, data: memoryview, begin: int) -> None:
        if not data:
            return
        end, crc = begin + len(data), zlib.crc32(data)
        with self._lock:
            if begin in self._by_end:
                before = self._by_end.pop(begin)
                _, first = self._by_begin.pop(before)
                begin, crc = before, combined(first, crc, end - begin)
            if end in self._by_begin:
                after, last = self._by_begin.pop(end)
                crc, end = combined(crc, last, after - end), after
            if len(self._by_begin) < _MOST:
                self._by_begin[begin] = end, crc
                self._by_end[end] = begin


def combined(first: int, second: int, count: int) -> int:
    """Return the CRC-32 of what two pieces are together, from that of each; the second has `count` bytes.

    As zlib does it (Adler, crc32_combine): the first is multiplied with x^(8 count), modulo the polynomial.
    """
    return _times(_power(count), first) ^ second


@lru_cache(maxsize=64)
def _power(count: int) -> int:
    """Return x^(8 count)."""
    result, square = 1 << 31, 1 << 23  # 1, x^8: bits are reversed
    while count:
        if count & 1:
            result = _times(square, result)
        square = _times(square, square)
        count >>= 1
    return result


def _times(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
