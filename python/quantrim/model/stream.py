"""One tensor from the source to the target, chunk by chunk: read, prune, quantize, write, measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from .. import backend
from ..checks import Array
from ..files.atomic import FileWriter
from ..files.safetensors import DTYPES
from ..layouts import compressed_tensors as layout
from ..quantization import dequantize, quantize
from ..tensor import QuantizedTensor, row_bytes, scales_shape
from .chunks import Chunk, column_step, cut, cut_bands
from .pruner import Pruner
from .source import Passes, Progress, Source, error_about, explained
from .statistics import Errors, count_lost_groups, measure
from .tensor_plan import TensorPlan
from .workers import Workers

COPY_BYTES = 8 << 20  # of a tensor that is copied, at a time
ZERO_POINT_BLOCK = 1 << 20  # zero points that are packed at a time
_FLOAT32 = np.dtype(np.float32)
_U64 = 1 << 64
_COUNTER_STEP = 0x9E3779B97F4A7C15  # of stochastic rounding: one weight further on


@dataclass(frozen=True)
class Done:
    """A piece of work that was done: source bytes, what it cost, what to do when all before it are done."""

    tensor: TensorPlan
    nbytes: int
    errors: Errors | None = None
    finish: Callable[[], None] | None = None


T = TypeVar("T")
Jobs = Iterator[Callable[[], Done]]


def copy_jobs(source: Source, tensor: TensorPlan, out: FileWriter, offset: int) -> Jobs:
    """Pieces that copy a tensor byte for byte, at least one."""

    def job(first: int, count: int) -> Done:
        data = source.buffers.get("source", (count,), np.dtype(np.uint8))
        source.checkpoint.read_into(tensor.name, data, first)
        out.pwrite(data, offset + first)
        return Done(tensor, count)

    nbytes = tensor.source_bytes
    for first in range(0, max(1, nbytes), COPY_BYTES):
        yield partial(job, first, min(COPY_BYTES, nbytes - first))


def compress_jobs(stream: Stream, workers: Workers, chunk_bytes: int, progress: Progress) -> Jobs:
    """Pieces that write the parts of a compressed or pruned tensor at their offsets. Where the weights to prune are
    not known from one chunk, asking for the first piece looks at the whole tensor."""
    tensor = stream.tensor
    chunks = stream.chunks(chunk_bytes)
    stream.prepare(chunks, workers, progress)
    itemsize = tensor.info.numpy_dtype.itemsize

    def job(number: int, chunk: Chunk) -> Done:
        last = stream.finish if number == len(chunks) - 1 else None
        return Done(tensor, chunk.size * itemsize, stream.run(chunk), last)

    for number, chunk in enumerate(chunks):
        yield partial(job, number, chunk)


class Stream(ABC):
    """One tensor that is pruned first, where there is a pruner; what becomes of its weights is for `keep`.

    group_size: columns that must not be parted.
    """

    group_size: int | str = 1

    def __init__(
        self, source: Source, tensor: TensorPlan, pruner: Pruner | None, out: FileWriter | None, offsets: dict[str, int]
    ) -> None:
        self.source, self.tensor, self.pruner = source, tensor, pruner
        if out is not None:  # without, nothing may be written
            self.out = out
        self.settings = tensor.settings
        self.rows, self.cols = tensor.info.matrix_shape
        self.begin = {role: offsets.get(part.name, 0) for role, part in tensor.parts().items()}
        self.numbers: dict[Chunk, int] = {}

    @abstractmethod
    def keep(self, x: Array, pruned: Array, chunk: Chunk) -> Errors:
        """Write the pruned weights of a chunk; how far they are from x, the original ones. ValueError where they
        cannot be kept."""

    def finish(self) -> None:  # noqa: B027 (most have nothing left to do)
        """Write what belongs to no chunk."""

    def cut(self, chunk_bytes: int) -> Iterator[Chunk]:
        pattern = self.settings.pattern
        step = column_step(self.group_size, pattern[1] if pattern else None)
        if self.pruner is not None and self.pruner.band:
            return cut_bands(self.rows, self.cols, self.pruner.band, chunk_bytes)
        return cut(self.rows, self.cols, step, chunk_bytes)

    def chunks(self, chunk_bytes: int) -> list[Chunk]:
        """All chunks, whose places in the order `numbers` tells from now on."""
        chunks = list(self.cut(chunk_bytes))
        self.numbers = {chunk: number for number, chunk in enumerate(chunks)}
        return chunks

    def prepare(self, chunks: list[Chunk], workers: Workers, progress: Progress) -> None:
        """Let the pruner look at the whole tensor, if it has not."""
        if self.pruner is not None:
            self.pruner.look(Passes(self.source, self.tensor.info, chunks, workers, progress))

    def pruned(self, x: Array, chunk: Chunk) -> Array:
        if self.pruner is None:
            return x
        out = self.source.buffers.get("pruned", x.shape, x.dtype)
        self.pruner.apply(x, self.numbers[chunk], chunk, out)
        return out

    # One chunk

    def run(self, chunk: Chunk) -> Errors:
        return self.attempt(chunk, lambda x: self._kept(x, chunk))

    def _kept(self, x: Array, chunk: Chunk) -> Errors:
        pruned = self.pruned(x, chunk)
        errors = self.keep(x, pruned, chunk)
        if self.pruner is not None and self.settings.rounds:
            errors.kept = backend.active.count_nonzero(pruned.ravel())
        return errors

    def attempt(self, chunk: Chunk, work: Callable[[Array], T]) -> T:
        """What `work` makes of the weights of a chunk; its errors say where in the tensor they are."""
        x = self.source.read(self.tensor.info, chunk)
        try:
            return work(x)
        except ValueError as error:
            if "overflows" in str(error) and np.isfinite(x).all():
                rows = f"rows {chunk.row} to {chunk.row + chunk.rows}"
                wanted = f"a scale or weight in {rows} overflows {self.settings.scale_dtype}"
                problem = f"{wanted}; use scale_dtype='float32' or 'bfloat16'"
                raise error_about(self.tensor.info, problem) from None
            raise explained(error, self.tensor.info, x, chunk) from None


class Pruned(Stream):
    """Weights that are stored as floats, in their dtype or in a narrower one."""

    def keep(self, x: Array, pruned: Array, chunk: Chunk) -> Errors:
        return self.put(x, pruned, chunk)

    def put(self, x: Array, kept: Array, chunk: Chunk) -> Errors:
        """Write floats in the dtype that is stored; how far they are from x."""
        part = self.tensor.parts()["weights"]
        dtype = DTYPES[part.dtype][1]
        stored = kept if kept.dtype == dtype else narrowed(kept, dtype)
        at = (chunk.row * self.cols + chunk.col) * stored.itemsize
        self.out.pwrite(little_endian(stored), self.begin["weights"] + at)
        seen = stored if stored.dtype != np.float64 else stored.astype(np.float32)
        return measure(x, seen) if np.isfinite(x).all() else Errors(count=x.size)


class Rounded(Stream):
    """Weights that become codes; how these are written is for `write`."""

    @abstractmethod
    def codes(self, pruned: Array, chunk: Chunk) -> QuantizedTensor:
        """The codes of a chunk."""

    @abstractmethod
    def write(self, q: QuantizedTensor, chunk: Chunk) -> None:
        """Write the parts of a chunk."""

    def keep(self, x: Array, pruned: Array, chunk: Chunk) -> Errors:
        q = self.codes(pruned, chunk)
        self.write(q, chunk)
        errors = measure(x, self.decoded(q, self.read_dtype))
        errors.lost_groups = self.lost_groups(pruned, q, chunk)
        return errors

    def lost_groups(self, pruned: Array, q: QuantizedTensor, chunk: Chunk) -> int:
        """How many groups that begin in a chunk have weights, and no scale."""
        return count_lost_groups(pruned, q)

    def decoded(self, q: QuantizedTensor, dtype: np.dtype[Any] = _FLOAT32) -> Array:
        """What codes stand for, in memory of this thread."""
        return dequantize(q, out=self.source.buffers.get("decoded", q.shape, dtype))

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """Of the weights that readers of the codes get, as `LogicalTensor.dtype`."""
        form, grid = self.tensor.form, self.tensor.grid
        if form is not None:
            name = form.dtype
        else:
            assert grid is not None
            name = layout.SCALE_DTYPES[grid.scale_dtype][0]
        dtype = DTYPES[name][1]
        assert dtype is not None
        return dtype


class Simulated(Pruned):
    """Weights that are rounded by `rounded` and stored as the floats that the codes stand for."""

    def __init__(self, rounded: Rounded, out: FileWriter, offsets: dict[str, int]) -> None:
        super().__init__(rounded.source, rounded.tensor, rounded.pruner, out, offsets)
        self._rounded, self.group_size = rounded, rounded.group_size

    def cut(self, chunk_bytes: int) -> Iterator[Chunk]:
        return self._rounded.cut(chunk_bytes)

    def prepare(self, chunks: list[Chunk], workers: Workers, progress: Progress) -> None:
        self._rounded.prepare(chunks, workers, progress)

    def keep(self, x: Array, pruned: Array, chunk: Chunk) -> Errors:
        q = self._rounded.codes(pruned, chunk)
        errors = self.put(x, self._rounded.decoded(q, self._rounded.read_dtype), chunk)
        errors.lost_groups = self._rounded.lost_groups(pruned, q, chunk)
        return errors


class Quantized(Rounded):
    """Weights that become codes and scales. A row with one scale is cut like any other, where its smallest and largest
    weight say which: they are looked for first, and rounded with each piece."""

    def __init__(
        self, source: Source, tensor: TensorPlan, pruner: Pruner | None, out: FileWriter | None, offsets: dict[str, int]
    ) -> None:
        super().__init__(source, tensor, pruner, out, offsets)
        assert tensor.grid is not None
        self.scheme, self.group_size = tensor.grid, tensor.grid.group_size
        self.groups = self.scheme.groups(self.cols)
        # zero points that are packed along the rows are written last; they are few
        packed = not self.scheme.symmetric and tensor.form is None and self.scheme.format == layout.PACKED
        self.zero_points = np.empty((self.rows, self.groups), np.uint8) if packed else None
        self.extremes: Array | None = None  # of rows that are cut: float32 (rows, 2)

    def cut(self, chunk_bytes: int) -> Iterator[Chunk]:
        if self.group_size != "channel" or self.settings.scale_rule != "absmax" or (self.pruner and self.pruner.band):
            return super().cut(chunk_bytes)
        pattern = self.settings.pattern
        return cut(self.rows, self.cols, column_step(1, pattern[1] if pattern else None), chunk_bytes)

    def prepare(self, chunks: list[Chunk], workers: Workers, progress: Progress) -> None:
        super().prepare(chunks, workers, progress)
        if self.group_size == "channel" and chunks and chunks[0].cols < self.cols:
            passes = Passes(self.source, self.tensor.info, chunks, workers, progress)
            self.extremes = np.tile(np.array([np.inf, -np.inf], np.float32), (self.rows, 1))
            each = passes.each(lambda x, chunk: _extremes(self.pruned(x, chunk)))
            for chunk, (low, high) in zip(chunks, each, strict=True):
                found = self.extremes[chunk.row]
                found[:] = min(found[0], low), max(found[1], high)

    def codes(self, pruned: Array, chunk: Chunk) -> QuantizedTensor:
        if self.extremes is None:
            return self._codes(pruned, chunk)
        beside = self.extremes[chunk.row].astype(pruned.dtype)
        q = self._codes(np.append(pruned, beside[None], axis=1), chunk)
        data = q.data[:, : row_bytes(chunk.cols, q.bits)]
        data[:, -1] &= 0xFF >> (-chunk.cols * q.bits % 8)
        return QuantizedTensor(data, q.scales, q.zero_points, q.bits, q.group_size, (1, chunk.cols))

    def lost_groups(self, pruned: Array, q: QuantizedTensor, chunk: Chunk) -> int:
        if self.extremes is None:
            return super().lost_groups(pruned, q, chunk)
        return 0 if chunk.col else count_lost_groups(self.extremes[chunk.row : chunk.row + 1], q)

    def _codes(self, pruned: Array, chunk: Chunk) -> QuantizedTensor:
        """Codes of weights that begin where a chunk does."""
        s, get = self.settings, self.source.buffers.get
        bits, group = self.scheme.bits, self.scheme.group_size
        of_scales = scales_shape(pruned.shape, group)
        scales = get("scales", of_scales, np.dtype(np.float32))
        zero_points = None if s.symmetric else get("zero_points", of_scales, np.dtype(np.uint8))
        for part in (scales, zero_points):
            if part is not None:
                part[...] = 0  # what was there might be no scale or zero point
        q = QuantizedTensor(
            get("codes", (pruned.shape[0], row_bytes(pruned.shape[1], bits)), np.dtype(np.uint8)),
            scales,
            zero_points,
            bits,
            group,
            (pruned.shape[0], pruned.shape[1]),
        )
        seed = (s.seed + (chunk.row * self.cols + chunk.col) * _COUNTER_STEP) % _U64
        return quantize(
            pruned, bits, group_size=group, symmetric=s.symmetric, scale=s.scale_rule, rounding=s.rounding,
            scale_dtype=self.scheme.scale_dtype, seed=seed, out=q,
        )  # fmt: skip

    def write(self, q: QuantizedTensor, chunk: Chunk) -> None:
        width = layout.code_row_bytes(self.scheme, self.cols)
        whole = chunk.col + chunk.cols == self.cols
        # the words of a row end with its last column, so that only there is padding
        inner = not whole and self.scheme.format == layout.PACKED
        codes = q.data if inner else layout.encode_codes(q.data, self.scheme, chunk.cols)
        at = chunk.row * width + chunk.col * self.scheme.bits // 8
        self.out.pwrite(codes, self.begin["codes"] + at)
        self.write_scales(q, chunk)

    def write_scales(self, q: QuantizedTensor, chunk: Chunk) -> None:
        """Scales, and zero points."""
        first_group = chunk.col * self.groups // self.cols
        index = chunk.row * self.groups + first_group
        scales = layout.encode_scales(q.scales, self.scheme)
        self.out.pwrite(little_endian(scales), self.begin["scale"] + index * scales.itemsize)
        if q.zero_points is None:
            return
        if self.tensor.form is not None:
            self.out.pwrite(q.zero_points, self.begin["zero_point"] + index)
        elif self.zero_points is None:
            zeros = layout.encode_zero_points(q.zero_points, self.scheme)
            self.out.pwrite(zeros, self.begin["zero_point"] + index)
        else:
            count = q.zero_points.shape[1]
            rows = slice(chunk.row, chunk.row + chunk.rows)
            self.zero_points[rows, first_group : first_group + count] = q.zero_points

    def finish(self) -> None:
        """Write the shape, and zero points packed along the rows."""
        if "shape" in self.begin:
            self.out.pwrite(little_endian(layout.encode_shape((self.rows, self.cols))), self.begin["shape"])
        if self.zero_points is None:
            return
        step = layout.ZERO_POINT_ROWS * max(1, ZERO_POINT_BLOCK // (layout.ZERO_POINT_ROWS * self.groups))
        at = self.begin["zero_point"]
        for row in range(0, self.rows, step):
            words = layout.encode_zero_points(self.zero_points[row : row + step], self.scheme)
            self.out.pwrite(words, at)
            at += words.nbytes


def _extremes(x: Array) -> tuple[float, float]:
    """The smallest and the largest weight of a part of a row."""
    low, high = np.empty((2, 1, 1), np.float32)
    if not backend.active.ranges(x, x.shape[1], low, high):
        raise ValueError("weights must be finite")
    return float(low[0, 0]), float(high[0, 0])


def narrowed(x: Array, dtype: Any) -> Array:
    """Weights in another dtype. ValueError for a finite one that overflows it."""
    with np.errstate(over="ignore"):
        found: Array = x.astype(dtype)
    beyond = np.isfinite(x) & ~np.isfinite(found)
    if beyond.any():
        at = int(beyond.argmax())
        raise ValueError(f"{float(x.reshape(-1)[at])} overflows {np.dtype(dtype)}; use dtype='bfloat16'")
    return found


def little_endian(a: Array) -> Array:
    """The same values in the byte order of files."""
    unsigned = a.view(np.dtype(f"u{a.dtype.itemsize}"))
    return unsigned.astype(unsigned.dtype.newbyteorder("<"), copy=False)
