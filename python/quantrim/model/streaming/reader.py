"""The open checkpoint as work on its tensors sees it: chunks of weights, and errors that name their place."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ... import checks
from ...checks import Array
from ...files import Checkpoint, FormatError, TensorInfo
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.tensor_info import from_little_endian
from ...layouts.base import Chunk
from .workers import Buffers, Workers

T = TypeVar("T")
Progress = Callable[[int], None]  # told of source bytes that are done with


@dataclass
class ChunkReader:
    """The open checkpoint, and each thread's memory."""

    checkpoint: Checkpoint
    buffers: Buffers

    def read(self, info: TensorInfo, chunk: Chunk) -> Array:
        """Read the weights of a chunk in their dtype; float64 as float32. Valid until this thread reads again."""
        dtype = info.numpy_dtype
        raw = self.buffers.get("source", (chunk.size * dtype.itemsize,), np.dtype(np.uint8))
        first = (chunk.row * info.matrix_shape[1] + chunk.col) * dtype.itemsize
        self.checkpoint.read_into(info.name, raw, first)
        try:
            return _weights(raw, dtype, chunk.cols)
        except ValueError as error:
            raise error_about(info, str(error)) from None

    def read_together(self, infos: Sequence[TensorInfo]) -> Array:
        """Read the weights of tensors of one shape and dtype, one below the other; otherwise as `read`."""
        dtype = infos[0].numpy_dtype
        raw = self.buffers.get("source", (len(infos) * infos[0].nbytes,), np.dtype(np.uint8))
        self.checkpoint.read_many_into([info.name for info in infos], raw)
        return _weights(raw, dtype, infos[0].matrix_shape[1])


@dataclass(frozen=True)
class Passes:
    """The chunks of one tensor, to be gone through as often as it takes."""

    source: ChunkReader
    info: TensorInfo
    chunks: Sequence[Chunk]
    workers: Workers
    progress: Progress

    def read(self, chunk: Chunk) -> Array:
        return self.source.read(self.info, chunk)

    def each(self, f: Callable[[Array, Chunk], T]) -> Generator[T, None, None]:
        """Return f of every chunk and its weights, computed on all threads; the results in order."""

        def job(chunk: Chunk) -> T:
            x = self.source.read(self.info, chunk)
            try:
                return f(x, chunk)
            except ValueError as error:
                raise explained(error, self.info, x, chunk) from None

        for found in self.workers.run(partial(job, chunk) for chunk in self.chunks):
            self.progress(0)
            yield found


def _weights(raw: Array, dtype: np.dtype[Any], cols: int) -> Array:
    x = from_little_endian(raw, dtype).reshape(-1, cols)
    return checks.floats("weights", x) if dtype == np.float64 else x


def explained(error: ValueError, info: TensorInfo, x: Array, chunk: Chunk) -> ValueError:
    """Make an error about the weights x of a chunk one about the tensor."""
    if isinstance(error, FormatError):
        return error
    first = chunk.row * info.matrix_shape[1] + chunk.col
    return not_finite("weights", info, x, first) or error_about(info, str(error))


def not_finite(what: str, info: TensorInfo, x: Array, first: int) -> FormatError | None:
    """Make the error about the first NaN or infinity of x, which begins at flat index `first` of its tensor."""
    with np.errstate(invalid="ignore"):  # a signaling NaN of bfloat16 is said to be one
        bad = ~np.isfinite(x)
    if not bad.any():
        return None
    within = int(bad.ravel().argmax())
    index = first + within
    problem = f"{what} must be finite, not {float(x.ravel()[within])} at flat index {index}"
    offset = info.offset + index * info.numpy_dtype.itemsize
    return FormatError(problem, path=info.path, tensor=info.name, offset=offset)


def error_about(info: TensorInfo, problem: str) -> ValueError:
    return ValueError(f"{quote(info.path, PATH_LIMIT)}, tensor {quote(info.name)}: {problem}")
