"""Pruning of one tensor before it is rounded, chunk by chunk: the same as the public functions prune of the whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import numpy as np

from ...checks import Array
from ...files import TensorInfo
from ...layouts.base import Chunk
from ...pruning import apply_mask, prune, shrink, threshold
from ..recipe.settings import Blocks, Fraction, NofM, Settings, Shrink, Threshold
from ..streaming.reader import Passes
from .blocks import band_of, block_shape, ranked
from .cut import Ranked, ScoreCut, Scored, kept, score_cuts
from .scores import Scorer

T = TypeVar("T")


class Pruner(ABC):
    """The pruning of one tensor. band: rows that each chunk must hold together; 0 where rows may be parted, too."""

    band = 0
    _scanned = False

    def scan(self, passes: Passes) -> None:
        """Scan the whole tensor, the first time that it is asked for."""
        if not self._scanned:
            self.prepare(passes)
            self._scanned = True

    def prepare(self, passes: Passes) -> None:  # noqa: B027 (most know from a chunk alone)
        """Find out what goes, where one chunk does not say it."""

    @abstractmethod
    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        """Write what is left of a chunk, whose weights are x. ValueError where they or their scores are not finite."""


def pruner_of(info: TensorInfo, settings: Settings, score: Scorer | None, cut: ScoreCut | None) -> Pruner | None:
    """Make what prunes as `settings` say; None where they say nothing. cut: of a budget for several tensors."""
    wish = settings.prune
    if isinstance(wish, Threshold):
        return _Threshold(wish)
    if isinstance(wish, Shrink):
        return _Shrink(wish)
    if isinstance(wish, NofM):
        return _NOfM(wish.pattern, score)
    if wish is None or not wish.sparsity:
        return None
    if isinstance(wish, Blocks):
        return (_Columns if wish.block == "column" else _Ranked)(info, wish, score, cut)
    if wish.among == "row":
        return _ByRow(wish.sparsity, score)
    return _Ranked(info, wish, score, cut) if score or cut is not None else _Smallest(info, wish, None)


class _Threshold(Pruner):
    def __init__(self, wish: Threshold) -> None:
        self._wish = wish

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        threshold(x, self._wish.limit, mode=self._wish.mode, out=out)


class _Shrink(Pruner):
    def __init__(self, wish: Shrink) -> None:
        self._wish = wish
        self.band = band_of(wish)

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        shrink(x, l1=self._wish.l1, l2=self._wish.l2, axis=1 if self._wish.by_row else None, out=out)


class _NOfM(Pruner):
    def __init__(self, pattern: str, score: Scorer | None) -> None:
        self._pattern, self._score = pattern, score

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        prune(x, pattern=self._pattern, scores=None if self._score is None else self._score(x, chunk), out=out)


class _ByRow(Pruner):
    band = 1

    def __init__(self, sparsity: float, score: Scorer | None) -> None:
        self._sparsity, self._score = sparsity, score

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        prune(x, self._sparsity, scores=None if self._score is None else self._score(x, chunk), axis=1, out=out)


class _Ranked(Pruner):
    """The lowest scores of a whole tensor, or of several; of weights, or of blocks of them."""

    def __init__(
        self, info: TensorInfo, wish: Fraction | Blocks, score: Scorer | None, cut: ScoreCut | None = None
    ) -> None:
        self._info, self._wish, self._score, self._cut = info, wish, score, cut
        self._ranked: Ranked | None = None
        self.band = band_of(wish)

    def prepare(self, passes: Passes) -> None:
        self._ranked, scored = ranked(self._info, self._wish, self._score, passes)
        if self._cut is None:
            self._cut = score_cuts(self._wish.sparsity, [(self._ranked, scored)])[0]
        self.mark(scored, self._cut)

    def mark(self, scored: Scored, cut: ScoreCut) -> None:
        """Note what goes, where all scores are there."""

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        assert self._ranked is not None and self._cut is not None
        self._ranked.apply(x, chunk, self._cut, out)


class _Smallest(_Ranked):
    """The smallest magnitudes of a whole tensor, which a single chunk knows at once."""

    def prepare(self, passes: Passes) -> None:
        if len(passes.chunks) > 1:
            super().prepare(passes)

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        if self._cut is None:
            prune(x, self._wish.sparsity, out=out)
        else:
            super().apply(x, chunk, out)


class _Columns(_Ranked):
    """The columns with the lowest scores."""

    _keep: Array

    def mark(self, scored: Scored, cut: ScoreCut) -> None:
        (self._keep,) = scored.each(lambda sums, _: kept(sums.ravel(), False, cut, 0))

    def apply(self, x: Array, chunk: Chunk, out: Array) -> None:
        keep = self._keep[chunk.col : chunk.col + chunk.cols]
        apply_mask(x, np.broadcast_to(keep, x.shape), out=out)


def removed(settings: Settings, shape: tuple[int, int]) -> int:
    """Count the weights of a matrix that pruning sets to 0, as far as headers tell: at least so many."""
    rows, cols = shape
    wish = settings.prune
    if isinstance(wish, NofM):
        return rows * cols // wish.m * (wish.m - wish.n)
    if not isinstance(wish, (Fraction, Blocks)) or wish.among == "global":
        return 0
    if isinstance(wish, Blocks):
        block = math.prod(block_shape(wish.block, shape))
        return round(wish.sparsity * (rows * cols // block)) * block
    return rows * round(wish.sparsity * cols) if wish.among == "row" else round(wish.sparsity * rows * cols)
