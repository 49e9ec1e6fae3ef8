"""Weights that have been on a uniform grid: w is what its dtype makes of multiple * scale, rounded to float32 first.

Positive floats are ordered as their bits are; the scales that give a weight are a range of such bits.
"""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite
from .quantization import groups

MULTIPLES = 255  # between the least and the greatest

Range = tuple[int, int]  # the first and the last


def fit_grids(w: Array, group_size: int, scales: Array, low: Array, high: Array, codes: Array) -> bool:
    """Find scales, low and high, (rows, groups), the latter int32, and codes, (rows, cols) uint8, multiples less low.

    The largest scale that divides all weights of a group, of those that give the same multiples the one with the fewest
    digits. It is negative where 0 is -0, or no 0 is there and the multiples then reach -2**n and not 2**n.
    low <= 0 <= high, at most 255 apart; high < low: there is no scale.
    """
    if all_finite(w):
        with np.errstate(all="ignore"):
            for g, columns, x in groups(w, group_size):
                for r, row in enumerate(x):
                    scales[r, g], low[r, g], high[r, g], steps = grid_of(row, w.dtype)
                    codes[r, columns] = steps - low[r, g] if high[r, g] >= low[r, g] else 0
    return all_finite(w)


def grid_of(x: Array, dtype: np.dtype[np.generic]) -> tuple[np.float32, int, int, Array]:
    """Find the scale, the least and the greatest multiple, and the multiples."""
    none = np.float32(0), 0, -1, np.zeros(len(x), np.int32)
    sizes, which = np.unique(np.abs(x), return_inverse=True)
    minus = np.signbit(x)
    minus_zero, plus_zero = (minus & (x == 0)).any(), (~minus & (x == 0)).any()
    at_zero = int(sizes[0] == 0)
    sizes = sizes[at_zero:]
    both = minus_zero and plus_zero
    if not len(sizes):  # -1 * 0 is -0
        return np.float32(-0.0 if minus_zero and not both else 0.0), -int(both), 0, -(minus & both).astype(np.int32)
    if len(sizes) > MULTIPLES or both:
        return none
    values = [ends(size, dtype) for size in sizes]
    scale = next(filter(None, (scale_for(values, of_largest) for of_largest in range(1, MULTIPLES + 1))), None)
    if scale is None:
        return none
    of_size = [multiple(lo, scale) for lo, _ in values]
    steps = np.where(minus, -1, 1) * np.array([0] * at_zero + of_size)[which]
    scale = roundest([scales_of(value, c) for value, c in zip(values, of_size, strict=True)])
    most = max(0, steps.max())
    turns = not plus_zero and most > 1 and most & (most - 1) == 0 and -steps.min() < most
    if minus_zero or turns:
        scale, steps = -scale, -steps
    low, high = min(0, int(steps.min())), max(0, int(steps.max()))
    return (np.float32(scale), low, high, steps) if high - low <= MULTIPLES else none


def ends(size: np.float32, dtype: np.dtype[np.generic]) -> tuple[np.float32, np.float32]:
    """Return the least and the greatest float32 that the dtype rounds to this magnitude; ties to the even neighbour."""
    if dtype == np.float32:
        return size, size
    if dtype == np.float16 and size < 2.0**-13:  # all of them 2**-24 apart
        odd = int(size * 2.0**24) & 1
        return number(bits(np.float32(size - 2.0**-25)) + odd), number(bits(np.float32(size + 2.0**-25)) - odd)
    dropped = 13 if dtype == np.float16 else 16
    half, odd = 1 << (dropped - 1), bits(size) >> dropped & 1
    return number(bits(size) - half + odd), number(bits(size) + half - odd)


def scale_for(values: list[tuple[np.float32, np.float32]], of_largest: int) -> np.float32 | None:
    """Find the largest scale of which the largest value is this multiple, and all others are some."""
    found = [scales_of(values[-1], of_largest)]
    for value in values:
        both = []
        for first, last in found:
            if first > last:
                continue
            least, most = int(value[0] / number(last)) - 1, int(value[1] / number(first)) + 1
            for c in range(max(1, least), min(of_largest, most) + 1):
                begin, end = scales_of(value, c)
                both.append((max(begin, first), min(end, last)))
        found = joined(both)
        if not found:
            return None
    return number(found[-1][1])


def scales_of(value: tuple[np.float32, np.float32], c: int) -> Range:
    """Return the bits of the positive scales of which this multiple is the value."""
    times = np.float32(c)
    first, last = max(1, bits(value[0] / times)), max(1, bits(value[1] / times))
    while times * number(first) < value[0]:
        first += 1
    while first > 1 and times * number(first - 1) >= value[0]:
        first -= 1
    while last > 0 and times * number(last) > value[1]:
        last -= 1
    while times * number(last + 1) <= value[1]:
        last += 1
    return first, last


def joined(ranges: list[Range]) -> list[Range]:
    """Join ranges: in order, without overlaps and without empty ones."""
    found: list[Range] = []
    for first, last in sorted(r for r in ranges if r[0] <= r[1]):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def roundest(ranges: list[Range]) -> np.float32:
    """Find the scale in all of them whose bits end in the most zeros."""
    first, last = max(begin for begin, _ in ranges), min(end for _, end in ranges)
    return number(next(b for b in (last >> zeros << zeros for zeros in range(31, -1, -1)) if b >= first))


def multiple(least: np.float32, scale: np.float32) -> int:
    """Find the first multiple that reaches this number."""
    c = max(1, int(least / scale) - 1)
    while np.float32(c) * scale < least:
        c += 1
    return c


def bits(x: np.float32) -> int:
    return int(x.view(np.uint32))


def number(b: int) -> np.float32:
    return np.uint32(b).view(np.float32)
