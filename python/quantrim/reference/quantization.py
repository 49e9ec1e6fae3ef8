"""Float to integer grids and back. A row is cut into groups of `group_size` columns; the last may be shorter.

value = (code - zero) * scale. Symmetric codes have zero = 2**(bits-1) and stay within +-(2**(bits-1) - 1) of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from ..checks import LARGEST, Array
from .importance import uniform
from .lanes import all_finite, sum_last_axis
from .packing import pack, unpack

LIFT = np.float32(2.0**100)  # scales below 1 / LIFT are lifted by it, so that their inverse is finite
MSE_FACTORS = 1 - np.arange(48, dtype=np.float32) / 64  # the clips that scale="mse" tries, widest first
SCALE_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def groups(w: Array, group_size: int) -> Iterator[tuple[int, slice, Array]]:
    for g, first in enumerate(range(0, w.shape[1], group_size)):
        columns = slice(first, min(first + group_size, w.shape[1]))
        yield g, columns, w[:, columns].astype(np.float32)


def ranges(w: Array, group_size: int, low: Array, high: Array) -> bool:
    """low, high: (rows, groups) float32."""
    for g, _, x in groups(w, group_size):
        low[:, g], high[:, g] = x.min(-1) + 0, x.max(-1) + 0  # + 0: never -0
    return all_finite(w)


def rounded(x: Array, rounding: str, u: Array | None = None) -> Array:
    if rounding == "even":
        return np.rint(x)
    if rounding == "away":
        whole = np.trunc(x)
        return whole + np.copysign((np.abs(x - whole) >= 0.5).astype(np.float32), x)
    return np.floor(x if rounding == "floor" else x + u)


def limit_of(w: Array, scale_dtype: str) -> np.float32:
    """The largest finite value of the narrower of w's dtype and the scales': no code stands for more."""
    return np.float32(min(LARGEST[w.dtype.name], LARGEST[scale_dtype]))


def grid(low: Array, high: Array, bits: int, symmetric: bool, rule: str, scale_dtype: str, limit: np.float32) -> Array:
    """The scale for values of low..high, low <= 0 <= high."""
    steps = np.float32(2 ** (bits - 1) - 1)
    if symmetric:
        scale = np.maximum(np.abs(low), np.abs(high)) / steps
    else:
        scale = np.abs((high.astype(np.float64) - low) / (2**bits - 1)).astype(np.float32)
    if rule == "power_of_two":  # the next one up
        fraction, exponent = np.frexp(scale)
        power = np.ldexp(np.float32(1), np.minimum(exponent - (fraction == 0.5), 127))
        scale = np.where(scale > 0, power, np.float32(0))
    stored = scale.astype(SCALE_DTYPES[scale_dtype])
    if symmetric and rule != "power_of_two":
        too_far = (stored.astype(np.float32) * steps > limit) & np.isfinite(stored)
        stored = np.where(too_far, np.nextafter(stored, stored.dtype.type(0)), stored)
    return stored.astype(np.float32)


def inverse_of(scale: Array) -> tuple[Array, Array]:
    """Two factors whose product is 1 / scale, or 0 where scale is 0."""
    lift = np.where(scale < 1 / LIFT, LIFT, np.float32(1))
    return lift, np.where(scale > 0, 1 / (scale * lift), np.float32(0))


def zero_for(low: Array, scale: Array, bits: int, symmetric: bool) -> Array:
    """The code of 0, as float32, where `low` <= 0 is the lowest value."""
    if symmetric:
        return np.full_like(scale, 2 ** (bits - 1))
    lift, inverse = inverse_of(scale)
    return np.clip(np.rint(-low * lift * inverse), 0, 2**bits - 1)


def steps_from_zero(
    x: Array, scale: Array, zero: Array, bits: int, symmetric: bool, rounding: str, u: Array | None, limit: np.float32
) -> Array:
    """Codes minus zero, as float32. scale, zero: one per row of x."""
    lift, inverse = inverse_of(scale)
    steps = rounded(x * lift[:, None] * inverse[:, None], rounding, u)
    reach = np.floor(limit / scale)  # steps within the limit
    lowest, highest = np.maximum(symmetric - zero, -reach), np.minimum(2**bits - 1 - zero, reach)
    return np.clip(steps, lowest[:, None], highest[:, None])


def best_clip(
    x: Array, low: Array, high: Array, bits: int, symmetric: bool, scale_dtype: str, limit: np.float32
) -> Array:
    """The first of MSE_FACTORS by which low and high shrink for the least squared error, rounding to even."""
    error = []
    for factor in MSE_FACTORS:
        scale = grid(low * factor, high * factor, bits, symmetric, "absmax", scale_dtype, limit)
        zero = zero_for(low * factor, scale, bits, symmetric)
        steps = steps_from_zero(x, scale, zero, bits, symmetric, "even", None, limit)
        error.append(sum_last_axis((x - steps * scale[:, None]) ** 2))
    return MSE_FACTORS[np.argmin(error, axis=0)]


def quantize(
    w: Array, bits: int, group_size: int, symmetric: bool, rule: str, scale_dtype: str, rounding: str, seed: int,
    data: Array, scales: Array, zero_points: Array | None,
) -> bool:  # fmt: skip
    """w: (rows, cols). data: (rows, packed bytes). scales, zero_points: (rows, groups).

    rule: "absmax", "mse" or "power_of_two"; "scale" reads scales and finds zero points; "given" reads both.
    """
    codes, limit = np.empty(w.shape, np.uint8), limit_of(w, scale_dtype)
    u = np.empty(w.size, np.float32)
    uniform(seed, 0, u)
    with np.errstate(all="ignore"):
        for g, columns, x in groups(w, group_size):
            low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
            if rule == "mse":
                factor = best_clip(x, low, high, bits, symmetric, scale_dtype, limit)
                low, high = low * factor, high * factor
            if rule not in ("scale", "given"):
                scales[:, g] = grid(low, high, bits, symmetric, rule, scale_dtype, limit)
            if rule != "given" and zero_points is not None:
                zero_points[:, g] = zero_for(low, scales[:, g], bits, symmetric)
            fixed = zero_for(low, scales[:, g], bits, True)
            zero = fixed if zero_points is None else zero_points[:, g].astype(np.float32)
            own = u.reshape(w.shape)[:, columns]
            steps = steps_from_zero(x, scales[:, g], zero, bits, symmetric, rounding, own, limit)
            codes[:, columns] = (steps + zero[:, None]).astype(np.uint8)
    pack(codes, bits, data)
    return all_finite(w)


def fit_tensor(
    w: Array, bits: int, symmetric: bool, rule: str, scale_dtype: str, scale: Array, zero_point: Array | None
) -> bool:
    """The scale and zero point, arrays of one, of w: (n,), as `quantize` finds them for a row of one group."""
    row, data = w.reshape(1, -1), np.empty((1, -(-w.size * bits // 8)), np.uint8)
    one, zero = scale.reshape(1, 1), None if zero_point is None else zero_point.reshape(1, 1)
    return quantize(row, bits, w.size, symmetric, rule, scale_dtype, "even", 0, data, one, zero)


def dequantize(data: Array, bits: int, group_size: int, scales: Array, zero_points: Array | None, out: Array) -> None:
    """data: (rows, packed bytes). scales, zero_points: (rows, groups). out: (rows, cols) of any float dtype."""
    codes = np.empty(out.shape, np.uint8)
    unpack(data, bits, codes)
    with np.errstate(all="ignore"):
        for g, columns, x in groups(codes, group_size):
            zero = np.float32(2 ** (bits - 1)) if zero_points is None else zero_points[:, g, None].astype(np.float32)
            out[:, columns] = ((x - zero) * scales[:, g, None]).astype(out.dtype)


def round_to_int(
    w: Array, multiplier: float, offset: int, bits: int, signed: bool, rounding: str, seed: int, out: Array
) -> bool:
    """w: (n,). out: (n,) int8 or uint8: clip(round(w * multiplier) + offset)."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    u = np.empty(w.size, np.float32)
    uniform(seed, 0, u)
    with np.errstate(all="ignore"):
        steps = rounded(w.astype(np.float32) * np.float32(multiplier), rounding, u)
        out[...] = np.clip(steps, low - offset, high - offset).astype(np.int32) + offset
    return all_finite(w)


def errors(a: Array, b: Array, out: Array) -> bool:
    """a, b: (rows, cols). out: (rows, 5) float64: sums of a*a, b*b, a*b, (a-b)**2, and the largest |a-b|."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        for k, term in enumerate((x * x, y * y, x * y, (x - y) * (x - y))):
            out[:, k] = sum_last_axis(term)
        out[:, 4] = np.abs(x - y).max(-1)
    return all_finite(a) and all_finite(b)
