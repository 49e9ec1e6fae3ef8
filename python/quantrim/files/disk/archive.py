"""Zip files whose entries are read where they are: which bytes of the file are which entry."""

from __future__ import annotations

import struct
import zipfile
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from .errors import FormatError, quote
from .source_file import SourceFile

_ERRORS = (zipfile.BadZipFile, ValueError, OverflowError, EOFError, IndexError, NotImplementedError, struct.error)
_LOCAL = struct.Struct("<4s5H3L2H")  # the header before an entry
_ROW_BYTES = 46  # of the directory, for an entry, without name, extra fields and comment
_ENCRYPTED = 0x41  # flags


class ZipEntry(NamedTuple):
    """Bytes `offset` to `offset + size` of the file. crc: of what they hold, CRC-32; 0 where torch was told to leave it
    out. plain: whether they are neither compressed nor encrypted. header, row: where the headers before them and in the
    directory begin."""

    offset: int
    size: int
    crc: int
    plain: bool
    header: int
    row: int


def read_entries(file: SourceFile) -> dict[str, ZipEntry]:
    """List the entries by name, in the order of the file.

    FormatError for names that come twice, entries that overlap, and headers that contradict the directory.
    """
    try:
        with zipfile.ZipFile(file.stream()) as archive:
            rows = archive.infolist()
            directory = archive.start_dir
    except FormatError:
        raise
    except _ERRORS as error:
        raise FormatError(f"not a zip file: {error}", path=file.path) from None
    places = list(accumulate((_row_bytes(row) for row in rows), initial=directory))
    entries: dict[str, ZipEntry] = {}
    end = 0
    for row, place in sorted(zip(rows, places[:-1], strict=True), key=lambda pair: pair[0].header_offset):
        entry = _checked(file, row, place)
        if row.header_offset < end or entry.offset + entry.size > directory:
            problem = f"entry {quote(row.filename)} overlaps another one or the directory"
            raise FormatError(problem, path=file.path, offset=row.header_offset)
        if row.filename in entries:
            raise FormatError(f"entry {quote(row.filename)} is there twice", path=file.path, offset=row.header_offset)
        end = entry.offset + entry.size
        entries[row.filename] = entry
    return entries


def check_plain(entry: ZipEntry, name: str, path: Path, writer: str) -> None:
    """FormatError where the bytes of an entry are not what it holds."""
    if not entry.plain:
        problem = f"entry {quote(name)} must be neither compressed nor encrypted, as {writer} writes it"
        raise FormatError(problem, path=path, offset=entry.header)


def _encoded_name(row: zipfile.ZipInfo) -> bytes:
    return row.orig_filename.encode("utf-8" if row.flag_bits & 0x800 else "cp437", "replace")


def _row_bytes(row: zipfile.ZipInfo) -> int:
    return _ROW_BYTES + len(_encoded_name(row)) + len(row.extra) + len(row.comment)


def _checked(file: SourceFile, row: zipfile.ZipInfo, place: int) -> ZipEntry:
    """Where the bytes of a row of the directory begin: only the header before them says so."""
    begin = row.header_offset
    if begin < 0 or begin + _LOCAL.size > file.size:
        raise FormatError(f"entry {quote(row.filename)} is not in the file", path=file.path, offset=max(begin, 0))
    magic, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(file.read(_LOCAL.size, begin))
    name = bytes(file.read(min(name_bytes, file.size - begin - _LOCAL.size), begin + _LOCAL.size))
    expected = (b"PK\x03\x04", row.compress_type, row.flag_bits & _ENCRYPTED, _encoded_name(row))
    if (magic, method, flags & _ENCRYPTED, name) != expected:
        problem = f"the header of entry {quote(row.filename)} contradicts the zip's directory"
        raise FormatError(problem, path=file.path, offset=begin)
    plain = method == zipfile.ZIP_STORED and not flags & _ENCRYPTED and row.compress_size == row.file_size
    data = begin + _LOCAL.size + name_bytes + extra_bytes
    return ZipEntry(data, row.compress_size, row.CRC, plain, begin, place)
