"""The pickle inside a PyTorch file, read into containers and descriptions of tensors: nothing of it is ever run.

Why not a subclass of `pickle.Unpickler` with `find_class` and `persistent_load`: its REDUCE calls, its BUILD sets
attributes (also of what `find_class` returned), its EXT opcodes ask copyreg, a LONG_BINPUT allocates gigabytes for the
memo, and a deep tuple as a key of a dict overflows the C stack. Here REDUCE looks a name up in a table, a global is an
inert name, and what torch never writes is refused.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ..disk.errors import FormatError, quote
from .values import GLOBALS, STORAGE_DTYPES, Global, Refused, Storage, key_of, reduce, sizes

OPCODE_LIMIT = 10_000_000  # about 33 of them make a tensor
STRING_LIMIT = 1 << 20  # bytes of one string
MARK_LIMIT = 1000  # containers that are open at once
ADVICE = (
    "; where you trust the file, open it with torch.load (weights_only=True, if that will do) and save the state dict "
    "with safetensors.torch.save_file"
)


class Unpickler:
    """Read pickles from `file`, one with each `load`; limits are of all together. base: where byte 0 of `file` is in
    the file at `path`, for messages."""

    def __init__(self, file: BinaryIO, path: Path, base: int = 0) -> None:
        self._file, self._path, self._base = file, path, base
        self._work = 0  # opcodes, and values that calls have gone through
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Read up to STOP and return the value: None, bool, int, float, str, bytes, tuple, list, dict (of str or Key),
        Global, Opaque, Storage or View, nested."""
        try:
            while self._work < OPCODE_LIMIT:
                self._work += 1
                opcode = self._read(1)
                if opcode == pickle.STOP:
                    return self._stack.pop()
                action = _ACTIONS.get(opcode)
                if action is None:
                    raise Refused(f"opcode {opcode!r} is none that torch writes{ADVICE}")
                action(self)
            raise Refused(f"a pickle must have at most {OPCODE_LIMIT} opcodes")
        except Refused as error:
            self._fail(str(error))
        except IndexError:
            self._fail("a pickle takes more values than it has")

    def _fail(self, problem: str) -> NoReturn:
        raise FormatError(problem, path=self._path, offset=self._base + self._file.tell()) from None

    # Bytes

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise Refused("ends inside a pickle")
        return data

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._read(struct.calcsize(layout)))[0]
        return number

    def _bytes(self, length_layout: str) -> bytes:
        length = self._number(length_layout)
        if not 0 <= length <= STRING_LIMIT:
            raise Refused(f"a string must have at most {STRING_LIMIT} bytes, not {length}")
        return self._read(length)

    def _text(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(f"a string must be UTF-8, not {quote(data)}") from None

    def _line(self) -> str:
        data = self._file.readline(STRING_LIMIT)
        if not data.endswith(b"\n"):
            raise Refused("ends inside a name")
        return self._text(data[:-1])

    # The stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        if len(self._marks) >= MARK_LIMIT:
            raise Refused(f"containers must nest at most {MARK_LIMIT} deep")
        self._marks.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marks.pop()
        return values

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _extend(self, values: Sequence[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise Refused("items must be added to a list")
        target.extend(values)

    def _set_items(self, values: Sequence[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise Refused("pairs must be added to a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key_of(key)] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items((key, value))

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise Refused(f"value {index} must be kept before it is used")
        self._push(self._memo[index])

    # What pickles of other programs run

    def _global(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if type(module) is not str or type(name) is not str or full not in GLOBALS:
            raise Refused(f"the global {quote(full)} is refused, and nothing was run: a state dict needs none{ADVICE}")
        self._push(Global(full))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._global(module, name)

    def _call(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if type(args) is tuple:  # the same long list may be the argument of many calls
            self._work += len(args) + sum(len(arg) for arg in args[:8] if type(arg) in (tuple, list))
        self._push(reduce(function, args))

    def _build(self) -> None:
        """Drop the attributes of an OrderedDict (its `_metadata`, versions of modules)."""
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise Refused(f"attributes must be those of an OrderedDict{ADVICE}")

    def _persistent(self) -> None:
        said = self._stack.pop()
        if type(said) is not tuple or len(said) not in (5, 6) or said[0] != "storage":
            raise Refused(f"a persistent id must be that of a storage{ADVICE}")
        kind, key, _, count = said[1:5]
        if type(kind) is not Global or kind.name not in STORAGE_DTYPES or type(key) is not str:
            raise Refused("a storage must have a type of torch and a key")
        if said[5:] not in ((), (None,)):
            raise Refused(f"a storage must not be a view of another one{ADVICE}")
        storage = Storage(key, STORAGE_DTYPES[kind.name], sizes((count,), "storage")[0])
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {quote(key)} must be the same wherever it is named")
        self._push(storage)


_ACTIONS: dict[bytes, Callable[[Unpickler], object]] = {
    pickle.PROTO: lambda p: p._read(1),
    pickle.FRAME: lambda p: p._read(8),
    pickle.MARK: Unpickler._mark,
    pickle.POP: lambda p: p._stack.pop(),
    pickle.POP_MARK: Unpickler._to_mark,
    pickle.NONE: lambda p: p._push(None),
    pickle.NEWTRUE: lambda p: p._push(True),
    pickle.NEWFALSE: lambda p: p._push(False),
    pickle.BININT: lambda p: p._push(p._number("<i")),
    pickle.BININT1: lambda p: p._push(p._number("<B")),
    pickle.BININT2: lambda p: p._push(p._number("<H")),
    pickle.LONG1: lambda p: p._push(int.from_bytes(p._bytes("<B"), "little", signed=True)),
    pickle.BINFLOAT: lambda p: p._push(struct.unpack(">d", p._read(8))[0]),
    pickle.BINUNICODE: lambda p: p._push(p._text(p._bytes("<I"))),
    pickle.SHORT_BINUNICODE: lambda p: p._push(p._text(p._bytes("<B"))),
    pickle.BINUNICODE8: lambda p: p._push(p._text(p._bytes("<Q"))),
    pickle.BINSTRING: lambda p: p._push(p._text(p._bytes("<i"))),  # of Python 2
    pickle.SHORT_BINSTRING: lambda p: p._push(p._text(p._bytes("<B"))),
    pickle.BINBYTES: lambda p: p._push(p._bytes("<I")),
    pickle.SHORT_BINBYTES: lambda p: p._push(p._bytes("<B")),
    pickle.BINBYTES8: lambda p: p._push(p._bytes("<Q")),
    pickle.BYTEARRAY8: lambda p: p._push(p._bytes("<Q")),
    pickle.EMPTY_TUPLE: lambda p: p._push(()),
    pickle.EMPTY_LIST: lambda p: p._push([]),
    pickle.EMPTY_DICT: lambda p: p._push({}),
    pickle.EMPTY_SET: lambda p: p._push([]),  # in order, since its items may not be hashed
    pickle.TUPLE: lambda p: p._push(tuple(p._to_mark())),
    pickle.TUPLE1: lambda p: p._tuple(1),
    pickle.TUPLE2: lambda p: p._tuple(2),
    pickle.TUPLE3: lambda p: p._tuple(3),
    pickle.FROZENSET: lambda p: p._push(p._to_mark()),
    pickle.APPEND: lambda p: p._extend([p._stack.pop()]),
    pickle.APPENDS: lambda p: p._extend(p._to_mark()),
    pickle.ADDITEMS: lambda p: p._extend(p._to_mark()),
    pickle.SETITEM: Unpickler._set_item,
    pickle.SETITEMS: lambda p: p._set_items(p._to_mark()),
    pickle.BINPUT: lambda p: p._memoize(p._number("<B")),
    pickle.LONG_BINPUT: lambda p: p._memoize(p._number("<I")),
    pickle.MEMOIZE: lambda p: p._memoize(len(p._memo)),
    pickle.BINGET: lambda p: p._recall(p._number("<B")),
    pickle.LONG_BINGET: lambda p: p._recall(p._number("<I")),
    pickle.GLOBAL: lambda p: p._global(p._line(), p._line()),
    pickle.STACK_GLOBAL: Unpickler._stack_global,
    pickle.REDUCE: Unpickler._call,
    pickle.BUILD: Unpickler._build,
    pickle.BINPERSID: Unpickler._persistent,
}
