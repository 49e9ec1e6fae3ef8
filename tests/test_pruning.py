"""What thresholds, masks and N:M remove: exact counts, and among equals the first."""

from __future__ import annotations

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


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1])
@pytest.mark.parametrize("shape", [(1,), (2,), (97,), (7, 13), (3, 4, 5)])
@DTYPES
def test_B43_mask_of_everything(shape: tuple[int, ...], sparsity: float, dtype: Any) -> None:
    scores = few_values(1, shape).astype(dtype)
    keep = qt.prune_mask(scores, sparsity)
    assert np.count_nonzero(~keep) == round(sparsity * scores.size)
    assert (keep.reshape(-1) == lowest_removed(scores.reshape(-1), round(sparsity * scores.size))).all()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.75])
@DTYPES
def test_B43_mask_along_an_axis(axis: int, sparsity: float, dtype: Any) -> None:
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


@pytest.mark.parametrize("sparsity", [1e-6, 0.1, 0.5, 0.999999])
def test_B43_large_sets(sparsity: float) -> None:
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


def test_B42_zero_and_one() -> None:
    w = np.array([[1.0, -2.0, 3.0, 4.0]], np.float32)
    assert bits_of(qt.prune(w, 0)) == bits_of(w)
    assert not qt.prune(w, 1).any()
    assert not qt.prune(w, 1.0, axis=0).any()
