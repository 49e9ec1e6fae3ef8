"""Float to integer grids and back. A row is cut into groups of `group_size` columns; the last may be shorter.

value = (code - zero) * scale. Symmetric codes have zero = 2**(bits-1) and stay within +-(2**(bits-1) - 1) of it, but
for those of scales by least squares, which use all 2**bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..checks import Array
from .grids import Grid, absmax_grid, limit_of, power_of_two_scale, rounded, steps_from_zero, zero_for
from .importance import uniform
from .lanes import all_finite, sum_last_axis
from .least_squares import least_squares_grid
from .packing import pack, unpack


def groups(w: Array, group_size: int) -> Iterator[tuple[int, slice, Array]]:
    for g, first in enumerate(range(0, w.shape[1], group_size)):
        columns = slice(first, min(first + group_size, w.shape[1]))
        yield g, columns, w[:, columns].astype(np.float32)


def ranges(w: Array, group_size: int, low: Array, high: Array) -> bool:
    """Find the least and greatest weight of each group, low and high, (rows, groups) float32."""
    for g, _, x in groups(w, group_size):
        low[:, g], high[:, g] = x.min(-1) + 0, x.max(-1) + 0  # + 0: never -0
    return all_finite(w)


def quantize(
    w: Array, bits: int, group_size: int, symmetric: bool, rule: str, scale_dtype: str, rounding: str, seed: int,
    data: Array, scales: Array, zero_points: Array | None,
) -> bool:  # fmt: skip
    """Round w, (rows, cols), to data, (rows, packed bytes), scales and zero_points, (rows, groups).

    rule: "absmax", "mse" or "power_of_two"; "scale" reads scales and finds zero points; "given" reads both, and so does
    "full", with symmetric codes of the whole range, as "mse" has them.
    """
    codes = np.empty(w.shape, np.uint8)
    grid = Grid(bits, symmetric, scale_dtype, limit_of(w, scale_dtype), rule in ("mse", "full"))
    u = np.empty(w.size, np.float32)
    uniform(seed, 0, u)
    with np.errstate(all="ignore"):
        for g, columns, x in groups(w, group_size):
            low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
            scale = scales[:, g]
            if rule in ("absmax", "mse"):
                scale, zero = (absmax_grid if rule == "absmax" else least_squares_grid)(x, low, high, grid)
            elif rule == "power_of_two":
                scale = power_of_two_scale(low, high, grid)
            if rule in ("scale", "power_of_two") or symmetric:
                zero = zero_for(low, scale, grid)
            elif rule in ("given", "full") and zero_points is not None:
                zero = zero_points[:, g].astype(np.float32)
            scales[:, g] = scale
            if zero_points is not None:
                zero_points[:, g] = zero
            own = u.reshape(w.shape)[:, columns]
            steps = steps_from_zero(x, scale, zero, rounding, own, grid)
            codes[:, columns] = (steps + zero[:, None]).astype(np.uint8)
    pack(codes, bits, data)
    return all_finite(w)


def fit_tensor(
    w: Array, bits: int, symmetric: bool, rule: str, scale_dtype: str, scale: Array, zero_point: Array | None
) -> bool:
    """Find the scale and zero point, arrays of one, of w: (n,), as `quantize` finds them for a row of one group."""
    row, data = w.reshape(1, -1), np.empty((1, -(-w.size * bits // 8)), np.uint8)
    one, zero = scale.reshape(1, 1), None if zero_point is None else zero_point.reshape(1, 1)
    return quantize(row, bits, w.size, symmetric, rule, scale_dtype, "even", 0, data, one, zero)


def dequantize(data: Array, bits: int, group_size: int, scales: Array, zero_points: Array | None, out: Array) -> None:
    """Decode data, (rows, packed bytes), to out, (rows, cols) of any float dtype.

    scales, zero_points: (rows, groups).
    """
    codes = np.empty(out.shape, np.uint8)
    unpack(data, bits, codes)
    with np.errstate(all="ignore"):
        for g, columns, x in groups(codes, group_size):
            zero = np.float32(2 ** (bits - 1)) if zero_points is None else zero_points[:, g, None].astype(np.float32)
            out[:, columns] = ((x - zero) * scales[:, g, None]).astype(out.dtype)


def round_to_int(
    w: Array, multiplier: float, offset: int, bits: int, signed: bool, rounding: str, seed: int, out: Array
) -> bool:
    """Round w, (n,), to out, (n,) int8 or uint8: clip(round(w * multiplier) + offset)."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    u = np.empty(w.size, np.float32)
    uniform(seed, 0, u)
    with np.errstate(all="ignore"):
        steps = rounded(w.astype(np.float32) * np.float32(multiplier), rounding, u)
        out[...] = np.clip(steps, low - offset, high - offset).astype(np.int32) + offset
    return all_finite(w)


def errors(a: Array, b: Array, out: Array) -> bool:
    """Sum a*a, b*b, a*b and (a-b)**2 of rows of a and b, and find the largest |a-b|: out, (rows, 5) float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        for k, term in enumerate((x * x, y * y, x * y, (x - y) * (x - y))):
            out[:, k] = sum_last_axis(term)
        out[:, 4] = np.abs(x - y).max(-1)
    return all_finite(a) and all_finite(b)
