"""Weights as compressed-tensors once stored them sparse: sparse-bitmask and sparse-24-bitmask.

Of a module: `bitmask` uint8 (rows, ceil(cols / 8)), a bit per weight, least significant first; `compressed`, the
weights whose bit is set, row by row; `shape` int64 (2,), or (2, 1). sparse-bitmask has also `row_offsets` int64
(rows,), how many are stored before each row, and takes vectors too, norms of models that were stored so as a whole.
sparse-24-bitmask stores half of each row. What is stored may be codes, int8 or float8 with `weight_scale`: then zeros
are codes of zero. compressed-tensors 0.11 wrote both, 0.20 reads neither. Our own files of this kind say what they
hold: `stored` reads those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from ..checks import Array
from ..files import Checkpoint, TensorInfo
from ..files.checkpoint import from_little_endian
from ..layouts import compressed_variants as variants
from .logical_tensor import LogicalTensor
from .stored_compressed import VariantTensor, blocks_of, quantization_config

_FLOATS = ("F32", "F16", "BF16", "F64")
_PARTS = ("compressed", "bitmask", "shape", "row_offsets")


@dataclass(frozen=True)
class MaskedTensor(LogicalTensor):
    """Floats stored sparse."""

    @property
    def compressed(self) -> bool:
        return True

    @property
    def blamed(self) -> str:
        return self.parts["bitmask"].name

    def rows(self, first: int, count: int) -> Array:
        first, count = self.checked(first, count)
        return self.guarded(lambda *at: _expanded(self, *at), first, count).view(self.dtype)


@dataclass(frozen=True)
class MaskedVariant(VariantTensor):
    """Codes of 8 bits stored sparse."""

    def _codes(self, first: int, count: int) -> Array:
        return _expanded(self, first, count)


def _expanded(tensor: LogicalTensor, first: int, count: int) -> Array:
    """Rows of what is stored, zeros and all, as unsigned integers of its width."""
    cols, values = tensor.matrix_shape[1], tensor.parts["compressed"]
    item = values.numpy_dtype.itemsize
    found = np.zeros((count, cols), np.dtype(f"u{item}"))
    if not count:
        return found
    bits = tensor.checkpoint.rows(tensor.parts["bitmask"].name, first, count)
    mask = np.unpackbits(bits, axis=1, count=cols, bitorder="little").astype(bool)
    starts = _starts(tensor, first, count)
    if not np.array_equal(np.diff(starts), mask.sum(axis=1, dtype=np.int64)):
        said = "as many in each row as row_offsets say" if "row_offsets" in tensor.parts else "half of each row"
        raise ValueError(f"bitmask must have the bits of {values.size} weights, {said}")
    raw = np.empty(int(starts[-1] - starts[0]) * item, np.uint8)
    tensor.checkpoint.read_into(values.name, raw, int(starts[0]) * item)
    found[mask] = from_little_endian(raw, found.dtype)
    return found


def _starts(tensor: LogicalTensor, first: int, count: int) -> Array:
    """How many weights are stored before each of the rows, and behind them. ValueError where there are not so many."""
    (rows, cols), stored = tensor.matrix_shape, tensor.parts["compressed"].size
    offsets = tensor.parts.get("row_offsets")
    if offsets is None:
        return (first + np.arange(count + 1)) * (cols // 2)
    raw = np.empty(8 * (min(first + count + 1, rows) - first), np.uint8)
    tensor.checkpoint.read_into(offsets.name, raw, 8 * first)
    starts = np.append(from_little_endian(raw, np.dtype(np.int64)), stored)[: count + 1]
    if (first == 0 and starts[0] != 0) or starts[0] < 0 or starts[-1] > stored or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"row_offsets must rise from 0 to {stored}")
    return starts


def masked_tensors(checkpoint: Checkpoint, taken: Collection[str]) -> Iterator[LogicalTensor]:
    """The tensors in these layouts. taken: names of parts that belong to other tensors. What is not understood is left
    out, and appears as it is stored."""
    for name in checkpoint.tensors:
        module, _, last = name.rpartition(".")
        if last == "bitmask" and module and name not in taken:
            with contextlib.suppress(ValueError):
                yield _tensor(checkpoint, module)


def _tensor(checkpoint: Checkpoint, module: str) -> LogicalTensor:
    names = {part: f"{module}.{part}" for part in _PARTS}
    parts = {part: checkpoint.tensors[name] for part, name in names.items() if name in checkpoint.tensors}
    shape = _shape(checkpoint, parts)
    values, weight = parts["compressed"], f"{module}.weight"
    if values.dtype in _FLOATS:
        label = f"{values.dtype}, sparse-bitmask"
        return MaskedTensor(weight, shape, values.numpy_dtype, label, parts, None, checkpoint)
    known = {role: checkpoint.tensors.get(f"{weight}{role}") for role in variants.ROLES if role != ""}
    beside = {role: info for role, info in known.items() if info is not None}
    infos = {"": (values.dtype, shape), **{role: (info.dtype, info.shape) for role, info in beside.items()}}
    form = variants.read(infos, None, blocks_of(quantization_config(checkpoint)), ())
    label = f"{form.label}, sparse-bitmask"
    parts |= {f"weight{role}": info for role, info in beside.items()}
    return MaskedVariant(weight, shape, form.dtype, label, parts, None, checkpoint, form)


def _shape(checkpoint: Checkpoint, parts: dict[str, TensorInfo]) -> tuple[int, ...]:
    """The shape that the parts state and fit. ValueError where they do not."""
    stated = parts.get("shape")
    if stated is None or (stated.dtype, stated.nbytes) not in (("I64", 8), ("I64", 16)):
        raise ValueError("shape must be there, one or two I64")
    if not {"compressed", "bitmask"} <= set(parts):
        raise ValueError("compressed and bitmask must be there")
    shape = tuple(int(n) for n in checkpoint.read(stated.name).reshape(-1))
    cols, bits = shape[-1], (*shape[:-1], -(-shape[-1] // 8))
    if min(shape) < 0 or (parts["bitmask"].dtype, parts["bitmask"].shape) != ("U8", bits):
        raise ValueError(f"bitmask must be U8 of shape {list(bits)}")
    offsets, values = parts.get("row_offsets"), parts["compressed"]
    if offsets is not None and (offsets.dtype, offsets.shape, len(values.shape)) != ("I64", shape[:-1], 1):
        raise ValueError(f"row_offsets must be I64 of shape {list(shape[:-1])}, and compressed of one dimension")
    if offsets is None and (len(shape) != 2 or cols % 4 or values.shape != (shape[0], cols // 2)):
        raise ValueError("row_offsets must be there, or compressed must have half of the columns of each row")
    return shape
