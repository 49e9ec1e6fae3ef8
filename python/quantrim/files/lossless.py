"""A file of byte planes that stands for another file: what it says of the original, and the original's bytes out of it.

It is a safetensors file. Its metadata are those of the original and KEY, which holds as JSON

    version 1, size and sha256 of the original file, header_bytes (with the length before it), chunk_bytes

and its tensors, in this order:

    quantrim.header   U8, the original's length and header in one zstandard frame
    each tensor       in the original's order: as it was, or, where it shrank, as "<name>.byte_planes", U8
    quantrim.chunks   U32, of each chunk of each tensor the CRC-32 of its bytes and the stored bytes of each plane

A chunk is `chunk_bytes` of a tensor, the last one fewer; `layouts.byte_planes` says what it is stored as. So any part
of a tensor is read without the rest, and every byte that is read is checked.
"""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layouts.byte_planes import Coder, Coders, checksum, is_kept, plane_count
from . import strict_json
from .descriptors import read_exactly
from .errors import FormatError, quote
from .safetensors import HEADER_LIMIT, TensorInfo, parse_header

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
Read = Callable[[memoryview, int, str], None]  # fills bytes from an offset of the file, for a tensor


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


@dataclass(frozen=True)
class Stored:
    """A tensor of the original. info: its `offset` is in the lossless file. chunks: of each the checksum and the bytes
    of its planes. starts: of each chunk in the file, and the end of the last."""

    info: TensorInfo
    planes: bool
    chunks: list[list[int]]
    starts: list[int]

    @property
    def nbytes(self) -> int:
        return self.starts[-1] - self.starts[0]

    @property
    def label(self) -> str:
        return f"{self.info.dtype} as byte planes" if self.planes else self.info.dtype


class Original:
    """The file that a lossless one stands for. header: its first bytes, up to its data. Threads may read at once."""

    def __init__(self, path: Path, header: bytes, said: Mapping[str, Any], metadata: dict[str, str]) -> None:
        self.path, self.header, self.metadata = path, header, metadata
        self.size: int = said["size"]
        self.sha256: str = said["sha256"]
        self.chunk_bytes: int = said["chunk_bytes"]
        self.stored: dict[str, Stored] = {}
        self._coders = Coders()
        self._last = threading.local()

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: stored.info for name, stored in self.stored.items()}

    def read(self, read: Read, name: str, view: memoryview, start: int) -> None:
        """Fill `view` with a tensor's bytes from `start` on. FormatError where what is stored is not what was."""
        done, step = 0, self.chunk_bytes
        while done < len(view):
            number, skip = divmod(start + done, step)
            data = self._chunk(read, name, number)
            count = min(len(view) - done, data.size - skip)
            view[done : done + count] = data[skip : skip + count].data
            done += count

    def _chunk(self, read: Read, name: str, number: int) -> NDArray[np.uint8]:
        """A chunk of a tensor; the last one of each thread is kept, since rows rarely end where chunks do."""
        if getattr(self._last, "key", None) == (name, number):
            held: NDArray[np.uint8] = self._last.data
            return held
        stored = self.stored[name]
        begin, end = stored.starts[number : number + 2]
        nbytes = min(self.chunk_bytes, stored.info.nbytes - number * self.chunk_bytes)
        raw = np.empty(end - begin, np.uint8)
        read(raw.data, begin, name)
        crc, *sizes = stored.chunks[number]
        try:
            data = self._coders.coder.decode(raw, sizes, nbytes, stored.info.numpy_dtype)
        except ValueError as error:
            raise FormatError(str(error), path=self.path, tensor=name, offset=begin) from None
        if checksum(data) != crc:
            problem = f"the CRC-32 of chunk {number} is {checksum(data):#010x}, it was {crc:#010x}"
            raise FormatError(problem, path=self.path, tensor=name, offset=begin)
        self._last.key, self._last.data = (name, number), data
        return data


def read_original(
    fd: int, path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> Original | None:
    """The original of a file with these tensors and metadata; None where it is no lossless file.

    FormatError where the file contradicts itself; nothing is allocated that the file's own size does not bound, the
    header apart, which has a limit. ValueError where zstandard is not installed.
    """
    if KEY not in metadata:
        return None
    said = _checked(metadata[KEY], path)
    header = _header(fd, path, tensors, said["header_bytes"])
    try:
        infos, kept = parse_header(header[8:], said["size"], path)
    except FormatError as error:
        raise FormatError(f"the header of the original is wrong: {error}", path=path, tensor=HEADER) from None
    if {**kept, KEY: metadata[KEY]} != metadata:
        raise FormatError("__metadata__ must be that of the original", path=path)
    original = Original(path, header, said, kept)
    numbers = _numbers(fd, path, tensors, sum(numbers_of(t, original.chunk_bytes) for t in infos.values()))
    rest = {name: t for name, t in tensors.items() if name not in (HEADER, TABLE)}
    for name, info in infos.items():
        original.stored[name] = _stored(info, numbers, original.chunk_bytes, rest, path)
    for name in rest:
        raise FormatError("is no tensor of the original", path=path, tensor=name)
    return original


def _checked(text: str, path: Path) -> dict[str, Any]:
    """What KEY says."""
    said = strict_json.parse(text.encode("utf-8", "surrogatepass"), path, f"__metadata__ {KEY!r}")
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


def _blob(tensors: Mapping[str, TensorInfo], name: str, dtype: str, path: Path) -> TensorInfo:
    found = tensors.get(name)
    if found is None or found.dtype != dtype or len(found.shape) != 1:
        what = None if found is None else f"{found.dtype} {list(found.shape)}"
        raise FormatError("must be there", path=path, tensor=name, found=what, allowed=f"{dtype} of one dimension")
    return found


def _header(fd: int, path: Path, tensors: Mapping[str, TensorInfo], count: int) -> bytes:
    blob = _blob(tensors, HEADER, "U8", path)
    frame = bytes(read_exactly(fd, blob.nbytes, blob.offset, path))
    coder = Coder()
    try:
        header = coder.decompress(frame, count)
    except ValueError as error:
        raise FormatError(str(error), path=path, tensor=HEADER, offset=blob.offset) from None
    if header[:9] != struct.pack("<Qc", count - 8, b"{"):
        problem = "must begin with its length and '{'"
        raise FormatError(problem, path=path, tensor=HEADER, offset=blob.offset, found=header[:9])
    return header


def _numbers(fd: int, path: Path, tensors: Mapping[str, TensorInfo], count: int) -> Iterator[int]:
    blob = _blob(tensors, TABLE, "U32", path)
    if blob.shape[0] != count:
        problem = f"must hold {count} numbers for the tensors of the original, not {blob.shape[0]}"
        raise FormatError(problem, path=path, tensor=TABLE, offset=blob.offset)
    return iter(np.frombuffer(read_exactly(fd, blob.nbytes, blob.offset, path), "<u4").tolist())


def _stored(
    info: TensorInfo, numbers: Iterator[int], chunk_bytes: int, rest: dict[str, TensorInfo], path: Path
) -> Stored:
    """A tensor of the original with its chunks, whose numbers are taken; what stands for it is taken from `rest`."""
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
    return Stored(info._replace(offset=found.offset, path=path), shrank, chunks, [found.offset + s for s in starts])
