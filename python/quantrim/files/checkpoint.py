"""A checkpoint, opened lazily: names, shapes and dtypes now, bytes on demand."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import FORMATS, Format, Reader, format_of
from .disk.descriptors import Buffer, byte_view, named_path
from .disk.errors import FormatError, quote
from .folder import check_total_size, find_files, read_json, tensors_of
from .side_files import SideFiles, find_side_files
from .sniff import format_inside, refuse_pickle_suffix
from .tensor_info import TensorInfo, from_little_endian


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a file of weights, a model folder (with an index, or with one file of weights), or an index.

    The suffix of a file says its format, or its bytes where the suffix is of none. A file of byte planes
    (`quantrim.model.compress_lossless`) is read as the file that it stands for.

    FormatError where a file, the index, or what the two say of each other breaks a rule; OSError where a file cannot be
    read; UserWarning for a wrong `total_size`, for an index and shards that disagree (the index decides) and for
    `.safetensors` files in the folder that are no part of the checkpoint.

    >>> from quantrim.demo.digits import model_file
    >>> with model_file() as path, open_checkpoint(path) as model:
    ...     model.tensors["fc1.weight"].shape
    (256, 64)
    """
    return Checkpoint(named_path(path, "path"))


def _format_for(path: Path) -> Format:
    """Return the format to read a file with: what its suffix names, or else what its bytes look like."""
    refuse_pickle_suffix(path)
    return format_of(path) or FORMATS[format_inside(path)]


class Checkpoint:
    """The tensors of a model: `tensors` (name -> TensorInfo, all shards, file order), read on demand.

    `metadata` is that of all shards, the first to name a key deciding; `config` is config.json or None; `shards` are
    file names in `folder`, `readers` has the reader of each, `format` names what they are; `index` is the path of the
    index or None, `index_fields` is what it says beside its weight_map; `notes` are what its readers have to say. Any
    number of threads may read at once, but none while it is being closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = find_files(path)
        self.folder = files.folder
        self.is_folder = path.is_dir() or files.index is not None
        self.shards = files.shards
        self.index = files.index
        self.index_fields = files.fields
        self.readers: dict[str, Reader] = {}
        self.closed = False
        try:
            formats = [_format_for(self.folder / name) for name in self.shards]
            self.format = " and ".join(dict.fromkeys(row.name for row in formats))
            for name, row in zip(self.shards, formats, strict=True):
                self.readers[name] = row.reader(self.folder / name)
            self.tensors = tensors_of(files, {name: reader.tensors for name, reader in self.readers.items()})
            self.config = _read_config(self.folder) if self.is_folder else None
        except BaseException:
            self.close()
            raise
        self.metadata: dict[str, str] = {}
        for reader in self.readers.values():
            self.metadata = {**reader.metadata, **self.metadata}
        self.notes = tuple(dict.fromkeys(note for reader in self.readers.values() for note in reader.notes))
        self._reader_of = {reader.path: reader for reader in self.readers.values()}
        self.total_size = sum(tensor.nbytes for tensor in self.tensors.values())
        check_total_size(files, self.total_size)

    @cached_property
    def beside(self) -> SideFiles:
        """The other files of a model folder; none of a single file."""
        if not self.is_folder:
            return SideFiles()
        return find_side_files(self.folder, {*self.shards, *([self.index.name] if self.index else [])})

    @property
    def side_files(self) -> list[str]:
        """The files to copy beside rewritten weights: config, tokenizer, subfolders; paths in `folder`."""
        return self.beside.names

    @property
    def file_bytes(self) -> int:
        """Of all files of weights, headers and all."""
        return sum((self.folder / shard).stat().st_size for shard in self.shards)

    @property
    def elements(self) -> int:
        """Of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    def close(self) -> None:
        """Close the files. Reading afterwards is a ValueError."""
        self.closed = True
        for reader in self.readers.values():
            reader.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self.tensors:
            raise KeyError(f"no tensor {quote(name)} in {quote(self.path)}")
        return self.read(name)

    def __repr__(self) -> str:
        return f"<Checkpoint {quote(self.path)}: {len(self)} tensors, {self.total_size} bytes>"

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return the whole tensor in memory of its own, in its shape and dtype; packed codes as (nbytes,) uint8."""
        tensor = self._tensor(name)
        data = np.empty(tensor.nbytes, np.uint8)
        self._read(tensor, data.data, 0)
        if tensor.packed:
            return data
        return self._typed(tensor, data, 0).reshape(tensor.shape)

    def read_into(self, name: str, buffer: Buffer, start_byte: int = 0) -> None:
        """Fill `buffer`, any writable contiguous bytes, with the tensor's bytes (little endian), from its byte
        `start_byte` on."""
        tensor = self._tensor(name)
        view = byte_view(buffer, "buffer", writable=True)
        start = operator.index(start_byte)
        if not 0 <= start <= tensor.nbytes - len(view):
            wanted = f"bytes {start} to {start + len(view)}"
            raise ValueError(f"tensor {quote(name)} must have {wanted} to read them; it has {tensor.nbytes}")
        self._read(tensor, view, start)

    def read_many_into(self, names: Sequence[str], buffer: Buffer) -> None:
        """Fill `buffer` with the bytes of these tensors, one after the other."""
        view = byte_view(buffer, "buffer", writable=True)
        tensors = list(map(self._tensor, names))
        total = sum(tensor.nbytes for tensor in tensors)
        if len(view) != total:
            raise ValueError(f"buffer must have {total} bytes, those of all tensors, not {len(view)}")
        begin = 0
        for tensor in tensors:
            self._read(tensor, view[begin : begin + tensor.nbytes], 0)
            begin += tensor.nbytes

    def raw(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Return bytes `begin` to `end` of the tensor, all of it by default."""
        begin = operator.index(begin)
        end = self._tensor(name).nbytes if end is None else operator.index(end)
        data = bytearray(max(end - begin, 0))
        self.read_into(name, data, begin)
        return bytes(data)

    def rows(self, name: str, first: int, count: int) -> npt.NDArray[Any]:
        """Return rows `first` to `first + count` of the tensor seen as a matrix (TensorInfo.matrix_shape):
        (count, cols) in its dtype; (count, bytes per row) uint8 for packed codes, whose rows must be whole bytes."""
        tensor = self._tensor(name)
        rows, cols = tensor.matrix_shape
        first, count = operator.index(first), operator.index(count)
        if not (first >= 0 and 0 <= count <= rows - first):
            wanted = f"rows {first} to {first + count}"
            raise ValueError(f"tensor {quote(name)} must have {wanted} to read them; it has {rows}")
        row_bytes, odd_bits = divmod(cols * tensor.bits, 8)
        if odd_bits:
            raise ValueError(f"rows of tensor {quote(name)} must be whole bytes, not {row_bytes}.{odd_bits}")
        data = np.empty(count * row_bytes, np.uint8)
        self._read(tensor, data.data, first * row_bytes)
        typed = self._typed(tensor, data, first * row_bytes)
        return typed.reshape(count, row_bytes if tensor.packed else cols)

    def storage_of(self, name: str) -> tuple[str, int]:
        """Say how its file keeps a tensor, for people, and in how many bytes."""
        return self._reader_of[self._tensor(name).path].storage_of(name)

    def check_unchanged(self) -> None:
        """Raise FormatError if a file was changed, replaced or removed since it was opened. Call it when all is read,
        before what was made of it is kept."""
        self._check_open()
        for reader in self.readers.values():
            reader.check_unchanged()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"checkpoint {quote(self.path)} must be open, not closed")

    def _tensor(self, name: str) -> TensorInfo:
        self._check_open()
        if name not in self.tensors:
            raise ValueError(f"no tensor {quote(name)} in {quote(self.path)}")
        return self.tensors[name]

    def _read(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        self._reader_of[tensor.path].read_into(tensor, view, start)

    def _typed(self, tensor: TensorInfo, data: npt.NDArray[np.uint8], start: int) -> npt.NDArray[Any]:
        dtype = tensor.numpy_dtype
        if dtype == np.bool_ and data.size and data.max() > 1:
            where = int(np.argmax(data > 1))
            problem = f"a BOOL must be 0 or 1, not {data[where]}"
            raise FormatError(problem, path=tensor.path, tensor=tensor.name, offset=tensor.offset + start + where)
        return from_little_endian(data, dtype)


def _read_config(folder: Path) -> dict[str, Any] | None:
    """Return config.json, read as its writers write it: some hold Infinity, which JSON has not.

    None where there is none; one that cannot be read is an error, since the model would be written without it.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        return None
    try:
        config = json.loads(read_json(path, "config.json"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"config.json is not JSON: {error}", path=path) from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("config.json is nested too deeply or holds a number too long", path=path) from None
    if not isinstance(config, dict):
        raise FormatError("config.json must be an object", path=path)
    return config
