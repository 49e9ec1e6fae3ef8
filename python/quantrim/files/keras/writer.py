"""Floats back into a copy of a Keras file: the bytes of its variables change, and the checksum of the zip's entry."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base import Writer
from ..disk.archive import ZipEntry, read_entries
from ..disk.descriptors import Buffer, byte_view, duplicate
from ..disk.errors import quote
from ..disk.source_file import SourceFile
from ..disk.writer import FileWriter, errors_about
from ..tensor_info import Entry
from .reader import WEIGHTS, KerasReader, Place, permuted

CHUNK_BYTES = 16 << 20  # of the file that are in memory at once
_HAS_DESCRIPTOR = 8  # flag of a zip entry: its checksum is behind it too


class _Stretch(NamedTuple):
    """Bytes of the file: of a tensor, or, without one, as the source has them."""

    begin: int
    end: int
    tensor: str | None


class KerasWriter(Writer):
    """A copy of the Keras file `source` with other numbers in it, of the same dtypes and shapes.

    Entries are those of KerasReader, whose kernels are (outputs, inputs): they are transposed back. `metadata` has no
    place in the file. What is written waits in a nameless file beside the target until `finish`: rows here are columns
    there, and the zip's checksum is of bytes in their order. ValueError for what cannot be written back: other tensors
    or dtypes, and datasets in chunks, which Keras does not write.
    """

    def __init__(self, entries: Iterable[Entry], metadata: Mapping[str, str], source: Path) -> None:
        self._reader = reader = KerasReader(source)
        try:
            self._check_entries(entries, source)
        finally:
            reader.close()  # opened again where bytes are read
        self._source = reader.file
        self.size = self._source.size
        self._lock = threading.Lock()
        self._closer: Callable[[], object] | None = None
        self._begin: dict[str, int] = {}
        self._missing: dict[str, int] = {}
        place = 0
        for name, tensor in reader.tensors.items():
            self._begin[name], self._missing[name] = place, tensor.nbytes
            place += tensor.nbytes

    def _check_entries(self, entries: Iterable[Entry], source: Path) -> None:
        tensors = self._reader.tensors
        given = {name: (dtype, tuple(shape)) for name, dtype, shape in entries}
        if given.keys() != tensors.keys():
            odd = sorted(given.keys() ^ tensors.keys())[0]
            what = f"{quote(odd)} is missing" if odd in tensors else f"{quote(odd)} is none of them"
            raise ValueError(f"a Keras file must have the tensors of its source, all and no others: {what}")
        for name, tensor in tensors.items():
            if given[name] != (tensor.dtype, tensor.shape):
                said, kept = f"{given[name][0]} {list(given[name][1])}", f"{tensor.dtype} {list(tensor.shape)}"
                raise ValueError(f"tensor {quote(name)} of a Keras file must be {kept}, as in the source, not {said}")
            if tensor.nbytes and self._reader.places[name].dataset.begin is None:
                problem = "must be in one piece and little-endian in the source to be written back, as Keras writes it"
                raise ValueError(f"tensor {quote(name)} {problem}")
        end, last = 0, ""
        for name, place in _in_order(self._reader.places):
            begin = place.dataset.begin or 0
            if begin < end:
                raise ValueError(f"tensors {quote(last)} and {quote(name)} must not share bytes to be written back")
            end, last = begin + place.dataset.nbytes, name

    def attach(self, out: FileWriter) -> None:
        self._out = out
        with errors_about(out.path), tempfile.TemporaryFile(dir=out.path.parent) as file:
            self._waiting = duplicate(file.fileno())
        self._closer = weakref.finalize(self, os.close, self._waiting)

    def write(self, name: str, data: Buffer, offset: int) -> None:
        view = byte_view(data, "data")
        nbytes = self._reader.tensors[name].nbytes
        if not 0 <= offset <= nbytes - len(view):
            wanted = f"bytes {offset} to {offset + len(view)}"
            raise ValueError(f"tensor {quote(name)} must have {wanted} to write them; it has {nbytes}")
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self._waiting, view[done:], self._begin[name] + offset + done)
            except OSError as error:
                problem = f"{error.strerror}, keeping tensor {quote(name)} for later"
                raise OSError(error.errno, problem, os.fspath(self._out.path)) from error
        with self._lock:
            self._missing[name] -= len(view)

    def finish(self) -> None:
        """Write the file from its first byte to its last, then the checksum. ValueError where a tensor is not whole."""
        for name, count in self._missing.items():
            if count:
                raise ValueError(f"tensor {quote(name)} must be written whole, not all but {count} bytes")
        entry = self._entry()
        fields = _checksum_fields(self._source, entry) if entry is not None else []
        checksum = 0
        for stretch in self._stretches(entry, fields):
            inside = entry is not None and entry.offset <= stretch.begin < entry.offset + entry.size
            for begin, data in self._bytes_of(stretch):
                self._out.pwrite(data, begin)
                checksum = zlib.crc32(data, checksum) if inside else checksum
        for field in fields:
            self._out.pwrite(struct.pack("<I", checksum), field)
        self._reader.check_unchanged()

    def close(self) -> None:
        if self._closer is not None:
            self._closer()

    def _entry(self) -> ZipEntry | None:
        """The zip's entry of weights; None where the file is HDF5 itself."""
        return read_entries(self._source)[WEIGHTS] if self._source.read(2, 0) == b"PK" else None

    def _stretches(self, entry: ZipEntry | None, fields: Sequence[int]) -> Iterator[_Stretch]:
        """All of the file but the checksum fields, in order; none across an end of the entry."""
        taken = [
            _Stretch(place.dataset.begin or 0, (place.dataset.begin or 0) + place.dataset.nbytes, name)
            for name, place in _in_order(self._reader.places)
        ]
        taken += [_Stretch(field, field + 4, None) for field in fields]
        ends = [] if entry is None else [entry.offset, entry.offset + entry.size]
        taken += [_Stretch(end, end, None) for end in [*ends, self.size]]
        cursor = 0
        for stretch in sorted(taken):
            if stretch.begin > cursor:
                yield _Stretch(cursor, stretch.begin, None)
            if stretch.tensor is not None:
                yield stretch
            cursor = stretch.end

    def _bytes_of(self, stretch: _Stretch) -> Iterator[tuple[int, memoryview]]:
        """(place in the file, bytes), a chunk at a time."""
        for begin in range(stretch.begin, stretch.end, CHUNK_BYTES):
            data = memoryview(bytearray(min(CHUNK_BYTES, stretch.end - begin)))
            if stretch.tensor is None:
                self._source.read_into(data, begin)
            else:
                self._turned_back(stretch.tensor, data, begin - stretch.begin)
            yield begin, data

    def _turned_back(self, name: str, data: memoryview, start: int) -> None:
        """Bytes of a dataset from `start` on, out of what waits."""
        tensor = self._reader.tensors[name]
        back = tuple(int(axis) for axis in np.argsort(self._reader.places[name].axes))
        elements = permuted(self._begin[name], tensor.numpy_dtype.itemsize, tensor.shape, back)
        fd, path = self._waiting, self._out.path
        elements.gather(lambda view, offset: _fill(fd, view, offset, path), data, start)


def _fill(fd: int, view: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if not count:
            raise OSError(errno.EIO, "what was kept for later is gone", os.fspath(path))
        done += count


def _in_order(places: Mapping[str, Place]) -> list[tuple[str, Place]]:
    """Tensors with bytes, as they follow each other in the file."""
    return sorted(
        ((name, place) for name, place in places.items() if place.dataset.nbytes),
        key=lambda item: item[1].dataset.begin or 0,
    )


def _checksum_fields(file: SourceFile, entry: ZipEntry) -> list[int]:
    """Where a zip file keeps the checksum of an entry: in the directory, before the entry, and perhaps behind it."""
    flags = struct.unpack("<H", file.read(2, entry.header + 6))[0]
    fields = [entry.row + 16]
    if not flags & _HAS_DESCRIPTOR:
        return [entry.header + 14, *fields]
    end = entry.offset + entry.size
    signed = file.read(4, end) == b"PK\x07\x08"
    return [*fields, end + 4 * signed]
