"""Scores from what passes through a layer: gradients, curvatures, activations."""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite


def square_product(w: Array, h: Array, factor: float, positive: bool, out: Array) -> bool:
    """out = w * (w * h) * factor. Returns whether w and h are finite and, where `positive`, no h is below 0."""
    x, y = w.astype(np.float32), h.astype(np.float32)
    with np.errstate(all="ignore"):
        out[...] = x * (x * y) * np.float32(factor)
    return all_finite(w) and all_finite(h) and not (positive and bool((y < 0).any()))


def histogram(x: Array, lift: Array, low: Array, scale: Array, counts: Array) -> bool:
    """x: (rows, units). counts: (units, bins) int64, added to. Values beyond the first or last bin are counted there."""
    bins = counts.shape[1]
    with np.errstate(all="ignore"):
        place = np.clip((x.astype(np.float32) * lift - low) * scale, np.float32(0), np.float32(bins - 1))
        flat = np.nan_to_num(place).astype(np.int64) + np.arange(len(counts)) * bins
    counts += np.bincount(flat.reshape(-1), minlength=counts.size).reshape(counts.shape)
    return all_finite(x)
