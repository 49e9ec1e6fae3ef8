"""Weights stored sparse, in two passes over the source: one counts what is stored, the other writes it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from .. import sparse
from ..checks import Array
from ..files.atomic import FileWriter
from ..layouts import compressed_tensors as layout
from ..layouts import sparse_scheme
from ..packing import pack, unpack
from ..sparse_tensor import SparseTensor
from ..tensor import QuantizedTensor
from .chunks import Chunk
from .pruner import Pruner
from .source import Source
from .statistics import Errors, measure
from .stream import Quantized, Stream, little_endian
from .tensor_plan import TensorPlan

_ALIGNED = 8  # codes of any bits begin on a byte at multiples of this


@dataclass(frozen=True)
class Counted:
    """What the first pass found: how many weights each chunk stores."""

    counts: tuple[int, ...]


class Sparse(Stream):
    """The tensors of `layouts.sparse_bitmask`; the weights themselves, without codes."""

    def __init__(
        self, source: Source, tensor: TensorPlan, pruner: Pruner | None, out: FileWriter | None, offsets: dict[str, int]
    ) -> None:
        super().__init__(source, tensor, pruner, out, offsets)
        assert isinstance(tensor.form, sparse_scheme.Scheme)
        self.form = tensor.form
        self.starts: list[int] = []  # how many weights are stored before each chunk
        if isinstance(tensor.counted, Counted):
            self.starts = [0, *np.cumsum(tensor.counted.counts, dtype=np.int64).tolist()]
        self._seams: dict[int, int] = {}  # bytes that two chunks share
        self._lock = threading.Lock()

    def count(self, chunk: Chunk) -> int:
        """How many weights of a chunk are stored."""
        return self.attempt(chunk, lambda x: self.encoded(self.pruned(x, chunk), chunk).stored)

    def encoded(self, pruned: Array, chunk: Chunk) -> SparseTensor:
        return sparse.encode(pruned, "bitmask")

    def keep(self, x: Array, pruned: Array, chunk: Chunk) -> Errors:
        s = self.encoded(pruned, chunk)
        self.store(s, chunk)
        return measure(x, pruned)

    def store(self, s: SparseTensor, chunk: Chunk) -> None:
        """Everything of a chunk but its scales."""
        start = self.starts[self.number_of(chunk)]
        width = self.form.parts((self.rows, self.cols))["bitmask"].shape[1]
        self.out.pwrite(s.places, self.begin["bitmask"] + chunk.row * width + chunk.col // 8)
        if chunk.col == 0 and s.offsets is not None:
            at = self.begin["row_offsets"] + chunk.row * 8
            self.out.pwrite(little_endian(s.offsets[:-1] + start), at)
        if self.form.grid is None:
            self.out.pwrite(little_endian(s.values), self.begin["values"] + start * s.values.itemsize)
        elif self.form.signed:
            self.out.pwrite(s.values, self.begin["values"] + start)
        else:
            self._write_stream(s, start, self.form.grid.bits)

    def _write_stream(self, s: SparseTensor, start: int, bits: int) -> None:
        """The codes of a chunk within the one bit stream. A byte that the next chunk continues waits for the end."""
        before = start % _ALIGNED
        codes = unpack(s.values[None], bits, s.stored)
        data = pack(np.concatenate([np.zeros((1, before), np.uint8), codes], axis=1), bits)[0]
        at = (start - before) * bits // 8
        first, last = -(-before * bits // 8), (before + s.stored) * bits // 8  # whole bytes of this chunk alone
        if first < last:
            self.out.pwrite(data[first:last], self.begin["values"] + at + first)
        with self._lock:
            for k in {before * bits // 8, last} - set(range(first, last)):
                if k < len(data):
                    self._seams[at + k] = self._seams.get(at + k, 0) | int(data[k])

    def number_of(self, chunk: Chunk) -> int:
        return self.numbers[chunk]

    def finish(self) -> None:
        """Write the shape, and the bytes that chunks share."""
        self.out.pwrite(little_endian(layout.encode_shape((self.rows, self.cols))), self.begin["shape"])
        for at, value in self._seams.items():
            self.out.pwrite(bytes([value]), self.begin["values"] + at)


class SparseCodes(Sparse, Quantized):
    """Codes that are not zero."""

    keep = Quantized.keep

    def encoded(self, pruned: Array, chunk: Chunk) -> SparseTensor:
        return sparse.encode(self.codes(pruned, chunk), "bitmask")

    def write(self, q: QuantizedTensor, chunk: Chunk) -> None:
        self.store(sparse.encode(q, "bitmask"), chunk)
        self.write_scales(q, chunk)
