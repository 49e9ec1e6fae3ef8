"""Scores as integers that order as they do, and what is pruned once the cut is known."""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite
from .pruning import apply_mask


def keys(scores: Array, absolute: bool) -> Array:
    """Return int32 keys: the bits of |score| (absolute), or of score with negatives mirrored; -0 is 0."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32)
    return bits & 0x7FFFFFFF if absolute else bits ^ ((bits >> 31) & 0x7FFFFFFF)


def count_keys(scores: Array, absolute: bool, upper: int | None, bins: Array) -> bool:
    """Add to bins, 65536 counts, of the upper halves of keys, the lowest (-32768) first.

    Given an upper half, of the lower halves of the keys that have it."""
    k = keys(scores, absolute)
    half = (k >> 16) + 32768 if upper is None else k[k >> 16 == upper] & 0xFFFF
    bins += np.bincount(half, minlength=1 << 16)
    return all_finite(scores)


def mask_below(scores: Array, absolute: bool, cut: int, ties: int, mask: Array) -> int:
    """Clear mask for keys under the cut and for the first `ties` at it; returns how many of these there were."""
    k = keys(scores, absolute)
    at = np.flatnonzero(k == cut)[:ties]
    mask[...] = k >= cut
    mask[at] = False
    return at.size


def prune_below(w: Array, scores: Array, absolute: bool, cut: int, ties: int, out: Array) -> int:
    mask = np.empty(w.shape, np.bool_)
    taken = mask_below(scores, absolute, cut, ties, mask)
    apply_mask(w, mask, out)
    return taken
