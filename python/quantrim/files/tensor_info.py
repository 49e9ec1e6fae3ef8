"""What a tensor in a file is: its name, dtype, shape and place, and the byte order of its elements."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..tensor import matrix_shape
from .disk.errors import quote

DIMS_LIMIT = 32  # of numpy before 2.0
BITS_LIMIT = 2**63 - 1  # of one tensor: every product stays a signed 64-bit integer elsewhere

# The words for dtypes, of every format, are those of safetensors: word -> (bits per element, numpy dtype), from the
# lowest rank to the highest, as safetensors orders tensors: high ranks first. Codes narrower than a byte are packed and
# have no numpy dtype: they are read as uint8.
DTYPES: dict[str, tuple[int, np.dtype[Any] | None]] = {
    "BOOL": (8, np.dtype(np.bool_)),
    "F4": (4, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "U8": (8, np.dtype(np.uint8)),
    "I8": (8, np.dtype(np.int8)),
    "F8_E5M2": (8, np.dtype(ml_dtypes.float8_e5m2)),
    "F8_E4M3": (8, np.dtype(ml_dtypes.float8_e4m3fn)),
    "F8_E8M0": (8, np.dtype(ml_dtypes.float8_e8m0fnu)),
    "F8_E4M3FNUZ": (8, np.dtype(ml_dtypes.float8_e4m3fnuz)),
    "F8_E5M2FNUZ": (8, np.dtype(ml_dtypes.float8_e5m2fnuz)),
    "I16": (16, np.dtype(np.int16)),
    "U16": (16, np.dtype(np.uint16)),
    "F16": (16, np.dtype(np.float16)),
    "BF16": (16, np.dtype(ml_dtypes.bfloat16)),
    "I32": (32, np.dtype(np.int32)),
    "U32": (32, np.dtype(np.uint32)),
    "F32": (32, np.dtype(np.float32)),
    "C64": (64, np.dtype(np.complex64)),
    "F64": (64, np.dtype(np.float64)),
    "I64": (64, np.dtype(np.int64)),
    "U64": (64, np.dtype(np.uint64)),
}
WORDS = {dtype: word for word, (_, dtype) in DTYPES.items() if dtype is not None}

METADATA = "__metadata__"  # no tensor's name: where formats keep metadata among the tensors
PROVENANCE = ("quantrim_version", "quantrim_recipe")  # metadata that no reader needs
Entry = tuple[str, str, Sequence[int]]  # of a tensor to be written: name, dtype word, shape


class TensorInfo(NamedTuple):
    """Where a tensor is and what it holds.

    Its elements are `nbytes` bytes in C order, little endian, as its reader gives them. offset: where what the file
    `path` has of it begins there, for messages.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    path: Path

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype; uint8, the packed bytes, where `packed`."""
        dtype = DTYPES[self.dtype][1]
        return np.dtype(np.uint8) if dtype is None else dtype

    @property
    def bits(self) -> int:
        """Bits per element."""
        return DTYPES[self.dtype][0]

    @property
    def packed(self) -> bool:
        """Whether elements are narrower than a byte."""
        return DTYPES[self.dtype][1] is None

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, cols), as `matrix_shape` has it. One dimension is one row."""
        if not self.shape:
            raise ValueError(f"tensor {quote(self.name)} must have a dimension to have rows, not shape ()")
        return matrix_shape(self.shape)


def count_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Count the bytes of a tensor. ValueError where the product is out of range, even if a dimension of 0 makes the
    tensor empty, or where packed codes end inside a byte."""
    bits = DTYPES[dtype][0]
    for dim in shape:
        bits *= dim or 1
        if bits > BITS_LIMIT:
            raise ValueError(f"{dtype} of shape {quote(list(shape))} has more than 2^63-1 bits")
    if 0 in shape:
        return 0
    if bits % 8:
        raise ValueError(f"{dtype} of shape {quote(list(shape))} is {bits} bits, not whole bytes")
    return bits // 8


def are_sizes(value: Any) -> bool:
    """Return whether a value is a list or tuple of integers from 0 to 2^63-1."""
    if not isinstance(value, (list, tuple)):
        return False
    for item in value:  # noqa: SIM110 (all() takes twice as long)
        if type(item) is not int or not 0 <= item < 2**63:  # True is an int too
            return False
    return True


def checked_entries(entries: Iterable[Entry]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return entries that a file can have. ValueError and TypeError for others, and for a name that occurs twice."""
    checked = {}
    for name, dtype, shape in entries:
        if not isinstance(name, str):
            raise TypeError(f"a tensor name must be a str, not {type(name).__name__}")
        if name in checked or name == METADATA:
            raise ValueError(f"tensor name {quote(name)} must be used once and not be {METADATA!r}")
        if dtype not in DTYPES:
            allowed = ", ".join(DTYPES)
            raise ValueError(f"dtype of tensor {quote(name)} must be one of {allowed}, not {quote(dtype)}")
        dims = tuple(map(operator.index, shape))
        if not are_sizes(dims) or len(dims) > DIMS_LIMIT:
            allowed = f"at most {DIMS_LIMIT} integers, 0 to 2^63-1"
            raise ValueError(f"shape of tensor {quote(name)} must be {allowed}, not {quote(list(dims))}")
        checked[name] = name, dtype, dims
    return list(checked.values())


def little_endian(a: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in the byte order of files, C-contiguous."""
    unsigned = np.asarray(a, order="C").view(np.dtype(f"u{a.dtype.itemsize}"))
    return unsigned.astype(unsigned.dtype.newbyteorder("<"), copy=False)


def from_little_endian(data: NDArray[np.uint8], dtype: np.dtype[Any], byteorder: str = sys.byteorder) -> NDArray[Any]:
    """Return the elements in bytes of a file: a view, except where the machine's byte order is the other one."""
    if byteorder == "big":
        width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        data = np.ascontiguousarray(data.reshape(-1, width)[:, ::-1]).reshape(-1)
    return data.view(dtype)
