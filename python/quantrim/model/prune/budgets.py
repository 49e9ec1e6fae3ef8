"""The pruners of all tensors of a checkpoint: scores that need data, budgets that tensors share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ...files import TensorInfo
from ..recipe.settings import Blocks, Fraction, Settings
from ..streaming import chunks
from ..streaming.reader import ChunkReader, Passes
from ..streaming.workers import Workers
from .blocks import band_of, ranked
from .cut import ScoreCut, score_cuts
from .methods import Pruner, pruner_of
from .scores import ScoreData, score_name


class Prunable(Protocol):
    """A tensor of a plan, as far as pruning goes. copied: nothing is done to it."""

    @property
    def name(self) -> str: ...
    @property
    def info(self) -> TensorInfo: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def copied(self) -> bool: ...


class Pruners:
    """The pruners of all tensors. As a context manager it holds the checkpoints open that scores are computed from.

    folder: what the paths of these are relative to. FormatError, at once, where one of these lacks what a tensor needs.
    """

    def __init__(self, tensors: Iterable[Prunable], folder: Path | None = None) -> None:
        self._tensors = [t for t in tensors if not t.copied]
        self._data = ScoreData(folder)
        self._cuts: dict[str, ScoreCut] = {}
        self._made: dict[str, Pruner | None] = {}

    def __enter__(self) -> Pruners:
        try:
            self._data.check((t.info, t.settings) for t in self._tensors)
        except BaseException:
            self._data.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._data.close()

    def check_unchanged(self) -> None:
        """Raise FormatError where what scores are computed from was changed meanwhile."""
        self._data.check_unchanged()

    def find_budgets(self, source: ChunkReader, workers: Workers, progress: Callable[[str, int], None]) -> None:
        """Scan the tensors of prune_scope="global": one budget for all of the same prune, score and pattern."""
        budgets: dict[tuple[float, str, object], list[Prunable]] = defaultdict(list)
        wishes: dict[str, Fraction | Blocks] = {}
        for t in self._tensors:
            wish = t.settings.prune
            if isinstance(wish, (Fraction, Blocks)) and wish.among == "global" and wish.sparsity:
                wishes[t.name] = wish
                budgets[wish.sparsity, score_name(wish), t.settings.prune_pattern].append(t)
        for (sparsity, *_), tensors in budgets.items():
            every = [
                ranked(
                    t.info, wishes[t.name], self._data.score(t.info, t.settings), _passes(t, source, workers, progress)
                )
                for t in tensors
            ]
            for t, cut in zip(tensors, score_cuts(sparsity, every), strict=True):
                self._cuts[t.name] = cut

    def of(self, tensor: Prunable) -> Pruner | None:
        """Return the pruner of a tensor, always the same one; None where nothing is to be pruned."""
        if tensor.name not in self._made:
            score = self._data.score(tensor.info, tensor.settings)
            cut = self._cuts.get(tensor.name)
            self._made[tensor.name] = pruner_of(tensor.info, tensor.settings, score, cut)
        return self._made[tensor.name]


def _passes(
    tensor: Prunable, source: ChunkReader, workers: Workers, progress: Callable[[str, int], None]
) -> Passes:
    shape, band = tensor.info.matrix_shape, band_of(tensor.settings.prune)
    pieces = list(chunks.cut_bands(*shape, band) if band else chunks.cut(*shape, 1))
    return Passes(source, tensor.info, pieces, workers, partial(progress, tensor.name))
