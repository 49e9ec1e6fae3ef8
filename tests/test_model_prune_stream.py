"""Pruning chunk by chunk beside `prune` of the whole: the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_helpers import weights
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.model import prune_stream

T = TypeVar("T")
Array = NDArray[Any]
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def pruned(x: Array, sparsity: float, parts: int) -> Array:
    """x pruned as a stream of `parts` chunks."""
    pieces = np.array_split(x, parts)

    def each_chunk(f: Callable[[Array], T], step: int = 1) -> Iterable[T]:
        return (f(piece) for piece in pieces[::step])

    removed = round(sparsity * x.size)
    cut = prune_stream.find_cut(removed, x.size, 8 * x.dtype.itemsize, parts, each_chunk)
    outs = [np.full_like(piece, 99) for piece in pieces]
    for number, (piece, out) in enumerate(zip(pieces, outs, strict=True)):
        assert prune_stream.apply_cut(piece, cut, number, out)
    return np.concatenate(outs)


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def kinds(n: int, dtype: DTypeLike) -> dict[str, Array]:
    w = weights(n, dtype=dtype)
    rng = np.random.default_rng(n)
    extremes = np.array([0, -0.0, 1e-45, -1e-45, 1e-40, 6e-8, 3e38, -3e38, 65504], np.float32)
    with np.errstate(over="ignore"):
        extremes = np.where(np.isfinite(extremes.astype(dtype)), extremes, 1).astype(dtype)
    return {
        "normal": w,
        "sorted": np.sort(np.abs(w)),
        "mostly zero": np.where(rng.random(n) < 0.7, np.float32(-0.0), w).astype(dtype),
        "one value": np.full(n, -0.25, dtype),
        "extremes": extremes[rng.integers(0, 9, n)],
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", list(kinds(1, np.float32)))
@pytest.mark.parametrize("n", [1, 2, 17, 1000, 40_000])
def test_B43_the_weights_that_prune_takes(dtype: DTypeLike, kind: str, n: int) -> None:
    x = kinds(n, dtype)[kind]
    for sparsity in (0.0, 1e-9, 0.1, 0.25, 0.5, 0.7, 0.999, 1.0):
        expected = qt.prune(x, sparsity)
        for parts in (1, 3, 37):
            assert same_bits(pruned(x, sparsity, parts), expected), (sparsity, parts)


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(1, 9),
    st.sampled_from(DTYPES),
)
def test_B43_any_bits(patterns: list[int], sparsity: float, parts: int, dtype: type[Any]) -> None:
    kind = np.dtype(dtype)
    unsigned = np.dtype(f"u{kind.itemsize}")
    bits = (np.array(patterns, np.uint64) % 2 ** (8 * kind.itemsize)).astype(unsigned)
    finite = prune_stream.keys(bits.view(kind)) < prune_stream.keys(np.array([np.inf], kind))
    x = np.where(finite, bits, 0).astype(unsigned).view(kind)
    assert same_bits(pruned(x, sparsity, parts), qt.prune(x, sparsity))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sample_that_misleads_costs_time_only(dtype: DTypeLike, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way out of the guesses: below both, above both, too many between; then by histograms."""
    monkeypatch.setattr(prune_stream, "SAMPLE", 64)
    monkeypatch.setattr(prune_stream, "SAMPLE_CHUNKS", 2)
    real, used = prune_stream._by_histogram, []

    def counted(*arguments: Any) -> Any:
        used.append(1)
        return real(*arguments)

    monkeypatch.setattr(prune_stream, "_by_histogram", counted)
    x = weights(20_000, dtype=dtype)
    high, low = x.copy(), x.copy()
    high[:2000], low[:2000] = 3, 0  # what the sample sees is not like the rest
    high[10_000:12_000], low[10_000:12_000] = 3, 0
    for each in (high, low):
        for sparsity in (0.15, 0.5, 0.85):
            assert same_bits(pruned(each, sparsity, 20), qt.prune(each, sparsity))
    assert used
    before = len(used)
    monkeypatch.setattr(prune_stream, "KEPT", 1)
    assert same_bits(pruned(x, 0.5, 20), qt.prune(x, 0.5))
    assert len(used) == before + 1


def test_keys_order_as_magnitudes() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        every = np.arange(2**16, dtype=np.uint16).view(dtype)
        every = every[prune_stream.keys(every) < prune_stream.keys(np.array([np.inf], dtype))]
        order = np.argsort(prune_stream.keys(every), kind="stable")
        assert (np.diff(np.abs(every[order].astype(np.float64))) >= 0).all()


def test_not_finite_is_seen_whatever_is_removed() -> None:
    x = np.array([1, np.nan, 2], np.float32)
    for key in (0, 100, 2**31 - 1):
        assert not prune_stream.apply_cut(x, prune_stream.Cut(key), 0, np.empty_like(x))
