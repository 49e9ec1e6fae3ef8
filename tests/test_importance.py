"""Scores against float64, and sums against their definition: sixteen lanes, folded by halves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim import blocks

imp = qt.importance
DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
EPSILON = 2.0**-24  # half a unit in the last place of a float32 near 1: what one rounding may cost


def weights(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def lane_sum(terms: list[np.float32]) -> np.float32:
    """Lane j adds terms j, j + 16, ... in order; then lane j adds lane j + 8, + 4, + 2, + 1."""
    lane = [np.float32(0)] * 16
    for i, x in enumerate(terms):
        lane[i % 16] = np.float32(lane[i % 16] + x)
    for half in (8, 4, 2, 1):
        lane = [np.float32(lane[j] + lane[j + half]) for j in range(half)]
    return lane[0]


def norm(row: Array, power: int) -> np.float32:
    x = [np.abs(np.float32(v)) for v in row]
    return lane_sum([v if power == 1 else np.float32(v * v) for v in x])


@pytest.mark.parametrize("n", [0, 1, 2, 8, 15, 16, 17, 31, 33, 100, 1025])
@DTYPES
def test_sums_follow_the_lanes(n: int, dtype: Any) -> None:
    w = weights(n, (3, n), dtype)
    ones, twos = [norm(row, 1) for row in w], [norm(row, 2) for row in w]
    assert imp.l1(w, 1).tolist() == imp.l1(w.T, 0).tolist() == ones
    assert imp.l2(w, 1).tolist() == imp.l2(w.T, 0).tolist() == [np.sqrt(s) for s in twos]
    assert imp.l1(w) == lane_sum(ones)
    assert imp.l2(w) == np.sqrt(lane_sum(twos))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@DTYPES
def test_norms_along_each_axis(axis: int, dtype: Any) -> None:
    """Within one rounding per term of what float64 gives."""
    w = weights(1, (6, 40, 17), dtype)
    exact = np.abs(w.astype(np.float64))
    terms = w.shape[axis]
    np.testing.assert_allclose(imp.l1(w, axis), exact.sum(axis), rtol=terms * EPSILON)
    np.testing.assert_allclose(imp.l2(w, axis), np.sqrt((exact**2).sum(axis)), rtol=(terms + 2) * EPSILON)
    moved = np.moveaxis(w, axis, -1).reshape(-1, terms)
    assert imp.l1(w, axis).reshape(-1).tolist() == [norm(row, 1) for row in moved]


@DTYPES
def test_norms_of_everything(dtype: Any) -> None:
    w = weights(2, (5, 8, 33), dtype)
    exact = np.abs(w.astype(np.float64))
    assert imp.l1(w) == pytest.approx(exact.sum(), rel=w.size * EPSILON)
    assert imp.l2(w) == pytest.approx(math.sqrt((exact**2).sum()), rel=w.size * EPSILON)
    assert type(imp.l1(w)) is type(imp.l2(w)) is np.float32
    assert imp.l1(w) == lane_sum([norm(row, 1) for row in w.reshape(-1, 33)])


@pytest.mark.promise("A19")
def test_norms_of_nothing_are_zero() -> None:
    for shape in ((0,), (0, 3), (3, 0), (0, 0, 2)):
        empty = np.zeros(shape, np.float32)
        assert imp.l1(empty) == imp.l2(empty) == 0
        for axis in range(len(shape)):
            left = shape[:axis] + shape[axis + 1 :]
            assert bits_of(imp.l1(empty, axis)) == bits_of(np.zeros(left, np.float32))


@DTYPES
def test_scores_per_weight(dtype: Any) -> None:
    """One product of exact float32 values each: numpy's float32 gives the same bits."""
    w, grad = weights(3, (5, 37), dtype), weights(4, (5, 37), dtype)
    x, g = w.astype(np.float32), grad.astype(np.float32)
    inputs = np.abs(weights(5, (37,)))
    assert bits_of(imp.magnitude(w)) == bits_of(np.abs(x))
    assert bits_of(imp.taylor(w, grad)) == bits_of(np.abs(x * g))
    assert bits_of(imp.taylor(w, g)) == bits_of(np.abs(x * g))
    assert bits_of(imp.wanda(w, inputs)) == bits_of(np.abs(x) * inputs)
    assert bits_of(imp.wanda(w, inputs.astype(np.float64))) == bits_of(np.abs(x) * inputs)


@pytest.mark.parametrize("shape", [(1,), (9,), (9, 1), (9, 70), (3, 4, 5)])
@DTYPES
def test_share(shape: tuple[int, ...], dtype: Any) -> None:
    w = weights(6, shape, dtype)
    rows = np.abs(w.astype(np.float64)).reshape(len(w), -1).sum(1)
    np.testing.assert_allclose(imp.share(w), rows / rows.sum(), rtol=3 * w.size * EPSILON)
    assert float(imp.share(w).astype(np.float64).sum()) == pytest.approx(1, abs=len(w) * EPSILON * 2)


def test_share_of_zeros_and_of_nothing() -> None:
    assert imp.share(np.zeros((3, 4), np.float32)).tolist() == [0, 0, 0]
    assert imp.share(np.zeros((3, 0), np.float32)).tolist() == [0, 0, 0]
    assert imp.share(np.zeros((0, 4), np.float32)).tolist() == []


def test_share_whose_sum_overflows_is_refused() -> None:
    with pytest.raises(ValueError, match="the sum of magnitudes of w overflows float32"):
        imp.share(np.full((2, 2), 3e38, np.float32))


def test_random_is_a_counter() -> None:
    """A longer draw begins with the shorter one; any shape holds the same numbers; seeds differ."""
    draw = imp.random(100_000, 7)
    assert bits_of(imp.random(1000, 7)) == bits_of(draw[:1000])
    assert bits_of(imp.random((20, 50), 7)) == bits_of(draw[:1000].reshape(20, 50))
    assert (imp.random(1000, 8) != draw[:1000]).mean() > 0.99
    assert bits_of(imp.random(np.int64(5), np.uint64(7))) == bits_of(draw[:5])  # type: ignore[arg-type]
    assert imp.random((), 7).shape == ()
    assert imp.random((3, 0), 7).shape == (3, 0)


def test_random_is_uniform() -> None:
    """Mean, variance, 64 equal bins and neighbours, each within five standard deviations."""
    n = 1_000_000
    draw = imp.random(n, 3).astype(np.float64)
    assert draw.min() >= 0
    assert draw.max() < 1
    assert abs(draw.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert abs(draw.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    bins = np.bincount((draw * 64).astype(int), minlength=64)
    chi_square = ((bins - n / 64) ** 2 / (n / 64)).sum()
    assert abs(chi_square - 63) < 5 * math.sqrt(2 * 63)
    assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.promise("A10")
def test_scores_beyond_float32_are_infinite() -> None:
    """What the docstrings say; weights as such are finite, so that this is no error."""
    w = np.array([[3e38, 3e38]], np.float32)
    assert qt.importance.l1(w) == qt.importance.l1(w, 1)[0] == np.inf
    assert qt.importance.l2([[1e20, 0.0]]) == np.inf and qt.importance.l2([[1.8e19, 0.0]]) == np.float32(1.8e19)
    assert qt.importance.taylor(w, w).tolist() == [[np.inf, np.inf]]
    assert qt.importance.wanda(w, [2.0, 1.0]).tolist() == [[np.inf, float(np.float32(3e38))]]


# Squares that underflow


def tiny_slices(scale: float, dtype: Any = np.float32) -> Array:
    """Rows near `scale`, but for one of ordinary weights and one of zeros."""
    w = (np.random.default_rng(0).standard_normal((6, 40)) * scale).astype(np.float32)
    w[1], w[3] = 1.5, 0
    return w.astype(dtype)


@pytest.mark.promise("fault-D14")
@pytest.mark.parametrize("dtype", [np.float32, FLOATS["bfloat16"]], ids=str)
@pytest.mark.parametrize("scale", [1e-16, 1e-20, 1e-23, 1e-30, 1e-37])
@pytest.mark.parametrize("isa", qt.isas())
def test_norms_of_slices_whose_squares_underflow(isa: str, scale: float, dtype: Any) -> None:
    """Rows, columns, blocks, more axes and the whole, as near to the true norm as others."""
    w = tiny_slices(scale, dtype)
    exact = w.astype(np.float64)
    rows = np.sqrt((exact**2).sum(1))
    near = {"rtol": 26 * EPSILON, "atol": 2.0**-149}
    with qt.use_isa(isa):
        np.testing.assert_allclose(imp.l2(w, 1), rows, **near)
        assert bits_of(imp.l2(w.T.copy(), 0)) == bits_of(imp.l2(w, 1))
        assert bits_of(imp.l2(w.reshape(2, 3, 40), 2).ravel()) == bits_of(imp.l2(w, 1))
        assert bits_of(imp.l2(w.reshape(2, 3, 40).swapaxes(1, 2), 1).ravel()) == bits_of(imp.l2(w, 1))
        by_block = np.sqrt((exact.reshape(3, 2, 4, 10) ** 2).sum((1, 3)))
        np.testing.assert_allclose(imp.l2(w, block=(2, 10)), by_block, **near)
        single = np.empty((), np.float32)
        assert imp.l2(w[0], 0, out=single) is single and single == imp.l2(w[0], 0) == imp.l2(w[0]) == imp.l2(w, 1)[0]
        out = np.empty(6, np.float32)
        assert imp.l2(w, 1, out=out) is out and bits_of(out) == bits_of(imp.l2(w, 1))
        whole = np.delete(w, 1, axis=0)
        np.testing.assert_allclose(imp.l2(whole), np.sqrt((np.delete(exact, 1, axis=0) ** 2).sum()), **near)
        assert imp.l2(np.zeros((3, 4), np.float32)) == 0 and not imp.l2(np.zeros((3, 4), np.float32), 1).any()
        assert imp.l2(w) == np.float32(imp.l2(w[1]))


@pytest.mark.promise("fault-D14")
def test_scaling_changes_no_bit_where_no_square_underflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of 1e-30 are normal numbers, and so are those of 2**100 times such weights."""
    w = np.random.default_rng(2).uniform(1e-15, 2e-15, (64, 50)).astype(np.float32)
    plain = [bits_of(imp.l2(w, **how)) for how in ({"axis": 1}, {"axis": 0}, {"block": (4, 5)}, {})]
    monkeypatch.setattr(blocks, "TINY", np.float32(1))
    monkeypatch.setattr(blocks, "_GATHERED", 100)
    scaled = [bits_of(imp.l2(w, **how)) for how in ({"axis": 1}, {"axis": 0}, {"block": (4, 5)}, {})]
    assert scaled == plain


@pytest.mark.promise("fault-D14")
@pytest.mark.parametrize("axis", [0, 1])
def test_shrink_leaves_small_slices_that_no_penalty_reaches(axis: int) -> None:
    w = tiny_slices(1e-23) if axis else np.ascontiguousarray(tiny_slices(1e-23).T)
    assert bits_of(qt.pruning.shrink(w, l1=0, axis=axis)) == bits_of(w)
    half = qt.pruning.shrink(w, l1=float(imp.l2(w, axis)[0] / 2), axis=axis)
    first = (0, slice(None)) if axis else (slice(None), 0)
    np.testing.assert_allclose(half[first], w[first] / 2, rtol=1e-6)
    assert bits_of(qt.pruning.shrink(w[first], l1=0, axis=0)) == bits_of(w[first])
