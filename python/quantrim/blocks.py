"""Many scores as one: sums over an axis, over blocks of a matrix, over everything; marks of blocks as marks of weights.

Sums are those of sixteen lanes, folded by halves; in a block, down each column first, then along those sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from . import backend, checks
from .checks import Array
from .float_environment import default_floats
from .outputs import output

Scores = NDArray[np.float32]
Block = tuple[int, int]
Axis = int | Literal["each"] | None
EACH: Final = "each"  # the axis of one score per weight
LIFT = np.float32(2.0**100)
TINY = np.float32(2.0**-50)  # a norm below which squares of its weights may be subnormal, or zero
_GATHERED = 1 << 22  # weights that are enlarged together


def of_many(axis: Axis, block: object) -> bool:
    """Tell whether a score is for more than one weight."""
    return block is not None or not (isinstance(axis, str) and axis == EACH)


def reduced(scores: Array, axis: Any, block: object, out: Array | None) -> Scores:
    """Sum scores of weights to those that `axis` and `block` ask for."""
    return grouped("scores", scores, None if isinstance(axis, str) and axis == EACH else axis, block, 0, out)


def grouped(name: str, x: Array, axis: int | None, block: object, power: int, out: Array | None) -> Scores:
    """Sum x (power 0), |x| (1) or x * x (2) over `axis`, over blocks of the last two axes, or over everything.

    Returns float32 without that axis; (..., rows / block rows, cols / block cols) for blocks; a scalar for neither.
    """
    if block is not None:
        if axis is not None:
            raise ValueError(f"give either axis or block, not axis={axis!r} and block={block!r}")
        size = block_of(name, block, x.shape)
        shape = *x.shape[:-2], x.shape[-2] // size[0], x.shape[-1] // size[1]
        scores = output(out, shape, np.float32, **{name: x})
        block_sums(name, checks.rows(x), size, power, scores)
        return scores
    if axis is None and out is not None:
        raise ValueError("out must be None with axis=None: the result is a scalar")
    k = x.ndim - 1 if axis is None else checks.axis(axis, x.ndim)
    scores = output(out, x.shape[:k] + x.shape[k + 1 :], np.float32, **{name: x})
    sums(name, x, k, power, scores)
    if axis is not None:
        return scores
    whole: Scores = total(scores.ravel(), power)  # a scalar, which does as an array without axes
    return whole


@default_floats
def norms(name: str, x: Array, axis: int | None, block: object, out: Array | None = None) -> Scores:
    """Take the roots of the sums of squares that `grouped` gives; of slices so small that squares may have underflowed,
    those of 2**100 times their weights, divided by it again, which changes no bit where none did."""
    roots: Scores = np.sqrt(grouped(name, x, axis, block, 2, out), out=out)
    small = roots < TINY
    if x.dtype == np.float16 or not small.any():
        return roots
    tiny = np.flatnonzero(small & (grouped(name, x, axis, block, 1, None) > 0))  # those of zeros alone are exact
    if not tiny.size:
        return roots
    if roots.ndim == 0:
        root: Scores = np.divide(np.sqrt(grouped(name, _enlarged(x), axis, block, 2, None)), LIFT, out=out)
        return root
    flat = roots.reshape(-1)
    if block is not None:
        rows, cols = size = block_of(name, block, x.shape)
        slices = checks.rows(x).reshape(-1, rows, x.shape[-1] // cols, cols).swapaxes(1, 2)
    else:
        size, slices = None, np.moveaxis(x, checks.axis(axis, x.ndim), -1)
    places = slices.shape[:2] if size else slices.shape[:-1]
    weights = max(x.size // flat.size, 1)
    for some in np.array_split(tiny, -(-tiny.size * weights // _GATHERED)):
        w = _enlarged(slices[np.unravel_index(some, places)])
        again = np.empty(len(some), np.float32)
        if size:
            block_sums(name, w.reshape(-1, size[1]), size, 2, again)
        else:
            sums(name, w, 1, 2, again)
        flat[some] = np.sqrt(again) / LIFT
    return roots


def _enlarged(x: Array) -> Array:
    enlarged: Array = np.ascontiguousarray(x, np.float32) * LIFT
    return enlarged


def sums(name: str, x: Array, axis: int, power: int, out: Array) -> None:
    """Sum over an axis of x. out: a value for each of the others' places."""
    n, after = x.shape[axis], 1 if axis == x.ndim - 1 else math.prod(x.shape[axis + 1 :])
    if not x.size:
        out[...] = 0
    elif power == 0:
        block_sums(name, x.reshape(-1, n if after == 1 else after), (1, n) if after == 1 else (n, 1), 0, out)
    elif after == 1:
        checks.finite(name, x, backend.active.norm_rows(x.reshape(-1, n), power, out.ravel()))
    else:
        checks.finite(name, x, backend.active.norm_columns(x.reshape(-1, n, after), power, out.reshape(-1, after)))


def total(of_rows: Array, power: int = 1) -> Any:
    """Sum the sums of rows to the float32 scalar that a row of them gives."""
    whole = np.zeros(1, np.float32)
    if power:
        backend.active.norm_rows(of_rows[None], 1, whole)
    elif of_rows.size:
        backend.active.block_sums(of_rows[None], 1, of_rows.size, 0, whole[None])
    return whole[0]


def block_of(name: str, block: object, shape: tuple[int, ...], parameter: str = "block") -> Block:
    """Return `block` as (rows, cols) that divide the last two axes of an array called `name`."""
    if not isinstance(block, Sequence) or isinstance(block, (str, bytes)) or len(block) != 2:
        raise TypeError(f"{parameter} must be (rows, cols), not {block!r}")
    rows, cols = (checks.integer(parameter, n, 1, 2**62) for n in block)
    if len(shape) < 2 or shape[-2] % rows or shape[-1] % cols:
        raise ValueError(f"{name} must have last two axes that are multiples of {(rows, cols)}, not shape {shape}")
    return rows, cols


def block_sums(name: str, x: Array, block: Block, power: int, out: Array | None = None) -> Array:
    """Sum each block of x: (rows, cols) floats in C order, a multiple of the block.

    Returns float32 (rows / block rows, cols / block cols).
    """
    shape = x.shape[0] // block[0], x.shape[1] // block[1]
    scores = np.empty(shape, np.float32) if out is None else out.reshape(shape)
    checks.finite(name, x, backend.active.block_sums(x, *block, power, scores))
    return scores


def spread(marks: Array, block: Block, shape: tuple[int, ...]) -> Array:
    """Spread marks of blocks, (block rows, block cols), to marks of the weights of an array of `shape`."""
    return np.repeat(np.repeat(marks, block[1], axis=1), block[0], axis=0).reshape(shape)
