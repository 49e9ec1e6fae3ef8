"""The search for the codes of a tensor, chunk by chunk, whatever layout they are kept in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import backend
from ...checks import Array
from ...codebooks import cluster, quantize_codebook
from ...layouts.base import SCALE_DTYPES, Chunk, WritableLayout
from ...layouts.codebook import round_scales
from ...quantization import quantize
from ...recognition import recognize_grid
from ...tensor import GroupSize, QuantizedTensor, row_bytes, scales_shape
from ..plan.types import TensorPlan
from ..recipe.settings import Settings
from ..report.errors import count_underflowed_groups
from ..streaming.reader import Passes
from ..streaming.workers import Buffers

_U64 = 1 << 64
_COUNTER_STEP = 0x9E3779B97F4A7C15  # of stochastic rounding: one weight further on
Prune = Callable[[Array, Chunk], Array]


class Coder(ABC):
    """Finds codes. group_size: columns that must not be parted; whole: whether all rows are wanted at once."""

    group_size: GroupSize
    whole = False

    def prepare(self, passes: Passes, prune: Prune) -> None:  # noqa: B027 (most know from a chunk alone)
        """Go through the whole tensor, where one chunk does not say enough."""

    @abstractmethod
    def codes(self, x: Array, chunk: Chunk) -> QuantizedTensor:
        """Return the codes of a chunk of pruned weights. ValueError where there are none."""

    def underflowed_groups(self, x: Array, q: QuantizedTensor, chunk: Chunk) -> int:
        """Count the groups that begin in a chunk and have weights, but a scale of 0."""
        return count_underflowed_groups(x, q)


def coder_of(tensor: TensorPlan, buffers: Buffers, in_bands: bool = False) -> Coder | None:
    """Return what finds the codes that a plan asks for; None for a tensor that keeps floats.

    in_bands: whether chunks are bands of rows for the sake of pruning."""
    layout, settings = tensor.codes, tensor.settings
    if layout is None:
        return None
    if tensor.exact:
        return _Recognized(layout)
    if settings.clusters is not None:
        return _Clusters(layout, settings.clusters)
    if settings.codebook is not None:
        return _Codebook(layout, settings.codebook)
    return UniformCoder(layout, settings, tensor.info.matrix_shape, buffers, in_bands)


class _Recognized(Coder):
    """Weights that are already quantized: nothing but all of them says which values there are."""

    whole = True

    def __init__(self, layout: WritableLayout) -> None:
        self.group_size = layout.group_size

    def codes(self, x: Array, chunk: Chunk) -> QuantizedTensor:
        q = recognize_grid(x, group_size=self.group_size)
        if q is None:  # then its plan was made without minus zeros
            q = recognize_grid(np.where(x == 0, x.dtype.type(0), x), group_size=self.group_size)
        assert q is not None
        return q


class _Clusters(Coder):
    def __init__(self, layout: WritableLayout, count: int) -> None:
        self.group_size, self._count = layout.group_size, count
        self.whole = layout.group_size == "tensor"

    def codes(self, x: Array, chunk: Chunk) -> QuantizedTensor:
        return cluster(x, self._count, group_size=self.group_size)


class _Codebook(Coder):
    def __init__(self, layout: WritableLayout, codebook: Any) -> None:
        self.group_size = layout.group_size
        self.whole = layout.group_size == "tensor"
        self._book = codebook if isinstance(codebook, str) else np.array(codebook, np.float32)
        self._stored_scales: str | None = layout.scale_dtype
        self._scale_dtype: Any = "float32" if layout.scale_dtype not in SCALE_DTYPES else str(layout.scale_dtype)

    def codes(self, x: Array, chunk: Chunk) -> QuantizedTensor:
        q = quantize_codebook(x, self._book, group_size=self.group_size, scale_dtype=self._scale_dtype)
        q.scales[...] = round_scales(q.scales, self._stored_scales)
        return q


class UniformCoder(Coder):
    """Codes of a uniform grid. A row with one scale is cut like any other, where its smallest and largest weight say
    which: they are found first, and rounded with each piece."""

    def __init__(
        self, layout: WritableLayout, settings: Settings, shape: tuple[int, int], buffers: Buffers, in_bands: bool
    ) -> None:
        assert layout.bits is not None and layout.scale_dtype is not None
        self._bits, self._groups = layout.bits, layout.group_size
        self._scale_dtype = layout.scale_dtype
        self._settings, self._shape, self._buffers = settings, shape, buffers
        by_range = self._groups == "channel" and settings.scale_rule == "absmax" and not in_bands
        self.group_size = 1 if by_range else self._groups
        self._extremes: Array | None = None  # of rows that are cut: float32 (rows, 2)

    def prepare(self, passes: Passes, prune: Prune) -> None:
        rows, cols = self._shape
        if self._groups != "channel" or not passes.chunks or passes.chunks[0].cols == cols:
            return
        self._extremes = np.tile(np.array([np.inf, -np.inf], np.float32), (rows, 1))
        each = passes.each(lambda x, chunk: _extremes(prune(x, chunk)))
        for chunk, (low, high) in zip(passes.chunks, each, strict=True):
            found = self._extremes[chunk.row]
            found[:] = min(found[0], low), max(found[1], high)

    def codes(self, x: Array, chunk: Chunk) -> QuantizedTensor:
        if self._extremes is None:
            return self._codes(x, chunk)
        beside = self._extremes[chunk.row].astype(x.dtype)
        q = self._codes(np.append(x, beside[None], axis=1), chunk)
        data = q.data[:, : row_bytes(chunk.cols, q.bits)]
        data[:, -1] &= 0xFF >> (-chunk.cols * q.bits % 8)
        return QuantizedTensor(data, q.scales, q.zero_points, q.bits, q.group_size, (1, chunk.cols))

    def underflowed_groups(self, x: Array, q: QuantizedTensor, chunk: Chunk) -> int:
        if self._extremes is None:
            return super().underflowed_groups(x, q, chunk)
        return 0 if chunk.col else count_underflowed_groups(self._extremes[chunk.row : chunk.row + 1], q)

    def _codes(self, x: Array, chunk: Chunk) -> QuantizedTensor:
        """Return the codes of weights that begin where a chunk does."""
        s, get = self._settings, self._buffers.get
        of_scales = scales_shape(x.shape, self._groups)
        scales = get("scales", of_scales, np.dtype(np.float32))
        zero_points = None if s.symmetric else get("zero_points", of_scales, np.dtype(np.uint8))
        for each in (scales, zero_points):
            if each is not None:
                each[...] = 0  # what was there might be no scale or zero point
        data = get("codes", (x.shape[0], row_bytes(x.shape[1], self._bits)), np.dtype(np.uint8))
        out = QuantizedTensor(data, scales, zero_points, self._bits, self._groups, (x.shape[0], x.shape[1]))
        seed = (s.seed + (chunk.row * self._shape[1] + chunk.col) * _COUNTER_STEP) % _U64
        options: dict[str, Any] = {"rounding": s.rounding, "scale_dtype": self._scale_dtype, "seed": seed}
        options["scale" if isinstance(s.scale_rule, str) else "scales"] = s.scale_rule
        return quantize(x, self._bits, group_size=self._groups, symmetric=s.symmetric, out=out, **options)


def _extremes(x: Array) -> tuple[float, float]:
    """Return the smallest and the largest weight of a piece of a row."""
    low, high = np.empty((2, 1, 1), np.float32)
    if not backend.active.ranges(x, x.shape[1], low, high):
        raise ValueError("weights must be finite")
    return float(low[0, 0]), float(high[0, 0])
