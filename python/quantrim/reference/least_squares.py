"""Scales by least squares: for codes q the best scale is sum(x q) / sum(q q); the codes are of a few first scales.

Alternating between codes and the scale that suits them is Lloyd's method (1957); llama.cpp refits the scales of
its k-quants so, after codes from some scales around absmax. The search counts weights in 128ths of a step of a first
scale, so that its sums are exact whole numbers.
"""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .grids import (
    LIFT,
    SUBNORMAL,
    Grid,
    absmax_grid,
    error_of,
    ideal_scale,
    in_scale_dtype,
    power_near_inverse,
    subnormal_grid,
)

FIRST, MOST = 7, 32  # first scales that are always tried, and that are tried at most
PER_STEP = 128  # units of a step, in which weights are counted
LARGEST = 32767
CLOSE = 16  # squared units per weight, and for as many weights more, by which a grid beats that of absmax beyond doubt
ROUNDED = {"float32": 0.0, "float16": 1 / 256, "bfloat16": 1 / 4}  # and what rounding the scale may cost, by 4**bits


def first_factors(grid: Grid) -> list[int]:
    """List 256ths, by which weights are multiplied before they are rounded: absmax, then 3/8 of a step more each."""
    first = 256 - (256 >> (grid.bits - 1)) if grid.symmetric else 256
    wide = max(1, 192 >> grid.bits if grid.symmetric else 96 // grid.steps)
    return [first + k * wide for k in range(FIRST)]


def sums(y: Array, factor: Array, zero: Array, grid: Grid) -> tuple[Array, Array]:
    """Compute sum(y q) and sum(q q), q the codes of y * factor."""
    steps = (y * factor[:, None] + 2**14) >> 15
    q = np.clip(steps, -zero[:, None], (2**grid.bits - 1 - zero)[:, None])
    return (y * q).sum(-1).astype(np.float64), (q * q).sum(-1).astype(np.float64)


def least_squares(y: Array, zero: Array, grid: Grid) -> tuple[Array, Array, Array]:
    """Find scale and zero point for groups y, (groups, n), and whether the scale of absmax might be as good.

    Both y and the scale are counted in units, of which a step has PER_STEP.

    Codes leave sum(y y) - sum(y q)**2 / sum(q q) with the scale that suits them. Tried are the first factors, then ever
    larger ones as long as the last was the best. Asymmetric: then one step less and one more for the zero point, and
    the scale that was found is a first scale itself. The first is kept among equals. y, zero: int64.
    """
    start, factor = zero, np.full_like(zero, 256)
    along, square = np.zeros(zero.shape), np.ones(zero.shape)

    def tries(candidate: Array, z: Array, which: Array | bool = True) -> Array:
        nonlocal factor, zero, along, square
        a, s = sums(y, candidate, z, grid)
        better: Array = which & (along * along * s < a * a * square)
        factor, zero = np.where(better, candidate, factor), np.where(better, z, zero)
        along, square = np.where(better, a, along), np.where(better, s, square)
        return better

    for first in first_factors(grid):
        candidate = np.full_like(zero, first)
        going = tries(candidate, zero)
    for _ in range(MOST - FIRST):
        candidate = candidate + candidate // 8
        going = tries(candidate, zero, going)
    if not grid.symmetric:
        best, middle = factor, zero
        for shift in (-1, 1):
            tries(best, np.clip(middle + shift, 0, grid.steps))
        again = np.rint(256 * PER_STEP * square / np.maximum(along, 1))
        tries(np.minimum(again, LARGEST).astype(np.int64), zero)
    a, s = sums(y, np.full_like(zero, first_factors(grid)[0]), start, grid)
    absmax = np.full(a.shape, PER_STEP * 256 / first_factors(grid)[0])  # its scale
    if grid.scale_dtype != "float32":
        absmax = a / np.maximum(s, 1)  # what rounding may make of it at best
    left = absmax * (absmax * s - 2 * a)  # of sum(y y), which is left out on both sides
    n = y.shape[-1]
    close = left + along * along / square < CLOSE * (n + 16) + ROUNDED[grid.scale_dtype] * 4**grid.bits * n
    return along / square, zero, close


def least_squares_grid(x: Array, low: Array, high: Array, grid: Grid) -> tuple[Array, Array]:
    """Find scales and zero points for groups x, (groups, n), of low..high, low <= 0 <= high.

    Weights are counted in steps of absmax; symmetric ones in those that put the largest weight, the negative one of
    two, on -2**(bits-1), and have its sign. No code decodes to more than the limit: where one would, a symmetric scale
    is the largest whose codes do not, and an asymmetric grid is that of absmax. So it is where that leaves less error.
    """
    if grid.symmetric:
        first = np.where(-low >= high, low, high).astype(np.float64) / -(2.0 ** (grid.bits - 1))
    else:
        first = ideal_scale(low, high, grid)
    lift = np.where(np.abs(first) < 1 / LIFT, LIFT, np.float32(1))
    lifted = (first * lift).astype(np.float32)
    inverse = np.where(lifted != 0, np.float32(PER_STEP) / lifted, np.float32(0))
    y = np.clip(np.rint(x * lift[:, None] * inverse[:, None]), -LARGEST - 1, LARGEST).astype(np.int64)
    middle = np.full(low.shape, 2 ** (grid.bits - 1), np.int64)
    if not grid.symmetric:
        middle = np.clip(np.rint(-low * lift * inverse * np.float32(1 / PER_STEP)), 0, grid.steps).astype(np.int64)
    ratio, whole, close = least_squares(y, middle, grid)
    ideal, zero = first * (ratio / PER_STEP), whole.astype(np.float32)
    scale = in_scale_dtype(ideal.astype(np.float32), grid).astype(np.float32)
    if grid.symmetric:
        most = grid.limit / np.float32(2 ** (grid.bits - 1))
        close |= np.abs(scale) >= most
        scale = np.copysign(np.minimum(np.abs(scale), most), scale)
    scale, zero = subnormal_grid(x, ideal, scale, zero, lambda _: zero, grid)
    plain, plain_zero = absmax_grid(x, low, high, grid)
    close |= np.abs(ideal) < SUBNORMAL[grid.scale_dtype][1]
    if not grid.symmetric:
        close |= scale > grid.limit / 256  # where the grid of absmax may not be the first one
    lift = power_near_inverse(np.maximum(np.abs(scale), plain))
    worse = close & (error_of(x, plain, plain_zero, lift, grid) < error_of(x, scale, zero, lift, grid))
    if not grid.symmetric:
        worse |= scale * np.maximum(zero, grid.steps - zero) > grid.limit
    return np.where(worse, plain, scale), np.where(worse, plain_zero, zero)
