"""The header of a safetensors file, read strictly and written byte for byte as the format's library does."""

from __future__ import annotations

import json
import operator
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..disk.descriptors import named_path
from ..disk.errors import FormatError, quote
from ..disk.source_file import SourceFile
from ..disk.strict_json import collector_paused, parse
from ..sniff import looks_like, refuse_pickle_suffix
from ..tensor_info import DIMS_LIMIT, DTYPES, METADATA, Entry, TensorInfo, are_sizes, checked_entries, count_bytes

HEADER_LIMIT = 100_000_000  # bytes of JSON, the limit of the format's own library

_RANKS = {name: rank for rank, name in enumerate(DTYPES)}
_FIELDS = ("dtype", "shape", "data_offsets")
_METADATA = f'{{"{METADATA}":'
_SIZE = "(?:0|[1-9][0-9]{0,17})"  # at most 18 digits, so that sums stay below 2^63
_USUAL = re.compile(  # an entry without spaces, escapes or extra fields: name, dtype and shape together, begin, end
    rf'"([^"\\\x00-\x1f]*)":\{{"dtype":"([A-Z0-9_]+","shape":\[(?:{_SIZE}(?:,{_SIZE})*)?)\],'
    rf'"data_offsets":\[({_SIZE}),({_SIZE})\]\}}(?:,(?=")|\Z)'
)
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

Tensors = dict[str, TensorInfo]


# Reading


def read_header(source: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a file, by name in the order of their offsets, and its metadata.

    FormatError for everything that breaks a rule of the format, OSError where the file cannot be read. The tensors of
    an accepted file cover it exactly: no holes, no overlap, no bytes after the last.
    """
    path = named_path(source, "source")
    refuse_pickle_suffix(path)
    file = SourceFile(path)
    try:
        return parse_header(raw_header(file)[8:], file.size, path)
    finally:
        file.close()


def raw_header(file: SourceFile) -> bytearray:
    """Return the first bytes of a file, up to its tensors: the length and the header, as far as these can be right."""
    size, path = file.size, file.path
    if not size:
        raise FormatError("an empty file: file ends at byte 0", path=path)
    if size < 8:
        raise FormatError(f"file ends at byte {size}, the header's length needs 8{looks_like(file)}", path=path)
    length = struct.unpack("<Q", file.read(8, 0))[0]
    if not 2 <= length <= HEADER_LIMIT:
        other = looks_like(file)
        if other:  # that says more than a length which is none
            raise FormatError(f"not safetensors{other}", path=path)
        problem = "not safetensors: the header's length is out of range"
        raise FormatError(problem, path=path, offset=0, found=length, allowed=f"2 to {HEADER_LIMIT} bytes")
    if size > 8 and file.read(1, 8) != b"{":
        problem = f"not safetensors: the header must begin with '{{'{looks_like(file)}"
        raise FormatError(problem, path=path, offset=8)
    if length > size - 8:
        raise FormatError(f"file ends at byte {size}, the header needs {8 + length}", path=path)
    return file.read(8 + length, 0)


def parse_header(header: bytes | bytearray, file_size: int, path: Path) -> tuple[Tensors, dict[str, str]]:
    """Check a header (the JSON alone) against the size of its file, in bytes."""
    with collector_paused():
        return _parse_usual(header, file_size, path) or _parse_any(header, file_size, path)


def _parse_any(header: bytes | bytearray, file_size: int, path: Path) -> tuple[Tensors, dict[str, str]]:
    entries = parse(header, path, "the header", offset=8)
    metadata = _checked_metadata(entries.pop(METADATA, {}), path)
    data_begin = 8 + len(header)
    tensors = [_checked_tensor(name, entry, data_begin, path) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_cover(tensors, data_begin, file_size, path)
    return {tensor.name: tensor for tensor in tensors}, metadata


def _parse_usual(header: bytes | bytearray, file_size: int, path: Path) -> tuple[Tensors, dict[str, str]] | None:
    """Read a header as the library writes it in a third of the time: some files hold 10^6 tensors.

    None for one that is written in any other way or breaks a rule, so that it is read with care.
    """
    try:
        text, metadata, begin = header.decode("utf-8").rstrip(" "), {}, 1
        if text.startswith(_METADATA):
            _, end = json.JSONDecoder().raw_decode(text, len(_METADATA))
            metadata = _checked_metadata(parse(text[len(_METADATA) : end].encode(), path, ""), path)
            if text[end : end + 2] not in ("}", ',"'):
                return None
            begin = min(end + 1, len(text) - 1)
        parts = _USUAL.split(text[begin:-1])  # what is between two entries, and the groups of the next, in turn
        names, kinds, begins, ends = (parts[k::5] for k in range(1, 5))
        shapes = {kind: tuple(map(int, filter(None, kind[kind.index("[") + 1 :].split(",")))) for kind in set(kinds)}
        known = {kind: (kind[: kind.index('"')], shape) for kind, shape in shapes.items()}
        sizes = {kind: count_bytes(*each) for kind, each in known.items()}
    except (KeyError, RecursionError, ValueError):
        return None
    *offsets, end = accumulate(map(sizes.__getitem__, kinds), initial=8 + len(header))
    rows = (
        TensorInfo(name, *known[kind], offset, sizes[kind], path)
        for name, kind, offset in zip(names, kinds, offsets, strict=True)
    )
    tensors = {t.name: t for t in rows}
    right = (
        (text[:1], text[-1:]) == ("{", "}")
        and not any(parts[::5])
        and begins == ["0", *ends][: len(begins)]
        and list(map(int, ends)) == [at - 8 - len(header) for at in (*offsets[1:], end)][: len(ends)]
        and end == file_size
        and len(tensors) == len(names)
        and METADATA not in tensors
        and all(len(shape) <= DIMS_LIMIT for shape in shapes.values())
    )
    return (tensors, metadata) if right else None


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
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        right = dtype in DTYPES and are_sizes(shape) and len(shape) <= DIMS_LIMIT and are_sizes([begin, end])
    except (KeyError, TypeError, ValueError):
        right = False
    if not right or begin > end:
        raise _entry_error(name, entry, path)
    if len(entry) > len(_FIELDS):
        _check_extras(name, entry, path)
    try:
        nbytes = count_bytes(dtype, shape)
    except ValueError as error:
        raise FormatError(str(error), path=path, tensor=name) from None
    if nbytes != end - begin:
        problem = f"{dtype} of shape {quote(shape)} is {nbytes} bytes, data_offsets give {end - begin}"
        raise FormatError(problem, path=path, tensor=name, offset=data_begin + begin)
    return TensorInfo(name, dtype, tuple(shape), data_begin + begin, nbytes, path)


def _entry_error(name: str, entry: Any, path: Path) -> FormatError:
    """Say what is wrong with an entry."""
    if not isinstance(entry, dict):
        return FormatError("a tensor must be an object", path=path, tensor=name, found=entry)
    for field in _FIELDS:
        if field not in entry:
            return FormatError(f"{field} is missing", path=path, tensor=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return FormatError("unknown dtype", path=path, tensor=name, found=dtype, allowed=", ".join(DTYPES))
    if not are_sizes(shape) or len(shape) > DIMS_LIMIT:
        allowed = f"a list of at most {DIMS_LIMIT} integers, 0 to 2^63-1"
        return FormatError("bad shape", path=path, tensor=name, found=shape, allowed=allowed)
    allowed = "[begin, end], integers, 0 <= begin <= end < 2^63"
    return FormatError("bad data_offsets", path=path, tensor=name, found=offsets, allowed=allowed)


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
    entries: Iterable[Entry], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the header of a file that holds `entries` (name, dtype, shape), with its 8 length bytes, and where each
    tensor's bytes go: name -> (begin, end), counted from the end of the header, in file order.

    The order is the library's: wide dtypes first, then by name, so that every tensor is aligned. Metadata is sorted by
    key. ValueError for what no reader would accept.
    """
    header = bytearray(8)  # piece by piece: a document of all tensors would take ten times the room
    header += b"{"
    offsets: dict[str, tuple[int, int]] = {}
    cursor = 0
    kinds: dict[tuple[str, tuple[int, ...]], tuple[str, int]] = {}  # what many tensors have in common
    ordered = checked_entries(entries)
    ordered.sort(key=operator.itemgetter(0))
    ordered.sort(key=lambda entry: -_RANKS[entry[1]])
    try:
        if metadata is not None:
            checked = _checked_metadata({key: metadata[key] for key in sorted(metadata)}, Path("<new file>"))
            header += f'"__metadata__":{_JSON.encode(checked)},'.encode()
        for name, dtype, shape in ordered:
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
