"""Weights that become codes of a codebook, or share values, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..checks import Array
from ..codebooks import cluster, quantize_codebook
from ..files.atomic import FileWriter
from ..layouts import bitsandbytes, codebook
from ..tensor import QuantizedTensor, columns_per_group, scales_shape
from .chunks import Chunk
from .pruner import Pruner
from .source import Source
from .stream import Quantized, Rounded, little_endian
from .tensor_plan import TensorPlan


class Coded(Rounded):
    """Codes with a table. Where the whole tensor shares a scale or its values, it is one chunk."""

    def __init__(
        self, source: Source, tensor: TensorPlan, pruner: Pruner | None, out: FileWriter | None, offsets: dict[str, int]
    ) -> None:
        super().__init__(source, tensor, pruner, out, offsets)
        assert isinstance(tensor.form, (codebook.Scheme, bitsandbytes.Scheme))
        self.form, self.group_size = tensor.form, tensor.form.group_size
        self.stored = self.form.parts((self.rows, self.cols))
        self.groups = scales_shape((self.rows, self.cols), self.group_size)[1]

    def cut(self, chunk_bytes: int) -> Iterator[Chunk]:
        if self.group_size == "tensor":
            return iter([Chunk(0, self.rows, 0, self.cols)])
        return super().cut(chunk_bytes)

    def codes(self, pruned: Array, chunk: Chunk) -> QuantizedTensor:
        q = self.coded(pruned)
        if self.form.scale_dtype == codebook.POWERS:  # of which the smallest become 0
            q.scales[...] = codebook.decode_scales(codebook.encode_scales(q.scales, codebook.POWERS), codebook.POWERS)
        return q

    def coded(self, x: Array) -> QuantizedTensor:
        """The codes of some weights."""
        s = self.settings
        if s.clusters is not None:
            return cluster(x, s.clusters, group_size=self.group_size)
        book = s.codebook if isinstance(s.codebook, str) else np.array(s.codebook, np.float32)
        scale_dtype = self.form.scale_dtype
        if scale_dtype is None or scale_dtype == codebook.POWERS:
            scale_dtype = "float32"
        return quantize_codebook(x, book, group_size=self.group_size, scale_dtype=scale_dtype)

    def write(self, q: QuantizedTensor, chunk: Chunk) -> None:
        """The parts of a chunk."""
        assert isinstance(self.form, codebook.Scheme)
        for role, part in codebook.encode(q, self.form).items():
            stored = self.stored[role]
            width = stored.shape[1] if len(stored.shape) == 2 else 0
            if role == "codes":
                at = chunk.row * width + chunk.col * self.form.bits // 8
            else:  # a row of `groups` values, or of as many codebooks
                at = (chunk.row * width + self.group_of(chunk) * (width // self.groups)) * part.itemsize
            self.out.pwrite(little_endian(np.ascontiguousarray(part)), self.begin[role] + at)

    def group_of(self, chunk: Chunk) -> int:
        """The group of its row that a chunk begins with."""
        return chunk.col // columns_per_group(self.group_size, self.cols)


class GridCodes(Coded, Quantized):
    """Codes of a uniform grid in our own layout."""

    def codes(self, pruned: Array, chunk: Chunk) -> QuantizedTensor:
        return Quantized.codes(self, pruned, chunk)

    def finish(self) -> None:
        """Nothing is left to write."""


class BitsAndBytes(Coded):
    """NF4 and FP4 as bitsandbytes stores them."""

    def write(self, q: QuantizedTensor, chunk: Chunk) -> None:
        first = chunk.row * self.cols + chunk.col
        self.out.pwrite(bitsandbytes.swapped(q.data), self.begin["codes"] + first // 2)
        at = (chunk.row * self.groups + self.group_of(chunk)) * q.scales.itemsize
        self.out.pwrite(little_endian(q.scales), self.begin["scale"] + at)

    def finish(self) -> None:
        """Write the table and the state."""
        assert isinstance(self.form, bitsandbytes.Scheme)
        self.out.pwrite(little_endian(self.form.quant_map()), self.begin["map"])
        self.out.pwrite(self.form.state((self.rows, self.cols)), self.begin["state"])
