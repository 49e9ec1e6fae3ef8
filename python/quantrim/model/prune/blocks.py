"""Rows, columns and blocks of a streamed tensor that go as a whole, ranked by the sums over their weights."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ... import backend, checks
from ...blocks import LIFT, TINY, Block, block_sums, norms, spread
from ...checks import Array
from ...files import TensorInfo
from ...layouts.base import Chunk
from ...pruning import apply_mask
from ...reference.lanes import LANES
from ..recipe.settings import Blocks, Fraction, Prune, Shrink
from ..streaming.reader import Passes, error_about
from .cut import Ranked, ScoreCut, Scored, kept
from .scores import Scorer, score_name

T = TypeVar("T")
_POWERS = {"magnitude": 1, "l1": 1, "l2": 2}  # of weights, summed; 0: the scores of weights are


def block_shape(pattern: str | Block, shape: tuple[int, int]) -> Block:
    """Return the rows and columns of a block of this pattern. ValueError where blocks do not fill the matrix."""
    if isinstance(pattern, str):
        return (1, shape[1]) if pattern == "row" else (shape[0], 1)
    if shape[0] % pattern[0] or shape[1] % pattern[1]:
        raise ValueError(f"prune_pattern={pattern} needs rows and columns that are multiples of it, not {shape}")
    return pattern


def band_of(wish: Prune | None) -> int:
    """Count the rows that each chunk must hold together; 0 where rows may be cut, too."""
    if isinstance(wish, Blocks) and wish.sparsity:
        return wish.block[0] if not isinstance(wish.block, str) else int(wish.block == "row")
    by_row = wish.by_row if isinstance(wish, Shrink) else isinstance(wish, Fraction) and wish.among == "row"
    return int(by_row)


def ranked(info: TensorInfo, wish: Fraction | Blocks, score: Scorer | None, passes: Passes) -> tuple[Ranked, Scored]:
    """Return how weights of a tensor are ranked, and what is ranked: its chunks, or the sums of its columns."""
    shape = info.matrix_shape
    if isinstance(wish, Fraction):
        return Ranked(score, shape), passes
    power = _POWERS.get(score_name(wish), 0)
    if wish.block == "column":
        sums = column_sums(passes, shape, score, power)
        return Ranked(lambda x, _: x, (1, shape[1])), _Once(sums)
    return RankedBlocks(score, shape, block_shape(wish.block, shape), power), passes


@dataclass(frozen=True)
class RankedBlocks(Ranked):
    """Blocks of a matrix, in chunks of whole ones. power: 0 for sums of scores, 1 of |weights|, 2 of their squares, of
    which the root is taken."""

    block: Block
    power: int

    @property
    def absolute(self) -> bool:
        return False

    def scores(self, x: Array, chunk: Chunk) -> Array:
        checks.finite("weights", x, backend.active.is_finite(x.ravel()))
        each = x if self.score is None else self.score(x, chunk)
        scores = norms("scores", each, None, self.block) if self.power == 2 else None
        sums: Array = block_sums("scores", each, self.block, self.power) if scores is None else scores
        return sums.ravel()

    def apply(self, x: Array, chunk: Chunk, cut: ScoreCut, out: Array) -> None:
        keep = kept(self.scores(x, chunk), False, cut, self.first(chunk))
        apply_mask(x, spread(keep.reshape(-1, x.shape[1] // self.block[1]), self.block, x.shape), out=out)

    def first(self, chunk: Chunk) -> int:
        return chunk.row // self.block[0] * (self.shape[1] // self.block[1])


def column_sums(passes: Passes, shape: tuple[int, int], score: Scorer | None, power: int) -> Array:
    """Score each column, (cols,): what `block_sums` or, for power 2, `norms` gives for the whole.

    One pass and sixteen rows of memory; another pass where squares may have underflowed. ValueError where a sum
    exceeds float32."""
    sums = _added(passes, shape, score, power, np.float32(1))
    if power == 2:
        sums = np.sqrt(sums)
        tiny = sums < TINY
        if tiny.any():
            sums[tiny] = np.sqrt(_added(passes, shape, score, power, LIFT))[tiny] / LIFT
    if not np.isfinite(sums).all():
        raise error_about(passes.info, "sums of scores over columns overflow float32")
    return sums


def _added(passes: Passes, shape: tuple[int, int], score: Scorer | None, power: int, lift: np.float32) -> Array:
    """Sum what `power` makes of `lift` times the values of each column."""

    def terms(x: Array, chunk: Chunk) -> tuple[Chunk, Array]:
        checks.finite("weights", x, backend.active.is_finite(x.ravel()))
        with np.errstate(over="ignore"):
            values = (x if score is None else score(x, chunk)).astype(np.float32) * lift
            return chunk, values if not power else np.abs(values) if power == 1 else values * values

    lanes = np.zeros((LANES, shape[1]), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk, values in passes.each(terms):
            into = lanes[:, chunk.col : chunk.col + chunk.cols]
            row = 0
            while row < chunk.rows:  # up to the last lane, again from the first
                lane = (chunk.row + row) % LANES
                count = min(LANES - lane, chunk.rows - row)
                into[lane : lane + count] += values[row : row + count]
                row += count
        for half in (8, 4, 2, 1):
            lanes = lanes[:half] + lanes[half : 2 * half]
    added: Array = lanes[0]
    return added


class _Once:
    """Scores that are in memory, as the only chunk of a tensor."""

    def __init__(self, scores: Array) -> None:
        self._scores = scores.reshape(1, -1)
        self.chunks: Sequence[Chunk] = [Chunk(0, 1, 0, scores.size)]

    def each(self, f: Callable[[Array, Chunk], T]) -> Generator[T, None, None]:
        yield f(self._scores, self.chunks[0])

    def read(self, chunk: Chunk) -> Array:
        return self._scores
