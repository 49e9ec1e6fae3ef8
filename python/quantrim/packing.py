"""Codes of few bits into bytes and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backend, checks

__all__ = ["pack", "row_bytes", "unpack"]


def row_bytes(cols: int, bits: int) -> int:
    """Count the bytes of one packed row: rows start on a byte.

    >>> row_bytes(3, 4)
    2
    """
    return -(-cols * bits // 8)


def pack(codes: ArrayLike, bits: int, *, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Pack unsigned codes into bytes: least significant bit first, element 0 lowest, every row starts on a byte.

    codes: (..., n) uint8 below 2**bits. bits: 1..8. Returns (..., ceil(n * bits / 8)) uint8; unused last bits are 0.
    That is the byte order of ONNX int4, MatMulNBits and compressed-tensors.

    >>> pack(np.array([1, 2, 3], np.uint8), 4).tolist()
    [33, 3]
    """
    bits = checks.integer("bits", bits, 1, 8)
    x = _bytes("codes", codes)
    packed = checks.output(out, (*x.shape[:-1], row_bytes(x.shape[-1], bits)), np.uint8, x, in_place=False)
    if not backend.active.pack(checks.rows(x), bits, checks.rows(packed)):
        at = int((x.ravel() >> bits > 0).argmax())
        raise ValueError(f"codes must be below {2**bits}, not {x.ravel()[at]} at flat index {at}")
    return packed


def unpack(packed: ArrayLike, bits: int, count: int, *, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Unpack the codes that `pack` packed.

    packed: (..., ceil(count * bits / 8)) uint8. count: codes in a row. Returns (..., count) uint8.

    >>> unpack(np.array([33, 3], np.uint8), 4, 3).tolist()
    [1, 2, 3]
    """
    bits = checks.integer("bits", bits, 1, 8)
    count = checks.integer("count", count, 0, 2**62)
    x = _bytes("packed", packed)
    needed = row_bytes(count, bits)
    if x.shape[-1] != needed:
        raise ValueError(f"packed must have rows of {needed} bytes for {count} codes of {bits} bits, not {x.shape[-1]}")
    codes = checks.output(out, (*x.shape[:-1], count), np.uint8, x, in_place=False)
    backend.active.unpack(checks.rows(x), bits, checks.rows(codes))
    return codes


def _bytes(name: str, a: ArrayLike) -> NDArray[np.uint8]:
    x = checks.array(name, a)
    if x.dtype != np.uint8:
        raise TypeError(f"{name} must be uint8, not {x.dtype}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, not shape ()")
    return np.ascontiguousarray(x)
