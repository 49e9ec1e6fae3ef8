"""The contestants that the modules peers_*.py hand to the harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Contestant:
    """One way to do a task.

    name: of the framework's function.
    call: does the task once, into outputs made before.
    answer(rows): what the last call computed for these rows; everything where the task is of the whole.
    """

    name: str
    call: Callable[[], object]
    answer: Callable[[Array], Array]


def in_rows(a: Array) -> Callable[[Array], Array]:
    """Answer with these rows of an output."""
    return lambda rows: a[rows]


def whole(a: Array) -> Callable[[Array], Array]:
    """Answer with this output."""
    return lambda rows: a


def scaled(codes: Array, scales: Array) -> Callable[[Array], Array]:
    """Answer with codes (rows, cols) times scales that broadcast to (rows, groups, columns of a group)."""

    def answer(rows: Array) -> Array:
        some = codes[rows].astype(np.float32)
        factor = np.asarray(scales, np.float32)
        factor = factor[rows] if factor.ndim and len(factor) == len(codes) else factor.reshape(1, -1)
        groups = factor.shape[1]
        return (some.reshape(len(some), groups, -1) * factor[..., None]).reshape(some.shape)

    return answer


def scaled_nibbles(packed: Array, scales: Array) -> Callable[[Array], Array]:
    """Answer with (code - 8) * scale: codes two in a byte, element 0 low; scales (rows, groups)."""

    def answer(rows: Array) -> Array:
        some = packed[rows]
        codes = np.stack([some & 15, some >> 4], axis=2).reshape(len(some), -1).astype(np.float32) - 8
        groups = np.asarray(scales)[rows]
        weights: Array = codes.reshape(*groups.shape, -1) * groups[..., None]
        return weights.reshape(codes.shape)

    return answer
