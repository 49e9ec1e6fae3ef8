"""What a row of tests/cases.py is made of: a case, the outputs it names, and weights that break kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Out:
    """Where a kernel writes: it is handed a fresh array full of `poison`, with more behind its end."""

    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Case:
    """args(rng, rows, cols, dtype) gives a kernel's arguments; those that are `Out` are compared afterwards."""

    name: str
    args: Callable[[np.random.Generator, int, int, Any], tuple[Any, ...]]
    kernel: str = ""  # where one kernel has several cases
    typed: bool = True  # whether it reads weights of all three dtypes
    multiple: int = 1  # cols must be a multiple of this

    @property
    def function(self) -> str:
        return self.kernel or self.name


def weights(rng: np.random.Generator, rows: int, cols: int, dtype: Any) -> Array:
    """Normal weights with what breaks kernels among them: zeros of both signs, ties, tiny, huge, subnormal."""
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    special = np.array(
        [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, 1e-45, -1e-38, 6e-8, 3e4, 127.5, -126.5], np.float32
    )
    spots = rng.random((rows, cols)) < 0.2
    w[spots] = rng.choice(special, int(spots.sum()))
    w[:1, : min(cols, 40)] = 0
    if rows > 1:
        w[1] *= np.float32(1e-38)
    if rows > 2:
        w[2] = -0.0
    return w.astype(dtype)


def largest(rng: np.random.Generator, rows: int, cols: int, dtype: Any) -> Array:
    """Weights up to the ends of their dtype."""
    top = float(ml_dtypes.finfo(dtype).max)
    return (np.clip(weights(rng, rows, cols, np.float32), -1, 1) * top).astype(dtype)


def plain(*rest: Any) -> Callable[..., tuple[Any, ...]]:
    """w flat, more arguments, an output like w."""
    return lambda rng, r, c, d: (weights(rng, r, c, d).reshape(-1), *rest, Out((r * c,), d))
