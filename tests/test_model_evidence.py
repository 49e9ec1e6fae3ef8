"""A checkpoint that is quantized already is refused by what its tensors show, and one of floats is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files_helpers import nothing_written
from model_helpers import save_folder, weights

from quantrim.files import encode_header, open_checkpoint
from quantrim.files.tensor_info import count_bytes
from quantrim.model import compress, plan
from quantrim.model.plan.evidence import SIDE_FILES, quantized_evidence
from quantrim.model.plan.known_quantizations import ROWS, Row

Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape
FLOAT: Tensors = {"norm.weight": ("BF16", (64,)), "head.weight": ("BF16", (64, 64))}


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of these dtypes, of zeros."""
    header, _ = encode_header([(name, dtype, shape) for name, (dtype, shape) in tensors.items()], metadata or {})
    path.write_bytes(header + bytes(sum(count_bytes(dtype, shape) for dtype, shape in tensors.values())))
    return path


def tensors_of(text: str) -> Tensors:
    """Small tensors: "mlp.up: weight:U32 scales:BF16" are mlp.up.weight and mlp.up.scales."""
    module, _, parts = text.partition(": ")
    pairs = (part.rsplit(":", 1) for part in parts.split())
    return {f"{module}.{name}": (dtype, (8, 8)) for name, dtype in pairs}


SCHEMES = {  # words of the scheme; a module and its tensors, of which the first gives it away
    "gptq": ("GPTQ", "up: qweight:I32 qzeros:I32 scales:F16 g_idx:I32"),
    "awq": ("AWQ", "up: qweight:I32 qzeros:I32 scales:F16"),
    "awq-gemv-fast": ("AWQ", "up: qweight:I16 qzeros:F16 scales:F16"),
    "svdquant": ("SVDQuant", "up: qweight:I8 wscales:BF16 smooth_factor:BF16"),
    "fp-quant": ("packed codes", "up: qweight:U8 scales:U8"),
    "marlin": ("Marlin", "up: B:I32 s:F16"),
    "fp8-blocks": ("FP8 with scales of blocks", "up: weight:F8_E4M3 weight_scale_inv:F32"),
    "fp8-experts": ("FP8 with scales of blocks", "experts: gate_up_proj:F8_E4M3 gate_up_proj_scale_inv:F32"),
    "fp8-tensor": ("FP8", "up: weight:F8_E4M3 weight_scale:F32 input_scale:F32"),
    "fp8-e5m2": ("FP8", "up: weight:F8_E5M2 weight_scale:BF16"),
    "fp8-fnuz": ("FP8", "up: weight:F8_E4M3FNUZ weight_scale:F32"),
    "fp8-deepseek": ("FP8", "up: weight:F8_E4M3 scale:F8_E8M0"),
    "fp8-mistral": ("FP8", "up: weight:F8_E4M3 qscale_weight:F32 qscale_act:F32"),
    "fp8-static": ("FP8", "up: weight:F8_E4M3 input_scale:F32"),
    "fp8-comfyui": ("FP8 of ComfyUI", "up: weight:F8_E4M3 scale_weight:F32"),
    "comfyui": ("FP8 of ComfyUI", "model: scaled_fp8:F8_E4M3"),
    "comfyui-mixed": ("ComfyUI", "up: comfy_quant:U8 weight:BF16"),
    "mxfp8": ("FP8", "up: weight:F8_E4M3 weight_scale:U8"),
    "mlx": ("MLX", "up: weight:U32 scales:BF16 biases:BF16"),
    "mlx-mxfp4": ("MLX", "up: weight:U32 scales:U8"),
    "packed": ("compressed-tensors, packed", "up: weight_packed:I32 weight_scale:BF16 weight_shape:I64"),
    "8-bit": ("8-bit integers of compressed-tensors", "up: weight:I8 weight_scale:BF16"),
    "packed-nvfp4": ("compressed-tensors, 4-bit floats", "up: weight_packed:U8 weight_scale:F8_E4M3"),
    "marlin-24": ("Marlin 2:4", "up: weight_packed:I32 scale_packed:F16 meta:I16"),
    "packed-alone": ("compressed-tensors", "up: weight_packed:I32"),
    "sparse-bitmask": ("compressed-tensors, stored sparse", "up: bitmask:U8 compressed:BF16 shape:I64"),
    "on-a-grid": ("kept as floats", "up: weight:BF16 weight_scale:BF16"),
    "on-a-grid-zeros": ("kept as floats", "up: weight:BF16 weight_zero_point:I8"),
    "nf4": ("bitsandbytes, 4-bit", "up: weight:U8 weight.absmax:F32 weight.quant_map:F32"),
    "nf4-bf16": ("NF4", "up: weight.quant_state.bitsandbytes__nf4:U8 weight:BF16 weight.absmax:F32"),
    "fp4": ("FP4", "up: weight.quant_state.bitsandbytes__fp4:U8 weight:F32 weight.absmax:U8"),
    "bitsandbytes-8": ("bitsandbytes, 8-bit", "up: weight:I8 SCB:F32 weight_format:U8"),
    "hqq": ("HQQ", "up: W_q:U8 scale:F16 zero:F16"),
    "higgs": ("HIGGS", "up: weight:I16 scales:F16 tables:F16"),
    "quanto": ("quanto", "up: weight._data:I8 weight._scale:BF16"),
    "quanto-fp8": ("quanto", "up: weight._data:F8_E4M3 weight._scale:BF16"),
    "quanto-4": ("quanto", "up: weight._data._data:U8 weight._scale:BF16 weight._shift:BF16"),
    "torchao": ("torchao", "up: _weight_qdata:I8 _weight_scale:BF16"),
    "torchao-fp8": ("torchao", "up: _weight_qdata:F8_E4M3 _weight_scale:F32"),
    "eetq": ("EETQ", "up: weight:I8 weight_scales:F16"),
    "smoothquant": ("SmoothQuant", "up: weight:I8 per_channel_scale:F32"),
    "tensorrt-llm": ("TensorRT-LLM", "up: weight:I8 weights_scaling_factor:F32"),
    "bitnet": ("BitNet", "up: weight:U8 weight_scale:BF16"),
    "quark": ("Quark", "up: weight:I32 weight_scale:BF16 weight_zero_point:I32"),
    "aqlm": ("AQLM", "up: codes:I8 codebooks:F16 scales:F16"),
    "spqr": ("SpQR", "up: dense_weights:I64 row_offsets:I32 col_vals:I32 in_perm:I16"),
    "vptq": ("VPTQ", "up: indices:I32 centroids.weight:BF16 weight_scale:BF16"),
    "exl2": ("EXL2", "up: q_weight:I32 q_scale:I32 q_scale_max:F16 q_groups:I16"),
    "exl3": ("EXL3", "up: trellis:I16 suh:F16 svh:F16"),
    "qtip": ("QTIP", "up: trellis:I16 SU:F16 SV:F32"),
    "quip": ("QuIP#", "up: Qidxs:I64 SU:F16 SV:F16"),
    "nvfp4": ("NVFP4 of ModelOpt", "up: weight:U8 weight_scale:F8_E4M3 weight_scale_2:F32 input_scale:F32"),
    "mxfp4": ("MXFP4 of gpt-oss", "experts: down_proj_blocks:U8 down_proj_scales:U8"),
    "modelopt": ("calibrated by ModelOpt", "up: weight_quantizer._amax:F32 weight:BF16"),
    "modelopt-inputs": ("calibrated by ModelOpt", "up: input_quantizer._amax:F32 weight:BF16"),
    "torch-ao": ("torch.ao", "up: weight_fake_quant.scale:F32 weight:F32"),
    "ours-without-metadata": ("our codes", "up: weight_codes:U8 weight_scale:F16"),
    "integers-scale": ("integers and scales", "up: weight:U8 scale:F32"),
    "integers-scales": ("integers and scales", "up: weight:I32 scales:F32"),
    "integers-inverse": ("integers and scales", "up: weight:I8 weight_scale_inv:F32"),
    "integers-absmax": ("integers and scales", "up: weight:I8 absmax:F32"),
}
READ = ("packed", "8-bit", "nf4", "nf4-bf16", "fp4")  # what `quantrim decompress` reads
FLOATS_TOO = ("on-a-grid", "modelopt", "modelopt-inputs", "torch-ao", "comfyui")  # floats with what others left there


def given_away_by(name: str) -> tuple[str, Tensors]:
    tensors = tensors_of(SCHEMES[name][1])
    return next(iter(tensors)), tensors


@pytest.mark.promise("fault-B1", "fault-B2", "fault-B3")
@pytest.mark.parametrize("name", SCHEMES)
def test_codes_and_their_companions_are_refused(tmp_path: Path, name: str) -> None:
    """Without a word in config.json; the message names scheme, tensors, dtypes and the way out."""
    teller, tensors = given_away_by(name)
    source = write(tmp_path / "m.safetensors", FLOAT | tensors)
    with nothing_written(tmp_path / "t.safetensors"), pytest.raises(ValueError, match="is quantized already") as error:
        compress(source, tmp_path / "t.safetensors")
    said = str(error.value)
    path, scheme = said.partition(": ")[0].split(" is quantized already ")
    assert path == repr(str(source)) and SCHEMES[name][0] in scheme
    assert f"tensor {teller!r} ({tensors[teller][0]})" in said
    assert ("`quantrim decompress SRC DST` gives floats again" in said) == (name in READ)
    assert ("the tool that made it, or take the original float checkpoint" in said) == (name not in READ)


def test_every_row_of_the_table_is_tried() -> None:
    """A row that none of the tensors above meets is a row that nobody has tried."""
    met = {first_row(*given_away_by(name)) for name in SCHEMES}
    assert [row for row in ROWS if row not in met] == []


def first_row(teller: str, tensors: Tensors) -> Row:
    def meets(row: Row) -> bool:
        stem = f".{teller}".removesuffix(row.ending)
        named = f".{teller}".endswith(row.ending) and all((stem + end)[1:] in tensors for end in row.beside)
        return named and tensors[teller][0] in row.dtypes

    return next(row for row in ROWS if meets(row))


@pytest.mark.parametrize("name", SCHEMES)
def test_names_alone_show_nothing(tmp_path: Path, name: str) -> None:
    """The same names in float32 are a float model, but for what only tools of quantization leave beside floats."""
    floats = {part: ("F32", shape) for part, (_, shape) in given_away_by(name)[1].items()}
    with open_checkpoint(write(tmp_path / "m.safetensors", FLOAT | floats)) as checkpoint:
        evidence = quantized_evidence(checkpoint)
    left = name in FLOATS_TOO or any(part in floats for part in ("up.weight_scale", "up.weight_zero_point"))
    assert (evidence is not None) <= left


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"packed-alone", "fp-quant", *FLOATS_TOO}))
def test_codes_alone_show_nothing(tmp_path: Path, name: str) -> None:
    """A tensor of codes in a module of its own, unless its name is that of one scheme only."""
    teller, tensors = given_away_by(name)
    apart = {part if part == teller else f"elsewhere.{part}": info for part, info in tensors.items()}
    with open_checkpoint(write(tmp_path / "m.safetensors", FLOAT | apart)) as checkpoint:
        evidence = quantized_evidence(checkpoint)
    own = any(f".{teller}".endswith(row.ending) for row in ROWS if not row.beside)
    assert (evidence is not None) == own


FALSE_POSITIVES = {
    "layer-scale": "up: weight:F32 scale:F32 gamma:F32 lambda1:F32",
    "logit-scale": "clip: logit_scale:F32 logit_bias:F32 weight:F32",
    "position-ids": "embeddings: position_ids:I64 num_batches_tracked:I64 weight:F32",
    "relative-bias": "attention: relative_attention_bias.weight:F32 relative_position_index:I64 logit_scale:F32",
    "masks": "attn: mask:U8 bias:BOOL scale:F32 masked_bias:F16",
    "mamba": "mixer: A_log:F32 D:F32 dt_bias:F32 conv1d.weight:F32 B:F32 s:F32",
    "float-scales": "up: weight:F16 scales:F16 biases:F16 zeros:F16",
    "float-bias": "up: weight:BF16 bias:BF16 scale:BF16 tables:BF16",
    "integers-alone": "up: weight:I32 bias:F32",
    "float8-alone": "up: weight:F8_E4M3 bias:BF16",
    "vector-quantizer": "vq: codebook.weight:F32 codebooks:F32 centroids.weight:F32 cluster_size:F32 inited:BOOL",
    "weight-norm": "conv: weight_g:F32 weight_v:F32 bias:F32",
    "blocks-of-floats": "net: down_blocks:F32 down_scales:F32",
    "fixed-tables": "sampler: indices:I32 weights:F32 codes:I64",
}


@pytest.mark.promise("fault-B3")
@pytest.mark.parametrize("name", FALSE_POSITIVES)
def test_float_checkpoints_are_not_refused(tmp_path: Path, name: str) -> None:
    """What looks like quantization and is none."""
    source = write(tmp_path / "m.safetensors", FLOAT | tensors_of(FALSE_POSITIVES[name]))
    with open_checkpoint(source) as checkpoint:
        assert quantized_evidence(checkpoint) is None
    assert "head.weight" in {t.name for t in plan(source).tensors if t.runtime_layout}


CONFIGS = {
    "plain": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "nested": ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "text_config.quantization_config"),
    "in-a-list": ({"towers": [{"quantization_config": {"quant_method": "awq"}}]}, "towers.0.quantization_config"),
    "mlx": ({"quantization": {"group_size": 64, "bits": 4}}, "quantization"),
    "tensorrt": ({"quantization": {"quant_algo": "FP8"}}, "quantization"),
    "word": ({"quantization_config": "fp8"}, "quantization_config"),
    "old": ({"compression_config": {"format": "pack-quantized"}}, "compression_config"),
}
FLOAT_CONFIGS = {
    "null": {"quantization_config": None, "quantization": None},
    "empty": {"quantization_config": {}, "text_config": {"quantization_config": {}}},
    "none": {"quantization_config": {"quant_method": "none", "bits": 16}, "quantization": "none"},
    "tensorrt": {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8", "group_size": 128}},
    "not-loaded": {"quantization_config": {"load_in_4bit": False, "load_in_8bit": False, "bits": 4}},
    "disabled": {"quantization_config": {"enabled": False, "bits": 4}},
    "codec": {"quantization": {"codebook_size": 1024, "num_codebooks": 8}},
    "off": {"quantization_config": False, "quantization": False},
}  # fmt: skip


@pytest.mark.promise("fault-B2", "fault-B3")
@pytest.mark.parametrize("name", CONFIGS)
def test_config_says_so_wherever_nested(tmp_path: Path, name: str) -> None:
    """The key is named, and what to do where it is stale."""
    config, key = CONFIGS[name]
    source = save_folder(tmp_path / "m", {"a.weight": weights(64, 64)}, 1, config=config)
    with nothing_written(tmp_path / "t"), pytest.raises(ValueError, match="is quantized already") as error:
        compress(source, tmp_path / "t")
    assert f"config.json has a {key}; no tensor shows it: remove that key" in str(error.value)


@pytest.mark.parametrize("name", FLOAT_CONFIGS)
def test_config_that_says_nothing(tmp_path: Path, name: str) -> None:
    source = save_folder(tmp_path / "m", {"a.weight": weights(64, 64)}, 1, config=FLOAT_CONFIGS[name])
    assert [t.label for t in plan(source).tensors] == ["int4 group 32 symmetric"]


@pytest.mark.promise("fault-B1")
@pytest.mark.parametrize("name", SIDE_FILES)
def test_files_beside_config_say_so(tmp_path: Path, name: str) -> None:
    """Settings that are in a file of their own."""
    source = save_folder(tmp_path / "m", {"a.weight": weights(64, 64)}, 1, config={})
    said = {"producer": {"name": "x"}, "quantization": {"quant_algo": "NVFP4"}}
    content = {"quanto_qmap.json": {"a": {"weights": "qint4"}}, "hf_quant_config.json": said}
    (source / name).write_text(json.dumps(content.get(name, {"bits": 4, "group_size": 128, "desc_act": False})))
    with pytest.raises(ValueError, match=f"is quantized already .*: the folder has a {name}; .* remove that file"):
        plan(source)
    for harmless in ("{}", "null", "no JSON", "[" * 100_000, '{"quantization": {"quant_algo": null}}'):
        (source / name).write_text(harmless)
        assert plan(source).config


def test_metadata_says_so(tmp_path: Path) -> None:
    for key in ("quantization_config", "_quantization_metadata"):
        for said, quantized in ((json.dumps({"quant_method": "x"}), True), ("{}", False), ("", False)):
            source = write(tmp_path / "m.safetensors", FLOAT, {key: said})
            with open_checkpoint(source) as checkpoint:
                evidence = quantized_evidence(checkpoint)
            assert (evidence is not None) == quantized
            assert evidence is None or (evidence.method, evidence.found) == ("'x'", f"its metadata has a {key}")


def test_what_quantrim_wrote_is_told_how_to_become_floats(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "m", {"a.weight": weights(64, 64)}, 1, config={})
    for number, options in enumerate(
        ({"bits": 4}, {"bits": 8}, {"codebook": "nf4"}, {"codebook": "mxfp4"}, {"bits": 4, "prune": 0.9})
    ):
        compress(source, tmp_path / f"{number}", **options)  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=r"is quantized already .*`quantrim decompress SRC DST` gives floats again"
        ):
            plan(tmp_path / f"{number}")
