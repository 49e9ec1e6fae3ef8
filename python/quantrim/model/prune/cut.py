"""The cut below the lowest scores of one or several streamed tensors: exactly the weights `prune_model` would take."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from ... import backend, checks
from ...checks import Array
from ...layouts.base import Chunk
from ...ranking import KEY_HALVES, key_at
from .scores import Scorer

_ALL = 2**62  # more ties than there are

T = TypeVar("T")


class Scored(Protocol):
    """A source of scores chunk by chunk, as `Passes` is of weights."""

    @property
    def chunks(self) -> Sequence[Chunk]: ...
    def each(self, f: Callable[[Array, Chunk], T]) -> Generator[T, None, None]: ...
    def read(self, chunk: Chunk) -> Array: ...


@dataclass(frozen=True)
class ScoreCut:
    """The cut: scores with a key below `key` go, and of those with this key the ones before flat index `ties_end`.
    Keys are those of `count_keys`."""

    key: int
    ties_end: int = 0


@dataclass(frozen=True)
class Ranked:
    """The ranking of a tensor's weights. score: None for the magnitude. shape: of the matrix."""

    score: Scorer | None
    shape: tuple[int, int]

    @property
    def absolute(self) -> bool:
        return self.score is None

    def scores(self, x: Array, chunk: Chunk) -> Array:
        if self.score is None:
            return x.ravel()
        checks.finite("weights", x, backend.active.is_finite(x.ravel()))
        return self.score(x, chunk).ravel()

    def bins(self, x: Array, chunk: Chunk, upper: int | None) -> Array:
        counts = np.zeros(KEY_HALVES, np.int64)
        s = self.scores(x, chunk)
        if not backend.active.count_keys(s, self.absolute, upper, counts):
            raise ValueError("scores overflow float32")
        return counts

    def ties(self, x: Array, chunk: Chunk, key: int) -> int:
        """Count the scores that have this key."""
        s = self.scores(x, chunk)
        return int(backend.active.mask_below(s, self.absolute, key, _ALL, np.empty(s.shape, np.bool_)))

    def place(self, x: Array, chunk: Chunk, key: int, count: int) -> int:
        """Return the flat index behind the `count`-th score of the chunk that has this key."""
        s = self.scores(x, chunk)
        with_ties, without = np.empty((2, s.size), np.bool_)
        backend.active.mask_below(s, self.absolute, key, _ALL, with_ties)
        backend.active.mask_below(s, self.absolute, key, 0, without)
        within = int(np.flatnonzero(without & ~with_ties)[count - 1])
        return self.first(chunk) + within + 1

    def apply(self, x: Array, chunk: Chunk, cut: ScoreCut, out: Array) -> None:
        """Write x without the weights before the cut."""
        s = self.scores(x, chunk)
        for run, ties in _runs(s, cut, self.first(chunk)):
            backend.active.prune_below(x.ravel()[run], s[run], self.absolute, cut.key, ties, out.ravel()[run])
        checks.finite("weights", x, not self.absolute or backend.active.is_finite(x.ravel()))

    def first(self, chunk: Chunk) -> int:
        """Return the flat index of the chunk's first score."""
        return chunk.row * self.shape[1] + chunk.col


def kept(scores: Array, absolute: bool, cut: ScoreCut, first: int) -> Array:
    """Mark the scores that stay, of a chunk whose first has this flat index."""
    mask = np.empty(scores.shape, np.bool_)
    for run, ties in _runs(scores, cut, first):
        backend.active.mask_below(scores[run], absolute, cut.key, ties, mask[run])
    return mask


def _runs(scores: Array, cut: ScoreCut, first: int) -> list[tuple[slice, int]]:
    """Say where a chunk loses its ties, and where it does not, with how many."""
    before = min(max(cut.ties_end - first, 0), scores.size)
    return [(run, n) for run, n in ((slice(before), _ALL), (slice(before, None), 0)) if scores[run].size]


def score_cuts(sparsity: float, tensors: Sequence[tuple[Ranked, Scored]]) -> list[ScoreCut]:
    """Find the cut of each of these tensors, which share one budget.

    Of equal scores the earlier tensor's go first, then those of the lower index."""

    def counted(upper: int | None) -> Array:
        total = np.zeros(KEY_HALVES, np.int64)
        for ranked, passes in tensors:
            for bins in passes.each(lambda x, chunk, ranked=ranked: ranked.bins(x, chunk, upper)):  # type: ignore[misc]
                total += bins
        return total

    key, left = key_at(sparsity, counted)
    cuts = []
    for ranked, passes in tensors:
        end, taken = _ties_end(ranked, passes, key, left)
        cuts.append(ScoreCut(key, end))
        left -= taken
    return cuts


def _ties_end(ranked: Ranked, passes: Scored, key: int, left: int) -> tuple[int, int]:
    """Find where the ties of a tensor end of which `left` may go, and how many do."""
    if not left:
        return 0, 0
    taken = 0
    counts = passes.each(lambda x, chunk: ranked.ties(x, chunk, key))
    for chunk, count in zip(passes.chunks, counts, strict=False):
        if taken + count >= left:
            counts.close()
            return ranked.place(passes.read(chunk), chunk, key, left - taken), left
        taken += count
    return _ALL, taken
