"""A PyTorch state dict, opened: its tensors are read straight from their storages in the file."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..disk.archive import ZipEntry, check_plain, read_entries
from ..disk.errors import FormatError, quote
from ..disk.source_file import SourceFile
from ..disk.strided import Strided
from ..sniff import looks_like
from ..tensor_info import DIMS_LIMIT, DTYPES, TensorInfo, count_bytes
from .unpickler import ADVICE, Unpickler
from .values import TORCH_DTYPES, Key, Storage, View

PICKLE_LIMIT = 100_000_000  # bytes of data.pkl, as of a safetensors header
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the first pickle of a file of before torch 1.6
PROTOCOL_VERSION = 1001  # the second
VIEW_LIMIT = 64 << 20  # bytes that all tensors may have together, or VIEW_FACTOR times the file: views may overlap
VIEW_FACTOR = 1000
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params", "net")
NAMES_SAID = 5  # in a note

Values = Mapping[Any, Any]


class _Place(NamedTuple):
    """Where a tensor is. whole: the entry that it fills, whose checksum holds for it; dtype_label: for people."""

    elements: Strided
    swapped: bool
    whole: ZipEntry | None
    label: str


class TorchReader:
    """One file of `torch.save`: a dict of tensors, or one that holds such a dict under a usual key.

    Where the pickled value is a dict with a dict of tensors under one of WRAPPERS, the first of them in that order is
    the state dict, and so on inside it. Otherwise a dict without tensors of its own that has exactly one dict of them
    is taken for that. Everything beside the state dict (optimizer, epoch, ...) is left out; `notes` says so.

    The checksum of data.pkl is compared, and that of a tensor which is read whole at once. Files of before torch 1.6
    have none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = SourceFile(path)
        try:
            root, entries, swapped = _load(self._file)
            state, self.notes = _state_dict(root, path)
            self._places: dict[str, _Place] = {}
            self.tensors = {name: self._place(name, view, entries, swapped) for name, view in state.items()}
            self._check_sizes()
            self.notes += _notes(state, self._places)
        except BaseException:
            self._file.close()
            raise
        self.metadata = {"format": "pt"}

    def read_into(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        place = self._places[tensor.name]
        elements = place.elements
        if place.swapped:
            self._read_swapped(tensor, view, start)
        elif not elements.is_contiguous:
            elements.gather(lambda piece, offset: self._file.read_into(piece, offset, tensor.name), view, start)
        else:
            self._file.read_into(view, elements.begin + start, tensor.name)
            if place.whole is not None and len(view) == place.whole.size:
                _check_crc(view, place.whole, self.path, tensor.name)

    def _read_swapped(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        """The same of a big-endian file."""
        elements = self._places[tensor.name].elements
        width = elements.itemsize
        first = start - start % width
        data = np.empty(-(-(start + len(view)) // width) * width - first, np.uint8)
        elements.gather(lambda piece, offset: self._file.read_into(piece, offset, tensor.name), data.data, first)
        number = width // 2 if tensor.dtype == "C64" else width
        data = np.ascontiguousarray(data.reshape(-1, number)[:, ::-1]).reshape(-1)
        view[:] = data.data[start - first : start - first + len(view)]

    def storage_of(self, name: str) -> tuple[str, int]:
        return self._places[name].label, self.tensors[name].nbytes

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._file.close()

    def _place(self, name: str, view: View, entries: Mapping[str, ZipEntry], swapped: bool) -> TensorInfo:
        """Check a view against its storage, the storage against its entry."""
        word, itemsize = TORCH_DTYPES[view.dtype]
        storage, path = view.storage, self.path
        if word is None:
            allowed = ", ".join(DTYPES)
            raise FormatError("unknown dtype", path=path, tensor=name, found=view.dtype, allowed=allowed)
        if len(view.shape) > DIMS_LIMIT:
            problem = f"must have at most {DIMS_LIMIT} dimensions, not {len(view.shape)}"
            raise FormatError(problem, path=path, tensor=name)
        entry = entries.get(storage.key)
        if entry is None:
            raise FormatError(f"the file has no storage {quote(storage.key)}", path=path, tensor=name)
        if entry.size // storage.itemsize != storage.size:
            expected = f"{storage.size * storage.itemsize} bytes, not {entry.size}"
            problem = f"storage {quote(storage.key)} must have {expected}"
            raise FormatError(problem, path=path, tensor=name, offset=entry.offset)
        try:
            nbytes = count_bytes(word, view.shape)
        except ValueError as error:
            raise FormatError(str(error), path=path, tensor=name) from None
        strides = tuple(stride * itemsize for stride in view.strides)
        elements = Strided(entry.offset + view.offset * itemsize, itemsize, view.shape, strides)
        end = elements.begin - entry.offset + elements.span
        if nbytes and end > entry.size:
            problem = f"needs {end} bytes of storage {quote(storage.key)}, which has {entry.size}"
            raise FormatError(problem, path=path, tensor=name, offset=entry.offset)
        contiguous = elements.is_contiguous
        whole = entry if contiguous and nbytes == entry.size else None
        label = word if contiguous else f"{word}, strides {list(view.strides)}"
        self._places[name] = _Place(elements, swapped, whole, label)
        return TensorInfo(name, word, view.shape, elements.begin if nbytes else entry.offset, nbytes, path)

    def _check_sizes(self) -> None:
        total = sum(tensor.nbytes for tensor in self.tensors.values())
        limit = max(VIEW_LIMIT, VIEW_FACTOR * self._file.size)
        if total > limit:
            problem = f"the tensors must have at most {limit} bytes, since the file has {self._file.size}, not {total}"
            raise FormatError(problem, path=self.path)


def _check_crc(view: memoryview, entry: ZipEntry, path: Path, tensor: str | None) -> None:
    """FormatError where the bytes of an entry are not those that were written. torch can be told to leave it out."""
    found = zlib.crc32(view)
    if entry.crc and found != entry.crc:
        problem = f"the CRC-32 is {found:#010x}, it was {entry.crc:#010x}"
        raise FormatError(problem, path=path, tensor=tensor, offset=entry.offset)


# The two kinds of file


def _load(file: SourceFile) -> tuple[Any, dict[str, ZipEntry], bool]:
    """The pickled value, the storages by key, and whether their elements are big-endian."""
    head = file.read(min(file.size, 4), 0)
    if head == b"PK\x03\x04":
        return _load_zip(file)
    if head[:1] == b"\x80":
        return *_load_legacy(file), False
    problem = "not a file of torch.save" if file.size else "an empty file: file ends at byte 0"
    raise FormatError(problem + looks_like(file), path=file.path)


def _load_zip(file: SourceFile) -> tuple[Any, dict[str, ZipEntry], bool]:
    entries = read_entries(file)
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in entries):
        advice = "save torch.jit.load(path).state_dict() with safetensors.torch.save_file"
        raise FormatError(f"a TorchScript archive, which holds a program: {advice}", path=file.path)
    for name, entry in entries.items():
        check_plain(entry, name, file.path, "torch.save")
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    roots = [root for root in roots if root.count("/") == 1 and root != "/"]
    if len(roots) != 1:
        found = ", ".join(quote(name) for name in list(entries)[:NAMES_SAID])
        problem = f"a zip file of torch.save must have one entry '<name>/data.pkl', not {len(roots)}; it has {found}"
        raise FormatError(problem, path=file.path)
    root = roots[0]
    outside = next((name for name in entries if not name.startswith(root)), None)
    if outside is not None:
        raise FormatError(f"entry {quote(outside)} must be in {quote(root)} as all others", path=file.path)
    pickled = entries[root + "data.pkl"]
    if pickled.size > PICKLE_LIMIT:
        problem = f"data.pkl must have at most {PICKLE_LIMIT} bytes, not {pickled.size}"
        raise FormatError(problem, path=file.path, offset=pickled.offset)
    data = file.read(pickled.size, pickled.offset)
    _check_crc(memoryview(data), pickled, file.path, None)
    value = Unpickler(io.BytesIO(data), file.path, pickled.offset).load()
    place = entries.get(root + "byteorder")
    order = b"little" if place is None else bytes(file.read(min(place.size, 9), place.offset))
    if order not in (b"little", b"big"):
        raise FormatError("byteorder must be 'little' or 'big'", path=file.path, found=order)
    storages = {
        name.removeprefix(root + "data/"): entry for name, entry in entries.items() if name.startswith(root + "data/")
    }
    return value, storages, order == b"big"


def _load_legacy(file: SourceFile) -> tuple[Any, dict[str, ZipEntry]]:
    """Five pickles (magic number, version, the machine, the value, the keys of its storages), then each storage: its
    number of elements as int64, its bytes. They are little-endian on any machine."""
    stream = file.stream(0, min(file.size, PICKLE_LIMIT))
    unpickler = Unpickler(stream, file.path)
    for expected, what in ((MAGIC_NUMBER, "magic number"), (PROTOCOL_VERSION, "protocol version")):
        found = unpickler.load()
        if found != expected:
            problem = f"a pickle, but not of torch.save: its {what} must be {expected}"
            raise FormatError(problem + ADVICE, path=file.path, found=found)
    unpickler.load()
    value = unpickler.load()
    keys = unpickler.load()
    if type(keys) is not list or set(map(type, keys)) - {str} or sorted(keys) != sorted(unpickler.storages):
        raise FormatError("the keys of the storages must be those that the tensors name", path=file.path)
    storages: dict[str, ZipEntry] = {}
    place = stream.tell()
    for key in keys:
        storage = unpickler.storages[key]
        place += _check_count(file, storage, place)
        storages[key] = ZipEntry(place, storage.size * storage.itemsize, 0, True, place, 0)
        place += storages[key].size
        if place > file.size:
            problem = f"file ends at byte {file.size}, storage {quote(key)} needs byte {place}"
            raise FormatError(problem, path=file.path, offset=storages[key].offset)
    if place != file.size:
        raise FormatError(f"{file.size - place} bytes follow the last storage", path=file.path, offset=place)
    return value, storages


def _check_count(file: SourceFile, storage: Storage, place: int) -> int:
    """The bytes of a storage's count, which must be the one that the tensors name."""
    if place + 8 > file.size:
        raise FormatError(f"file ends at byte {file.size}, before storage {quote(storage.key)}", path=file.path)
    count = int.from_bytes(file.read(8, place), "little", signed=True)
    if count != storage.size:
        problem = f"storage {quote(storage.key)} must have {storage.size} elements, not {count}"
        raise FormatError(problem, path=file.path, offset=place)
    return 8


# Which of the pickled values is the state dict


def _has_tensors(value: Any, seen: set[int]) -> bool:
    """Whether a value is a dict of tensors, or has one where a state dict may be. seen: dicts that have none."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is dict and id(item) not in seen:
            if any(type(inner) is View for inner in item.values()):
                return True
            seen.add(id(item))
            waiting += (item.get(key) for key in WRAPPERS)
    return False


def _step(values: Values) -> str | None:
    """The key under which the state dict is, or further down; None where it is `values`."""
    for key in WRAPPERS:
        if _has_tensors(values.get(key), set()):
            return key
    if any(type(value) is View for value in values.values()):
        return None
    seen: set[int] = set()
    dicts = [key for key, value in values.items() if type(key) is str and _has_tensors(value, seen)]
    return dicts[0] if len(dicts) == 1 else None


def _state_dict(root: Any, path: Path) -> tuple[dict[str, View], tuple[str, ...]]:
    """The tensors by name, and what to know of them."""
    if type(root) is not dict:
        raise FormatError(f"must hold a dict of tensors, not a {type(root).__name__.lower()}", path=path)
    values, keys, others = root, list[str](), list[tuple[str | Key, Any]]()
    while (key := _step(values)) is not None and len(keys) < len(WRAPPERS):
        others += [(name, value) for name, value in values.items() if name != key]
        keys.append(key)
        values = values[key]
    found: dict[str, View] = {}
    for name, value in values.items():
        if type(value) is not View:
            others.append((name, value))
        elif type(name) is not str:
            raise FormatError("the name of a tensor must be a string", path=path, found=name.value)
        else:
            found[name] = value
    if not found:
        has = f"; there are {_described(others)}: save the dict of tensors alone" if others else ""
        raise FormatError(f"has no dict of tensors at its top or under one of {', '.join(WRAPPERS)}{has}", path=path)
    notes = [f"the state dict is that under {' / '.join(map(quote, keys))}"] if keys else []
    if others:
        notes.append(f"left out what is no tensor of the state dict: {_described(others)}")
    return found, tuple(notes)


def _described(values: list[tuple[str | Key, Any]]) -> str:
    """The names of values that are left out, and how many tensors are in each."""
    words = []
    for name, value in values[:NAMES_SAID]:
        count = sum(1 for _ in _views_in(value))
        label = quote(name.value if isinstance(name, Key) else name)
        words.append(f"{label} ({count} tensor{'s' * (count != 1)})" if count else label)
    return _listed(words, len(values))


def _views_in(value: Any) -> Iterator[View]:
    """The tensors inside a value, whatever it is; containers may hold themselves."""
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        if type(item) is View:
            yield item
        elif type(item) in (dict, list, tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if type(item) is dict else item


def _listed(words: list[str], count: int | None = None) -> str:
    more = (len(words) if count is None else count) - NAMES_SAID
    return ", ".join(words[:NAMES_SAID]) + (f" and {more} more" if more > 0 else "")


def _notes(state: Mapping[str, View], places: Mapping[str, _Place]) -> tuple[str, ...]:
    """What to know of the bytes of the tensors."""
    notes = []
    first: dict[tuple[object, ...], str] = {}
    tied = []
    for name, view in state.items():
        same = (view.storage.key, view.dtype, view.offset, view.shape, view.strides)
        if math.prod(view.shape) and first.setdefault(same, name) != name:
            tied.append(f"{quote(name)} is {quote(first[same])}")
    if tied:
        notes.append(f"tensors that share their bytes: {_listed(tied)}")
    strided = [quote(name) for name, place in places.items() if not place.elements.is_contiguous]
    if strided:
        notes.append(f"strided views, gathered as they are read: {_listed(strided)}")
    return tuple(notes)
