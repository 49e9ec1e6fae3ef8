"""Thresholds, masks and N:M. Weights keep their dtype; a mask is True where a weight stays.

Thresholds, masks, shrinkage, `count_nonzero` and `is_finite` take float64, too, and compute in it: no compiled kernel
does, so these are what computes it on every instruction set."""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite, real


def threshold(w: Array, t: float, mode: str, out: Array) -> bool:
    x = real(w)
    cut = x.dtype.type(t)
    if mode == "magnitude":
        out[...] = np.where(np.abs(x) < cut, 0, w)
    elif mode == "signed":
        out[...] = np.where(x <= cut, 0, w)
    else:  # soft
        out[...] = np.copysign(np.maximum(np.abs(x) - cut, 0), x).astype(w.dtype)
        out[np.abs(x) <= cut] = 0
    return all_finite(w)


def apply_mask(w: Array, mask: Array, out: Array) -> bool:
    out[...] = np.where(mask, w, 0)
    return all_finite(w)


def shrink(w: Array, l1: float, divisor: float, out: Array) -> bool:
    x = real(w)
    cut, by = x.dtype.type(l1), x.dtype.type(divisor)
    out[...] = np.copysign((np.abs(x) - cut) / by, x).astype(w.dtype)
    out[np.abs(x) <= cut] = 0
    return all_finite(w)


def count_nonzero(w: Array) -> int:
    return int(np.count_nonzero(real(w)))


def is_finite(w: Array) -> bool:
    return all_finite(w)


def lowest_mask(scores: Array, count: int, absolute: bool, mask: Array) -> bool:
    """Clear mask for the `count` lowest of each set of scores, (sets, n), the lower index first among equals."""
    x = scores.astype(np.float32)
    order = np.argsort(np.abs(x) if absolute else x, axis=-1, kind="stable")
    mask[...] = True
    np.put_along_axis(mask, order[:, :count], False, axis=-1)
    return all_finite(scores)


def prune_lowest(w: Array, scores: Array, count: int, absolute: bool, out: Array) -> bool:
    mask = np.empty(w.shape, np.bool_)
    finite = lowest_mask(scores, count, absolute, mask)
    return apply_mask(w, mask, out) and finite


def n_of_m_mask(scores: Array, n: int, m: int, absolute: bool, mask: Array) -> bool:
    """Set mask for the n highest of each group of scores, (groups of m, in a row)."""
    return lowest_mask(scores.reshape(-1, m), m - n, absolute, mask.reshape(-1, m))


def prune_n_of_m(w: Array, scores: Array, n: int, m: int, absolute: bool, out: Array) -> bool:
    mask = np.empty(w.shape, np.bool_)
    finite = n_of_m_mask(scores, n, m, absolute, mask)
    return apply_mask(w, mask, out) and finite
