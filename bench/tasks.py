"""The rows of the comparison: what each task is, which bytes it must move, and how a result is checked.

Contestants answer in the task's own terms: weights, scores, or the weights that codes decode to. What a row
decides alone is checked on some of the first and the last rows; what needs the whole tensor, on all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from machine import aligned
from numpy.typing import NDArray

Array = NDArray[Any]

THRESHOLD = 0.6745  # the median magnitude of normal weights
SPARSITY = 0.5
SCALE = 4 / 127  # for int8 where the scale is given
GROUP = 32
SUM_TOLERANCE = 1e-4  # float32 sums of a row or a column
TOTAL_TOLERANCE = 5e-3  # float32 sums of 45 million values; those with few accumulators lose the third digit
SCORE_TOLERANCE = 1e-6  # one or two float32 operations
ERROR_SLACK = 1.15  # others' int4 grids reach from -8 to 7: their error is not exactly ours
TIES = 64  # weights that a rank may miss, since some contestants cannot tell equal magnitudes apart


@dataclass(frozen=True)
class Data:
    """The same for every contestant: normal weights (rows, cols) and an input norm (cols,), float32.

    offset: bytes by which every array misses a multiple of 64; numpy's own large arrays miss it by 16.
    """

    rows: int
    cols: int
    offset: int = 0

    @cached_property
    def w(self) -> Array:
        w: Array = aligned((self.rows, self.cols), np.float32, offset=self.offset)
        np.random.default_rng(7).standard_normal(dtype=np.float32, out=w)
        return w

    @cached_property
    def norm(self) -> Array:
        norm: Array = np.random.default_rng(8).random(self.cols, np.float32) + np.float32(0.5)
        return norm

    @cached_property
    def sampled(self) -> Array:
        """Rows that are checked."""
        first, last = np.arange(min(48, self.rows)), np.arange(max(0, self.rows - 16), self.rows)
        return np.concatenate([first, last])

    @property
    def removed(self) -> int:
        """Weights that pruning half of everything removes."""
        return round(SPARSITY * self.w.size)

    def like(self, dtype: Any = np.float32, shape: tuple[int, ...] | None = None) -> Array:
        """Make an output to reuse, of w's shape unless told, full of a value that no task gives."""
        return aligned((self.rows, self.cols) if shape is None else shape, dtype, 77, self.offset)

    def grid(self) -> tuple[Array, Array]:
        """Make symmetric int4 in groups of 32: codes (rows, cols / 2), two in a byte; scales (rows, groups)."""
        groups = self.w.reshape(self.rows, -1, GROUP)
        scales = np.abs(groups).max(axis=2) / np.float32(7)
        codes = np.rint(groups / scales[..., None]).astype(np.int8).reshape(self.w.shape)
        codes += np.int8(8)
        b = codes.view(np.uint8)
        return b[:, 0::2] | b[:, 1::2] << 4, scales


def equal(expected: Callable[[Data], Array], tolerance: float = 0) -> Callable[[Data, Array], bool]:
    """Tell whether the sampled rows are those that are expected."""

    def check(data: Data, answer: Array) -> bool:
        want = expected(data)
        return answer.shape == want.shape and bool(np.allclose(answer, want, rtol=tolerance, atol=0))

    return check


def error_as(bits: int, shape: Callable[[Data], tuple[int, ...]]) -> Callable[[Data, Array], bool]:
    """Tell whether the sampled rows have the error of a symmetric grid of `bits` bits, groups as in `shape`."""

    def check(data: Data, answer: Array) -> bool:
        w = data.w[data.sampled]
        if answer.shape != w.shape:
            return False
        whole = data.w.reshape(shape(data))
        scale = np.abs(whole).max(axis=-1, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
        step = np.broadcast_to(scale, whole.shape).reshape(data.w.shape)[data.sampled]
        ideal = np.rint(w / step) * step
        return rms(answer - w) <= ERROR_SLACK * rms(ideal - w)

    return check


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def halved(data: Data, answer: Array) -> bool:
    """Tell whether the smaller half of all magnitudes is gone, but for ties at the cut, and the rest as it was."""
    gone = answer == 0
    if answer.shape != data.w.shape or abs(int(gone.sum()) - data.removed) > TIES:
        return False
    size = np.abs(data.w)
    same = bool((answer == np.where(gone, 0, data.w)).all())
    return same and float(size.max(where=gone, initial=0)) <= float(size.min(where=~gone, initial=np.inf))


def thresholded(data: Data) -> Array:
    w = data.w[data.sampled]
    return np.where(np.abs(w) < np.float32(THRESHOLD), np.float32(0), w)


def lowest_of(data: Data, width: int, scores: Array) -> Array:
    """Zero the lower half of each `width` scores in the sampled weights, the first of equals going first."""
    w = data.w[data.sampled]
    order = np.argsort(scores.reshape(-1, width), axis=1, kind="stable")[:, : round(SPARSITY * width)]
    pruned: Array = w.reshape(-1, width).copy()
    np.put_along_axis(pruned, order, 0, axis=1)
    return pruned.reshape(w.shape)


def scored(data: Data) -> Array:
    return np.abs(data.w[data.sampled]) * data.norm


@dataclass(frozen=True)
class Task:
    """A row. read, written: bytes per weight that cannot be avoided, including what must be read twice."""

    name: str
    read: float
    written: float
    check: Callable[[Data, Array], bool]
    whole: bool = False  # whether the answer is of the whole tensor rather than of the sampled rows


def _sum(power: int, axis: int | None) -> Callable[[Data], Array]:
    def expected(data: Data) -> Array:
        w = data.w[data.sampled] if axis == 1 else data.w
        size = np.abs(w) if power == 1 else np.square(w)
        total = size.sum(axis=axis, dtype=np.float64)
        return np.asarray(total if power == 1 else np.sqrt(total))

    return expected


def _tensor(data: Data) -> tuple[int, ...]:
    return (1, data.w.size)


def _channel(data: Data) -> tuple[int, ...]:
    return (data.rows, data.cols)


def _groups(data: Data) -> tuple[int, ...]:
    return (data.rows, data.cols // GROUP, GROUP)


def _given(data: Data) -> Array:
    codes: Array = np.rint(data.w[data.sampled] / np.float32(SCALE))
    return codes.clip(-128, 127)


def codes_as_given(data: Data, answer: Array) -> bool:
    """Compare codes, which may differ by one where dividing, and multiplying by the inverse, round apart."""
    want = _given(data)
    if answer.shape != want.shape:
        return False
    off = np.abs(answer.astype(np.float32) - want)
    return bool(off.max() <= 1 and np.count_nonzero(off) <= 1e-4 * off.size)


PACKED = 0.5 + 4 / GROUP  # bytes per weight of int4 with a float32 scale per group

TASKS = [
    Task("threshold", 4, 4, equal(thresholded)),
    Task("global prune 50 %", 8, 4, halved, whole=True),
    Task("2:4 prune", 4, 4, equal(lambda d: lowest_of(d, 4, np.abs(d.w[d.sampled])))),
    Task("l1 total", 4, 0, equal(_sum(1, None), TOTAL_TOLERANCE), whole=True),
    Task("l1 per row", 4, 0, equal(_sum(1, 1), SUM_TOLERANCE)),
    Task("l2 per row", 4, 0, equal(_sum(2, 1), SUM_TOLERANCE)),
    Task("l2 per column", 4, 0, equal(_sum(2, 0), SUM_TOLERANCE), whole=True),
    Task("wanda score", 4, 4, equal(scored, SCORE_TOLERANCE)),
    Task("wanda prune 50 % per row", 4, 4, equal(lambda d: lowest_of(d, d.cols, scored(d)))),
    Task("int8, scale given", 4, 1, codes_as_given),
    Task("int8 per tensor", 8, 1, error_as(8, _tensor)),
    Task("int8 per channel", 4, 1, error_as(8, _channel)),
    Task("int8 groups of 32", 4, 1 + 4 / GROUP, error_as(8, _groups)),
    Task("int4 groups of 32, packed", 4, PACKED, error_as(4, _groups)),
    Task("dequantize int4", PACKED, 4, error_as(4, _groups)),
]  # fmt: skip
BY_NAME = {task.name: task for task in TASKS}


def damaged(answer: Array) -> Array:
    """Make a wrong answer of the right shape, which every check must refuse."""
    return np.roll(answer, 1, axis=-1) if answer.ndim == 2 else answer * np.float32(1.01)
