"""Tensors in our own layouts, read back: rows on demand, from files that are not trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo
from ..files.checkpoint import from_little_endian
from ..files.errors import quote
from ..layouts import codebook, sparse_bitmask, sparse_scheme
from ..packing import pack, unpack
from ..quantization import dequantize
from ..sparse_tensor import SparseTensor
from ..tensor import QuantizedTensor, matrix_shape, row_bytes
from .entries import KEY, entries_of
from .logical_tensor import LogicalTensor
from .reader_modules import WEIGHT

_CODE_PARTS = (codebook.CODES, "weight_scale", "weight_zero_point", "weight_codebook")
_SPARSE_PARTS = (
    "bitmask", "shape", "row_offsets", "compressed", "compressed_packed", "weight_scale", "weight_zero_point",
)  # fmt: skip
_BY_ROW = ("bitmask", "weight_scale", "weight_zero_point")


@dataclass(frozen=True)
class CodedTensor(LogicalTensor):
    """Codes of any grid. grid: how they are stored."""

    grid: codebook.Scheme

    @property
    def compressed(self) -> bool:
        return True

    @property
    def coded(self) -> bool:
        return True

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        found = {}
        rows, cols = self.matrix_shape
        for role, part in self.grid.parts((rows, cols)).items():
            whole = len(part.shape) == 1 or part.shape[0] != rows  # for all rows
            name = self.parts[part.name].name
            found[role] = self.checkpoint.read(name) if whole else self.checkpoint.rows(name, first, count)
        return codebook.decode(found, self.grid, (count, cols))


@dataclass(frozen=True)
class SparseStored(LogicalTensor):
    """Weights stored sparse. form: how they are stored."""

    form: sparse_scheme.Scheme

    @property
    def compressed(self) -> bool:
        return True

    @property
    def coded(self) -> bool:
        return self.form.grid is not None

    @property
    def blamed(self) -> str:
        return self.name

    def rows(self, first: int, count: int) -> Array:
        first, count = self.checked(first, count)
        if self.coded:
            return dequantize(self.quantized_rows(first, count), dtype=self.dtype)
        weights = self.sparse_rows(first, count).decode()
        assert not isinstance(weights, QuantizedTensor)
        return weights

    def decode_rows(self, first: int, count: int) -> QuantizedTensor:
        codes = self._read(first, count).decode()
        assert isinstance(codes, QuantizedTensor)
        return codes

    def sparse_rows(self, first: int, count: int) -> SparseTensor:
        """The rows as they are stored, for `product`, say."""
        first, count = self.checked(first, count)
        return self.guarded(self._read, first, count)

    def _read(self, first: int, count: int) -> SparseTensor:
        name = {part: info.name for part, info in self.parts.items()}
        found = {part: self.checkpoint.rows(name[part], first, count) for part in _BY_ROW if part in self.parts}
        starts = self._starts(first, count)
        found["row_offsets"] = starts[:-1] - starts[0]
        found["shape"] = np.array((count, self.matrix_shape[1]), np.int64)
        grid = self.form.grid
        packed = grid is not None and not self.form.signed
        values = "compressed_packed" if packed else "compressed"
        begin, end = int(starts[0]), int(starts[-1])
        if packed:
            assert grid is not None
            found[values] = self._codes(name[values], begin, end, grid.bits)
        else:
            info = self.parts[values]
            raw = np.empty((end - begin) * info.numpy_dtype.itemsize, np.uint8)
            self.checkpoint.read_into(info.name, raw, begin * info.numpy_dtype.itemsize)
            found[values] = from_little_endian(raw, info.numpy_dtype)
        group = None if grid is None else grid.group_size
        return sparse_bitmask.decode(found, bits=None if grid is None else grid.bits, group_size=group)

    def _starts(self, first: int, count: int) -> Array:
        """How many weights are stored before each of the rows, and behind them."""
        part = self.parts["row_offsets"]
        end = min(first + count + 1, self.matrix_shape[0])
        raw = np.empty((end - first) * 8, np.uint8)
        self.checkpoint.read_into(part.name, raw, first * 8)
        starts = np.append(from_little_endian(raw, np.dtype(np.int64)), self.form.stored)[: count + 1]
        if (first == 0 and starts[0] != 0) or starts[0] < 0 or (np.diff(starts) < 0).any():
            raise FormatError(f"must rise from 0 to {self.form.stored}", path=part.path, tensor=part.name)
        if int(starts[-1]) > self.form.stored or int(starts[-1] - starts[0]) > count * self.matrix_shape[1]:
            raise FormatError(f"must be at most {self.form.stored} in all", path=part.path, tensor=part.name)
        return starts

    def _codes(self, name: str, begin: int, end: int, bits: int) -> Array:
        """Codes `begin` to `end` of the one bit stream as a stream of their own."""
        before = begin % 8
        at = (begin - before) * bits // 8
        raw = np.empty(row_bytes(end - begin + before, bits), np.uint8)
        self.checkpoint.read_into(name, raw, at)
        if not before:
            return raw
        later = np.ascontiguousarray(unpack(raw[None], bits, end - begin + before)[:, before:])
        codes: Array = pack(later, bits)[0]
        return codes


def stored_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors in our own layouts, by name. An entry none of whose parts is there is that of another shard."""
    found: dict[str, LogicalTensor] = {}
    for name, entry in entries_of(checkpoint).items():
        module = name.removesuffix(WEIGHT)
        make, names = _MAKERS.get(str(entry.get("layout")), (None, ()))
        if make is None:
            said = f"{KEY} must have a layout among {', '.join(_MAKERS)}, not {quote(entry.get('layout'))}"
            raise FormatError(said, path=checkpoint.path, tensor=name)
        parts = _parts(checkpoint, module, names)
        if not parts:
            continue
        path = next(iter(parts.values())).path
        if name in checkpoint.tensors:
            raise FormatError("must not be there beside its parts", path=path, tensor=name)
        try:
            found[name] = make(checkpoint, name, entry, parts)
        except FormatError:
            raise
        except (ValueError, TypeError) as error:
            raise FormatError(f"{KEY}: {error}", path=path, tensor=name) from None
    return found


def _parts(checkpoint: Checkpoint, module: str, names: tuple[str, ...]) -> dict[str, TensorInfo]:
    return {part: checkpoint.tensors[f"{module}.{part}"] for part in names if f"{module}.{part}" in checkpoint.tensors}


def _coded(
    checkpoint: Checkpoint, name: str, entry: Mapping[str, Any], parts: Mapping[str, TensorInfo]
) -> LogicalTensor:
    grid, shape = codebook.from_entry(entry, {part: (info.dtype, info.shape) for part, info in parts.items()})
    return CodedTensor(name, shape, codebook.DTYPES[grid.dtype], grid.label, parts, None, checkpoint, grid)


def _sparse(
    checkpoint: Checkpoint, name: str, entry: Mapping[str, Any], parts: Mapping[str, TensorInfo]
) -> LogicalTensor:
    form, shape = sparse_scheme.from_entry(entry, {part: (info.dtype, info.shape) for part, info in parts.items()})
    stated = checkpoint.read(parts["shape"].name).tolist()
    if stated != list(matrix_shape(shape)):
        raise ValueError(f"shape must be that of {parts['shape'].name}, {stated}, not {list(shape)}")
    label = form.label_for(shape[1])
    return SparseStored(name, shape, codebook.DTYPES[form.dtype], label, parts, None, checkpoint, form)


_Maker = Callable[[Checkpoint, str, Mapping[str, Any], Mapping[str, TensorInfo]], LogicalTensor]
# layout -> what makes a tensor of its parts, and their names
_MAKERS: dict[str, tuple[_Maker, tuple[str, ...]]] = {
    codebook.LAYOUT: (_coded, _CODE_PARTS),
    sparse_scheme.LAYOUT: (_sparse, _SPARSE_PARTS),
}
