"""Which stream a tensor goes through, and what must be counted before its file can be begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..files import Checkpoint
from ..files.atomic import FileWriter
from ..layouts import codebook, sparse_scheme
from . import chunks
from .code_stream import Coded
from .plan import Plan, TensorPlan, with_tensors
from .pruner import Pruner
from .pruners import Pruners
from .source import Source
from .sparse_stream import Counted, Sparse, SparseCodes
from .stream import Pruned, Quantized, Stream
from .workers import Workers


def stream_for(
    source: Source, tensor: TensorPlan, pruner: Pruner | None, out: FileWriter | None, offsets: dict[str, int]
) -> Stream:
    """What prunes, rounds and writes a tensor. out: None where its weights are only to be counted."""
    kind: type[Stream]
    if isinstance(tensor.form, codebook.Scheme):
        kind = Coded
    elif isinstance(tensor.form, sparse_scheme.Scheme):
        kind = Sparse if tensor.form.grid is None else SparseCodes
    else:
        kind = Pruned if tensor.scheme is None else Quantized
    return kind(source, tensor, pruner, out, offsets)


def settled(
    checkpoint: Checkpoint,
    plan: Plan,
    source: Source,
    pruners: Pruners,
    workers: Workers,
    tick: Callable[[str], None],
) -> Plan:
    """The plan with the exact sizes of what is stored without zeros: a pass over those tensors.

    tick: called with the name of the tensor at work, again and again.
    """
    if not any(tensor.at_most for tensor in plan.tensors):
        return plan
    tensors = {
        t.name: _counted(stream_for(source, t, pruners.of(t), None, {}), workers, tick) if t.at_most else t
        for t in plan.tensors
    }
    return with_tensors(checkpoint, plan, tensors)


def _counted(stream: Stream, workers: Workers, tick: Callable[[str], None]) -> TensorPlan:
    tensor = stream.tensor
    assert isinstance(stream, Sparse) and isinstance(tensor.form, sparse_scheme.Scheme)
    pieces = stream.chunks(chunks.CHUNK_BYTES)
    stream.prepare(pieces, workers, lambda _: tick(tensor.name))
    counts = []
    for count in workers.run(partial(stream.count, chunk) for chunk in pieces):
        counts.append(count)
        tick(tensor.name)
    return replace(tensor, form=replace(tensor.form, stored=sum(counts)), counted=Counted(tuple(counts)))
