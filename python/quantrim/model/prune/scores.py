"""Scores of one tensor's weights, chunk by chunk: those of `importance` for the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from ... import backend, checks, importance
from ...checks import Array
from ...files import Checkpoint, FormatError, TensorInfo, open_checkpoint
from ...files.disk.errors import quote
from ...files.tensor_info import from_little_endian
from ...layouts.base import Chunk
from ..recipe.settings import Blocks, ScoredBy, Settings
from ..recipe.settings import Scored as ByScore

READABLE = ("F32", "F16", "BF16")


class Scorer(Protocol):
    """A float32 score for each weight of a chunk, whose weights are x."""

    def __call__(self, x: Array, chunk: Chunk) -> Array: ...


class ScoreData:
    """The checkpoints with what scores are computed from, by path; each is opened once."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path()
        self._open: dict[str, Checkpoint] = {}
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def check_unchanged(self) -> None:
        """Raise FormatError where one of them was changed since it was opened."""
        for checkpoint in self._open.values():
            checkpoint.check_unchanged()

    def check(self, wanted: Iterable[tuple[TensorInfo, Settings]]) -> None:
        """Raise FormatError where a tensor lacks its data, or its data have another shape or say nothing."""
        for info, settings in wanted:
            wish = settings.prune
            if not isinstance(wish, ByScore) or not isinstance(wish.score, ScoredBy) or settings.prunes_nothing:
                continue
            checkpoint, data = self._found(info, wish, wish.score)
            # as where nothing was calibrated
            if wish.score.name == "wanda" and not checkpoint.read(data.name).any():
                problem = "prune_data must have a norm above 0 for 'wanda', not zeros alone"
                raise FormatError(problem, path=data.path, tensor=data.name, offset=data.offset)

    def score(self, info: TensorInfo, settings: Settings) -> Scorer | None:
        """Return the scorer that these settings ask for; None for scores that the weights say themselves."""
        wish = settings.prune
        if not isinstance(wish, ByScore) or settings.prunes_nothing:
            return None
        if isinstance(wish.score, ScoredBy):
            checkpoint, data = self._found(info, wish, wish.score)
            return _FromData(wish.score.name, checkpoint, data, info.matrix_shape[1], by_row=_block(wish) == "row")
        return _Random(settings.seed, info.matrix_shape[1]) if wish.score == "random" else None

    def _found(self, info: TensorInfo, wish: ByScore, by: ScoredBy) -> tuple[Checkpoint, TensorInfo]:
        path, score = by.path, by.name
        if path not in self._open:
            self._open[path] = self._stack.enter_context(open_checkpoint(self._folder / path))
        checkpoint = self._open[path]
        if info.name not in checkpoint:
            raise FormatError(f"prune_data must have a tensor {quote(info.name)} for {score!r}", path=checkpoint.path)
        data = checkpoint.tensors[info.name]
        shapes = _shapes(info.matrix_shape, score, _block(wish))
        if data.dtype not in READABLE or data.shape not in shapes:
            wanted = f"{' or '.join(READABLE)} of shape {' or '.join(map(str, shapes))} for {score!r}"
            problem = f"prune_data must be {wanted}, not {data.dtype} of shape {data.shape}"
            raise FormatError(problem, path=data.path, tensor=data.name)
        return checkpoint, data


def score_name(wish: ByScore) -> str:
    return wish.score.name if isinstance(wish.score, ScoredBy) else wish.score


def _block(wish: ByScore) -> object:
    return wish.block if isinstance(wish, Blocks) else None


def _shapes(shape: tuple[int, int], score: str, block: object) -> list[tuple[int, ...]]:
    """List the shapes of data for a matrix: a value per input, or per weight, or per row or column that goes whole."""
    if score == "wanda":
        return [(shape[1],)]
    if score == "given" and block in ("row", "column"):
        return [shape, (shape[0] if block == "row" else shape[1],)]
    return [shape]


class _Random:
    def __init__(self, seed: int, cols: int) -> None:
        self._seed, self._cols = seed, cols

    def __call__(self, x: Array, chunk: Chunk) -> Array:
        scores = np.empty(x.shape, np.float32)
        backend.active.uniform(self._seed, chunk.row * self._cols + chunk.col, scores.ravel())
        return scores


class _FromData:
    """Scores from data that is like the weights, or has one value for each of their columns, or for each row."""

    def __init__(self, name: str, checkpoint: Checkpoint, data: TensorInfo, cols: int, by_row: bool) -> None:
        self._name, self._checkpoint, self._data, self._cols = name, checkpoint, data, cols
        self._by_row = len(data.shape) == 1 and name == "given" and by_row

    def __call__(self, x: Array, chunk: Chunk) -> Array:
        data = self._read(chunk)
        if self._name == "wanda":
            scores = np.empty(x.shape, np.float32)
            checks.finite("w", x, backend.active.wanda(x, data.astype(np.float32, copy=False), scores))
            return scores
        if self._name != "given":
            computed: Array = getattr(importance, self._name)(x, data)
            return computed
        if len(self._data.shape) == 2:
            return data.astype(np.float32, copy=False)
        scores = np.zeros(x.shape, np.float32)  # of a whole row or column: its first weight has it all
        if self._by_row and chunk.col == 0:
            scores[:, 0] = data
        elif not self._by_row and chunk.row == 0:
            scores[0] = data
        return scores

    def _read(self, chunk: Chunk) -> Array:
        shape: tuple[int, ...]
        if self._by_row:
            shape, first = (chunk.rows,), chunk.row
        elif len(self._data.shape) == 1:
            shape, first = (chunk.cols,), chunk.col
        else:
            shape, first = (chunk.rows, chunk.cols), chunk.row * self._cols + chunk.col
        itemsize = self._data.numpy_dtype.itemsize
        raw = np.empty(math.prod(shape) * itemsize, np.uint8)
        self._checkpoint.read_into(self._data.name, raw, first * itemsize)
        data = from_little_endian(raw, self._data.numpy_dtype)
        bad = ~np.isfinite(data)
        if self._name in ("wanda", "fisher"):
            bad |= data < 0
        if bad.any():
            at = int(bad.argmax())
            wanted = "finite and not negative" if self._name in ("wanda", "fisher") else "finite"
            found = f"{float(data[at])} at flat index {first + at}"
            problem = f"prune_data must be {wanted} for {self._name!r}, not {found}"
            offset = self._data.offset + (first + at) * itemsize
            raise FormatError(problem, path=self._data.path, tensor=self._data.name, offset=offset)
        return data.reshape(shape)
