"""Which stream a tensor goes through, and what must be counted before its file can be begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..files import Checkpoint
from ..files.atomic import FileWriter
from ..layouts import bitsandbytes, codebook, sparse_scheme
from . import chunks
from .code_stream import BitsAndBytes, Coded, GridCodes
from .plan import Plan, plan_of
from .pruner import Pruner
from .pruners import Pruners
from .recognized import Recognized, looked_at
from .source import Source
from .sparse_stream import Counted, Sparse, SparseCodes
from .stream import Pruned, Quantized, Rounded, Simulated, Stream
from .tensor_plan import TensorPlan
from .workers import Workers


def stream_for(
    source: Source, tensor: TensorPlan, pruner: Pruner | None, out: FileWriter | None, offsets: dict[str, int]
) -> Stream:
    """What prunes, rounds and writes a tensor. out: None where its weights are only to be counted."""
    kind = _kind(tensor)
    if not tensor.simulated or out is None:
        return kind(source, tensor, pruner, out, offsets)
    rounded = kind(source, tensor, pruner, None, {})
    assert isinstance(rounded, Rounded)
    return Simulated(rounded, out, offsets)


def _kind(tensor: TensorPlan) -> type[Stream]:
    if isinstance(tensor.form, codebook.Scheme):
        if tensor.exact:
            return Recognized
        return Coded if tensor.form.kind != "grid" else GridCodes
    if isinstance(tensor.form, bitsandbytes.Scheme):
        return BitsAndBytes
    if isinstance(tensor.form, sparse_scheme.Scheme):
        return Sparse if tensor.form.grid is None else SparseCodes
    return Pruned if tensor.scheme is None else Quantized


def recognized(
    checkpoint: Checkpoint, plan: Plan, source: Source, workers: Workers, tick: Callable[[str], None]
) -> Plan:
    """The plan with the grids that weights lie on, where the settings ask for that: a look at those tensors.

    tick: called with the name of the tensor at work, again and again.
    """
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    for tensor in workers.run(partial(looked_at, source, t) for t in plan.tensors if t.to_look_at):
        tensors[tensor.name] = tensor
        tick(tensor.name)
    return _with_tensors(checkpoint, plan, tensors)


def settled(
    checkpoint: Checkpoint,
    plan: Plan,
    source: Source,
    pruners: Pruners,
    workers: Workers,
    tick: Callable[[str], None],
) -> Plan:
    """The plan with the exact sizes of what is stored sparse: a pass over those tensors. tick: as before."""
    tensors = {
        t.name: _counted(stream_for(source, t, pruners.of(t), None, {}), workers, tick) if t.at_most else t
        for t in plan.tensors
    }
    return _with_tensors(checkpoint, plan, tensors)


def _with_tensors(checkpoint: Checkpoint, plan: Plan, tensors: dict[str, TensorPlan]) -> Plan:
    """The plan with other tensors, by name: where they lie in the files follows."""
    if all(tensors[tensor.name] is tensor for tensor in plan.tensors):
        return plan
    in_order = [tensors[name] for name in checkpoint.tensors if name in tensors]
    return plan_of(checkpoint, plan.recipe, in_order, plan.resized)


def _counted(stream: Stream, workers: Workers, tick: Callable[[str], None]) -> TensorPlan:
    tensor = stream.tensor
    assert isinstance(stream, Sparse) and isinstance(tensor.form, sparse_scheme.Scheme)
    pieces = stream.chunks(chunks.CHUNK_BYTES)
    stream.prepare(pieces, workers, lambda _: tick(tensor.name))
    counts = []
    for count in workers.run(partial(stream.count, chunk) for chunk in pieces):
        counts.append(count)
        tick(tensor.name)
    return tensor._replace(form=replace(tensor.form, stored=sum(counts)), counted=Counted(tuple(counts)))
