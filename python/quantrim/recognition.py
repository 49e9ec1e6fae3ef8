"""Weights that lie on a grid already, packed without any change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .codebooks import Book, ascending_edges, code
from .float_environment import default_floats
from .quantization import dequantize, quantize
from .tensor import GroupSize, QuantizedTensor, blank, by_row, check_group_size, columns_per_group

__all__ = ["recognize_grid"]

MOST_VALUES = 256
SAMPLE = 8191  # weights looked at for new values together


@default_floats
def recognize_grid(w: object, *, group_size: GroupSize = "channel") -> QuantizedTensor | None:
    """The packed form of weights that have been on a grid before, without any change; None where there is no such grid.

    w: (..., cols) float32, float16, bfloat16 or float64 (narrowed to float32).
    group_size: as in `quantize`: what shares a scale.

    Returns the smaller of: codes of 2 to 8 bits where each group has a scale with w = (code - zero) * scale; and codes
    with a codebook where the tensor has at most 256 distinct values. `dequantize` with the dtype of w gives every bit
    of w. None is no proof for bfloat16 from codes of 8 bits: neighbours among them can round to the same weight.

    >>> w = quantize(np.array([[0.9, -0.31, 0.2, 0.7]], np.float32), bits=4).dequantize()
    >>> q = recognize_grid(w)
    >>> q.bits, bool((q.dequantize() == w).all())
    (4, True)
    >>> recognize_grid(np.random.default_rng(0).standard_normal((4, 300))) is None
    True
    """
    size = check_group_size(group_size)
    x = checks.floats("w", w)
    checks.finite("w", x, backend.active.is_finite(x.ravel()))
    if x.size == 0:
        return quantize(x, 2, group_size=size)
    found = [q for q in (_uniform_grid(x, size), _few_values(x)) if q is not None]
    return min(found, key=lambda q: q.nbytes) if found else None


def _same_bits(x: checks.Array, q: QuantizedTensor) -> bool:
    return dequantize(q, dtype=x.dtype).tobytes() == x.tobytes()


def _uniform_grid(x: checks.Array, size: GroupSize) -> QuantizedTensor | None:
    """Codes of the fewest bits; with zero points only where they save bits or are needed for 8."""
    seen = x.reshape(1, -1) if size == "tensor" else checks.rows(x)
    group = columns_per_group(size, seen.shape[1])
    if _multiples(seen[:1, :group], group) is None:  # most tensors are on no grid: say so early
        return None
    found = _multiples(seen, group)
    if found is None:
        return None
    scales, low, high = found
    plain = int(np.maximum(-low, high).max()).bit_length() + 1
    shifted = int((high - low).max()).bit_length()
    bits = max(2, min(plain, shifted))
    if bits > 8:
        return None
    q = blank(x.shape, bits, size, symmetric=plain <= bits)
    q.scales[...] = scales.reshape(q.scales.shape)
    if q.zero_points is not None:
        q.zero_points[...] = (-low).reshape(q.scales.shape)
    _write_codes(x, q)
    return q if _same_bits(x, q) else None


def _multiples(x: checks.Array, group: int) -> tuple[checks.Array, checks.Array, checks.Array] | None:
    """Scales of x (rows, cols), and the least and greatest multiple in each group; None if a group has no scale."""
    shape = len(x), -(-x.shape[1] // group)
    scales = np.empty(shape, np.float32)
    low, high = np.empty((2, *shape), np.int32)
    backend.active.fit_grids(np.ascontiguousarray(x), group, scales, low, high)
    return None if (high < low).any() else (scales, low, high)


def _write_codes(x: checks.Array, q: QuantizedTensor) -> None:
    """The codes of q, whose scales and zero points are known."""
    rows = checks.rows(x)
    scales, zeros = (by_row(a, len(rows)) for a in (q.scales, q.zero_points))
    group = columns_per_group(q.group_size, x.shape[-1])
    data, rule = checks.rows(q.data), "scale" if zeros is None else "given"
    backend.active.quantize(rows, q.bits, group, zeros is None, rule, "float32", "even", 0, data, scales, zeros)


def _few_values(x: checks.Array) -> QuantizedTensor | None:
    """A codebook for the tensor: weights that it gets wrong bring new values, until none does."""
    flat = x.ravel()
    values = np.unique(_spread(flat) + 0)
    while len(values) <= MOST_VALUES:
        q = _coded(x, values)
        wrong = np.flatnonzero(_bits(dequantize(q, dtype=x.dtype)) != _bits(x))
        if not wrong.size:
            return q
        new = np.union1d(values, _spread(flat[wrong]) + 0)
        if len(new) == len(values):
            return _with_negative_zero(x, q)
        values = new
    return None


def _spread(flat: checks.Array) -> NDArray[np.float32]:
    """About SAMPLE of the weights, from everywhere, and the first of them."""
    return flat[:: -(-flat.size // SAMPLE)].astype(np.float32)


def _with_negative_zero(x: checks.Array, q: QuantizedTensor) -> QuantizedTensor | None:
    """q, if -0 instead of 0 is all that it lacks."""
    assert q.codebook is not None
    q.codebook[q.codebook == 0] = -0.0
    return q if _same_bits(x, q) else None


def _bits(x: checks.Array) -> checks.Array:
    return x.ravel().view(np.uint32 if x.itemsize == 4 else np.uint16)


def _coded(x: checks.Array, values: NDArray[np.float32]) -> QuantizedTensor:
    book = np.concatenate([values, values[-1:]]) if len(values) == 1 else values
    q = blank(x.shape, (len(book) - 1).bit_length(), "tensor", codebook=book)
    q.scales[...] = 1
    code(x, Book(book, ascending_edges(book)), "none", "float32", q)
    return q
