"""Scores from what passes through a layer: gradients, curvatures, activations."""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .exponential import exp_nonpositive
from .lanes import all_finite, sum_last_axis


def square_product(w: Array, h: Array, factor: float, positive: bool, out: Array) -> bool:
    """Compute out = w * (w * h) * factor; returns whether w and h are finite and, where `positive`, no h is below 0."""
    x, y = w.astype(np.float32), h.astype(np.float32)
    with np.errstate(all="ignore"):
        out[...] = x * (x * y) * np.float32(factor)
    return all_finite(w) and all_finite(h) and not (positive and bool((y < 0).any()))


def histogram(x: Array, lift: Array, low: Array, scale: Array, counts: Array) -> bool:
    """Add x, (rows, units), to counts, (units, bins) int64; what is beyond is in the first or last bin."""
    bins = counts.shape[1]
    with np.errstate(all="ignore"):
        place = np.clip((x.astype(np.float32) * lift - low) * scale, np.float32(0), np.float32(bins - 1))
        flat = np.nan_to_num(place).astype(np.int64) + np.arange(len(counts)) * bins
    counts += np.bincount(flat.reshape(-1), minlength=counts.size).reshape(counts.shape)
    return all_finite(x)


def label_probability(logit: Array, others: Array, own: Array, of_label: Array) -> Array:
    """Compute p(label) = e**logit / (e**logit + others) where the logit is the label's, own / (...) elsewhere.

    In units of the larger exponential, so that nothing overflows."""
    u = exp_nonpositive(-np.abs(logit))
    mine, theirs = np.where(logit > 0, np.float32(1), u), np.where(logit > 0, u, np.float32(1))
    return own * np.where(of_label, mine, theirs) / (others * theirs + mine)


def predictive(w: Array, x: Array, labels: Array, bias: Array, out: Array) -> bool:
    """Sum p(label) over samples, less what it is with w[c, i] = 0, to out[c, i].

    w: (classes, inputs). x: (n, inputs).

    Logit c alone changes. It and the sum of the other exponentials are taken relative to the largest of those others.
    """
    with np.errstate(all="ignore"):
        logits = sum_last_axis(x[:, None] * w) + bias
        if not all_finite(logits):
            return False
        order = np.argsort(-logits, axis=1, kind="stable")
        top, second = (np.take_along_axis(logits, order[:, k : k + 1], 1) for k in (0, 1))
        is_top, is_label = (np.arange(len(w)) == k[:, None] for k in (order[:, 0], labels))
        e, f = exp_nonpositive(logits - top), exp_nonpositive(np.minimum(logits - second, np.float32(0)))
        without_top = sum_last_axis(np.where(is_top, np.float32(0), f))[:, None]
        others = np.where(is_top, without_top, sum_last_axis(e)[:, None] - e)
        own = np.take_along_axis(np.stack([e, f], -1), labels[:, None, None], 1)
        terms = logits - np.where(is_top, second, top), others, np.where(is_top, own[..., 1], own[..., 0]), is_label
        logit, others, own, is_label = (t[..., None] for t in terms)
        own = np.where(is_label, np.float32(1), own)
        moved = label_probability(logit - w * x[:, None], others, own, is_label)
        out[...] = sum_last_axis(np.moveaxis(label_probability(logit, others, own, is_label) - moved, 0, -1))
    return True
