"""The one order in which sums are taken: sixteen lanes, then halves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 16
STRETCH = 4096


def sum_last_axis(x: NDArray[Any]) -> NDArray[Any]:
    """Sum over the last axis: lane j adds elements j, j + 16, ... in order; then lane j + 8, + 4, + 2, + 1."""
    lanes = np.zeros((*x.shape[:-1], LANES), x.dtype)
    for first in range(0, x.shape[-1], LANES):
        piece = x[..., first : first + LANES]
        lanes[..., : piece.shape[-1]] += piece
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def sum_stretches(x: NDArray[Any]) -> NDArray[Any]:
    """Sum over the last axis: the sums of stretches of 4096, added in the same way, so that none grows too large."""
    n = x.shape[-1]
    whole = np.zeros((*x.shape[:-1], -(-n // STRETCH) * STRETCH), x.dtype)
    whole[..., :n] = x
    return sum_last_axis(sum_last_axis(whole.reshape(*x.shape[:-1], -1, STRETCH)))


def real(w: NDArray[Any]) -> NDArray[Any]:
    """Return w in the precision in which it is computed: float64 in its own, others in float32."""
    return w.astype(np.float64 if w.dtype == np.float64 else np.float32)


def all_finite(x: NDArray[Any]) -> bool:
    """Tell whether every value of `x` is finite."""
    return bool(np.isfinite(x).all())
