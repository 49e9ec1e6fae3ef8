"""Arguments of the kernels of `sparse`, for the rows of tests/cases.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_case import Array, Out, weights

from quantrim import reference


@dataclass(frozen=True)
class Stored:
    """A matrix in one of the layouts of `sparse`: what kernels are handed."""

    layout: tuple[str, int, int]
    offsets: Array | None
    places: Array
    values: Array

    @property
    def where(self) -> tuple[Any, ...]:
        return (*self.layout, self.offsets, self.places)


def sparse_weights(rng: np.random.Generator, r: int, c: int, d: Any, layout: str) -> Array:
    """Weights of which most are zero, or bytes where d is uint8; for "n:m" with at most n of each m that are not."""
    w = weights(rng, r, c, np.float32 if d is np.uint8 else d)
    if d is np.uint8:
        w = rng.integers(1, 256, (r, c)).astype(np.uint8)
    w[rng.random((r, c)) < rng.choice([0.1, 0.7, 0.95], (r, 1))] = 0
    if ":" in layout:
        n, m = map(int, layout.split(":"))
        rank = (w.view(f"u{w.itemsize}") != 0).reshape(r, c // m, m).cumsum(-1).reshape(r, c)
        w[rank > n] = 0
    return w


def sparse_form(w: Array, layout: str) -> tuple[tuple[str, int, int], Array | None, Out, Out]:
    """Layout, offsets, and the outputs for places and values of w."""
    r, c = w.shape
    if ":" in layout:
        n, m = map(int, layout.split(":"))
        count, packed = c // m * n, -(-c // m * n * (m - 1).bit_length() // 8)
        return ("n:m", n, m), None, Out((r, packed), np.uint8), Out((r * count,), w.dtype)
    stored = (w.view(f"u{w.itemsize}") != 0).sum(-1)
    count = int(stored.sum())
    wide = layout == "csr-wide"
    places = Out((r, -(-c // 8)), np.uint8) if layout == "bitmask" else Out((count,), np.int32 if wide else np.uint16)
    return (layout.removesuffix("-wide"), 0, 0), np.append(0, stored.cumsum()), places, Out((count,), w.dtype)


def sparse_encode(layout: str, codes: bool = False) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w = sparse_weights(rng, r, c, np.uint8 if codes else d, layout)
        form, offsets, places, values = sparse_form(w, layout)
        return w, *form, offsets, places, values

    return make


def stored(w: Array, layout: str) -> Stored:
    """w as the reference stores it."""
    form, offsets, *outs = sparse_form(w, layout)
    places, values = (np.empty(o.shape, o.dtype) for o in outs)
    reference.sparse_encode(w, *form, offsets, places, values)
    return Stored(form, offsets, places, values)


def sparse_decode(layout: str, codes: bool = False) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w = sparse_weights(rng, r, c, np.uint8 if codes else d, layout)
        s = stored(w, layout)
        return *s.where, s.values, Out((r, c), w.dtype)

    return make


def sparse_check(layout: str, spoiled: bool) -> Callable[..., tuple[Any, ...]]:
    """Places as they should be, or one changed in the last row."""

    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        s = stored(sparse_weights(rng, r, c, d, layout), layout)
        if spoiled and s.places.size:
            s.places.reshape(-1)[-1] ^= 1 << int(rng.integers(0, 8))
        return *s.where, r, c, s.values.size

    return make


def sparse_product(
    layout: str, batch: int, bits: int = 0, group: int = 0, symmetric: bool = True
) -> Callable[..., tuple[Any, ...]]:
    def make(rng: np.random.Generator, r: int, c: int, d: Any) -> tuple[Any, ...]:
        w = sparse_weights(rng, r, c, np.uint8 if bits else d, layout)
        w = w & np.uint8(2**bits - 1) if bits else w
        s = stored(w, layout)
        size = min(group, c) or c
        groups = (r, -(-c // size))
        x = weights(rng, batch, c, np.float32)
        if not bits:
            return *s.where, s.values.size, s.values, 0, 1, None, None, x, Out((batch, r), np.float32)
        packed = np.empty((1, -(-s.values.size * bits // 8)), np.uint8)
        reference.pack(s.values[None], bits, packed)
        zeros = None if symmetric else rng.integers(0, 2**bits, groups).astype(np.uint8)
        scales = rng.random(groups, np.float32)
        return *s.where, s.values.size, packed[0], bits, size, scales, zeros, x, Out((batch, r), np.float32)

    return make


PLACES = {
    "bitmask": 1,
    "csr": 1,
    "csr-wide": 1,
    "2:4": 4,
    "1:4": 4,
    "1:2": 2,
    "3:7": 7,
    "4:16": 16,
    "5:17": 17,
    "31:32": 32,
}
