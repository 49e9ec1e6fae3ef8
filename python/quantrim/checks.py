"""Checks of public arguments, once for every backend: which arrays come in, which may be written.

An error names the argument, says what it must be and what it is.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core
from .float_environment import default_floats

Array = NDArray[Any]
W = TypeVar("W", bound=str)

FLOATS = tuple(np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16))
FLOAT64 = np.dtype(np.float64)  # to compare with: numpy makes one of np.float64 at each comparison
LARGEST = {
    "float64": float(np.finfo(np.float64).max),
    "float32": float(np.finfo(np.float32).max),
    "float16": 65504.0,
    "bfloat16": float.fromhex("0x1.fep127"),
}
MAX_M = 32  # of the pattern "n:m"
_CHUNK = 1 << 22  # elements scanned together when an error needs a count


def array(name: str, a: object) -> Array:
    """Return `a` as an ndarray without a mask or matrix semantics. Memory of other libraries is not copied."""
    if isinstance(a, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} must be a plain array, not {type(a).__name__}; fill or drop the mask first")
    try:
        return np.asarray(a) if isinstance(a, np.ndarray) or not hasattr(a, "__dlpack__") else _foreign(a)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:  # another device, a dtype that numpy has not
        raise TypeError(f"{name} must be an array that numpy can read, not {type(a).__name__}: {error}") from None


def _foreign(a: Any) -> Array:
    """Read another library's array, as numpy does or by DLPack; TypeError with the first refusal."""
    if getattr(a, "requires_grad", False):  # a Parameter of torch, of which only the values count
        a = a.detach()
    why = ""  # the error itself would hold this frame and the callers', and so the arrays, until they are collected
    for read in (np.asarray, np.from_dlpack, _bfloat16_by_dlpack):
        try:
            if read is not np.asarray or hasattr(a, "__array__"):  # else np.asarray would see a lone object
                return read(a)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            why = why or str(error)
    raise TypeError(why)


def _bfloat16_by_dlpack(a: Any) -> Array:
    try:
        capsule = a.__dlpack__(max_version=(1, 0))
    except TypeError:  # from before there were versions
        capsule = a.__dlpack__()
    found = _core.bfloat16_from_dlpack(capsule, FLOATS[2])
    if found is None:
        raise TypeError("a dtype that numpy has not")
    return found


def floats(name: str, a: object, shape: tuple[int, ...] | None = None) -> Array:
    """Return `a` as a C-ordered, aligned, native array of float32, float16 or bfloat16 with at least one axis.

    float64, which numpy makes of lists of Python's floats, is narrowed to float32 and refused where that overflows;
    integers become float32 where it holds each of them exactly; every other dtype is a TypeError.
    """
    x = weights(name, a, shape)
    return _narrowed(name, x) if x.dtype == FLOAT64 else x


def weights(name: str, a: object, shape: tuple[int, ...] | None = None) -> Array:
    """Return `a` as `floats` does, but float64 as it is."""
    if _core.usual_input(a) and (shape is None or a.shape == shape):
        return a
    x = array(name, a)
    native = x.dtype.newbyteorder("=")
    if native == FLOAT64 or native in FLOATS:
        x = x.astype(native, copy=False)
    elif native.kind in "iu":
        x = _exact(name, x)
    else:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, or integers, not {x.dtype}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, not shape ()")
    if shape is not None and x.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {x.shape}")
    return np.require(x, requirements=["C_CONTIGUOUS", "ALIGNED"])


def _in_order(a: Array) -> bool:
    flags = a.flags
    return flags.c_contiguous and flags.aligned


@default_floats
def _narrowed(name: str, x: Array) -> Array:
    with np.errstate(all="ignore"):
        narrow = x.astype(np.float32)
    lost = np.isinf(narrow) & np.isfinite(x)
    if lost.any():
        at = int(lost.argmax())
        raise ValueError(f"{name} must fit float32, not {x.ravel()[at]!r} at flat index {at}")
    return narrow


def _exact(name: str, x: Array) -> Array:
    """Return integers as float32, which has 24 bits for what precedes the zeros that an integer ends with."""
    if x.size and x.dtype.itemsize > 2 and not -(2**24) <= x.min() <= x.max() <= 2**24:
        bits = x.astype(np.uint64)
        size = np.where(x < 0, -bits, bits)  # of the lowest int64, too
        lost = size // np.maximum(size & -size, 1) >= 2**24
        if lost.any():
            at = int(lost.argmax())
            raise ValueError(f"{name} must be integers that float32 holds, not {x.ravel()[at]} at flat index {at}")
    return x.astype(np.float32)


def vector(name: str, a: object, length: int) -> Array:
    """Return `a` as `length` finite, non-negative float32 values (one per column, say)."""
    x = floats(name, a, (length,)).astype(np.float32, copy=False)
    if x.size and not (x.min() >= 0 and x.max() < math.inf):  # NaN is neither
        at = int((~(x >= 0) | np.isinf(x)).argmax())
        raise ValueError(f"{name} must be finite and not negative, not {x[at]} at index {at}")
    return x


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int of low..high; numpy integers pass, bool, float and str do not."""
    if type(value) is int and low <= value <= high:
        return value
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer of {low}..{high}, not {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer of {low}..{high}, not {value!r}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be an integer of {low}..{high}, not {number}")
    return number


def number(name: str, value: object, low: float, high: float) -> float:
    """Return `value` as a finite float of low..high."""
    if type(value) is float and low <= value <= high and math.isfinite(value):
        return value
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a number of {low}..{high}, not {value!r}")
    try:
        x = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of {low}..{high}, not {value!r}") from None
    except OverflowError:  # an int or a fraction too large for a float
        raise ValueError(f"{name} must be a number of {low}..{high}, not one beyond float64") from None
    if not low <= x <= high or math.isinf(x):
        raise ValueError(f"{name} must be a number of {low}..{high}, not {x}")
    return x


def choice(name: str, value: object, allowed: Collection[W]) -> W:
    """Return `value` if it is one of the `allowed` words."""
    for word in allowed:
        if isinstance(value, str) and value == word:
            return word
    words = ", ".join(map(repr, allowed))
    raise ValueError(f"{name} must be one of {words}, not {value!r}{nearest(value, allowed)}")


def nearest(value: object, allowed: Collection[str]) -> str:
    """Return '; did you mean ...?' with the word of `allowed` that comes near `value`, or ''.

    >>> nearest("sparce", ["auto", "dense", "sparse"])
    "; did you mean 'sparse'?"
    """
    from difflib import get_close_matches

    near = get_close_matches(value[:99].lower(), allowed, 1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def n_of_m(text: str) -> tuple[int, int] | None:
    """Return (n, m) of "n:m" with 1 <= n < m <= MAX_M; None for another text."""
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})", text)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if 1 <= n < m <= MAX_M else None


def flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False."""
    if value is True or value is False:
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def axis(value: object, ndim: int) -> int:
    """Return an axis number of -ndim..ndim-1 as 0..ndim-1."""
    return integer("axis", value, -ndim, ndim - 1) % ndim


def output(
    out: object,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *inputs: Array,
    name: str = "out",
    in_place: bool = True,
) -> Array:
    """Return `out` if results may be written to it, or a fresh array where it is None.

    It may not overlap any of `inputs`, except that where `in_place` it may be one of them, element for element.
    """
    if out is None:
        return np.empty(shape, dtype)
    into = writable(name, out, shape, dtype)
    for other in inputs:
        is_input(name, into, other, in_place)
    return into


def writable(name: str, out: object, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return `out` if it is a plain array of this shape and dtype that may be written."""
    if not isinstance(out, np.ndarray) or (type(out) is not np.ndarray and not isinstance(out, np.memmap)):
        raise TypeError(f"{name} must be a plain ndarray, not {type(out).__name__}")
    if out.dtype != np.dtype(dtype):
        raise TypeError(f"{name} must be {np.dtype(dtype)}, not {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, not read-only")
    if not _in_order(out):
        raise ValueError(f"{name} must be C-contiguous and aligned, not strides {out.strides} of shape {out.shape}")
    return out


def held(name: str, a: object, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Raise where an array that a container is to hold has another dtype or shape."""
    if not isinstance(a, np.ndarray) or a.dtype != np.dtype(dtype):
        raise TypeError(f"{name} must be {np.dtype(dtype)}, not {getattr(a, 'dtype', type(a).__name__)}")
    if a.shape != shape:
        needed, found = math.prod(shape) * a.itemsize, a.nbytes
        raise ValueError(f"{name} must have shape {shape} ({needed} bytes), not {a.shape} ({found} bytes)")


def fields(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a container as they were before `np.savez`, which makes arrays of numbers, words and shapes."""
    plain = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in saved.items()}
    return {**plain, "shape": tuple(map(int, plain["shape"]))}


def is_input(name: str, out: Array, other: Array, in_place: bool = True) -> bool:
    """Tell whether `out` is `other`, element for element; ValueError where it overlaps otherwise or may not be it."""
    if out is not other and not np.may_share_memory(out, other):
        return False
    if not (in_place and same_buffer(out, other)):
        allowed = "an input itself or apart from it, not overlap it partly" if in_place else "apart from every input"
        raise ValueError(f"{name} must be {allowed}")
    return True


def same_buffer(a: Array, b: Array) -> bool:
    """Tell whether two contiguous arrays are the same bytes, element for element."""
    return a is b or (np.may_share_memory(a, b) and _same_bytes(a, b))


def _same_bytes(a: Array, b: Array) -> bool:
    return a.ctypes.data == b.ctypes.data and a.nbytes == b.nbytes and a.dtype == b.dtype


def rows(a: Array) -> Array:
    """View a C-ordered array as (rows, cols): cols is its last axis."""
    if a.ndim == 2:
        return a
    cols = a.shape[-1]
    return a.reshape(a.size // cols if cols else int(np.prod(a.shape[:-1])), cols)


class ScaleOverflowError(ValueError):
    """A scale, or a weight beside it, that is beyond the largest number of the dtype of scales."""


def finite(name: str, a: Array, all_finite: bool) -> None:
    """Raise where a kernel saw NaN or infinity in `a`, with their count and the place of the first."""
    if all_finite:
        return
    flat = a.ravel()
    count, first = 0, -1
    for start in range(0, flat.size, _CHUNK):
        with np.errstate(invalid="ignore"):  # of a signaling NaN in bfloat16
            bad = ~np.isfinite(flat[start : start + _CHUNK])
        if first < 0 and bad.any():
            first = start + int(bad.argmax())
        count += int(np.count_nonzero(bad))
    if count:
        raise ValueError(
            f"{name} must be finite, but has {count} NaN or infinite of {flat.size} values, "
            f"the first {float(flat[first])} at flat index {first}"
        )
