"""A checkpoint, opened lazily: names, shapes and dtypes now, bytes on demand."""

from __future__ import annotations

import json
import operator
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .descriptors import Buffer, byte_view, named_path, open_regular, read_available
from .errors import FormatError, quote
from .index import check_total_size, find_files, read_json, tensors_of
from .lossless import Original, read_original
from .safetensors import TensorInfo, header_of_descriptor
from .side_files import SideFiles, find_side_files
from .sniff import refuse_pickle_suffix

OPEN_LIMIT = 256  # shards kept open; more are opened for each read, since a process may have 1024 files


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a `.safetensors` file, a model folder (with an index, or with one `.safetensors` file), or an
    index.

    A file of byte planes (`quantrim.model.compress_lossless`) is read as the file that it stands for.

    FormatError where a file, the index, or what the two say of each other breaks a rule; OSError where a
    file cannot be read; UserWarning for a wrong `total_size`, for an index and shards that disagree (the index
    decides) and for `.safetensors` files in the folder that are no part of the checkpoint.

    >>> from quantrim.demo.digits import model_file
    >>> with model_file() as path, open_checkpoint(path) as model:
    ...     model.tensors["fc1.weight"].shape
    (256, 64)
    """
    return Checkpoint(named_path(path, "path"))


class _Shard:
    """One file, and what the file system said of it when it was opened."""

    def __init__(self, path: Path, keep_open: bool) -> None:
        self.path = path
        refuse_pickle_suffix(path)
        fd = open_regular(path)
        try:
            self.identity = _identity(os.fstat(fd))
            self.tensors, self.metadata = header_of_descriptor(fd, path)
            self.original = read_original(fd, path, self.tensors, self.metadata)
            if self.original is not None:
                self.tensors, self.metadata = self.original.tensors, self.original.metadata
        except BaseException:
            os.close(fd)
            raise
        self.fd: int | None = fd
        if not keep_open:
            self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    def read(self, view: memoryview, offset: int, tensor: str) -> None:
        fd = self.fd
        if fd is not None:
            self._read(fd, view, offset, tensor)
            return
        fd = open_regular(self.path)
        try:
            self._check(os.fstat(fd), tensor, offset)
            self._read(fd, view, offset, tensor)
        finally:
            os.close(fd)

    def _read(self, fd: int, view: memoryview, offset: int, tensor: str) -> None:
        done = read_available(fd, view, offset, self.path)
        if done != len(view):
            end = os.fstat(fd).st_size
            problem = f"file ends at byte {end} now, it had {self.identity[2]} bytes when it was opened"
            raise FormatError(problem, path=self.path, tensor=tensor, offset=offset + done)

    def check_unchanged(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise FormatError("file was removed while it was being read", path=self.path) from None
        self._check(status)

    def _check(self, status: os.stat_result, tensor: str | None = None, offset: int | None = None) -> None:
        found = _identity(status)
        if found == self.identity:
            return
        names = ("device", "inode", "size in bytes", "time of change in ns")
        rows = zip(names, self.identity, found, strict=True)
        changes = ", ".join(f"{name} {was} became {now}" for name, was, now in rows if was != now)
        problem = f"file was changed while it was being read: {changes}"
        raise FormatError(problem, path=self.path, tensor=tensor, offset=offset)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Checkpoint:
    """The tensors of a model: `tensors` (name -> TensorInfo, all shards, file order), read on demand.

    `metadata` is that of all shards, the first to name a key deciding; `config` is config.json or None;
    `shards` are file names in `folder`, `index` is the path of the index or None, `index_fields` is what it says
    beside its weight_map; `originals` (shard -> Original) are the files that those of byte planes stand for. Any
    number of threads may read at once, but none while it is being closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = find_files(path)
        self.folder = files.folder
        self.is_folder = path.is_dir() or files.index is not None
        self.shards = files.shards
        self.index = files.index
        self.index_fields = files.fields
        self._shards: dict[str, _Shard] = {}
        self._closer = weakref.finalize(self, _close_all, self._shards)
        try:
            for name in self.shards:
                self._shards[name] = _Shard(self.folder / name, keep_open=len(self._shards) < OPEN_LIMIT)
            self.tensors = tensors_of(files, {name: shard.tensors for name, shard in self._shards.items()})
            self.config = _read_config(self.folder) if self.is_folder else None
        except BaseException:
            self.close()
            raise
        self.metadata: dict[str, str] = {}
        self.originals: dict[str, Original] = {}
        self._shard_of: dict[Path, _Shard] = {}
        self._held: dict[str, memoryview] = {}
        for name, shard in self._shards.items():
            if shard.original is not None:
                self.originals[name] = shard.original
            self.metadata = {**shard.metadata, **self.metadata}
            self._shard_of[shard.path] = shard
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

    def metadata_of(self, shard: str) -> dict[str, str]:
        """The metadata of one file of `shards`; of its original, where there is one."""
        return dict(self._shards[shard].metadata)

    @property
    def file_bytes(self) -> int:
        """Of all files of weights, headers and all."""
        return sum((self.folder / shard).stat().st_size for shard in self.shards)

    def close(self) -> None:
        """Close the files. Reading afterwards is a ValueError."""
        self._closer()

    @property
    def closed(self) -> bool:
        return not self._closer.alive

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
        """The whole tensor in memory of its own, in its shape and dtype; packed codes as (nbytes,) uint8."""
        tensor = self._tensor(name)
        data = np.empty(tensor.nbytes, np.uint8)
        self._read(tensor, data.data, 0)
        if tensor.packed:
            return data
        return self._typed(tensor, data, 0).reshape(tensor.shape)

    def read_into(self, name: str, buffer: Buffer, start_byte: int = 0) -> None:
        """Fill `buffer`, any writable contiguous bytes, with the tensor's bytes (little endian), from its
        byte `start_byte` on."""
        self._fill(self._tensor(name), buffer, start_byte)

    def read_many_into(self, names: Sequence[str], buffer: Buffer) -> None:
        """Fill `buffer` with the bytes of these tensors, one after the other. Those that lie so in a file are read at
        once."""
        view = byte_view(buffer, "buffer", writable=True)
        tensors = list(map(self._tensor, names))
        begins = [0, *accumulate(tensor.nbytes for tensor in tensors)]
        if len(view) != begins[-1]:
            raise ValueError(f"buffer must have {begins[-1]} bytes, those of all tensors, not {len(view)}")
        first = 0
        for k in range(1, len(tensors) + 1):
            if k == len(tensors) or not self._adjoin(tensors[k - 1], tensors[k]):
                self._read(tensors[first], view[begins[first] : begins[k]], 0)
                first = k

    def _adjoin(self, a: TensorInfo, b: TensorInfo) -> bool:
        """Whether the bytes of b are those that follow a's in a file."""
        if a.offset + a.nbytes != b.offset or a.path != b.path or self._shard_of[a.path].original is not None:
            return False
        return not self._held or not (a.name in self._held or b.name in self._held)

    def read_of_file(self, tensor: TensorInfo, buffer: Buffer, start_byte: int = 0) -> None:
        """The same for any tensor of the files, also one that is not the checkpoint's; never what `hold` gave."""
        self._check_open()
        self._fill(tensor, buffer, start_byte, held=False)

    def _fill(self, tensor: TensorInfo, buffer: Buffer, start_byte: int, held: bool = True) -> None:
        name = tensor.name
        view = byte_view(buffer, "buffer", writable=True)
        start = operator.index(start_byte)
        if not 0 <= start <= tensor.nbytes - len(view):
            wanted = f"bytes {start} to {start + len(view)}"
            raise ValueError(f"tensor {quote(name)} must have {wanted} to read them; it has {tensor.nbytes}")
        self._read(tensor, view, start, held)

    def raw(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes `begin` to `end` of the tensor, all of it by default."""
        begin = operator.index(begin)
        end = self._tensor(name).nbytes if end is None else operator.index(end)
        data = bytearray(max(end - begin, 0))
        self.read_into(name, data, begin)
        return bytes(data)

    def rows(self, name: str, first: int, count: int) -> npt.NDArray[Any]:
        """Rows `first` to `first + count` of the tensor seen as a matrix (TensorInfo.matrix_shape):
        (count, cols) in its dtype; (count, bytes per row) uint8 for packed codes, whose rows must be whole
        bytes."""
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

    @property
    def elements(self) -> int:
        """Of all tensors, as the files have them."""
        return sum(self._shard_of[t.path].tensors[name].size for name, t in self.tensors.items())

    def tensors_of(self, shard: str) -> dict[str, TensorInfo]:
        """All tensors of one file of `shards`, also those that are not the checkpoint's, as the file has them."""
        return self._shards[shard].tensors

    def stored(self, name: str) -> tuple[str, int]:
        """In what form a tensor is in its file, for people, and in how many bytes."""
        tensor = self._tensor(name)
        original = self._shard_of[tensor.path].original
        if original is None:
            return tensor.dtype, tensor.nbytes
        return original.stored[name].label, original.stored[name].nbytes

    def hold(self, name: str, array: npt.NDArray[Any]) -> None:
        """Give this array for a tensor from now on, in place of what the file has: of its dtype, in any shape."""
        tensor = self._tensor(name)
        if array.dtype != tensor.numpy_dtype or tensor.packed:
            raise TypeError(f"array must be {tensor.dtype}, as tensor {quote(name)} is, not {array.dtype}")
        unsigned = np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}"))
        self._held[name] = byte_view(unsigned.astype(unsigned.dtype.newbyteorder("<"), copy=False), "array")
        self.tensors[name] = tensor._replace(shape=array.shape, nbytes=array.nbytes)

    def check_unchanged(self) -> None:
        """FormatError if a file was changed, replaced or removed since it was opened. Call it when all is
        read, before what was made of it is kept."""
        self._check_open()
        for shard in self._shards.values():
            shard.check_unchanged()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"checkpoint {quote(self.path)} must be open, not closed")

    def _tensor(self, name: str) -> TensorInfo:
        self._check_open()
        if name not in self.tensors:
            raise ValueError(f"no tensor {quote(name)} in {quote(self.path)}")
        return self.tensors[name]

    def _read(self, tensor: TensorInfo, view: memoryview, start: int, held: bool = True) -> None:
        shard = self._shard_of[tensor.path]
        if held and tensor.name in self._held:
            view[:] = self._held[tensor.name][start : start + len(view)]
        elif shard.original is None:
            shard.read(view, tensor.offset + start, tensor.name)
        else:
            shard.original.read(shard.read, tensor.name, view, start)

    def _typed(self, tensor: TensorInfo, data: npt.NDArray[np.uint8], start: int) -> npt.NDArray[Any]:
        dtype = tensor.numpy_dtype
        if dtype == np.bool_ and data.size and data.max() > 1:
            where = int(np.argmax(data > 1))
            problem = f"a BOOL must be 0 or 1, not {data[where]}"
            raise FormatError(problem, path=tensor.path, tensor=tensor.name, offset=tensor.offset + start + where)
        return from_little_endian(data, dtype)


def from_little_endian(
    data: npt.NDArray[np.uint8], dtype: np.dtype[Any], byteorder: str = sys.byteorder
) -> npt.NDArray[Any]:
    """The elements in bytes of a file: a view, except where the machine's byte order is the other one."""
    if byteorder == "big":
        width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        data = np.ascontiguousarray(data.reshape(-1, width)[:, ::-1]).reshape(-1)
    return data.view(dtype)


def _close_all(shards: dict[str, _Shard]) -> None:
    for shard in shards.values():
        shard.close()


def _read_config(folder: Path) -> dict[str, Any] | None:
    """config.json, read as its writers write it: some hold Infinity, which JSON has not. None where there is none;
    one that cannot be read is an error, since the model would be written without it."""
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
