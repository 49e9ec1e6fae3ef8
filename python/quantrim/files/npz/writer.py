"""Tensors into .npz and .npy files, which numpy.load opens without pickle.

An .npz is a zip of .npy files, stored as they are, each beginning at a multiple of 64 bytes. All is known before the
first byte of a tensor comes but the checksums. The same tensors give the same bytes: times are those of 1980.
Metadata is an array of bytes, JSON: `json.loads(bytes(numpy.load(path)["__metadata__"]))`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..base import Writer
from ..disk.descriptors import Buffer, byte_view
from ..disk.errors import quote
from ..disk.writer import FileWriter
from ..tensor_info import METADATA, PROVENANCE, Entry, checked_entries, count_bytes
from .crc32 import Pieces
from .header import ALIGNMENT, encode_header
from .reader import KEY

_LIMIT_16, _LIMIT_32 = 0xFFFF, 0xFFFFFFFF  # in the fields of the first zip: look into those of zip64
_SMALL_32 = _LIMIT_32 - 1  # sizes and places that the first fields hold
_DATE = 0x21  # the first of January 1980
_PADDING = 0xD935  # a field for what comes before aligned bytes, as Android's zipalign writes it
_UTF8 = 0x800


class _Member(NamedTuple):
    """offset: of its local header. begin: of the .npy file, size bytes, which begins with `header`."""

    file_name: bytes
    header: bytes
    offset: int
    begin: int
    size: int
    pieces: Pieces


class NpzWriter(Writer):
    """An .npz file with a member for each tensor.

    ValueError for dtypes that are packed, and for names that a zip, or numpy, would not give back.
    """

    def __init__(self, entries: Iterable[Entry], metadata: Mapping[str, str]) -> None:
        checked = checked_entries(entries)
        names = {name for name, _, _ in checked}
        words = {name: dtype for name, dtype, _ in checked if dtype.startswith("F8_")}
        said = dict(metadata) | ({KEY: json.dumps(words)} if words else {})
        self._metadata = json.dumps(said, sort_keys=True).encode()
        end = 0
        self._members: dict[str, _Member] = {}
        if said:
            checked.insert(0, (METADATA, "U8", (len(self._metadata),)))
        for name, dtype, shape in checked:
            if f"{name}.npy" in names:
                raise ValueError(f"tensor names must not differ in '.npy' alone in an .npz file, not so {quote(name)}")
            file_name = _encoded(name)
            header = encode_header(dtype, shape)
            size = len(header) + count_bytes(dtype, shape)
            begin = end + _local_size(file_name, size)
            begin += -begin % ALIGNMENT
            self._members[name] = _Member(file_name, header, end, begin, size, Pieces(size))
            end = begin + size
        self._end = end
        self.size = end + len(self._directory())

    def attach(self, out: FileWriter) -> None:
        self._out = out
        for name, member in self._members.items():
            self._write(member, member.header, 0)
            if name == METADATA:
                self._write(member, self._metadata, len(member.header))

    def write(self, name: str, data: Buffer, offset: int) -> None:
        member = self._members[name]
        view = byte_view(data, "data")
        nbytes = member.size - len(member.header)
        if not 0 <= offset <= nbytes - len(view):
            wanted = f"bytes {offset} to {offset + len(view)}"
            raise ValueError(f"tensor {quote(name)} must have {wanted} to write them; it has {nbytes}")
        self._write(member, view, len(member.header) + offset)

    def _write(self, member: _Member, data: bytes | memoryview, offset: int) -> None:
        self._out.pwrite(data, member.begin + offset)
        member.pieces.add(memoryview(data), offset)

    def finish(self) -> None:
        """Write what knows the checksums: the header before each member, and the directory."""
        for name, member in self._members.items():
            if member.pieces.value is None:
                raise ValueError(f"tensor {quote(name)} must be written whole, every byte once")
            self._out.pwrite(_local(member), member.offset)
        self._out.pwrite(self._directory(), self._end)

    def _directory(self) -> bytes:
        entries = b"".join(map(_central, self._members.values()))
        count, begin = len(self._members), self._end
        end = b""
        if count >= _LIMIT_16 or max(begin, len(entries)) > _SMALL_32:
            at = begin + len(entries)
            end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(entries), begin)
            end += b"PK\6\7" + struct.pack("<IQI", 0, at, 1)
        counts = (min(count, _LIMIT_16),) * 2
        sizes = _field(len(entries)), _field(begin)
        return entries + end + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *counts, *sizes, 0)


def _encoded(name: str) -> bytes:
    try:
        file_name = f"{name}.npy".encode()
    except UnicodeEncodeError:
        file_name = b"\0"
    if b"\0" in file_name or len(file_name) > _LIMIT_16:
        allowed = f"UTF-8 of at most {_LIMIT_16 - 4} bytes, without NUL"
        raise ValueError(f"tensor name must be {allowed} in an .npz file, not {quote(name)}")
    return file_name


def _field(value: int) -> int:
    """Return what a field of 32 bits says of a value."""
    return value if value <= _SMALL_32 else _LIMIT_32


def _local_size(file_name: bytes, size: int) -> int:
    """Return the least bytes before a member: its header, name, sizes where they are large, an empty field."""
    return 30 + len(file_name) + (20 if size > _SMALL_32 else 0) + 6


def _local(member: _Member) -> bytes:
    """Return the header before a member, as long as it takes to align it."""
    large = member.size > _SMALL_32
    extra = struct.pack("<HHQQ", 1, 16, member.size, member.size) if large else b""
    padding = member.begin - member.offset - 30 - len(member.file_name) - len(extra) - 6
    extra += struct.pack("<HHH", _PADDING, 2 + padding, ALIGNMENT) + bytes(padding)
    lengths = len(member.file_name), len(extra)
    return b"PK\3\4" + _common(member, large) + struct.pack("<HH", *lengths) + member.file_name + extra


def _central(member: _Member) -> bytes:
    """Return the entry of a member in the directory."""
    large = member.size > _SMALL_32
    values = [member.size] * 2 * large + [member.offset] * (member.offset > _SMALL_32)
    extra = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    common = _common(member, bool(values))
    offset = _field(member.offset)
    rest = struct.pack("<HHHHHII", len(member.file_name), len(extra), 0, 0, 0, 0, offset)
    return b"PK\1\2" + struct.pack("<H", 45 if values else 20) + common + rest + member.file_name + extra


def _common(member: _Member, zip64: bool) -> bytes:
    """Return what both headers say: version needed, flags, stored, when, checksum, sizes."""
    size = _field(member.size)
    crc = member.pieces.value or 0
    return struct.pack("<HHHHHIII", 45 if zip64 else 20, _UTF8, 0, 0, _DATE, crc, size, size)


class NpyWriter(Writer):
    """A .npy file with one tensor. It has no place for metadata: what readers need to have is refused, the rest is
    left out."""

    def __init__(self, entries: Iterable[Entry], metadata: Mapping[str, str]) -> None:
        checked = checked_entries(entries)
        if len(checked) != 1:
            raise ValueError(f"a .npy file must have one tensor, not {len(checked)}; write an .npz file")
        needed = [key for key in metadata if key.startswith(("quantrim", "quantization")) and key not in PROVENANCE]
        (self._name, dtype, shape) = checked[0]
        if needed or dtype.startswith("F8_"):
            what = f"{dtype} without saying so" if not needed else f"the metadata {quote(needed[0])}"
            raise ValueError(f"a .npy file cannot hold {what}; write an .npz file")
        self._header = encode_header(dtype, shape)
        self.size = len(self._header) + count_bytes(dtype, shape)

    def attach(self, out: FileWriter) -> None:
        self._out = out
        out.pwrite(self._header, 0)

    def write(self, name: str, data: Buffer, offset: int) -> None:
        if name != self._name or offset < 0:
            raise ValueError(f"tensor must be {quote(self._name)}, from byte 0 on, not {quote(name)} from {offset}")
        self._out.pwrite(data, len(self._header) + offset)

    def finish(self) -> None:
        """Do nothing: a FileWriter of `size` insists on all bytes."""
