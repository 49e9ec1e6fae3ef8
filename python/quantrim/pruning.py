"""Weights set to zero: by threshold, by rank, by mask, N of every M, by blocks, rows and columns; and shrunk.

Weights are arrays of float32, float16, bfloat16 or float64 with any strides and keep their dtype; integers become
float32. numpy makes float64 of a list of Python's floats, so that the result of one is float64, too. What remains keeps
its bits. float64 is compared and shrunk as float64, by the reference; its ranks are those of the weights narrowed to
float32, refused where they overflow it. NaN or infinity among weights is a ValueError that says where.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .blocks import Block, block_of, block_sums, norms, spread
from .float_environment import default_floats
from .outputs import output
from .ranking import global_masks, prune_model, removed
from .reference.lanes import sum_last_axis
from .words import THRESHOLD_MODES, ThresholdMode

__all__ = [
    "apply_mask",
    "cubic_sparsity",
    "global_masks",
    "prune",
    "prune_mask",
    "prune_model",
    "shrink",
    "sparsity",
    "threshold",
]

Pattern = str | Block  # "n:m", "row", "column" or the rows and columns of a block


@default_floats
def threshold(
    w: ArrayLike, t: float, *, mode: ThresholdMode = "magnitude", out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Zero the weights at or below a threshold.

    w: any shape. t: finite; not negative for "magnitude" and "soft"; compared in float32, in float64 with float64.
    mode: "magnitude": 0 where |w| < t. "signed": 0 where w <= t. "soft": sign(w) * max(|w| - t, 0) (Donoho 1995).
    out: an array to write to; w itself works in place. Its contents are undefined after a ValueError about w.
    Returns w's dtype and shape.

    >>> threshold(np.float32([0.5, -2.0, 1.0]), 1.0)
    array([ 0., -2.,  1.], dtype=float32)
    >>> threshold([0.5, -2.0, 1.0], 1.0)
    array([ 0., -2.,  1.])
    """
    mode = checks.choice("mode", mode, THRESHOLD_MODES)
    x = checks.weights("w", w)
    most = _most(x)
    t = checks.number("t", t, -most if mode == "signed" else 0.0, most)
    pruned = output(out, x.shape, x.dtype, w=x)
    checks.finite("w", x, backend.kernels_of(x).threshold(x.ravel(), t, mode, pruned.ravel()))
    return pruned


def prune_mask(
    scores: ArrayLike, sparsity: float | None = None, *, axis: int | None = None, pattern: Pattern | None = None
) -> NDArray[np.bool_]:
    """Make the mask that removes the lowest scores: True where a weight stays.

    scores: any shape, signed: a score of -1 is below one of 0. Exactly round(sparsity * n) of each comparison set go,
    lowest first, the lower index first among equals. The set is everything, or each slice along `axis`. float64 is
    narrowed to float32 first.
    pattern: "n:m" keeps the n highest of each m consecutive scores of the last axis instead, 1 <= n < m <= 32
    (Mishra et al. 2021, "Accelerating sparse deep neural networks"); the last axis must be a multiple of m.
    pattern: (rows, cols) removes whole blocks, "row" whole rows of the last axis (units), "column" whole columns
    (inputs): exactly round(sparsity * blocks), those with the lowest sums of scores (Wen et al. 2016, "Learning
    structured sparsity in deep neural networks"). The last two axes must be multiples of a block.

    >>> prune_mask([3.0, 1.0, 2.0, 1.0], 0.5).tolist()
    [True, False, True, False]
    >>> prune_mask([3.0, 1.0, 2.0, 1.0], pattern="1:4").tolist()
    [True, False, False, False]
    >>> prune_mask([[3.0, 1.0], [2.0, 1.0]], 0.5, pattern="column").tolist()
    [[True, False], [True, False]]
    """
    return _mask("scores", checks.floats("scores", scores), sparsity, axis, pattern, absolute=False)


def prune(
    w: ArrayLike,
    sparsity: float | None = None,
    *,
    scores: ArrayLike | None = None,
    axis: int | None = None,
    pattern: Pattern | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Zero the weights with the lowest scores; without scores, those of the smallest magnitude.

    w: any shape. sparsity, axis, pattern: as in `prune_mask`. scores: like w in shape; without them |w|, of float64
    narrowed to float32. Returns w's dtype and shape; out may be w itself. At random:
    scores=importance.random(w.shape, seed).

    >>> prune(np.float32([0.5, -2.0, 1.0, 0.25]), 0.5)
    array([ 0., -2.,  1.,  0.], dtype=float32)
    >>> prune([0.5, -2.0, 1.0, 0.25], pattern="1:2")
    array([ 0., -2.,  1.,  0.])
    >>> prune([[0.5, -2.0], [1.0, 0.25]], 0.5, pattern="row")
    array([[ 0.5, -2. ],
           [ 0. ,  0. ]])
    """
    x = checks.weights("w", w)
    absolute = scores is None
    double = x.dtype == checks.FLOAT64
    s = x
    if scores is not None:
        s = checks.floats("scores", scores, x.shape)
    elif double:
        s = checks.floats("w", x)
    if double or _is_of_blocks(pattern):
        mask = _mask("w" if absolute else "scores", s, sparsity, axis, pattern, absolute=absolute)
        return apply_mask(x, mask, out=out)
    nm, fraction = _wish(sparsity, pattern, axis, x.shape)
    pruned = output(out, x.shape, x.dtype, w=x, scores=s)
    run = backend.active
    if nm:
        finite = run.prune_n_of_m(x.ravel(), s.ravel(), *nm, absolute, pruned.ravel())
    else:
        sets, k = _comparison_sets(x, axis)
        by = sets if absolute else _comparison_sets(s, axis)[0]
        into = pruned.reshape(sets.shape) if k is None else np.empty(sets.shape, x.dtype)
        finite = run.prune_lowest(sets, by, removed(fraction, sets.shape[1]), absolute, into)
        if k is not None:
            pruned[...] = _original_shape(into, x.shape, k)
    if not finite:
        checks.finite("w", x, False)
        checks.finite("scores", s, False)
    return pruned


def apply_mask(w: ArrayLike, mask: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Zero the weights where a mask is False.

    w: any shape. mask: bool, of that shape. Returns w's dtype and shape; out may be w itself.

    >>> apply_mask([1.0, 2.0], [True, False])
    array([1., 0.])
    """
    x = checks.weights("w", w)
    keep = checks.array("mask", mask)
    if keep.dtype != np.bool_:
        raise TypeError(f"mask must be bool, not {keep.dtype}")
    if keep.shape != x.shape:
        raise ValueError(f"mask must have the shape of w, {x.shape}, not {keep.shape}")
    keep = np.ascontiguousarray(keep)
    pruned = output(out, x.shape, x.dtype, w=x, mask=keep)
    checks.finite("w", x, backend.kernels_of(x).apply_mask(x.ravel(), keep.ravel(), pruned.ravel()))
    return pruned


def sparsity(w: ArrayLike) -> float:
    """Return the fraction of weights that are exactly zero; 0.0 for an empty array.

    >>> sparsity([0.0, 1.0, -0.0, 2.0])
    0.5
    """
    x = checks.weights("w", w)
    return (x.size - backend.kernels_of(x).count_nonzero(x.ravel())) / x.size if x.size else 0.0


@default_floats
def shrink(
    w: ArrayLike, *, l1: float = 0.0, l2: float = 0.0, axis: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Take the proximal step of a penalty on weights, after a step of the gradient: small ones become exactly zero.

    Without axis, of l1 * sum |w| + l2 / 2 * sum w**2, the elastic net (Zou and Hastie 2005):
    sign(w) * max(|w| - l1, 0) / (1 + l2). With axis, of l1 * sum ||slice|| + l2 / 2 * sum w**2, the group lasso (Yuan
    and Lin 2006), over slices along it (1: rows of a matrix, 0: columns): w * max(0, 1 - l1 / ||slice||) / (1 + l2).
    w: any shape. l1, l2: not negative, times the step's size. Computed in float32, of float64 in float64.
    Returns w's dtype and shape; out may be w itself.

    >>> shrink([3.0, -1.0, 0.5], l1=1.0, l2=1.0)
    array([1., 0., 0.])
    >>> shrink([[3.0, 4.0], [0.3, 0.4]], l1=1.0, axis=1)
    array([[2.4, 3.2],
           [0. , 0. ]])
    """
    x = checks.weights("w", w)
    l1, l2 = (checks.number(name, value, 0.0, _most(x)) for name, value in (("l1", l1), ("l2", l2)))
    run = backend.kernels_of(x)
    if axis is None:
        shrunk = output(out, x.shape, x.dtype, w=x)
        checks.finite("w", x, run.shrink(x.ravel(), l1, 1 + l2, shrunk.ravel()))
        return shrunk
    k = checks.axis(axis, x.ndim)
    shrunk = output(out, x.shape, x.dtype, w=x)
    lengths = _norms_of_doubles(x, k) if x.dtype == checks.FLOAT64 else norms("w", x, k, None)
    factor = _group_factors(lengths, l1, l2)
    if k == x.ndim - 1:
        run.multiply(checks.rows(x), factor.ravel(), True, checks.rows(shrunk))
        return shrunk
    shape = math.prod(x.shape[:k]), x.shape[k], math.prod(x.shape[k + 1 :])
    for a, f, b in zip(x.reshape(shape), factor.reshape(shape[::2]), shrunk.reshape(shape), strict=True):
        run.multiply(a, f, False, b)
    return shrunk


def cubic_sparsity(step: int, begin: int, end: int, final: float, initial: float = 0.0) -> float:
    """Compute the sparsity to prune to at a step of training, rising fast at first, then ever slower (Zhu and Gupta
    2017, "To prune, or not to prune"): final + (initial - final) * (1 - (step - begin) / (end - begin))**3.

    step, begin, end: integers, 0 <= begin < end; before `begin` it is `initial`, from `end` on `final`. Both 0..1.

    >>> [round(cubic_sparsity(step, 0, 100, 0.8), 3) for step in (0, 25, 50, 100, 200)]
    [0.0, 0.463, 0.7, 0.8, 0.8]
    """
    step, begin = checks.integer("step", step, 0, 2**62), checks.integer("begin", begin, 0, 2**62)
    end = checks.integer("end", end, begin + 1, 2**62)
    final, initial = checks.number("final", final, 0.0, 1.0), checks.number("initial", initial, 0.0, 1.0)
    if not begin < step < end:  # exactly what was asked for, whatever the rounding of the formula
        return initial if step <= begin else final
    return final + (initial - final) * ((end - step) / (end - begin)) ** 3


def _most(x: checks.Array) -> float:
    """Return the largest number of the dtype in which x is computed."""
    return checks.LARGEST["float64" if x.dtype == checks.FLOAT64 else "float32"]


def _mask(
    name: str, s: checks.Array, sparsity: float | None, axis: int | None, pattern: Pattern | None, *, absolute: bool
) -> NDArray[np.bool_]:
    """Make the mask that removes the lowest of s, or of |s|."""
    block = _block(name, pattern, sparsity, axis, s.shape)
    if block:
        return _block_mask(name, s, block, sparsity, int(absolute))
    nm, fraction = _wish(sparsity, pattern, axis, s.shape)
    if nm:
        mask = np.empty(s.shape, np.bool_)
        checks.finite(name, s, backend.active.n_of_m_mask(s.ravel(), *nm, absolute, mask.ravel()))
        return mask
    sets, k = _comparison_sets(s, axis)
    mask = np.empty(sets.shape, np.bool_)
    checks.finite(name, s, backend.active.lowest_mask(sets, removed(fraction, sets.shape[1]), absolute, mask))
    return _original_shape(mask, s.shape, k)


def _wish(
    sparsity: object, pattern: object, axis: object, shape: tuple[int, ...]
) -> tuple[tuple[int, int] | None, float]:
    """Return (n, m) of the pattern or None, and the sparsity."""
    nm = checks.n_of_m(pattern) if isinstance(pattern, str) else None
    if pattern is not None and nm is None:
        wanted = f'(rows, cols), "row", "column" or "n:m" with 1 <= n < m <= {checks.MAX_M}'
        raise ValueError(f"pattern must be {wanted}, not {pattern!r}{checks.nearest(pattern, ('row', 'column'))}")
    if (sparsity is None) == (nm is None):
        raise ValueError(f"give either sparsity or pattern, not sparsity={sparsity!r} and pattern={pattern!r}")
    if nm is None:
        return None, checks.number("sparsity", sparsity, 0.0, 1.0)
    if axis is not None:
        raise ValueError(f"axis must be None with a pattern, which runs along the last axis, not {axis!r}")
    if shape[-1] % nm[1]:
        raise ValueError(f"the last axis must be a multiple of {nm[1]} for pattern {pattern!r}, not {shape[-1]}")
    return nm, 0.0


def _is_of_blocks(pattern: object) -> bool:
    return isinstance(pattern, tuple) or (isinstance(pattern, str) and pattern in ("row", "column"))


def _block(name: str, pattern: object, sparsity: object, axis: object, shape: tuple[int, ...]) -> Block | None:
    """Return the block of a pattern of blocks, rows or columns; None for others."""
    if not _is_of_blocks(pattern):
        return None
    if axis is not None:
        raise ValueError(f"axis must be None with a pattern, not {axis!r}")
    if sparsity is None:
        raise ValueError(f"sparsity must be given with pattern {pattern!r}")
    if isinstance(pattern, tuple):
        return block_of(name, pattern, shape, "pattern")
    cols = shape[-1]
    rows = math.prod(shape[:-1])
    return (1, max(cols, 1)) if pattern == "row" else (max(rows, 1), 1)


def _block_mask(name: str, scores: checks.Array, block: Block, sparsity: object, power: int) -> NDArray[np.bool_]:
    fraction = checks.number("sparsity", sparsity, 0.0, 1.0)
    sums = block_sums(name, checks.rows(scores), block, power)
    keep = np.empty((1, sums.size), np.bool_)
    if not backend.active.lowest_mask(sums.reshape(1, -1), removed(fraction, sums.size), False, keep):
        raise ValueError(f"sums of {name} over blocks overflow float32")
    return spread(keep.reshape(sums.shape), block, scores.shape)


def _norms_of_doubles(x: checks.Array, k: int) -> checks.Array:
    """Compute norms of float64 along axis k, whose squares may be beyond float64: a power of two is taken out."""
    checks.finite("w", x, backend.kernels_of(x).is_finite(x.ravel()))
    exponent = np.frexp(np.abs(x).max(axis=k, keepdims=True, initial=0))[1]
    scaled = np.moveaxis(np.ldexp(x, -exponent), k, -1)
    with np.errstate(over="ignore"):
        lengths: checks.Array = np.ldexp(np.sqrt(sum_last_axis(scaled * scaled)), exponent.squeeze(k))
    return lengths


def _group_factors(norms: checks.Array, l1: float, l2: float) -> checks.Array:
    """Compute max(0, 1 - l1 / norm) / (1 + l2), and 0 for a norm of 0, in the dtype of the norms."""
    real = norms.dtype.type
    above = norms > real(l1)
    kept = np.where(above, 1 - real(l1) / np.where(above, norms, 1), real(0))
    factors: checks.Array = kept.astype(norms.dtype) / real(1 + l2)
    return factors


def _comparison_sets(x: checks.Array, axis: int | None) -> tuple[checks.Array, int | None]:
    """View x as (sets, n), with the axis that had to be moved last, if any."""
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
