"""Codes of few bits with their scales: the container, and how it is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import backend, checks
from .packing import row_bytes as row_bytes
from .packing import unpack

GroupSize = int | Literal["channel", "tensor"]  # columns that share one scale, or a row of them, or all
MAX_GROUP = 2**31 - 1
KERNEL_AXIS = 64  # of three axes a last one below this is the width of a convolution, not the inputs of an expert


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (rows, cols) of a tensor seen as a matrix: rows of its last axis, or (out, the rest) of a convolution
    kernel, which has four axes or more or a short last one."""
    kernel = len(shape) >= 4 or (len(shape) == 3 and shape[-1] < KERNEL_AXIS)
    split = 1 if kernel else len(shape) - 1
    return math.prod(shape[:split]), math.prod(shape[split:])


def check_group_size(group_size: object) -> GroupSize:
    """Return `group_size` if it is one that `quantize` knows."""
    if isinstance(group_size, str):
        if group_size == "tensor":
            return "tensor"
        if group_size == "channel":
            return "channel"
        raise ValueError(f'group_size must be "tensor", "channel" or an integer of 1..{MAX_GROUP}, not {group_size!r}')
    return checks.integer("group_size", group_size, 1, MAX_GROUP)


def columns_per_group(group_size: GroupSize, cols: int) -> int:
    """Count the columns under one scale within a row; at least 1, so that an empty row has no groups."""
    return max(1, cols if isinstance(group_size, str) else min(group_size, cols))


def scales_shape(shape: tuple[int, ...], group_size: GroupSize) -> tuple[int, ...]:
    """Return the shape of the scales: one per group of a row, one per row, or a single one."""
    if group_size == "tensor":
        return (1,) * len(shape)
    if group_size == "channel":
        return (*shape[:-1], 1)
    return (*shape[:-1], -(-shape[-1] // group_size))


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedTensor:
    """Hold codes of few bits with their scales: value = (code - zero) * scale, or codebook[code] * scale.

    data: (..., bytes per row) uint8. Unsigned codes of `bits` bits, least significant bit first, element 0 lowest;
        every row of the last axis starts on a byte.
    scales: float32, finite, of either sign, with a codebook not negative; (..., groups), (..., 1) for "channel", all
        ones for "tensor".
    zero_points: uint8 of the shape of scales, or None where zero is 2**(bits-1) (symmetric).
    codebook: None for a uniform grid, or up to 2**bits float32 values by code: (values,) for all codes, or
        (*scales.shape, values) for each scale its own. Then there are no zero points. Codes past its end are its last.
    bits, group_size, shape: of the tensor that is encoded; groups run along the last axis.

    `np.asarray(q)` dequantizes. Two of them are equal if they are one object; compare `arrays()` for their contents.
    `np.savez(path, **q.to_dict())` saves one, `QuantizedTensor.from_dict(np.load(path))` loads it.

    >>> import numpy as np, quantrim as qt
    >>> q = qt.quantize(np.array([[3.5, -7.0, 1.75, 0.0]], np.float32), bits=4)
    >>> q
    QuantizedTensor(int4 per channel, 1x4, 12.0 bits/weight)
    >>> q.data.tolist(), q.codes().tolist(), np.asarray(q).tolist()
    ([[28, 138]], [[4, -7, 2, 0]], [[4.0, -7.0, 2.0, 0.0]])
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
        checks.held("data", self.data, np.uint8, (*self.shape[:-1], row_bytes(self.shape[-1], self.bits)))
        checks.held("scales", self.scales, np.float32, want)
        signed = self.codebook is None
        good = np.isfinite(self.scales) & (signed | (self.scales >= 0))
        if not good.all():
            at = int((~good).argmax())
            wanted = "finite" if signed else "finite and not negative"
            raise ValueError(f"scales must be {wanted}, not {self.scales.ravel()[at]} at flat index {at}")
        if self.zero_points is not None:
            checks.held("zero_points", self.zero_points, np.uint8, want)
            if self.bits < 8 and (self.zero_points >> self.bits).any():
                most, found = 2**self.bits - 1, int(self.zero_points.max())
                raise ValueError(f"zero_points must be codes of {self.bits} bits, at most {most}, not {found}")
        if self.codebook is not None:
            self._check_codebook(self.codebook)

    def _check_codebook(self, book: NDArray[np.float32]) -> None:
        if self.zero_points is not None:
            raise ValueError("zero_points must be None where there is a codebook")
        shape = getattr(book, "shape", ()) or (1,)
        checks.held("codebook", book, np.float32, shape if len(shape) == 1 else (*self.scales.shape, shape[-1]))
        if not 1 <= shape[-1] <= 2**self.bits:
            raise ValueError(f"codebook must have 1..{2**self.bits} values for {self.bits} bits, not {shape[-1]}")
        if not np.isfinite(book).all():
            raise ValueError("codebook must be finite")

    def __repr__(self) -> str:
        bits = f"{round(self.bits_per_weight, 2)} bits/weight"
        return f"QuantizedTensor({grid_label(self)}, {shape_label(self.shape)}, {bits})"

    @property
    def symmetric(self) -> bool:
        """Whether there are no zero points: each is 2**(bits-1), or a codebook says the values."""
        return self.zero_points is None

    def arrays(self) -> list[NDArray[Any]]:
        """List codes, scales, zero points and codebook: those that are there."""
        return [a for a in (self.data, self.scales, self.zero_points, self.codebook) if a is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, zero points and codebook together."""
        return sum(a.nbytes for a in self.arrays())

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes, scales and all, per weight of the tensor; 0.0 for an empty one."""
        weights = math.prod(self.shape)
        return 8 * self.nbytes / weights if weights else 0.0

    def codes(self) -> NDArray[Any]:
        """Unpack the codes, of `shape`: int8 counted from zero where symmetric; else, or with a codebook, uint8."""
        codes = unpack(self.data, self.bits, self.shape[-1])
        signed = self.symmetric and self.codebook is None
        return (codes - np.uint8(2 ** (self.bits - 1))).view(np.int8) if signed else codes

    def dequantize(self, dtype: DTypeLike = np.float32, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Decode the weights, as `quantrim.dequantize` says."""
        kind = np.dtype(getattr(out, "dtype", dtype))
        if kind not in checks.FLOATS:
            raise TypeError(f"dtype must be float32, float16 or bfloat16, not {kind}")
        w = checks.output(out, self.shape, kind, *self.arrays(), in_place=False)
        if not w.size:
            return w
        into, data = checks.rows(w), checks.rows(np.ascontiguousarray(self.data))
        scales, zeros = by_row(self.scales, len(into)), by_row(self.zero_points, len(into))
        group = columns_per_group(self.group_size, self.shape[-1])
        if self.codebook is None:
            backend.active.dequantize(data, self.bits, group, scales, zeros, into)
        else:
            book = np.ascontiguousarray(self.codebook)
            backend.active.dequantize_codebook(data, self.bits, group, book, scales, into)
        return w

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return array_of(self.dequantize, dtype, copy)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, those that are None left out; `from_dict` takes them back."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> QuantizedTensor:
        """Make a tensor of what `to_dict` gave, or of what `np.load` gives of it."""
        return cls(**{"zero_points": None, **checks.fields(fields)})


def grid_label(t: Any) -> str:
    """Name the grid of a QuantizedTensor, or of a SparseTensor of codes: "int4 group 32"."""
    grid = f"{'int' if t.zero_points is None else 'uint'}{t.bits}"
    if getattr(t, "codebook", None) is not None:
        grid = f"{t.codebook.shape[-1]}-value codebook"
    return f"{grid} per {t.group_size}" if isinstance(t.group_size, str) else f"{grid} group {t.group_size}"


def shape_label(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def array_of(dense: Any, dtype: DTypeLike | None, copy: bool | None) -> NDArray[Any]:
    """Answer numpy's `__array__` with `dense(dtype)`, which is an array of its own each time."""
    if copy is False:
        raise ValueError("copy must not be False: an array of weights has yet to be computed")
    kind = np.dtype(np.float32 if dtype is None else dtype)
    found: NDArray[Any] = dense(kind) if kind in checks.FLOATS else dense(np.float32).astype(kind)
    return found


def blank(
    shape: tuple[int, ...],
    bits: int,
    group_size: GroupSize,
    *,
    symmetric: bool = True,
    codebook: NDArray[np.float32] | None = None,
) -> QuantizedTensor:
    """Make a QuantizedTensor to be filled: codes of any value, scales and zero points 0."""
    of_scales = scales_shape(shape, group_size)
    data = np.empty((*shape[:-1], row_bytes(shape[-1], bits)), np.uint8)
    zeros = None if symmetric else np.zeros(of_scales, np.uint8)
    return QuantizedTensor(data, np.zeros(of_scales, np.float32), zeros, bits, group_size, shape, codebook)


def reused(
    out: object,
    x: checks.Array,
    bits: int,
    group_size: GroupSize,
    *,
    symmetric: bool = True,
    codebook: NDArray[np.float32] | tuple[int, ...] | None = None,
) -> QuantizedTensor:
    """Return `out` if codes of x may be written to it. codebook: the values that it must have, or the shape of those
    that will be written."""
    if not isinstance(out, QuantizedTensor):
        raise TypeError(f"out must be a QuantizedTensor, not {type(out).__name__}")
    want = (x.shape, bits, group_size, symmetric)
    found = (out.shape, out.bits, out.group_size, out.symmetric)
    if found != want:
        raise ValueError(f"out must have (shape, bits, group_size, symmetric) {want}, not {found}")
    filled: dict[str, NDArray[Any] | None] = {
        "data": out.data,
        "scales": out.scales,
        "zero_points": out.zero_points,
    }
    if isinstance(codebook, np.ndarray):
        if out.codebook is None or not np.array_equal(out.codebook, codebook):
            raise ValueError(f"out must have the codebook {codebook.tolist()}, not another one")
    else:
        shape = None if out.codebook is None else out.codebook.shape
        if shape != codebook:
            raise ValueError(f"out must have a codebook of shape {codebook}, not {shape}")
        filled["codebook"] = out.codebook
    for name, a in filled.items():
        if a is not None:
            checks.output(a, a.shape, a.dtype, x, name=f"out.{name}", in_place=False)
    return out


def by_row(grid: NDArray[Any] | None, rows: int) -> Any:
    """View scales or zero points as (rows, groups); those of a whole tensor are repeated."""
    if grid is None:
        return None
    seen = checks.rows(np.ascontiguousarray(grid))
    return seen if len(seen) == rows else np.repeat(seen, rows, axis=0)
