"""Pruning chunk by chunk beside `prune` of the whole: the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_helpers import weights
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.model.prune.cut import Ranked, score_cuts
from quantrim.model.streaming.chunks import Chunk

T = TypeVar("T")
Array = NDArray[Any]
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


class Pieces:
    """One row as a stream of `parts` chunks."""

    def __init__(self, x: Array, parts: int) -> None:
        self._x = x
        ends = np.linspace(0, x.size, min(parts, x.size) + 1).astype(int).tolist()
        self.chunks = [Chunk(0, 1, first, end - first) for first, end in pairwise(ends)]

    def read(self, chunk: Chunk) -> Array:
        return self._x[None, chunk.col : chunk.col + chunk.cols]

    def each(self, f: Callable[[Array, Chunk], T]) -> Generator[T, None, None]:
        yield from (f(self.read(chunk), chunk) for chunk in self.chunks)


def pruned(x: Array, sparsity: float, parts: int) -> Array:
    """x pruned as a stream of `parts` chunks."""
    pieces, ranked = Pieces(x, parts), Ranked(None, (1, x.size))
    (cut,) = score_cuts(sparsity, [(ranked, pieces)])
    outs = [np.full((1, chunk.cols), 99, x.dtype) for chunk in pieces.chunks]
    for chunk, out in zip(pieces.chunks, outs, strict=True):
        ranked.apply(pieces.read(chunk), chunk, cut, out)
    return np.concatenate(outs, axis=1)[0]


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


@pytest.mark.promise("B43")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", list(kinds(1, np.float32)))
@pytest.mark.parametrize("n", [1, 2, 17, 1000, 40_000])
def test_the_weights_that_prune_takes(dtype: DTypeLike, kind: str, n: int) -> None:
    x = kinds(n, dtype)[kind]
    for sparsity in (0.0, 1e-9, 0.1, 0.25, 0.5, 0.7, 0.999, 1.0):
        expected = qt.prune(x, sparsity)
        for parts in (1, 3, 37):
            assert same_bits(pruned(x, sparsity, parts), expected), (sparsity, parts)


@pytest.mark.promise("B43")
@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(1, 9),
    st.sampled_from(DTYPES),
)
def test_any_bits_are_pruned_as_prune_does(patterns: list[int], sparsity: float, parts: int, dtype: type[Any]) -> None:
    kind = np.dtype(dtype)
    unsigned = np.dtype(f"u{kind.itemsize}")
    bits = (np.array(patterns, np.uint64) % 2 ** (8 * kind.itemsize)).astype(unsigned)
    with np.errstate(invalid="ignore"):
        x = np.where(np.isfinite(bits.view(kind)), bits, 0).astype(unsigned).view(kind)
    assert same_bits(pruned(x, sparsity, parts), qt.prune(x, sparsity))


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_not_finite_is_seen_whatever_is_removed(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"overflows? float32|must be finite"):
        pruned(np.array([1, np.nan, 2], np.float32), sparsity, 2)
