"""The safetensors format: its header, read strictly and written byte for byte as its library does."""

from __future__ import annotations

import json
import math
import operator
import os
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from ..tensor import matrix_shape
from . import strict_json, usual_header
from .descriptors import kind_of, named_path, open_regular, read_exactly
from .errors import FormatError, quote
from .sniff import looks_like, refuse_pickle_suffix

HEADER_LIMIT = 100_000_000  # bytes of JSON, the limit of the format's own library
DIMS_LIMIT = 32  # of numpy before 2.0
BITS_LIMIT = 2**63 - 1  # of one tensor: every product stays a signed 64-bit integer elsewhere

# name -> (bits per element, numpy dtype), from the lowest rank to the highest: files hold high ranks first.
# Codes narrower than a byte are packed and have no numpy dtype: they are read as uint8.
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
_RANKS = {name: rank for rank, name in enumerate(DTYPES)}
_FIELDS = ("dtype", "shape", "data_offsets")
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class TensorInfo(NamedTuple):
    """Where a tensor is and what it holds: `nbytes` bytes at `offset` of the file `path`, C order, little
    endian."""

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
    """Bytes of a tensor. ValueError where the product is out of range, even if a dimension of 0 makes the
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


# Reading


def read_header(source: str | os.PathLike[str] | BinaryIO) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors of a file, by name in the order of their offsets, and its metadata.

    FormatError for everything that breaks a rule of the format, OSError where the file cannot be read. The
    tensors of an accepted file cover it exactly: no holes, no overlap, no bytes after the last."""
    if isinstance(source, (str, os.PathLike)):
        path = named_path(source, "source")
        refuse_pickle_suffix(path)
        fd = open_regular(path)
        try:
            return header_of_descriptor(fd, path)
        finally:
            os.close(fd)
    name = getattr(source, "name", None)
    return header_of_descriptor(source.fileno(), Path(name if isinstance(name, str) else "<file>"))


def raw_header(path: Path) -> bytearray:
    """The first bytes of a file that `read_header` accepts, up to its tensors: length and header."""
    fd = open_regular(path)
    try:
        length = struct.unpack("<Q", read_exactly(fd, 8, 0, path))[0]
        if length > HEADER_LIMIT:
            raise FormatError("header's length is out of range", path=path, offset=0, found=length)
        return read_exactly(fd, 8 + length, 0, path)
    finally:
        os.close(fd)


def header_of_descriptor(fd: int, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """read_header of an open file; `path` is for messages and for the TensorInfos."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"must be a regular file, not {kind_of(status.st_mode)}", path=path)
    size = status.st_size
    if not size:
        raise FormatError("an empty file: file ends at byte 0", path=path)
    if size < 8:
        problem = f"file ends at byte {size}, the header's length needs 8{looks_like(fd, size, path)}"
        raise FormatError(problem, path=path)
    length = struct.unpack("<Q", read_exactly(fd, 8, 0, path))[0]
    if not 2 <= length <= HEADER_LIMIT:
        other = looks_like(fd, size, path)
        if other:  # that says more than a length which is none
            raise FormatError(f"not safetensors{other}", path=path)
        problem = "not safetensors: the header's length is out of range"
        raise FormatError(problem, path=path, offset=0, found=length, allowed=f"2 to {HEADER_LIMIT} bytes")
    if os.pread(fd, 1, 8) not in (b"{", b""):
        problem = f"not safetensors: the header must begin with '{{'{looks_like(fd, size, path)}"
        raise FormatError(problem, path=path, offset=8)
    if length > size - 8:
        raise FormatError(f"file ends at byte {size}, the header needs {8 + length}", path=path)
    return parse_header(read_exactly(fd, length, 8, path), size, path)


def parse_header(header: bytes | bytearray, file_size: int, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Check a header (the JSON alone) against the size of its file, in bytes."""
    with usual_header.collector_paused():
        return _parse_usual(header, file_size, path) or _parse_any(header, file_size, path)


def _parse_usual(
    header: bytes | bytearray, file_size: int, path: Path
) -> tuple[dict[str, TensorInfo], dict[str, str]] | None:
    """What `_parse_any` gives, fast; None for what it refuses and for headers that are written unusually."""
    try:
        found = usual_header.read(header.decode("utf-8"), count_bytes)
        if found is None:
            return None
        metadata = _checked_metadata(strict_json.parse(found.metadata.encode("utf-8"), path, "the header"), path)
    except ValueError:
        return None
    *offsets, end = accumulate(found.sizes, initial=8 + len(header))
    rows = map(TensorInfo, found.names, found.dtypes, found.shapes, offsets, found.sizes, repeat(path))
    tensors = dict(zip(found.names, rows, strict=True))
    usual = end == file_size and len(tensors) == len(found.names) and "__metadata__" not in tensors
    return (tensors, metadata) if usual and max(map(len, found.shapes), default=0) <= DIMS_LIMIT else None


def _parse_any(header: bytes | bytearray, file_size: int, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    entries = strict_json.parse(header, path, "the header", offset=8)
    metadata = _checked_metadata(entries.pop("__metadata__", {}), path)
    data_begin = 8 + len(header)
    tensors = [_checked_tensor(name, entry, data_begin, path) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_cover(tensors, data_begin, file_size, path)
    return {tensor.name: tensor for tensor in tensors}, metadata


def _checked_metadata(metadata: Any, path: Path) -> dict[str, str]:
    if metadata is None:  # null: to the format's library an option that is not there
        return {}
    if not isinstance(metadata, dict):
        raise FormatError("__metadata__ must be an object", path=path, found=metadata)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise FormatError(f"__metadata__ {quote(key)} must be a string", path=path, found=value)
    return dict(metadata)


def _checked_tensor(name: str, entry: Any, data_begin: int, path: Path) -> TensorInfo:
    if not isinstance(entry, dict):
        raise FormatError("a tensor must be an object", path=path, tensor=name, found=entry)
    for field in _FIELDS:
        if field not in entry:
            raise FormatError(f"{field} is missing", path=path, tensor=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError("unknown dtype", path=path, tensor=name, found=dtype, allowed=", ".join(DTYPES))
    if not _are_sizes(shape) or len(shape) > DIMS_LIMIT:
        allowed = f"a list of at most {DIMS_LIMIT} integers, 0 to 2^63-1"
        raise FormatError("bad shape", path=path, tensor=name, found=shape, allowed=allowed)
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        allowed = "[begin, end], integers, 0 <= begin <= end < 2^63"
        raise FormatError("bad data_offsets", path=path, tensor=name, found=offsets, allowed=allowed)
    if len(entry) > len(_FIELDS):
        _check_extras(name, entry, path)
    begin, end = offsets
    try:
        nbytes = count_bytes(dtype, shape)
    except ValueError as error:
        raise FormatError(str(error), path=path, tensor=name) from None
    if nbytes != end - begin:
        problem = f"{dtype} of shape {quote(shape)} is {nbytes} bytes, data_offsets give {end - begin}"
        raise FormatError(problem, path=path, tensor=name, offset=data_begin + begin)
    return TensorInfo(name, dtype, tuple(shape), data_begin + begin, nbytes, path)


def _are_sizes(value: Any) -> bool:
    """A list of integers from 0 to 2^63-1. The type is compared because True is an int too."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_extras(name: str, entry: dict[str, Any], path: Path) -> None:
    """Fields the format does not know are ignored, as its library does, where they are plain: what nests
    could nest without end."""
    for key, value in entry.items():
        if key not in _FIELDS and isinstance(value, (dict, list)):
            raise FormatError(f"unknown field {quote(key)} must not nest", path=path, tensor=name)


def _check_cover(tensors: Sequence[TensorInfo], data_begin: int, file_size: int, path: Path) -> None:
    cursor = data_begin
    previous = ""
    for tensor in tensors:
        end = tensor.offset + tensor.nbytes
        if tensor.offset < cursor:
            problem = f"overlaps tensor {quote(previous)}, which ends at byte {cursor}"
            raise FormatError(problem, path=path, tensor=tensor.name, offset=tensor.offset)
        if end > file_size:
            problem = f"file ends at byte {file_size}, the tensor needs byte {end}"
            raise FormatError(problem, path=path, tensor=tensor.name, offset=tensor.offset)
        if tensor.offset > cursor:
            problem = f"a hole: bytes {cursor} to {tensor.offset} belong to no tensor"
            raise FormatError(problem, path=path, tensor=tensor.name, offset=tensor.offset)
        cursor, previous = end, tensor.name
    if cursor != file_size:
        raise FormatError(f"{file_size - cursor} bytes follow the last tensor", path=path, offset=cursor)


# Writing


def encode_header(
    entries: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The header of a file that holds `entries` (name, dtype, shape), with its 8 length bytes, and where each
    tensor's bytes go: name -> (begin, end), counted from the end of the header, in file order.

    The order is the library's: wide dtypes first, then by name, so that every tensor is aligned. Metadata is
    sorted by key. ValueError for what no reader would accept."""
    header = bytearray(8)  # piece by piece: a document of all tensors would take ten times the room
    header += b"{"
    offsets: dict[str, tuple[int, int]] = {}
    cursor = 0
    kinds: dict[tuple[str, tuple[int, ...]], tuple[str, int]] = {}  # what many tensors have in common
    ordered = _checked_entries(entries)
    ordered.sort(key=operator.itemgetter(0))
    ordered.sort(key=lambda entry: -_RANKS[entry[1]])
    try:
        if metadata is not None:
            checked = _checked_metadata({key: metadata[key] for key in sorted(metadata)}, Path("<new file>"))
            header += f'"__metadata__":{_JSON.encode(checked)},'.encode()
        for name, dtype, shape in ordered:
            if name in offsets or name == "__metadata__":
                raise ValueError(f"tensor name {quote(name)} must be used once and not be '__metadata__'")
            if (dtype, shape) not in kinds:
                text = f'{{"dtype":"{dtype}","shape":{_JSON.encode(shape)},"data_offsets":['
                kinds[dtype, shape] = text, count_bytes(dtype, shape)
            text, nbytes = kinds[dtype, shape]
            end = cursor + nbytes
            header += f"{_JSON.encode(name)}:{text}{cursor},{end}]}},".encode()
            offsets[name] = (cursor, end)
            cursor = end
    except UnicodeEncodeError as error:
        found = quote(error.object[error.start : error.end])
        raise ValueError(f"names and metadata must be text that UTF-8 can hold, not {found}") from None
    if header.endswith(b","):
        del header[-1]
    header += b"}"
    header += b" " * (-len(header) % 8)
    length = len(header) - 8
    if length > HEADER_LIMIT:
        raise ValueError(f"the header must be at most {HEADER_LIMIT} bytes, not {length}: use shards")
    header[:8] = struct.pack("<Q", length)
    return bytes(header), offsets


def _checked_entries(entries: Iterable[tuple[str, str, Sequence[int]]]) -> list[tuple[str, str, tuple[int, ...]]]:
    """The entries, if a header can have them. Shapes that many have in common are looked at once."""
    known: dict[int, tuple[Sequence[int], tuple[int, ...]]] = {}  # by id, as 1.0 equals 1
    checked = []
    for name, dtype, shape in entries:
        if id(shape) not in known or not isinstance(name, str) or dtype not in DTYPES:
            known[id(shape)] = shape, _checked_entry(name, dtype, shape)
        checked.append((name, dtype, known[id(shape)][1]))
    return checked


def _checked_entry(name: str, dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of an entry, if a header can have it."""
    if not isinstance(name, str):
        raise TypeError(f"a tensor name must be a str, not {type(name).__name__}")
    if dtype not in DTYPES:
        allowed = ", ".join(DTYPES)
        raise ValueError(f"dtype of tensor {quote(name)} must be one of {allowed}, not {quote(dtype)}")
    dims = [operator.index(dim) for dim in shape]
    if not _are_sizes(dims) or len(dims) > DIMS_LIMIT:
        allowed = f"at most {DIMS_LIMIT} integers, 0 to 2^63-1"
        raise ValueError(f"shape of tensor {quote(name)} must be {allowed}, not {quote(dims)}")
    return tuple(dims)
