"""A score per weight, row or column: what pruning keeps is what scores high.

Weights are arrays of float32, float16, bfloat16 or float64 with any strides; NaN or infinity among them is a
ValueError that says where. Scores are float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .float_environment import default_floats
from .outputs import output

__all__ = ["l1", "l2", "magnitude", "random", "share", "taylor", "wanda"]

Scores = NDArray[np.float32]


@default_floats
def magnitude(w: object, *, out: Scores | None = None) -> Scores:
    """|w| of every weight (Han et al. 2015, "Learning both weights and connections").

    w: any shape. Returns float32 of that shape.

    >>> magnitude([[1.0, -2.0]])
    array([[1., 2.]], dtype=float32)
    """
    x = checks.floats("w", w)
    scores = output(out, x.shape, np.float32, w=x)
    checks.finite("w", x, backend.active.magnitude(x.reshape(-1), scores.reshape(-1)))
    return scores


@default_floats
def taylor(w: object, grad: object, *, out: Scores | None = None) -> Scores:
    """|w * grad|: the first-order change of the loss when a weight goes (Molchanov et al. 2017).

    w, grad: the same shape. Returns float32 of that shape; inf where the product exceeds float32.

    >>> taylor([1.0, -2.0], [0.5, 3.0])
    array([0.5, 6. ], dtype=float32)
    """
    x = checks.floats("w", w)
    g = checks.floats("grad", grad, x.shape)
    scores = output(out, x.shape, np.float32, w=x, grad=g)
    if not backend.active.product_magnitude(x.reshape(-1), g.reshape(-1), scores.reshape(-1)):
        checks.finite("w", x, False)
        checks.finite("grad", g, False)
    return scores


@default_floats
def wanda(w: object, input_norm: object, *, out: Scores | None = None) -> Scores:
    """|w_ij| * input_norm_j (Sun et al. 2023, "A simple and effective pruning approach for large language models").

    w: (..., cols). input_norm: (cols,), the L2 norm of each input over the calibration set. Returns float32 like w;
    inf where the product exceeds float32.

    >>> wanda([[1.0, -2.0]], [3.0, 1.0])
    array([[3., 2.]], dtype=float32)
    """
    x = checks.floats("w", w)
    norm = checks.vector("input_norm", input_norm, x.shape[-1])
    scores = output(out, x.shape, np.float32, w=x, input_norm=norm)
    checks.finite("w", x, backend.active.wanda(checks.rows(x), norm, checks.rows(scores)))
    return scores


@default_floats
def l1(w: object, axis: int | None = None, *, out: Scores | None = None) -> Any:
    """Sum of |w| over `axis`, or over everything (Li et al. 2017, "Pruning filters for efficient convnets").

    w: any shape. Returns float32 without that axis; a scalar for axis=None; inf where the sum exceeds float32.
    Sixteen lanes add in order and are folded by halves; axis=None adds the sums of the rows (last axis) the same way.

    >>> l1([[1.0, -2.0], [3.0, 4.0]], axis=1)
    array([3., 7.], dtype=float32)
    """
    return _norm(w, axis, 1, out)


@default_floats
def l2(w: object, axis: int | None = None, *, out: Scores | None = None) -> Any:
    """Square root of the sum of w * w over `axis`, or over everything, summed as in `l1`.

    w: any shape. Returns float32 without that axis; a scalar for axis=None; inf where the sum of squares exceeds
    float32, which is where the result would exceed 1.8e19.

    >>> l2([[3.0, 4.0]], axis=1)
    array([5.], dtype=float32)
    """
    return _norm(w, axis, 2, out)


@default_floats
def share(w: object) -> Scores:
    """Each row's part of the whole: R_i = sum_j |w_ij| / sum_ij |w_ij|.

    w: (rows, ..., cols); axis 0 counts the rows. Returns (rows,) float32 that sum to 1; all zeros for an all-zero w.
    A sum that exceeds float32 is a ValueError.

    >>> share([[1.0, -2.0], [0.0, 1.0]])
    array([0.75, 0.25], dtype=float32)
    """
    x = checks.floats("w", w)
    parts = np.empty(len(x), np.float32)
    _sum("w", x.reshape(len(x), x.size // max(len(x), 1), 1), 1, parts)
    total = _total(parts)
    if np.isinf(total):
        raise ValueError("w must have a sum of magnitudes within float32, not one that overflows it")
    return parts / total if total > 0 else parts


@default_floats
def random(shape: int | tuple[int, ...], seed: int) -> Scores:
    """Uniform scores in [0, 1) from a counter: the same on every machine and number of threads.

    shape: of the result. seed: 0..2**64-1. Number i is SplitMix64 (Steele et al. 2014) at counter i, its top 24 bits.

    >>> random(3, seed=1).shape
    (3,)
    """
    seed = checks.integer("seed", seed, 0, 2**64 - 1)
    sizes = shape if isinstance(shape, tuple) else (shape,)
    scores = np.empty(tuple(checks.integer("shape", n, 0, 2**62) for n in sizes), np.float32)
    backend.active.uniform(seed, 0, scores.reshape(-1))
    return scores


def _norm(w: object, axis: int | None, power: int, out: Scores | None) -> Any:
    x = checks.floats("w", w)
    if axis is None and out is not None:
        raise ValueError("out must be None with axis=None: the result is a scalar")
    k = x.ndim - 1 if axis is None else checks.axis(axis, x.ndim)
    before, n, after = x.shape[:k], x.shape[k], x.shape[k + 1 :]
    scores = output(out, before + after, np.float32, w=x)
    _sum("w", x.reshape(math.prod(before), n, math.prod(after)), power, scores)
    if axis is None:
        scores = _total(scores.reshape(-1))
    return scores if power == 1 else np.sqrt(scores, out=out)


def _sum(name: str, x: checks.Array, power: int, out: Scores) -> None:
    """Sums of |x|**power over the middle axis of x: (before, n, after)."""
    before, n, after = x.shape
    if after == 1:
        finite = backend.active.norm_rows(x.reshape(before, n), power, out.reshape(before))
    else:
        finite = backend.active.norm_columns(x, power, out.reshape(before, after))
    checks.finite(name, x, finite)


def _total(parts: Scores) -> Any:
    """Sum of values that are not negative, as the float32 scalar that a row of them gives."""
    total = np.empty(1, np.float32)
    backend.active.norm_rows(parts[None], 1, total)
    return total[0]
