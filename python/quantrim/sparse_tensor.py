"""A weight tensor stored sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .tensor import GroupSize, QuantizedTensor, row_bytes

_INT32_MAX = 2**31 - 1


def check_layout(layout: object, shape: tuple[int, ...]) -> tuple[str, int, int]:
    """The kernels' word for a layout of a tensor of `shape`, with n and m, which are 0 for the others."""
    if layout == "bitmask":
        return "bitmask", 0, 0
    if layout == "csr":
        if shape[-1] > _INT32_MAX:
            raise ValueError(f'the last axis must be at most {_INT32_MAX} for layout "csr", not {shape[-1]}')
        return "csr", 0, 0
    nm = checks.n_of_m(layout) if isinstance(layout, str) else None
    if nm is None:
        raise ValueError(f'layout must be "bitmask", "csr" or "n:m" with 1 <= n < m <= {checks.MAX_M}, not {layout!r}')
    if shape[-1] % nm[1]:
        raise ValueError(f"the last axis must be a multiple of {nm[1]} for layout {layout!r}, not {shape[-1]}")
    return "n:m", *nm


def places_form(form: str, n: int, m: int, rows: int, cols: int, count: int) -> tuple[tuple[int, ...], type]:
    """Shape and dtype of the places of `count` stored weights."""
    if form == "csr":
        return (count,), np.uint16 if cols <= 2**16 else np.int32
    return (rows, row_bytes(cols, 1) if form == "bitmask" else row_bytes(cols // m * n, (m - 1).bit_length())), np.uint8


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Values of weights that are not zero, and their places. Rows are those of the last axis.

    values: in order, (stored,) float32, float16 or bfloat16. Where `bits` is given: codes of so many bits, counted from
        their zero point modulo 2**bits, in one bit stream of uint8, least significant bit first.
    layout, places:
        "bitmask": (rows, ceil(cols / 8)) uint8, a bit per weight, least significant first; unused bits are 0
            (as in Qin et al. 2020, "SIGMA", and in the format sparse-bitmask of compressed-tensors).
        "n:m", "2:4" say: exactly n of every m consecutive weights are stored, zeros where fewer are not zero; (rows,
            ceil(cols / m * n * b / 8)) uint8: which of its m each is, ascending, b = ceil(log2(m)) bits, least
            significant first (Mishra et al. 2021, "Accelerating sparse deep neural networks").
        "csr": (stored,) the column of each, ascending within a row, uint16 where cols <= 65536, otherwise int32
            (Tinney and Walker 1967).
    offsets: (rows + 1,) int64, how many are stored before each row; None for "n:m".
    shape: of the tensor.
    bits, group_size, scales, zero_points: the grid of the QuantizedTensor that the codes are of.

    Places that are out of order or range, or not as many as offsets and values say, are a ValueError.

    >>> import numpy as np, quantrim as qt
    >>> s = qt.sparse.encode(np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32))
    >>> s.values.tolist(), s.places.tolist(), s.offsets.tolist()
    ([2.0, 3.0, 4.0], [[2], [9]], [0, 1, 3])
    >>> s.sparsity, s @ np.ones(4, np.float32)
    (0.625, array([2., 7.], dtype=float32))
    """

    values: NDArray[Any]
    places: NDArray[Any]
    offsets: NDArray[np.int64] | None
    layout: str
    shape: tuple[int, ...]
    bits: int | None = None
    group_size: GroupSize | None = None
    scales: NDArray[np.float32] | None = None
    zero_points: NDArray[np.uint8] | None = None

    __array_ufunc__ = None  # x @ s is not s.product(x): numpy must not try

    def __post_init__(self) -> None:
        if not self.shape:
            raise ValueError("shape must have at least one axis, not ()")
        for size in self.shape:
            checks.integer("shape", size, 0, 2**62)
        form, n, m = check_layout(self.layout, self.shape)
        rows, cols = self.rows_and_cols
        if self.bits is None:
            self._check_floats()
        else:
            self._check_grid()
        count = rows * (cols // m * n) if form == "n:m" else self._check_offsets(rows)
        if self.bits is None:
            _part("values", self.values, self.values.dtype, (count,))
        else:
            _part("values", self.values, np.uint8, (row_bytes(count, self.bits),))
        shape, dtype = places_form(form, n, m, rows, cols, count)
        _part("places", self.places, dtype, shape)
        bad = backend.active.sparse_check(form, n, m, self.offsets, self.places, rows, cols, count)
        if bad >= 0:
            raise ValueError(self._complaint(form, bad))

    def _check_floats(self) -> None:
        dtype = getattr(self.values, "dtype", None)
        if not isinstance(self.values, np.ndarray) or dtype not in checks.FLOATS:
            found = dtype or type(self.values).__name__
            raise TypeError(f"values must be float32, float16 or bfloat16 where bits is None, not {found}")
        for name in ("group_size", "scales", "zero_points"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} must be None where bits is None")
        if self.values.flags.c_contiguous:
            checks.finite("values", self.values, backend.active.is_finite(self.values.ravel()))

    def _check_grid(self) -> None:
        bits = checks.integer("bits", self.bits, 1, 8)
        self._quantized(np.broadcast_to(np.uint8(0), (*self.shape[:-1], row_bytes(self.shape[-1], bits))))
        for name in ("scales", "zero_points"):
            if getattr(self, name) is not None:
                _part(name, getattr(self, name), getattr(self, name).dtype, getattr(self, name).shape)

    def _check_offsets(self, rows: int) -> int:
        """How many are stored, according to the offsets."""
        if self.offsets is None:
            raise TypeError(f"offsets must be int64 for layout {self.layout!r}, not None")
        _part("offsets", self.offsets, np.int64, (rows + 1,))
        if self.offsets[0] != 0:
            raise ValueError(f"offsets must begin with 0, not {self.offsets[0]}")
        falling = self.offsets[1:] < self.offsets[:-1]
        if falling.any():
            at = int(falling.argmax())
            raise ValueError(f"offsets must not fall, but fall at index {at + 1} to {self.offsets[at + 1]}")
        stored = int(self.offsets[-1])
        weights = int(np.prod(self.shape, dtype=object))
        if stored > weights:
            raise ValueError(f"offsets must end with at most {weights} stored weights, not {stored}")
        return stored

    def _complaint(self, form: str, row: int) -> str:
        if form == "n:m":
            return f"places of row {row} must be ascending within each {self.layout} group, within it, and 0 behind it"
        assert self.offsets is not None
        stored = int(self.offsets[row + 1] - self.offsets[row])
        if form == "csr":
            return f"places of row {row} must be {stored} ascending columns below {self.shape[-1]}"
        found = int(np.unpackbits(self.places[row]).sum())
        return f"places of row {row} must have {stored} bits set, all below {self.shape[-1]}, and have {found}"

    def _quantized(self, data: NDArray[np.uint8]) -> QuantizedTensor:
        """These codes on the grid of this tensor."""
        assert self.bits is not None
        if self.scales is None or self.group_size is None:
            raise ValueError("scales and group_size must be given where bits is")
        return QuantizedTensor(data, self.scales, self.zero_points, self.bits, self.group_size, self.shape)

    @property
    def rows_and_cols(self) -> tuple[int, int]:
        """The tensor as a matrix: rows of the last axis."""
        return int(np.prod(self.shape[:-1], dtype=object)), self.shape[-1]

    @property
    def stored(self) -> int:
        """How many weights are stored."""
        if self.offsets is not None:
            return int(self.offsets[-1])
        rows, cols = self.rows_and_cols
        _, n, m = check_layout(self.layout, self.shape)
        return rows * (cols // m * n)

    @property
    def sparsity(self) -> float:
        """The fraction of weights that are not stored; 0.0 for an empty tensor."""
        weights = int(np.prod(self.shape, dtype=object))
        return 1 - self.stored / weights if weights else 0.0

    def parts(self) -> list[NDArray[Any]]:
        """Values, places, offsets, scales and zero points: those that are there."""
        parts = (self.values, self.places, self.offsets, self.scales, self.zero_points)
        return [a for a in parts if a is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts together."""
        return sum(a.nbytes for a in self.parts())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, places and scales and all, per weight of the tensor."""
        weights = int(np.prod(self.shape, dtype=object))
        return 8 * self.nbytes / weights if weights else 0.0

    def decode(self) -> NDArray[Any] | QuantizedTensor:
        """The tensor again, as `quantrim.sparse.decode` gives it."""
        from .sparse import decode

        return decode(self)

    def product(self, x: object, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """x @ w.T, as `quantrim.sparse.product` gives it."""
        from .sparse import product

        return product(x, self, out=out)

    def __matmul__(self, x: object) -> NDArray[np.float32]:
        """w @ x in numpy's sense: x of shape (cols,) or (cols, batch)."""
        vectors = checks.floats("x", x)
        return self.product(vectors) if vectors.ndim == 1 else self.product(vectors.swapaxes(-1, -2)).swapaxes(-1, -2)


def _part(name: str, a: object, dtype: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(a, np.ndarray) or a.dtype != np.dtype(dtype):
        raise TypeError(f"{name} must be {np.dtype(dtype)}, not {getattr(a, 'dtype', type(a).__name__)}")
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {a.shape}")
    if not (a.flags.c_contiguous and a.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned, not strides {a.strides} of shape {a.shape}")
