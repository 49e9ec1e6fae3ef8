"""Variants of compressed-tensors and their relatives that others write, and this package only reads.

A weight W, a matrix or a stack of them, is

    `W_packed` int32     codes of 1..8 bits as `layouts.compressed_tensors` has them, of each matrix by itself
    `W_packed` uint8     E2M1, the even column in the low half of a byte (NVFP4, MXFP4); E2M3, four codes in three
                         bytes (MXFP6)
    `W` int8, float8     codes as they are

with `W_scale`, or `W_scale_inv`, which is the same but for its name: float, float8 (NVFP4, divided by the one value of
`W_global_scale`), or uint8, an exponent of two + 127 (MX). One scale is for all weights, for a row, for so many columns
of it, or for a block of rows and columns, the last of which may be short. `W_g_idx` names the group of each column
instead; `W_zero_point` has the zeros of integers, in the order of the scales, packed along the rows where codes are.

A weight is code * scale, or (code - zero) * scale, in the dtype of the scale (bfloat16 for float8 and exponents), as
compressed-tensors 0.20 computes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..codebooks import E2M1
from ..tensor import GroupSize, QuantizedTensor, blank, matrix_shape, row_bytes
from .base import SCALE_DTYPES, Arrays, Infos, Layout, Shape, decode_scales
from .zero_points import ZERO_POINT_ROWS, unpack_zero_points

__all__ = ["FLOAT8", "ROLES", "Variant", "blocks_of", "read"]

# the arrays of a weight, by what follows its name in a file; "" and "_packed" are codes
ROLES = ("", "_packed", "_scale", "_scale_inv", "_global_scale", "_shape", "_zero_point", "_g_idx")
FLOAT8 = ("F8_E4M3", "F8_E5M2")
_EXPONENTS = ("U8", "F8_E8M0")
_INTEGERS = ("I32", "I64")
_DTYPES = dict(SCALE_DTYPES.values())
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_LARGE_BLOCK = (128, 128)  # of FP8 checkpoints whose config does not say
Block = tuple[int, int]


@dataclass(frozen=True)
class Variant(Layout):
    """The layout of a weight of this shape.

    codes: "packed", "int8", "float8", "fp4" or "fp6". bits: of a code. block: the rows and columns under one scale.
    grid: the rows and columns of the scales of one matrix. scales: the dtype of the scales as they are kept. zeros:
    None, "packed" or "int8". global_scale: the axes of that one value, None where there is none. ordered: whether
    columns may have groups of their own (g_idx). dtype: what it decodes to, as safetensors has it. float8: which one
    codes are, '' where they are none.
    """

    shape: tuple[int, ...]
    codes: str
    bits: int
    block: Block
    grid: Block
    scales: str
    inverse: bool
    zeros: str | None
    global_scale: int | None
    ordered: bool
    dtype: str
    float8: str
    family: ClassVar[str] = "compressed-tensors variant"

    @property
    def matrix(self) -> Block:
        """Rows and columns of one of the matrices."""
        return self.shape[-2], self.shape[-1]

    @property
    def count(self) -> int:
        """The number of matrices."""
        return math.prod(self.shape[:-2])

    @property
    def label(self) -> str:
        """For people: "float8 block 128 x 128"."""
        cols = self.shape[-1]
        if self.ordered:
            grouping = f"{self.grid[1]} groups by g_idx"
        elif self.grid == (1, 1):
            grouping = "tensor"
        elif self.block[0] > 1:
            grouping = f"block {self.block[0]} x {self.block[1]}"
        else:
            grouping = "channel" if self.block[1] >= cols else f"group {self.block[1]}"
        sign = "" if self.codes not in ("packed", "int8") else " asymmetric" if self.zeros else " symmetric"
        return f"{self._name} {grouping}{sign}"

    @property
    def _name(self) -> str:
        if self.codes in ("packed", "int8"):
            return f"int{self.bits}"
        if self.scales in _EXPONENTS:
            return f"mxfp{self.bits}"
        return "nvfp4" if self.codes == "fp4" else "float8"

    @property
    def decoded_dtype(self) -> str:
        return self.dtype

    @property
    def codes_array(self) -> str:
        """The array that the codes are in."""
        return "weight" if self.codes in ("int8", "float8") else "weight_packed"

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor:
        """Return rows of the last axis: several for each of the matrix, where a stack is so narrow that it is seen as
        a convolution."""
        each = math.prod(shape[:-1]) // max(1, matrix_shape(shape)[0])
        nbytes = self.code_row_bytes()
        codes = arrays.values(self.codes_array, np.uint8, first * each * nbytes, count * each * nbytes)
        return self.decode_rows(arrays, codes.reshape(count * each, nbytes), first * each)

    def decode_rows(self, arrays: Arrays, codes: NDArray[np.uint8], first: int) -> QuantizedTensor:
        """Return rows of the last axis from `first` on. codes: (rows, bytes) as in the file."""
        cols, count = self.shape[-1], len(codes)
        if not codes.size:
            return blank((count, cols), self.bits, "channel")
        at = self.scale_rows(first, count)
        scale = "weight_scale_inv" if self.inverse else "weight_scale"
        global_scale = None if arrays.info("weight_global_scale") is None else arrays.array("weight_global_scale")
        scales = self.decode_scales(self._grid_rows(arrays, scale, at), global_scale)
        zeros = None if self.zeros is None else self._zero_points(arrays, first, count, at)
        group: GroupSize = min(self.block[1], cols)
        if self.ordered:
            of_column = self._groups_of_columns(arrays)
            scales, group = scales[:, of_column], 1
            zeros = None if zeros is None else zeros[:, of_column]
        book = self.codebook(codes)
        scales = np.ascontiguousarray(scales)
        zeros = None if zeros is None else np.ascontiguousarray(zeros)
        return QuantizedTensor(self.decode_codes(codes), scales, zeros, self.bits, group, (count, cols), book)

    def _grid_rows(self, arrays: Arrays, name: str, at: NDArray[np.int64]) -> NDArray[Any]:
        """Return these rows of what is laid out as the scales are, seen as one matrix."""
        info = arrays.info(name)
        if info is None or math.prod(info[1]) == 1:
            return np.repeat(arrays.array(name).reshape(1, 1), len(at), axis=0)
        low = int(at[0])
        found = self._matrix_rows(arrays, name, low, int(at[-1]) + 1 - low)
        taken: NDArray[Any] = np.take(found, at - low, axis=0)
        return taken

    def _matrix_rows(self, arrays: Arrays, name: str, first: int, count: int) -> NDArray[Any]:
        """Return rows of as many columns as there are groups, all matrices one below the other."""
        cols = self.grid[1]
        return arrays.values(name, None, first * cols, count * cols).reshape(count, cols)

    def _zero_points(self, arrays: Arrays, first: int, count: int, at: NDArray[np.int64]) -> NDArray[np.uint8]:
        name, bits = "weight_zero_point", self.bits
        if self.zeros == "int8":
            signed = self._grid_rows(arrays, name, at).view(np.uint8)
            unsigned: NDArray[np.uint8] = signed + np.uint8(2 ** (bits - 1))  # modulo 256
            return unsigned
        info = arrays.info(name)
        assert info is not None
        rows, words = self.matrix[0], info[1][-2]
        found = []
        for matrix in range(first // rows, (first + count - 1) // rows + 1):
            begin = max(0, first - matrix * rows)
            end = min(rows, first + count - matrix * rows)
            skip = begin % ZERO_POINT_ROWS  # whole words begin at multiples of it
            word = (begin - skip) * bits // 32
            many = -(-(skip + end - begin) * bits // 32)
            packed = self._matrix_rows(arrays, name, matrix * words + word, many)
            found.append(unpack_zero_points(packed, bits, skip + end - begin)[skip:])
        zeros: NDArray[np.uint8] = np.concatenate(found)
        return zeros

    def _groups_of_columns(self, arrays: Arrays) -> NDArray[Any]:
        """Return the group of each column; by their order where the file says -1, as its writers do."""
        found = arrays.array("weight_g_idx")
        groups, cols = self.grid[1], self.shape[-1]
        if (found == -1).any():
            if cols % groups:
                raise ValueError(f"weight_scale must have groups that divide {cols} columns, not {groups}")
            by_order: NDArray[Any] = np.arange(cols) // (cols // groups)
            return by_order
        if found.min() < 0 or found.max() >= groups:
            raise ValueError(f"weight_g_idx must be of 0..{groups - 1}, not {found.min()}..{found.max()}")
        return found

    def code_row_bytes(self) -> int:
        """Count the bytes of a row of codes."""
        cols = self.shape[-1]
        return -(-cols * self.bits // 32) * 4 if self.codes == "packed" else row_bytes(cols, self.bits)

    def scale_rows(self, first: int, count: int) -> NDArray[np.int64]:
        """Return which row of the scales, all matrices one below the other, belongs to each row of weights."""
        if self.grid == (1, 1) and self.block[0] != self.matrix[0]:
            return np.zeros(count, np.int64)  # one for all matrices
        row = np.arange(first, first + count, dtype=np.int64)
        rows = max(1, self.matrix[0])
        found: NDArray[np.int64] = row // rows * self.grid[0] + row % rows // self.block[0]
        return found

    def decode_codes(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Decode rows of bytes to the packed codes of a QuantizedTensor."""
        if self.codes == "int8":
            unsigned: NDArray[np.uint8] = data ^ np.uint8(0x80)
            return unsigned
        return np.ascontiguousarray(data[:, : row_bytes(self.shape[-1], self.bits)])

    def codebook(self, codes: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the values of codes that are floats. ValueError where a code is no number."""
        if self.codes in ("packed", "int8"):
            return None
        if self.codes != "float8":
            return _E2M1 if self.codes == "fp4" else _E2M3
        values = _FLOAT8_VALUES[self.float8]
        missing = ~np.isfinite(values)
        if missing[codes].any():
            at = int(missing[codes].argmax())
            raise ValueError(f"weights must be finite, not {values[codes.reshape(-1)[at]]} at index {at} of these rows")
        finite: NDArray[np.float32] = np.where(missing, np.float32(0), values)
        return finite

    def decode_scales(self, data: NDArray[Any], global_scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Decode scales to float32 values, those of float8 divided by the global scale."""
        if self.scales in _EXPONENTS:
            exponents = data.view(np.uint8)
            if (exponents == 255).any():
                raise ValueError("weight_scale must be exponents of 0..254, not 255, which is NaN")
            powers: NDArray[np.float32] = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)
            return powers
        scales = decode_scales(data)
        if global_scale is None:
            return scales
        if not (np.isfinite(global_scale).all() and (global_scale > 0).all()):
            raise ValueError(f"weight_global_scale must be positive and finite, not {global_scale.reshape(-1)[0]}")
        with np.errstate(over="ignore"):
            scales = scales / global_scale.reshape(())
        # torch keeps the dtype of the many where the one has no axis
        return scales if self.global_scale else scales.astype(_BFLOAT16).astype(np.float32)


def read(infos: Infos, shape: Sequence[int] | None, blocks: Collection[Block], allowed: Collection[int]) -> Variant:
    """Read how a weight is kept, from the (dtype, shape) of its arrays by role (ROLES).

    shape: the values of `_shape`. blocks, allowed: the blocks and the bits of codes that its config names. ValueError
    says which rule is broken, or what of it is not read.
    """
    scale = next((role for role in ("_scale", "_scale_inv") if role in infos), None)
    if scale is None:
        raise ValueError("weight_scale is missing")
    if {"", "_packed"} <= set(infos) or {"_scale", "_scale_inv"} <= set(infos):
        raise ValueError(f"weight and weight_packed, or two scales, must not both be there: {', '.join(infos)}")
    packed = "_packed" in infos
    dtype, dims = infos["_packed" if packed else ""]
    if not 2 <= len(dims) <= 3:
        raise ValueError(f"weight must be a matrix or a stack of them, not of shape {dims}")
    if packed and dtype == "I32":
        found = tuple(shape or ())
        if len(found) != len(dims) or found[:-1] != dims[:-1] or min(found) < 0:
            raise ValueError(f"weight_shape must be {list(dims[:-1])} and the columns, not {list(found)}")
        codes, bits = "packed", _bits(dims[-1], found[-1], allowed)
    elif packed and dtype == "U8":
        groups = infos[scale][1][-1:] or (0,)
        six = infos[scale][0] in _EXPONENTS and dims[-1] == 24 * groups[0]  # bytes of 32 codes
        codes, bits = ("fp6", 6) if six else ("fp4", 4)
        found = (*dims[:-1], dims[-1] * 8 // bits)
    elif dtype == "I8" or dtype in FLOAT8:
        codes, bits, found = ("int8" if dtype == "I8" else "float8"), 8, dims
    else:
        raise ValueError(f"codes must be int32, int8, float8 or bytes of 4-bit floats, not {dtype}")
    return _with_scales(infos, scale, found, codes, bits, blocks)


def _with_scales(
    infos: Infos, scale: str, shape: tuple[int, ...], codes: str, bits: int, blocks: Collection[Block]
) -> Variant:
    dtype, dims = infos[scale]
    integers = codes in ("packed", "int8")
    small = dtype == "F8_E4M3" and codes == "fp4"
    exponents = dtype in _EXPONENTS and not integers
    if dtype not in _DTYPES and not small and not exponents:
        raise ValueError(f"weight{scale} of {codes} must not be {dtype}")
    if codes in ("fp4", "fp6") and not (small or exponents):
        raise ValueError(f"weight_scale of 4-bit and 6-bit floats must be float8 or exponents, not {dtype}")
    one = math.prod(dims) == 1
    if not one and (len(dims) != len(shape) or dims[:-2] != shape[:-2]):
        raise ValueError(f"weight{scale} of a weight {shape} must have its axes, or one value, not shape {dims}")
    ordered = "_g_idx" in infos
    if ordered and (infos["_g_idx"][0] not in _INTEGERS or infos["_g_idx"][1] != shape[-1:] or not integers):
        raise ValueError(f"weight_g_idx must be int32, one for each of {shape[-1]} columns of integers")
    rows, cols = shape[-2:]
    grid = (1, 1) if one else (dims[-2], dims[-1])
    if ordered:
        if grid[0] != rows:
            raise ValueError(f"weight_scale beside weight_g_idx must have {rows} rows, not {grid[0]}")
        block = (1, cols)
    elif one:
        block = (max(1, math.prod(shape[:-1])), max(1, cols))
    else:
        block = _block(grid, (rows, cols), blocks, scale)
    unknown = sorted(set(infos) - {"", "_packed", scale, "_shape", "_g_idx", "_zero_point", "_global_scale"})
    if unknown:
        raise ValueError(f"weight{unknown[0]} is not read beside weight{scale}")
    return Variant(
        shape=shape,
        codes=codes,
        bits=bits,
        block=block,
        grid=grid,
        scales=dtype,
        inverse=scale == "_scale_inv",
        zeros=_zeros(infos, shape, codes, bits, dims),
        global_scale=_global_scale(infos, small),
        ordered=ordered,
        dtype=dtype if dtype in _DTYPES else "BF16",
        float8=infos[""][0] if codes == "float8" else "",
    )


def _bits(words: int, cols: int, allowed: Collection[int]) -> int:
    fitting = [n for n in range(1, 9) if -(-cols * n // 32) == words and (not allowed or n in allowed)]
    if len(fitting) != 1:
        raise ValueError(f"weight_packed of {cols} columns, {words} words a row: may be codes of {fitting} bits")
    return fitting[0]


def _block(grid: Block, matrix: Block, blocks: Collection[Block], scale: str) -> Block:
    """Return the rows and columns under one scale: a block of the config where it fits, else whole groups of a row."""

    def fits(block: Block) -> bool:
        return all(-(-n // each) == many for n, each, many in zip(matrix, block, grid, strict=True))

    (rows, cols), (down, along) = matrix, grid
    if grid == (1, 1):
        return max(1, rows), max(1, cols)
    named = [block for block in sorted(blocks) if fits(block)]
    if len(named) > 1:
        raise ValueError(f"weight{scale} of shape {grid} may be of blocks {named}: the config must name one of them")
    if named:
        return named[0]
    if down == rows and along and cols % along == 0:
        return 1, max(1, cols // along)
    if scale == "_scale_inv" and not blocks:
        if fits(_LARGE_BLOCK):
            return _LARGE_BLOCK
        if down and along and rows % down == 0 and cols % along == 0:
            return max(1, rows // down), max(1, cols // along)
    said = f"of blocks {sorted(blocks)}" if blocks else "without a block_structure in the config"
    raise ValueError(f"weight{scale} of shape {grid} does not fit a matrix {matrix} {said}")


def _zeros(infos: Infos, shape: tuple[int, ...], codes: str, bits: int, scales: tuple[int, ...]) -> str | None:
    if "_zero_point" not in infos:
        return None
    dtype, dims = infos["_zero_point"]
    if codes not in ("packed", "int8"):
        raise ValueError("weight_zero_point beside codes that are floats is not read")
    if dtype == "I8" and math.prod(dims) == math.prod(scales):
        return "int8"
    words = (*shape[:-2], -(-shape[-2] * bits // 32), scales[-1] if scales else 1)
    if codes != "packed" or dtype != "I32" or dims != words or scales[:-1] != shape[:-1]:
        raise ValueError(f"weight_zero_point must match weight_scale {scales}, not {dtype} of shape {dims}")
    return "packed"


def _global_scale(infos: Infos, small: bool) -> int | None:
    if "_global_scale" not in infos:
        return None
    dtype, dims = infos["_global_scale"]
    if not small or dtype != "F32" or math.prod(dims) != 1:
        raise ValueError(f"weight_global_scale must be one float32 beside scales of float8, not {dtype} {dims}")
    return len(dims)


def _signed(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array([*values, *(-value for value in values)], np.float32)


_E2M1 = _signed(E2M1)
_E2M3 = _signed([m / 8 for m in range(8)] + [(1 + m / 8) * 2.0**e for e in range(3) for m in range(8)])
_FLOAT8_VALUES = {
    name: np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    for name, dtype in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2))
}


def blocks_of(config: Mapping[str, Any]) -> set[Block]:
    """Return the blocks of rows and columns that a config names, whatever the modules."""
    groups = config.get("config_groups")
    weights = [g.get("weights") for g in (groups.values() if isinstance(groups, dict) else ()) if isinstance(g, dict)]
    said = [w.get("block_structure") for w in weights if isinstance(w, dict)] + [config.get("weight_block_size")]
    found = set()
    for each in said:
        if isinstance(each, str) and all(side.isdecimal() for side in each.split("x")):
            each = [int(side) for side in each.split("x")]
        if isinstance(each, list) and len(each) == 2 and all(type(side) is int and side > 0 for side in each):
            found.add((each[0], each[1]))
    return found
