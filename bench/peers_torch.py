"""torch on the CPU: its ready-made functions, and its operations put together with outputs reused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from contestant import Contestant, in_rows, scaled, scaled_nibbles, whole
from tasks import GROUP, SCALE, SPARSITY, THRESHOLD, Array, Data
from torch.nn.utils.prune import L1Unstructured

hardshrink = torch.ops.aten.hardshrink.out
warnings.filterwarnings("ignore", "torch.quantize_per_tensor, .* deprecated", UserWarning)
norm_of = torch.linalg.vector_norm


def versions() -> dict[str, str]:
    return {"torch": torch.__version__}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    torch.set_num_threads(threads)
    make = MAKERS.get(task)
    return make(data, torch.from_numpy(data.w)) if make else []


def _as_torch(*arrays: Array) -> list[Any]:
    return [torch.from_numpy(a) for a in arrays]


def _threshold(data: Data, x: Any) -> list[Contestant]:
    out = data.like()
    (o,) = _as_torch(out)
    return [Contestant("hardshrink", lambda: hardshrink(x, THRESHOLD, out=o), in_rows(out))]


def _global_prune(data: Data, x: Any) -> list[Contestant]:
    size, out = data.like(), data.like()
    s, o = _as_torch(size, out)
    method: Any = L1Unstructured(amount=SPARSITY)

    def by_partition() -> None:
        torch.abs(x, out=s)
        flat = size.reshape(-1)
        flat.partition(data.removed - 1)
        hardshrink(x, float(flat[data.removed - 1]), out=o)

    def by_kthvalue() -> None:
        torch.abs(x, out=s)
        hardshrink(x, s.reshape(-1).kthvalue(data.removed).values.item(), out=o)

    def by_prune() -> None:
        o.copy_(method.prune(x))

    return [
        Contestant("numpy partition, hardshrink", by_partition, whole(out)),
        Contestant("kthvalue, hardshrink", by_kthvalue, whole(out)),
        Contestant("prune.L1Unstructured", by_prune, whole(out)),
    ]


def _two_of_four(data: Data, x: Any) -> list[Contestant]:
    size, out = data.like(), data.like()
    s, o = _as_torch(size, out)
    fours, into = s.reshape(-1, 4), o.reshape(-1, 4)

    def call() -> None:
        torch.abs(x, out=s)
        lowest = torch.topk(fours, 2, dim=1, largest=False, sorted=False).indices
        into.copy_(x.reshape(-1, 4)).scatter_(1, lowest, 0)

    return [Contestant("topk, scatter", call, in_rows(out))]


def _l1_total(data: Data, x: Any) -> list[Contestant]:
    size, out = data.like(), data.like(shape=())
    s, o = _as_torch(size, out)

    def by_sum() -> None:
        torch.abs(x, out=s)
        torch.sum(s, dim=(0, 1), out=o)

    return [
        Contestant("vector_norm", lambda: norm_of(x, 1, out=o), whole(out)),
        Contestant("abs, sum", by_sum, whole(out)),
    ]


def _norm(power: int, axis: int) -> Callable[[Data, Any], list[Contestant]]:
    def make(data: Data, x: Any) -> list[Contestant]:
        out = data.like(shape=(data.w.shape[1 - axis],))
        (o,) = _as_torch(out)
        answer = in_rows(out) if axis == 1 else whole(out)
        return [Contestant("vector_norm", lambda: norm_of(x, power, dim=axis, out=o), answer)]

    return make


def _wanda_score(data: Data, x: Any) -> list[Contestant]:
    out = data.like()
    o, n = _as_torch(out, data.norm)
    return [Contestant("abs, mul", lambda: torch.abs(x, out=o).mul_(n), in_rows(out))]


def _wanda_prune(data: Data, x: Any) -> list[Contestant]:
    scores, out = data.like(), data.like()
    s, o, n = _as_torch(scores, out, data.norm)
    count = round(SPARSITY * data.cols)

    def by_topk() -> None:
        torch.abs(x, out=s).mul_(n)
        o.copy_(x).scatter_(1, torch.topk(s, count, dim=1, largest=False, sorted=False).indices, 0)

    def by_sort() -> None:  # as the paper's own code does
        torch.abs(x, out=s).mul_(n)
        o.copy_(x).scatter_(1, torch.sort(s, dim=1, stable=True).indices[:, :count], 0)

    return [
        Contestant("topk, scatter", by_topk, in_rows(out)),
        Contestant("sort, scatter", by_sort, in_rows(out)),
    ]


def _given(data: Data, x: Any) -> list[Contestant]:
    temporary, out = data.like(), data.like(np.int8)
    t, o = _as_torch(temporary, out)

    def by_operations() -> None:
        torch.mul(x, 1 / SCALE, out=t).round_().clamp_(-128, 127)
        o.copy_(t)

    last: list[Any] = []

    def by_quantize() -> None:
        last[:] = [torch.quantize_per_tensor(x, SCALE, 0, torch.qint8)]

    return [
        Contestant("mul, round, clamp", by_operations, in_rows(out)),
        Contestant("quantize_per_tensor (fresh output)", by_quantize, lambda rows: last[0].int_repr().numpy()[rows]),
    ]


def _int8(groups: Callable[[Data], tuple[int, int, int]]) -> Callable[[Data, Any], list[Contestant]]:
    """Make symmetric int8, the scale over the last axis of w seen in this shape."""

    def make(data: Data, x: Any) -> list[Contestant]:
        shape = groups(data)
        temporary, codes, scales = data.like(), data.like(np.int8), data.like(shape=(*shape[:2], 1))
        t, o, s = _as_torch(temporary, codes, scales)
        w, scaled_w, into = x.reshape(shape), t.reshape(shape), o.reshape(shape)

        def by_operations() -> None:
            _absmax(w, s)
            s.div_(127)
            torch.mul(w, s.reciprocal(), out=scaled_w).round_().clamp_(-127, 127)
            into.copy_(scaled_w)

        made = [Contestant("amax, mul, round", by_operations, scaled(codes, scales.reshape(shape[:2])))]
        if shape[1] == 1:
            made.append(_ready_made(data, x, shape[0] == 1))
        return made

    return make


def _absmax(w: Any, out: Any) -> None:
    """Find the largest magnitude along axis 2; vector_norm and aminmax take many times as long."""
    torch.amax(w, dim=2, keepdim=True, out=out)
    torch.maximum(out, torch.amin(w, dim=2, keepdim=True).neg_(), out=out)


def _ready_made(data: Data, x: Any, per_tensor: bool) -> Contestant:
    last: list[Any] = []
    zeros = torch.zeros(data.rows, dtype=torch.int64)

    def call() -> None:
        if per_tensor:
            scale = max(x.amax().item(), -x.amin().item()) / 127
            last[:] = [torch.quantize_per_tensor(x, scale, 0, torch.qint8)]
        else:
            scales = torch.maximum(x.amax(dim=1), -x.amin(dim=1)) / 127
            last[:] = [torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8)]

    name = "quantize_per_tensor" if per_tensor else "quantize_per_channel"
    return Contestant(f"amax, {name} (fresh output)", call, lambda rows: last[0].dequantize().numpy()[rows])


def _int4(data: Data, x: Any) -> list[Contestant]:
    temporary, codes, packed = (
        data.like(),
        data.like(np.uint8),
        data.like(np.uint8, (data.rows, data.cols // 2)),
    )
    groups = (data.rows, data.cols // GROUP, GROUP)
    scales = data.like(shape=(*groups[:2], 1))
    t, c, p, s = _as_torch(temporary, codes, packed, scales)
    w, scaled_w = x.reshape(groups), t.reshape(groups)

    def call() -> None:
        _absmax(w, s)
        s.div_(7)
        torch.mul(w, s.reciprocal(), out=scaled_w).round_().add_(8).clamp_(1, 15)
        c.copy_(t)
        torch.bitwise_left_shift(c[:, 1::2], 4, out=p)
        p.bitwise_or_(c[:, 0::2])

    return [Contestant("amax, mul, round, pack", call, scaled_nibbles(packed, scales.reshape(groups[:2])))]


def _dequantize(data: Data, x: Any) -> list[Contestant]:
    packed, scales = data.grid()
    out = data.like()
    p, s, o = _as_torch(packed, scales, out)
    groups = o.reshape(*scales.shape, GROUP)

    def call() -> None:
        o[:, 0::2] = p & 15
        o[:, 1::2] = p >> 4
        groups.sub_(8).mul_(s[..., None])

    return [Contestant("unpack, sub, mul", call, in_rows(out))]


MAKERS: dict[str, Callable[[Data, Any], list[Contestant]]] = {
    "threshold": _threshold,
    "global prune 50 %": _global_prune,
    "2:4 prune": _two_of_four,
    "l1 total": _l1_total,
    "l1 per row": _norm(1, 1),
    "l2 per row": _norm(2, 1),
    "l2 per column": _norm(2, 0),
    "wanda score": _wanda_score,
    "wanda prune 50 % per row": _wanda_prune,
    "int8, scale given": _given,
    "int8 per tensor": _int8(lambda d: (1, 1, d.w.size)),
    "int8 per channel": _int8(lambda d: (d.rows, 1, d.cols)),
    "int8 groups of 32": _int8(lambda d: (d.rows, d.cols // GROUP, GROUP)),
    "int4 groups of 32, packed": _int4,
    "dequantize int4": _dequantize,
}
