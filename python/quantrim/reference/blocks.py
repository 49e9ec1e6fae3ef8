"""Sums over blocks of a matrix, and matrices whose rows or columns are multiplied."""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite, real, sum_last_axis


def block_sums(w: Array, block_rows: int, block_cols: int, power: int, out: Array) -> bool:
    """Sum each block of w (power 0), |w| (1) or w * w (2) to out, (rows / block_rows, cols / block_cols).

    Sixteen lanes down each column, then sixteen lanes along those."""
    x = w.astype(np.float32).reshape(out.shape[0], block_rows, out.shape[1], block_cols)
    with np.errstate(all="ignore"):
        terms = (x, np.abs(x), x * x)[power]
        out[...] = sum_last_axis(sum_last_axis(np.moveaxis(terms, 1, -1)))
    return all_finite(w)


def multiply(w: Array, factor: Array, by_row: bool, out: Array) -> bool:
    """Multiply w by a factor for each row or for each column; + 0 makes -0 a 0. Also of float64."""
    with np.errstate(all="ignore"):
        out[...] = (real(w) * (factor[:, None] if by_row else factor) + np.float32(0)).astype(w.dtype)
    return all_finite(w)
