"""numpy, written as well as it goes: every temporary reused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from contestant import Contestant, in_rows, scaled, scaled_nibbles, whole
from tasks import GROUP, SCALE, SPARSITY, THRESHOLD, Array, Data


def versions() -> dict[str, str]:
    return {"numpy": np.__version__}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    """List what does a task. numpy has one thread, whatever is asked."""
    make = MAKERS.get(task)
    return make(data) if make else []


def _threshold(data: Data) -> list[Contestant]:
    size, keep, out = data.like(), data.like(np.bool_), data.like()

    def call() -> None:
        np.abs(data.w, out=size)
        np.greater_equal(size, np.float32(THRESHOLD), out=keep)
        np.multiply(data.w, keep, out=out)

    return [Contestant("abs, compare, multiply", call, in_rows(out))]


def _global_prune(data: Data) -> list[Contestant]:
    size, keep, out = data.like(), data.like(np.bool_), data.like()

    def call() -> None:
        np.abs(data.w, out=size)
        flat = size.reshape(-1)
        flat.partition(data.removed - 1)
        cut = flat[data.removed - 1]
        np.abs(data.w, out=size)
        np.greater(size, cut, out=keep)
        np.multiply(data.w, keep, out=out)

    return [Contestant("partition, compare, multiply", call, whole(out))]


def _two_of_four(data: Data) -> list[Contestant]:
    size, keep, out = data.like(), data.like(np.bool_), data.like()

    def call() -> None:
        np.abs(data.w, out=size)
        cut = np.partition(size.reshape(-1, 4), 1, axis=1)[:, 1:2]
        np.greater(size.reshape(-1, 4), cut, out=keep.reshape(-1, 4))
        np.multiply(data.w, keep, out=out)

    return [Contestant("partition, compare, multiply", call, in_rows(out))]


def _l1_total(data: Data) -> list[Contestant]:
    size, out = data.like(), np.zeros(())

    def call() -> None:
        np.abs(data.w, out=size)
        out[...] = size.sum()

    return [Contestant("abs, sum", call, whole(out))]


def _l1_row(data: Data) -> list[Contestant]:
    size, out = data.like(), data.like(shape=(data.rows,))

    def call() -> None:
        np.abs(data.w, out=size)
        size.sum(axis=1, out=out)

    return [Contestant("abs, sum", call, in_rows(out))]


def _l2(letters: str, axis: int) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        out = data.like(shape=(data.w.shape[1 - axis],))

        def call() -> None:
            np.einsum(letters, data.w, data.w, out=out)
            np.sqrt(out, out=out)

        return [Contestant("einsum", call, in_rows(out) if axis == 1 else whole(out))]

    return make


def _wanda_score(data: Data) -> list[Contestant]:
    out = data.like()

    def call() -> None:
        np.abs(data.w, out=out)
        np.multiply(out, data.norm, out=out)

    return [Contestant("abs, multiply", call, in_rows(out))]


def _wanda_prune(data: Data) -> list[Contestant]:
    scores, out = data.like(), data.like()
    count = round(SPARSITY * data.cols)

    def call() -> None:
        np.abs(data.w, out=scores)
        np.multiply(scores, data.norm, out=scores)
        lowest = np.argpartition(scores, count - 1, axis=1)[:, :count]
        np.copyto(out, data.w)
        np.put_along_axis(out, lowest, 0, axis=1)

    return [Contestant("argpartition", call, in_rows(out))]


def _round(x: Array, low: int, high: int, codes: Array) -> None:
    np.rint(x, out=x)
    np.clip(x, low, high, out=x)
    np.copyto(codes, x, casting="unsafe")


def _given(data: Data) -> list[Contestant]:
    x, out = data.like(), data.like(np.int8)

    def call() -> None:
        np.multiply(data.w, np.float32(1 / SCALE), out=x)
        _round(x, -128, 127, out)

    return [Contestant("multiply, rint, clip", call, in_rows(out))]


def _int8(shape: Callable[[Data], tuple[int, int, int]]) -> Callable[[Data], list[Contestant]]:
    """Make symmetric int8, the scale over the last axis of w seen in this shape."""

    def make(data: Data) -> list[Contestant]:
        as_groups = shape(data)
        x, codes = data.like(), data.like(np.int8)
        w, scaled_w = data.w.reshape(as_groups), x.reshape(as_groups)
        scales = data.like(shape=(*as_groups[:2], 1))

        def call() -> None:
            np.abs(w, out=scaled_w)
            scaled_w.max(axis=2, keepdims=True, out=scales)
            np.divide(scales, np.float32(127), out=scales)
            np.multiply(w, np.float32(1) / scales, out=scaled_w)
            _round(x, -127, 127, codes)

        return [Contestant("abs, max, multiply, rint", call, scaled(codes, scales.reshape(as_groups[:2])))]

    return make


def _int4(data: Data) -> list[Contestant]:
    x, codes, packed = data.like(), data.like(np.uint8), data.like(np.uint8, (data.rows, data.cols // 2))
    groups = (data.rows, data.cols // GROUP, GROUP)
    w, scaled_w, scales = data.w.reshape(groups), x.reshape(groups), data.like(shape=(*groups[:2], 1))

    def call() -> None:
        np.abs(w, out=scaled_w)
        scaled_w.max(axis=2, keepdims=True, out=scales)
        np.divide(scales, np.float32(7), out=scales)
        np.multiply(w, np.float32(1) / scales, out=scaled_w)
        np.rint(x, out=x)
        np.add(x, 8, out=x)
        np.clip(x, 1, 15, out=x)
        np.copyto(codes, x, casting="unsafe")
        np.left_shift(codes[:, 1::2], 4, out=packed)
        np.bitwise_or(packed, codes[:, 0::2], out=packed)

    return [Contestant("abs, max, multiply, rint, pack", call, scaled_nibbles(packed, scales.reshape(groups[:2])))]


def _dequantize(data: Data) -> list[Contestant]:
    packed, scales = data.grid()
    codes, out = data.like(np.uint8), data.like()

    def call() -> None:
        np.bitwise_and(packed, 15, out=codes[:, 0::2])
        np.right_shift(packed, 4, out=codes[:, 1::2])
        np.subtract(codes, np.float32(8), out=out)
        groups = out.reshape(*scales.shape, GROUP)
        np.multiply(groups, scales[..., None], out=groups)

    return [Contestant("unpack, subtract, multiply", call, in_rows(out))]


MAKERS: dict[str, Callable[[Data], list[Contestant]]] = {
    "threshold": _threshold,
    "global prune 50 %": _global_prune,
    "2:4 prune": _two_of_four,
    "l1 total": _l1_total,
    "l1 per row": _l1_row,
    "l2 per row": _l2("ij,ij->i", 1),
    "l2 per column": _l2("ij,ij->j", 0),
    "wanda score": _wanda_score,
    "wanda prune 50 % per row": _wanda_prune,
    "int8, scale given": _given,
    "int8 per tensor": _int8(lambda d: (1, 1, d.w.size)),
    "int8 per channel": _int8(lambda d: (d.rows, 1, d.cols)),
    "int8 groups of 32": _int8(lambda d: (d.rows, d.cols // GROUP, GROUP)),
    "int4 groups of 32, packed": _int4,
    "dequantize int4": _dequantize,
}
