"""What thresholds, masks and N:M remove: exact counts, and among equals the first."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt

DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
PATTERNS = [(n, m) for m in range(2, 9) for n in range(1, m)] + [
    (1, 16),
    (4, 16),
    (15, 16),
    (8, 17),
    (5, 31),
    (31, 32),
]


def few_values(seed: int, shape: tuple[int, ...]) -> Array:
    """Scores with many ties, both zeros and negatives among them."""
    return np.random.default_rng(seed).choice(np.array([-2, -1, -0.0, 0.0, 0.5, 1], np.float32), shape)


def lowest_removed(scores: Array, count: int) -> Array:
    """What a stable argsort says: False for the `count` lowest of the last axis, the lower index first."""
    keep = np.ones(scores.shape, np.bool_)
    order = np.argsort(scores.astype(np.float64), axis=-1, kind="stable")
    np.put_along_axis(keep, order[..., :count], False, axis=-1)
    return keep


@pytest.mark.promise("B43")
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1])
@pytest.mark.parametrize("shape", [(1,), (2,), (97,), (7, 13), (3, 4, 5)])
@DTYPES
def test_mask_of_everything(shape: tuple[int, ...], sparsity: float, dtype: Any) -> None:
    scores = few_values(1, shape).astype(dtype)
    keep = qt.prune_mask(scores, sparsity)
    assert np.count_nonzero(~keep) == round(sparsity * scores.size)
    assert (keep.reshape(-1) == lowest_removed(scores.reshape(-1), round(sparsity * scores.size))).all()


@pytest.mark.promise("B43")
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.75])
@DTYPES
def test_mask_along_an_axis(axis: int, sparsity: float, dtype: Any) -> None:
    scores = few_values(2, (5, 6, 9)).astype(dtype)
    keep = np.moveaxis(qt.prune_mask(scores, sparsity, axis=axis), axis, -1)
    moved = np.moveaxis(scores, axis, -1)
    assert (keep == lowest_removed(moved, round(sparsity * scores.shape[axis]))).all()


@pytest.mark.parametrize("n,m", PATTERNS)
@DTYPES
def test_n_of_m_keeps_the_n_highest(n: int, m: int, dtype: Any) -> None:
    for seed in range(4):
        scores = few_values(seed, (5, 6 * m)).astype(dtype)
        keep = qt.prune_mask(scores, pattern=f"{n}:{m}").reshape(-1, m)
        assert (keep.sum(-1) == n).all()
        assert (keep == lowest_removed(scores.reshape(-1, m), m - n)).all()


@pytest.mark.parametrize(
    "options",
    [{"sparsity": 0.5}, {"sparsity": 0.3, "axis": 0}, {"pattern": "2:4"}, {"pattern": "3:6"}],
    ids=str,
)
@DTYPES
def test_prune_is_the_mask_of_magnitudes_or_scores(options: dict[str, Any], dtype: Any) -> None:
    w, scores = few_values(3, (8, 24)).astype(dtype), few_values(4, (8, 24))
    by_size = qt.prune_mask(np.abs(w), **options)
    assert bits_of(qt.prune(w, **options)) == bits_of(np.where(by_size, w, np.zeros((), dtype)))
    by_score = qt.prune_mask(scores, **options)
    assert bits_of(qt.prune(w, scores=scores, **options)) == bits_of(np.where(by_score, w, np.zeros((), dtype)))


@pytest.mark.promise("B43")
@pytest.mark.parametrize("sparsity", [1e-6, 0.1, 0.5, 0.999999])
def test_large_sets(sparsity: float) -> None:
    """Sets that are too large to be looked at whole, of distributions that a sample misleads about."""
    rng = np.random.default_rng(0)
    n = 300_001
    sets = {
        "two values": np.where(np.arange(n) % 7 == 0, 1, 2),
        "subnormal": rng.integers(-5, 6, n) * 1e-45,
        "ramp": np.arange(n),
        "all magnitudes": 2.0 ** rng.integers(-149, 127, n),
        "one value and a few": np.where(rng.random(n) < 1e-4, rng.standard_normal(n), 3),
        "period of sixteen": np.where(np.arange(n) % 16 == 15, 1e9, 0),
        "zeros of both signs": np.where(rng.random(n) < 0.5, 0.0, -0.0),
        "extremes": rng.choice([3.4e38, -3.4e38, 1e-45, -1e-45, 0, -0.0], n),
    }
    for name, values in sets.items():
        scores = values.astype(np.float32)
        assert (qt.prune_mask(scores, sparsity) == lowest_removed(scores, round(sparsity * n))).all(), name


@DTYPES
def test_threshold(dtype: Any) -> None:
    """Each mode, value by value, with the cut itself, its neighbours and both zeros among the values."""
    t = float(np.asarray(0.7, dtype))
    values = [0.0, -0.0, t, -t, 1.5, -1.5, 0.25, -0.25, 65504.0, 6e-8]
    w = np.array(values, np.float32).astype(dtype)
    w = np.concatenate([w, np.nextafter(w, np.asarray(2, dtype)), np.nextafter(w, np.asarray(-2, dtype))])
    rules: tuple[tuple[str, Callable[[Fraction], Any]], ...] = (
        ("magnitude", lambda x: 0 if abs(x) < t else x),
        ("signed", lambda x: 0 if x <= t else x),
        ("soft", lambda x: max(abs(x) - Fraction(t), Fraction(0)) * (1 if x > 0 else -1)),
    )
    for mode, rule in rules:
        for x, y in zip(w, qt.threshold(w, t, mode=mode), strict=True):
            want = np.float32(float(rule(Fraction(float(x))))).astype(dtype)
            assert want == y, (mode, x)


@pytest.mark.parametrize("mode", ["magnitude", "signed", "soft"])
def test_threshold_leaves_no_negative_zero_behind(mode: str) -> None:
    pruned = qt.threshold(np.array([-0.25, -0.5], np.float32), 0.5 if mode == "soft" else 0.75, mode=mode)
    assert not pruned.any()
    assert not np.signbit(pruned).any()


def test_threshold_of_zero_keeps_everything_but_what_is_at_it() -> None:
    w = np.array([-1.0, -0.0, 0.0, 1e-45, 2.0], np.float32)
    assert bits_of(qt.threshold(w, 0)) == bits_of(w)
    assert qt.threshold(w, 0, mode="soft").tolist() == w.tolist()
    assert qt.threshold(w, 0, mode="signed").tolist() == [0, 0, 0, w[3], 2]
    assert qt.threshold(w, -1, mode="signed").tolist() == [0, 0, 0, w[3], 2]


@DTYPES
def test_apply_mask(dtype: Any) -> None:
    w = few_values(5, (7, 33)).astype(dtype)
    mask = np.random.default_rng(5).random((7, 33)) < 0.5
    assert bits_of(qt.apply_mask(w, mask)) == bits_of(np.where(mask, w, np.zeros((), dtype)))
    assert bits_of(qt.apply_mask(w, mask[:, ::-1][:, ::-1])) == bits_of(qt.apply_mask(w, mask))
    any_byte = np.where(mask, np.random.default_rng(6).integers(1, 256, (7, 33)), 0).astype(np.uint8).view(np.bool_)
    assert bits_of(qt.apply_mask(w, any_byte)) == bits_of(qt.apply_mask(w, mask))


def test_apply_mask_insists_on_bool() -> None:
    with pytest.raises(TypeError, match="mask must be bool, not uint8"):
        qt.apply_mask(np.ones(3, np.float32), np.ones(3, np.uint8))


@DTYPES
def test_sparsity_counts_zeros_of_both_signs(dtype: Any) -> None:
    for n in (1, 2, 15, 16, 17, 1000):
        w = few_values(n, (n,)).astype(dtype)
        assert qt.sparsity(w) == sum(float(x) == 0 for x in w) / n
    assert qt.sparsity(np.array([6e-8, 0], np.float16)) == qt.sparsity(np.array([1e-45, 0], np.float32)) == 0.5
    assert qt.sparsity(np.zeros((0, 4), np.float32)) == 0.0


@pytest.mark.promise("B42")
def test_sparsity_of_zero_and_one() -> None:
    w = np.array([[1.0, -2.0, 3.0, 4.0]], np.float32)
    assert bits_of(qt.prune(w, 0)) == bits_of(w)
    assert not qt.prune(w, 1).any()
    assert not qt.prune(w, 1.0, axis=0).any()


# Blocks, rows and columns


def lowest_blocks(scores: Array, rows: int, cols: int, sparsity: float) -> Array:
    """Mask of a matrix: exactly round(sparsity * blocks) blocks go, the lowest sums first, and of equals the first."""
    r, c = scores.shape
    sums = scores.astype(np.float64).reshape(r // rows, rows, c // cols, cols).sum((1, 3))
    keep = lowest_removed(sums.reshape(-1), round(sparsity * sums.size)).reshape(sums.shape)
    return np.repeat(np.repeat(keep, rows, 0), cols, 1)


@pytest.mark.promise("B43")
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.5, 2 / 3, 1])
@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 4), (8, 1), (1, 24), (8, 24)], ids=str)
@DTYPES
def test_blocks(block: tuple[int, int], sparsity: float, dtype: Any) -> None:
    """Sums of few values are exact, so that their ties are ties."""
    w = few_values(6, (8, 24)).astype(dtype)
    assert (qt.prune_mask(w, sparsity, pattern=block) == lowest_blocks(w, *block, sparsity)).all()
    keep = lowest_blocks(np.abs(w), *block, sparsity)
    assert bits_of(qt.prune(w, sparsity, pattern=block)) == bits_of(np.where(keep, w, np.zeros((), dtype)))
    by_score = lowest_blocks(few_values(7, w.shape), *block, sparsity)
    pruned = qt.prune(w, sparsity, scores=few_values(7, w.shape), pattern=block)
    assert bits_of(pruned) == bits_of(np.where(by_score, w, np.zeros((), dtype)))


@pytest.mark.promise("B43")
@pytest.mark.parametrize("shape", [(6, 10), (3, 4, 10), (10,)])
def test_rows_and_columns(shape: tuple[int, ...]) -> None:
    """Those of the last axis, as blocks of one row and of one column; all other axes together are rows."""
    scores = few_values(8, shape)
    matrix = scores.reshape(-1, shape[-1])
    for pattern, block in (("row", (1, shape[-1])), ("column", (len(matrix), 1))):
        for sparsity in (0.3, 0.5):
            keep = qt.prune_mask(scores, sparsity, pattern=pattern)
            assert keep.shape == shape
            assert (keep.reshape(matrix.shape) == lowest_blocks(matrix, *block, sparsity)).all()


def test_blocks_of_stacked_matrices_are_within_one() -> None:
    scores = few_values(9, (3, 4, 6))
    assert (
        qt.prune_mask(scores, 0.5, pattern=(2, 3))
        == qt.prune_mask(scores.reshape(12, 6), 0.5, pattern=(2, 3)).reshape(3, 4, 6)
    ).all()
    with pytest.raises(ValueError, match=r"scores must have last two axes that are multiples of \(6, 3\), not shape"):
        qt.prune_mask(scores, 0.5, pattern=(6, 3))


@pytest.mark.promise("A19")
def test_patterns_of_nothing() -> None:
    for shape in ((0, 4), (4, 0), (0, 0)):
        for pattern in ("row", "column", (2, 2)):
            assert qt.prune(np.zeros(shape, np.float32), 0.5, pattern=pattern).shape == shape


def test_sums_of_blocks_beyond_float32_are_refused() -> None:
    w = np.full((2, 2), 3e38, np.float32)
    with pytest.raises(ValueError, match="sums of w over blocks overflow float32"):
        qt.prune(w, 0.5, pattern="row")
    with pytest.raises(ValueError, match="sums of scores over blocks overflow float32"):
        qt.prune_mask(w, 0.5, pattern="column")


def test_random_pruning_is_the_same_everywhere() -> None:
    w = few_values(10, (50, 40)) + 3
    pruned = qt.prune(w, 0.25, scores=qt.importance.random(w.shape, seed=1))
    assert np.count_nonzero(pruned == 0) == 500
    with qt.use_isa("reference"):
        assert bits_of(qt.prune(w, 0.25, scores=qt.importance.random(w.shape, seed=1))) == bits_of(pruned)


# Shrinkage


@DTYPES
def test_shrink(dtype: Any) -> None:
    """Value by value: soft threshold in float32, then a division, rounded to the dtype."""
    w = few_values(11, (3, 40)).astype(dtype)
    x = w.astype(np.float32)
    for l1, l2 in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.3), (0.25, 2.0), (5.0, 1.0)):
        soft = np.copysign(np.maximum(np.abs(x) - np.float32(l1), 0), x) / np.float32(1 + l2)
        want = np.where(np.abs(x) <= np.float32(l1), np.float32(0), soft).astype(dtype)
        assert bits_of(qt.pruning.shrink(w, l1=l1, l2=l2)) == bits_of(want)
    assert bits_of(qt.pruning.shrink(w, l1=0.25)) == bits_of(qt.threshold(w, 0.25, mode="soft"))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@DTYPES
def test_shrink_groups(axis: int, dtype: Any) -> None:
    """Slices of a norm up to l1 vanish, the others become l1 shorter; against float64."""
    w = np.random.default_rng(12).standard_normal((6, 5, 40)).astype(np.float32).astype(dtype)
    exact = w.astype(np.float64)
    norms = np.sqrt((exact**2).sum(axis, keepdims=True))
    l1 = float(np.median(norms))
    want = exact * np.maximum(0, 1 - l1 / norms) / 1.5
    found = qt.pruning.shrink(w, l1=l1, l2=0.5, axis=axis)
    ulp = float(np.finfo(np.float32).eps if dtype == np.float32 else 2.0**-8)
    np.testing.assert_allclose(found.astype(np.float64), want, rtol=ulp, atol=ulp * 40)
    assert 0.4 < np.mean(~found.astype(np.float32).any(axis)) < 0.6


def test_shrink_of_zeros_and_to_zero() -> None:
    zeros = np.float32([[0, -0.0], [3, -4]])
    assert qt.pruning.shrink(zeros, axis=1).tolist() == zeros.tolist()
    assert qt.pruning.shrink(zeros, l1=5, axis=1).tolist() == [[0, 0], [0, 0]]
    assert not np.signbit(qt.pruning.shrink(zeros, l1=5, axis=1)).any()
    assert not np.signbit(qt.pruning.shrink(np.float32([-1, -0.0]), l1=1)).any()
    assert qt.pruning.shrink(np.float32([[1e30, 1e30]]), l1=1, axis=1).tolist() == np.float32([[1e30, 1e30]]).tolist()
    for shape in ((0, 3), (3, 0)):
        assert qt.pruning.shrink(np.zeros(shape, np.float32), l1=1, axis=0).shape == shape
        assert qt.pruning.shrink(np.zeros(shape, np.float32), l1=1, axis=1).shape == shape


@pytest.mark.promise("A1")
def test_shrink_of_nan_leaves_an_array_in_place_as_it_was() -> None:
    w = np.float32([[1, 2], [np.nan, 4]])
    before = w.tobytes()
    for axis in (None, 0, 1):
        with pytest.raises(ValueError, match="w must be finite, but has 1 NaN"):
            qt.pruning.shrink(w, l1=1, axis=axis, out=w)
        assert w.tobytes() == before


# A schedule


def test_cubic_sparsity() -> None:
    steps = [qt.pruning.cubic_sparsity(t, 10, 110, 0.9, 0.1) for t in range(130)]
    assert steps[:11] == [0.1] * 11 and steps[110:] == [0.9] * 20
    assert all(a < b for a, b in itertools.pairwise(steps[10:111]))
    assert steps[60] == pytest.approx(0.9 - 0.8 / 8)
    assert qt.pruning.cubic_sparsity(5, 0, 10, 0.2, 0.6) == pytest.approx(0.2 + 0.4 / 8)
