"""Tensors in memory that are read as those of a checkpoint are, for the tests of quantrim.model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantrim.tensor import matrix_shape


@dataclass
class Held:
    """What quantrim.model.report.inspect.Tensor asks for."""

    array: NDArray[Any]
    name: str = "w"
    label: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def rows(self, first: int, count: int) -> NDArray[Any]:
        return self.array.reshape(matrix_shape(self.shape))[first : first + count]


def normal(*shape: int, seed: int = 0, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Standard normal numbers, the same for a seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
