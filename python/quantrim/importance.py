"""Importance: a score per weight, row, column or block. Pruning keeps what scores high.

Weights are arrays of float32, float16, bfloat16 or float64 (narrowed to float32) with any strides; NaN or infinity
among them is a ValueError that says where. Scores are float32, inf where a product or a sum (of squares, for `l2`)
exceeds that.

`axis` and `block` say what one score is for, in every function that has them: axis="each", one weight; axis=None, the
whole array (a float32 scalar); axis=k, a slice along that axis (1: a row of a matrix, the weights of one unit; 0: a
column, those of one input); block=(rows, cols), a block of the last two axes, which must be multiples of it. The score
of many weights is the sum of theirs (for `l2`, the root of the sum of squares). `rank` compares scores of several
arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .blocks import EACH, Axis, Block, Scores, grouped, norms, of_many, reduced, sums, total
from .float_environment import default_floats
from .histograms import ActivationHistogram, entropy
from .outputs import output
from .ranking import rank

__all__ = [
    "ActivationHistogram",
    "entropy",
    "fisher",
    "l1",
    "l2",
    "magnitude",
    "obd",
    "predictive",
    "random",
    "rank",
    "reduce",
    "share",
    "taylor",
    "wanda",
]


def magnitude(w: ArrayLike, *, axis: Axis = EACH, block: Block | None = None, out: Scores | None = None) -> Scores:
    """Score every weight by |w| (Han et al. 2015, "Learning both weights and connections").

    w: any shape. Returns float32 of that shape, or one score per `axis` or `block`.

    >>> magnitude([[1.0, -2.0]])
    array([[1., 2.]], dtype=float32)
    """
    if of_many(axis, block):
        return reduced(magnitude(w), axis, block, out)
    x = checks.floats("w", w)
    scores = output(out, x.shape, np.float32, w=x)
    checks.finite("w", x, backend.active.magnitude(x.ravel(), scores.ravel()))
    return scores


def taylor(
    w: ArrayLike, grad: ArrayLike, *, axis: Axis = EACH, block: Block | None = None, out: Scores | None = None
) -> Scores:
    """Score by |w * grad|, the first-order change of the loss when a weight goes (Molchanov et al. 2017).

    w, grad: the same shape. Returns float32 of that shape, or one score per `axis` or `block`.

    >>> taylor([1.0, -2.0], [0.5, 3.0])
    array([0.5, 6. ], dtype=float32)
    """
    if of_many(axis, block):
        return reduced(taylor(w, grad), axis, block, out)
    x = checks.floats("w", w)
    g = checks.floats("grad", grad, x.shape)
    scores = output(out, x.shape, np.float32, w=x, grad=g)
    if not backend.active.product_magnitude(x.ravel(), g.ravel(), scores.ravel()):
        checks.finite("w", x, False)
        checks.finite("grad", g, False)
    return scores


def wanda(
    w: ArrayLike, input_norm: ArrayLike, *, axis: Axis = EACH, block: Block | None = None, out: Scores | None = None
) -> Scores:
    """Score by |w_ij| * input_norm_j (Sun et al. 2023, "A simple and effective pruning approach for large language
    models").

    w: (..., cols). input_norm: (cols,), the L2 norm of each input over the calibration set, one of them above 0.
    Returns float32 like w, or one score per `axis` or `block`.

    >>> wanda([[1.0, -2.0]], [3.0, 1.0])
    array([[3., 2.]], dtype=float32)
    """
    if of_many(axis, block):
        return reduced(wanda(w, input_norm), axis, block, out)
    x = checks.floats("w", w)
    norm = checks.vector("input_norm", input_norm, x.shape[-1])
    if norm.size and not norm[0] and not norm.any():
        raise ValueError("input_norm must have a norm above 0, not zeros alone")
    scores = output(out, x.shape, np.float32, w=x, input_norm=norm)
    checks.finite("w", x, backend.active.wanda(checks.rows(x), norm, checks.rows(scores)))
    return scores


def fisher(
    w: ArrayLike, grad_sq: ArrayLike, *, axis: Axis = EACH, block: Block | None = None, out: Scores | None = None
) -> Scores:
    """Score by w**2 * grad_sq, twice what a weight's zero costs by the diagonal of the Fisher information (Theis et al.
    2018, "Faster gaze prediction with dense networks and Fisher pruning").

    w, grad_sq: the same shape; grad_sq >= 0, the mean squared gradient over the calibration set. Returns float32 of
    that shape, or one score per `axis` or `block`.

    >>> fisher([1.0, -2.0], [0.5, 3.0])
    array([ 0.5, 12. ], dtype=float32)
    """
    return _square_product(w, "grad_sq", grad_sq, 1.0, axis, block, out)


def obd(
    w: ArrayLike, hessian_diag: ArrayLike, *, axis: Axis = EACH, block: Block | None = None, out: Scores | None = None
) -> Scores:
    """Score by w**2 * h / 2, the saliency of optimal brain damage (LeCun, Denker and Solla 1990): the second-order rise
    of the loss when a weight goes, with h the diagonal of the Hessian.

    w, hessian_diag: the same shape; where h is negative, so is the score. Returns float32 of that shape, or one score
    per `axis` or `block`.

    >>> obd([1.0, -2.0], [0.5, 3.0])
    array([0.25, 6.  ], dtype=float32)
    """
    return _square_product(w, "hessian_diag", hessian_diag, 0.5, axis, block, out)


def predictive(
    w: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    axis: Axis = EACH,
    block: Block | None = None,
    out: Scores | None = None,
) -> Scores:
    """Score weights of a softmax layer by how zeroing one lowers the summed probability of the right labels,
    sum_j p(y_j | x_j): exactly, since one weight moves one logit. p = softmax(w x + bias).

    w: (classes, inputs). x: (n, inputs). y: (n,) integers, the label of each sample, 0..classes-1. bias: (classes,) or
    None. Returns float32 (classes, inputs), or one score per `axis` or `block`; negative where the labels fare better
    without the weight. One exponential per sample and weight. w, x and bias are read as float32; a logit beyond it is a
    ValueError.

    >>> predictive([[2.0, 0.0], [0.0, 0.0]], [[1.0, 1.0]], [0]).round(4)
    array([[0.3808, 0.    ],
           [0.    , 0.    ]], dtype=float32)
    """
    if of_many(axis, block):
        return reduced(predictive(w, x, y, bias), axis, block, out)
    weight, sample = (checks.floats(n, a).astype(np.float32, copy=False) for n, a in (("w", w), ("x", x)))
    if weight.ndim != 2 or sample.ndim != 2 or weight.shape[1] != sample.shape[1]:
        raise ValueError(f"w and x must be (classes, inputs) and (n, inputs), not {weight.shape} and {sample.shape}")
    labels = _labels(y, len(sample), len(weight))
    none = np.zeros(len(weight), np.float32)
    b = none if bias is None else checks.floats("bias", bias, (len(weight),)).astype(np.float32, copy=False)
    for name, a in (("w", weight), ("x", sample), ("bias", b)):
        checks.finite(name, a, backend.active.is_finite(a.ravel()))
    scores = output(out, weight.shape, np.float32, w=weight, x=sample, bias=b)
    apart = np.empty_like(scores) if any(checks.same_buffer(scores, a) for a in (weight, sample, b)) else scores
    if len(weight) < 2:  # the probability of the only class is 1, whatever happens
        apart[...] = 0
    elif not backend.active.predictive(weight, sample, labels, b, apart):
        raise ValueError("logits w x + bias overflow float32")
    scores[...] = apart
    return scores


def l1(w: ArrayLike, axis: int | None = None, *, block: Block | None = None, out: Scores | None = None) -> Scores:
    """Sum |w| over `axis`, `block` or everything (Li et al. 2017, "Pruning filters for efficient convnets").

    w: any shape. Returns float32 without that axis; a scalar for axis=None.
    Sixteen lanes add in order and are folded by halves; axis=None adds the sums of the rows (last axis) the same way.

    >>> l1([[1.0, -2.0], [3.0, 4.0]], axis=1)
    array([3., 7.], dtype=float32)
    """
    return grouped("w", checks.floats("w", w), axis, block, 1, out)


def l2(w: ArrayLike, axis: int | None = None, *, block: Block | None = None, out: Scores | None = None) -> Scores:
    """Take the square root of the sum of w * w over `axis`, `block` or everything, summed as in `l1`; where squares
    underflow, after scaling by a power of two.

    w: any shape. Returns float32 without that axis; (..., rows / block rows, cols / block cols) for blocks; a scalar
    for axis=None.

    >>> l2([[3.0, 4.0]], axis=1)
    array([5.], dtype=float32)
    """
    return norms("w", checks.floats("w", w), axis, block, out)


def reduce(
    scores: ArrayLike, axis: int | None = None, *, block: Block | None = None, out: Scores | None = None
) -> Scores:
    """Sum scores of weights to scores of rows, columns, blocks or the whole, with their signs.

    scores: any shape. Returns float32 as `l1` does, summed in its order; in a block, down each column first.

    >>> reduce([[1.0, -2.0], [3.0, 4.0]], axis=0)
    array([4., 2.], dtype=float32)
    >>> reduce([[1.0, -2.0], [3.0, 4.0]], block=(2, 1))
    array([[4., 2.]], dtype=float32)
    """
    return grouped("scores", checks.floats("scores", scores), axis, block, 0, out)


@default_floats
def share(w: ArrayLike) -> Scores:
    """Compute each row's share of the whole: R_i = sum_j |w_ij| / sum_ij |w_ij|.

    w: (rows, ..., cols); axis 0 counts the rows. Returns (rows,) float32 that sum to 1; all zeros for an all-zero w.
    A sum that exceeds float32 is a ValueError.

    >>> share([[1.0, -2.0], [0.0, 1.0]])
    array([0.75, 0.25], dtype=float32)
    """
    x = checks.floats("w", w)
    of_rows = np.empty(len(x), np.float32)
    sums("w", x.reshape(len(x), x.size // max(len(x), 1)), 1, 1, of_rows)
    whole = total(of_rows)
    if np.isinf(whole):
        raise ValueError("the sum of magnitudes of w overflows float32")
    return of_rows / whole if whole > 0 else of_rows


def random(shape: int | tuple[int, ...], seed: int) -> Scores:
    """Draw uniform scores in [0, 1) from a counter: the same on every machine and number of threads.

    shape: of the result. seed: 0..2**64-1. Number i is SplitMix64 (Steele et al. 2014) at counter i, its top 24 bits.

    >>> random(3, seed=1).shape
    (3,)
    """
    seed = checks.integer("seed", seed, 0, 2**64 - 1)
    sizes = shape if isinstance(shape, tuple) else (shape,)
    scores = np.empty(tuple(checks.integer("shape", n, 0, 2**62) for n in sizes), np.float32)
    backend.active.uniform(seed, 0, scores.ravel())
    return scores


def _square_product(
    w: ArrayLike, name: str, h: ArrayLike, factor: float, axis: Axis, block: Block | None, out: Scores | None
) -> Scores:
    if of_many(axis, block):
        return reduced(_square_product(w, name, h, factor, EACH, None, None), axis, block, out)
    x = checks.floats("w", w)
    y = checks.floats(name, h, x.shape)
    positive = name == "grad_sq"
    scores = output(out, x.shape, np.float32, **{"w": x, name: y})
    lowest = float(y.min(initial=0)) if positive and out is not None else 0.0
    if lowest < 0 or not backend.active.square_product(x.ravel(), y.ravel(), factor, positive, scores.ravel()):
        checks.finite("w", x, False)
        checks.finite(name, y, False)
        at = int((y.ravel() < 0).argmax())
        raise ValueError(f"{name} must not be negative, not {y.ravel()[at]} at flat index {at}")
    return scores


def _labels(y: ArrayLike, count: int, classes: int) -> NDArray[np.int64]:
    labels = checks.array("y", y)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"y must be integers, not {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"y must have shape {(count,)}, one label per sample, not {labels.shape}")
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"y must be classes, 0..{classes - 1}, not {labels[at]} at index {at}")
    return np.require(labels, np.int64, ["C", "ALIGNED"])
