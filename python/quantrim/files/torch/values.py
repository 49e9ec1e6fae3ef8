"""What a pickle of torch may build: containers, storages and views of them; and what each name in it means.

Nothing here is torch's: a function that a pickle names is a name, and calling it looks the name up in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..disk.errors import quote

# torch's names of dtypes -> (the name in DTYPES or None, bytes per element)
TORCH_DTYPES: dict[str, tuple[str | None, int]] = {
    "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1), "float8_e8m0fnu": ("F8_E8M0", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1), "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "int64": ("I64", 8), "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1),
    "uint64": ("U64", 8), "uint32": ("U32", 4), "uint16": ("U16", 2), "uint8": ("U8", 1), "bool": ("BOOL", 1),
    "complex64": ("C64", 8), "complex128": (None, 16), "complex32": (None, 4), "float4_e2m1fn_x2": (None, 1),
}  # fmt: skip
_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}  # fmt: skip
STORAGE_DTYPES: dict[str, str | None] = {
    f"{module}.{word}Storage": dtype for module in ("torch", "torch.cuda") for word, dtype in _STORAGES.items()
} | {"torch.storage.UntypedStorage": None, "torch.storage._UntypedStorage": None}


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names: the name, and nothing behind it."""

    name: str


class Opaque:
    """A value that is no tensor and no container; what it was is not kept."""


@dataclass(frozen=True, eq=False)
class Key:
    """A key of a dict that is no string: equal to nothing else, so that no hash of hostile keys is computed."""

    value: object


class Storage(NamedTuple):
    """Elements in a row, which tensors are views of. dtype: torch's name; None: `size` bytes without a type."""

    key: str
    dtype: str | None
    size: int

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 1 if self.dtype is None else TORCH_DTYPES[self.dtype][1]


@dataclass(frozen=True)
class View:
    """A tensor: `shape` elements of a storage from element `offset` on, `strides` elements apart. Not yet checked
    against the storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Refused(Exception):
    """What is wrong; `Unpickler.load` adds the place."""


# What a REDUCE may mean


def sizes(value: Any, what: str) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        raise Refused(f"the {what} of a tensor must be integers, 0 to 2^63-1, not {quote(value)}")
    return tuple(value)


def _view(dtype: str | None, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> View:
    if type(storage) is not Storage:
        raise Refused("a tensor must be built on a storage")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise Refused("a tensor on an untyped storage must name its dtype")
    dims, steps = sizes(shape, "shape"), sizes(strides, "strides")
    if len(dims) != len(steps):
        raise Refused(f"a tensor must have as many strides as dimensions, not {len(steps)} and {len(dims)}")
    if any(rest):
        raise Refused("a tensor must be plain, without a conjugate or negative bit")
    return View(storage, dtype, sizes((offset,), "offset")[0], dims, steps)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> View:
    return _view(None, storage, offset, shape, strides)


def _tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> View:
    return _view(None, storage, offset, shape, strides, metadata)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> View:
    word = dtype.name.removeprefix("torch.") if type(dtype) is Global else None
    if word not in TORCH_DTYPES:
        raise Refused(f"a tensor must have a dtype of torch, not {quote(word)}")
    return _view(word, storage, offset, shape, strides, metadata)


def _parameter(data: Any, grad: Any, hooks: Any, state: Any = None) -> View:
    if type(data) is not View:
        raise Refused("a parameter must be built on a tensor")
    return data


def _from_type(function: Any, kind: Any, args: Any, state: Any) -> View:
    """A tensor with attributes of its own, which are left out."""
    if kind not in (Global("torch.Tensor"), Global("torch.nn.parameter.Parameter")):
        raise Refused(f"a tensor must be of no class of its own, not {quote(getattr(kind, 'name', None))}")
    if function == Global("torch._tensor._rebuild_from_type_v2"):  # would nest without end
        raise Refused("a tensor must be built by a function that builds tensors")
    made = reduce(function, args)
    if type(made) is not View:
        raise Refused("a tensor must be built by a function that builds tensors")
    return made


def _ordered_dict(pairs: Any = ()) -> dict[str | Key, Any]:
    if type(pairs) not in (tuple, list) or not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
        raise Refused("an OrderedDict must be built of pairs")
    return {key_of(name): value for name, value in pairs}


def _size(value: Any = ()) -> tuple[int, ...]:
    return sizes(value, "size")


def _opaque(*args: Any) -> Opaque:
    return Opaque()


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.device": _opaque,
    "collections.Counter": _opaque,
    "builtins.set": _opaque,
    "builtins.complex": _opaque,
    "builtins.bytearray": _opaque,
    "_codecs.encode": _opaque,
}
GLOBALS = {
    *_CALLS,
    *STORAGE_DTYPES,
    *(f"torch.{dtype}" for dtype in TORCH_DTYPES),
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
}


def reduce(function: Any, args: Any) -> Any:
    if type(function) is not Global or function.name not in _CALLS:
        raise Refused(f"{quote(getattr(function, 'name', 'a value'))} must not be called")
    if type(args) is not tuple:
        raise Refused("the arguments of a call must be a tuple")
    try:
        return _CALLS[function.name](*args)
    except TypeError:
        raise Refused(f"{function.name} must not be called with {len(args)} arguments") from None


def key_of(value: Any) -> str | Key:
    return value if type(value) is str else Key(value if type(value) is int else None)
