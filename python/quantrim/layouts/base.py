"""The protocol of layouts: how one tensor becomes named arrays of a file, and how it comes out of them again.

A layout is a small immutable object that says all of it: labels, names, dtypes, shapes, limits, both directions. It
knows no files: encoding yields bytes with their places, decoding asks `Arrays` for what it needs. Shapes are those of
the tensor itself; what a layout calls rows and columns are those of `matrix_shape`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import checks
from ..sparse_tensor import SparseTensor
from ..tensor import GroupSize, QuantizedTensor, columns_per_group

Array = NDArray[Any]
Shape = tuple[int, ...]
Infos = Mapping[str, tuple[str, Shape]]  # dtype and shape of arrays, by their names in the module

WEIGHT = ".weight"  # how the name of a module's matrix ends
DIMS_LIMIT = 32  # of a shape
SCALE_DTYPES = {
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float32": ("F32", np.dtype(np.float32)),
}
FLOATS = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_SHAPES = 4096  # that are remembered: of a hundred thousand tensors most are of few


class StoredTensor(NamedTuple):
    """One array of a tensor: its name in the module ('' for the tensor's own), dtype as safetensors has it, shape."""

    name: str
    dtype: str
    shape: Shape


def full_name(tensor: str, array: str) -> str:
    """Return the name in a file of an array of a tensor.

    >>> full_name("fc1.weight", "weight_scale"), full_name("fc1.bias", "")
    ('fc1.weight_scale', 'fc1.bias')
    """
    return f"{tensor.removesuffix(WEIGHT)}.{array}" if array else tensor


@dataclass(frozen=True)
class Chunk:
    """Rows `row` to `row + rows` that are in memory together; where `rows` is 1, columns `col` to `col + cols` of it.
    number: of the chunk in its tensor."""

    row: int
    rows: int
    col: int
    cols: int
    number: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        return self.rows * self.cols


class Described(Protocol):
    """A tensor as a plan knows it."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Shape: ...


class Arrays(Protocol):
    """The arrays of one tensor in a file, by their names in the module."""

    def rows(self, name: str, first: int, count: int) -> Array:
        """Return rows of an array of two axes."""

    def array(self, name: str) -> Array:
        """Return a whole array."""

    def values(self, name: str, dtype: Any, first: int, count: int) -> Array:
        """Return `count` values from number `first` on, the bytes of the array seen as so many of this dtype."""

    def info(self, name: str) -> tuple[str, Shape] | None:
        """Return dtype and shape; None for an array that is not there."""


class Encoder(ABC):
    """One tensor on its way into a file, chunk by chunk; chunks may be encoded by several threads at once."""

    @abstractmethod
    def encode(self, x: Any, chunk: Chunk) -> Iterator[tuple[str, int, Array]]:
        """Yield (role, byte in that array, values) of a chunk: codes of it, or weights where the layout has none."""

    def finish(self) -> Iterator[tuple[str, int, Array]]:
        """Yield what belongs to no chunk, when all of them are encoded."""
        return iter(())


class Layout(ABC):
    """The layout of a tensor, as far as reading it goes.

    family: the layout's name in the registry. has_codes: whether `decode` gives a QuantizedTensor. error_array: which
    array a message about wrong bytes names; the tensor itself where there is none of that name.
    """

    family: ClassVar[str]
    @property
    def has_codes(self) -> bool:
        return True

    @property
    def error_array(self) -> str:
        return "weight_scale"

    @property
    @abstractmethod
    def label(self) -> str:
        """For people: "int4 group 32 symmetric"."""

    @property
    @abstractmethod
    def decoded_dtype(self) -> str:
        """The dtype of decoded weights, as safetensors has it."""

    def label_for(self, shape: Shape) -> str:
        """Return the label on a tensor of this shape."""
        return self.label

    @abstractmethod
    def decode(self, arrays: Arrays, first: int, count: int, shape: Shape) -> QuantizedTensor | Array:
        """Return rows `first` to `first + count` of a tensor. ValueError where the arrays hold no such thing."""

    def decode_sparse(self, arrays: Arrays, first: int, count: int, shape: Shape) -> SparseTensor:
        """Return the same rows without their zeros. ValueError for a layout that stores them."""
        raise ValueError(f"a tensor must be stored sparse to have sparse rows, not {self.label_for(shape)}")


class WritableLayout(Layout):
    """A layout that quantrim also writes.

    readers: who opens it, apart from quantrim. bits: of a code; None where weights keep a float dtype. group_size:
    columns that share a scale, so that a row is cut between them only. scale_dtype: a word of numpy's, None where there
    are no scales. note: what people should know of it. counted: whether sizes depend on values: then `encoder` wants
    what `count` says of each chunk.
    """

    readers: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""
    counted: ClassVar[bool] = False

    @property
    def whole_rows(self) -> bool:
        """Whether a row can be encoded as a whole only."""
        return False

    @property
    def stacks(self) -> bool:
        """Whether the arrays of several matrices of one shape, one below the other, are those of the tall matrix, each
        but "shape" in as many equal pieces."""
        return False

    if TYPE_CHECKING:  # at run time a dataclass would take a property for the default of its field

        @property
        def bits(self) -> int | None: ...
        @property
        def group_size(self) -> GroupSize: ...
        @property
        def scale_dtype(self) -> str | None: ...

    @abstractmethod
    def why_not(self, info: Described) -> str | None:
        """Say why a tensor cannot be stored so; None where it can."""

    @abstractmethod
    def stored(self, shape: Shape) -> dict[str, StoredTensor]:
        """Return the arrays that a tensor of this shape is stored as, by role."""

    def count(self, x: Any) -> int:
        """Count the values of a chunk that are kept, where the layout is `counted`."""
        raise NotImplementedError

    def of_size(self, size: int) -> WritableLayout:
        """Return the layout that keeps so many values, where it is `counted`."""
        return self

    @abstractmethod
    def encoder(self, shape: Shape, counts: Sequence[int] = ()) -> Encoder:
        """Return what encodes one tensor of this shape. counts: of each chunk, where the layout is `counted`."""

    def entry(self, shape: Shape) -> dict[str, Any] | None:
        """Return what the metadata of a file says of such a tensor; None where names and shapes say it all."""
        return None


@dataclass(frozen=True)
class Grid:
    """A uniform grid: bits 1..8; group_size: columns that share a scale, or "channel", a row. scale_dtype: "float16",
    "bfloat16" or "float32"."""

    bits: int
    group_size: GroupSize
    symmetric: bool
    scale_dtype: str

    def label_for(self, cols: int | None) -> str:
        """Return the label on a matrix of `cols` columns.

        A group of all of them is its channel, as files do not tell one from the other."""
        if self.group_size == "tensor":
            grouping = "tensor"
        else:
            grouping = "channel" if self.group_size in ("channel", cols) else f"group {self.group_size}"
        return f"int{self.bits} {grouping} {'symmetric' if self.symmetric else 'asymmetric'}"

    def groups(self, cols: int) -> int:
        """Count the scales of a row of `cols` columns, at least one."""
        return 1 if isinstance(self.group_size, str) else cols // columns_per_group(self.group_size, cols)


class LayoutError(ValueError):
    """Arrays that do not fit each other. tensor: the name of the array or tensor that is wrong."""

    def __init__(self, problem: str, tensor: str | None = None, found: object = None) -> None:
        super().__init__(problem)
        self.problem, self.tensor, self.found = problem, tensor, found


class Info(Protocol):
    """An array of a file."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def size(self) -> int: ...


class Catalog(Protocol):
    """The arrays of a file, and what is said of them, for `find` of each layout.

    entries: what the file's metadata says of tensors in quantrim's own layouts. quantization: the
    quantization_config, empty where there is none."""

    @property
    def tensors(self) -> Mapping[str, Info]: ...
    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def quantization(self) -> Mapping[str, Any]: ...
    def read(self, name: str) -> Array: ...
    def json(self, name: str) -> Any:
        """Return what the bytes of an array say as JSON."""


class Found(NamedTuple):
    """A tensor that a layout found: arrays: their names in the module -> in the file."""

    name: str
    layout: Layout
    shape: Shape
    arrays: dict[str, str]


def infos_of(catalog: Catalog, arrays: Mapping[str, str]) -> dict[str, tuple[str, Shape]]:
    """Return dtype and shape of each of these arrays, by name in the module."""
    return {name: (catalog.tensors[full].dtype, catalog.tensors[full].shape) for name, full in arrays.items()}


@lru_cache(_SHAPES)
def stored_in(layout: WritableLayout, shape: Shape) -> dict[str, StoredTensor]:
    """Return `layout.stored(shape)`, remembered; not to be changed."""
    return layout.stored(shape)


def shape_of(entry: Mapping[str, Any], dims: int | None = None) -> Shape:
    """Return the shape that an entry states. dims: how many numbers it must have; None for two or more."""
    shape = entry.get("shape")
    wanted = f"{dims or 'two or more'} integers"
    if not isinstance(shape, list) or not 2 <= len(shape) <= DIMS_LIMIT or dims not in (None, len(shape)):
        raise ValueError(f"shape must be {wanted}, not {shape!r}")
    found = tuple(checks.integer("shape", each, 0, 2**62) for each in shape)
    if math.prod(found) > 2**62:
        raise ValueError(f"shape must be of at most 2**62 elements, not {math.prod(found)}")
    return found


def check_arrays(wanted: Mapping[str, StoredTensor], infos: Infos) -> None:
    """Raise ValueError unless exactly these arrays are there, in their dtypes and shapes."""
    for each in wanted.values():
        if each.name not in infos:
            raise ValueError(f"{each.name} is missing beside {', '.join(sorted(infos)) or 'nothing'}")
        if infos[each.name] != (each.dtype, each.shape):
            dtype, shape = infos[each.name]
            raise ValueError(f"{each.name} must be {each.dtype} of shape {each.shape}, not {dtype} of shape {shape}")
    extra = sorted(set(infos) - {each.name for each in wanted.values()})
    if extra:
        raise ValueError(f"{extra[0]} must not be there beside {', '.join(sorted(s.name for s in wanted.values()))}")


def read_row_offsets(arrays: Arrays, first: int, count: int, rows: int, size: int) -> NDArray[np.int64] | None:
    """Return where each of the rows begins among `size` values, and where the last ends, from `row_offsets`; None where
    that is not non-decreasing from 0 to `size`."""
    end = min(first + count + 1, rows)
    starts = np.append(arrays.values("row_offsets", np.int64, first, end - first), size)[: count + 1]
    rises = starts[0] >= 0 and (first > 0 or starts[0] == 0) and not (starts[1:] < starts[:-1]).any()
    return starts if rises and starts[-1] <= size else None


def decode_scales(scales: Array) -> NDArray[np.float32]:
    """Return scales as float32, of either sign. ValueError where one is NaN or infinite."""
    decoded: NDArray[np.float32] = scales.astype(np.float32)
    bad = ~np.isfinite(decoded)
    if bad.any():
        at = int(bad.reshape(-1).argmax())
        raise ValueError(f"weight_scale must be finite, not {decoded.reshape(-1)[at]} at flat index {at}")
    return decoded
