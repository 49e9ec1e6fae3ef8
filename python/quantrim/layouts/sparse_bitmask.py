"""Pruned weights stored sparse, as tensors of a checkpoint: the format sparse-bitmask, also of quantized weights.

Of a module: `shape` int64 (2,), `bitmask` uint8 (rows, ceil(cols / 8)), a bit per weight, least significant first, 1
where it is stored, `row_offsets` int64 (rows,), how many are stored before each row, and what is stored:

    float weights          `compressed` (stored,) of their dtype
    8 bits, symmetric      `compressed` (stored,) int8, `weight_scale`: int-quantized with sparse-bitmask upon it
    other codes            `compressed_packed` uint8, one bit stream of codes counted from their zero point modulo
                           2**bits, least significant bit first; `weight_scale`, and if asymmetric `weight_zero_point`
                           uint8, both (rows, groups)

The first two are what compressed-tensors wrote and read until it gave its sparse formats up (0.20 has none of them).
The third is ours: its sparse compressor took tensors named `weight` alone, hence never packed codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..sparse_tensor import SparseTensor
from ..tensor import GroupSize, check_group_size

__all__ = ["decode", "encode"]

_SCALES = tuple(np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16))


def encode(s: SparseTensor) -> dict[str, NDArray[Any]]:
    """The tensors of a matrix, by their name within the module.

    s: of two axes, layout "bitmask"; codes with scales per group or row ("channel").
    """
    if not isinstance(s, SparseTensor):
        raise TypeError(f"s must be a SparseTensor, not {type(s).__name__}")
    if s.layout != "bitmask" or s.offsets is None or len(s.shape) != 2:
        raise ValueError(f'layout must be "bitmask" of a matrix, not {s.layout!r} of shape {s.shape}')
    tensors = {"shape": np.array(s.shape, np.int64), "bitmask": s.places, "row_offsets": s.offsets[:-1]}
    if s.bits is None:
        return {**tensors, "compressed": s.values}
    if s.group_size == "tensor" or s.scales is None:
        raise ValueError(f'group_size must be an integer or "channel", not {s.group_size!r}')
    if s.bits == 8 and s.zero_points is None:
        return {**tensors, "compressed": s.values.view(np.int8), "weight_scale": s.scales}
    tensors |= {"compressed_packed": s.values, "weight_scale": s.scales}
    return tensors if s.zero_points is None else {**tensors, "weight_zero_point": s.zero_points}


def decode(
    tensors: Mapping[str, NDArray[Any]], *, bits: int | None = None, group_size: GroupSize | None = None
) -> SparseTensor:
    """The matrix that `encode` wrote.

    bits, group_size: of codes, as the config of the checkpoint has them; None for float weights. Scales may be
    float32, float16 or bfloat16. A tensor that is missing, unknown, or of another form than the others say is an error
    that names it.
    """
    codes = bits is not None
    packed = codes and not (bits == 8 and "weight_zero_point" not in tensors)
    stored = "compressed_packed" if packed else "compressed"
    needed = {"shape", "bitmask", "row_offsets", stored} | ({"weight_scale"} if codes else set())
    allowed = needed | ({"weight_zero_point"} if packed else set())
    for name in sorted(needed - set(tensors)):
        raise ValueError(f"{name} is missing")
    for name in sorted(set(tensors) - allowed):
        raise ValueError(f"{name} must not be there with {', '.join(sorted(needed))}")
    shape = _integers("shape", tensors["shape"], (2,))
    rows, cols = (checks.integer("shape", n, 0, 2**62) for n in shape.tolist())
    starts = _integers("row_offsets", tensors["row_offsets"], (rows,))
    values, bitmask = tensors[stored], tensors["bitmask"]
    count = values.size
    if packed:
        if bitmask.dtype != np.uint8:
            raise TypeError(f"bitmask must be uint8, not {bitmask.dtype}")
        count = int(np.unpackbits(bitmask).sum(dtype=np.int64))
    offsets = np.append(starts, count).astype(np.int64)
    if not codes:
        return SparseTensor(values, bitmask, offsets, "bitmask", (rows, cols))
    if not packed and values.dtype != np.int8:
        raise TypeError(f"compressed must be int8 where bits is 8, not {values.dtype}")
    scales = tensors["weight_scale"]
    if scales.dtype not in _SCALES:
        raise TypeError(f"weight_scale must be float32, float16 or bfloat16, not {scales.dtype}")
    return SparseTensor(
        values if packed else values.view(np.uint8),
        bitmask,
        offsets,
        "bitmask",
        (rows, cols),
        bits,
        check_group_size(group_size),
        scales.astype(np.float32),
        tensors.get("weight_zero_point"),
    )


def _integers(name: str, a: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if a.dtype not in (np.dtype(np.int64), np.dtype(np.int32)):
        raise TypeError(f"{name} must be int64, not {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {a.shape}")
    return a
