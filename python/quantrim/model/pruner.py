"""What one tensor loses before it is rounded, chunk by chunk: the same as the public functions take from the whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import numpy as np

from ..checks import Array
from ..files import TensorInfo
from ..pruning import apply_mask, block_marks, prune, shrink, threshold
from .chunks import Chunk
from .prune_stream import Cut, apply_cut, find_cut
from .score_cut import Ranked, ScoreCut, score_cuts
from .scores import Score
from .settings import Settings
from .source import Passes

T = TypeVar("T")


class Pruner(ABC):
    """The pruning of one tensor. whole_rows: whether each chunk must hold rows that are whole."""

    whole_rows = False
    _looked = False

    def look(self, passes: Passes) -> None:
        """Look at the whole tensor, the first time that it is asked for."""
        if not self._looked:
            self.prepare(passes)
            self._looked = True

    def prepare(self, passes: Passes) -> None:  # noqa: B027 (most know from a chunk alone)
        """Find out what goes, where one chunk does not say it."""

    @abstractmethod
    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        """Write what is left of chunk number `number`, whose weights are x. ValueError where they or their scores are
        not finite."""


def pruner_of(info: TensorInfo, settings: Settings, score: Score | None, cut: ScoreCut | None) -> Pruner | None:
    """What does as `settings` say; None where they say nothing. cut: of a budget for several tensors."""
    if settings.threshold is not None:
        return _Threshold(settings)
    if settings.shrinks:
        return _Shrink(settings)
    if not settings.prune:
        return None
    if cut is not None:
        return _Ranked(info, settings, score, cut)
    if isinstance(settings.prune, str):
        return _NOfM(settings.prune, score)
    if settings.prune_pattern is not None:
        return _Blocks(info, settings, score)
    if settings.prune_axis is not None:
        return _ByRow(settings.sparsity, score)
    return _Ranked(info, settings, score) if score else _Smallest(info, settings.sparsity)


class _Threshold(Pruner):
    def __init__(self, settings: Settings) -> None:
        assert settings.threshold is not None
        self._limit, self._mode = settings.threshold, settings.threshold_mode

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        threshold(x, self._limit, mode=self._mode, out=out)


class _Shrink(Pruner):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.whole_rows = settings.shrink_axis is not None

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        s = self._settings
        shrink(x, l1=s.shrink_l1, l2=s.shrink_l2, axis=s.shrink_axis, out=out)


class _NOfM(Pruner):
    def __init__(self, pattern: str, score: Score | None) -> None:
        self._pattern, self._score = pattern, score

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        prune(x, pattern=self._pattern, scores=self._score and self._score(x, chunk), out=out)


class _ByRow(Pruner):
    whole_rows = True

    def __init__(self, sparsity: float, score: Score | None) -> None:
        self._sparsity, self._score = sparsity, score

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        prune(x, self._sparsity, scores=self._score and self._score(x, chunk), axis=1, out=out)


class _Smallest(Pruner):
    """The smallest magnitudes of a whole tensor."""

    def __init__(self, info: TensorInfo, sparsity: float) -> None:
        self._info, self._sparsity = info, sparsity
        self._cut: Cut | None = None

    def prepare(self, passes: Passes) -> None:
        if len(passes.chunks) == 1:
            return
        size = self._info.size
        bits = 16 if self._info.dtype in ("F16", "BF16") else 32
        self._cut = find_cut(
            round(self._sparsity * size), size, bits, len(passes.chunks),
            lambda f, step=1: passes.each(lambda x, chunk: f(x), step),
        )  # fmt: skip

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        if self._cut is None:
            prune(x, self._sparsity, out=out)
        elif not apply_cut(x, self._cut, number, out):
            raise ValueError("weights must be finite")


class _Ranked(Pruner):
    """The lowest scores of a whole tensor, or of several."""

    def __init__(
        self, info: TensorInfo, settings: Settings, score: Score | None, cut: ScoreCut | None = None
    ) -> None:
        self._ranked = Ranked(score, info.matrix_shape)
        self._sparsity, self._cut = settings.sparsity, cut

    def prepare(self, passes: Passes) -> None:
        if self._cut is None:
            self._cut = score_cuts(self._sparsity, [(self._ranked, passes)])[0]

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        assert self._cut is not None
        self._ranked.apply(x, chunk, self._cut, out)


class _Blocks(Pruner):
    """Rows, columns or blocks with the lowest sums of scores: needs all of the tensor in memory, once."""

    def __init__(self, info: TensorInfo, settings: Settings, score: Score | None) -> None:
        self._shape, self._sparsity, self._score = info.matrix_shape, settings.sparsity, score
        assert settings.prune_pattern is not None
        self._block = block_shape(settings.prune_pattern, self._shape)
        self._marks: Array | None = None

    def prepare(self, passes: Passes) -> None:
        dtype = np.dtype(np.float32) if self._score or passes.info.dtype == "F64" else passes.info.numpy_dtype
        whole = np.empty(self._shape, dtype)

        def keep(x: Array, chunk: Chunk) -> None:
            place = whole[chunk.row : chunk.row + chunk.rows, chunk.col : chunk.col + chunk.cols]
            if not np.isfinite(x).all():
                raise ValueError("weights must be finite")
            place[...] = self._score(x, chunk) if self._score else x

        for _ in passes.each(keep):
            pass
        self._marks = block_marks("scores", whole, self._block, self._sparsity, 0 if self._score else 1)

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        assert self._marks is not None
        rows = np.arange(chunk.row, chunk.row + chunk.rows) // self._block[0]
        cols = np.arange(chunk.col, chunk.col + chunk.cols) // self._block[1]
        apply_mask(x, self._marks[np.ix_(rows, cols)], out=out)


def block_shape(pattern: str | tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns of a block of this pattern. ValueError where blocks do not fill the matrix."""
    if isinstance(pattern, str):
        return (1, shape[1]) if pattern == "row" else (shape[0], 1)
    if shape[0] % pattern[0] or shape[1] % pattern[1]:
        raise ValueError(f"prune_pattern={pattern} needs rows and columns that are multiples of it, not {shape}")
    return pattern


def removed(settings: Settings, shape: tuple[int, int]) -> int:
    """How many weights of a matrix pruning sets to 0, as far as headers tell: at least so many."""
    rows, cols = shape
    if settings.pattern:
        n, m = settings.pattern
        return rows * cols // m * (m - n)
    if not settings.sparsity or settings.prune_scope == "global":
        return 0
    if settings.prune_axis is not None:
        return rows * round(settings.sparsity * cols)
    if settings.prune_pattern is not None:
        block = block_shape(settings.prune_pattern, shape)
        return round(settings.sparsity * (rows * cols // math.prod(block))) * math.prod(block)
    return round(settings.sparsity * rows * cols)
