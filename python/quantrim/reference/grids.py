"""Integer grids of groups of weights: their scales and zero points, and the steps of weights on them.

value = (code - zero) * scale. Symmetric codes have zero = 2**(bits-1); they leave out code 0 unless the grid is `full`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..checks import LARGEST, Array
from .lanes import sum_stretches

LIFT = np.float32(2.0**100)  # scales below 1 / LIFT are lifted by it, so that their inverse is finite
SCALE_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SUBNORMAL = {"float32": (2.0**-149, 2.0**-126), "float16": (2.0**-24, 2.0**-14), "bfloat16": (2.0**-133, 2.0**-126)}


@dataclass(frozen=True)
class Grid:
    """limit: the largest magnitude that a code may decode to. full: whether symmetric codes begin at 0, not at 1."""

    bits: int
    symmetric: bool
    scale_dtype: str
    limit: np.float32
    full: bool = False

    @property
    def steps(self) -> int:
        """Steps of the range that absmax spreads codes over."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1


def limit_of(w: Array, scale_dtype: str) -> np.float32:
    """Return the largest finite value of the narrower of w's dtype and the scales': no code decodes to more."""
    return np.float32(min(LARGEST[w.dtype.name], LARGEST[scale_dtype]))


def in_scale_dtype(scale: Array, grid: Grid) -> Array:
    return scale.astype(SCALE_DTYPES[grid.scale_dtype])


def previous(scale: Array) -> Array:
    """Return the next scale towards 0 in its dtype."""
    return np.nextafter(scale, scale.dtype.type(0))


def ideal_scale(low: Array, high: Array, grid: Grid) -> Array:
    """Divide absmax, or the span, by the steps: float64, before any rounding to the dtype of scales."""
    span = np.maximum(np.abs(low), np.abs(high)) if grid.symmetric else np.abs(high.astype(np.float64) - low)
    ideal: Array = span.astype(np.float64) / grid.steps
    return ideal


def absmax_grid(x: Array, low: Array, high: Array, grid: Grid) -> tuple[Array, Array]:
    """Find scales and zero points for groups x, (groups, n), of low..high, low <= 0 <= high."""
    ideal = ideal_scale(low, high, grid)
    scale = in_scale_dtype(ideal.astype(np.float32), grid)
    if grid.symmetric:
        too_far = (scale.astype(np.float32) * np.float32(grid.steps) > grid.limit) & np.isfinite(scale)
        scale = np.where(too_far, previous(scale), scale).astype(np.float32)
        zero = zero_for(low, scale, grid)
    else:
        scale, zero = within_limit(low, high, scale, grid)
    return subnormal_grid(x, ideal, scale, zero, lambda s: zero_for(low, s, grid), grid)


def within_limit(low: Array, high: Array, scale: Array, grid: Grid) -> tuple[Array, Array]:
    """Find asymmetric scales and zero points where no code within reach of the ends decodes to more than the limit.

    Where rounding alone makes the longer side too long, the scale before does; else that side has one step less, on
    which its end is exactly, and the other one more: its steps became longer, so that all weights are within reach.
    """
    found, before = scale.astype(np.float32), previous(scale).astype(np.float32)
    zero = zero_for(low, found, grid)
    most = np.maximum(zero, grid.steps - zero)
    too_far = (np.floor(grid.limit / found) < most) & np.isfinite(found)
    nearly = too_far & (np.floor(grid.limit / before) >= most)
    down, kept = zero > grid.steps - zero, most - 1
    longer = in_scale_dtype(np.maximum(-low, high) / kept, grid)
    beyond = longer.astype(np.float32) * kept > grid.limit
    longer = np.where(beyond, previous(longer), longer).astype(np.float32)
    shifted = np.where(down, kept, grid.steps - kept)
    scale = np.where(nearly, before, np.where(too_far, longer, found))
    return scale, np.where(too_far & ~nearly, shifted, zero)


def subnormal_grid(
    x: Array, ideal: Array, scale: Array, zero: Array, zero_of: Callable[[Array], Array], grid: Grid
) -> tuple[Array, Array]:
    """Return scale and zero point; where `ideal` is below the normal scales, the better subnormal scale beside it.

    That is the one of two with the least sum of squared errors, the smaller among equals."""
    unit, normal = SUBNORMAL[grid.scale_dtype]
    small = np.abs(ideal) < normal
    below, above = (np.copysign(side(np.abs(ideal) / unit) * unit, ideal) + 0 for side in (np.floor, np.ceil))
    trials = [(s, zero_of(s)) for s in (below.astype(np.float32), above.astype(np.float32))]
    lift = power_near_inverse(np.abs(trials[1][0]))
    upper = error_of(x, *trials[1], lift, grid) < error_of(x, *trials[0], lift, grid)
    trial, trial_zero = (np.where(upper, trials[1][k], trials[0][k]) for k in (0, 1))
    return np.where(small, trial, scale), np.where(small, trial_zero, zero)


def error_of(x: Array, scale: Array, zero: Array, lift: Array, grid: Grid) -> Array:
    """Sum the squared errors of groups x, (groups, n), on their grids, each error times `lift`."""
    miss = x - steps_from_zero(x, scale, zero, "even", None, grid) * scale[:, None]
    return sum_stretches((miss * lift[:, None]) ** 2)


def power_near_inverse(scale: Array) -> Array:
    """Find a power of two near 1 / scale, scale >= 0: errors of such steps times it have squares that float32 holds."""
    exponent = scale.astype(np.float32).view(np.int32) >> 23
    return (np.clip(254 - exponent, 1, 254) << 23).view(np.float32)


def power_of_two_scale(low: Array, high: Array, grid: Grid) -> Array:
    """Find the next power of two from the scale of absmax on.

    It is the least scale there is for weights of which any is nearer to it than to 0."""
    scale = ideal_scale(low, high, grid).astype(np.float32)
    fraction, exponent = np.frexp(scale)
    power = np.where(scale > 0, np.ldexp(np.float32(1), np.minimum(exponent - (fraction == 0.5), 127)), 0)
    unit, _ = SUBNORMAL[grid.scale_dtype]
    most = np.maximum(-low, high).astype(np.float64)
    least = np.where(most > unit / 2, np.float32(unit), np.float32(0))
    return np.where(power < unit, least, in_scale_dtype(power.astype(np.float32), grid).astype(np.float32))


def inverse_of(scale: Array) -> tuple[Array, Array]:
    """Return two factors whose product is 1 / scale, or 0 where scale is 0."""
    lift = np.where(np.abs(scale) < 1 / LIFT, LIFT, np.float32(1))
    return lift, np.where(scale != 0, 1 / (scale * lift), np.float32(0))


def zero_for(low: Array, scale: Array, grid: Grid) -> Array:
    """Return the code of 0, as float32, where `low` <= 0 is the lowest value."""
    if grid.symmetric:
        return np.full_like(scale, 2 ** (grid.bits - 1))
    lift, inverse = inverse_of(scale)
    return np.clip(np.rint(-low * lift * inverse), 0, grid.steps)


def rounded(x: Array, rounding: str, u: Array | None = None) -> Array:
    if rounding == "even":
        return np.rint(x)
    if rounding == "away":
        whole = np.trunc(x)
        return whole + np.copysign((np.abs(x - whole) >= 0.5).astype(np.float32), x)
    return np.floor(x if rounding == "floor" else x + u)


def steps_from_zero(x: Array, scale: Array, zero: Array, rounding: str, u: Array | None, grid: Grid) -> Array:
    """Compute codes minus zero, as float32. scale, zero: one per row of x."""
    lift, inverse = inverse_of(scale)
    steps = rounded(x * lift[:, None] * inverse[:, None], rounding, u)
    reach = np.floor(grid.limit / np.abs(scale))  # steps within the limit
    first = float(grid.symmetric and not grid.full)
    lowest, highest = np.maximum(first - zero, -reach), np.minimum(2**grid.bits - 1 - zero, reach)
    return np.clip(steps, lowest[:, None], highest[:, None])
