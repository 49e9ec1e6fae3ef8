"""Codes of any grid as tensors of a checkpoint: tables, shared values, grids with scales of any dtype. Our layout.

Of a module: `weight_codes` uint8 (rows, bytes), codes as in a QuantizedTensor, each row on a byte of its own; and where
the grid has them

    `weight_scale`       (rows, groups), or (1, 1) for a whole tensor; float32, float16, bfloat16, or uint8 for
                         powers of two: 2**(byte - 127), 0 for a scale of 0. Without it scales are 1.
    `weight_zero_point`  uint8 of that shape
    `weight_codebook`    float32 (values,), or (rows, groups * values) where each group has its own

What names and shapes do not say is in the file's metadata: `Codes.entry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..codebooks import table
from ..tensor import (
    GroupSize,
    QuantizedTensor,
    check_group_size,
    columns_per_group,
    matrix_shape,
    row_bytes,
    scales_shape,
)
from .base import (
    FLOATS,
    SCALE_DTYPES,
    Array,
    Arrays,
    Chunk,
    Described,
    Encoder,
    Grid,
    Infos,
    Shape,
    StoredTensor,
    WritableLayout,
    check_arrays,
    shape_of,
)

__all__ = ["ARRAYS", "POWERS", "Codes", "from_entry", "round_scales"]

CODES = "weight_codes"
ARRAYS = (CODES, "weight_scale", "weight_zero_point", "weight_codebook")
POWERS = "power_of_two"  # the scale dtype of MX: an exponent
_NAMED = ("nf4", "fp4", "mxfp4", "binary")  # whose tables are in no file
_GRIDS = ("mxint8", "ternary", "grid")
_OWN = ("table", "clusters", "values")  # whose codebook is in the file
_KINDS = (*_NAMED, *_GRIDS, *_OWN)
_STORED_SCALES = {**{name: dtype for name, (dtype, _) in SCALE_DTYPES.items()}, POWERS: "U8"}


@dataclass(frozen=True)
class Codes(WritableLayout):
    """Codes of any grid, for quantrim alone.

    kind: which grid: "nf4", "fp4", "mxfp4", "mxint8", "binary", "ternary"; "table", values with scales; "clusters",
        shared values; "grid" and "values", codes and values of weights that were quantized. dtype: of the weights that
        codes decode to, as safetensors has it. scale_dtype: None where all scales are 1. values: in a codebook that is
        written, else 0. each: whether each group has its own.
    """

    kind: str
    bits: int
    group_size: GroupSize
    dtype: str
    scale_dtype: str | None = "float16"
    values: int = 0
    each: bool = False
    symmetric: bool = True
    family: ClassVar[str] = "codes"
    note: ClassVar[str] = "stored as codes in a layout of quantrim's own, which only quantrim reads"

    @property
    def label(self) -> str:
        """For people: "nf4 group 64"."""
        grouping = f"group {self.group_size}" if isinstance(self.group_size, int) else self.group_size
        if self.kind in ("clusters", "values"):
            what = "shared" if self.kind == "clusters" else "exact"
            return f"{self.values} {what} values" + ("" if self.group_size == "tensor" else f" {grouping}")
        if self.kind == "grid":
            return f"int{self.bits} {grouping} {'symmetric' if self.symmetric else 'asymmetric'}"
        return f"{f'{self.values} values' if self.kind == 'table' else self.kind} {grouping}"

    @property
    def decoded_dtype(self) -> str:
        return self.dtype

    @property
    def grid(self) -> Grid | None:
        """The uniform grid of the codes, if it is one that other layouts have, too."""
        if self.kind != "grid" or self.scale_dtype is None or self.group_size == "tensor":
            return None
        return Grid(self.bits, self.group_size, self.symmetric, self.scale_dtype)

    def why_not(self, info: Described) -> str | None:
        return None if len(info.shape) > 1 else "a weight of two or more axes is wanted"

    def stored(self, shape: Shape) -> dict[str, StoredTensor]:
        rows, cols = matrix_shape(shape)
        scales = scales_shape((rows, cols), self.group_size)
        found = {"codes": StoredTensor(CODES, "U8", (rows, row_bytes(cols, self.bits)))}
        if self.scale_dtype is not None:
            found["scale"] = StoredTensor("weight_scale", _STORED_SCALES[self.scale_dtype], scales)
        if not self.symmetric:
            found["zero_point"] = StoredTensor("weight_zero_point", "U8", scales)
        if self.values:
            of_book = (scales[0], scales[1] * self.values) if self.each else (self.values,)
            found["codebook"] = StoredTensor("weight_codebook", "F32", of_book)
        return found

    def entry(self, shape: Shape) -> dict[str, Any]:
        return {
            "layout": self.family,
            "kind": self.kind,
            "bits": self.bits,
            "group_size": self.group_size,
            "shape": list(shape),
            "dtype": self.dtype,
        }

    def encoder(self, shape: Shape, counts: Sequence[int] = ()) -> Encoder:
        return _Encoder(self, matrix_shape(shape))

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor:
        rows, cols = matrix_shape(shape)
        found = {}
        for role, each in self.stored(shape).items():
            by_row = len(each.shape) == 2 and each.shape[0] == rows
            found[role] = arrays.rows(each.name, first, count) if by_row else arrays.array(each.name)
        of_scales = scales_shape((count, cols), self.group_size)
        scales = np.ones(of_scales, np.float32)
        if self.scale_dtype is not None:
            scales = _decode_scales(found["scale"], self.scale_dtype)
        book = named_values(self.kind) if self.kind in _NAMED else None
        if self.values:
            book = found["codebook"]
            book = book.reshape(*of_scales, self.values) if self.each else book.reshape(-1)
        zeros = None if self.symmetric else found["zero_point"]
        return QuantizedTensor(found["codes"], scales, zeros, self.bits, self.group_size, (count, cols), book)


class _Encoder(Encoder):
    def __init__(self, layout: Codes, shape: tuple[int, int]) -> None:
        self._layout, self._cols = layout, shape[1]
        self._arrays = layout.stored(shape)
        self._groups = scales_shape(shape, layout.group_size)[1]

    def encode(self, x: QuantizedTensor, chunk: Chunk) -> Iterator[tuple[str, int, Array]]:
        group = chunk.col // columns_per_group(self._layout.group_size, self._cols)
        for role, values in self._values(x):
            shape = self._arrays[role].shape
            width = shape[1] if len(shape) == 2 else 0
            if role == "codes":
                at = chunk.row * width + chunk.col * self._layout.bits // 8
            else:  # a row of `groups` values, or of as many codebooks
                at = (chunk.row * width + group * (width // self._groups)) * values.itemsize
            yield role, at, np.ascontiguousarray(values)

    def _values(self, q: QuantizedTensor) -> Iterator[tuple[str, Array]]:
        layout = self._layout
        yield "codes", q.data
        if layout.scale_dtype is not None:
            yield "scale", _encode_scales(q.scales, layout.scale_dtype)
        if q.zero_points is not None:
            yield "zero_point", q.zero_points
        if layout.values and q.codebook is not None:
            yield "codebook", q.codebook.reshape(len(q.scales), -1) if layout.each else q.codebook


def from_entry(entry: Mapping[str, Any], infos: Infos) -> tuple[Codes, Shape]:
    """Return layout and shape of a tensor, from its entry and the (dtype, shape) of its arrays by name in the module.

    ValueError says which rule is broken.
    """
    kind = checks.choice("kind", entry.get("kind"), _KINDS)
    bits = checks.integer("bits", entry.get("bits"), 1, 8)
    group = check_group_size(entry.get("group_size"))
    dtype = checks.choice("dtype", entry.get("dtype"), FLOATS)
    shape = shape_of(entry)
    scale = infos.get("weight_scale")
    names = {dtype: name for name, dtype in _STORED_SCALES.items()}
    scale_dtype = None if scale is None else names[checks.choice("dtype of weight_scale", scale[0], names)]
    values, each = 0, False
    if kind in _OWN:
        values, each = _values_of(infos, scales_shape(matrix_shape(shape), group), bits)
    layout = Codes(kind, bits, group, dtype, scale_dtype, values, each, "weight_zero_point" not in infos)
    if kind in _NAMED and bits != named_values(kind).size.bit_length() - 1:
        raise ValueError(f"bits of {kind} must be {named_values(kind).size.bit_length() - 1}, not {bits}")
    if kind not in _GRIDS and not layout.symmetric:
        raise ValueError(f"weight_zero_point must not be there beside codes of {kind}")
    check_arrays(layout.stored(shape), infos)
    return layout, shape


def _values_of(infos: Infos, scales: tuple[int, ...], bits: int) -> tuple[int, bool]:
    """Count the values that a codebook in a file has, and say whether each group has its own."""
    if "weight_codebook" not in infos:
        raise ValueError("weight_codebook is missing")
    shape = infos["weight_codebook"][1]
    each = len(shape) == 2
    values = (shape[1] // max(1, scales[1])) if each else shape[0] if len(shape) == 1 else 0
    return checks.integer("values of weight_codebook", values, 1, 2**bits), each


def named_values(kind: str) -> NDArray[np.float32]:
    """Return the table of a kind whose codebook is no array of a file."""
    return table(kind).values


def round_scales(scales: NDArray[np.float32], scale_dtype: str | None) -> NDArray[np.float32]:
    """Return scales as they come back: of powers of two the smallest, below 2**-126, become 0."""
    if scale_dtype != POWERS:
        return scales
    return _decode_scales(_encode_scales(scales, POWERS), POWERS)


def _encode_scales(scales: NDArray[np.float32], scale_dtype: str) -> NDArray[Any]:
    if scale_dtype != POWERS:
        return scales.astype(SCALE_DTYPES[scale_dtype][1])
    return (scales.view(np.uint32) >> 23).astype(np.uint8)  # the exponent of a float32 is just that byte


def _decode_scales(scales: NDArray[Any], scale_dtype: str) -> NDArray[np.float32]:
    """Decode scales to float32; whoever makes a QuantizedTensor of them finds those that are none."""
    if scale_dtype != POWERS:
        decoded: NDArray[np.float32] = scales.astype(np.float32)
        return decoded
    return (scales.astype(np.uint32) << 23).view(np.float32)
