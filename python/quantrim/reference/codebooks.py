"""Grids of any values: the code of a weight is the rank of w / scale among edges, and value = codebook[code] * scale.

`edges` and `codebook` have one set of values in their last axis: the only one, or one per group.
"""

from __future__ import annotations

import numpy as np

from ..checks import LARGEST, Array
from .grids import SCALE_DTYPES, inverse_of
from .lanes import all_finite, sum_last_axis
from .packing import pack, unpack
from .quantization import groups

CUTS = 65536  # places where a set of more distinct values may be cut at first
PASSES = 1000  # of Lloyd's iteration at most


def of_group(sets: Array, w: Array, group_size: int, g: int) -> Array:
    """Return the sets of all rows for their group g, (rows or 1, values)."""
    each = -(-w.shape[1] // group_size)
    return sets.reshape(1, -1) if sets.size == sets.shape[-1] else sets.reshape(len(w), each, -1)[:, g]


def quantize_codebook(
    w: Array, group_size: int, rule: str, scale_dtype: str, peak: float, edges: Array, order: Array | None, bits: int,
    data: Array | None, scales: Array,
) -> bool:  # fmt: skip
    """Round w, (rows, cols), to values of a codebook times a scale.

    order: (16,) uint8, the codes of ranks; None where they are the same. scales: (rows, groups).

    rule: "absmax": scale = absmax / peak, or the one below where peak * scale overflows the dtype of w; "power_of_two":
    the power of two at or below absmax, over peak, at least 2**-127; "scale" reads scales; "none" ranks the weights
    themselves.
    """
    ranks = np.zeros(w.shape, np.uint8)
    with np.errstate(all="ignore"):
        for g, columns, x in groups(w, group_size):
            absmax = np.abs(x).max(-1)
            if rule == "absmax":
                scale = (absmax / np.float32(peak)).astype(SCALE_DTYPES[scale_dtype])
                too_far = (scale.astype(np.float32) * np.float32(peak) > LARGEST[w.dtype.name]) & np.isfinite(scale)
                scales[:, g] = np.where(too_far, np.nextafter(scale, scale.dtype.type(0)), scale)
            if rule == "power_of_two":
                below = np.ldexp(np.float32(1), np.frexp(absmax)[1] - 1) / np.float32(peak)
                scales[:, g] = np.where(absmax > 0, np.maximum(below, np.float32(2.0**-127)), 0)
            if rule != "none":
                lift, inverse = inverse_of(scales[:, g])
                x = x * lift[:, None] * inverse[:, None]
            sets = of_group(edges, w, group_size, g)
            for row, of_row, rank in zip(x, np.broadcast_to(sets, (len(x), sets.shape[1])), ranks, strict=True):
                rank[columns] = np.searchsorted(of_row, row)  # how many edges are below
    if data is not None:
        pack(ranks if order is None else order[ranks], bits, data)
    return all_finite(w)


def dequantize_codebook(data: Array, bits: int, group_size: int, codebook: Array, scales: Array, out: Array) -> None:
    """Decode data, (rows, packed bytes), to out, (rows, cols); codes past the end are the last one.

    scales: (rows, groups)."""
    codes = np.empty(out.shape, np.uint8)
    unpack(data, bits, codes)
    codes = np.minimum(codes, codebook.shape[-1] - 1)
    for g, columns, _ in groups(codes, group_size):
        values = np.take_along_axis(of_group(codebook, out, group_size, g), codes[:, columns].astype(int), -1)
        out[:, columns] = (values * scales[:, g, None]).astype(out.dtype)


def magnitude_sums(w: Array, group_size: int, out: Array) -> bool:
    """Sum |w| to out, (rows, groups) float64."""
    for g, _, x in groups(w, group_size):
        out[:, g] = sum_last_axis(np.abs(x).astype(np.float64))
    return all_finite(w)


def fit_ternary(w: Array, group_size: int, edges: Array, scales: Array) -> bool:
    """Find edges, (rows, groups, 2), and scales: the m largest magnitudes become their mean.

    It is the m with the most of their sum**2 / m."""
    if all_finite(w):
        for g, _, x in groups(w, group_size):
            size = np.sort(np.abs(x), -1)[:, ::-1]
            sums = np.cumsum(size, -1, np.float64)
            many = np.arange(1, x.shape[1] + 1)
            m = np.argmax(sums * sums / many, -1)[:, None]
            edge = np.maximum(np.take_along_axis(size, m, -1)[:, 0], np.float32(2.0**-149))  # edges ascend
            edges[:, g, 0], edges[:, g, 1] = -edge, np.nextafter(edge, np.float32(-1))
            scales[:, g] = np.take_along_axis(sums / many, m, -1)[:, 0]
    return all_finite(w)


def fit_clusters(w: Array, group_size: int, k: int, codebooks: Array) -> bool:
    """Find codebooks, (rows, groups, k) float32, ascending: the means of clusters with the least squared error."""
    if all_finite(w):
        for g, _, x in groups(w, group_size):
            for r, row in enumerate(x):
                codebooks[r, g] = clusters(row, k)
    return all_finite(w)


def clusters(x: Array, k: int) -> Array:
    values, times = np.unique(x + 0, return_counts=True)
    m = len(values)
    if m <= k:
        return values[np.minimum(np.arange(k), m - 1)]
    center = np.float64(values[m // 2])
    v = values.astype(np.float64) - center
    counts = np.concatenate([[0], np.cumsum(times)]).astype(np.float64)
    sums = np.concatenate([[0], np.cumsum(times * v)])
    places = np.arange(m + 1) if m <= CUTS else some_places(v)
    cuts = places[best_cuts(counts[places], sums[places], k)]
    for _ in range(PASSES):  # Lloyd: means, then cuts half-way between them
        means = (sums[cuts[1:]] - sums[cuts[:-1]]) / (counts[cuts[1:]] - counts[cuts[:-1]])
        means = np.clip(means, v[cuts[:-1]], v[cuts[1:] - 1])
        moved = np.concatenate([[0], np.searchsorted(v, (means[:-1] + means[1:]) / 2, "right"), [m]])
        if (np.diff(moved) <= 0).any() or (moved == cuts).all():
            break
        cuts = moved
    return (means + center).astype(np.float32)


def some_places(v: Array) -> Array:
    """Choose CUTS or fewer places, with 0 and len(v): even steps of rank and of the sum of sqrt(gap) together.

    So both the many values of the middle and the few of the tails, which matter as much, can be told apart.
    """
    spread = np.concatenate([[0], np.cumsum(np.sqrt(v[1:] - v[:-1]))])
    way = np.arange(len(v)) / len(v) + spread / spread[-1]
    return np.unique(np.append(np.searchsorted(way, 2 * np.arange(CUTS) / CUTS), len(v)))


def best_cuts(counts: Array, sums: Array, k: int) -> Array:
    """Find where k clusters begin, and the end: the most of the sum over clusters of (their sum)**2 / (their count).

    Dynamic programming: `most[j]` for c clusters up to j comes from c - 1 clusters up to an earlier place, which grows
    with j: those for the middle j bound the others (Gronlund et al. 2017).
    """
    end = len(counts) - 1
    most = np.concatenate([[0], sums[1:] ** 2 / counts[1:]])
    choices = np.zeros((k + 1, end + 1), int)
    for c in range(2, k + 1):
        more = np.zeros(end + 1)
        todo = [(c, end, c - 1, end - 1)] if c < k else [(end, end, c - 1, end - 1)]
        while todo:
            first, last, low, high = todo.pop()
            j = (first + last) // 2
            i = np.arange(low, min(high, j - 1) + 1)
            gain = most[i] + (sums[j] - sums[i]) ** 2 / (counts[j] - counts[i])
            choices[c, j], more[j] = i[gain.argmax()], gain.max()
            halves = (first, j - 1, low, choices[c, j]), (j + 1, last, choices[c, j], high)
            todo += [half for half in halves if half[0] <= half[1]]
        most = more
    cuts = [end]
    for c in range(k, 1, -1):
        cuts.append(choices[c, cuts[-1]])
    return np.array([0, *reversed(cuts)])
