"""Counts of activations in equal bins, a batch at a time, and their entropy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .float_environment import default_floats
from .reference.lanes import sum_last_axis

MAX_BINS = 1 << 16
_TINY = 2.0**-100  # ranges below it are lifted, so that bins / range is finite
_LOG_TERMS = 12  # of the series of log2 below: the thirteenth is under 2**-60
_ROOT_HALF, _TWO_OVER_LN2 = 0.7071067811865476, 2.8853900817779268


class ActivationHistogram:
    """Count each unit's activations in `bins` equal bins of low..high, batch by batch.

    low, high: one number for all units, or one per unit, (units,); finite, low <= high. What is beyond is counted in
    the first or the last bin; where low == high, all of it in the first. bins: 1..65536.
    `counts`: (units, bins) int64. Value x is in bin trunc((x - low) * (bins / (high - low))), in float32.

    >>> h = ActivationHistogram(0.0, 1.0, units=2, bins=4)
    >>> h.update([[0.1, 0.9], [0.2, 0.1]])
    >>> h.counts.tolist()
    [[2, 0, 0, 0], [1, 0, 0, 1]]
    >>> h.entropy()
    array([0., 1.], dtype=float32)
    """

    @default_floats
    def __init__(self, low: ArrayLike, high: ArrayLike, *, units: int, bins: int = 64) -> None:
        self.units = checks.integer("units", units, 0, 2**40)
        self.bins = checks.integer("bins", bins, 1, MAX_BINS)
        first, last = (_bound(name, a, self.units) for name, a in (("low", low), ("high", high)))
        if (first > last).any():
            at = int((first > last).argmax())
            raise ValueError(f"low must not be above high, not {first[at]} above {last[at]} for unit {at}")
        width = last.astype(np.float64) - first
        halved = (width > np.finfo(np.float32).max) | (width == 0)  # so that x - low cannot overflow
        lift = np.where(halved, 0.5, np.where(width < _TINY, 1 / _TINY, 1.0))
        scale = np.where(width > 0, self.bins / np.where(width > 0, width * lift, 1.0), 0.0)
        self._grid = tuple(a.astype(np.float32) for a in (lift, first * lift, scale))
        self.counts = np.zeros((self.units, self.bins), np.int64)

    def update(self, activations: ArrayLike) -> None:
        """Count a batch: (n, units) of floats. NaN or infinity is a ValueError; nothing is counted then."""
        x = _batch("activations", activations, self.units)
        checks.finite("activations", x, backend.active.is_finite(x.ravel()))
        backend.active.histogram(x, *self._grid, self.counts)

    @default_floats
    def entropy(self) -> NDArray[np.float32]:
        """Compute -sum_b p_b log2 p_b of each unit's bins, in bits: (units,) float32, 0 where nothing was counted."""
        n = self.counts.sum(axis=1)
        spent = sum_last_axis(self.counts * _log2(self.counts))
        whole = np.maximum(n, 1)
        bits: NDArray[np.float32] = np.maximum(_log2(n) - spent / whole, 0).astype(np.float32)
        return bits


@default_floats
def entropy(
    activations: ArrayLike | Iterable[ArrayLike],
    bins: int = 64,
    *,
    range: tuple[ArrayLike, ArrayLike] | None = None,
) -> NDArray[np.float32]:
    """Compute the Shannon entropy of each unit's activations, in bits (Luo and Wu 2017, "An entropy-based method for
    CNN model compression"): H_i = -sum_b p_ib log2 p_ib, where p_ib is the share of its activations in bin b.

    activations: (n, units) of floats, or batches of them: an iterable of arrays. bins: equal ones, 1..65536.
    range: (low, high), each a number or (units,), for bins that units share; by default each unit's own least and
    greatest activation, for which batches are gone through twice: an iterator then needs a range.
    Returns (units,) float32: 0 for a unit that never changes, at most log2(bins). The same bits on every machine.

    >>> entropy([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], bins=4)
    array([2., 0.], dtype=float32)
    """
    low: Any
    high: Any
    batches = _batches(activations)
    if range is None:
        if isinstance(batches, Iterator):
            raise ValueError("range must be given for an iterator, which can be gone through only once")
        low, high = _ranges(batches)
    elif isinstance(range, (tuple, list)) and len(range) == 2:
        low, high = range
    else:
        raise TypeError(f"range must be (low, high) or None, not {range!r}")
    histogram: ActivationHistogram | None = None
    for batch in batches:
        if histogram is None:
            histogram = ActivationHistogram(low, high, units=_units(batch), bins=bins)
        histogram.update(batch)
    if histogram is None:
        raise ValueError("activations must hold a batch, not none")
    return histogram.entropy()


def _batches(activations: Any) -> Iterable[Any]:
    """Iterate over matrices; anything else is one batch."""
    if _is_array(activations) or not isinstance(activations, Iterable):
        return [activations]
    if isinstance(activations, (list, tuple)) and not any(map(_is_array, activations)):
        return [activations]
    return activations


def _is_array(a: object) -> bool:
    return hasattr(a, "__array__") or hasattr(a, "__dlpack__")


def _units(batch: object) -> int:
    return int(_batch("activations", batch, None).shape[1])


def _batch(name: str, a: object, units: int | None) -> checks.Array:
    x = checks.floats(name, a)
    if x.ndim != 2 or units not in (None, x.shape[1]):
        wanted = "(n, units)" if units is None else f"(n, {units})"
        raise ValueError(f"{name} must have shape {wanted}, not {x.shape}")
    return x


def _ranges(batches: Iterable[Any]) -> tuple[checks.Array, checks.Array]:
    """Find the least and the greatest activation of each unit; 0 for units without any."""
    low = high = None
    for a in batches:
        x = _batch("activations", a, None if low is None else len(low)).astype(np.float32, copy=False)
        checks.finite("activations", x, backend.active.is_finite(x.ravel()))
        if low is None or high is None:
            low, high = np.full(x.shape[1], np.inf, np.float32), np.full(x.shape[1], -np.inf, np.float32)
        if len(x):
            low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
    if low is None or high is None:
        raise ValueError("activations must hold a batch, not none")
    return np.where(low > high, 0, low), np.where(low > high, 0, high)


def _bound(name: str, value: object, units: int) -> checks.Array:
    """Return a finite float32 for each unit."""
    if np.ndim(value) == 0:  # type: ignore[arg-type]
        limit = checks.LARGEST["float32"]
        return np.full(units, checks.number(name, value, -limit, limit), np.float32)
    x = checks.floats(name, value, (units,)).astype(np.float32, copy=False)
    checks.finite(name, x, bool(np.isfinite(x).all()))
    return x


def _log2(counts: checks.Array) -> NDArray[Any]:
    """Compute log2 of integers as float64, 0 for 0, by sums and products: libraries differ between machines.

    x = m 2**e with m near 1, and ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| <= 0.172.
    """
    m, e = np.frexp(np.maximum(counts, 1).astype(np.float64))
    small = m < _ROOT_HALF
    m, e = np.where(small, 2 * m, m), e - small
    s = (m - 1) / (m + 1)
    series = np.zeros_like(s)
    for k in reversed(range(_LOG_TERMS)):
        series = series * (s * s) + 1 / (2 * k + 1)
    log: NDArray[Any] = e + s * series * _TWO_OVER_LN2
    return log
