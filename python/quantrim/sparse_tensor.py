"""A weight tensor stored sparse: the container, how it is made, restored and multiplied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import backend, checks
from .packing import pack, row_bytes, unpack
from .tensor import GroupSize, QuantizedTensor, array_of, by_row, columns_per_group, grid_label, shape_label

_INT32_MAX = 2**31 - 1


def check_layout(layout: object, shape: tuple[int, ...]) -> tuple[str, int, int]:
    """Return the kernels' word for a layout of a tensor of `shape`, with n and m, which are 0 for the others."""
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


@dataclass(frozen=True, eq=False, repr=False)
class SparseTensor:
    """Hold the values of weights that are not zero, and their places. Rows are those of the last axis.

    values: in order, (nnz,) float32, float16 or bfloat16. Where `bits` is given: codes of so many bits, counted from
        their zero point modulo 2**bits, in one bit stream of uint8, least significant bit first.
    layout, places:
        "bitmask": (rows, ceil(cols / 8)) uint8, a bit per weight, least significant first; unused bits are 0
            (as in Qin et al. 2020, "SIGMA", and in the format sparse-bitmask of compressed-tensors).
        "n:m", "2:4" say: exactly n of every m consecutive weights are kept, zeros where fewer are not zero; (rows,
            ceil(cols / m * n * b / 8)) uint8: which of its m each is, ascending, b = ceil(log2(m)) bits, least
            significant first (Mishra et al. 2021, "Accelerating sparse deep neural networks").
        "csr": (nnz,) the column of each, ascending within a row, uint16 where cols <= 65536, otherwise int32
            (Tinney and Walker 1967).
    offsets: (rows + 1,) int64, how many values precede each row; None for "n:m".
    shape: of the tensor.
    bits, group_size, scales, zero_points: the grid of the QuantizedTensor that the codes are of.

    Places that are out of order or range, or not as many as offsets and values say, are a ValueError. `np.asarray(s)`
    gives the dense weights. Two of them are equal if they are one object; compare `arrays()` for their contents.

    >>> import numpy as np, quantrim as qt
    >>> s = qt.sparse.from_dense(np.array([[0, 2, 0, 0], [3, 0, 0, 4]], np.float32))
    >>> s
    SparseTensor(float32 bitmask, 2x4, sparsity 0.625, 38.0 bits/weight)
    >>> s.values.tolist(), s.places.tolist(), s.offsets.tolist()
    ([2.0, 3.0, 4.0], [[2], [9]], [0, 1, 3])
    >>> s @ np.ones(4, np.float32)
    array([2., 7.], dtype=float32)
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

    __array_ufunc__ = None  # x @ s is no product of this: numpy must not try

    def __post_init__(self) -> None:
        if not self.shape:
            raise ValueError("shape must have at least one axis, not ()")
        for size in self.shape:
            checks.integer("shape", size, 0, 2**62)
        layout, n, m = check_layout(self.layout, self.shape)
        rows, cols = self.rows_and_cols
        if self.bits is None:
            self._check_floats()
        else:
            self._check_grid()
        count = rows * (cols // m * n) if layout == "n:m" else self._check_offsets(rows)
        if self.bits is None:
            _held("values", self.values, self.values.dtype, (count,))
        else:
            _held("values", self.values, np.uint8, (row_bytes(count, self.bits),))
        shape, dtype = _places_shape(layout, n, m, rows, cols, count)
        _held("places", self.places, dtype, shape)
        bad = backend.active.sparse_check(layout, n, m, self.offsets, self.places, rows, cols, count)
        if bad >= 0:
            raise ValueError(self._complaint(layout, bad))

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
                _held(name, getattr(self, name), getattr(self, name).dtype, getattr(self, name).shape)

    def _check_offsets(self, rows: int) -> int:
        """Return how many values there are, according to the offsets."""
        if self.offsets is None:
            raise TypeError(f"offsets must be int64 for layout {self.layout!r}, not None")
        _held("offsets", self.offsets, np.int64, (rows + 1,))
        if self.offsets[0] != 0:
            raise ValueError(f"offsets must begin with 0, not {self.offsets[0]}")
        decreasing = self.offsets[1:] < self.offsets[:-1]
        if decreasing.any():
            at = int(decreasing.argmax())
            raise ValueError(f"offsets must be non-decreasing, not {self.offsets[at + 1]} at index {at + 1}")
        nnz, weights = int(self.offsets[-1]), math.prod(self.shape)
        if nnz > weights:
            raise ValueError(f"offsets must end with at most {weights} values, not {nnz}")
        return nnz

    def _complaint(self, layout: str, row: int) -> str:
        if layout == "n:m":
            return f"places of row {row} must be ascending within each {self.layout} group, within it, and 0 behind it"
        assert self.offsets is not None
        count = int(self.offsets[row + 1] - self.offsets[row])
        if layout == "csr":
            return f"places of row {row} must be {count} ascending columns below {self.shape[-1]}"
        found = int(np.unpackbits(self.places[row]).sum())
        return f"places of row {row} must have {count} bits set, all below {self.shape[-1]}, and have {found}"

    def _quantized(self, data: NDArray[np.uint8]) -> QuantizedTensor:
        """Put codes on the grid of this tensor."""
        assert self.bits is not None
        if self.scales is None or self.group_size is None:
            raise ValueError("scales and group_size must be given where bits is")
        return QuantizedTensor(data, self.scales, self.zero_points, self.bits, self.group_size, self.shape)

    def __repr__(self) -> str:
        grid = self.values.dtype.name if self.bits is None else grid_label(self)
        numbers = f"sparsity {round(self.sparsity, 3)}, {round(self.bits_per_weight, 2)} bits/weight"
        return f"SparseTensor({grid} {self.layout}, {shape_label(self.shape)}, {numbers})"

    @property
    def rows_and_cols(self) -> tuple[int, int]:
        """The tensor as a matrix: rows of the last axis."""
        return math.prod(self.shape[:-1]), self.shape[-1]

    @property
    def nnz(self) -> int:
        """The number of values that are kept: of "n:m", n of every m, zeros among them."""
        if self.offsets is not None:
            return int(self.offsets[-1])
        rows, cols = self.rows_and_cols
        _, n, m = check_layout(self.layout, self.shape)
        return rows * (cols // m * n)

    @property
    def sparsity(self) -> float:
        """The fraction of weights that are left out; 0.0 for an empty tensor."""
        weights = math.prod(self.shape)
        return 1 - self.nnz / weights if weights else 0.0

    def arrays(self) -> list[NDArray[Any]]:
        """List values, places, offsets, scales and zero points: those that are there."""
        arrays = (self.values, self.places, self.offsets, self.scales, self.zero_points)
        return [a for a in arrays if a is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(a.nbytes for a in self.arrays())

    @property
    def bits_per_weight(self) -> float:
        """Bits of values, places, scales and all, per weight of the tensor; 0.0 for an empty one."""
        weights = math.prod(self.shape)
        return 8 * self.nbytes / weights if weights else 0.0

    @classmethod
    def from_dense(cls, w: ArrayLike | QuantizedTensor, layout: str = "bitmask") -> SparseTensor:
        """Leave the zeros of a tensor out, as `quantrim.sparse.from_dense` says."""
        if isinstance(w, QuantizedTensor):
            return _from_codes(w, layout)
        x = checks.floats("w", w)
        return cls(*_nonzeros("w", x, layout), layout, x.shape)

    def to_dense(self, *, out: NDArray[Any] | None = None) -> NDArray[Any] | QuantizedTensor:
        """Restore the tensor, as `quantrim.sparse.to_dense` says."""
        if self.bits is None:
            w = checks.output(out, self.shape, self.values.dtype, *self.arrays(), in_place=False)
            self._restore(self.values, checks.rows(w))
            return w
        packed = (*self.shape[:-1], row_bytes(self.shape[-1], self.bits))
        data = checks.output(out, packed, np.uint8, *self.arrays(), in_place=False)
        codes = np.empty(self.rows_and_cols, np.uint8)
        self._restore(unpack(self.values[None], self.bits, self.nnz)[0], codes)
        codes += _zeros(self, self.bits)
        codes &= np.uint8(2**self.bits - 1)
        pack(codes.reshape(self.shape), self.bits, out=data)
        return self._quantized(data)

    def _restore(self, values: checks.Array, into: checks.Array) -> None:
        layout = check_layout(self.layout, self.shape)
        backend.active.sparse_decode(*layout, self.offsets, self.places, np.ascontiguousarray(values), into)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        dense = self.to_dense()
        if isinstance(dense, QuantizedTensor):
            return dense.__array__(dtype, copy)
        return array_of(dense.astype, dense.dtype if dtype is None else dtype, copy)

    def __matmul__(self, x: ArrayLike) -> NDArray[np.float32]:
        return self.matmul(x)

    def matmul(self, x: ArrayLike, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Multiply with a vector or a matrix, as `quantrim.sparse.matmul` says; `s @ x` is the same."""
        if len(self.shape) != 2:
            raise ValueError(f"s must be of a matrix (out, in), not of shape {self.shape}")
        given = checks.floats("x", x)
        if given.ndim > 2 or given.shape[0] != self.shape[1]:
            raise ValueError(f"x must have shape ({self.shape[1]},) or ({self.shape[1]}, batch), not {given.shape}")
        checks.finite("x", given, backend.active.is_finite(given.ravel()))
        vectors = np.ascontiguousarray(given.T, np.float32)  # kernels take a row for each vector
        shape = self.shape[0], *vectors.shape[:-1]
        y = None if out is None else checks.output(out, shape, np.float32, given, *self.arrays(), in_place=False)
        by_vector = np.zeros(shape[::-1], np.float32) if y is None or y.ndim == 2 else y
        self._multiply(checks.rows(vectors), checks.rows(by_vector))
        if y is None:
            return np.transpose(by_vector)
        if y.ndim == 2:
            y[...] = by_vector.T
        return y

    def _multiply(self, vectors: checks.Array, y: checks.Array) -> None:
        if not y.size or not self.shape[1]:
            y[...] = 0
            return
        bits, group, scales, zeros = 0, 1, None, None
        if self.bits is not None and self.group_size is not None:
            bits, group = self.bits, columns_per_group(self.group_size, self.shape[1])
            scales, zeros = (by_row(a, self.shape[0]) for a in (self.scales, self.zero_points))
        places = *check_layout(self.layout, self.shape), self.offsets, self.places
        run = backend.active.sparse_product
        run(*places, self.nnz, self.values, bits, group, scales, zeros, vectors, y)

    def to_scipy(self) -> Any:
        """Convert to a `scipy.sparse.csr_array` of float32 weights, (rows, cols). Needs scipy."""
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise ImportError("SparseTensor.to_scipy() needs scipy: pip install scipy") from None
        csr = self
        if self.layout != "csr" or self.bits is not None:
            csr = SparseTensor.from_dense(np.asarray(self), "csr")
        values, columns = csr.values.astype(np.float32), csr.places.astype(np.int32)
        return csr_array((values, columns, csr.offsets), shape=self.rows_and_cols)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, those that are None left out; `from_dict` takes them back."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SparseTensor:
        """Make a tensor of what `to_dict` gave, or of what `np.load` gives of it."""
        return cls(**{"offsets": None, **checks.fields(fields)})


def _places_shape(layout: str, n: int, m: int, rows: int, cols: int, count: int) -> tuple[tuple[int, ...], type]:
    """Return shape and dtype of the places of `count` values."""
    if layout == "csr":
        return (count,), np.uint16 if cols <= 2**16 else np.int32
    bits = cols if layout == "bitmask" else cols // m * n * (m - 1).bit_length()
    return (rows, row_bytes(bits, 1)), np.uint8


def _nonzeros(name: str, x: checks.Array, layout: str) -> tuple[checks.Array, checks.Array, checks.Array | None]:
    """List values, places and offsets of weights or codes."""
    layout, n, m = check_layout(layout, x.shape)
    w = checks.rows(x)
    rows, cols = w.shape
    offsets, count = None, rows * (cols // m * n) if m else 0
    if layout != "n:m":
        offsets = np.zeros(rows + 1, np.int64)
        finite = backend.active.stored_per_row(w, offsets[1:])
        if x.dtype in checks.FLOATS:
            checks.finite(name, x, finite)
        np.cumsum(offsets, out=offsets)
        count = int(offsets[-1])
    values = np.empty(count, x.dtype)
    shape, dtype = _places_shape(layout, n, m, rows, cols, count)
    places: checks.Array = np.empty(shape, dtype)
    if not backend.active.sparse_encode(w, layout, n, m, offsets, places, values):
        if x.dtype in checks.FLOATS:
            checks.finite(name, x, False)
        _refuse_full_group(name, w, n, m)
    return values, places, offsets


def _refuse_full_group(name: str, w: checks.Array, n: int, m: int) -> None:
    words = w.view(f"u{w.itemsize}")
    for r, row in enumerate(words):
        nonzero = np.count_nonzero(row.reshape(-1, m), axis=-1)
        if (nonzero > n).any():
            at = int((nonzero > n).argmax())
            where = f"the {m} from flat index {r * w.shape[1] + at * m} on"
            many = f"at most {n} of every {m} that are not zero, not {nonzero[at]}"
            raise ValueError(f"{name} must have {many} in {where}")


def _from_codes(q: QuantizedTensor, layout: str) -> SparseTensor:
    if q.codebook is not None:
        raise ValueError("w must be on a uniform grid, not on a codebook")
    check_layout(layout, q.shape)
    codes = unpack(q.data, q.bits, q.shape[-1])
    counted = checks.rows(codes)
    counted -= _zeros(q, q.bits)
    counted &= np.uint8(2**q.bits - 1)
    values, places, offsets = _nonzeros("w", codes, layout)
    packed = pack(values[None], q.bits)[0]
    zeros = None if q.zero_points is None else q.zero_points.copy()
    return SparseTensor(packed, places, offsets, layout, q.shape, q.bits, q.group_size, q.scales.copy(), zeros)


def _zeros(t: QuantizedTensor | SparseTensor, bits: int) -> Any:
    """Return the zero point of each weight: one, or (rows, 1), or (rows, cols)."""
    if t.zero_points is None or t.group_size is None:
        return np.uint8(2 ** (bits - 1))
    zeros = by_row(t.zero_points, math.prod(t.shape[:-1]))
    cols = t.shape[-1]
    group = columns_per_group(t.group_size, cols)
    return zeros if zeros.shape[1] == 1 else np.repeat(zeros, group, axis=-1)[:, :cols]


def _held(name: str, a: object, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Check as `checks.held` does, for arrays that kernels follow as they are."""
    checks.held(name, a, dtype, shape)
    if isinstance(a, np.ndarray) and not (a.flags.c_contiguous and a.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned, not strides {a.strides} of shape {a.shape}")
