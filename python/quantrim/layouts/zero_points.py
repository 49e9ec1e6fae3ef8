"""Zero points as compressed-tensors packs them: along the rows, each group for itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..packing import pack, unpack
from ..tensor import row_bytes

ZERO_POINT_ROWS = 32  # rows whose packed zero points fill whole words, whatever the bits


def pack_zero_points(zero_points: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Return (words, groups) int32 of (rows, groups) zero points, packed along the rows.

    Rows may come in several pieces if each but the last is a multiple of ZERO_POINT_ROWS.
    """
    rows, groups = zero_points.shape
    words = -(-rows * bits // 32)
    padded = np.zeros((groups, words * 4), np.uint8)
    padded[:, : row_bytes(rows, bits)] = pack(np.ascontiguousarray(zero_points.T), bits)
    return np.ascontiguousarray(padded.view("<i4").T)


def unpack_zero_points(packed: NDArray[np.int32], bits: int, rows: int) -> NDArray[np.uint8]:
    """Return (rows, groups) zero points of packed ones whose first row is a multiple of ZERO_POINT_ROWS."""
    by_group = np.ascontiguousarray(packed.T).view(np.uint8).reshape(packed.shape[1], -1)
    packed = np.ascontiguousarray(by_group[:, : row_bytes(rows, bits)])
    return np.ascontiguousarray(unpack(packed, bits, rows).T)
