"""An open checkpoint in which some tensors are other ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...checks import Array
from ...files import Checkpoint
from ...files.disk.descriptors import byte_view
from ...files.disk.errors import quote
from ...files.tensor_info import TensorInfo, little_endian


class Overlay(Checkpoint):
    """A checkpoint that gives these arrays for tensors of the same names and dtypes, in any shapes, and everything else
    as the checkpoint below, which stays as it is. `tensors` has the new shapes."""

    def __init__(self, below: Checkpoint, arrays: Mapping[str, Array]) -> None:
        self._below = below
        self._bytes: dict[str, memoryview] = {}
        self.tensors = dict(below.tensors)
        for name, array in arrays.items():
            info = below.tensors[name]
            if array.dtype != info.numpy_dtype or info.packed:
                raise TypeError(f"array must be {info.dtype}, as tensor {quote(name)} is, not {array.dtype}")
            self._bytes[name] = byte_view(little_endian(np.ascontiguousarray(array)), "array")
            self.tensors[name] = info._replace(shape=array.shape, nbytes=array.nbytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def _read(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        if tensor.name in self._bytes:
            view[:] = self._bytes[tensor.name][start : start + len(view)]
        else:
            self._below._read(tensor, view, start)
