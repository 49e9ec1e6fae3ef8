"""The pruners of all tensors of a checkpoint: scores that need data, budgets that tensors share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType

from . import chunks
from .plan import TensorPlan
from .pruner import Pruner, pruner_of
from .score_cut import Ranked, ScoreCut, score_cuts
from .scores import ScoreData
from .source import Passes, Source
from .workers import Workers


class Pruners:
    """What prunes each tensor. As a context manager it holds the checkpoints open that scores are computed from.

    FormatError, at once, where one of these lacks what a tensor needs.
    """

    def __init__(self, tensors: Iterable[TensorPlan]) -> None:
        self._tensors = [t for t in tensors if not t.copied]
        self._data = ScoreData()
        self._cuts: dict[str, ScoreCut] = {}
        self._made: dict[str, Pruner | None] = {}

    def __enter__(self) -> Pruners:
        try:
            self._data.check((t.info, t.settings) for t in self._tensors)
        except BaseException:
            self._data.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._data.close()

    def find_budgets(self, source: Source, workers: Workers, progress: Callable[[TensorPlan, int], None]) -> None:
        """Look at the tensors of prune_scope="global": one budget for all of the same prune and prune_score."""
        budgets: dict[tuple[float, str], list[TensorPlan]] = defaultdict(list)
        for t in self._tensors:
            if t.settings.prune_scope == "global" and t.settings.sparsity:
                budgets[t.settings.sparsity, t.settings.prune_score].append(t)
        for (sparsity, _), tensors in budgets.items():
            ranked = [
                (
                    Ranked(self._data.score(t.info, t.settings), t.info.matrix_shape),
                    Passes(source, t.info, list(chunks.cut(*t.info.matrix_shape, 1)), workers, partial(progress, t)),
                )
                for t in tensors
            ]
            for t, cut in zip(tensors, score_cuts(sparsity, ranked), strict=True):
                self._cuts[t.name] = cut

    def of(self, tensor: TensorPlan) -> Pruner | None:
        """The pruner of a tensor, always the same one; None where nothing is to be pruned."""
        if tensor.name not in self._made:
            score = self._data.score(tensor.info, tensor.settings)
            cut = self._cuts.get(tensor.name)
            self._made[tensor.name] = pruner_of(tensor.info, tensor.settings, score, cut)
        return self._made[tensor.name]
