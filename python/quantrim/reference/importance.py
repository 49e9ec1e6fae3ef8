"""Scores per weight, row or column. Inputs float32, float16 or bfloat16; scores float32."""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite, sum_last_axis


def magnitude(w: Array, out: Array) -> bool:
    out[...] = np.abs(w.astype(np.float32))
    return all_finite(w)


def product_magnitude(w: Array, grad: Array, out: Array) -> bool:
    with np.errstate(all="ignore"):
        out[...] = np.abs(w.astype(np.float32) * grad.astype(np.float32))
    return all_finite(w) and all_finite(grad)


def wanda(w: Array, input_norm: Array, out: Array) -> bool:
    with np.errstate(all="ignore"):
        out[...] = np.abs(w.astype(np.float32)) * input_norm
    return all_finite(w)


def norm_rows(w: Array, power: int, out: Array) -> bool:
    """Sum |w| (power 1) or w * w (power 2) over each row of w, (rows, cols), to out, (rows,)."""
    x = np.abs(w.astype(np.float32))
    with np.errstate(all="ignore"):
        out[...] = sum_last_axis(x if power == 1 else x * x)
    return all_finite(w)


def norm_columns(w: Array, power: int, out: Array) -> bool:
    """Sum the same over the rows of w, (outer, rows, cols), to out, (outer, cols)."""
    return norm_rows(np.swapaxes(w, 1, 2), power, out)


def uniform(seed: int, first: int, out: Array) -> None:
    """Draw numbers first, ... of stream `seed` in [0, 1) to out, (n,): SplitMix64 at a counter, its top 24 bits."""
    with np.errstate(over="ignore"):
        counter = np.arange(out.size, dtype=np.uint64) + np.uint64(first + 1)
        z = np.uint64(seed) + counter * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    out[...] = (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
