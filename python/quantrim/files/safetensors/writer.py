"""Tensors into one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from ..base import Writer
from ..disk.descriptors import Buffer
from ..disk.errors import quote
from ..disk.writer import FileWriter
from ..tensor_info import Entry
from .header import encode_header


class SafetensorsWriter(Writer):
    """A safetensors file, as the format's library would write it: header first, then the tensors.

    begin: where each tensor's bytes begin in the file.
    """

    def __init__(self, entries: Iterable[Entry], metadata: Mapping[str, str]) -> None:
        self.header, places = encode_header(entries, metadata)
        self.size = len(self.header) + max((end for _, end in places.values()), default=0)
        self.begin = {name: len(self.header) + begin for name, (begin, _) in places.items()}
        self._nbytes = {name: end - begin for name, (begin, end) in places.items()}

    def attach(self, out: FileWriter) -> None:
        self._out = out
        out.pwrite(self.header, 0)

    def write(self, name: str, data: Buffer, offset: int) -> None:
        size = len(data) if isinstance(data, (bytes, bytearray)) else data.nbytes
        if not 0 <= offset <= self._nbytes[name] - size:
            wanted = f"bytes {offset} to {offset + size}"
            raise ValueError(f"tensor {quote(name)} must have {wanted} to write them; it has {self._nbytes[name]}")
        self._out.pwrite(data, self.begin[name] + offset)

    def write_each(self, names: Sequence[str], data: memoryview) -> None:
        """Write all of several tensors; those that follow each other in the file at once."""
        size = len(data) // len(names)
        begins = [self.begin[name] for name in names]
        for _, run in groupby(range(len(begins)), lambda k: begins[k] - k * size):
            first, *others = run
            self._out.pwrite(data[first * size : (first + 1 + len(others)) * size], begins[first])

    def finish(self) -> None:
        """Do nothing: a FileWriter of `size` insists on all bytes."""
