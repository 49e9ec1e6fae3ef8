"""Storage that leaves the zeros out: the places of nonzeros, row after row, and their values in that order.

A nonzero has a bit set, so that -0.0 is kept. Codes, counted from their zero point modulo 2**bits, are 0 where the
weight is. places, by layout: "bitmask": a bit per weight, (rows, ceil(cols / 8)) uint8, least significant first. "n:m":
the place in its m of each of n, ascending, (rows, packed bytes) uint8 of ceil(log2(m)) bits. "csr": columns, (count,).
offsets: (rows + 1,) int64, how many are before each row; None for "n:m".
"""

from __future__ import annotations

import numpy as np

from ..checks import Array
from .lanes import all_finite, sum_last_axis
from .packing import pack, unpack


def index_bits(m: int) -> int:
    return (m - 1).bit_length()


def has_bits(w: Array) -> Array:
    return w.view(f"u{w.itemsize}") != 0


def stored_per_row(w: Array, counts: Array) -> bool:
    """Count the nonzeros in rows of w, (rows, cols) weights or uint8 codes, to counts, (rows,) int64."""
    counts[...] = has_bits(w).sum(-1)
    return all_finite(w)


def sparse_encode(w: Array, layout: str, n: int, m: int, offsets: Array | None, places: Array, values: Array) -> bool:
    """Write places and values, (count,) of w's dtype; returns whether all are finite, and each m has at most n."""
    kept, fits = has_bits(w), True
    if layout == "bitmask":
        places[...] = np.packbits(kept, axis=-1, bitorder="little")
    elif layout == "csr":
        places[...] = np.nonzero(kept)[1]
    else:  # where there are fewer than n, the first zeros as well
        rows, cols = w.shape
        groups = kept.reshape(rows, cols // m, m)
        index = np.sort(np.argsort(~groups, axis=-1, kind="stable")[..., :n], axis=-1)
        pack(index.reshape(rows, cols // m * n).astype(np.uint8), index_bits(m), places)
        fits = not (groups.sum(-1) > n).any()
        kept = mask_of(layout, n, m, offsets, places, w.shape)
    values[...] = w[kept]
    return all_finite(w) and fits


def mask_of(layout: str, n: int, m: int, offsets: Array | None, places: Array, shape: tuple[int, int]) -> Array:
    """Mark the values that are kept of (rows, cols)."""
    rows, cols = shape
    if layout == "bitmask":
        return np.unpackbits(places, axis=-1, count=cols, bitorder="little").astype(np.bool_)
    mask = np.zeros(shape, np.bool_)
    if offsets is not None:
        mask[np.repeat(np.arange(rows), np.diff(offsets)), places] = True
        return mask
    index = np.empty((rows, cols // m * n), np.uint8)
    unpack(places, index_bits(m), index)
    np.put_along_axis(mask.reshape(rows, cols // m, m), index.reshape(rows, cols // m, n), True, axis=-1)
    return mask


def sparse_decode(layout: str, n: int, m: int, offsets: Array | None, places: Array, values: Array, out: Array) -> None:
    """Restore out, (rows, cols) of the dtype of values."""
    out[...] = 0
    out[mask_of(layout, n, m, offsets, places, out.shape)] = values


def sparse_check(
    layout: str, n: int, m: int, offsets: Array | None, places: Array, rows: int, cols: int, count: int
) -> int:
    """Find the first row whose places are out of order or range, or not as many as its offsets say; -1 for none."""
    for r in range(rows):
        if offsets is None:
            index = np.empty((1, cols // m * n), np.uint8)
            unpack(places[r : r + 1], index_bits(m), index)
            again = np.empty_like(places[r : r + 1])  # with no bits behind the last one
            pack(index, index_bits(m), again)
            steps = np.diff(index.reshape(-1, n).astype(np.int64), axis=-1, append=m)
            good = (steps > 0).all() and (again == places[r]).all()
        elif layout == "bitmask":
            row = np.unpackbits(places[r], bitorder="little")
            good = row[:cols].sum() == offsets[r + 1] - offsets[r] and not row[cols:].any()
        else:
            columns = places[offsets[r] : offsets[r + 1]].astype(np.int64)
            good = (np.diff(columns, prepend=-1, append=cols) > 0).all()
        if not good:
            return r
    return -1


def sparse_product(
    layout: str, n: int, m: int, offsets: Array | None, places: Array, count: int, values: Array, bits: int,
    group_size: int, scales: Array | None, zero_points: Array | None, x: Array, out: Array,
) -> None:  # fmt: skip
    """Compute out, (batch, rows) float32: x @ w.T with the columns summed in sixteen lanes; x: (batch, cols) float32.

    bits: 0 where values are weights, otherwise they are packed codes with scales and zero_points (rows, groups).
    """
    rows, cols = out.shape[1], x.shape[1]
    codes = values
    if bits:
        codes = np.empty(count, np.uint8)
        unpack(values[None], bits, codes[None])
    w = np.empty((rows, cols), codes.dtype)
    sparse_decode(layout, n, m, offsets, places, codes, w)
    with np.errstate(all="ignore"):
        if scales is not None:
            group = np.arange(cols) // group_size
            zero = np.float32(2 ** (bits - 1)) if zero_points is None else zero_points[:, group].astype(np.float32)
            w = ((w + zero) % 2**bits - zero) * scales[:, group]
        for b, vector in enumerate(x):
            out[b] = sum_last_axis(w.astype(np.float32) * vector)
