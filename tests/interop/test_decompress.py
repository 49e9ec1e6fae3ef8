"""What decompress writes, in the hands of transformers; and what transformers and its friends write, decompressed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np
import pytest
from model_helpers import stored_tensors
from numpy.typing import NDArray

from quantrim.files import open_checkpoint
from quantrim.model import compress, decompress, logical_tensors

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")
transformers: Any = pytest.importorskip("transformers", reason="needs transformers")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about themselves
        yield


def llama(folder: Path, dtype: Any = None) -> Path:
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).to(dtype or torch.float32).save_pretrained(folder)
    return folder


def floats(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.detach().float().numpy())


def opened(folder: Path) -> Any:
    model, said = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    assert not hasattr(model, "hf_quantizer") or model.hf_quantizer is None
    return model


def same_weights(model: Any, found: dict[str, NDArray[Any]]) -> None:
    """Every tensor of the file is in the model, as it is in the file, if perhaps in a wider dtype."""
    state = model.state_dict()
    assert found and found.keys() <= state.keys()
    for name, array in found.items():
        assert state[name].dtype in (getattr(torch, str(array.dtype)), torch.float32), name
        assert np.array_equal(floats(state[name]), array.astype(np.float32)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "group_size": 32},
        {"bits": 8},
        {"bits": 3, "symmetric": False, "scale_dtype": "bfloat16"},
        {"codebook": "nf4"},
        {"clusters": 16},
        {"bits": 4, "prune": 0.8},
    ],
    ids=str,
)
def test_transformers_opens_what_decompress_writes(tmp_path: Path, options: dict[str, Any], dtype: Any) -> None:
    compress(llama(tmp_path / "source", dtype), tmp_path / "small", **options)
    wish = None if dtype == torch.float32 else str(dtype).removeprefix("torch.")
    decompress(tmp_path / "small", tmp_path / "floats", dtype=wish)
    model = opened(tmp_path / "floats")
    found = stored_tensors(tmp_path / "floats")
    same_weights(model, found)
    with open_checkpoint(tmp_path / "small") as checkpoint:
        for name, tensor in logical_tensors(checkpoint).items():
            decoded = tensor.rows(0, tensor.matrix_shape[0]).astype(found[name].dtype)
            assert decoded.tobytes() == found[name].tobytes(), name
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


BITSANDBYTES: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4 double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4 stored as bfloat16": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_quant_storage": torch.bfloat16,
    },
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", BITSANDBYTES)
def test_folders_that_transformers_wrote_with_bitsandbytes(tmp_path: Path, case: str, dtype: Any) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes")
    from bitsandbytes_helpers import dequantized

    config = transformers.BitsAndBytesConfig(**BITSANDBYTES[case])
    quantized = transformers.AutoModelForCausalLM.from_pretrained(
        llama(tmp_path / "source", dtype), quantization_config=config, device_map="cpu", dtype=dtype
    )
    quantized.save_pretrained(tmp_path / "small")
    done = decompress(tmp_path / "small", tmp_path / "floats")
    assert done.decoded == 14
    found = stored_tensors(tmp_path / "floats")
    same_weights(opened(tmp_path / "floats"), found)
    for name, module in quantized.named_modules():
        weight = getattr(module, "weight", None)
        if getattr(weight, "quant_state", None) is not None:
            theirs = dequantized(weight.data, weight.quant_state)
        elif getattr(weight, "SCB", None) is not None:
            theirs = functional.int8_vectorwise_dequant(weight.data, weight.SCB)
        else:
            continue
        array = found[f"{name}.weight"]
        assert f"torch.{array.dtype}" == str(theirs.dtype)
        assert np.array_equal(array.astype(np.float32), floats(theirs)), name


COMPRESSED: dict[str, dict[str, Any]] = {
    "int4": {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
    "float8": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "float8 block": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32]},
}


@pytest.mark.parametrize("case", COMPRESSED)
def test_folders_that_the_library_of_compressed_tensors_wrote(tmp_path: Path, case: str) -> None:
    """Our floats against those of transformers with dequantize=True."""
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    source = llama(tmp_path / "source", torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    group = {"targets": ["Linear"], "weights": COMPRESSED[case]}
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"]))
    for module in model.modules():
        scale = getattr(module, "weight_scale", None)
        if scale is not None:
            weight = module.weight.data.float()
            divisor = 448 if "float8" in case else 15
            scale.data = torch.full_like(scale, float(2 * weight.abs().max()) / divisor)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "small")
    compressor.update_config(str(tmp_path / "small"))
    done = decompress(tmp_path / "small", tmp_path / "floats")
    assert done.decoded == 14
    assert "quantization_config" not in json.loads((tmp_path / "floats" / "config.json").read_text())
    found = stored_tensors(tmp_path / "floats")
    same_weights(opened(tmp_path / "floats"), found)
    how = transformers.CompressedTensorsConfig(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", quantization_config=how)
    same_weights(theirs, found)
