"""Codes of any grid as tensors of a checkpoint: tables, shared values, grids with scales of any dtype. Our layout.

Of a module: `weight_codes` uint8 (rows, bytes), codes as in a QuantizedTensor, each row on a byte of its own; and where
the grid has them

    `weight_scale`       (rows, groups), or (1, 1) for a whole tensor; float32, float16, bfloat16, or uint8 for
                         powers of two: 2**(byte - 127), 0 for a scale of 0. Without it scales are 1.
    `weight_zero_point`  uint8 of that shape
    `weight_codebook`    float32 (values,), or (rows, groups * values) where each group has its own

What names and shapes do not say is in the file's metadata: `Scheme.entry`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..codebooks import table
from ..tensor import GroupSize, QuantizedTensor, check_group_size, matrix_shape, row_bytes, scales_shape
from .compressed_tensors import INT, SCALE_DTYPES, Part
from .compressed_tensors import Scheme as Grid

__all__ = ["CODES", "KINDS", "POWERS", "Scheme", "decode", "decode_scales", "encode", "encode_scales", "from_entry"]

LAYOUT, CODES = "codes", "weight_codes"
POWERS = "power_of_two"  # the scale dtype of MX: an exponent
_NAMED = ("nf4", "fp4", "mxfp4", "binary")  # whose tables are no part of a file
_GRIDS = ("mxint8", "ternary", "grid")
_OWN = ("table", "clusters", "values")  # whose codebook is stored
KINDS = (*_NAMED, *_GRIDS, *_OWN)
DIMS_LIMIT = 32  # of a shape
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_BIAS = 127  # of an exponent
_FORMS = {**{name: dtype for name, (dtype, _) in SCALE_DTYPES.items()}, POWERS: "U8"}


@dataclass(frozen=True)
class Scheme:
    """How one matrix is stored.

    kind: which grid: "nf4", "fp4", "mxfp4", "mxint8", "binary", "ternary"; "table", values with scales; "clusters",
        shared values; "grid" and "values", codes and values of weights that lay on a grid. dtype: of the weights that
        codes decode to, as safetensors has it. scale_dtype: None where all scales are 1. values: in a codebook that is
        stored, else 0. each: whether each group has its own.
    """

    kind: str
    bits: int
    group_size: GroupSize
    dtype: str
    scale_dtype: str | None = "float16"
    values: int = 0
    each: bool = False
    symmetric: bool = True

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
    def grid(self) -> Grid | None:
        """The uniform grid of the codes, if it is one."""
        if self.kind != "grid" or self.scale_dtype is None or self.group_size == "tensor":
            return None
        return Grid(self.bits, self.group_size, self.symmetric, self.scale_dtype, INT)

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """What a matrix of this shape is stored as, by role."""
        rows, cols = shape
        scales = scales_shape(shape, self.group_size)
        found = {"codes": Part(CODES, "U8", (rows, row_bytes(cols, self.bits)))}
        if self.scale_dtype is not None:
            found["scale"] = Part("weight_scale", _FORMS[self.scale_dtype], scales)
        if not self.symmetric:
            found["zero_point"] = Part("weight_zero_point", "U8", scales)
        if self.values:
            of_book = (scales[0], scales[1] * self.values) if self.each else (self.values,)
            found["codebook"] = Part("weight_codebook", "F32", of_book)
        return found

    def entry(self, shape: Sequence[int]) -> dict[str, Any]:
        """What the metadata of a file says of a tensor of this shape."""
        return {
            "layout": LAYOUT,
            "kind": self.kind,
            "bits": self.bits,
            "group_size": self.group_size,
            "shape": list(shape),
            "dtype": self.dtype,
        }


def from_entry(
    entry: Mapping[str, Any], infos: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[Scheme, tuple[int, ...]]:
    """The scheme and shape of a tensor, from its entry and the (dtype, shape) of its parts by name within the module.

    ValueError says which rule is broken.
    """
    kind = checks.choice("kind", entry.get("kind"), KINDS)
    bits = checks.integer("bits", entry.get("bits"), 1, 8)
    group = check_group_size(entry.get("group_size"))
    dtype = checks.choice("dtype", entry.get("dtype"), DTYPES)
    shape = shape_of(entry)
    matrix = matrix_shape(shape)
    scale = infos.get("weight_scale")
    forms = {form: name for name, form in _FORMS.items()}
    scale_dtype = None if scale is None else forms[checks.choice("dtype of weight_scale", scale[0], forms)]
    values, each = 0, False
    if kind in _OWN:
        values, each = _values_of(infos, scales_shape(matrix, group), bits)
    scheme = Scheme(kind, bits, group, dtype, scale_dtype, values, each, "weight_zero_point" not in infos)
    if kind in _NAMED and scheme.bits != named_values(kind).size.bit_length() - 1:
        raise ValueError(f"bits of {kind} must be {named_values(kind).size.bit_length() - 1}, not {bits}")
    if kind not in _GRIDS and not scheme.symmetric:
        raise ValueError(f"weight_zero_point must not be there beside codes of {kind}")
    check_parts(scheme.parts(matrix), infos)
    return scheme, shape


def _values_of(
    infos: Mapping[str, tuple[str, tuple[int, ...]]], scales: tuple[int, ...], bits: int
) -> tuple[int, bool]:
    """How many values a stored codebook has, and whether each group has its own."""
    if "weight_codebook" not in infos:
        raise ValueError("weight_codebook is missing")
    shape = infos["weight_codebook"][1]
    each = len(shape) == 2
    values = (shape[1] // max(1, scales[1])) if each else shape[0] if len(shape) == 1 else 0
    return checks.integer("values of weight_codebook", values, 1, 2**bits), each


def shape_of(entry: Mapping[str, Any], dims: int | None = None) -> tuple[int, ...]:
    """The shape that an entry states. dims: how many numbers it must have; None for two or more."""
    shape = entry.get("shape")
    wanted = f"{dims or 'two or more'} integers"
    if not isinstance(shape, list) or not 2 <= len(shape) <= DIMS_LIMIT or dims not in (None, len(shape)):
        raise ValueError(f"shape must be {wanted}, not {shape!r}")
    found = tuple(checks.integer("shape", each, 0, 2**62) for each in shape)
    if math.prod(found) > 2**62:
        raise ValueError(f"shape must be of at most 2**62 elements, not {math.prod(found)}")
    return found


def check_parts(parts: Mapping[str, Part], infos: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """ValueError unless exactly these parts are there, in their dtypes and shapes."""
    for part in parts.values():
        if part.name not in infos:
            raise ValueError(f"{part.name} is missing beside {', '.join(sorted(infos)) or 'nothing'}")
        if infos[part.name] != (part.dtype, part.shape):
            dtype, shape = infos[part.name]
            raise ValueError(f"{part.name} must be {part.dtype} of shape {part.shape}, not {dtype} of shape {shape}")
    extra = sorted(set(infos) - {part.name for part in parts.values()})
    if extra:
        raise ValueError(f"{extra[0]} must not be there beside {', '.join(sorted(p.name for p in parts.values()))}")


def named_values(kind: str) -> NDArray[np.float32]:
    """The table of a kind whose codebook is no part of a file."""
    return table(kind).values


def encode_scales(scales: NDArray[np.float32], scale_dtype: str) -> NDArray[Any]:
    """Scales as they are stored; powers of two below 2**-126 become 0."""
    if scale_dtype != POWERS:
        stored: NDArray[Any] = scales.astype(SCALE_DTYPES[scale_dtype][1])
        return stored
    return (scales.view(np.uint32) >> 23).astype(np.uint8)  # the exponent of a float32 is just that byte


def decode_scales(stored: NDArray[Any], scale_dtype: str) -> NDArray[np.float32]:
    """Stored scales as float32; whoever makes a QuantizedTensor of them finds those that are none."""
    if scale_dtype != POWERS:
        scales: NDArray[np.float32] = stored.astype(np.float32)
        return scales
    return (stored.astype(np.uint32) << 23).view(np.float32)


def encode(q: QuantizedTensor, scheme: Scheme) -> dict[str, NDArray[Any]]:
    """The tensors of a matrix, or of some of its rows or groups, by role."""
    found: dict[str, NDArray[Any]] = {"codes": q.data}
    if scheme.scale_dtype is not None:
        found["scale"] = encode_scales(q.scales, scheme.scale_dtype)
    if q.zero_points is not None:
        found["zero_point"] = q.zero_points
    if scheme.values and q.codebook is not None:
        found["codebook"] = q.codebook.reshape(len(q.scales), -1) if scheme.each else q.codebook
    return found


def decode(found: Mapping[str, NDArray[Any]], scheme: Scheme, shape: tuple[int, int]) -> QuantizedTensor:
    """Some rows, by role, as a QuantizedTensor of this shape. ValueError where they are none."""
    of_scales = scales_shape(shape, scheme.group_size)
    scales = np.ones(of_scales, np.float32)
    if scheme.scale_dtype is not None:
        scales = decode_scales(found["scale"], scheme.scale_dtype)
    book = named_values(scheme.kind) if scheme.kind in _NAMED else None
    if scheme.values:
        book = found["codebook"]
        book = book.reshape(*of_scales, scheme.values) if scheme.each else book.reshape(-1)
    zeros = None if scheme.symmetric else found["zero_point"]
    return QuantizedTensor(found["codes"], scales, zeros, scheme.bits, scheme.group_size, shape, book)
