"""The tensors of a checkpoint under their own names, whether they are stored as floats or compressed."""

from __future__ import annotations

from ..files import Checkpoint
from .logical_tensor import LogicalTensor
from .stored import stored_tensors
from .stored_bitsandbytes import bitsandbytes_tensors
from .stored_compressed import compressed_tensors
from .stored_masked import masked_tensors

__all__ = ["LogicalTensor", "logical_tensors"]


def logical_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors by name, in file order, compressed ones as one `<module>.weight` each.

    FormatError for a compressed tensor that lacks a part, or whose parts do not fit each other. What is stored in a way
    that is not read appears as it is stored.
    """
    compressed = {**compressed_tensors(checkpoint), **stored_tensors(checkpoint), **bitsandbytes_tensors(checkpoint)}
    owner = {part.name: tensor for tensor in compressed.values() for part in tensor.parts.values()}
    for tensor in masked_tensors(checkpoint, owner):
        owner |= {part.name: tensor for part in tensor.parts.values()}
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        if name in owner:
            found[owner[name].name] = owner[name]
        else:
            stored = checkpoint.stored(name)[0]
            found[name] = LogicalTensor(name, info.shape, info.numpy_dtype, stored, {"weight": info}, None, checkpoint)
    return found
