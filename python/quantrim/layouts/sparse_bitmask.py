"""Pruned weights or codes without their zeros: a bitmask and what it selects. Our layout, version 2.

Of a module: `shape` int64 (2,); `bitmask` uint8 (rows, ceil(cols / 8)), a bit per weight, least significant first, 1
where it is kept; what is kept, row by row; and `row_offsets` int64 (rows,), where each row begins in that:

    float weights          `compressed` (nnz,) of their dtype
    8 bits, symmetric      `compressed` (nnz,) int8, `weight_scale` (rows, groups)
    other codes            `compressed_packed` uint8: codes counted from their zero point modulo 2**bits, least
                           significant bit first, each row on a byte of its own; `weight_scale`, and if asymmetric
                           `weight_zero_point` uint8, both (rows, groups)

The first two are the format sparse-bitmask of compressed-tensors, which it wrote and read until it gave its sparse
formats up (0.20 has none of them). What names and shapes do not say is in the file's metadata: `Sparse.entry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..packing import pack, unpack
from ..sparse_tensor import SparseTensor
from ..tensor import GroupSize, QuantizedTensor, check_group_size, columns_per_group, matrix_shape, row_bytes
from .base import (
    FLOATS,
    SCALE_DTYPES,
    Array,
    Arrays,
    Chunk,
    Described,
    Encoder,
    Grid,
    Infos,
    LayoutError,
    Shape,
    StoredTensor,
    WritableLayout,
    check_arrays,
    decode_scales,
    read_row_offsets,
    shape_of,
)

__all__ = ["ARRAYS", "Sparse", "from_entry"]

VERSION = 2
_VALUES, _PACKED = "compressed", "compressed_packed"
ARRAYS = ("bitmask", "shape", "row_offsets", _VALUES, _PACKED, "weight_scale", "weight_zero_point")


@dataclass(frozen=True)
class Sparse(WritableLayout):
    """dtype: of the weights once decoded, as safetensors has it. size: of the array of what is kept, in elements; at
    most so many before they were counted. grid: of the codes; None where the weights themselves are kept."""

    dtype: str
    size: int
    grid: Grid | None = None
    family: ClassVar[str] = "sparse"
    note: ClassVar[str] = "stored sparse, which only quantrim reads: storage='dense' keeps them for others"
    counted: ClassVar[bool] = True

    @property
    def error_array(self) -> str:
        return ""

    @property
    def has_codes(self) -> bool:
        return self.grid is not None

    @property
    def bits(self) -> int | None:
        return None if self.grid is None else self.grid.bits

    @property
    def group_size(self) -> GroupSize:
        return 1 if self.grid is None else self.grid.group_size

    @property
    def scale_dtype(self) -> str | None:
        return None if self.grid is None else self.grid.scale_dtype

    @property
    def whole_rows(self) -> bool:
        return self.packed

    @property
    def packed(self) -> bool:
        """Whether codes are packed, not int8."""
        return self.grid is not None and not (self.grid.bits == 8 and self.grid.symmetric)

    @property
    def label(self) -> str:
        return f"{self.dtype if self.grid is None else self.grid.label_for(None)}, sparse"

    def label_for(self, shape: Shape) -> str:
        return self.label if self.grid is None else f"{self.grid.label_for(matrix_shape(shape)[1])}, sparse"

    @property
    def decoded_dtype(self) -> str:
        return self.dtype

    def why_not(self, info: Described) -> str | None:
        return None if len(info.shape) > 1 else "a weight of two or more axes is wanted"

    def stored(self, shape: Shape) -> dict[str, StoredTensor]:
        rows, cols = matrix_shape(shape)
        found = {
            "shape": StoredTensor("shape", "I64", (2,)),
            "bitmask": StoredTensor("bitmask", "U8", (rows, row_bytes(cols, 1))),
            "row_offsets": StoredTensor("row_offsets", "I64", (rows,)),
        }
        if self.grid is None:
            return {**found, "values": StoredTensor(_VALUES, self.dtype, (self.size,))}
        name, dtype = (_PACKED, "U8") if self.packed else (_VALUES, "I8")
        found["values"] = StoredTensor(name, dtype, (self.size,))
        scales = (rows, self.grid.groups(cols))
        found["scale"] = StoredTensor("weight_scale", SCALE_DTYPES[self.grid.scale_dtype][0], scales)
        if not self.grid.symmetric:
            found["zero_point"] = StoredTensor("weight_zero_point", "U8", scales)
        return found

    def entry(self, shape: Shape) -> dict[str, Any]:
        entry = {"layout": self.family, "version": VERSION, "shape": list(shape), "dtype": self.dtype}
        return entry if self.grid is None else {**entry, "bits": self.grid.bits, "group_size": self.grid.group_size}

    def most(self, nnz: int, rows: int) -> int:
        """Bound the elements that so many nonzeros in so many rows take."""
        return (nnz * self.grid.bits + 7 * rows) // 8 if self.grid is not None and self.packed else nnz

    def count(self, x: QuantizedTensor | Array) -> int:
        """Count the elements that a chunk takes."""
        s = SparseTensor.from_dense(x, "bitmask")
        return int(self._row_ends(s)[-1])

    def of_size(self, size: int) -> Sparse:
        return replace(self, size=size)

    def _row_ends(self, s: SparseTensor) -> NDArray[np.int64]:
        """Return where each row begins among the elements of its chunk, and where the last one ends."""
        assert s.offsets is not None
        if self.grid is None or not self.packed:
            return s.offsets
        return np.append(np.int64(0), np.cumsum(-(-np.diff(s.offsets) * self.grid.bits // 8)))

    def encoder(self, shape: Shape, counts: Sequence[int] = ()) -> Encoder:
        return _Encoder(self, matrix_shape(shape), counts)

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor | Array:
        return self.decode_sparse(arrays, first, count, shape).to_dense()

    def decode_sparse(self, arrays: Arrays, first: int, count: int, shape: Shape) -> SparseTensor:
        rows, cols = matrix_shape(shape)
        stated = arrays.array("shape").tolist()
        if stated != [rows, cols]:
            raise LayoutError(f"shape must be {[rows, cols]}, not {stated}", "shape")
        bitmask = arrays.rows("bitmask", first, count)
        starts = self._starts(arrays, first, count, rows, cols)
        nnz = np.diff(starts)
        size = int(starts[-1] - starts[0])
        if self.grid is None:
            values = arrays.values(_VALUES, None, int(starts[0]), size)
            return SparseTensor(values, bitmask, starts - starts[0], "bitmask", (count, cols))
        if self.packed:
            nnz = np.unpackbits(bitmask, axis=1).sum(axis=1, dtype=np.int64)
            raw = arrays.values(_PACKED, np.uint8, int(starts[0]), size)
            values = _one_stream(raw, np.diff(starts), nnz, self.grid.bits)
        else:
            values = arrays.values(_VALUES, np.uint8, int(starts[0]), size)
        offsets = np.append(np.int64(0), np.cumsum(nnz))
        scales = decode_scales(arrays.rows("weight_scale", first, count))
        zeros = None if self.grid.symmetric else arrays.rows("weight_zero_point", first, count)
        grid = self.grid.bits, self.grid.group_size
        return SparseTensor(values, bitmask, offsets, "bitmask", (count, cols), *grid, scales, zeros)

    def _starts(self, arrays: Arrays, first: int, count: int, rows: int, cols: int) -> NDArray[np.int64]:
        """Return where each of the rows begins among the elements, and where the last one ends."""
        starts = read_row_offsets(arrays, first, count, rows, self.size)
        if starts is None or starts[-1] - starts[0] > count * cols:
            raise LayoutError(f"row_offsets must be non-decreasing from 0 to at most {self.size}", "row_offsets")
        return starts


class _Encoder(Encoder):
    def __init__(self, layout: Sparse, shape: tuple[int, int], counts: Sequence[int]) -> None:
        self._layout, self._shape = layout, shape
        self._width = row_bytes(shape[1], 1)
        self._starts = [0, *np.cumsum(counts, dtype=np.int64).tolist()]

    def encode(self, x: QuantizedTensor | Array, chunk: Chunk) -> Iterator[tuple[str, int, Array]]:
        layout, cols = self._layout, self._shape[1]
        s = SparseTensor.from_dense(x, "bitmask")
        start = self._starts[chunk.number]
        yield "bitmask", chunk.row * self._width + chunk.col // 8, s.places
        ends = layout._row_ends(s)
        if chunk.col == 0:
            yield "row_offsets", chunk.row * 8, ends[:-1] + start
        if layout.packed:
            assert s.offsets is not None and s.bits is not None
            yield "values", start, _by_rows(s.values, np.diff(s.offsets), s.bits)
        else:
            yield "values", start * s.values.itemsize, s.values
        if layout.grid is None or s.scales is None:
            return
        group = chunk.col // columns_per_group(layout.group_size, cols)
        index = chunk.row * layout.grid.groups(cols) + group
        scales = s.scales.astype(SCALE_DTYPES[layout.grid.scale_dtype][1])
        yield "scale", index * scales.itemsize, scales
        if s.zero_points is not None:
            yield "zero_point", index, s.zero_points

    def finish(self) -> Iterator[tuple[str, int, Array]]:
        yield "shape", 0, np.array(self._shape, np.int64)


def _by_rows(stream: NDArray[np.uint8], nnz: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Return codes of one bit stream with each row on a byte of its own."""
    kept = np.arange(int(nnz.max(initial=0))) < nnz[:, None]
    padded = np.zeros(kept.shape, np.uint8)
    padded[kept] = unpack(stream[None], bits, int(nnz.sum()))[0]
    packed = pack(padded, bits)
    rows: NDArray[np.uint8] = packed[np.arange(packed.shape[1]) < -(-nnz * bits // 8)[:, None]]
    return rows


def _one_stream(
    rows: NDArray[np.uint8], nbytes: NDArray[np.int64], nnz: NDArray[np.int64], bits: int
) -> NDArray[np.uint8]:
    """Return codes that begin each row on a byte as one bit stream. ValueError unless rows have as many as `nnz`."""
    wrong = nbytes != -(-nnz * bits // 8)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"bitmask of row {row} of these has {nnz[row]} bits set, row_offsets {nbytes[row]} bytes")
    kept = np.arange(int(nbytes.max(initial=0))) < nbytes[:, None]
    padded = np.zeros(kept.shape, np.uint8)
    padded[kept] = rows
    most = int(nnz.max(initial=0))
    codes = unpack(padded, bits, most)[np.arange(most) < nnz[:, None]]
    stream: NDArray[np.uint8] = pack(codes[None], bits)[0]
    return stream


def from_entry(entry: Mapping[str, Any], infos: Infos) -> tuple[Sparse, Shape]:
    """Return layout and shape of a tensor, from its entry and the (dtype, shape) of its arrays by name in the module.

    ValueError says which rule is broken.
    """
    if entry.get("version") != VERSION:
        raise ValueError(f"version must be {VERSION}, not {entry.get('version')!r}")
    dtype = checks.choice("dtype", entry.get("dtype"), FLOATS)
    shape = shape_of(entry)
    cols = matrix_shape(shape)[1]
    grid = None
    if "bits" in entry:
        bits = checks.integer("bits", entry["bits"], 2, 8)
        group = entry.get("group_size")
        if group != "channel" and cols % checks.integer("group_size", group, 1, max(1, cols)):
            raise ValueError(f'group_size must be "channel" or divide the {cols} columns, not {group!r}')
        if "weight_scale" not in infos:
            raise ValueError("weight_scale is missing")
        names = {dtype: name for name, (dtype, _) in SCALE_DTYPES.items()}
        scale = names[checks.choice("dtype of weight_scale", infos["weight_scale"][0], names)]
        grid = Grid(bits, check_group_size(group), "weight_zero_point" not in infos, scale)
    name = _PACKED if Sparse(dtype, 0, grid).packed else _VALUES
    if name not in infos:
        raise ValueError(f"{name} is missing beside {', '.join(sorted(infos)) or 'nothing'}")
    size = infos[name][1][0] if len(infos[name][1]) == 1 else 0
    layout = Sparse(dtype, size, grid)
    check_arrays(layout.stored(shape), infos)
    return layout, shape
