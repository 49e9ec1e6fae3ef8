"""Weights stored sparse, restored, and multiplied as they are."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import checks
from .packing import row_bytes
from .sparse_tensor import SparseTensor
from .tensor import QuantizedTensor

__all__ = ["from_dense", "matmul", "smallest_layout", "to_dense"]


def from_dense(w: ArrayLike | QuantizedTensor, layout: str = "bitmask") -> SparseTensor:
    """Leave the zeros of a tensor out.

    w: (..., cols) float32, float16, bfloat16 or float64 (narrowed), of any strides; -0.0 counts as a value, so that
        every bit comes back. Or a QuantizedTensor, whose zeros are the codes equal to their zero point.
    layout: "bitmask", "csr", or "n:m" with 1 <= n < m <= 32, for which the last axis must be a multiple of m and no m
        consecutive weights may have more than n that are not zero. `SparseTensor` says what each stores.

    A bitmask needs 1 + density * b bits per weight of b bits, csr density * (16 + b) up to 65536 columns, n:m
    n / m * (b + ceil(log2(m))).

    >>> s = from_dense(np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32), "2:4")
    >>> s.values.tolist(), s.places.tolist(), s.bits_per_weight
    ([0.0, 2.0, 3.0, 4.0], [[4], [12]], 18.0)
    """
    return SparseTensor.from_dense(w, layout)


def to_dense(s: SparseTensor, *, out: NDArray[Any] | None = None) -> NDArray[Any] | QuantizedTensor:
    """Restore the tensor that `from_dense` was given: its array, or its QuantizedTensor.

    out: an array of its shape and dtype to write to; of a QuantizedTensor, one for its data.

    >>> to_dense(from_dense(np.array([[0.0, -0.0, 5.0]], np.float32)))
    array([[ 0., -0.,  5.]], dtype=float32)
    """
    return _sparse(s).to_dense(out=out)


def matmul(s: SparseTensor, x: ArrayLike, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Multiply sparse weights with dense vectors, s @ x in numpy's sense, without restoring them.

    s: of a matrix (rows, cols). x: (cols,) or (cols, batch) float32, float16, bfloat16 or float64; fastest where x.T
    is C-contiguous. Returns (rows,) or (rows, batch) float32. Products and sums are rounded to float32; column i adds
    to lane i mod 16, the first columns first, then lane j takes lane j + 8, + 4, + 2, + 1: the same bits for every
    layout, and those of the dense product so summed. Weights of a QuantizedTensor are (code - zero) * scale.

    >>> s = from_dense(np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32))
    >>> matmul(s, [1, 1, 1, 1.0])
    array([2., 7.], dtype=float32)
    >>> s @ [[1, 0], [1, 1], [1, 0], [1, 2.0]]
    array([[2., 2.],
           [7., 8.]], dtype=float32)
    """
    return _sparse(s).matmul(x, out=out)


def smallest_layout(shape: tuple[int, ...], sparsity: float, bits: int) -> Literal["dense", "bitmask", "csr"]:
    """Choose the layout that needs the fewest bytes for weights of `bits` bits, scales not counted.

    shape: of the tensor. sparsity: 0..1. bits: 1..32 of a value. Of equals, the first.

    >>> [smallest_layout((4096, 4096), s, 4) for s in (0.2, 0.5, 0.95)]
    ['dense', 'bitmask', 'csr']
    """
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(f"shape must be a tuple of at least one size, not {shape!r}")
    sizes = [checks.integer("shape", n, 0, 2**62) for n in shape]
    bits = checks.integer("bits", bits, 1, 32)
    rows, cols = math.prod(sizes[:-1]), sizes[-1]
    nnz = round((1 - checks.number("sparsity", sparsity, 0.0, 1.0)) * rows * cols)
    values, offsets = row_bytes(nnz, bits), 8 * (rows + 1)
    nbytes: dict[Literal["dense", "bitmask", "csr"], int] = {
        "dense": rows * row_bytes(cols, bits),
        "bitmask": rows * row_bytes(cols, 1) + offsets + values,
        "csr": nnz * (2 if cols <= 2**16 else 4) + offsets + values,
    }
    return min(nbytes, key=lambda layout: nbytes[layout])


def _sparse(s: object) -> SparseTensor:
    if not isinstance(s, SparseTensor):
        raise TypeError(f"s must be a SparseTensor, not {type(s).__name__}")
    return s
