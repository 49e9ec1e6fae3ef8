"""Every kernel of every instruction set returns the bits of the reference: cases x dtypes x sizes x threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, Array, Case, Out

import quantrim as qt
from quantrim import backend, reference

COMPILED = [isa for isa in qt.isas() if isa != "reference"]
# Around every vector width.
COLS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 127, 128, 129, 255, 257, 1000]
POISON = 0xA5
# Bytes behind an output that must stay as they were; none where AddressSanitizer watches what lies there.
GUARD = 0 if "libasan" in os.environ.get("LD_PRELOAD", "") else 64


def run(module: Any, case: Case, args: tuple[Any, ...]) -> tuple[Any, list[Array]]:
    """What the kernel returns and what it writes; fails if it writes past an end."""
    filled, outs, guards = [], [], []
    for a in args:
        if isinstance(a, Out):
            size = int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize
            memory = np.full(size + GUARD, POISON, np.uint8)
            a = memory[:size].view(a.dtype).reshape(a.shape)
            outs.append(a)
            guards.append(memory[size:])
        filled.append(a)
    result = getattr(module, case.function)(*filled)
    assert all((g == POISON).all() for g in guards), f"{case.name} writes past the end of an output"
    return result, outs


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@lru_cache(maxsize=128)  # what one case needs: tests of a case follow each other, an instruction set each
def expected(case: Case, dtype: str, rows: int, cols: int) -> tuple[tuple[Any, ...], Any, list[Array]]:
    """Arguments, and what the reference returns and writes."""
    args = case.args(np.random.default_rng([rows, cols]), rows, cols, DTYPES[dtype])
    return args, *run(reference, case, args)


def check(isa: str, case: Case, dtype: str, rows: int, cols: int) -> None:
    args, want, wanted = expected(case, dtype, rows, cols)
    with qt.use_isa(isa):
        got, gotten = run(backend.active, case, args)
    assert got == want, (case.name, isa, dtype, rows, cols)
    for g, w in zip(gotten, wanted, strict=True):
        assert same_bits(g, w), (case.name, isa, dtype, rows, cols, np.argwhere(g != w)[:5])


@pytest.mark.promise("G7")
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_same_bits_as_reference(isa: str, case: Case) -> None:
    """Lengths around every vector width and group, in all three dtypes; rows enough for three threads once."""
    for dtype in DTYPES if case.typed else ["float32"]:
        with qt.use_threads(1):
            for cols in COLS:
                check(isa, case, dtype, 3, -(-cols // case.multiple) * case.multiple)
            check(isa, case, dtype, 9, 37 * case.multiple)  # rows that are taken four at a time, and one
            for cols in (1, 2, 4, 7):  # the only tails of flat kernels that three rows do not make
                check(isa, case, dtype, 1, cols * case.multiple)
        with qt.use_threads(3):
            check(
                isa,
                case,
                dtype,
                211,
                33 * case.multiple if case.multiple > 8 else 1008 // case.multiple * case.multiple,
            )


def large_sets(dtype: str) -> Iterator[tuple[str, Array]]:
    rng = np.random.default_rng(3)
    n = 700_001
    normal = rng.standard_normal(n).astype(DTYPES[dtype])
    yield "normal", normal
    yield "few values", rng.integers(-3, 4, n).astype(DTYPES[dtype])
    yield "all equal", np.full(n, -1.5, DTYPES[dtype])
    yield "half zero", np.where(rng.random(n) < 0.5, 0, normal).astype(DTYPES[dtype])
    yield "sorted", np.sort(normal.astype(np.float32)).astype(DTYPES[dtype])


@lru_cache(maxsize=1)  # tests of a dtype follow each other
def selected(dtype: str) -> list[tuple[str, Array, int, bool, Array]]:
    """Name, weights, count and absolute of each selection, and the reference's mask in bits."""
    rows = []
    for name, w in large_sets(dtype):
        n = w.size
        for count in (0, 1, n // 3, n // 2, n - 1, n):
            for absolute in (False, True):
                mask = np.empty((1, n), np.bool_)
                reference.lowest_mask(w[None], count, absolute, mask)
                rows.append((name, w, count, absolute, np.packbits(mask)))
    return rows


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_selection_in_large_sets(isa: str, dtype: str, threads: int) -> None:
    """Sets too large to be looked at whole: random, few values, all equal, sorted, and ties across slices."""
    for name, w, count, absolute, want in selected(dtype):
        mask = np.empty((1, w.size), np.bool_)
        with qt.use_isa(isa), qt.use_threads(threads):
            backend.active.lowest_mask(w[None], count, absolute, mask)
        assert (np.packbits(mask) == want).all(), (name, count, absolute)


@pytest.mark.parametrize("isa", COMPILED)
def test_selection_in_rows_that_a_sample_narrows_down(isa: str) -> None:
    """Rows too long for bisection over all of them, too short for a pass that collects: the same kinds of numbers."""
    for name, w, count, absolute, _ in selected("float32"):
        rows = w[: 2 * 33_001].reshape(2, 33_001)
        rank = count * 33_001 // w.size
        want, mask = np.empty(rows.shape, np.bool_), np.empty(rows.shape, np.bool_)
        reference.lowest_mask(rows, rank, absolute, want)
        with qt.use_isa(isa), qt.use_threads(1):
            backend.active.lowest_mask(rows, rank, absolute, mask)
        assert (mask == want).all(), (name, rank, absolute)


@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("kernel", ["threshold", "quantize", "dequantize", "norm_rows"])
def test_results_that_leave_the_caches(isa: str, kernel: str) -> None:
    """Outputs above the limit are written past the caches, at any alignment, and long inputs fetched: the same bits."""
    rng = np.random.default_rng(5)
    rows, cols = 4099, 1532 if kernel != "quantize" else 9024
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    with qt.use_isa(isa):
        for shift in (0, 16, 4, 60):
            memory = np.full(w.nbytes + 192, POISON, np.uint8)
            start = -memory.ctypes.data % 64 + shift
            out = memory[start : start + w.nbytes].view(np.float32).reshape(w.shape)
            if kernel == "threshold":
                backend.active.threshold(w.reshape(-1), 0.5, "magnitude", out.reshape(-1))
                assert same_bits(out, np.where(np.abs(w) < 0.5, np.float32(0), w))
            elif kernel == "quantize":
                for bits, group in ((8, "channel"), (4, 7)):
                    whole = qt.quantize(w, bits, group_size=group)
                    for r in (0, 1, 2048, rows - 1):
                        assert same_bits(whole.data[r : r + 1], qt.quantize(w[r : r + 1], bits, group_size=group).data)
            elif kernel == "norm_rows":
                sums = qt.importance.l1(w, axis=1)
                assert all(
                    same_bits(sums[r : r + 1], qt.importance.l1(w[r : r + 1], axis=1)) for r in range(0, rows, 97)
                )
            else:
                q = qt.quantize(w, 5, group_size=48)
                backend.active.dequantize(q.data, 5, 48, q.scales, None, out)
                few = [qt.quantize(w[r : r + 1], 5, group_size=48).dequantize() for r in (0, 1, rows - 1)]
                assert all(same_bits(out[r : r + 1], f) for r, f in zip((0, 1, rows - 1), few, strict=True))
            assert (memory[:start] == POISON).all() and (memory[start + w.nbytes :] == POISON).all()


NOT_TELLING = (  # of their input whether it was finite
    "count_nonzero", "dequantize", "dequantize_codebook", "mask_below", "prune_below",
    "sparse_decode", "sparse_product",
)  # fmt: skip


@pytest.mark.promise("A1", "A2", "fault-D5")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("isa", COMPILED)
@pytest.mark.parametrize("case", [c for c in CASES if c.typed and c.function not in NOT_TELLING], ids=lambda c: c.name)
def test_nonfinite_weights_are_seen(isa: str, case: Case, bad: float) -> None:
    """Wherever the bad value stands, the kernel says so, as the reference does. -inf where the teachers, too, mask
    a class, and at no label, is not bad."""
    may_mask = "masked" in case.name and bad == -np.inf
    for dtype in DTYPES.values():
        for cols in (32 * case.multiple, 37 * case.multiple):
            args = case.args(np.random.default_rng(0), 2, cols, dtype)
            for position in (0, 1, 15, 16, 31, 32, cols - 1, cols, 2 * cols - 1):
                w = args[0].copy()
                w.reshape(-1)[position] = bad
                rest = tuple(w if a is args[0] else a for a in args[1:])
                with qt.use_isa(isa):
                    result, _ = run(backend.active, case, (w, *rest))
                wanted = run(reference, case, (w, *rest))[0] if may_mask else False
                assert result is wanted, (case.name, position)
