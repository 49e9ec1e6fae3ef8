"""A tensor of a checkpoint under its own name, read by rows, whether it is stored as floats or as codes and scales."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo
from ..files.errors import quote
from ..layouts import compressed_tensors as layout
from ..quantization import dequantize
from ..tensor import QuantizedTensor, matrix_shape

T = TypeVar("T")


@dataclass(frozen=True)
class LogicalTensor:
    """A tensor as its reader sees it. dtype: what `rows` gives, for compressed ones that of the scales.
    stored: for people. nbytes: all parts together. parts: the stored tensors that it is made of, by their names in the
    module. scheme: of compressed-tensors' codes; other forms are subclasses, in `stored`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: str
    parts: Mapping[str, TensorInfo]
    scheme: layout.Scheme | None
    checkpoint: Checkpoint

    @property
    def compressed(self) -> bool:
        """Whether it is stored as something else than its weights."""
        return self.scheme is not None

    @property
    def coded(self) -> bool:
        """Whether it has codes and scales, for `quantized_rows`."""
        return self.scheme is not None

    @property
    def blamed(self) -> str:
        """The tensor that an error about the stored bytes names: where there are codes, most can be wrong of scales."""
        return self.parts["weight_scale"].name if "weight_scale" in self.parts else self.name

    @property
    def nbytes(self) -> int:
        return sum(self.checkpoint.stored(part.name)[1] for part in self.parts.values())

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, cols), as TensorInfo has it; a scalar is one row of one."""
        if self.compressed:
            return matrix_shape(self.shape)
        return next(iter(self.parts.values())).matrix_shape if self.shape else (1, 1)

    def rows(self, first: int, count: int) -> Array:
        """(count, cols) weights, rows `first` to `first + count` of the matrix; memory for these rows alone.

        Compressed ones are (code - zero) * scale, rounded to dtype: the bits that compressed-tensors
        computes. FormatError where the stored bytes are no such codes or scales."""
        if self.coded:
            return dequantize(self.quantized_rows(first, count), dtype=self.dtype)
        name = next(iter(self.parts.values())).name
        if not self.shape:
            return self.checkpoint.read(name).reshape(1, 1)
        return self.checkpoint.rows(name, first, count)

    def quantized_rows(self, first: int, count: int) -> QuantizedTensor:
        """The same rows as codes and scales. ValueError for a tensor that is not compressed."""
        if not self.coded:
            raise ValueError(f"tensor {quote(self.name)} must be compressed to have codes, not {self.stored}")
        first, count = self.checked(first, count)
        return self.guarded(self.decode_rows, first, count)

    def checked(self, first: int, count: int) -> tuple[int, int]:
        """The range of rows, if the matrix has them."""
        first, count = operator.index(first), operator.index(count)
        rows = self.matrix_shape[0]
        if not (first >= 0 and 0 <= count <= rows - first):
            raise ValueError(f"tensor {quote(self.name)} must have rows {first} to {first + count}; it has {rows}")
        return first, count

    def guarded(self, decode: Callable[[int, int], T], first: int, count: int) -> T:
        """What `decode` gives; its ValueError as a FormatError that names a part."""
        try:
            return decode(first, count)
        except FormatError:
            raise
        except (ValueError, TypeError) as error:
            part = self.parts.get("weight_scale", next(iter(self.parts.values())))
            raise FormatError(str(error), path=part.path, tensor=self.blamed) from None

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        """Codes and scales of rows that are there. ValueError where the stored bytes are none."""
        assert self.scheme is not None
        return self._decode(self.scheme, first, count)

    def _decode(self, scheme: layout.Scheme, first: int, count: int) -> QuantizedTensor:
        read, cols = self.checkpoint.rows, self.shape[1]
        codes = read(self.parts["weight" if scheme.format == layout.INT else "weight_packed"].name, first, count)
        scales = layout.decode_scales(read(self.parts["weight_scale"].name, first, count))
        zeros = None if scheme.symmetric else self._zero_points(scheme, first, count)
        data = layout.decode_codes(codes, scheme, cols)
        return QuantizedTensor(data, scales, zeros, scheme.bits, scheme.group_size, (count, cols))

    def _zero_points(self, scheme: layout.Scheme, first: int, count: int) -> Array:
        name = self.parts["weight_zero_point"].name
        if scheme.format == layout.INT:
            return layout.decode_zero_points(self.checkpoint.rows(name, first, count), scheme, count)
        # packed along the rows: whole words begin at multiples of ZERO_POINT_ROWS
        skip = first % layout.ZERO_POINT_ROWS
        word = (first - skip) * scheme.bits // 32
        words = -(-(skip + count) * scheme.bits // 32)
        stored = self.checkpoint.rows(name, word, words)
        return np.ascontiguousarray(layout.decode_zero_points(stored, scheme, skip + count)[skip:])
