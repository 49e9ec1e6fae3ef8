"""Which stream a tensor goes through, and what must be counted before its file can be begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..files import Checkpoint
from ..files.atomic import FileWriter
from ..layouts import bitsandbytes, codebook, sparse_scheme
from .code_stream import BitsAndBytes, Coded
from .plan import Plan, TensorPlan, plan_of
from .recognized import EXACT, Recognized, looked_at
from .sparse_stream import Counted, Sparse, SparseCodes
from .stream import Pruned, Quantized, Source, Stream
from .workers import Workers


def stream_for(source: Source, tensor: TensorPlan, out: FileWriter | None, offsets: dict[str, int]) -> Stream:
    """What prunes, rounds and writes a tensor. out: None where its weights are only to be counted."""
    kind: type[Stream]
    if isinstance(tensor.form, codebook.Scheme):
        kind = Recognized if tensor.form.kind in EXACT else Coded
    elif isinstance(tensor.form, bitsandbytes.Scheme):
        kind = BitsAndBytes
    elif isinstance(tensor.form, sparse_scheme.Scheme):
        kind = Sparse if tensor.form.grid is None else SparseCodes
    else:
        kind = Pruned if tensor.scheme is None else Quantized
    return kind(source, tensor, out, offsets)


def settled(
    checkpoint: Checkpoint, plan: Plan, source: Source, workers: Workers, chunk_bytes: int, tick: Callable[[str], None]
) -> Plan:
    """The plan with what only the weights can say: which lie on a grid, and how many are stored without zeros.

    tick: called with the name of the tensor at work, again and again.
    """
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    for tensor in workers.run(partial(looked_at, source, t) for t in plan.tensors if t.to_look_at):
        tensors[tensor.name] = tensor
        tick(tensor.name)
    for tensor in list(tensors.values()):
        if tensor.at_most:
            tensors[tensor.name] = _counted(source, tensor, workers, chunk_bytes, tick)
    if all(tensors[tensor.name] is tensor for tensor in plan.tensors):
        return plan
    return plan_of(checkpoint, plan.recipe, [tensors[name] for name in checkpoint.tensors])


def _counted(
    source: Source, tensor: TensorPlan, workers: Workers, chunk_bytes: int, tick: Callable[[str], None]
) -> TensorPlan:
    stream = stream_for(source, tensor, None, {})
    assert isinstance(stream, Sparse) and isinstance(tensor.form, sparse_scheme.Scheme)
    chunks = stream.chunks(chunk_bytes)
    stream.find_cut(chunks, workers, lambda _: tick(tensor.name))
    counts = []
    for count in workers.run(partial(stream.count, number, chunk) for number, chunk in enumerate(chunks)):
        counts.append(count)
        tick(tensor.name)
    form = replace(tensor.form, stored=sum(counts))
    return replace(tensor, form=form, counted=Counted(tuple(counts), stream.streamed_cut))
