"""Weights that are already quantized, packed without any change."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks
from .codebooks import Book, ascending_edges, code
from .float_environment import default_floats
from .quantization import dequantize, quantize
from .tensor import GroupSize, QuantizedTensor, blank, check_group_size, columns_per_group

__all__ = ["recognize_grid"]

MOST_VALUES = 256
SCAN = 16  # rows scanned before all others
SAMPLE = 8191  # weights scanned for new values together


@default_floats
def recognize_grid(w: ArrayLike, *, group_size: GroupSize = "channel") -> QuantizedTensor | None:
    """Pack weights that are already quantized without any change; None where they are on no grid.

    w: (..., cols) float32, float16, bfloat16 or float64 (narrowed to float32).
    group_size: columns that share a scale, as in `quantize`.

    Returns the smaller of: codes of 2 to 8 bits where each group has a scale with w = (code - zero) * scale, in float32
    and then in the dtype of w; and codes with a codebook where the tensor has at most 256 distinct values. `dequantize`
    with the dtype of w gives every bit of w, and such a grid is found wherever there is one. Scales may be negative:
    then the code of zero is -0, as in GGUF's Q4_0. A group with 0, -0 and others is on no grid; `w + 0` has no -0.
    (Zeros are not taken for multiples that were too small for the dtype.) Grids with an offset that is no whole number
    of steps (GGUF's Q4_1, MLX) are not recognized.

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
    """Find codes of the fewest bits; with zero points only where they save bits or are needed for 8."""
    seen = np.ascontiguousarray(x.reshape(1, -1) if size == "tensor" else checks.rows(x))
    group = columns_per_group(size, seen.shape[1])
    scans = ((1, min(group, SAMPLE)), (SCAN, seen.shape[1] if len(seen) > SCAN else 0))
    for rows, cols in scans:  # most tensors are on no grid: say so early
        if _multiples(np.ascontiguousarray(seen[:rows, :cols]), group) is None:
            return None
    found = _multiples(seen, group)
    if found is None:
        return None
    scales, low, high, codes = found
    plain = max(_signed_bits(int(low.min())), _signed_bits(int(high.max())))
    shifted = int((high - low).max()).bit_length()
    bits = max(2, min(plain, shifted))
    q = blank(x.shape, bits, size, symmetric=plain <= bits)
    q.scales[...] = scales.reshape(q.scales.shape)
    if q.zero_points is not None:
        q.zero_points[...] = (-low).reshape(q.scales.shape)
    else:
        _shift(codes, (low + 2 ** (bits - 1)).astype(np.uint8), group)
    backend.active.pack(checks.rows(codes.reshape(x.shape)), bits, checks.rows(q.data))
    return q if _same_bits(x, q) else None


def _signed_bits(step: int) -> int:
    """Count the bits of the smallest -2**(bits-1)..2**(bits-1) - 1 that a whole number of steps is in."""
    return (step if step >= 0 else ~step).bit_length() + 1


def _multiples(x: checks.Array, group: int) -> tuple[checks.Array, checks.Array, checks.Array, checks.Array] | None:
    """Find scales of x (rows, cols), the least and greatest multiple in each group, and the codes.

    Codes are multiples less the least. None if a group has no scale."""
    shape = len(x), -(-x.shape[1] // group)
    scales, codes = np.empty(shape, np.float32), np.empty(x.shape, np.uint8)
    low, high = np.empty((2, *shape), np.int32)
    backend.active.fit_grids(x, group, scales, low, high, codes)
    return None if (high < low).any() else (scales, low, high, codes)


def _shift(codes: checks.Array, by: checks.Array, group: int) -> None:
    """Add to the codes of each group (rows, cols) what is given for it (rows, groups)."""
    whole = codes.shape[1] // group
    grouped = codes[:, : whole * group].reshape(len(codes), whole, group)
    grouped += by[:, :whole, None]
    codes[:, : whole * group] = grouped.reshape(len(codes), -1)
    codes[:, whole * group :] += by[:, whole:]


def _few_values(x: checks.Array) -> QuantizedTensor | None:
    """Find a codebook for the tensor: weights that it gets wrong bring new values, until none does."""
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
    """Take about SAMPLE of the weights, from everywhere, and the first of them."""
    return flat[:: -(-flat.size // SAMPLE)].astype(np.float32)


def _with_negative_zero(x: checks.Array, q: QuantizedTensor) -> QuantizedTensor | None:
    """Return q if -0 instead of 0 is all that it lacks."""
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
