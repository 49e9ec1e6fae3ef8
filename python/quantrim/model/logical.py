"""The tensors of a checkpoint under their own names, whether they are stored as floats or compressed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..files import Checkpoint, FormatError
from ..layouts import compressed_tensors as layout
from ..layouts.compressed_tensors_config import bits_for
from .logical_tensor import LogicalTensor
from .stored import stored_tensors
from .stored_bitsandbytes import bitsandbytes_tensors

__all__ = ["LogicalTensor", "logical_tensors"]

_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


def logical_tensors(checkpoint: Checkpoint) -> dict[str, LogicalTensor]:
    """The tensors by name, in file order, compressed ones as one `<module>.weight` each.

    FormatError for a compressed tensor that lacks a part, whose parts do not fit each other, or whose order
    of columns was changed (weight_g_idx)."""
    config = _quantization_config(checkpoint)
    ours = {**stored_tensors(checkpoint), **bitsandbytes_tensors(checkpoint)}
    owner = {part.name: name for name, tensor in ours.items() for part in tensor.parts.values()}
    found: dict[str, LogicalTensor] = {}
    for name, info in checkpoint.tensors.items():
        if name in owner:
            found[owner[name]] = ours[owner[name]]
            continue
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
    label = scheme.label_for(shape[1])
    return LogicalTensor(f"{module}.weight", shape, dtype, label, parts, scheme, checkpoint)


def _quantization_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    config = (checkpoint.config or {}).get("quantization_config")
    if config is None and "quantization_config" in checkpoint.metadata:
        try:
            config = json.loads(checkpoint.metadata["quantization_config"])
        except (ValueError, RecursionError):
            config = None
    return config if isinstance(config, dict) else {}
