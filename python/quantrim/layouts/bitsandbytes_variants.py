"""Variants that bitsandbytes writes beyond `layouts.bitsandbytes`, and this package only reads.

4 bits: blocks of the flat tensor that end within a row, tensors of an odd size or of any number of axes, codes stored
as another dtype (`bnb_4bit_quant_storage`), and scales that are codes themselves (`bnb_4bit_use_double_quant`):
`absmax` uint8, each nested_quant_map[code] * nested_absmax[its block] + nested_offset, in float32.

8 bits, LLM.int8(): `weight` int8 with `SCB` float32, the largest magnitude of each row: code * SCB / 127 in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..quantization import dequantize
from ..tensor import QuantizedTensor, matrix_shape
from .base import FLOATS, Array, Arrays, Catalog, Found, Layout, LayoutError, Shape

__all__ = ["BLOCKS", "DTYPE_NAMES", "Flat", "Int8", "Nested", "find_int8", "read", "swapped"]

BLOCKS = tuple(2**n for n in range(5, 13))
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NESTED_BLOCKS = tuple(2**n for n in range(5, 13))
_SHARE = np.float32(7.874015718698502e-3)  # 1 / 127 as bitsandbytes has it
Infos = Mapping[str, tuple[str, int, int]]  # dtype, elements, bytes


@dataclass(frozen=True)
class Nested:
    """Scales that are written as codes: in blocks of so many, and what is added to each."""

    block: int
    offset: np.float32


@dataclass(frozen=True)
class Flat(Layout):
    """A tensor of this shape in blocks, whatever its rows are. kind: "nf4" or "fp4". dtype: of the decoded weights, as
    safetensors has it."""

    kind: str
    block: int
    dtype: str
    shape: tuple[int, ...]
    nested: Nested | None
    family: ClassVar[str] = "bitsandbytes, flat"

    @property
    def has_codes(self) -> bool:
        return False  # rows that begin within a block have no scales of their own

    @property
    def error_array(self) -> str:
        return "weight.absmax"

    @property
    def decoded_dtype(self) -> str:
        return self.dtype

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> Array:
        cols = matrix_shape(shape)[1]
        begin, end = first * cols, (first + count) * cols
        start = begin // self.block * self.block  # an even number of codes is whole bytes
        codes = self._codes(arrays, start, end)
        return dequantize(codes, dtype=FLOATS[self.dtype])[0, begin - start :].reshape(count, cols)

    def _codes(self, arrays: Arrays, start: int, end: int) -> QuantizedTensor:
        """Return weights `start` to `end` of the flat tensor as one row; `start` begins a block."""
        data = arrays.values("weight", np.uint8, start // 2, -(-(end - start) // 2))[None]
        first, last = start // self.block, -(-end // self.block) if end > start else start // self.block
        scales = self._scales(arrays, first, last - first)
        values = arrays.array("weight.quant_map")
        shape = (1, end - start)
        return QuantizedTensor(swapped(data), scales[None], None, 4, self.block, shape, values)

    def _scales(self, arrays: Arrays, first: int, count: int) -> NDArray[np.float32]:
        nested = self.nested
        if nested is None or not count:
            return arrays.values("weight.absmax", np.float32, first, count if nested is None else 0)
        codes = arrays.values("weight.absmax", np.uint8, first, count)
        begin, end = first // nested.block, -(-(first + count) // nested.block)
        absmax = arrays.values("weight.nested_absmax", np.float32, begin, end - begin)
        table = arrays.array("weight.nested_quant_map").reshape(-1)
        return _decode_scales(codes, first, table, absmax, nested)

    @property
    def label(self) -> str:
        """For people: "nf4 group 64 flat, nested scales, bitsandbytes"."""
        nested = ", nested scales" if self.nested else ""
        return f"{self.kind} group {self.block}{nested}, bitsandbytes"


def read(state: Mapping[str, Any], kind: str, infos: Infos) -> Flat:
    """Read how a tensor is kept, from its state and its arrays by name, "weight" and what is behind it.

    ValueError says which rule is broken.
    """
    block = checks.integer("blocksize", state.get("blocksize"), BLOCKS[0], BLOCKS[-1])
    shape = state.get("shape")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 32:
        raise ValueError(f"shape must be a list of integers, not {shape!r}")
    dims = tuple(checks.integer("shape", n, 0, 2**62) for n in shape)
    dtypes = {name: dtype for dtype, name in DTYPE_NAMES.items()}
    dtype = dtypes[checks.choice("dtype", str(state.get("dtype")).removeprefix("torch."), dtypes)]
    size = math.prod(dims)
    blocks = -(-size // block)
    _check_codes(infos, -(-size // 2))
    _check(infos, "weight.quant_map", "F32", 16)
    nested = None
    if "nested_blocksize" in state:
        many = checks.integer("nested_blocksize", state["nested_blocksize"], NESTED_BLOCKS[0], NESTED_BLOCKS[-1])
        if many not in NESTED_BLOCKS:
            raise ValueError(f"nested_blocksize must be a power of two, not {many}")
        checks.choice("nested_dtype", state.get("nested_dtype"), ("float32",))
        limit = checks.LARGEST["float32"]
        nested = Nested(many, np.float32(checks.number("nested_offset", state.get("nested_offset"), -limit, limit)))
        _check(infos, "weight.nested_absmax", "F32", -(-blocks // many))
        _check(infos, "weight.nested_quant_map", "F32", 256)
    _check(infos, "weight.absmax", "U8" if nested else "F32", blocks)
    return Flat(kind, block, dtype, dims, nested)


def _check(infos: Infos, name: str, dtype: str, size: int) -> None:
    if name not in infos:
        raise ValueError(f"{name} is missing beside {', '.join(sorted(infos))}")
    if infos[name][:2] != (dtype, size):
        raise ValueError(f"{name} must be {size} {dtype}, not {infos[name][1]} {infos[name][0]}")


def _check_codes(infos: Infos, nbytes: int) -> None:
    if "weight" not in infos:
        raise ValueError(f"weight is missing beside {', '.join(sorted(infos))}")
    if infos["weight"][2] != nbytes:
        raise ValueError(f"weight must be {nbytes} bytes of codes, not {infos['weight'][2]}")


def _decode_scales(
    codes: NDArray[np.uint8], first: int, table: NDArray[np.float32], absmax: NDArray[np.float32], nested: Nested
) -> NDArray[np.float32]:
    """Decode scales that are codes, from number `first` on. absmax: those of their blocks, from that of `first` on."""
    block = np.arange(first, first + codes.size) // nested.block - first // nested.block
    scales: NDArray[np.float32] = table[codes] * absmax[block] + nested.offset
    return scales


@dataclass(frozen=True)
class Int8(Layout):
    """LLM.int8(): two roundings, which codes with one scale do not have; so only its weights can be asked for."""

    family: ClassVar[str] = "bitsandbytes, int8"

    @property
    def has_codes(self) -> bool:
        return False

    @property
    def error_array(self) -> str:
        return "SCB"

    @property
    def label(self) -> str:
        return "int8 channel, bitsandbytes"

    @property
    def decoded_dtype(self) -> str:
        return "F32"

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> Array:
        return decode_int8(arrays.rows("weight", first, count), arrays.values("SCB", np.float32, first, count))


def find_int8(catalog: Catalog, scales: str) -> Found | None:
    """Return the weight that these scales are of; None where there is none, or in a layout that is not read."""
    name, info = f"{scales.removesuffix('SCB')}weight", catalog.tensors[scales]
    weight = catalog.tensors.get(name)
    if weight is None or weight.dtype != "I8" or len(weight.shape) != 2:
        return None
    if info.dtype != "F32" or info.size != weight.shape[0]:
        problem = f"SCB must be {weight.shape[0]} F32, one for each row, not {info.dtype} of shape {info.shape}"
        raise LayoutError(problem, scales)
    arrays = {"weight": name, "SCB": scales}
    tiles = catalog.tensors.get(f"{name}_format")
    if tiles is not None:
        if tiles.nbytes > 8 or catalog.read(f"{name}_format").any():
            return None  # tiles of a GPU, which bitsandbytes reads no more either
        arrays["weight_format"] = f"{name}_format"
    return Found(name, Int8(), weight.shape, arrays)


def swapped(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return bytes of two codes with the first in the low half as those with it in the high half, or back."""
    halves: NDArray[np.uint8] = (codes >> 4 | codes << 4).astype(np.uint8, copy=False)
    return halves


def decode_int8(codes: NDArray[np.int8], absmax: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decode rows of LLM.int8() to float32. absmax: one for each row."""
    if not np.isfinite(absmax).all():
        raise ValueError(f"SCB must be finite, not {absmax[~np.isfinite(absmax)][0]}")
    with np.errstate(over="ignore"):
        weights: NDArray[np.float32] = codes.astype(np.float32) * absmax[:, None] * _SHARE
    return weights
