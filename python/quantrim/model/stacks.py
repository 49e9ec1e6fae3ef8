"""Small matrices that are alike, rounded together: each alone would cost more in calls than in work.

Rows do not know of each other, so that what they become is the same, to the bit, one below the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import numpy as np

from ..checks import Array
from ..files.atomic import FileWriter
from ..layouts import compressed_tensors as layout
from . import chunks
from .chunks import Chunk
from .source import Source
from .statistics import measure_each
from .stream import Done, Quantized, little_endian
from .tensor_plan import TensorPlan

Stack = list[TensorPlan]


def stacks_of(tensors: Iterable[TensorPlan]) -> tuple[list[Stack], list[TensorPlan]]:
    """The tensors that are rounded together, a chunk of weights in each stack, and the others, in order."""
    alike: dict[object, Stack] = {}
    full: list[Stack] = []
    others: list[TensorPlan] = []
    for tensor in tensors:
        most = chunks.CHUNK_BYTES // 4 // max(1, tensor.info.size)
        if most < 2 or not _stackable(tensor):
            others.append(tensor)
            continue
        key = id(tensor.settings), tensor.scheme, tensor.info.dtype, tensor.info.shape
        stack = alike.setdefault(key, [])
        stack.append(tensor)
        if len(stack) == most:
            full.append(alike.pop(key))
    return [*full, *alike.values()], others


def _stackable(tensor: TensorPlan) -> bool:
    """Whether its rows become codes, each without a look at others or at its place. Zero points are packed across rows,
    chance depends on the place."""
    plain = tensor.scheme is not None and tensor.scheme.symmetric and not tensor.simulated
    return plain and not tensor.settings.changes and tensor.settings.rounding != "stochastic"


def rounded_together(
    source: Source, stack: Stack, out: FileWriter, offsets: dict[str, int], alone: Callable[[TensorPlan], list[Done]]
) -> list[Done]:
    """Write the parts of a stack. alone: does that for one tensor, and knows what to say where something is wrong."""
    stream = Quantized(source, stack[0], None, None, {})
    whole = Chunk(0, len(stack) * stream.rows, 0, stream.cols)
    try:
        x = source.read_together([t.info for t in stack])
        q = stream.codes(x, whole)
        lost = stream.lost_groups(x, q, whole)
    except ValueError:
        lost = -1
    if lost:
        return [done for tensor in stack for done in alone(tensor)]
    parts = {"codes": layout.encode_codes(q.data, stream.scheme, stream.cols)}
    parts["scale"] = layout.encode_scales(q.scales, stream.scheme)
    parts["shape"] = np.tile(layout.encode_shape((stream.rows, stream.cols)), (len(stack), 1))
    names = [tensor.parts() for tensor in stack]
    for role in names[0]:
        _write(out, little_endian(parts[role]), [offsets[each[role].name] for each in names])
    errors = measure_each(x, stream.decoded(q, stream.read_dtype), len(stack))
    return [Done(tensor, tensor.source_bytes, each) for tensor, each in zip(stack, errors, strict=True)]


def _write(out: FileWriter, data: Array, offsets: Sequence[int]) -> None:
    """Write `data` in equal pieces, one at each offset; those that follow each other in the file together."""
    size = data.nbytes // len(offsets)
    pieces = data.reshape(-1).view(np.uint8)
    for _, run in groupby(range(len(offsets)), lambda k: offsets[k] - k * size):
        first, *others = run
        out.pwrite(pieces[first * size : (first + 1 + len(others)) * size], offsets[first])
