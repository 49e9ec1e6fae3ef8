"""The tensors of a checkpoint under their own names, whether they are stored as floats or compressed."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import Array
from ..files import Checkpoint, FormatError, TensorInfo
from ..files.errors import quote
from ..layouts import compressed_tensors as layout
from ..layouts.compressed_tensors_config import bits_for
from ..quantization import dequantize
from ..tensor import QuantizedTensor

_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


@dataclass(frozen=True)
class LogicalTensor:
    """A tensor as its reader sees it. dtype: what `rows` gives, for compressed ones that of the scales.
    stored: for people. nbytes: all parts together. parts: the stored tensors that it is made of."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: str
    parts: Mapping[str, TensorInfo]
    scheme: layout.Scheme | None
    _checkpoint: Checkpoint

    @property
    def nbytes(self) -> int:
        return sum(self._checkpoint.stored(part.name)[1] for part in self.parts.values())

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, cols), as TensorInfo has it; a scalar is one row of one."""
        if self.scheme is not None:
            return self.shape[0], self.shape[1]
        return next(iter(self.parts.values())).matrix_shape if self.shape else (1, 1)

    def rows(self, first: int, count: int) -> Array:
        """(count, cols) weights, rows `first` to `first + count` of the matrix; memory for these rows alone.

        Compressed ones are (code - zero) * scale, rounded to dtype: the bits that compressed-tensors
        computes. FormatError where the stored bytes are no such codes or scales."""
        if self.scheme is not None:
            return dequantize(self.quantized_rows(first, count), dtype=self.dtype)
        name = next(iter(self.parts.values())).name
        if not self.shape:
            return self._checkpoint.read(name).reshape(1, 1)
        return self._checkpoint.rows(name, first, count)

    def quantized_rows(self, first: int, count: int) -> QuantizedTensor:
        """The same rows as codes and scales. ValueError for a tensor that is not compressed."""
        if self.scheme is None:
            raise ValueError(f"tensor {quote(self.name)} must be compressed to have codes, not {self.stored}")
        first, count = operator.index(first), operator.index(count)
        if not (first >= 0 and 0 <= count <= self.shape[0] - first):
            raise ValueError(
                f"tensor {quote(self.name)} must have rows {first} to {first + count}; it has {self.shape[0]}"
            )
        try:
            return self._decode(self.scheme, first, count)
        except FormatError:
            raise
        except ValueError as error:
            part = self.parts["weight_scale"]
            raise FormatError(str(error), path=part.path, tensor=part.name) from None

    def _decode(self, scheme: layout.Scheme, first: int, count: int) -> QuantizedTensor:
        read, cols = self._checkpoint.rows, self.shape[1]
        codes = read(self.parts["weight" if scheme.format == layout.INT else "weight_packed"].name, first, count)
        scales = layout.decode_scales(read(self.parts["weight_scale"].name, first, count))
        zeros = None if scheme.symmetric else self._zero_points(scheme, first, count)
        data = layout.decode_codes(codes, scheme, cols)
        return QuantizedTensor(data, scales, zeros, scheme.bits, scheme.group_size, (count, cols))

    def _zero_points(self, scheme: layout.Scheme, first: int, count: int) -> Array:
        name = self.parts["weight_zero_point"].name
        if scheme.format == layout.INT:
            return layout.decode_zero_points(self._checkpoint.rows(name, first, count), scheme, count)
        # packed along the rows: whole words begin at multiples of ZERO_POINT_ROWS
        skip = first % layout.ZERO_POINT_ROWS
        word = (first - skip) * scheme.bits // 32
        words = -(-(skip + count) * scheme.bits // 32)
        stored = self._checkpoint.rows(name, word, words)
        return np.ascontiguousarray(layout.decode_zero_points(stored, scheme, skip + count)[skip:])


def logical_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors by name, in file order, compressed ones as one `<module>.weight` each.

    FormatError for a compressed tensor that lacks a part, whose parts do not fit each other, or whose order
    of columns was changed (weight_g_idx)."""
    config = _quantization_config(checkpoint)
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        module, _, part = name.rpartition(".")
        if _is_compressed(checkpoint, module):
            target = f"{module}.weight"
            if target not in found:
                found[target] = _compressed(checkpoint, module, config)
            if part == "weight" or part in _PARTS:
                continue
        stored = checkpoint.stored(name)[0]
        found[name] = LogicalTensor(name, info.shape, info.numpy_dtype, stored, {"weight": info}, None, checkpoint)
    return found


def _is_compressed(checkpoint: Checkpoint, module: str) -> bool:
    packed = checkpoint.tensors.get(f"{module}.weight_packed")
    if packed is not None:
        return packed.dtype == "I32"  # others, such as NVFP4, are not of these layouts
    weight = checkpoint.tensors.get(f"{module}.weight")
    return weight is not None and weight.dtype == "I8" and f"{module}.weight_scale" in checkpoint.tensors


def _compressed(checkpoint: Checkpoint, module: str, config: Mapping[str, Any]) -> LogicalTensor:
    stored = ("weight", *_PARTS)
    parts = {p: checkpoint.tensors[f"{module}.{p}"] for p in stored if f"{module}.{p}" in checkpoint.tensors}
    first = next(iter(parts.values()))
    try:
        if "weight_g_idx" in parts:
            raise ValueError("weight_g_idx, columns in an order of their own, is not supported")
        if "weight" in parts and "weight_packed" in parts:
            raise ValueError("weight and weight_packed must not both be there")
        infos = {name: (info.numpy_dtype, info.shape) for name, info in parts.items()}
        values = allowed = None
        if "weight_shape" in parts and parts["weight_shape"].nbytes <= 16:
            values = checkpoint.read(parts["weight_shape"].name)
            if values.size and 0 <= values[-1] < 32:  # so few that codes of several widths have as many words
                allowed = bits_for(config, module) or None
        scheme, shape = layout.infer(infos, values, allowed)
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(str(error), path=first.path, tensor=f"{module}.weight") from None
    dtype = parts["weight_scale"].numpy_dtype
    return LogicalTensor(f"{module}.weight", shape, dtype, scheme.label, parts, scheme, checkpoint)


def _quantization_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    config = (checkpoint.config or {}).get("quantization_config")
    if config is None and "quantization_config" in checkpoint.metadata:
        try:
            config = json.loads(checkpoint.metadata["quantization_config"])
        except (ValueError, RecursionError):
            config = None
    return config if isinstance(config, dict) else {}
