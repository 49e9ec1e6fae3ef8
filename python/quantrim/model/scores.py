"""Scores of one tensor's weights, chunk by chunk: those of `importance` for the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from .. import backend, checks, importance
from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo, open_checkpoint
from ..files.checkpoint import from_little_endian
from ..files.errors import quote
from ..layouts.base import Chunk
from ..words import DATA_SCORES, NORMS
from .settings import Settings

READABLE = ("F32", "F16", "BF16")


class Score(Protocol):
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
        """FormatError where one of them was changed since it was opened."""
        for checkpoint in self._open.values():
            checkpoint.check_unchanged()

    def check(self, wanted: Iterable[tuple[TensorInfo, Settings]]) -> None:
        """FormatError where a tensor lacks its data, or has data of another form or that says nothing."""
        for info, settings in wanted:
            if not settings.prune or settings.prune_score not in DATA_SCORES:
                continue
            checkpoint, data = self._found(info, settings)
            # as where nothing was calibrated
            if settings.prune_score == "wanda" and not checkpoint.read(data.name).any():
                problem = "prune_data must have a norm above 0 for 'wanda', not zeros alone"
                raise FormatError(problem, path=data.path, tensor=data.name, offset=data.offset)

    def score(self, info: TensorInfo, settings: Settings) -> Score | None:
        """The score that these settings ask for; None for those that the weights say themselves."""
        if not settings.prune or settings.prune_score in ("magnitude", *NORMS):
            return None
        if settings.prune_score == "random":
            return _Random(settings.seed, info.matrix_shape[1])
        checkpoint, data = self._found(info, settings)
        return _FromData(settings, checkpoint, data, info.matrix_shape[1])

    def _found(self, info: TensorInfo, settings: Settings) -> tuple[Checkpoint, TensorInfo]:
        path, score = settings.prune_data, settings.prune_score
        assert path is not None
        if path not in self._open:
            self._open[path] = self._stack.enter_context(open_checkpoint(self._folder / path))
        checkpoint = self._open[path]
        if info.name not in checkpoint:
            raise FormatError(f"prune_data must have a tensor {quote(info.name)} for {score!r}", path=checkpoint.path)
        data = checkpoint.tensors[info.name]
        shapes = _shapes(info.matrix_shape, settings)
        if data.dtype not in READABLE or data.shape not in shapes:
            wanted = f"{' or '.join(READABLE)} of shape {' or '.join(map(str, shapes))} for {score!r}"
            problem = f"prune_data must be {wanted}, not {data.dtype} of shape {data.shape}"
            raise FormatError(problem, path=data.path, tensor=data.name)
        return checkpoint, data


def _shapes(shape: tuple[int, int], settings: Settings) -> list[tuple[int, ...]]:
    """What the data for a matrix may be: one value per input, or per weight, or per unit that goes as a whole."""
    if settings.prune_score == "wanda":
        return [(shape[1],)]
    units = {"row": shape[0], "column": shape[1]}
    pattern = settings.prune_pattern
    if settings.prune_score == "given" and isinstance(pattern, str) and pattern in units:
        return [shape, (units[pattern],)]
    return [shape]


class _Random:
    def __init__(self, seed: int, cols: int) -> None:
        self._seed, self._cols = seed, cols

    def __call__(self, x: Array, chunk: Chunk) -> Array:
        scores = np.empty(x.shape, np.float32)
        backend.active.uniform(self._seed, chunk.row * self._cols + chunk.col, scores.ravel())
        return scores


class _FromData:
    """Of data that is like the weights, or has one value for each of their columns, or for each row."""

    def __init__(self, settings: Settings, checkpoint: Checkpoint, data: TensorInfo, cols: int) -> None:
        self._name, self._checkpoint, self._data, self._cols = settings.prune_score, checkpoint, data, cols
        self._by_row = len(data.shape) == 1 and settings.prune_score == "given" and settings.prune_pattern == "row"

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
