"""Which weights a tensor loses that is too large to be looked at whole: the same as `prune` takes from it,
exactly.

Magnitudes order like the bits of a float without its sign. A sample says between which two the cut falls; one
pass counts what is below, and keeps what is between. Where the sample misled, two histograms of 16 bits each
find the cut all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from .. import backend
from ..checks import Array

SAMPLE = 1 << 19  # weights looked at for a first guess
SAMPLE_CHUNKS = 16  # in which they are
KEPT = 1 << 23  # weights between the two guesses that are kept, 32 MB

T = TypeVar("T")


class EachChunk(Protocol):
    """What gives f of every `step`-th chunk, in order."""

    def __call__(self, f: Callable[[Array], T], step: int = 1) -> Iterable[T]: ...


@dataclass(frozen=True)
class Cut:
    """Weights with a key below `key` go, and of those with this key the first `ties[i]` of chunk i (none
    without ties)."""

    key: int
    ties: Sequence[int] = ()


def keys(x: Array) -> Array:
    """Unsigned integers that order as |x| does: the bits without the sign. x: float32, float16 or
    bfloat16."""
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    magnitude: Array = x.view(unsigned) & unsigned.type(2 ** (8 * unsigned.itemsize - 1) - 1)
    return magnitude


def find_cut(count: int, total: int, bits: int, chunks: int, each_chunk: EachChunk) -> Cut:
    """The cut that takes the `count` smallest of `total` magnitudes, the first among equals, with keys of 16
    or 32 bits."""
    if count in (0, total):
        return Cut(2 ** (bits - 1) - 1 if count else 0)
    key, left, equal = _between_guesses(count, total, chunks, each_chunk) or _by_histogram(count, bits, each_chunk)
    if left in (0, equal):  # no tie is cut
        return Cut(key + (left > 0))
    ties = []
    for at in each_chunk(lambda x: int(np.count_nonzero(keys(x) == key))):
        ties.append(min(left, at))
        left -= ties[-1]
    return Cut(key, ties)


def apply_cut(x: Array, cut: Cut, chunk: int, out: Array) -> bool:
    """Write chunk number `chunk` to `out` with the weights before the cut set to 0; whether x is finite."""
    limit = np.array([cut.key], f"u{x.dtype.itemsize}").view(x.dtype).astype(np.float32)[0]
    if not math.isfinite(limit):  # everything goes
        out[...] = 0
        return bool(backend.active.is_finite(x.ravel()))
    finite = bool(backend.active.threshold(x.ravel(), float(limit), "magnitude", out.ravel()))
    if cut.ties and cut.ties[chunk]:
        out.ravel()[np.flatnonzero(keys(x) == cut.key)[: cut.ties[chunk]]] = 0
    return finite


_Found = tuple[int, int, int]  # the key at the cut, how many of it to take, how many there are


def _between_guesses(count: int, total: int, chunks: int, each_chunk: EachChunk) -> _Found | None:
    """The cut by a sample and one pass; None where the sample was not like the rest."""
    low, high = _guesses(count / total, chunks, each_chunk)
    left, at_low, at_high, kept = count, 0, 0, 0
    between: list[Array] = []
    for below, equal_low, equal_high, inside in each_chunk(lambda x: _around(x, low, high)):
        left, at_low, at_high, kept = (
            left - below,
            at_low + equal_low,
            at_high + equal_high,
            kept + inside.size,
        )
        between.append(inside)
        if kept > KEPT or left < 0:
            return None
    if left <= at_low:
        return low, left, at_low
    left -= at_low
    if left > kept:
        return (high, left - kept, at_high) if left <= kept + at_high else None
    ordered = np.sort(np.concatenate(between))
    key = ordered[left - 1]
    first, end = int(np.searchsorted(ordered, key, "left")), int(np.searchsorted(ordered, key, "right"))
    return int(key), left - first, end - first


def _guesses(share: float, chunks: int, each_chunk: EachChunk) -> tuple[int, int]:
    """Two keys, one surely below the cut and one surely above it if the rest is like the sample."""
    step = max(1, chunks // SAMPLE_CHUNKS)
    each = SAMPLE // -(-chunks // step)
    sample = np.concatenate(list(each_chunk(lambda x: keys(x).ravel()[:: max(1, x.size // each)].copy(), step)))
    sample.sort()
    margin = 1 + 8 * math.sqrt(sample.size * share * (1 - share))  # eight standard deviations: rows differ
    low, high = share * sample.size - margin, share * sample.size + margin
    return int(sample[max(0, int(low))]), int(sample[min(sample.size - 1, math.ceil(high))])


def _around(x: Array, low: int, high: int) -> tuple[int, int, int, Array]:
    """How many keys are below low, are low, are high (0 where that is low), and those between."""
    k = keys(x).ravel()
    kind = k.dtype.type
    inside = k[k - kind(low) <= kind(high - low)]  # unsigned: what is below low becomes large
    at_low = int(np.count_nonzero(inside == low))
    at_high = int(np.count_nonzero(inside == high)) if high > low else 0
    if at_low + at_high:
        inside = inside[(inside != low) & (inside != high)]
    return int(np.count_nonzero(k < low)), at_low, at_high, inside


def _by_histogram(count: int, bits: int, each_chunk: EachChunk) -> _Found:
    """The cut by two passes that need no luck: the upper 16 bits, then the lower ones; one for keys of 16
    bits."""
    shift = bits - 16
    key, left, equal = _bin_of(count, each_chunk(lambda x: _histogram(keys(x) >> shift)))
    if not shift:
        return key, left, equal
    upper = key
    lower, left, equal = _bin_of(left, each_chunk(lambda x: _histogram(_lower(x, upper))))
    return (upper << 16) | lower, left, equal


def _lower(x: Array, upper: int) -> Array:
    k = keys(x).ravel()
    lower: Array = k[k >> 16 == upper] & 0xFFFF
    return lower


def _histogram(x: Array) -> Array:
    return np.bincount(x.ravel().astype(np.intp), minlength=1 << 16)


def _bin_of(count: int, histograms: Iterable[Array]) -> _Found:
    """The bin in which the `count`-th smallest (counted from 1) lies, how many to take from it, how many it
    holds."""
    total = sum(histograms, np.zeros(1 << 16, np.intp))
    below = np.cumsum(total)
    at = int(np.searchsorted(below, count))
    return at, count - int(below[at] - total[at]), int(total[at])
