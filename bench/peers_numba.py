"""numba: the loops that somebody would write first, compiled; rows in parallel where threads allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from contestant import Contestant, in_rows, scaled, scaled_nibbles, whole
from numba import njit, prange
from tasks import GROUP, SCALE, SPARSITY, THRESHOLD, Array, Data


def versions() -> dict[str, str]:
    return {"numba": numba.__version__}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    numba.set_num_threads(threads)
    make = MAKERS.get(task)
    return make(data) if make else []


kernel: Callable[[Callable[..., None]], Callable[..., None]] = njit(parallel=True, fastmath=True, error_model="numpy")


@kernel
def threshold(w: Array, t: Any, out: Array) -> None:
    for i in prange(w.shape[0]):
        for j in range(w.shape[1]):
            x = w[i, j]
            out[i, j] = x if abs(x) >= t else np.float32(0)


@kernel
def two_of_four(w: Array, out: Array) -> None:
    """Rank by comparing pairs; the first goes first among equals."""
    for i in prange(w.shape[0]):
        for j in range(0, w.shape[1], 4):
            a, b, c, d = abs(w[i, j]), abs(w[i, j + 1]), abs(w[i, j + 2]), abs(w[i, j + 3])
            ba, ca, da, cb, db, dc = b < a, c < a, d < a, c < b, d < b, d < c
            ab, ac, ad, bc, bd, cd = not ba, not ca, not da, not cb, not db, not dc
            out[i, j] = w[i, j] * ((ba & ca) | (ba & da) | (ca & da))
            out[i, j + 1] = w[i, j + 1] * ((ab & cb) | (ab & db) | (cb & db))
            out[i, j + 2] = w[i, j + 2] * ((ac & bc) | (ac & dc) | (bc & dc))
            out[i, j + 3] = w[i, j + 3] * ((ad & bd) | (ad & cd) | (bd & cd))


@kernel
def l1_rows(w: Array, out: Array) -> None:
    for i in prange(w.shape[0]):
        total = np.float32(0)
        for j in range(w.shape[1]):
            total += abs(w[i, j])
        out[i] = total


@kernel
def l2_rows(w: Array, out: Array) -> None:
    for i in prange(w.shape[0]):
        total = np.float32(0)
        for j in range(w.shape[1]):
            total += w[i, j] * w[i, j]
        out[i] = np.sqrt(total)


@kernel
def l2_columns(w: Array, out: Array) -> None:
    """Sum stripes of columns, so that the totals stay in cache."""
    stripe = 512
    for s in prange((w.shape[1] + stripe - 1) // stripe):
        first, last = s * stripe, min((s + 1) * stripe, w.shape[1])
        out[first:last] = 0
        for i in range(w.shape[0]):
            for j in range(first, last):
                out[j] += w[i, j] * w[i, j]
        for j in range(first, last):
            out[j] = np.sqrt(out[j])


@kernel
def wanda(w: Array, norm: Array, out: Array) -> None:
    for i in prange(w.shape[0]):
        for j in range(w.shape[1]):
            out[i, j] = abs(w[i, j]) * norm[j]


@kernel
def wanda_prune(w: Array, norm: Array, count: int, out: Array) -> None:
    for i in prange(w.shape[0]):
        score = np.abs(w[i]) * norm
        cut = np.partition(score, count - 1)[count - 1]
        for j in range(w.shape[1]):
            out[i, j] = w[i, j] if score[j] > cut else np.float32(0)


@kernel
def round_given(w: Array, inverse: Any, out: Array) -> None:
    for i in prange(w.shape[0]):
        for j in range(w.shape[1]):
            out[i, j] = np.int8(min(max(np.rint(w[i, j] * inverse), np.float32(-128)), np.float32(127)))


@kernel
def absmax_rows(w: Array, out: Array) -> None:
    for i in prange(w.shape[0]):
        most = np.float32(0)
        for j in range(w.shape[1]):
            most = max(most, abs(w[i, j]))
        out[i] = most


@kernel
def int8_groups(w: Array, width: int, codes: Array, scales: Array) -> None:
    for i in prange(w.shape[0]):
        for g in range(w.shape[1] // width):
            most = np.float32(0)
            for j in range(g * width, (g + 1) * width):
                most = max(most, abs(w[i, j]))
            scale = most / np.float32(127)
            scales[i, g] = scale
            inverse = np.float32(1) / scale
            for j in range(g * width, (g + 1) * width):
                codes[i, j] = np.int8(np.rint(w[i, j] * inverse))


@kernel
def int4_groups(w: Array, packed: Array, scales: Array) -> None:
    for i in prange(w.shape[0]):
        for g in range(w.shape[1] // 32):
            most = np.float32(0)
            for j in range(g * 32, g * 32 + 32):
                most = max(most, abs(w[i, j]))
            scale = most / np.float32(7)
            scales[i, g] = scale
            inverse = np.float32(1) / scale
            for j in range(g * 16, g * 16 + 16):
                low = np.int32(np.rint(w[i, 2 * j] * inverse)) + 8
                high = np.int32(np.rint(w[i, 2 * j + 1] * inverse)) + 8
                packed[i, j] = np.uint8(low | high << 4)


@kernel
def decode_int4(packed: Array, scales: Array, out: Array) -> None:
    for i in prange(out.shape[0]):
        for g in range(scales.shape[1]):
            scale = scales[i, g]
            for j in range(g * 16, g * 16 + 16):
                b = packed[i, j]
                out[i, 2 * j] = np.float32(np.int32(b & 15) - 8) * scale
                out[i, 2 * j + 1] = np.float32(np.int32(b >> 4) - 8) * scale


def _like_w(name: str, function: Callable[..., Any], *rest: Any) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        out = data.like()
        return [Contestant(name, lambda: function(data.w, *rest, out), in_rows(out))]

    return make


def _l1_total(data: Data) -> list[Contestant]:
    rows, out = data.like(shape=(data.rows,)), np.zeros(())

    def call() -> None:
        l1_rows(data.w, rows)
        out[...] = rows.sum()

    return [Contestant("loop", call, whole(out))]


def _rows(function: Callable[..., Any]) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        out = data.like(shape=(data.rows,))
        return [Contestant("loop", lambda: function(data.w, out), in_rows(out))]

    return make


def _l2_column(data: Data) -> list[Contestant]:
    out = data.like(shape=(data.cols,))
    return [Contestant("loop", lambda: l2_columns(data.w, out), whole(out))]


def _wanda(data: Data) -> list[Contestant]:
    return _like_w("loop", wanda, data.norm)(data)


def _wanda_prune(data: Data) -> list[Contestant]:
    return _like_w("partition, loop", wanda_prune, data.norm, round(SPARSITY * data.cols))(data)


def _given(data: Data) -> list[Contestant]:
    out = data.like(np.int8)
    return [Contestant("loop", lambda: round_given(data.w, np.float32(1 / SCALE), out), in_rows(out))]


def _int8_tensor(data: Data) -> list[Contestant]:
    rows, scale, out = data.like(shape=(data.rows,)), np.zeros((1, 1), np.float32), data.like(np.int8)

    def call() -> None:
        absmax_rows(data.w, rows)
        scale[...] = rows.max() / np.float32(127)
        round_given(data.w, np.float32(1) / scale[0, 0], out)

    return [Contestant("two loops", call, scaled(out, scale))]


def _int8(width: Callable[[Data], int]) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        columns = width(data)
        codes, scales = data.like(np.int8), data.like(shape=(data.rows, data.cols // columns))
        return [Contestant("loop", lambda: int8_groups(data.w, columns, codes, scales), scaled(codes, scales))]

    return make


def _int4(data: Data) -> list[Contestant]:
    packed = data.like(np.uint8, (data.rows, data.cols // 2))
    scales = data.like(shape=(data.rows, data.cols // GROUP))
    return [Contestant("loop", lambda: int4_groups(data.w, packed, scales), scaled_nibbles(packed, scales))]


def _dequantize(data: Data) -> list[Contestant]:
    packed, scales = data.grid()
    out = data.like()
    return [Contestant("loop", lambda: decode_int4(packed, scales, out), in_rows(out))]


MAKERS: dict[str, Callable[[Data], list[Contestant]]] = {
    "threshold": _like_w("loop", threshold, np.float32(THRESHOLD)),
    "2:4 prune": _like_w("pairwise ranks", two_of_four),
    "l1 total": _l1_total,
    "l1 per row": _rows(l1_rows),
    "l2 per row": _rows(l2_rows),
    "l2 per column": _l2_column,
    "wanda score": _wanda,
    "wanda prune 50 % per row": _wanda_prune,
    "int8, scale given": _given,
    "int8 per tensor": _int8_tensor,
    "int8 per channel": _int8(lambda d: d.cols),
    "int8 groups of 32": _int8(lambda d: GROUP),
    "int4 groups of 32, packed": _int4,
    "dequantize int4": _dequantize,
}
