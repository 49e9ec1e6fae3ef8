"""One tensor in memory <-> the arrays of a layout, by their names in the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tensor import QuantizedTensor, matrix_shape
from .base import FLOATS, Array, Chunk, Shape, WritableLayout

_OTHERS = {"F64": np.float64, "U8": np.uint8, "I8": np.int8, "I32": np.int32, "I64": np.int64}
_DTYPES = {**FLOATS, **{name: np.dtype(dtype) for name, dtype in _OTHERS.items()}}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode(layout: WritableLayout, x: QuantizedTensor | Array) -> dict[str, Array]:
    """Return the arrays that a tensor is stored as: codes of it, or weights where the layout has none.

    >>> import numpy as np, quantrim as qt
    >>> from quantrim.layouts.compressed_tensors import layout_of
    >>> q = qt.quantize(np.eye(8, dtype=np.float32), 4, scale_dtype="float16")
    >>> {name: a.shape for name, a in encode(layout_of(q), q).items()}
    {'weight_scale': (8, 1), 'weight_packed': (8, 1), 'weight_shape': (2,)}
    """
    shape = tuple(x.shape)
    rows, cols = matrix_shape(shape)
    counts = (layout.count(x),) if layout.counted else ()
    layout = layout.of_size(sum(counts))
    arrays = layout.stored(shape)
    found = {role: np.zeros(each.shape, _DTYPES[each.dtype]) for role, each in arrays.items()}
    encoder = layout.encoder(shape, counts)
    for pieces in (encoder.encode(x, Chunk(0, rows, 0, cols)), encoder.finish()):
        for role, at, data in pieces:
            raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            found[role].reshape(-1).view(np.uint8)[at : at + raw.size] = raw
    return {each.name: found[role] for role, each in arrays.items()}


def decode(layout: WritableLayout, arrays: Mapping[str, NDArray[Any]], shape: Shape) -> QuantizedTensor | Array:
    """Return the tensor of this shape that these arrays hold. ValueError where they hold no such thing."""
    return layout.decode(InMemory(arrays), 0, matrix_shape(shape)[0], shape)


class InMemory:
    """`layouts.base.Arrays` of arrays by name."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def rows(self, name: str, first: int, count: int) -> Array:
        return self._arrays[name][first : first + count]

    def array(self, name: str) -> Array:
        return self._arrays[name]

    def values(self, name: str, dtype: Any, first: int, count: int) -> Array:
        flat = np.ascontiguousarray(self._arrays[name]).reshape(-1)
        return (flat if dtype is None else flat.view(dtype))[first : first + count]

    def info(self, name: str) -> tuple[str, Shape] | None:
        found = self._arrays.get(name)
        return None if found is None else (_NAMES[found.dtype], found.shape)
