"""A weight tensor on a grid of few bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import checks

GroupSize = int | str  # columns that share one scale, or "channel" (a row), or "tensor"
MAX_GROUP = 2**31 - 1
KERNEL_AXIS = 64  # of three axes a last one below this is the width of a convolution, not the inputs of an expert


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, cols) of a tensor seen as a matrix: rows of its last axis; but a convolution kernel, of four axes or more
    or with a short last one, is (out, the rest)."""
    kernel = len(shape) >= 4 or (len(shape) == 3 and shape[-1] < KERNEL_AXIS)
    split = 1 if kernel else len(shape) - 1
    return math.prod(shape[:split]), math.prod(shape[split:])


def row_bytes(cols: int, bits: int) -> int:
    """Bytes of one packed row: rows start on a byte."""
    return -(-cols * bits // 8)


def check_group_size(group_size: object) -> GroupSize:
    """`group_size` if it is one that `quantize` knows."""
    if group_size in ("tensor", "channel"):
        return str(group_size)
    if isinstance(group_size, str):
        raise ValueError(f'group_size must be "tensor", "channel" or an integer of 1..{MAX_GROUP}, not {group_size!r}')
    return checks.integer("group_size", group_size, 1, MAX_GROUP)


def columns_per_group(group_size: GroupSize, cols: int) -> int:
    """Columns under one scale within a row; at least 1, so that an empty row has no groups."""
    return max(1, cols if isinstance(group_size, str) else min(group_size, cols))


def scales_shape(shape: tuple[int, ...], group_size: GroupSize) -> tuple[int, ...]:
    """Shape of the scales: one per group of a row, one per row, or a single one."""
    if group_size == "tensor":
        return (1,) * len(shape)
    if group_size == "channel":
        return (*shape[:-1], 1)
    return (*shape[:-1], -(-shape[-1] // int(group_size)))


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Codes of few bits with their scales: value = (code - zero) * scale, or codebook[code] * scale.

    data: (..., bytes per row) uint8. Unsigned codes of `bits` bits, least significant bit first, element 0 lowest;
        every row of the last axis starts on a byte.
    scales: float32, finite, of either sign, with a codebook not negative; (..., groups), (..., 1) for "channel", all
        ones for "tensor".
    zero_points: uint8 of the shape of scales, or None where zero is 2**(bits-1) (symmetric).
    codebook: None for a uniform grid, or up to 2**bits float32 values by code: (values,) for all codes, or
        (*scales.shape, values) for each scale its own. Then there are no zero points. Codes past its end are its last.
    bits, group_size, shape: of the tensor that these codes stand for; groups run along the last axis.

    >>> import numpy as np, quantrim as qt
    >>> q = qt.quantize(np.array([[3.5, -7.0, 1.75, 0.0]], np.float32), bits=4)
    >>> q.data.tolist(), q.codes().tolist()
    ([[28, 138]], [[4, -7, 2, 0]])
    >>> round(q.bits_per_weight)
    12
    """

    data: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    bits: int
    group_size: GroupSize
    shape: tuple[int, ...]
    codebook: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        checks.integer("bits", self.bits, 1, 8)
        check_group_size(self.group_size)
        if not self.shape:
            raise ValueError("shape must have at least one axis, not ()")
        for n in self.shape:
            checks.integer("shape", n, 0, 2**62)
        want = scales_shape(self.shape, self.group_size)
        _part("data", self.data, np.uint8, (*self.shape[:-1], row_bytes(self.shape[-1], self.bits)))
        _part("scales", self.scales, np.float32, want)
        signed = self.codebook is None
        good = np.isfinite(self.scales) & (signed | (self.scales >= 0))
        if not good.all():
            at = int((~good).argmax())
            wanted = "finite" if signed else "finite and not negative"
            raise ValueError(f"scales must be {wanted}, not {self.scales.ravel()[at]} at flat index {at}")
        if self.zero_points is not None:
            _part("zero_points", self.zero_points, np.uint8, want)
            if self.bits < 8 and (self.zero_points >> self.bits).any():
                most, found = 2**self.bits - 1, int(self.zero_points.max())
                raise ValueError(f"zero_points must be codes of {self.bits} bits, at most {most}, not {found}")
        if self.codebook is not None:
            self._check_codebook(self.codebook)

    def _check_codebook(self, book: NDArray[np.float32]) -> None:
        if self.zero_points is not None:
            raise ValueError("zero_points must be None where there is a codebook")
        shape = getattr(book, "shape", ()) or (1,)
        _part("codebook", book, np.float32, shape if len(shape) == 1 else (*self.scales.shape, shape[-1]))
        if not 1 <= shape[-1] <= 2**self.bits:
            raise ValueError(f"codebook must have 1..{2**self.bits} values for {self.bits} bits, not {shape[-1]}")
        if not np.isfinite(book).all():
            raise ValueError("codebook must be finite")

    @property
    def symmetric(self) -> bool:
        """Whether there are no zero points: each is 2**(bits-1), or a codebook says the values."""
        return self.zero_points is None

    def parts(self) -> list[NDArray[Any]]:
        """Codes, scales, zero points and codebook: those that are there."""
        return [a for a in (self.data, self.scales, self.zero_points, self.codebook) if a is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, zero points and codebook together."""
        return sum(a.nbytes for a in self.parts())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, scales and all, per weight of the tensor."""
        weights = int(np.prod(self.shape))
        return 8 * self.nbytes / weights if weights else 0.0

    def codes(self) -> NDArray[Any]:
        """The unpacked codes, of `shape`: int8 counted from zero where symmetric; else, or with a codebook, uint8."""
        from .packing import unpack

        codes = unpack(self.data, self.bits, self.shape[-1])
        signed = self.symmetric and self.codebook is None
        return (codes - np.uint8(2 ** (self.bits - 1))).view(np.int8) if signed else codes

    def dequantize(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The weights again, as `quantrim.dequantize` gives them."""
        from .quantization import dequantize

        return dequantize(self, dtype=dtype)


def blank(
    shape: tuple[int, ...],
    bits: int,
    group_size: GroupSize,
    *,
    symmetric: bool = True,
    codebook: NDArray[np.float32] | None = None,
) -> QuantizedTensor:
    """A QuantizedTensor to be filled: codes of any value, scales and zero points 0."""
    of_scales = scales_shape(shape, group_size)
    data = np.empty((*shape[:-1], row_bytes(shape[-1], bits)), np.uint8)
    zeros = None if symmetric else np.zeros(of_scales, np.uint8)
    return QuantizedTensor(data, np.zeros(of_scales, np.float32), zeros, bits, group_size, shape, codebook)


def by_row(parts: NDArray[Any] | None, rows: int) -> Any:
    """Scales or zero points as (rows, groups): those of a whole tensor are repeated, others only seen so."""
    if parts is None:
        return None
    grid = checks.rows(np.ascontiguousarray(parts))
    return grid if len(grid) == rows else np.repeat(grid, rows, axis=0)


def _part(name: str, a: object, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    if not isinstance(a, np.ndarray) or a.dtype != np.dtype(dtype):
        raise TypeError(f"{name} must be {np.dtype(dtype)}, not {getattr(a, 'dtype', type(a).__name__)}")
    if a.shape != shape:
        needed, found = int(np.prod(shape)) * a.itemsize, a.nbytes
        raise ValueError(f"{name} must have shape {shape} ({needed} bytes), not {a.shape} ({found} bytes)")
