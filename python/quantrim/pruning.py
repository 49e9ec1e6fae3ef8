"""Weights set to zero: by threshold, by rank, by mask, N of every M.

Weights are arrays of float32, float16, bfloat16 or float64 with any strides, and keep their dtype (float64 becomes
float32); NaN or infinity among them is a ValueError that says where.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .float_environment import default_floats
from .outputs import output

__all__ = ["apply_mask", "prune", "prune_mask", "sparsity", "threshold"]

MODES = ("magnitude", "signed", "soft")
MAX_M = 32


@default_floats
def threshold(w: object, t: float, *, mode: str = "magnitude", out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Zero the weights at or below a threshold.

    w: any shape. t: finite; not negative for "magnitude" and "soft". Compared in float32. Returns w's dtype and shape.
    mode: "magnitude": 0 where |w| < t. "signed": 0 where w <= t. "soft": sign(w) * max(|w| - t, 0) (Donoho 1995).
    out: an array to write to; w itself works in place. Its contents are undefined after a ValueError about w.

    >>> threshold([0.5, -2.0, 1.0], 1.0)
    array([ 0., -2.,  1.], dtype=float32)
    """
    mode = checks.choice("mode", mode, MODES)
    t = checks.number("t", t, -_FLOAT32_MAX if mode == "signed" else 0.0, _FLOAT32_MAX)
    x = checks.floats("w", w)
    pruned = output(out, x.shape, x.dtype, w=x)
    checks.finite("w", x, backend.active.threshold(x.reshape(-1), t, mode, pruned.reshape(-1)))
    return pruned


@default_floats
def prune_mask(
    scores: object, sparsity: float | None = None, *, axis: int | None = None, pattern: str | None = None
) -> NDArray[np.bool_]:
    """The mask that removes the lowest scores: True where a weight stays.

    scores: any shape, signed: a score of -1 is below one of 0. Exactly round(sparsity * n) of each comparison set go,
    lowest first, the lower index first among equals. The set is everything, or each slice along `axis`.
    pattern: "n:m" keeps the n highest of each m consecutive scores of the last axis instead, 1 <= n < m <= 32
    (Mishra et al. 2021, "Accelerating sparse deep neural networks"); the last axis must be a multiple of m.

    >>> prune_mask([3.0, 1.0, 2.0, 1.0], 0.5).tolist()
    [True, False, True, False]
    >>> prune_mask([3.0, 1.0, 2.0, 1.0], pattern="1:4").tolist()
    [True, False, False, False]
    """
    s = checks.floats("scores", scores)
    nm, sparsity = _wish(sparsity, pattern, axis, s.shape)
    if nm:
        mask = np.empty(s.shape, np.bool_)
        checks.finite("scores", s, backend.active.n_of_m_mask(s.reshape(-1), *nm, False, mask.reshape(-1)))
        return mask
    sets, k = _comparison_sets(s, axis)
    mask = np.empty(sets.shape, np.bool_)
    count = _removed(sparsity, sets.shape[1])
    checks.finite("scores", s, backend.active.lowest_mask(sets, count, False, mask))
    return _original_shape(mask, s.shape, k)


@default_floats
def prune(
    w: object,
    sparsity: float | None = None,
    *,
    scores: object = None,
    axis: int | None = None,
    pattern: str | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Zero the weights with the lowest scores; without scores, those of the smallest magnitude.

    w: any shape. sparsity, axis, pattern: as in `prune_mask`. scores: like w in shape.
    Returns w's dtype and shape; out may be w itself.

    >>> prune([0.5, -2.0, 1.0, 0.25], 0.5)
    array([ 0., -2.,  1.,  0.], dtype=float32)
    >>> prune([0.5, -2.0, 1.0, 0.25], pattern="1:2")
    array([ 0., -2.,  1.,  0.], dtype=float32)
    """
    x = checks.floats("w", w)
    s = x if scores is None else checks.floats("scores", scores, x.shape)
    nm, sparsity = _wish(sparsity, pattern, axis, x.shape)
    pruned = output(out, x.shape, x.dtype, w=x, scores=s)
    absolute = scores is None
    run = backend.active
    if nm:
        finite = run.prune_n_of_m(x.reshape(-1), s.reshape(-1), *nm, absolute, pruned.reshape(-1))
    else:
        sets, k = _comparison_sets(x, axis)
        by = sets if absolute else _comparison_sets(s, axis)[0]
        into = pruned.reshape(sets.shape) if k is None else np.empty(sets.shape, x.dtype)
        finite = run.prune_lowest(sets, by, _removed(sparsity, sets.shape[1]), absolute, into)
        if k is not None:
            pruned[...] = _original_shape(into, x.shape, k)
    if not finite:
        checks.finite("w", x, False)
        checks.finite("scores", s, False)
    return pruned


@default_floats
def apply_mask(w: object, mask: object, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """w where mask is True, 0 elsewhere.

    w: any shape. mask: bool, of that shape. Returns w's dtype and shape; out may be w itself.

    >>> apply_mask([1.0, 2.0], [True, False])
    array([1., 0.], dtype=float32)
    """
    x = checks.floats("w", w)
    keep = checks.array("mask", mask)
    if keep.dtype != np.bool_:
        raise TypeError(f"mask must be bool, not {keep.dtype}")
    if keep.shape != x.shape:
        raise ValueError(f"mask must have the shape of w, {x.shape}, not {keep.shape}")
    keep = np.ascontiguousarray(keep)
    pruned = output(out, x.shape, x.dtype, w=x, mask=keep)
    checks.finite("w", x, backend.active.apply_mask(x.reshape(-1), keep.reshape(-1), pruned.reshape(-1)))
    return pruned


@default_floats
def sparsity(w: object) -> float:
    """The fraction of weights that are exactly zero; 0.0 for an empty array.

    >>> sparsity([0.0, 1.0, -0.0, 2.0])
    0.5
    """
    x = checks.floats("w", w)
    return (x.size - backend.active.count_nonzero(x.reshape(-1))) / x.size if x.size else 0.0


_FLOAT32_MAX = float(np.finfo(np.float32).max)


def _wish(
    sparsity: object, pattern: object, axis: object, shape: tuple[int, ...]
) -> tuple[tuple[int, int] | None, float]:
    """(n, m) of the pattern or None, and the sparsity."""
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"give either sparsity or pattern, not sparsity={sparsity!r} and pattern={pattern!r}")
    if pattern is None:
        return None, checks.number("sparsity", sparsity, 0.0, 1.0)
    if axis is not None:
        raise ValueError(f"axis must be None with a pattern, which runs along the last axis, not {axis!r}")
    found = re.fullmatch(r"(\d+):(\d+)", pattern) if isinstance(pattern, str) else None
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= n < m <= MAX_M:
        raise ValueError(f'pattern must be "n:m" with 1 <= n < m <= {MAX_M}, not {pattern!r}')
    if shape[-1] % m:
        raise ValueError(f"the last axis must be a multiple of {m} for pattern {pattern!r}, not {shape[-1]}")
    return (n, m), 0.0


def _removed(sparsity: float, n: int) -> int:
    return round(sparsity * n)


def _comparison_sets(x: checks.Array, axis: int | None) -> tuple[checks.Array, int | None]:
    """x as (sets, n), and the axis that had to be moved last, if any."""
    if axis is None:
        return x.reshape(1, -1), None
    k = checks.axis(axis, x.ndim)
    if k == x.ndim - 1:
        return checks.rows(x), None
    return checks.rows(np.ascontiguousarray(np.moveaxis(x, k, -1))), k


def _original_shape(sets: checks.Array, shape: tuple[int, ...], k: int | None) -> checks.Array:
    if k is None:
        return sets.reshape(shape)
    moved = [*shape[:k], *shape[k + 1 :], shape[k]]
    return np.ascontiguousarray(np.moveaxis(sets.reshape(moved), -1, k))
