"""Codes into bits: least significant bit first, element 0 lowest, every row starts on a byte."""

from __future__ import annotations

import numpy as np

from ..checks import Array


def pack(codes: Array, bits: int, out: Array) -> bool:
    """Pack codes, (rows, n) uint8, to out, (rows, ceil(n * bits / 8)) uint8; returns whether every code fits."""
    planes = codes[..., None] >> np.arange(bits, dtype=np.uint8) & 1
    out[...] = np.packbits(planes.reshape(len(codes), codes.shape[1] * bits), axis=-1, bitorder="little")
    return not (codes >> (bits - 1) > 1).any()


def unpack(packed: Array, bits: int, out: Array) -> None:
    """Unpack (rows, bytes) uint8 to out, (rows, n) uint8 codes."""
    rows, n = out.shape
    planes = np.unpackbits(packed, axis=-1, count=n * bits, bitorder="little").reshape(rows, n, bits)
    out[...] = (planes << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)
