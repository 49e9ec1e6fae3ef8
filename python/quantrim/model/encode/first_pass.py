"""The first pass over the weights, before their file is begun: which are already quantized, how many are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ...checks import Array
from ...files import Checkpoint
from ...layouts.base import SCALE_DTYPES, Chunk
from ...layouts.codebook import Codes
from ...recognition import recognize_grid
from ...tensor import GroupSize, QuantizedTensor
from ..plan.planner import plan_of
from ..plan.types import Plan, TensorPlan, layout_bytes
from ..prune.budgets import Pruners
from ..recipe.settings import Floats, Settings
from ..streaming import chunks
from ..streaming.reader import ChunkReader
from ..streaming.workers import Workers
from .tensor_writer import TensorWriter, attempt

GROUP_SIZES: tuple[GroupSize, ...] = ("tensor", "channel", 256, 128, 64, 32, 16)  # tried where none is asked for
Tick = Callable[[str], None]  # called with the name of the tensor at work, again and again


def with_detected_grids(checkpoint: Checkpoint, plan: Plan, source: ChunkReader, workers: Workers, tick: Tick) -> Plan:
    """Return the plan with the grids of weights that are already quantized, where the settings ask for them: a scan of
    those tensors."""
    found = {}
    for tensor in workers.run(partial(_scanned, source, t) for t in plan.tensors if t.to_scan):
        found[tensor.name] = tensor
        tick(tensor.name)
    return _with_tensors(checkpoint, plan, found)


def with_counts(
    checkpoint: Checkpoint, plan: Plan, source: ChunkReader, pruners: Pruners, workers: Workers, tick: Tick
) -> Plan:
    """Return the plan with the exact sizes of layouts that depend on the weights: a pass over those tensors."""
    found = {}
    for t in plan.tensors:
        if t.at_most:
            found[t.name] = _count_kept(TensorWriter(source, t, pruners.of(t), None), workers, tick)
    return _with_tensors(checkpoint, plan, found)


def _with_tensors(checkpoint: Checkpoint, plan: Plan, found: dict[str, TensorPlan]) -> Plan:
    """Return the plan with other tensors, by name: their places in the files follow."""
    if not found:
        return plan
    tensors = {tensor.name: tensor for tensor in plan.tensors} | found
    in_order = [tensors[name] for name in checkpoint.tensors if name in tensors]
    return plan_of(checkpoint, plan.recipe, in_order, plan.resized, plan.replaced, plan.target)


def _count_kept(writer: TensorWriter, workers: Workers, tick: Tick) -> TensorPlan:
    tensor = writer.tensor
    pieces = writer.chunks(chunks.CHUNK_BYTES)
    writer.prepare(pieces, workers, lambda _: tick(tensor.name))
    counts = []
    for count in workers.run(partial(writer.count, chunk) for chunk in pieces):
        counts.append(count)
        tick(tensor.name)
    return tensor._replace(layout=tensor.layout.of_size(sum(counts)), counts=tuple(counts))


def _scanned(source: ChunkReader, tensor: TensorPlan) -> TensorPlan:
    """Return the plan of a tensor that settings ask to recognize: its grid, or what it was to become."""
    rows, cols = tensor.info.matrix_shape
    whole = Chunk(0, rows, 0, cols)
    codes, minus_zeros = attempt(source, tensor, whole, lambda x: _with_either_zero(x, tensor))
    settings = tensor.settings
    if codes is not None:
        kept = Settings(codes=Floats(), recognize=True)  # neither pruned nor rounded
        why = "already quantized: no bit is changed"
        if minus_zeros:
            why += f" but the sign of {minus_zeros} minus zeros"
        return TensorPlan(tensor.info, kept, codes, codes.label, why, codes, scanned=True, exact=True)
    if settings.rounds or settings.changes or settings.storage == "sparse":
        return tensor._replace(scanned=True)
    return tensor._replace(copied=True, scanned=True, reason="not quantized, and nothing else is asked for")


def _with_either_zero(x: Array, tensor: TensorPlan) -> tuple[Codes | None, int]:
    """Return the smallest layout; where there is none, that of x with 0 for -0 (what a mask makes of negative weights),
    and how many those are."""
    codes = _smallest(x, tensor)
    minus_zeros = 0 if codes else int(np.count_nonzero(np.signbit(x) & (x == 0)))
    if not minus_zeros:
        return codes, 0
    return _smallest(np.where(x == 0, x.dtype.type(0), x), tensor), minus_zeros


def _smallest(x: Array, tensor: TensorPlan) -> Codes | None:
    """Return the layout that needs the fewest bytes, the first of equals; None where none needs fewer than the weights.
    """
    wanted = tensor.settings.group_size
    best, least = None, tensor.info.nbytes
    for size in GROUP_SIZES if wanted is None else (wanted,):
        if isinstance(size, int) and wanted is None and x.shape[1] % size:
            continue
        q = recognize_grid(x, group_size=size)
        if q is not None and q.codebook is not None:  # values that all share: or a grid that all share
            size, q = "tensor", recognize_grid(x, group_size="tensor")
        if q is None:
            continue
        codes = _layout_of(q, tensor.info.dtype, size)
        nbytes = layout_bytes(codes, tensor.shape)
        if nbytes < least:
            best, least = codes, nbytes
    return best


def _layout_of(q: QuantizedTensor, dtype: str, size: GroupSize) -> Codes:
    if q.codebook is not None:
        return Codes("values", q.bits, "tensor", dtype, None, len(q.codebook))
    return Codes("grid", q.bits, size, dtype, _scale_dtype(q.scales), symmetric=q.symmetric)


def _scale_dtype(scales: Array) -> str:
    """Return the smallest that holds all of them exactly."""
    with np.errstate(over="ignore"):
        return next(
            name
            for name in ("float16", "bfloat16", "float32")
            if np.array_equal(scales.astype(SCALE_DTYPES[name][1]).astype(np.float32), scales)
        )
