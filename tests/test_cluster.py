"""Weight sharing: no partition has a smaller squared error, and nothing is random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim.reference import codebooks

ROUNDING = 1 + 1e-6  # of squared errors: the values of a codebook are rounded to float32


def squared_error(w: Array, q: qt.QuantizedTensor) -> float:
    return float(((w.astype(np.float64) - q.dequantize()) ** 2).sum())


def exact_error(values: Iterable[float]) -> Fraction:
    x = [Fraction(float(v)) for v in values]
    mean = sum(x, Fraction(0)) / len(x)
    return sum(((v - mean) ** 2 for v in x), Fraction(0))


def least_error(values: list[float], k: int) -> Fraction:
    """Over all ways to cut the sorted values into k parts, with exact fractions."""
    x = sorted(values)
    parts = {(i, j): exact_error(x[i:j]) for i in range(len(x)) for j in range(i + 1, len(x) + 1)}
    return min(
        sum((parts[i, j] for i, j in itertools.pairwise((0, *cuts, len(x)))), Fraction(0))
        for cuts in itertools.combinations(range(1, len(x)), min(k, len(x)) - 1)
    )


def samples(seed: int, n: int) -> Array:
    rng = np.random.default_rng(seed)
    kinds = [
        lambda: rng.standard_normal(n),
        lambda: rng.laplace(size=n) + 1000,
        lambda: rng.integers(-4, 5, n),
        lambda: np.exp(3 * rng.standard_normal(n)),
        lambda: np.concatenate([[-1e20, 1e20], rng.standard_normal(n - 2)]),
        lambda: np.repeat(rng.standard_normal(2), -(-n // 2))[:n],
    ]
    return kinds[seed % len(kinds)]().astype(np.float32)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(24))
def test_no_partition_is_better(seed: int, k: int) -> None:
    w = samples(seed, 11)
    q = qt.cluster(w, k)
    least = float(least_error(w.tolist(), k))
    size = float((w.astype(np.float64) ** 2).sum())
    assert squared_error(w, q) <= least * ROUNDING + size * 2.0**-46


def best_errors(x: Array, k: int) -> float:
    """Dynamic programming over every pair of places, in float64 around the mean: slow, and without any shortcut."""
    x = np.sort(x.astype(np.float64)) - x.astype(np.float64).mean()
    s, s2 = (np.concatenate([[0], np.cumsum(v)]) for v in (x, x * x))
    i, j = np.arange(len(x) + 1)[:, None], np.arange(len(x) + 1)[None]
    with np.errstate(all="ignore"):
        cost = np.where(i < j, s2[None] - s2[:, None] - (s[None] - s[:, None]) ** 2 / (j - i), np.inf)
    best = cost[0]
    for _ in range(k - 1):
        best = (best[:, None] + cost).min(0)
    return float(best[-1])


@pytest.mark.parametrize("k", [2, 7, 16, 64, 256])
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_as_good_as_plain_dynamic_programming(seed: int, k: int) -> None:
    w = samples(seed, 600)
    assert squared_error(w, qt.cluster(w, k)) <= best_errors(w, k) * ROUNDING + float((w**2).sum()) * 2.0**-48


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["normal", "laplace", "heavy tails"])
def test_large_sets_are_as_good_as_scikit_learn(kind: str) -> None:
    """More distinct values than are cut at; the best of ten starts of KMeans on the same weights."""
    cluster = pytest.importorskip("sklearn.cluster", reason="needs scikit-learn")
    rng = np.random.default_rng(4)
    n = 100_000
    draw = {"normal": rng.standard_normal(n), "laplace": rng.laplace(size=n), "heavy tails": rng.standard_t(4, n)}
    w = draw[kind].astype(np.float32)
    theirs = cluster.KMeans(16, n_init=10, random_state=0).fit(w[:, None]).cluster_centers_[:, 0].astype(np.float64)
    error = float((np.abs(w[:, None] - theirs).min(-1) ** 2).sum())  # its inertia_ is a sum in float32
    assert squared_error(w, qt.cluster(w)) <= error * ROUNDING


def exact_cuts_everywhere(w: Array, k: int) -> float:
    """The least error by dynamic programming over all places, which is tested against every pair of places above."""
    v, n = np.unique(w, return_counts=True)
    v = v.astype(np.float64) - float(v[len(v) // 2])
    counts, sums = (np.concatenate([[0], np.cumsum(a)]).astype(np.float64) for a in (n, n * v))
    cuts = codebooks.best_cuts(counts, sums, k)
    parts = [(v[a:b], n[a:b]) for a, b in itertools.pairwise(cuts)]
    return sum(float(((x - np.average(x, weights=many)) ** 2 * many).sum()) for x, many in parts)


@pytest.mark.slow
def test_large_sets_against_the_best() -> None:
    """More distinct values, of heavy tails, than are cut at: chosen places, then Lloyd, are as good within 1e-6."""
    w = np.exp(3 * np.random.default_rng(5).standard_normal(90_000)).astype(np.float32)
    assert len(np.unique(w)) > codebooks.CUTS
    assert squared_error(w, qt.cluster(w, 16)) <= exact_cuts_everywhere(w, 16) * ROUNDING


def test_control_lloyd_from_even_ranks_is_worse() -> None:
    """What a k-means without dynamic programming finds: the tests above would see it."""
    w = samples(3, 600)
    centers = np.quantile(w.astype(np.float64), (np.arange(16) + 0.5) / 16)
    for _ in range(1000):
        nearest = np.abs(w[:, None] - centers).argmin(-1)
        centers = np.array([w[nearest == c].mean() if (nearest == c).any() else centers[c] for c in range(16)])
    error = float(((w - centers[np.abs(w[:, None] - centers).argmin(-1)]) ** 2).sum())
    assert error > best_errors(w, 16) * 1.01


# Forms


@pytest.mark.parametrize("k", range(2, 18))
def test_codes_have_the_bits_that_k_needs(k: int) -> None:
    w = samples(0, 200).reshape(4, 50)
    q = qt.cluster(w, k)
    assert q.bits == math.ceil(math.log2(k))
    assert q.data.shape == (4, -(-50 * q.bits // 8))
    assert q.codebook is not None
    assert q.codebook.shape == (k,)
    assert q.scales.tolist() == [[1]]
    assert len(np.unique(q.dequantize())) == k
    assert q.nbytes == q.data.nbytes + 4 + 4 * k


@pytest.mark.parametrize("k", [2, 5, 16, 256])
def test_fewer_distinct_weights_than_k_are_kept(k: int) -> None:
    for values in ([0.5], [-1.0, 3e38], [0.0, 1e-45], [-0.1, 0.3, 0.5, 0.7][:k]):
        w = np.random.default_rng(0).choice(np.array(values, np.float32), (3, 40))
        for group_size in ("tensor", "channel", 7):
            q = qt.cluster(w, k, group_size=group_size)
            assert bits_of(q.dequantize()) == bits_of(w)


def test_means_stay_within_their_clusters() -> None:
    """Sums of many large weights leave rounding errors that must not show in small ones, nor in zeros."""
    large = np.random.default_rng(1).standard_normal(9000) * 1e6
    w = np.concatenate([large, -large, np.zeros(500), [1e-30, -1e-30]]).astype(np.float32)
    q = qt.cluster(w, 256)
    assert q.codebook is not None
    for code in np.unique(q.codes()):
        own = w[q.codes() == code]
        assert own.min() <= q.codebook[code] <= own.max()


@pytest.mark.parametrize("group", [1, 5, 64, 100])
def test_groups_have_codebooks_of_their_own(group: int) -> None:
    w = samples(0, 3 * 97).reshape(3, 97)
    q = qt.cluster(w, 4, group_size=group)
    assert q.codebook is not None
    assert q.codebook.shape == (3, -(-97 // group), 4)
    for g in range(q.scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        for r in range(3):
            alone = qt.cluster(w[r, columns], 4)
            assert (q.dequantize()[r, columns] == alone.dequantize()).all()
    channel = qt.cluster(w, 4, group_size="channel")
    assert bits_of(channel.dequantize()) == bits_of(qt.cluster(w, 4, group_size=97).dequantize())


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0,), (0, 8), (8, 0), (3, 0, 4)])
@pytest.mark.parametrize("group_size", ["tensor", "channel", 3])
def test_empty_arrays(shape: tuple[int, ...], group_size: Any) -> None:
    q = qt.cluster(np.zeros(shape, np.float32), group_size=group_size)
    assert q.dequantize().shape == shape


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=list(FLOATS))
@pytest.mark.parametrize("n", [2047, 2048, 2049, 70_000])
def test_same_bits_as_reference_and_on_any_threads(n: int, dtype: Any) -> None:
    """Sets that are sorted by comparing and by digits, cut everywhere and at some places."""
    w = np.random.default_rng(n).standard_normal(n).astype(dtype)
    with qt.use_isa("reference"):
        want = bits_of(qt.cluster(w, 5))
    for isa in qt.isas()[:-1]:
        for threads in (1, 3):
            with qt.use_isa(isa), qt.use_threads(threads):
                assert bits_of(qt.cluster(w, 5)) == want


@pytest.mark.promise("A4")
def test_negative_zero_counts_as_zero() -> None:
    w = np.array([0.0, -0.0, 1.0, -0.0, 2.0, 5.0], np.float32)
    assert bits_of(qt.cluster(w, 3)) == bits_of(qt.cluster(w + 0, 3))


@pytest.mark.promise("A5", "A10")
def test_subnormal_and_huge() -> None:
    for values in ([1e-45, 3e-45, 1e-40, 1e-38], [-3e38, 3e38, 1e-3, 2e-3], [-3.4e38, -3.3e38, 3.3e38, 3.4e38]):
        w = np.array(values * 5, np.float32)
        q = qt.cluster(w, 2)
        assert q.codebook is not None
        assert np.isfinite(q.codebook).all()
        assert squared_error(w, q) <= float(least_error(w.tolist()[:4], 2)) * 5 * ROUNDING


@pytest.mark.promise("B40")
@pytest.mark.parametrize("k", [0, 1, 257, -1, True, 4.0, "4", None], ids=repr)
def test_k_out_of_range(k: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"k must be an integer of 2\.\.256, not"):
        qt.cluster(samples(0, 50), k)


def test_out_is_filled_again() -> None:
    w = samples(0, 60).reshape(3, 20)
    for options in ({}, {"group_size": "channel"}, {"group_size": 7}):
        want = qt.cluster(w, 4, **options)  # type: ignore[arg-type]
        again = qt.cluster(-w[:, ::-1] * 3, 4, **options)  # type: ignore[arg-type]
        assert bits_of(again) != bits_of(want)
        assert qt.cluster(w, 4, out=again, **options) is again  # type: ignore[arg-type]
        assert bits_of(again) == bits_of(want)
    with pytest.raises(ValueError, match=r"out must have a codebook of shape \(4,\), not \(3,\)"):
        qt.cluster(w, 4, out=qt.cluster(w, 3))
    with pytest.raises(ValueError, match="out must have"):
        qt.cluster(w, 4, out=qt.cluster(w, 5))
