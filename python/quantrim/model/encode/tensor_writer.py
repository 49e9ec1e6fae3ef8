"""One tensor from the source into a file, chunk by chunk: read, prune, find codes, encode, write, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ... import backend
from ...checks import Array, ScaleOverflowError
from ...files import Writer
from ...files.tensor_info import DTYPES, little_endian
from ...layouts.base import Chunk
from ...quantization import dequantize
from ...tensor import QuantizedTensor
from ..plan.types import TensorPlan
from ..prune.methods import Pruner
from ..report.errors import Errors, measure
from ..streaming.chunks import column_step, cut, cut_bands
from ..streaming.reader import ChunkReader, Passes, Progress, error_about, explained
from ..streaming.workers import Workers
from .coder import coder_of
from .targets import COPY_BYTES

T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """A piece of work that was done: source bytes, what it cost, what to do when all before it are done."""

    tensor: TensorPlan
    nbytes: int
    errors: Errors | None = None
    finish: Callable[[], None] | None = None


Jobs = Iterator[Callable[[], Done]]


def copy_jobs(source: ChunkReader, tensor: TensorPlan, out: Writer) -> Jobs:
    """Yield pieces that copy a tensor byte for byte, at least one."""

    def job(first: int, count: int) -> Done:
        data = source.buffers.get("source", (count,), np.dtype(np.uint8))
        source.checkpoint.read_into(tensor.name, data, first)
        out.write(tensor.name, data, first)
        return Done(tensor, count)

    nbytes = tensor.source_bytes
    for first in range(0, max(1, nbytes), COPY_BYTES):
        yield partial(job, first, min(COPY_BYTES, nbytes - first))


def compress_jobs(writer: TensorWriter, workers: Workers, chunk_bytes: int, progress: Progress) -> Jobs:
    """Yield pieces that write a compressed or pruned tensor. Where one chunk does not say what goes or which scale is
    whose, asking for the first piece goes through the whole tensor."""
    tensor = writer.tensor
    chunks = writer.chunks(chunk_bytes)
    writer.prepare(chunks, workers, progress)
    itemsize = tensor.info.numpy_dtype.itemsize

    def job(chunk: Chunk) -> Done:
        last = writer.finish if chunk.number == len(chunks) - 1 else None
        return Done(tensor, chunk.size * itemsize, writer.run(chunk), last)

    for chunk in chunks:
        yield partial(job, chunk)


class TensorWriter:
    """The writer of one tensor, which it prunes and rounds. out: None where its weights are only to be counted."""

    def __init__(self, source: ChunkReader, tensor: TensorPlan, pruner: Pruner | None, out: Writer | None) -> None:
        self.source, self.tensor, self.pruner, self._out = source, tensor, pruner, out
        self._band = 0 if pruner is None else pruner.band
        self._coder = coder_of(tensor, source.buffers, in_bands=bool(self._band))
        self._encoder = tensor.layout.encoder(tensor.shape, tensor.counts or ())
        self._names = {role: each.name for role, each in tensor.arrays().items()}

    def chunks(self, chunk_bytes: int) -> list[Chunk]:
        """Return all chunks, in order."""
        rows, cols = self.tensor.info.matrix_shape
        if self._coder is not None and self._coder.whole:
            return [Chunk(0, rows, 0, cols)]
        if self._band:
            return list(cut_bands(rows, cols, self._band, chunk_bytes))
        if self.tensor.layout.whole_rows:
            return list(cut(rows, cols, None, chunk_bytes))
        pattern = self.tensor.settings.pattern
        group = 1 if self._coder is None else self._coder.group_size
        return list(cut(rows, cols, column_step(group, pattern[1] if pattern else None), chunk_bytes))

    def prepare(self, chunks: list[Chunk], workers: Workers, progress: Progress) -> None:
        """Go through the whole tensor where the pruner or the codes need that."""
        passes = Passes(self.source, self.tensor.info, chunks, workers, progress)
        if self.pruner is not None:
            self.pruner.scan(passes)
        if self._coder is not None:
            self._coder.prepare(passes, self._pruned)

    def run(self, chunk: Chunk) -> Errors:
        """Write a chunk; returns what that cost. ValueError says where in the tensor something is wrong."""
        return attempt(self.source, self.tensor, chunk, lambda x: self._written(x, chunk))

    def count(self, chunk: Chunk) -> int:
        """Return how many values of a chunk its layout keeps."""

        def kept(x: Array) -> int:
            pruned = self._pruned(x, chunk)
            return self.tensor.layout.count(pruned if self._coder is None else self._coder.codes(pruned, chunk))

        return attempt(self.source, self.tensor, chunk, kept)

    def finish(self) -> None:
        """Write what belongs to no chunk, when all are written."""
        self._write(self._encoder.finish())

    def _pruned(self, x: Array, chunk: Chunk) -> Array:
        if self.pruner is None:
            return x
        out = self.source.buffers.get("pruned", x.shape, x.dtype)
        self.pruner.apply(x, chunk, out)
        return out

    def _written(self, x: Array, chunk: Chunk) -> Errors:
        pruned = self._pruned(x, chunk)
        if self._coder is None:
            return self._floats(x, pruned, chunk)
        q = self._coder.codes(pruned, chunk)
        weights = decoded(q, self.tensor, self.source)
        if self.tensor.simulated:
            errors = self._floats(x, weights, chunk)
        else:
            self._write(self._encoder.encode(q, chunk))
            errors = measure(x, weights)
        errors.underflowed_groups = self._coder.underflowed_groups(pruned, q, chunk)
        if self.pruner is not None:
            errors.kept = backend.active.count_nonzero(pruned.ravel())
        return errors

    def _floats(self, x: Array, weights: Array, chunk: Chunk) -> Errors:
        """Write weights in the dtype of the layout; how far they are from x."""
        dtype = DTYPES[self.tensor.layout.decoded_dtype][1]
        kept = weights if weights.dtype == dtype else narrowed(weights, dtype)
        self._write(self._encoder.encode(kept, chunk))
        if not np.isfinite(x).all():
            return Errors(count=x.size)
        return measure(x, kept.astype(np.float32) if kept.dtype == np.float64 else kept)

    def _write(self, pieces: Iterator[tuple[str, int, Array]]) -> None:
        assert self._out is not None
        for role, offset, data in pieces:
            self._out.write(self._names[role], little_endian(data), offset)


def attempt(source: ChunkReader, tensor: TensorPlan, chunk: Chunk, work: Callable[[Array], T]) -> T:
    """Return what `work` makes of the weights of a chunk; its errors say where in the tensor they are."""
    x = source.read(tensor.info, chunk)
    try:
        return work(x)
    except ScaleOverflowError as error:
        if not np.isfinite(x).all():
            raise explained(error, tensor.info, x, chunk) from None
        rows = f"rows {chunk.row} to {chunk.row + chunk.rows}"
        wanted = f"a scale or weight in {rows} overflows {tensor.settings.scale_dtype}"
        raise error_about(tensor.info, f"{wanted}; use scale_dtype='float32' or 'bfloat16'") from None
    except ValueError as error:
        raise explained(error, tensor.info, x, chunk) from None


def decoded(q: QuantizedTensor, tensor: TensorPlan, source: ChunkReader) -> Array:
    """Return the weights that readers make of codes, in memory of this thread."""
    assert tensor.codes is not None
    dtype = DTYPES[tensor.codes.decoded_dtype][1]
    assert dtype is not None
    return dequantize(q, out=source.buffers.get("decoded", q.shape, dtype))


def narrowed(x: Array, dtype: Any) -> Array:
    """Return weights in another dtype. ValueError for a finite one that overflows it."""
    with np.errstate(over="ignore"):
        found: Array = x.astype(dtype)
    beyond = np.isfinite(x) & ~np.isfinite(found)
    if beyond.any():
        at = int(beyond.argmax())
        raise ValueError(f"{float(x.reshape(-1)[at])} overflows {np.dtype(dtype)}; use dtype='bfloat16'")
    return found
