"""Arrays of the caller that receive results, inputs among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from . import backend, checks


def output(out: object, shape: tuple[int, ...], dtype: DTypeLike, **inputs: checks.Array) -> checks.Array:
    """Return `out` or a fresh array, as `checks.output` does, where `out` may be one of `inputs`.

    Then the weights among them are scanned first, so that an error leaves them as they were.
    """
    if out is None:
        return np.empty(shape, dtype)
    into = checks.writable("out", out, shape, dtype)
    if [name for name, a in inputs.items() if checks.is_input("out", into, a)]:  # all of them, for their errors
        for name, a in inputs.items():
            if a.dtype in checks.FLOATS or a.dtype == checks.FLOAT64:
                checks.finite(name, a, backend.kernels_of(a).is_finite(a.ravel()))
    return into
