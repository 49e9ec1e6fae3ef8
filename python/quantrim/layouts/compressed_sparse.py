"""Weights as compressed-tensors once stored them sparse: sparse-bitmask and sparse-24-bitmask. Only read.

Of a module: `bitmask` uint8 (rows, ceil(cols / 8)), a bit per weight, least significant first; `compressed`, the
weights whose bit is set, row by row; `shape` int64 (2,), or (2, 1). sparse-bitmask has also `row_offsets` int64
(rows,), how many are kept before each row, and takes vectors too, norms of models that were compressed so as a whole.
sparse-24-bitmask keeps half of each row. What is kept may be codes, int8 or float8 with `weight_scale`: then zeros are
codes of zero. compressed-tensors 0.11 wrote both, 0.20 reads neither. Our own files of this kind say what they hold:
`sparse_bitmask` reads those.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..tensor import QuantizedTensor, matrix_shape
from . import compressed_variants as variants
from .base import Array, Arrays, Catalog, Found, Info, Layout, Shape, read_row_offsets
from .compressed_variants import Variant

_FLOATS = ("F32", "F16", "BF16", "F64")
_ARRAYS = ("compressed", "bitmask", "shape", "row_offsets")


@dataclass(frozen=True)
class CompressedSparse(Layout):
    """dtype: of what is kept, as safetensors has it. codes: how codes are scaled; None where floats are kept."""

    dtype: str
    codes: Variant | None
    family: ClassVar[str] = "compressed-tensors sparse"

    @property
    def error_array(self) -> str:
        return "bitmask" if self.codes is None else "weight_scale"

    @property
    def has_codes(self) -> bool:
        return self.codes is not None

    @property
    def label(self) -> str:
        return f"{self.dtype if self.codes is None else self.codes.label}, sparse-bitmask"

    @property
    def decoded_dtype(self) -> str:
        return self.dtype if self.codes is None else self.codes.dtype

    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor | Array:
        values = _expanded(arrays, first, count, shape)
        if self.codes is None:
            info = arrays.values("compressed", None, 0, 0)
            return values.view(info.dtype)
        return self.codes.decode_rows(arrays, values, first)


def _expanded(arrays: Arrays, first: int, count: int, shape: Shape) -> NDArray[np.unsignedinteger]:
    """Return rows of what is kept, zeros and all, as unsigned integers of its width."""
    cols = matrix_shape(shape)[1]
    dtype = arrays.values("compressed", None, 0, 0).dtype
    found = np.zeros((count, cols), np.dtype(f"u{dtype.itemsize}"))
    if not count:
        return found
    bits = arrays.rows("bitmask", first, count)
    mask = np.unpackbits(bits, axis=1, count=cols, bitorder="little").astype(bool)
    info = arrays.info("compressed")
    assert info is not None
    nnz = math.prod(info[1])
    starts = _starts(arrays, first, count, matrix_shape(shape), nnz)
    if not np.array_equal(np.diff(starts), mask.sum(axis=1, dtype=np.int64)):
        said = "as many in each row as row_offsets say" if arrays.info("row_offsets") else "half of each row"
        raise ValueError(f"bitmask must have the bits of {nnz} weights, {said}")
    found[mask] = arrays.values("compressed", found.dtype, int(starts[0]), int(starts[-1] - starts[0]))
    return found


def _starts(arrays: Arrays, first: int, count: int, shape: tuple[int, int], nnz: int) -> NDArray[np.int64]:
    """Count the weights kept before each of the rows, and behind them. ValueError where there are not so many."""
    rows, cols = shape
    if arrays.info("row_offsets") is None:
        return (first + np.arange(count + 1)) * (cols // 2)
    starts = read_row_offsets(arrays, first, count, rows, nnz)
    if starts is None:
        raise ValueError(f"row_offsets must be non-decreasing from 0 to {nnz}")
    return starts


def find(catalog: Catalog, taken: Collection[str]) -> Iterator[Found]:
    """Yield the tensors in these layouts. taken: names of arrays of other tensors. What is not understood is left out,
    and appears as it is."""
    for name in catalog.tensors:
        module, _, last = name.rpartition(".")
        if last == "bitmask" and module and name not in taken:
            with contextlib.suppress(ValueError):
                yield _found(catalog, module)


def _found(catalog: Catalog, module: str) -> Found:
    names = {array: f"{module}.{array}" for array in _ARRAYS}
    known = {array: catalog.tensors[name] for array, name in names.items() if name in catalog.tensors}
    arrays = {array: names[array] for array in known}
    shape = _shape(catalog, known, names)
    values, weight = known["compressed"], f"{module}.weight"
    if values.dtype in _FLOATS:
        return Found(weight, CompressedSparse(values.dtype, None), shape, arrays)
    beside = {role: f"{weight}{role}" for role in variants.ROLES if role and f"{weight}{role}" in catalog.tensors}
    infos = {role: (catalog.tensors[name].dtype, catalog.tensors[name].shape) for role, name in beside.items()}
    codes = variants.read({"": (values.dtype, shape), **infos}, None, variants.blocks_of(catalog.quantization), ())
    arrays |= {f"weight{role}": name for role, name in beside.items()}
    return Found(weight, CompressedSparse(values.dtype, codes), shape, arrays)


def _shape(catalog: Catalog, known: Mapping[str, Info], names: Mapping[str, str]) -> Shape:
    """Return the shape that the arrays state and fit. ValueError where they do not."""
    stated = known.get("shape")
    if stated is None or (stated.dtype, stated.nbytes) not in (("I64", 8), ("I64", 16)):
        raise ValueError("shape must be there, one or two I64")
    if not {"compressed", "bitmask"} <= set(known):
        raise ValueError("compressed and bitmask must be there")
    shape = tuple(int(n) for n in catalog.read(names["shape"]).reshape(-1))
    cols, bits = shape[-1], (*shape[:-1], -(-shape[-1] // 8))
    if min(shape) < 0 or (known["bitmask"].dtype, known["bitmask"].shape) != ("U8", bits):
        raise ValueError(f"bitmask must be U8 of shape {list(bits)}")
    offsets, values = known.get("row_offsets"), known["compressed"]
    if offsets is not None and (offsets.dtype, offsets.shape, len(values.shape)) != ("I64", shape[:-1], 1):
        raise ValueError(f"row_offsets must be I64 of shape {list(shape[:-1])}, and compressed of one dimension")
    if offsets is None and (len(shape) != 2 or cols % 4 or values.shape != (shape[0], cols // 2)):
        raise ValueError("row_offsets must be there, or compressed must have half of the columns of each row")
    return shape
