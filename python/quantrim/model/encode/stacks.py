"""Small matrices that are alike, rounded together: each alone would cost more in calls than in work.

Rows do not know of each other, so that what they become is the same, to the bit, one below the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ...checks import Array
from ...files import Writer
from ...files.disk.descriptors import byte_view
from ...files.tensor_info import little_endian
from ...layouts.base import Chunk
from ..plan.types import TensorPlan
from ..report.errors import measure_each
from ..streaming import chunks
from ..streaming.reader import ChunkReader
from .coder import coder_of
from .tensor_writer import Done, decoded

Stack = list[TensorPlan]


def stacks_of(tensors: Iterable[TensorPlan]) -> tuple[list[Stack], list[TensorPlan]]:
    """Return the tensors that are rounded together, a chunk of weights in each stack, and the others, in order."""
    alike: dict[object, Stack] = {}
    full: list[Stack] = []
    others: list[TensorPlan] = []
    for tensor in tensors:
        most = chunks.CHUNK_BYTES // 4 // max(1, tensor.info.size)
        if most < 2 or not _stackable(tensor):
            others.append(tensor)
            continue
        key = id(tensor.settings), tensor.layout, tensor.info.dtype, tensor.info.shape
        stack = alike.setdefault(key, [])
        stack.append(tensor)
        if len(stack) == most:
            full.append(alike.pop(key))
    return [*full, *alike.values()], others


def _stackable(tensor: TensorPlan) -> bool:
    """Tell whether its rows become codes, each without others or its place, which chance depends on."""
    plain = tensor.codes is not None and tensor.layout.stacks
    return plain and not tensor.settings.changes and tensor.settings.rounding != "stochastic"


def rounded_together(
    source: ChunkReader, stack: Stack, out: Writer, alone: Callable[[TensorPlan], list[Done]]
) -> list[Done]:
    """Write a stack. alone: does that for one tensor, and knows what to say where something is wrong."""
    first, count = stack[0], len(stack)
    rows, cols = first.info.matrix_shape
    coder, whole = coder_of(first, source.buffers), Chunk(0, count * rows, 0, cols)
    assert coder is not None
    try:
        x = source.read_together([t.info for t in stack])
        q = coder.codes(x, whole)
        lost = coder.underflowed_groups(x, q, whole)
    except ValueError:
        lost = -1
    if lost:
        return [done for tensor in stack for done in alone(tensor)]
    names = [tensor.arrays() for tensor in stack]
    for role, _, data in first.layout.encoder((count * rows, cols)).encode(q, whole):
        out.write_each([each[role].name for each in names], _bytes(data))
    for role, _, data in first.layout.encoder((rows, cols)).finish():
        out.write_each([each[role].name for each in names], _bytes(np.tile(data, (count, 1))))
    errors = measure_each(x, decoded(q, first, source), count)
    return [Done(tensor, tensor.source_bytes, each) for tensor, each in zip(stack, errors, strict=True)]


def _bytes(data: Array) -> memoryview:
    return byte_view(little_endian(np.ascontiguousarray(data)), "data")
