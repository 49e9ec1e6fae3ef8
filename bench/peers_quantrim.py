"""quantrim itself, with outputs reused as its users can reuse them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from contestant import Contestant, in_rows, scaled, scaled_nibbles, whole
from tasks import GROUP, SCALE, SPARSITY, THRESHOLD, Array, Data

import quantrim as qt


def versions() -> dict[str, str]:
    return {"quantrim": f"{qt.__version__} ({qt.backend.current_isa()})"}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    """List what does a task, ours first: the one that the ratio is about."""
    qt.use_threads(threads)
    make = MAKERS.get(task)
    return make(data) if make else []


def _threshold(data: Data) -> list[Contestant]:
    out = data.like()
    return [Contestant("threshold", lambda: qt.threshold(data.w, THRESHOLD, out=out), in_rows(out))]


def _global_prune(data: Data) -> list[Contestant]:
    out = data.like()
    return [Contestant("prune", lambda: qt.prune(data.w, SPARSITY, out=out), whole(out))]


def _two_of_four(data: Data) -> list[Contestant]:
    out = data.like()
    return [Contestant("prune 2:4", lambda: qt.prune(data.w, pattern="2:4", out=out), in_rows(out))]


def _l1_total(data: Data) -> list[Contestant]:
    out = np.zeros(())

    def call() -> None:
        out[...] = qt.importance.l1(data.w)

    return [Contestant("l1", call, whole(out))]


def _norm(function: Callable[..., object], axis: int) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        out = data.like(shape=(data.w.shape[1 - axis],))
        answer = in_rows(out) if axis == 1 else whole(out)
        return [Contestant(function.__name__, lambda: function(data.w, axis, out=out), answer)]

    return make


def _wanda_score(data: Data) -> list[Contestant]:
    out = data.like()
    return [Contestant("wanda", lambda: qt.importance.wanda(data.w, data.norm, out=out), in_rows(out))]


def _wanda_prune(data: Data) -> list[Contestant]:
    scores, out = data.like(), data.like()

    def call() -> None:
        qt.importance.wanda(data.w, data.norm, out=scores)
        qt.prune(data.w, SPARSITY, scores=scores, axis=-1, out=out)

    return [Contestant("wanda + prune", call, in_rows(out))]


def _given(data: Data) -> list[Contestant]:
    out = data.like(np.int8)
    q = _blank(data, 8, "tensor")
    return [
        Contestant("round_to_int", lambda: qt.round_to_int(data.w, 1 / SCALE, out=out), in_rows(out)),
        Contestant(
            "quantize",
            lambda: qt.quantize(data.w, 8, group_size="tensor", scales=SCALE, out=q),
            lambda rows: _signed(q.data[rows]),
        ),
    ]


def _signed(codes: Array) -> Array:
    signed: Array = (codes - np.uint8(128)).view(np.int8)
    return signed


def _blank(data: Data, bits: int, group_size: int | str) -> qt.QuantizedTensor:
    """Make a result to reuse."""
    shape = {"tensor": (1, 1), "channel": (data.rows, 1)}.get(str(group_size), (data.rows, data.cols // GROUP))
    return qt.QuantizedTensor(
        data=data.like(np.uint8, (data.rows, data.cols * bits // 8)),
        scales=data.like(np.float32, shape),
        zero_points=None,
        bits=bits,
        group_size=group_size,
        shape=(data.rows, data.cols),
    )


def _quantize(bits: int, group_size: int | str) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        q = _blank(data, bits, group_size)

        def answer(rows: Array) -> Array:
            return (scaled_nibbles(q.data, q.scales) if bits == 4 else scaled(_signed(q.data), q.scales))(rows)

        return [
            Contestant("quantize", lambda: qt.quantize(data.w, bits, group_size=group_size, out=q), answer),
        ]

    return make


def _dequantize(data: Data) -> list[Contestant]:
    q = qt.quantize(data.w, 4, group_size=GROUP)
    out = data.like()
    return [Contestant("dequantize", lambda: qt.dequantize(q, out=out), in_rows(out))]


MAKERS: dict[str, Callable[[Data], list[Contestant]]] = {
    "threshold": _threshold,
    "global prune 50 %": _global_prune,
    "2:4 prune": _two_of_four,
    "l1 total": _l1_total,
    "l1 per row": _norm(qt.importance.l1, 1),
    "l2 per row": _norm(qt.importance.l2, 1),
    "l2 per column": _norm(qt.importance.l2, 0),
    "wanda score": _wanda_score,
    "wanda prune 50 % per row": _wanda_prune,
    "int8, scale given": _given,
    "int8 per tensor": _quantize(8, "tensor"),
    "int8 per channel": _quantize(8, "channel"),
    "int8 groups of 32": _quantize(8, GROUP),
    "int4 groups of 32, packed": _quantize(4, GROUP),
    "dequantize int4": _dequantize,
}
