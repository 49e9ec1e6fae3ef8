"""Weights stored sparse, restored, and multiplied as they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .packing import pack, unpack
from .sparse_tensor import SparseTensor, check_layout, places_form
from .tensor import QuantizedTensor, by_row, columns_per_group, row_bytes

__all__ = ["decode", "encode", "product", "smallest_layout"]


def encode(w: object, layout: str = "bitmask") -> SparseTensor:
    """Leave the zeros of a tensor out.

    w: (..., cols) float32, float16, bfloat16 or float64, of any strides; -0.0 counts as a value, so that every bit
        comes back. Or a QuantizedTensor, whose zeros are the codes equal to their zero point.
    layout: "bitmask", "csr", or "n:m" with 1 <= n < m <= 32, for which the last axis must be a multiple of m and no m
        consecutive weights may have more than n that are not zero. `SparseTensor` says what each stores.

    A bitmask needs 1 + density * b bits per weight of b bits, csr density * (16 + b) up to 65536 columns, n:m
    n / m * (b + ceil(log2(m))).

    >>> s = encode(np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32), "2:4")
    >>> s.values.tolist(), s.places.tolist(), s.bits_per_weight
    ([0.0, 2.0, 3.0, 4.0], [[4], [12]], 18.0)
    """
    if isinstance(w, QuantizedTensor):
        return _encode_codes(w, layout)
    x = checks.floats("w", w)
    values, places, offsets = _encoded("w", x, layout)
    return SparseTensor(values, places, offsets, layout, x.shape)


def decode(s: SparseTensor, *, out: NDArray[Any] | None = None) -> NDArray[Any] | QuantizedTensor:
    """The tensor that `encode` was given: its array, or its QuantizedTensor.

    out: an array of its shape and dtype to write to; where a QuantizedTensor is stored, one for its data.

    >>> decode(encode(np.array([[0.0, -0.0, 5.0]], np.float32)))
    array([[ 0., -0.,  5.]], dtype=float32)
    """
    _check_tensor(s)
    if s.bits is None:
        w = checks.output(out, s.shape, s.values.dtype, *s.parts(), in_place=False)
        _restore(s, s.values, checks.rows(w))
        return w
    packed = (*s.shape[:-1], row_bytes(s.shape[-1], s.bits))
    data = checks.output(out, packed, np.uint8, *s.parts(), in_place=False)
    codes = np.empty(s.rows_and_cols, np.uint8)
    _restore(s, unpack(s.values[None], s.bits, s.stored)[0], codes)
    codes += _zeros(s, s.bits)
    codes &= np.uint8(2**s.bits - 1)
    pack(codes.reshape(s.shape), s.bits, out=data)
    return s._quantized(data)


def product(x: object, s: SparseTensor, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """y[b, o] = sum_i w[o, i] * x[b, i], without restoring w.

    x: (in,) or (batch, in) float32, float16, bfloat16 or float64. s: of a tensor (out, in). Returns (out,) or
    (batch, out) float32. Products and sums are rounded to float32; column i adds to lane i mod 16, the first columns
    first, then lane j takes lane j + 8, + 4, + 2, + 1: the same bits for every layout, and those of the dense product
    so summed. Weights of a QuantizedTensor are (code - zero) * scale.

    >>> s = encode(np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32))
    >>> product([[1, 1, 1, 1.0], [0, 1, 0, 2]], s)
    array([[2., 7.],
           [2., 8.]], dtype=float32)
    """
    _check_tensor(s)
    if len(s.shape) != 2:
        raise ValueError(f"s must be of a matrix (out, in), not of shape {s.shape}")
    vectors = checks.floats("x", x)
    if vectors.ndim > 2 or vectors.shape[-1] != s.shape[1]:
        raise ValueError(f"x must have shape ({s.shape[1]},) or (batch, {s.shape[1]}), not {vectors.shape}")
    checks.finite("x", vectors, backend.active.is_finite(vectors.ravel()))
    vectors = vectors.astype(np.float32, copy=False)
    y = checks.output(out, (*vectors.shape[:-1], s.shape[0]), np.float32, vectors, *s.parts(), in_place=False)
    if not s.shape[1]:
        y[...] = 0
    if not y.size or not s.shape[1]:
        return y
    form, n, m = check_layout(s.layout, s.shape)
    bits, group, scales, zeros = 0, 1, None, None
    if s.bits is not None and s.group_size is not None:
        bits, group = s.bits, columns_per_group(s.group_size, s.shape[1])
        scales, zeros = (by_row(a, s.shape[0]) for a in (s.scales, s.zero_points))
    places = form, n, m, s.offsets, s.places
    run = backend.active.sparse_product
    run(*places, s.stored, s.values, bits, group, scales, zeros, checks.rows(vectors), checks.rows(y))
    return y


def smallest_layout(shape: tuple[int, ...], sparsity: float, bits: int) -> str:
    """Which of "dense", "bitmask" and "csr" needs the fewest bytes for weights of `bits` bits, scales not counted.

    shape: of the tensor. sparsity: 0..1. bits: 1..32 of a value. Of equals, the first.

    >>> [smallest_layout((4096, 4096), s, 4) for s in (0.2, 0.5, 0.95)]
    ['dense', 'bitmask', 'csr']
    """
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(f"shape must be a tuple of at least one size, not {shape!r}")
    sizes = [checks.integer("shape", n, 0, 2**62) for n in shape]
    bits = checks.integer("bits", bits, 1, 32)
    rows, cols = int(np.prod(sizes[:-1], dtype=object)), sizes[-1]
    stored = round((1 - checks.number("sparsity", sparsity, 0.0, 1.0)) * rows * cols)
    values, offsets = row_bytes(stored, bits), 8 * (rows + 1)
    nbytes = {
        "dense": rows * row_bytes(cols, bits),
        "bitmask": rows * row_bytes(cols, 1) + offsets + values,
        "csr": stored * (2 if cols <= 2**16 else 4) + offsets + values,
    }
    return min(nbytes, key=lambda layout: nbytes[layout])


def _check_tensor(s: object) -> None:
    if not isinstance(s, SparseTensor):
        raise TypeError(f"s must be a SparseTensor, not {type(s).__name__}")


def _encoded(name: str, x: checks.Array, layout: str) -> tuple[checks.Array, checks.Array, checks.Array | None]:
    """Values, places and offsets of weights or codes."""
    form, n, m = check_layout(layout, x.shape)
    w = checks.rows(x)
    rows, cols = w.shape
    offsets, count = None, rows * (cols // m * n) if m else 0
    if form != "n:m":
        offsets = np.zeros(rows + 1, np.int64)
        finite = backend.active.stored_per_row(w, offsets[1:])
        if x.dtype in checks.FLOATS:
            checks.finite(name, x, finite)
        np.cumsum(offsets, out=offsets)
        count = int(offsets[-1])
    values = np.empty(count, x.dtype)
    shape, dtype = places_form(form, n, m, rows, cols, count)
    places: checks.Array = np.empty(shape, dtype)
    if not backend.active.sparse_encode(w, form, n, m, offsets, places, values):
        if x.dtype in checks.FLOATS:
            checks.finite(name, x, False)
        _refuse_full_group(name, w, n, m)
    return values, places, offsets


def _refuse_full_group(name: str, w: checks.Array, n: int, m: int) -> None:
    words = w.view(f"u{w.itemsize}")
    for r, row in enumerate(words):
        stored = np.count_nonzero(row.reshape(-1, m), axis=-1)
        if (stored > n).any():
            at = int((stored > n).argmax())
            where = f"the {m} from flat index {r * w.shape[1] + at * m} on"
            many = f"at most {n} of every {m} that are not zero, not {stored[at]}"
            raise ValueError(f"{name} must have {many} in {where}")


def _encode_codes(q: QuantizedTensor, layout: str) -> SparseTensor:
    if q.codebook is not None:
        raise ValueError("w must be on a uniform grid, not on a codebook")
    check_layout(layout, q.shape)
    codes = unpack(q.data, q.bits, q.shape[-1])
    counted = checks.rows(codes)
    counted -= _zeros(q, q.bits)
    counted &= np.uint8(2**q.bits - 1)
    values, places, offsets = _encoded("w", codes, layout)
    packed = pack(values[None], q.bits)[0]
    zeros = None if q.zero_points is None else q.zero_points.copy()
    return SparseTensor(packed, places, offsets, layout, q.shape, q.bits, q.group_size, q.scales.copy(), zeros)


def _zeros(t: QuantizedTensor | SparseTensor, bits: int) -> Any:
    """The zero point of each weight: one, or (rows, 1), or (rows, cols)."""
    if t.zero_points is None or t.group_size is None:
        return np.uint8(2 ** (bits - 1))
    zeros = by_row(t.zero_points, int(np.prod(t.shape[:-1], dtype=object)))
    cols = t.shape[-1]
    group = columns_per_group(t.group_size, cols)
    return zeros if zeros.shape[1] == 1 else np.repeat(zeros, group, axis=-1)[:, :cols]


def _restore(s: SparseTensor, values: checks.Array, into: checks.Array) -> None:
    form, n, m = check_layout(s.layout, s.shape)
    backend.active.sparse_decode(form, n, m, s.offsets, s.places, np.ascontiguousarray(values), into)
