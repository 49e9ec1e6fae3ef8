"""Floats in another float dtype: rounded once, to nearest even, never to infinity; and what that cost."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ... import checks, reference
from ...checks import Array
from ..report.errors import Errors, measure

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """Convert x to this dtype. ValueError where a finite value is too large for it; NaN and infinity stay.

    >>> import numpy as np
    >>> cast(np.array([1.0009765, -2.5], np.float32), np.dtype(np.float16)).tolist()
    [1.0009765625, -2.5]
    """
    if x.dtype == dtype:
        return x
    with np.errstate(all="ignore"):
        y: Array = (_to_odd(x) if x.dtype == np.float64 and dtype == _BFLOAT16 else x).astype(dtype)
        lost = np.isinf(y) & np.isfinite(x)
    if lost.any():
        at = int(lost.argmax())
        raise ValueError(f"must fit {dtype}, not {float(x.ravel()[at])!r} at index {at}")
    return y


def _to_odd(x: Array) -> Array:
    """Cut float64 off to float32, the last bit set where something was: so that rounding it again rounds once."""
    y = x.astype(np.float32)
    beyond = np.abs(y.astype(np.float64)) > np.abs(x)
    y = np.where(beyond, np.nextafter(y, np.float32(0)), y)
    odd = y.view(np.uint32) | (np.isfinite(x) & (y.astype(np.float64) != x))
    cut: Array = odd.astype(np.uint32).view(np.float32)
    return cut


def cost(x: Array, y: Array) -> Errors:
    """Measure how far y is from x, where both are finite."""
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(x) & np.isfinite(y)
    a, b = (x, y) if finite.all() else (np.where(finite, each, each.dtype.type(0)) for each in (x, y))
    if a.dtype in checks.FLOATS and b.dtype in checks.FLOATS:
        return measure(a, b)
    table = np.empty((len(a), 5))
    reference.errors(a, b, table)
    zeros = int(np.count_nonzero(b == 0))
    return Errors(table[:, :4].sum(axis=0), float(table[:, 4].max(initial=0.0)), b.size, zeros)
