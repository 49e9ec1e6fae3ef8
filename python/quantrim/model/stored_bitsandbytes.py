"""Tensors in the layouts of bitsandbytes, read back by rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo, strict_json
from ..layouts import bitsandbytes, codebook
from ..layouts import bitsandbytes_variants as variants
from ..quantization import dequantize
from ..tensor import QuantizedTensor
from .logical_tensor import LogicalTensor

STATE_LIMIT = 1 << 16  # bytes of a state


@dataclass(frozen=True)
class BitsAndBytesTensor(LogicalTensor):
    """NF4 or FP4. form: how it is stored."""

    form: bitsandbytes.Scheme

    @property
    def compressed(self) -> bool:
        return True

    @property
    def coded(self) -> bool:
        return True

    @property
    def blamed(self) -> str:
        return self.parts["weight.absmax"].name

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        cols, group = self.shape[1], self.form.group_size
        codes = np.empty((count, cols // 2), np.uint8)
        self.checkpoint.read_into(self.parts["weight"].name, codes, first * cols // 2)
        scales = np.empty((count, cols // group), np.dtype("<f4"))
        self.checkpoint.read_into(self.parts["weight.absmax"].name, scales, first * (cols // group) * 4)
        values = self.checkpoint.read(self.parts["weight.quant_map"].name)
        data = bitsandbytes.swapped(codes)
        return QuantizedTensor(data, scales.astype(np.float32), None, 4, group, (count, cols), values)


@dataclass(frozen=True)
class FlatTensor(LogicalTensor):
    """NF4 or FP4 in blocks that need not end with a row. form: how it is stored."""

    form: variants.Flat

    @property
    def compressed(self) -> bool:
        return True

    @property
    def blamed(self) -> str:
        return self.parts["weight.absmax"].name

    def rows(self, first: int, count: int) -> Array:
        first, count = self.checked(first, count)
        cols, block = self.matrix_shape[1], self.form.block
        begin, end = first * cols, (first + count) * cols
        start = begin // block * block  # an even number of codes is whole bytes
        codes = self.guarded(self._codes, start, end)
        return dequantize(codes, dtype=self.dtype)[0, begin - start :].reshape(count, cols)

    def _codes(self, start: int, end: int) -> QuantizedTensor:
        """Weights `start` to `end` of the flat tensor as one row; `start` begins a block."""
        data = np.empty((1, -(-(end - start) // 2)), np.uint8)
        self.checkpoint.read_into(self.parts["weight"].name, data, start // 2)
        block = self.form.block
        scales = self._scales(start // block, -(-end // block)) if end > start else np.zeros(0, np.float32)
        values = self.checkpoint.read(self.parts["weight.quant_map"].name)
        shape = (1, end - start)
        return QuantizedTensor(bitsandbytes.swapped(data), scales[None], None, 4, block, shape, values)

    def _scales(self, first: int, end: int) -> Array:
        nested = self.form.nested
        if nested is None:
            return self._floats("weight.absmax", first, end)
        codes = np.empty(end - first, np.uint8)
        self.checkpoint.read_into(self.parts["weight.absmax"].name, codes, first)
        absmax = self._floats("weight.nested_absmax", first // nested.block, -(-end // nested.block))
        table = self.checkpoint.read(self.parts["weight.nested_quant_map"].name).reshape(-1)
        return variants.decode_scales(codes, first, table, absmax, nested)

    def _floats(self, name: str, first: int, end: int) -> Array:
        found = np.empty(end - first, np.dtype("<f4"))
        self.checkpoint.read_into(self.parts[name].name, found, 4 * first)
        return found.astype(np.float32)


@dataclass(frozen=True)
class Int8Tensor(LogicalTensor):
    """LLM.int8(): two roundings, which codes with one scale do not have; so only its weights can be asked for."""

    @property
    def compressed(self) -> bool:
        return True

    @property
    def blamed(self) -> str:
        return self.parts["SCB"].name

    def rows(self, first: int, count: int) -> Array:
        first, count = self.checked(first, count)
        return self.guarded(self._weights, first, count)

    def _weights(self, first: int, count: int) -> Array:
        absmax = np.empty(count, np.dtype("<f4"))
        self.checkpoint.read_into(self.parts["SCB"].name, absmax, 4 * first)
        codes = self.checkpoint.rows(self.parts["weight"].name, first, count)
        return variants.decode_int8(codes, absmax.astype(np.float32))


def bitsandbytes_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors in these layouts, by name; those in a variant that is not read are left out, and appear as they are
    stored."""
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        if name.endswith(".SCB"):
            weight = f"{name.removesuffix('SCB')}weight"
            int8 = _int8(checkpoint, weight, info)
            found.update({} if int8 is None else {weight: int8})
        for kind in bitsandbytes.KINDS:
            weight = name.removesuffix(f".{bitsandbytes.STATE}{kind}")
            if weight not in ("", name) and info.dtype == "U8":
                found[weight] = _tensor(checkpoint, weight, kind)
    return found


def _int8(checkpoint: Checkpoint, name: str, scales: TensorInfo) -> LogicalTensor | None:
    weight = checkpoint.tensors.get(name)
    if weight is None or weight.dtype != "I8" or len(weight.shape) != 2:
        return None
    if scales.dtype != "F32" or scales.size != weight.shape[0]:
        problem = f"SCB must be {weight.shape[0]} F32, one for each row, not {scales.dtype} of shape {scales.shape}"
        raise FormatError(problem, path=scales.path, tensor=scales.name)
    parts = {"weight": weight, "SCB": scales}
    layout = checkpoint.tensors.get(f"{name}_format")
    if layout is not None:
        if layout.nbytes > 8 or any(checkpoint.raw(layout.name)):
            return None  # tiles of a GPU, which bitsandbytes reads no more either
        parts["weight_format"] = layout
    label = "int8 channel, bitsandbytes"
    return Int8Tensor(name, weight.shape, np.dtype(np.float32), label, parts, None, checkpoint)


def _tensor(checkpoint: Checkpoint, weight: str, kind: str) -> LogicalTensor:
    state = f"{weight}.{bitsandbytes.STATE}{kind}"
    info = checkpoint.tensors[state]
    if info.nbytes > STATE_LIMIT:
        problem = f"a state must be at most {STATE_LIMIT} bytes, not {info.nbytes}"
        raise FormatError(problem, path=info.path, tensor=state)
    ends = ("", ".absmax", ".quant_map", f".{bitsandbytes.STATE}{kind}", ".nested_absmax", ".nested_quant_map")
    names = {f"weight{end}": f"{weight}{end}" for end in ends}
    parts = {part: checkpoint.tensors[name] for part, name in names.items() if name in checkpoint.tensors}
    infos = {name: (part.dtype, part.shape) for name, part in parts.items()}
    try:
        parsed = strict_json.parse(checkpoint.raw(state), info.path, f"tensor {state!r}", info.offset)
        known = bitsandbytes.from_state(parsed, kind, infos, info.nbytes)
        if known is not None:
            form, shape = known
            dtype = codebook.DTYPES[form.dtype]
            return BitsAndBytesTensor(weight, shape, dtype, form.label, parts, None, checkpoint, form)
        flat = variants.read(parsed, kind, {name: (p.dtype, p.size, p.nbytes) for name, p in parts.items()})
    except FormatError:
        raise
    except (ValueError, TypeError) as error:
        raise FormatError(str(error), path=info.path, tensor=state) from None
    dtype = codebook.DTYPES[flat.dtype]
    return FlatTensor(weight, flat.shape, dtype, flat.label, parts, None, checkpoint, flat)
