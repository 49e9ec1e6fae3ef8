"""The datasets of an HDF5 file: what they hold and where their bytes are. h5py finds them; most are read without it.

h5py lets one thread in at a time, by a lock of its own. HDF5 is C and trusts its files: a broken one is usually an
error, but of some thousand files with random bytes changed one has ended the process or taken half a minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..disk.errors import FormatError, quote
from ..disk.source_file import SourceFile
from ..tensor_info import DIMS_LIMIT, WORDS

DEPTH_LIMIT = 32  # groups within groups
COUNT_LIMIT = 1_000_000  # of datasets and groups


class Dataset(NamedTuple):
    """An array in the file. begin: of its bytes, in C order and little endian, in the whole file; None where they are
    in chunks, compressed or swapped, and `kept`, of h5py, gives them."""

    path: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    begin: int | None
    nbytes: int
    kept: Any


def open_hdf5(file: SourceFile, begin: int, size: int) -> Any:
    """An h5py.File of a stretch of a file. ValueError where h5py is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"Keras files need h5py ({error}): pip install 'quantrim[keras]'") from None
    with translated(file.path):
        return h5py.File(file.stream(begin, size), "r")


@contextmanager
def translated(path: Path, tensor: str | None = None) -> Iterator[None]:
    """What h5py says of a broken file, as FormatError. It has no error class of its own."""
    try:
        yield
    except FormatError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        problem = f"HDF5 cannot read it: {quote(str(error))}"
        raise FormatError(problem, path=path, tensor=tensor) from None


def find_datasets(root: Any, file: SourceFile, begin: int, size: int) -> Iterator[Dataset]:
    """All datasets below a group, in its order, with places in the whole file; `begin` and `size` are of HDF5 in it.

    FormatError for links out of the file, for groups within themselves and for what is no plain array.
    """
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    seen: set[object] = set()
    while waiting:
        path, group = waiting.pop()
        place = _address(group)
        if len(path) > DEPTH_LIMIT or place in seen or len(seen) > COUNT_LIMIT:
            raise FormatError(f"group {quote('/'.join(path))} is within itself, or too deep", path=file.path)
        seen.add(place)
        groups = []
        for name in group:
            inner = (*path, name)
            item = linked(group, name, "/".join(inner), file.path)
            if hasattr(item, "keys"):
                groups.append((inner, item))
            else:
                yield _dataset(item, inner, file, begin, size)
        waiting += reversed(groups)


def _address(group: Any) -> object:
    import h5py

    info = h5py.h5o.get_info(group.id)
    return info.fileno, info.addr


def linked(group: Any, name: str, label: str, path: Path) -> Any:
    """A group or dataset in a group. FormatError for a link, which may lead to any file."""
    import h5py

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise FormatError(f"{quote(label)} must be in the file, not a link to another place", path=path)
    item = group[name]
    if not isinstance(item, (h5py.Group, h5py.Dataset)):
        raise FormatError(f"{quote(label)} must be a group or a dataset, not a type", path=path)
    return item


def text_attribute(item: Any, name: str) -> str | None:
    """An attribute that is one string; None where there is none or it is anything else, which is not even read: in a
    broken file it may be billions of strings."""
    import h5py

    if name not in item.attrs:
        return None
    found = item.attrs.get_id(name)
    if found.shape != () or h5py.check_string_dtype(found.dtype) is None:
        return None
    text = item.attrs[name]
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _dataset(item: Any, path: tuple[str, ...], file: SourceFile, begin: int, size: int) -> Dataset:
    label = "/".join(path)
    if item.external or item.is_virtual:
        raise FormatError("must have its bytes in the file, not in another one", path=file.path, tensor=label)
    dtype = item.dtype
    word = WORDS.get(dtype.newbyteorder("="))
    if dtype == np.dtype("V2") and text_attribute(item, "dtype") == "bfloat16":  # as Keras keeps it
        word = "BF16"
    if word is None or item.shape is None:
        found = "nothing" if item.shape is None else str(dtype)
        allowed = f"numbers: {', '.join(WORDS.values())}"
        raise FormatError("must be an array of numbers", path=file.path, tensor=label, found=found, allowed=allowed)
    if len(item.shape) > DIMS_LIMIT:
        raise FormatError(f"must have at most {DIMS_LIMIT} dimensions", path=file.path, tensor=label)
    nbytes = math.prod(item.shape) * dtype.itemsize
    offset = item.id.get_offset()
    if offset is None or dtype.newbyteorder("<") != dtype or not nbytes:
        return Dataset(path, word, item.shape, None, nbytes, item)
    if offset + nbytes > size or item.id.get_storage_size() < nbytes:
        problem = f"needs {nbytes} bytes from byte {offset} of HDF5's {size} on"
        raise FormatError(problem, path=file.path, tensor=label, offset=begin + offset)
    return Dataset(path, word, item.shape, begin + offset, nbytes, item)
