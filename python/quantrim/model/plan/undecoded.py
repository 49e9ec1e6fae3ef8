"""Tensors that are quantized in a way that is not read: their codes must not pass for weights."""

from __future__ import annotations

from collections.abc import Mapping

from ...files import Checkpoint, TensorInfo
from ...files.disk.errors import PATH_LIMIT, quote
from ...layouts.compressed_tensors import why_not_read
from ..streaming.tensors import Catalog, LogicalTensor, quantization_config

_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_INTEGERS = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "F4", "F6_E2M3", "F6_E3M2")
_KEPT = "arrays of quantized weights of compressed-tensors without their codes"
# by the last word of a name, where the tensor is no plain float
_CODES = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_packed": "packed codes of compressed-tensors",
    "weight_codes": "codes of quantrim without their metadata",
    "compressed": "sparse weights of compressed-tensors",
    "compressed_packed": "sparse weights of quantrim, without their metadata",
    "bitmask": "sparse weights of compressed-tensors",
    "absmax": "bitsandbytes",
    "bitsandbytes__nf4": "bitsandbytes",
    "bitsandbytes__fp4": "bitsandbytes",
    "W_q": "HQQ",
    "q_weight": "EXL2",
    "trellis": "EXL3",
    "Qidxs": "QuIP#",
    "codes": "AQLM",
    "_data": "quanto",
    "B": "Marlin",
}
# and whatever the dtype
_ARRAYS = {
    "SCB": "LLM.int8() of bitsandbytes in tiles of a GPU",
    "quant_map": "bitsandbytes",
    "weight_scale": _KEPT,
    "weight_scale_inv": _KEPT,
    "weight_global_scale": _KEPT,
    "weight_zero_point": _KEPT,
    "weight_g_idx": _KEPT,
}


def refuse_undecoded(checkpoint: Checkpoint, tensors: Mapping[str, LogicalTensor]) -> None:
    """Raise ValueError, naming tensor and method, where one of these tensors is quantized and is not decoded."""
    config = quantization_config(checkpoint)
    rotated = config.get("transform_config")
    if isinstance(rotated, dict) and rotated.get("config_groups"):
        said = "its quantization_config has a transform_config: weights are rotated, and turned back as the model runs"
        raise ValueError(f"{quote(checkpoint.path, PATH_LIMIT)} must have weights that are not rotated; {said}")
    for name, tensor in tensors.items():
        found = None if tensor.compressed else _method(checkpoint, checkpoint.tensors[name], bool(config))
        if found is not None:
            stated = config.get("quant_method")
            said = f", and config.json says {quote(stated)}" if isinstance(stated, str) else ""
            info = checkpoint.tensors[name]
            what = f"{info.dtype} of shape {list(info.shape)}"
            raise ValueError(
                f"{quote(info.path, PATH_LIMIT)}: tensor {quote(name)} ({what}) is quantized in a way that is not "
                f"read: {found}{said}; dequantize it with the tool that made it, or take the original checkpoint"
            )


def _method(checkpoint: Checkpoint, info: TensorInfo, quantized: bool) -> str | None:
    """Say how a tensor that was not decoded is quantized; None where it is a plain one."""
    present = checkpoint.tensors
    module, _, last = info.name.rpartition(".")
    if last in _ARRAYS:
        beside = _ARRAYS[last] == _KEPT and _has_codes(checkpoint, module)
        return why_not_read(Catalog(checkpoint), f"{module}.weight") if beside else _ARRAYS[last]
    if info.dtype in _FLOAT8:
        if f"{info.name}_scale" in present or f"{info.name}_scale_inv" in present:
            return why_not_read(Catalog(checkpoint), info.name)
        scales = ("scale_weight", "scale", "scales", "qscale_weight")
        found = [name for name in scales if f"{module}.{name}" in present]
        if found:
            return f"8-bit floats with {found[0]}"
        return "8-bit floats whose scales are not there" if quantized and last == "weight" else None
    if info.dtype not in _INTEGERS:
        return None
    if last in _CODES:
        return _CODES[last]
    if info.name.endswith("_blocks") and f"{info.name.removesuffix('_blocks')}_scales" in present:
        return "MXFP4 of gpt-oss"
    if last == "weight" and len(info.shape) > 1:
        return _beside(checkpoint, module)
    return None


def _has_codes(checkpoint: Checkpoint, module: str) -> bool:
    found = [checkpoint.tensors.get(f"{module}.{name}") for name in ("weight", "weight_packed")]
    return any(info is not None and info.dtype in (*_INTEGERS, *_FLOAT8) for info in found)


def _beside(checkpoint: Checkpoint, module: str) -> str:
    """Say what integers under the name of a weight are, by the tensors beside them."""
    names = ("scales", "biases", "weight_scale_2", "weight_scale", "weight_scales", "weights_scaling_factor", "SCB")
    found = [name for name in names if f"{module}.{name}" in checkpoint.tensors]
    if found[:2] == ["scales", "biases"]:
        return "MLX"
    return f"integers with {' and '.join(found)}" if found else "integers under the name of a weight"
