"""The tensors of a checkpoint under their own names, read by rows, in whatever layout they are kept."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ...checks import Array
from ...files import DTYPES, Checkpoint, FormatError, TensorInfo
from ...files import open_checkpoint as open_files
from ...files.disk import strict_json
from ...files.disk.errors import quote
from ...files.tensor_info import from_little_endian
from ...layouts import registry
from ...layouts.base import Layout, LayoutError
from ...layouts.plain import Plain
from ...quantization import dequantize
from ...sparse_tensor import SparseTensor
from ...tensor import QuantizedTensor, matrix_shape

T = TypeVar("T")
KEY = "quantrim_storage"  # of the metadata, for tensors in our own layouts
VERSION = 1
CONFIG_KEYS = ("quantization_config", "compression_config")


@dataclass(frozen=True)
class LogicalTensor:
    """A tensor as its reader sees it. label: how it is kept, for people. arrays: what it is made of, by their names in
    the module."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    label: str
    arrays: Mapping[str, TensorInfo]
    checkpoint: Checkpoint

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of what `rows` gives; that of packed bytes for dtypes that numpy does not have."""
        return DTYPES[self.layout.decoded_dtype][1] or np.dtype(np.uint8)

    @property
    def compressed(self) -> bool:
        """Whether it is kept as something else than its weights."""
        return self.layout.family != Plain.family

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together, in the file."""
        return sum(self.checkpoint.storage_of(info.name)[1] for info in self.arrays.values())

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of its weights."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"tensor {quote(self.name)} must have an axis to have a length, not shape ()")
        return self.shape[0]

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"LogicalTensor({self.name!r}: {shape}, {self.label}, {self.nbytes:,} bytes)"

    def __getitem__(self, index: Any) -> Any:
        """Index as numpy does; only the slice of the first axis is read, and decoded."""
        first, *others = index if isinstance(index, tuple) else (index,)
        if not self.shape or not isinstance(first, (slice, int, np.integer)):
            return self.numpy()[index]
        if isinstance(first, slice):
            begin, end, step = first.indices(self.shape[0])
            low, high = (begin, end) if step > 0 else (end + 1, begin + 1)
            found = self._along_first_axis(low, max(0, high - low))
            rest = (slice(None, None, step), *others)
            return found[rest]
        at = operator.index(first)
        if not -self.shape[0] <= at < self.shape[0]:
            raise IndexError(f"index {at} is out of bounds for tensor {quote(self.name)} of shape {self.shape}")
        rest = (0, *others)
        return self._along_first_axis(at % self.shape[0], 1)[rest]

    def numpy(self) -> Array:
        """Return all weights, as `rows` computes them, in the tensor's own shape."""
        return self._along_first_axis(0, self.shape[0]) if self.shape else self.rows(0, 1).reshape(())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(f"tensor {quote(self.name)} must be read and decoded, which copy=False forbids")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def _along_first_axis(self, first: int, count: int) -> Array:
        """Return `count` slices of the first axis."""
        each = self.matrix_shape[0] // self.shape[0] if len(self.shape) > 1 and self.shape[0] else 1
        if len(self.shape) == 1:  # one row
            return self.rows(0, 1).reshape(self.shape)[first : first + count]
        return self.rows(first * each, count * each).reshape(count, *self.shape[1:])

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, cols), as TensorInfo has it; a scalar is one row of one."""
        return matrix_shape(self.shape) if self.shape else (1, 1)

    def rows(self, first: int, count: int) -> Array:
        """Return (count, cols) weights, rows `first` to `first + count` of the matrix; memory for these rows alone.

        Those of codes are (code - zero) * scale, rounded to dtype: the bits that their reader computes. FormatError
        where the bytes are no such codes or scales."""
        found = self._located(self.layout.decode, first, count)
        if isinstance(found, QuantizedTensor):
            return dequantize(found, dtype=self.dtype).reshape(count, self.matrix_shape[1])
        return found

    def quantized_rows(self, first: int, count: int) -> QuantizedTensor:
        """Return the same rows as codes and scales. ValueError for a tensor that has none."""
        if not self.layout.has_codes:
            raise ValueError(f"tensor {quote(self.name)} must be compressed to have codes, not {self.label}")
        found = self._located(self.layout.decode, first, count)
        assert isinstance(found, QuantizedTensor)
        return found

    def sparse_rows(self, first: int, count: int) -> SparseTensor:
        """Return the same rows without their zeros. ValueError for a tensor that is not stored sparse."""
        return self._located(self.layout.decode_sparse, first, count)

    def _located(self, decode: Callable[..., T], first: int, count: int) -> T:
        """Return rows that are there; where their bytes are wrong, a FormatError that names the array."""
        first, count = operator.index(first), operator.index(count)
        rows = self.matrix_shape[0]
        if not (first >= 0 and 0 <= count <= rows - first):
            raise ValueError(f"tensor {quote(self.name)} must have rows {first} to {first + count}; it has {rows}")
        try:
            return decode(_Arrays(self), first, count, self.shape)
        except FormatError:
            raise
        except (ValueError, TypeError) as error:
            info = self._to_blame(error)
            path = next(iter(self.arrays.values())).path
            raise FormatError(str(error), path=path, tensor=info.name if info else self.name) from None

    def _to_blame(self, error: Exception) -> TensorInfo | None:
        """Return the array that an error is about; None for the tensor as a whole."""
        named = error.tensor if isinstance(error, LayoutError) else None
        return self.arrays.get(named or self.layout.error_array)


class _Arrays:
    """`layouts.base.Arrays` of one tensor."""

    def __init__(self, tensor: LogicalTensor) -> None:
        self._infos, self._checkpoint = tensor.arrays, tensor.checkpoint

    def rows(self, name: str, first: int, count: int) -> Array:
        return self._checkpoint.rows(self._infos[name].name, first, count)

    def array(self, name: str) -> Array:
        return self._checkpoint.read(self._infos[name].name)

    def values(self, name: str, dtype: Any, first: int, count: int) -> Array:
        info = self._infos[name]
        wanted = info.numpy_dtype if dtype is None else np.dtype(dtype)
        raw = np.empty(count * wanted.itemsize, np.uint8)
        self._checkpoint.read_into(info.name, raw, first * wanted.itemsize)
        return from_little_endian(raw, wanted)

    def info(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        found = self._infos.get(name)
        return None if found is None else (found.dtype, found.shape)


class Model(Mapping[str, LogicalTensor]):
    """The tensors of an open checkpoint by name, in file order, read when they are indexed. A context manager.

    >>> from quantrim.demo.digits import model_file
    >>> with model_file() as path, open_checkpoint(path) as model:
    ...     model["fc1.weight"][0:2].shape, model["fc1.bias"].numpy().dtype, sorted(model)[:2]
    ((2, 64), dtype('float32'), ['fc1.bias', 'fc1.weight'])
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._tensors = logical_tensors(checkpoint)

    def __getitem__(self, name: str) -> LogicalTensor:
        if name not in self._tensors:
            raise KeyError(f"no tensor {quote(name)} in {quote(self.checkpoint.path)}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        compressed = sum(tensor.compressed for tensor in self._tensors.values())
        path = quote(self.checkpoint.path)
        return f"Model({path}: {len(self)} tensors, {compressed} compressed, {self.checkpoint.total_size:,} bytes)"

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.checkpoint.metadata

    @property
    def config(self) -> Mapping[str, Any] | None:
        """config.json of a model folder."""
        return self.checkpoint.config

    def close(self) -> None:
        """Close the files. Reading afterwards is a ValueError."""
        self.checkpoint.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *of_error: object) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Model:
    """Open a checkpoint, compressed or not, and return its tensors as a reader would compute them; lazily.

    path: a file or model folder that `compress` reads or writes. FormatError where it is not what its format says;
    OSError where it cannot be read.
    """
    checkpoint = open_files(path)
    try:
        return Model(checkpoint)
    except BaseException:
        checkpoint.close()
        raise


def logical_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """Return the tensors by name, in file order, compressed ones as one `<module>.weight` each.

    FormatError for a compressed tensor that lacks an array, or whose arrays do not fit each other. What is in a layout
    that is not read appears as it is.
    """
    owner: dict[str, LogicalTensor] = {}
    try:
        for name, layout, shape, arrays in registry.find(Catalog(checkpoint)):
            infos = {array: checkpoint.tensors[full] for array, full in arrays.items()}
            tensor = LogicalTensor(name, shape, layout, layout.label_for(shape), infos, checkpoint)
            owner |= dict.fromkeys(arrays.values(), tensor)
    except LayoutError as error:
        known = checkpoint.tensors.get(error.tensor or "")
        path = checkpoint.path if known is None else known.path
        raise FormatError(str(error), path=path, tensor=error.tensor) from None
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        if name in owner:
            found[owner[name].name] = owner[name]
        else:
            label = checkpoint.storage_of(name)[0]
            found[name] = LogicalTensor(name, info.shape, Plain(info.dtype), label, {"": info}, checkpoint)
    return found


class Catalog:
    """`layouts.base.Catalog` of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.tensors = checkpoint.tensors
        self.read = checkpoint.read

    @cached_property
    def quantization(self) -> Mapping[str, Any]:
        return quantization_config(self._checkpoint)

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        return entries_of(self._checkpoint)

    def json(self, name: str) -> Any:
        info = self.tensors[name]
        return strict_json.parse(self._checkpoint.raw(name), info.path, f"tensor {name!r}", info.offset)


def quantization_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return what config.json, at any depth, or the metadata says of the quantization; empty where they say nothing."""
    for found in _nested(checkpoint.config or {}):
        return found
    try:
        said = json.loads(checkpoint.metadata.get("quantization_config", "null"))
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _nested(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (config[key] for key in CONFIG_KEYS if isinstance(config.get(key), dict))
    for value in config.values():
        if isinstance(value, dict):
            yield from _nested(value)


def metadata_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the metadata of files that hold these tensors, by name; every shard names all, so that pieces stay
    readable."""
    if not entries:
        return {}
    return {KEY: json.dumps({"version": VERSION, "tensors": entries}, separators=(",", ":"), sort_keys=True)}


def entries_of(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return the entries by tensor name. FormatError for what is no such object; their own keys are their layout's."""
    text = checkpoint.metadata.get(KEY)
    if text is None:
        return {}
    path = checkpoint.path
    found = strict_json.parse(text.encode("utf-8", "surrogatepass"), path, KEY)
    if not isinstance(found, dict) or set(found) != {"version", "tensors"}:
        raise FormatError(f"{KEY} must be an object with version and tensors", path=path, found=found)
    if found["version"] != VERSION or isinstance(found["version"], (bool, float)):
        raise FormatError(f"{KEY} must have version {VERSION}", path=path, found=found["version"])
    tensors = found["tensors"]
    if not isinstance(tensors, dict):
        raise FormatError(f"tensors of {KEY} must be an object", path=path, found=tensors)
    for name, entry in tensors.items():
        if not isinstance(entry, dict):
            raise FormatError(f"{KEY} must have an object for each tensor", path=path, tensor=name, found=entry)
    return tensors
