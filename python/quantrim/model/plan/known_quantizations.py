"""Methods by which checkpoints in circulation are quantized: the tensors of a module that give each away. One table."""

from __future__ import annotations

from dataclasses import dataclass

DECOMPRESS = "`quantrim decompress SRC DST` gives floats again"
ELSEWHERE = "dequantize it with the tool that made it, or take the original float checkpoint"

_FLOATS = ("F64", "F32", "F16", "BF16")
_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_BYTES = ("U8", "I8")
_INTEGERS = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
_CODES = (*_INTEGERS, "F4", "F6_E2M3", "F6_E3M2", *_FLOAT8)
_ANY = (*_FLOATS, *_CODES, "BOOL", "F8_E8M0")


@dataclass(frozen=True)
class Row:
    """A tensor that holds codes, by its ending and dtypes, and the tensors that are beside it.

    method: for people. ending: of its name, which is seen with a dot before it: ".qweight" is the whole last word,
    "_blocks" the end of one, "" any name. beside: endings in place of that one; all must be there.
    """

    method: str
    ending: str
    dtypes: tuple[str, ...]
    beside: tuple[str, ...] = ()
    way_out: str = ELSEWHERE


# of a tensor's rows the first decides: those that ask for more come before those that ask for less
ROWS = (
    Row("GPTQ", ".qweight", ("I32",), (".qzeros", ".scales", ".g_idx")),
    Row("AWQ, or GPTQ without g_idx", ".qweight", ("I32", "I16"), (".qzeros", ".scales")),
    Row("SVDQuant", ".qweight", _BYTES, (".wscales",)),
    Row("packed codes of GPTQ's kind", ".qweight", _CODES),
    Row("Marlin", ".B", ("I32",), (".s",)),
    # compressed-tensors, and who shares its names
    Row("compressed-tensors, packed integers", ".weight_packed", ("I32",), (".weight_scale",), DECOMPRESS),
    Row("compressed-tensors, Marlin 2:4", ".weight_packed", ("I32",), (".scale_packed", ".meta")),
    Row("compressed-tensors, 4-bit floats (NVFP4 or MXFP4)", ".weight_packed", ("U8", "F4"), (".weight_scale",)),
    Row("compressed-tensors", ".weight_packed", _CODES),
    Row("compressed-tensors, stored sparse", ".bitmask", ("U8",), (".compressed",)),
    Row("8-bit integers of compressed-tensors", ".weight", ("I8",), (".weight_scale",), DECOMPRESS),
    Row("weights on a grid of compressed-tensors, kept as floats", ".weight", _FLOATS, (".weight_scale",)),
    Row("weights on a grid of compressed-tensors, kept as floats", ".weight", _FLOATS, (".weight_zero_point",)),
    # bitsandbytes
    Row("bitsandbytes, 4-bit NF4", ".quant_state.bitsandbytes__nf4", ("U8",), ("", ".absmax"), DECOMPRESS),
    Row("bitsandbytes, 4-bit FP4", ".quant_state.bitsandbytes__fp4", ("U8",), ("", ".absmax"), DECOMPRESS),
    Row("bitsandbytes, 4-bit", "", ("U8",), (".absmax", ".quant_map"), DECOMPRESS),
    Row("bitsandbytes, 8-bit", ".weight", ("I8",), (".SCB",)),
    # integers and their scales
    Row("HIGGS or FLUTE", ".weight", _CODES, (".scales", ".tables")),
    Row("MLX", ".weight", ("U32",), (".scales", ".biases")),
    Row("MLX", ".weight", ("U32",), (".scales",)),
    Row("EETQ", ".weight", ("I8",), (".weight_scales",)),
    Row("SmoothQuant of TensorRT-LLM", ".weight", ("I8",), (".per_channel_scale",)),
    Row("NVFP4 of ModelOpt", ".weight", ("U8", "F4"), (".weight_scale", ".weight_scale_2")),
    Row("packed integers of BitNet, Quark or their like", ".weight", _INTEGERS, (".weight_scale",)),
    Row("TensorRT-LLM", ".weight", _CODES, (".weights_scaling_factor",)),
    Row("HQQ or SINQ", ".W_q", _CODES),
    Row("quanto", ".weight._data", (*_BYTES, *_FLOAT8), (".weight._scale",)),
    Row("quanto", ".weight._data._data", _BYTES, (".weight._scale",)),
    Row("torchao", "_qdata", _CODES, ("_scale",)),
    Row("our codes without their metadata", ".weight_codes", ("U8",)),
    # 8-bit and 4-bit floats
    Row("FP8 with scales of blocks", "", _FLOAT8, ("_scale_inv",)),
    Row("FP8", "", _FLOAT8, ("_scale",)),
    Row("FP8 of ComfyUI", ".weight", _FLOAT8, (".scale_weight",)),
    Row("FP8 of ComfyUI", ".scaled_fp8", _ANY),
    Row("ComfyUI", ".comfy_quant", ("U8",), (".weight",)),
    Row("FP8", ".weight", _FLOAT8, (".scale",)),
    Row("FP8", ".weight", _FLOAT8, (".qscale_weight",)),
    Row("FP8", ".weight", _FLOAT8, (".input_scale",)),
    Row("MXFP4 of gpt-oss", "_blocks", ("U8",), ("_scales",)),
    # codebooks, lattices, trellises
    Row("AQLM", ".codes", _INTEGERS, (".codebooks",)),
    Row("SpQR", ".dense_weights", ("I64", "I32"), (".row_offsets", ".col_vals")),
    Row("VPTQ", ".indices", _INTEGERS, (".centroids.weight",)),
    Row("EXL2", ".q_weight", ("I32",), (".q_scale",)),
    Row("EXL3", ".trellis", ("I16", "U16"), (".suh", ".svh")),
    Row("QTIP or EXL3", ".trellis", ("I16", "U16")),
    Row("QuIP#", ".Qidxs", _INTEGERS, (".SU", ".SV")),
    # what has been calibrated: floats beside ranges
    Row("calibrated by ModelOpt", ".weight_quantizer._amax", _ANY),
    Row("calibrated by ModelOpt", ".input_quantizer._amax", _ANY),
    Row("trained for quantization by torch.ao", ".weight_fake_quant.scale", _FLOATS),
    # of no method that has a name here
    Row("integers and scales", ".weight", _INTEGERS, (".scale",)),
    Row("integers and scales", ".weight", _INTEGERS, (".scales",)),
    Row("integers and scales", ".weight", _CODES, (".weight_scale_inv",)),
    Row("integers and scales", ".weight", _CODES, (".absmax",)),
)
