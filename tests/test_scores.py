"""Scores of rows, columns and blocks, from gradients, curvatures and activations, against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim import reference

imp = qt.importance
DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
EPSILON = 2.0**-24  # half a unit in the last place of a float32 near 1: what one rounding may cost


def weights(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def blocks_of(a: Array, rows: int, cols: int) -> Array:
    """(..., block rows, block cols, rows * cols)"""
    *rest, r, c = a.shape
    cut = a.reshape(*rest, r // rows, rows, c // cols, cols)
    return np.moveaxis(cut, -3, -2).reshape(*rest, r // rows, c // cols, rows * cols)


# axis= and block=

SCORES: dict[str, Callable[..., Any]] = {
    "magnitude": imp.magnitude,
    "taylor": lambda w, **k: imp.taylor(w, weights(1, w.shape), **k),
    "wanda": lambda w, **k: imp.wanda(w, np.abs(weights(2, w.shape[-1:])), **k),
    "fisher": lambda w, **k: imp.fisher(w, weights(3, w.shape) ** 2, **k),
    "obd": lambda w, **k: imp.obd(w, weights(4, w.shape), **k),
    "predictive": lambda w, **k: imp.predictive(w, weights(5, (9, w.shape[1])), np.arange(9) % len(w), **k),
}
SCORED = pytest.mark.parametrize("name", SCORES)


@SCORED
def test_scores_of_rows_columns_blocks_and_all(name: str) -> None:
    """The sum of the scores of the weights, within one rounding per term."""
    w = weights(6, (6, 40))
    each = SCORES[name](w)
    exact = each.astype(np.float64)
    room = {"rtol": w.size * EPSILON, "atol": w.size * EPSILON * float(np.abs(exact).max())}
    for axis in (0, 1, -1):
        np.testing.assert_allclose(SCORES[name](w, axis=axis), exact.sum(axis), **room)
    np.testing.assert_allclose(SCORES[name](w, axis=None), exact.sum(), **room)
    for block in ((2, 4), (6, 1), (1, 40), (3, 20)):
        np.testing.assert_allclose(SCORES[name](w, block=block), blocks_of(exact, *block).sum(-1), **room)
    assert bits_of(SCORES[name](w, axis="each")) == bits_of(each)
    assert type(SCORES[name](w, axis=None)) is np.float32


@DTYPES
def test_l1_and_l2_of_blocks(dtype: Any) -> None:
    w = weights(7, (3, 8, 24), dtype)
    exact = blocks_of(np.abs(w.astype(np.float64)), 4, 6)
    assert exact.shape == (3, 2, 4, 24)
    np.testing.assert_allclose(imp.l1(w, block=(4, 6)), exact.sum(-1), rtol=24 * EPSILON)
    np.testing.assert_allclose(imp.l2(w, block=(4, 6)), np.sqrt((exact**2).sum(-1)), rtol=26 * EPSILON)


@pytest.mark.parametrize("shape", [(7, 33), (1, 1), (40, 700), (3, 5, 17)])
def test_one_order_of_sums(shape: tuple[int, ...]) -> None:
    """A row or column as a block has the bits of the row or column; l1 is what reduce makes of magnitudes."""
    w = weights(8, shape)
    rows = math.prod(shape[:-1])
    flat = w.reshape(rows, shape[-1])
    for sums, scores in ((imp.l1, np.abs(flat)), (imp.reduce, flat)):
        assert bits_of(sums(flat, block=(1, shape[-1])).reshape(-1)) == bits_of(sums(flat, 1))
        assert bits_of(sums(flat, block=(rows, 1)).reshape(-1)) == bits_of(sums(flat, 0))
        assert bits_of(imp.reduce(scores, 1)) == bits_of(sums(flat, 1))
        assert imp.reduce(scores) == sums(flat)
    for axis in range(len(shape)):
        assert bits_of(imp.reduce(np.abs(w), axis)) == bits_of(imp.l1(w, axis))


@pytest.mark.promise("A19")
def test_sums_of_nothing() -> None:
    for shape in ((0, 4), (3, 0), (0, 0)):
        empty = np.zeros(shape, np.float32)
        assert imp.reduce(empty) == 0
        assert bits_of(imp.reduce(empty, 0)) == bits_of(np.zeros(shape[1], np.float32))
        assert bits_of(imp.reduce(empty, 1)) == bits_of(np.zeros(shape[0], np.float32))
        assert imp.reduce(empty, block=(1, 2) if shape[1] == 4 else (3, 2)).size == 0


@pytest.mark.promise("B41")
@pytest.mark.parametrize("block", ["4", 4, (4,), (2, 2, 2), None], ids=repr)
def test_block_of_wrong_type(block: Any) -> None:
    if block is not None:
        with pytest.raises(TypeError, match=r"block must be \(rows, cols\), not"):
            imp.l1(weights(0, (4, 8)), block=block)
        with pytest.raises(TypeError, match=r"block must be \(rows, cols\), not"):
            imp.magnitude(weights(0, (4, 8)), block=block)


@pytest.mark.promise("B41")
def test_block_out_of_range() -> None:
    w = weights(0, (4, 8))
    for size in ((0, 2), (2, -1), (2**70, 1)):
        with pytest.raises(ValueError, match="block must be an integer of 1"):
            imp.l1(w, block=size)
    for wrong in ((2.0, 2), (True, 2), ("2", 2)):
        with pytest.raises(TypeError, match="block must be an integer of 1"):
            imp.reduce(w, block=wrong)
    for size in ((3, 2), (2, 3), (8, 8)):
        with pytest.raises(
            ValueError, match=r"w must have last two axes that are multiples of \(., .\), not shape \(4, 8\)"
        ):
            imp.l2(w, block=size)
    with pytest.raises(
        ValueError, match=r"scores must have last two axes that are multiples of \(1, 2\), not shape \(8,\)"
    ):
        imp.magnitude(w[0], block=(1, 2))
    with pytest.raises(ValueError, match="give either axis or block, not axis=0 and"):
        imp.l1(w, 0, block=(2, 2))
    with pytest.raises(ValueError, match="give either axis or block, not axis=1 and"):
        imp.taylor(w, w, axis=1, block=(2, 2))


@pytest.mark.promise("B45")
@pytest.mark.parametrize("axis", [2, -3, "rows", 1.0, True], ids=repr)
@SCORED
def test_axis_of_scores(name: str, axis: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"axis must be an integer of -2\.\.1, not"):
        SCORES[name](weights(0, (4, 8)), axis=axis)


def test_out_of_scores_of_many() -> None:
    w = weights(9, (4, 8))
    rows, parts = np.empty(4, np.float32), np.empty((2, 2), np.float32)
    assert imp.taylor(w, w, axis=1, out=rows) is rows
    assert imp.l2(w, block=(2, 4), out=parts) is parts
    assert bits_of(rows) == bits_of(imp.taylor(w, w, axis=1)) and bits_of(parts) == bits_of(imp.l2(w, block=(2, 4)))
    with pytest.raises(ValueError, match="out must be None with axis=None"):
        imp.obd(w, w, axis=None, out=rows)


# Squares times curvature


@DTYPES
def test_fisher_and_obd(dtype: Any) -> None:
    """Two or three products of exact float32 values: numpy's float32 gives the same bits."""
    w, h = weights(10, (5, 37), dtype), weights(11, (5, 37), dtype)
    x, y = w.astype(np.float32), h.astype(np.float32)
    assert bits_of(imp.fisher(w, np.abs(h))) == bits_of(x * (x * np.abs(y)))
    assert bits_of(imp.obd(w, h)) == bits_of(x * (x * y) * np.float32(0.5))
    exact = x.astype(np.float64) ** 2 * y
    np.testing.assert_allclose(imp.obd(w, h), exact / 2, rtol=3 * EPSILON, atol=1e-45)


def test_a_square_beyond_float32_times_little_is_little() -> None:
    assert imp.fisher(np.float32([1e25]), np.float32([1e-30]))[0] == pytest.approx(1e20, rel=1e-6)
    assert imp.fisher(np.float32([1e25]), np.float32([0]))[0] == 0


@pytest.mark.promise("B46")
@pytest.mark.parametrize("position", [0, 15, 16, 40, 47])
def test_negative_squares_are_refused(position: int) -> None:
    w, grad_sq = np.ones(48, np.float32), np.ones(48, np.float32)
    grad_sq[position] = -0.5
    with pytest.raises(ValueError, match=rf"grad_sq must not be negative, not -0.5 at flat index {position}"):
        imp.fisher(w, grad_sq)
    for out in (w, grad_sq):
        before = out.tobytes()
        with pytest.raises(ValueError, match="grad_sq must not be negative"):
            imp.fisher(w, grad_sq, out=out)
        assert out.tobytes() == before
    assert imp.fisher(w, np.full(48, -0.0)).tolist() == [0] * 48
    assert imp.obd(w, grad_sq)[position] <= 0


@pytest.mark.promise("B46")
def test_gradients_of_wrong_shape_or_content() -> None:
    w = weights(0, (4, 8))
    for score, name in ((imp.fisher, "grad_sq"), (imp.obd, "hessian_diag")):
        with pytest.raises(ValueError, match=rf"{name} must have shape \(4, 8\), not \(8,\)"):
            score(w, w[0])
        bad = np.abs(w)
        bad[2, 3] = np.nan
        with pytest.raises(ValueError, match=rf"{name} must be finite, but has 1 .* flat index 19"):
            score(w, bad)
        with pytest.raises(ValueError, match="w must be finite"):
            score(bad, np.abs(w))


# Entropy


def plain_entropy(column: Array, low: float, high: float, bins: int) -> float:
    """By the definition, in float64 but for the place of a value."""
    scale = np.float32(bins / (high - low)) if high > low else np.float32(0)
    place = np.clip(np.trunc((column - np.float32(low)) * scale), 0, bins - 1).astype(int)
    p = np.bincount(place, minlength=bins) / len(column)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


@pytest.mark.parametrize("bins", [1, 2, 7, 64, 1000, 65536])
@DTYPES
def test_entropy(bins: int, dtype: Any) -> None:
    x = weights(12, (500, 37), dtype)
    y = x.astype(np.float32)
    own = [plain_entropy(c, float(c.min()), float(c.max()), bins) for c in y.T]
    np.testing.assert_allclose(imp.entropy(x, bins), own, rtol=EPSILON, atol=1e-12)
    shared = [plain_entropy(c, -1, 2, bins) for c in y.T]
    np.testing.assert_allclose(imp.entropy(x, bins, range=(-1, 2)), shared, rtol=EPSILON, atol=1e-12)
    assert (imp.entropy(x, bins) <= math.log2(bins) + EPSILON).all()


def test_entropy_of_what_is_known() -> None:
    n = 4096
    x = np.stack([np.arange(n), np.arange(n) % 2, np.full(n, 7.5), np.arange(n) % 8 == 0], axis=1).astype(np.float32)
    quarter = -(1 / 8) * math.log2(1 / 8) - (7 / 8) * math.log2(7 / 8)
    assert imp.entropy(x, 64).tolist() == [6, 1, 0, np.float32(quarter)]
    assert imp.entropy(np.zeros((0, 3), np.float32)).tolist() == [0, 0, 0]
    assert imp.entropy(np.zeros((5, 0), np.float32)).tolist() == []


def test_entropy_of_batches_is_that_of_all() -> None:
    x = weights(13, (1000, 20))
    whole = bits_of(imp.entropy(x))
    cuts = [x[:1], x[1:300], x[300:300], x[300:]]
    assert bits_of(imp.entropy(cuts)) == bits_of(imp.entropy(tuple(cuts))) == whole
    ranged = bits_of(imp.entropy(x, range=(x.min(0), x.max(0))))
    assert ranged == whole == bits_of(imp.entropy(iter(cuts), range=(x.min(0), x.max(0))))
    histogram = imp.ActivationHistogram(x.min(0), x.max(0), units=20)
    for batch in reversed(cuts):
        histogram.update(batch)
    assert bits_of(histogram.entropy()) == whole
    assert histogram.counts.sum(1).tolist() == [1000] * 20


@pytest.mark.promise("A4", "A5", "A11")
def test_bins_of_ranges_at_the_edges_of_float32() -> None:
    """Widths beyond float32, subnormal ones, and none."""
    high = np.float32(3e38)
    least = np.float32(2.0**-149)
    x = np.array([[-high, 0, 0, 3, 5], [high, 1, 1, 1, 5], [0, 2, 2, 2, 5]], np.float32)
    x[:, 2:4] *= least
    assert imp.entropy(x, 3).tolist() == [np.float32(math.log2(3))] * 4 + [0]
    histogram = imp.ActivationHistogram(-high, high, units=1, bins=4)
    histogram.update([[-high], [-1e38], [1e38], [high], [0]])
    assert histogram.counts.tolist() == [[1, 1, 2, 1]]
    histogram = imp.ActivationHistogram(0, least, units=1, bins=2)
    histogram.update([[-high], [0], [least], [high]])
    assert histogram.counts.tolist() == [[2, 2]]


def test_log2_of_counts() -> None:
    """Within a unit in the last place of float64, and exact for powers of two."""
    from quantrim.histograms import _log2

    counts = np.concatenate([np.arange(1, 5000), 2 ** np.arange(63), 10 ** np.arange(18)])
    np.testing.assert_allclose(_log2(counts), [math.log2(int(c)) for c in counts], rtol=2.0**-52, atol=0)
    assert _log2(2 ** np.arange(63)).tolist() == list(range(63))
    assert _log2(np.array([0])).tolist() == [0]


@pytest.mark.promise("B40")
@pytest.mark.parametrize("bins", [0, -1, 65537, 2.0, "64", True], ids=repr)
def test_bins_out_of_range(bins: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"bins must be an integer of 1\.\.65536, not"):
        imp.entropy(weights(0, (4, 3)), bins)


@pytest.mark.promise("B44")
@pytest.mark.parametrize(
    "limits,words",
    [
        ((1, 0), "low must not be above high, not 1.0 above 0.0 for unit 0"),
        ((math.nan, 1), "low must be a number of"),
        ((0, math.inf), "high must be a number of"),
        (([0.0, 1.0], 3), r"low must have shape \(3,\), not \(2,\)"),
        ((0, [1, math.nan, 1]), "high must be finite, but has 1"),
        ((0, "1"), "high must be a number of"),
        (3, r"range must be \(low, high\) or None, not 3"),
        ((1, 2, 3), r"range must be \(low, high\) or None, not"),
    ],
    ids=str,
)
def test_range_of_no_numbers(limits: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        imp.entropy(weights(0, (4, 3)), range=limits)


def test_batches_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"activations must have shape \(n, 3\), not \(4, 2\)"):
        imp.entropy([weights(0, (4, 3)), weights(0, (4, 2))])
    with pytest.raises(ValueError, match=r"activations must have shape \(n, units\), not \(4,\)"):
        imp.entropy(weights(0, (4,)))
    with pytest.raises(ValueError, match="activations must hold a batch, not none"):
        imp.entropy(iter([]), range=(0, 1))
    with pytest.raises(ValueError, match="range must be given for an iterator"):
        imp.entropy(iter([weights(0, (4, 3))]))
    histogram = imp.ActivationHistogram(-1, 1, units=3)
    bad = weights(0, (4, 3))
    bad[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"activations must be finite, but has 1 .* flat index 11"):
        histogram.update(bad)
    assert not histogram.counts.any()


# Predictive


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def falls(w: Array, x: Array, y: Array, bias: Array) -> Array:
    """One weight after the other zeroed, in float64."""
    w, x, b = w.astype(np.float64), x.astype(np.float64), bias.astype(np.float64)
    right = softmax(x @ w.T + b)[np.arange(len(y)), y].sum()
    scores = np.empty_like(w)
    for at in np.ndindex(*w.shape):
        less = w.copy()
        less[at] = 0
        scores[at] = right - softmax(x @ less.T + b)[np.arange(len(y)), y].sum()
    return scores


# of p(label) for one sample: its logit is a sum of `inputs` products of some size, and e**x turns the error of a logit,
# some units of 2^-24 times its size, into a part of p; p itself is at most 1
def room(x: Array, w: Array) -> float:
    return 4 * EPSILON * len(x) * (4 + float((np.abs(x) @ np.abs(w).T).max()))


@pytest.mark.parametrize("classes,inputs,n", [(2, 1, 1), (2, 5, 3), (10, 33, 50), (40, 17, 20)])
@pytest.mark.parametrize("size", [0.1, 1, 10])
def test_predictive(classes: int, inputs: int, n: int, size: float) -> None:
    rng = np.random.default_rng([classes, inputs])
    w = (rng.standard_normal((classes, inputs)) * size).astype(np.float32)
    x, bias = rng.standard_normal((n, inputs), np.float32), rng.standard_normal(classes, np.float32)
    y = rng.integers(0, classes, n)
    np.testing.assert_allclose(imp.predictive(w, x, y, bias), falls(w, x, y, bias), rtol=0, atol=room(x, w))
    none = np.zeros(classes, np.float32)
    np.testing.assert_allclose(imp.predictive(w, x, y), falls(w, x, y, none), rtol=0, atol=room(x, w))


def test_predictive_where_probabilities_are_0_and_1() -> None:
    """Logits hundreds apart: the weight that holds the label up, one that keeps it down, and one that is alone."""
    w = np.array([[300, 0, 1], [0, -200, 0], [0, 0, 500]], np.float32)
    for label, x in ((0, [1, 0, 0]), (1, [0, 1, 0]), (0, [0, 0, 1]), (2, [0, 0, 1]), (1, [1, 1, 1])):
        sample, y = np.float32([x]), np.array([label])
        found, exact = imp.predictive(w, sample, y), falls(w, sample, y, np.zeros(3))
        np.testing.assert_allclose(found, exact, rtol=0, atol=4 * EPSILON)
    assert imp.predictive(w, np.float32([[0, 0, 1]]), [0])[2, 2] == pytest.approx(-math.e / (math.e + 2), rel=1e-6)


def test_weights_that_change_nothing_score_exactly_zero() -> None:
    w, x = weights(14, (6, 20)), weights(15, (30, 20))
    w[2, :7] = 0
    x[:, 11] = 0
    scores = imp.predictive(w, x, np.arange(30) % 6)
    assert not scores[2, :7].any() and not scores[:, 11].any()
    assert np.count_nonzero(scores) == 6 * 20 - 7 - 6 + 0


def test_predictive_of_one_class_or_no_samples_is_zero() -> None:
    assert not imp.predictive(weights(0, (1, 4)), weights(1, (3, 4)), [0, 0, 0]).any()
    assert not imp.predictive(weights(0, (3, 4)), np.zeros((0, 4), np.float32), np.zeros(0, int)).any()
    assert imp.predictive(np.zeros((3, 0), np.float32), np.zeros((2, 0), np.float32), [0, 1]).shape == (3, 0)


@pytest.mark.promise("B46")
def test_predictive_refuses() -> None:
    w, x = weights(0, (3, 4)), weights(1, (2, 4))
    cases: list[tuple[Any, ...]] = [
        (
            (w, x[:, :3], [0, 1]),
            ValueError,
            r"w and x must be \(classes, inputs\) and \(n, inputs\), not \(3, 4\) and \(2, 3\)",
        ),
        ((w, x[0], [0]), ValueError, "w and x must be"),
        ((w, x, [0, 3]), ValueError, r"y must be classes, 0\.\.2, not 3 at index 1"),
        ((w, x, [-1, 0]), ValueError, r"y must be classes, 0\.\.2, not -1 at index 0"),
        ((w, x, [0]), ValueError, r"y must have shape \(2,\), one label per sample, not \(1,\)"),
        ((w, x, [0.0, 1.0]), TypeError, "y must be integers, not float64"),
        ((w, x, [True, False]), TypeError, "y must be integers, not bool"),
        ((w, x, np.ma.masked_array([0, 1])), TypeError, "y must be a plain array"),
        ((w, x, [0, 1], np.zeros(4)), ValueError, r"bias must have shape \(3,\), not \(4,\)"),
        ((w, x, [0, 1], [0, math.nan, 0]), ValueError, "bias must be finite"),
        ((w * 1e30, x * 1e30, [0, 1]), ValueError, "logits w x \\+ bias overflow float32"),
    ]
    for arguments, error, words in cases:
        with pytest.raises(error, match=words):
            imp.predictive(*arguments)


def test_the_reference_counts_a_value_once() -> None:
    """Control: a histogram that skips the last value is not the histogram."""
    x = weights(16, (50, 3))
    one, zero, scale = np.ones(3, np.float32), np.full(3, -3, np.float32), np.full(3, 4, np.float32)
    whole, less = np.zeros((3, 24), np.int64), np.zeros((3, 24), np.int64)
    reference.histogram(x, one, zero, scale, whole)
    reference.histogram(x[:-1], one, zero, scale, less)
    assert whole.sum() == 150 and (whole - less).sum() == 3
