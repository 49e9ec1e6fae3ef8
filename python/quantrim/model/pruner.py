"""What one tensor loses before it is rounded, chunk by chunk: the same as the public functions take from the whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import numpy as np

from ..checks import Array
from ..files import TensorInfo
from ..layouts.base import Chunk
from ..pruning import apply_mask, prune, shrink, threshold
from .score_cut import Ranked, ScoreCut, Scored, kept, score_cuts
from .scores import Score
from .settings import Settings
from .source import Passes
from .units import band_of, block_shape, ranked

T = TypeVar("T")


class Pruner(ABC):
    """The pruning of one tensor. band: rows that each chunk must hold together; 0 where rows may be parted, too."""

    band = 0
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
    if settings.prune_pattern == "column":
        return _Columns(info, settings, score, cut)
    if cut is not None or settings.prune_pattern is not None:
        return _Ranked(info, settings, score, cut)
    if isinstance(settings.prune, str):
        return _NOfM(settings.prune, score)
    if settings.prune_axis is not None:
        return _ByRow(settings.sparsity, score)
    return _Ranked(info, settings, score) if score else _Smallest(info, settings, None)


class _Threshold(Pruner):
    def __init__(self, settings: Settings) -> None:
        assert settings.threshold is not None
        self._limit, self._mode = settings.threshold, settings.threshold_mode

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        threshold(x, self._limit, mode=self._mode, out=out)


class _Shrink(Pruner):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.band = band_of(settings)

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        s = self._settings
        shrink(x, l1=s.shrink_l1, l2=s.shrink_l2, axis=s.shrink_axis, out=out)


class _NOfM(Pruner):
    def __init__(self, pattern: str, score: Score | None) -> None:
        self._pattern, self._score = pattern, score

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        prune(x, pattern=self._pattern, scores=self._score and self._score(x, chunk), out=out)


class _ByRow(Pruner):
    band = 1

    def __init__(self, sparsity: float, score: Score | None) -> None:
        self._sparsity, self._score = sparsity, score

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        prune(x, self._sparsity, scores=self._score and self._score(x, chunk), axis=1, out=out)


class _Ranked(Pruner):
    """The lowest scores of a whole tensor, or of several; of weights, or of blocks of them."""

    def __init__(self, info: TensorInfo, settings: Settings, score: Score | None, cut: ScoreCut | None = None) -> None:
        self._info, self._settings, self._score, self._cut = info, settings, score, cut
        self._ranked: Ranked | None = None
        self.band = band_of(settings)

    def prepare(self, passes: Passes) -> None:
        self._ranked, scored = ranked(self._info, self._settings, self._score, passes)
        if self._cut is None:
            self._cut = score_cuts(self._settings.sparsity, [(self._ranked, scored)])[0]
        self.mark(scored, self._cut)

    def mark(self, scored: Scored, cut: ScoreCut) -> None:
        """Note what goes, where all scores are there."""

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        assert self._ranked is not None and self._cut is not None
        self._ranked.apply(x, chunk, self._cut, out)


class _Smallest(_Ranked):
    """The smallest magnitudes of a whole tensor, which a single chunk knows at once."""

    def prepare(self, passes: Passes) -> None:
        if len(passes.chunks) > 1:
            super().prepare(passes)

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        if self._cut is None:
            prune(x, self._settings.sparsity, out=out)
        else:
            super().apply(x, number, chunk, out)


class _Columns(_Ranked):
    """The columns with the lowest scores."""

    _keep: Array

    def mark(self, scored: Scored, cut: ScoreCut) -> None:
        (self._keep,) = scored.each(lambda sums, _: kept(sums.ravel(), False, cut, 0))

    def apply(self, x: Array, number: int, chunk: Chunk, out: Array) -> None:
        keep = self._keep[chunk.col : chunk.col + chunk.cols]
        apply_mask(x, np.broadcast_to(keep, x.shape), out=out)


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
