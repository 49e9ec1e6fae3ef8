"""A file of byte planes that stands for another file: what it says of the original, and the original's bytes out of it.

It is a safetensors file. Its metadata are those of the original and KEY, which holds as JSON

    version 1, size and sha256 of the original file, header_bytes (with the length before it), chunk_bytes

and its tensors, in this order:

    quantrim.header   U8, the original's length and header in one zstandard frame
    each tensor       in the original's order: as it was, or, where it shrank, as "<name>.byte_planes", U8
    quantrim.chunks   U32, of each chunk of each tensor the CRC-32 of its bytes and the stored bytes of each plane

A chunk is `chunk_bytes` of a tensor, the last one fewer; `planes` says what it is stored as. So any part
of a tensor is read without the rest, and every byte that is read is checked.
"""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..base import Reader
from ..disk.errors import FormatError, quote
from ..disk.strict_json import parse
from ..safetensors.header import HEADER_LIMIT, parse_header
from ..tensor_info import TensorInfo
from .planes import Coder, Coders, checksum, is_kept, plane_count

KEY = "quantrim.lossless"
LISTING = "quantrim-lossless.index.json"  # in a folder: what other files the original had
HEADER = "quantrim.header"
TABLE = "quantrim.chunks"
SUFFIX = ".byte_planes"
VERSION = 1
CHUNK_LIMIT = 16 << 20  # bytes of a chunk: what a reader must have room for
_RANGES = {
    "version": (1, VERSION),
    "size": (8, 2**63 - 1),
    "header_bytes": (10, 8 + HEADER_LIMIT),
    "chunk_bytes": (8, CHUNK_LIMIT),
}

Entry = tuple[str, str, Sequence[int], int]  # name, dtype, shape, bytes


def pieces(nbytes: int, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of each chunk of a tensor."""
    for first in range(0, nbytes, chunk_bytes):
        yield first, min(chunk_bytes, nbytes - first)


def numbers_of(tensor: TensorInfo, chunk_bytes: int) -> int:
    """How many numbers the table has for a tensor."""
    return -(-tensor.nbytes // chunk_bytes) * (1 + plane_count(tensor.numpy_dtype))


# Writing: sizes are known at the end only, so the header gets room for the longest that it may become


def planes_entry(tensor: TensorInfo, nbytes: int) -> Entry:
    return tensor.name + SUFFIX, "U8", [nbytes], nbytes


def kept_entry(tensor: TensorInfo) -> Entry:
    return tensor.name, tensor.dtype, tensor.shape, tensor.nbytes


def check_names(tensors: Iterable[str], path: Path) -> None:
    """ValueError for a tensor whose name a lossless file needs for itself."""
    for name in tensors:
        if name in (HEADER, TABLE) or name.endswith(SUFFIX):
            said = f"a tensor name must not be {HEADER!r} or {TABLE!r} or end in {SUFFIX!r}"
            raise ValueError(f"{quote(path)}: {said} to be stored as byte planes, not {quote(name)}")


def metadata_of(original: Mapping[str, str], **said: Any) -> dict[str, str]:
    return {**original, KEY: json.dumps({"version": VERSION, **said}, separators=(",", ":"))}


def room_for(tensors: Iterable[TensorInfo], others: Sequence[Entry], metadata: Mapping[str, str], limit: int) -> int:
    """Bytes that the JSON of any lossless file of these tensors fits, where its data are at most `limit` bytes."""
    longest = [max((kept_entry(t), planes_entry(t, t.nbytes)), key=_length) for t in tensors]
    ends = [(name, dtype, shape, limit) for name, dtype, shape, _ in (*longest, *others)]
    size = len(_json([(entry, (limit, limit)) for entry in ends], metadata))
    if size > HEADER_LIMIT - 8:
        raise ValueError(f"the header must be at most {HEADER_LIMIT} bytes, not {size}: use shards")
    return size + -size % 8


def encode_head(entries: Iterable[Entry], metadata: Mapping[str, str], room: int) -> bytes:
    """Length and header, with spaces up to `room` bytes of JSON; data follow each other in the order of `entries`."""
    placed, cursor = [], 0
    for entry in entries:
        placed.append((entry, (cursor, cursor + entry[3])))
        cursor += entry[3]
    return struct.pack("<Q", room) + _json(placed, metadata).ljust(room)


def _length(entry: Entry) -> int:
    return len(_json([(entry, (0, 0))], {}))


def _json(placed: Iterable[tuple[Entry, tuple[int, int]]], metadata: Mapping[str, str]) -> bytes:
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    for (name, dtype, shape, _), place in placed:
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


# Reading


class Planes(NamedTuple):
    """How a tensor of the original is kept. shrank: whether any of its chunks did. chunks: of each the checksum and the
    bytes of its planes. starts: of each chunk in the file, and the end of the last."""

    shrank: bool
    chunks: list[list[int]]
    starts: list[int]


class Original:
    """The file that one of byte planes stands for: a Reader of that file's tensors.

    container: the reader of the file of planes. size, sha256: of the original. FormatError where the file contradicts
    itself; nothing is allocated that its own size does not bound, the header apart, which has a limit. ValueError where
    zstandard is not installed.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, container: Reader) -> None:
        path, tensors, metadata = container.path, container.tensors, container.metadata
        said = _checked(metadata[KEY], path)
        self.path = path
        self.size: int = said["size"]
        self.sha256: str = said["sha256"]
        self.chunk_bytes: int = said["chunk_bytes"]
        self._container = container
        self._coders = Coders()
        self._last = threading.local()
        self._header = _header(container, said["header_bytes"])
        try:
            infos, self.metadata = parse_header(self._header[8:], self.size, path)
        except FormatError as error:
            raise FormatError(f"the header of the original is wrong: {error}", path=path, tensor=HEADER) from None
        if {**self.metadata, KEY: metadata[KEY]} != metadata:
            raise FormatError("__metadata__ must be that of the original", path=path)
        numbers = _numbers(container, sum(numbers_of(t, self.chunk_bytes) for t in infos.values()))
        rest = {name: t for name, t in tensors.items() if name not in (HEADER, TABLE)}
        self.tensors: dict[str, TensorInfo] = {}
        self._blobs: dict[str, TensorInfo] = {}
        self._planes: dict[str, Planes] = {}
        for name, info in infos.items():
            self._blobs[name], self._planes[name] = _planes(info, numbers, self.chunk_bytes, rest, path)
            self.tensors[name] = info._replace(offset=self._blobs[name].offset, path=path)
        for name in rest:
            raise FormatError("is no tensor of the original", path=path, tensor=name)

    def header(self) -> bytes:
        """Return the first bytes of the original, up to its tensors."""
        return self._header

    def storage_of(self, name: str) -> tuple[str, int]:
        blob, planes = self._blobs[name], self._planes[name]
        return f"{self.tensors[name].dtype} as byte planes" if planes.shrank else blob.dtype, blob.nbytes

    def check_unchanged(self) -> None:
        self._container.check_unchanged()

    def close(self) -> None:
        self._container.close()

    def read_into(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        done, step = 0, self.chunk_bytes
        while done < len(view):
            number, skip = divmod(start + done, step)
            data = self._chunk(tensor.name, number)
            count = min(len(view) - done, data.size - skip)
            view[done : done + count] = data[skip : skip + count].data
            done += count

    def _chunk(self, name: str, number: int) -> NDArray[np.uint8]:
        """Return a chunk of a tensor; the last one of each thread is kept, since rows rarely end where chunks do."""
        if getattr(self._last, "key", None) == (name, number):
            held: NDArray[np.uint8] = self._last.data
            return held
        info, blob, planes = self.tensors[name], self._blobs[name], self._planes[name]
        begin, end = planes.starts[number : number + 2]
        nbytes = min(self.chunk_bytes, info.nbytes - number * self.chunk_bytes)
        raw = np.empty(end - begin, np.uint8)
        self._container.read_into(blob, raw.data, begin - blob.offset)
        crc, *sizes = planes.chunks[number]
        try:
            data = self._coders.coder.decode(raw, sizes, nbytes, info.numpy_dtype)
        except ValueError as error:
            raise FormatError(str(error), path=self.path, tensor=name, offset=begin) from None
        if checksum(data) != crc:
            problem = f"CRC-32 mismatch in chunk {number}: expected {crc:#010x}, found {checksum(data):#010x}"
            raise FormatError(problem, path=self.path, tensor=name, offset=begin)
        self._last.key, self._last.data = (name, number), data
        return data


def original_of(reader: Reader) -> Original | None:
    """Return a reader of byte planes as what it is; None for any other."""
    return reader if isinstance(reader, Original) else None


def _checked(text: str, path: Path) -> dict[str, Any]:
    """What KEY says."""
    said = parse(text.encode("utf-8", "surrogatepass"), path, f"__metadata__ {KEY!r}")
    if not isinstance(said, dict):
        raise FormatError(f"__metadata__ {KEY!r} must be an object", path=path, found=said)
    for name, (low, high) in _RANGES.items():
        value = said.get(name)
        if type(value) is not int or not low <= value <= high or (name == "chunk_bytes" and value % 8):
            allowed = f"an integer of {low} to {high}" + (", a multiple of 8" if name == "chunk_bytes" else "")
            raise FormatError(f"bad {name} in __metadata__ {KEY!r}", path=path, found=value, allowed=allowed)
    digest = said.get("sha256")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        allowed = "64 hexadecimal digits"
        raise FormatError(f"bad sha256 in __metadata__ {KEY!r}", path=path, found=digest, allowed=allowed)
    return said


def _header(container: Reader, count: int) -> bytes:
    blob, frame = _blob(container, HEADER, "U8")
    coder = Coder()
    try:
        header = coder.decompress(bytes(frame), count)
    except ValueError as error:
        raise FormatError(str(error), path=blob.path, tensor=HEADER, offset=blob.offset) from None
    if header[:9] != struct.pack("<Qc", count - 8, b"{"):
        problem = "must begin with its length and '{'"
        raise FormatError(problem, path=blob.path, tensor=HEADER, offset=blob.offset, found=header[:9])
    return header


def _numbers(container: Reader, count: int) -> Iterator[int]:
    found, data = _blob(container, TABLE, "U32")
    if found.shape != (count,):
        problem = f"must hold {count} numbers for the tensors of the original, not {found.shape[0]}"
        raise FormatError(problem, path=found.path, tensor=TABLE, offset=found.offset)
    return iter(np.frombuffer(data, "<u4").tolist())


def _blob(container: Reader, name: str, dtype: str) -> tuple[TensorInfo, bytearray]:
    """Return a tensor of one dimension that must be there, and its bytes."""
    found = container.tensors.get(name)
    if found is None or found.dtype != dtype or len(found.shape) != 1:
        what = None if found is None else f"{found.dtype} {list(found.shape)}"
        allowed = f"{dtype} of one dimension"
        raise FormatError("must be there", path=container.path, tensor=name, found=what, allowed=allowed)
    data = bytearray(found.nbytes)
    container.read_into(found, memoryview(data), 0)
    return found, data


def _planes(
    info: TensorInfo, numbers: Iterator[int], chunk_bytes: int, rest: dict[str, TensorInfo], path: Path
) -> tuple[TensorInfo, Planes]:
    """Return what stands for a tensor of the original, taken from `rest`, and how; its numbers are taken, too."""
    width = plane_count(info.numpy_dtype)
    chunks, starts, shrank = [], [0], False
    for first, nbytes in pieces(info.nbytes, chunk_bytes):
        _, *sizes = chunk = [next(numbers) for _ in range(1 + width)]
        for size in sizes:
            if not 0 < size <= nbytes // width:
                problem = f"a plane of the chunk at its byte {first} must be of 1 to {nbytes // width} bytes"
                raise FormatError(problem, path=path, tensor=info.name, found=size)
        chunks.append(chunk)
        starts.append(starts[-1] + sum(sizes))
        shrank |= not is_kept(sizes, nbytes)
    name, dtype, shape, nbytes = planes_entry(info, starts[-1]) if shrank else kept_entry(info)
    found = rest.pop(name, None)
    if found is None or (found.dtype, found.shape, found.nbytes) != (dtype, tuple(shape), nbytes):
        what = None if found is None else f"{found.dtype} {list(found.shape)}"
        problem = "must be there for a tensor of the original"
        raise FormatError(problem, path=path, tensor=name, found=what, allowed=f"{dtype} {list(shape)}")
    return found, Planes(shrank, chunks, [found.offset + start for start in starts])
