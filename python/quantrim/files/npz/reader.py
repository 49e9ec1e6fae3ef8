"""Tensors out of .npz and .npy files, in bounded memory, and never by way of pickle.

Members of an .npz are stored as they are, or compressed: these are inflated on the way, and where reading goes back to
an earlier place it begins again at one of at most 128 places that were kept. Arrays in Fortran order are gathered
64 MiB of rows at a time. The CRC-32 of a member is checked when all its bytes have been read, in any order.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray

from ..disk.errors import FormatError, quote
from ..disk.source_file import SourceFile
from ..disk.strict_json import parse
from ..sniff import looks_like
from ..tensor_info import DTYPES, METADATA, TensorInfo
from .crc32 import Pieces
from .header import HEADER_LIMIT, Header, parse_header

KEY = "quantrim.dtypes"  # in the metadata: the dtypes, as JSON, of tensors whose elements are void to numpy
ARRAY = "array"  # the tensor of a .npy file, which gives it no name
METADATA_LIMIT = 100_000_000  # bytes
_MOST_RATIO = 1040  # of deflate: 1032, and what begins and ends a stream
_RECENT = 4  # compressed members that can be gone on with where they were left
_KEPT = 128  # places of each where it can be gone on with, too
_KEPT_EVERY = 1 << 20  # bytes, at least
_STRIP = 64 << 20  # bytes of an array in Fortran order that are gathered at once
_PIECE = 1 << 18  # bytes that are inflated at a time
_RAW = 1 << 15  # and of compressed ones: what each kept place may hold, too


class _Member(Protocol):
    """The bytes of a .npy file, wherever they are."""

    offset: int
    nbytes: int

    def read_into(self, view: memoryview, start: int, name: str) -> None: ...

    def said(self, header: bytes) -> None:
        """Take note of the first bytes, which are not read again."""


class _Stored:
    """Bytes as they are in a file, from `offset` on."""

    def __init__(self, file: SourceFile, offset: int, nbytes: int, crc: int | None) -> None:
        self.offset, self.nbytes = offset, nbytes
        self._file, self._crc = file, crc
        self._pieces: Pieces | None = None

    def said(self, header: bytes) -> None:
        self._pieces = Pieces(self.nbytes)
        self._pieces.add(memoryview(header), 0)

    def read_into(self, view: memoryview, start: int, name: str) -> None:
        self._file.read_into(view, self.offset + start, name)
        pieces = self._pieces
        if pieces is not None and self._crc is not None:
            pieces.add(view, start)
            if pieces.value is not None:
                _check_crc(self._file.path, name, self.offset, self._crc, pieces.value)
                self._pieces = None


class _Inflater:
    """How far a compressed member is inflated: `at` bytes of it, from `taken` compressed ones."""

    def __init__(self, zlib_object: Any, at: int = 0, taken: int = 0, crc: int = 0) -> None:
        self.zlib_object, self.at, self.taken, self.crc = zlib_object, at, taken, crc

    def copy(self) -> _Inflater:
        return _Inflater(self.zlib_object.copy(), self.at, self.taken, self.crc)


class _Deflated:
    """Bytes that are compressed in a file, `count` from `offset` on.

    recent: the members of the file that have inflaters, the last one used last; one thread at a time may use them.
    """

    def __init__(
        self, file: SourceFile, offset: int, count: int, nbytes: int, crc: int, recent: list[_Deflated], lock: Lock
    ) -> None:
        self.offset, self.nbytes = offset, nbytes
        self._file, self._count, self._crc = file, count, crc
        self._recent, self._lock = recent, lock
        self._now: _Inflater | None = None
        self._kept: list[_Inflater] = []

    def said(self, header: bytes) -> None:
        """Do nothing: all bytes pass whatever is read."""

    def read_into(self, view: memoryview, start: int, name: str) -> None:
        with self._lock:
            if self not in self._recent[-1:]:
                self._recent[:] = [*(member for member in self._recent if member is not self), self]
                for old in self._recent[:-_RECENT]:
                    old._now, old._kept = None, []
                del self._recent[:-_RECENT]
            now = self._now
            if now is None or start < now.at:
                before = [kept for kept in self._kept if kept.at <= start]
                now = self._now = before[-1].copy() if before else _Inflater(zlib.decompressobj(-zlib.MAX_WBITS))
            while now.at < start:
                self._inflate(now, min(_PIECE, start - now.at), name)
            done = 0
            while done < len(view):
                data = self._inflate(now, min(_PIECE, len(view) - done), name)
                view[done : done + len(data)] = data
                done += len(data)

    def _inflate(self, now: _Inflater, most: int, name: str) -> bytes:
        """Return the next bytes, at least one and at most so many."""
        inflater, data = now.zlib_object, b""
        while not data:
            raw = inflater.unconsumed_tail
            if not raw and not inflater.eof:
                raw = bytes(self._file.read(min(_RAW, self._count - now.taken), self.offset + now.taken, name))
                now.taken += len(raw)
            try:
                data = inflater.decompress(raw, most)
            except zlib.error as error:
                problem = f"cannot be inflated: {error}"
                raise FormatError(problem, path=self._file.path, tensor=name, offset=self.offset) from None
            if not data and (inflater.eof or not raw):
                problem = f"its compressed bytes end after {now.at} of {self.nbytes}"
                raise FormatError(problem, path=self._file.path, tensor=name, offset=self.offset)
        now.at += len(data)
        now.crc = zlib.crc32(data, now.crc)
        if now.at == self.nbytes:
            _check_crc(self._file.path, name, self.offset, self._crc, now.crc)
        last = self._kept[-1].at if self._kept else 0
        if now.at - last >= max(_KEPT_EVERY, self.nbytes // _KEPT):
            self._kept.append(now.copy())
        return data


def _check_crc(path: Path, name: str, offset: int, expected: int, found: int) -> None:
    if found != expected:
        problem = f"CRC-32 mismatch: expected {expected:#010x}, found {found:#010x}"
        raise FormatError(problem, path=path, tensor=name, offset=offset)


class _Array:
    """An array in a member: its bytes in C order, little endian."""

    def __init__(self, member: _Member, header: Header, name: str) -> None:
        self.header = header
        self._member, self._name = member, name
        self._strip: tuple[int, NDArray[Any]] = (0, np.empty(0, np.uint8))  # its first row
        self._lock = Lock()

    def read_into(self, view: memoryview, start: int) -> None:
        if self.header.swapped:
            self._read_swapped(view, start)
        else:
            self._read(view, start)

    def _read_swapped(self, view: memoryview, start: int) -> None:
        dtype = DTYPES[self.header.dtype][1]
        assert dtype is not None
        width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        first, last = start // width * width, -(-(start + len(view)) // width) * width
        data = np.empty(last - first, np.uint8)
        self._read(data.data, first)
        view[:] = data.reshape(-1, width)[:, ::-1].tobytes()[start - first :][: len(view)]

    def _read(self, view: memoryview, start: int) -> None:
        if not self.header.fortran:
            self._member.read_into(view, self.header.size + start, self._name)
            return
        row_bytes = self.header.nbytes // max(self.header.shape[0], 1)
        done = 0
        while done < len(view):
            row, skip = divmod(start + done, row_bytes)
            with self._lock:
                first, strip = self._strip
                if not first <= row < first + len(strip):
                    first, strip = self._strip = row, self._gather(row, max(_STRIP // row_bytes, 1))
            data = strip[row - first :].reshape(-1)[skip : skip + len(view) - done]
            view[done : done + data.size] = data.data
            done += data.size

    def _gather(self, row: int, count: int) -> NDArray[np.uint8]:
        """Return rows, (count, bytes of a row), of an array in Fortran order: in the file, the first index runs
        fastest."""
        rows, *rest = self.header.shape
        count = min(count, rows - row)
        others = int(np.prod(rest))
        width = self.header.nbytes // (rows * others)
        found = np.empty((others, count * width), np.uint8)
        if count == rows:
            self._member.read_into(found.reshape(-1).data, self.header.size, self._name)
        for k in range(others) if count < rows else ():
            self._member.read_into(found[k].data, self.header.size + (k * rows + row) * width, self._name)
        columns = found.reshape(*rest[::-1], count, width)
        axes = range(len(rest), -1, -1)
        return np.ascontiguousarray(columns.transpose(*axes, len(rest) + 1)).reshape(count, -1)


class _Reader:
    """What the readers of both formats do alike."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._arrays: dict[str, _Array] = {}
        self._file = SourceFile(path)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        raise NotImplementedError

    def _add(self, name: str, member: _Member, word: str | None = None) -> None:
        raw = bytearray(min(member.nbytes, 12 + HEADER_LIMIT))
        member.read_into(memoryview(raw), 0, name)
        header = parse_header(bytes(raw), self.path, name, word)
        member.said(bytes(raw[: header.size]))
        if header.size + header.nbytes != member.nbytes:
            problem = f"{header.dtype} of shape {quote(header.shape)} is {header.nbytes} bytes"
            problem += f", {member.nbytes - header.size} follow the header"
            raise FormatError(problem, path=self.path, tensor=name, offset=member.offset)
        begin = member.offset + header.size if isinstance(member, _Stored) else member.offset
        self.tensors[name] = TensorInfo(name, header.dtype, header.shape, begin, header.nbytes, self.path)
        self._arrays[name] = _Array(member, header, name)

    def read_into(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        self._arrays[tensor.name].read_into(view, start)

    def storage_of(self, name: str) -> tuple[str, int]:
        return self.tensors[name].dtype, self.tensors[name].nbytes

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._file.close()


class NpyReader(_Reader):
    """One array of plain numbers in a .npy file: the tensor `array`. FormatError for anything else."""

    def _open(self) -> None:
        if self._file.read(min(6, self._file.size), 0) != b"\x93NUMPY":
            raise FormatError(f"not a .npy file{looks_like(self._file)}", path=self.path)
        self._add(ARRAY, _Stored(self._file, 0, self._file.size, None))


class NpzReader(_Reader):
    """The arrays of plain numbers in an .npz file, by the names that numpy.load gives them.

    FormatError for members that are no such arrays (objects, records, text), are encrypted, compressed in another way
    than by deflate, occur twice, overlap, or are said to be larger than their bytes can hold.
    """

    def _open(self) -> None:
        self._compressed: dict[str, int] = {}
        self._recent: list[_Deflated] = []
        self._lock = Lock()
        infos, end = self._infos()
        begins = sorted(info.header_offset for info in infos)
        limits = dict(zip(begins, [*begins[1:], end], strict=True))
        members: dict[str, _Member] = {}
        for info in infos:
            name = info.orig_filename.removesuffix(".npy")
            if name == info.orig_filename:
                raise FormatError(f"member {quote(name)} must be a .npy file", path=self.path)
            if name in members:
                raise FormatError("occurs twice", path=self.path, tensor=name)
            members[name] = self._member(name, info, limits[info.header_offset])
        words = self._read_metadata(members.pop(METADATA, None))
        for name, member in members.items():
            self._add(name, member, words.get(name))

    def _infos(self) -> tuple[list[ZipInfo], int]:
        """Return what the directory of the zip says of each member, and where it begins itself."""
        if self._file.read(min(2, self._file.size), 0) != b"PK":
            raise FormatError(f"not an .npz file{looks_like(self._file)}", path=self.path)
        try:
            with self._file.file_object() as file, zipfile.ZipFile(file) as archive:
                return archive.infolist(), archive.start_dir
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
            raise FormatError(f"its zip directory cannot be read: {error}", path=self.path) from None

    def _member(self, name: str, info: ZipInfo, limit: int) -> _Member:
        def wrong(problem: str, found: object) -> FormatError:
            return FormatError(problem, path=self.path, tensor=name, offset=info.header_offset, found=found)

        if info.flag_bits & 0x41:
            raise wrong("must not be encrypted", info.flag_bits)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise wrong("must be stored or deflated", info.compress_type)
        local = self._file.read(30, info.header_offset) if 0 <= info.header_offset <= limit - 30 else b""
        if local[:4] != b"PK\3\4":
            raise wrong("its local header is not where the directory says", bytes(local[:4]))
        lengths = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        begin = info.header_offset + 30 + sum(lengths)
        if begin + info.compress_size > limit:
            raise wrong(f"must end at byte {limit}, where another begins or the file ends", begin + info.compress_size)
        named = bytes(self._file.read(lengths[0], info.header_offset + 30))
        if named not in (info.orig_filename.encode(), info.orig_filename.encode("cp437", "replace")):
            raise wrong("must have the same name in the directory and in its local header", named)
        if info.compress_type == zipfile.ZIP_STORED:
            if info.compress_size != info.file_size:
                raise wrong(f"is stored, so its {info.compress_size} bytes must be all", info.file_size)
            return _Stored(self._file, begin, info.file_size, info.CRC)
        if info.file_size > _MOST_RATIO * (info.compress_size + 1):
            raise wrong(f"is more than {info.compress_size} bytes can be inflated to", info.file_size)
        self._compressed[name] = info.compress_size
        count, nbytes = info.compress_size, info.file_size
        return _Deflated(self._file, begin, count, nbytes, info.CRC, self._recent, self._lock)

    def _read_metadata(self, member: _Member | None) -> dict[str, str]:
        """Read the metadata; return the dtypes that they name."""
        if member is None:
            return {}
        if member.nbytes > METADATA_LIMIT:
            raise FormatError(f"must be at most {METADATA_LIMIT} bytes", path=self.path, tensor=METADATA)
        self._add(METADATA, member)
        info = self.tensors.pop(METADATA)
        if info.dtype != "U8" or len(info.shape) != 1:
            raise FormatError("must be U8 of one dimension, JSON", path=self.path, tensor=METADATA, found=info.dtype)
        raw = bytearray(info.nbytes)
        self._arrays.pop(METADATA).read_into(memoryview(raw), 0)
        said = parse(raw, self.path, METADATA)
        if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
            raise FormatError("must be an object of strings", path=self.path, tensor=METADATA)
        words = parse(said.pop(KEY, "{}").encode("utf-8", "surrogatepass"), self.path, KEY)
        if not isinstance(words, dict) or not all(word in [*DTYPES] for word in words.values()):
            raise FormatError(f"{KEY} must name dtypes", path=self.path, tensor=METADATA, found=words)
        self.metadata = said
        return words

    def storage_of(self, name: str) -> tuple[str, int]:
        info = self.tensors[name]
        if name in self._compressed:
            return f"{info.dtype} deflated", self._compressed[name]
        return info.dtype, info.nbytes
