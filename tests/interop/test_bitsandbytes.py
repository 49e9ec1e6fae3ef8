"""NF4 and FP4 of bitsandbytes: its bytes from our codes, and its weights from our bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np
import pytest
from bitsandbytes_helpers import dequantized
from model_helpers import save, weights

import quantrim as qt
from quantrim.files import open_checkpoint
from quantrim.model import compress, logical_tensors

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")
bitsandbytes: Any = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes")
safetensors_torch: Any = pytest.importorskip("safetensors.torch", reason="needs safetensors: pip install safetensors")
functional: Any = pytest.importorskip("bitsandbytes.functional", reason="needs bitsandbytes: pip install bitsandbytes")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size,block", [(64 * 1000, 64), (128 * 33, 128), (4096 * 8, 4096)])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_same_bytes(name: str, size: int, block: int, dtype: str) -> None:
    """Blocks of the flat tensor, the first of two codes in the high half of a byte."""
    rng = np.random.default_rng(size)
    for scale in (1.0, 1e-3, 100.0):
        w = torch.from_numpy((rng.standard_normal(size) * scale).astype(np.float32)).to(getattr(torch, dtype))
        w[::17] = 0
        w[block : 2 * block] = 0
        theirs, state = functional.quantize_4bit(w, blocksize=block, quant_type=name)
        ours = qt.quantize_codebook(w.float().numpy()[None], name, group_size=block)
        assert (ours.data >> 4 | ours.data << 4).tobytes() == theirs.numpy().tobytes()
        assert ours.scales.tobytes() == state.absmax.numpy().tobytes()
        back = functional.dequantize_4bit(theirs, state).float().numpy().reshape(-1)
        assert np.array_equal(ours.dequantize(dtype=np.dtype(dtype)).astype(np.float32)[0], back)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_files_of_compress(tmp_path: Path, name: str, dtype: str) -> None:
    """bitsandbytes makes of a file's tensors what we make of them, and writes the same tensors."""
    w = weights(96, 128, dtype=np.dtype(dtype))
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    compress(source, tmp_path / "t.safetensors", codebook=name)
    tensors = safetensors_torch.load_file(tmp_path / "t.safetensors")
    stats = {key.removeprefix("a.weight."): t for key, t in tensors.items() if key != "a.weight"}
    parameter = bitsandbytes.nn.Params4bit.from_prequantized(tensors["a.weight"], dict(stats), device="cpu")
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        ours = logical_tensors(checkpoint)["a.weight"].rows(0, 96)
    theirs = functional.dequantize_4bit(parameter.data, parameter.quant_state)
    assert theirs.dtype == getattr(torch, dtype)
    assert np.array_equal(theirs.float().numpy(), ours.astype(np.float32))
    again, state = functional.quantize_4bit(torch.from_numpy(w.astype(np.float32)), blocksize=64, quant_type=name)
    assert torch.equal(again, tensors["a.weight"])
    packed = state.as_dict(packed=True)
    assert stats.keys() == packed.keys()
    assert torch.equal(packed["absmax"], stats["absmax"]) and torch.equal(packed["quant_map"], stats["quant_map"])


def test_transformers_opens_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "source")
    compress(tmp_path / "source", tmp_path / "small", codebook="nf4", exclude=["*embed*", "lm_head*"])
    opened = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small", device_map="cpu")
    with open_checkpoint(tmp_path / "small") as checkpoint:
        tensors = logical_tensors(checkpoint)
        names = [name for name, tensor in tensors.items() if tensor.compressed]
        assert len(names) == 7
        for name in names:
            weight = opened.get_parameter(name)
            found = functional.dequantize_4bit(weight.data, weight.quant_state).float().numpy()
            assert np.array_equal(found, tensors[name].rows(0, tensors[name].shape[0]))


# Forms that only bitsandbytes writes


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
@pytest.mark.parametrize(
    "shape,block", [((70, 96), 64), ((33, 45), 64), ((7, 5, 9), 32), ((40, 4096), 64), ((1, 6), 4096)]
)
def test_flat_blocks_and_nested_scales(
    tmp_path: Path, shape: tuple[int, ...], block: int, name: str, nested: bool, dtype: str
) -> None:
    torch.manual_seed(5)
    w = (torch.randn(shape) * 0.3).to(getattr(torch, dtype))
    codes, state = functional.quantize_4bit(w, blocksize=block, quant_type=name, compress_statistics=nested)
    tensors = {"a.weight": codes} | {f"a.weight.{key}": t for key, t in state.as_dict(packed=True).items()}
    safetensors_torch.save_file(tensors, tmp_path / "m.safetensors")
    with torch.compiler.set_stance("force_eager"):  # odd shapes would be compiled, for seconds each
        theirs = dequantized(codes, state).float().numpy()
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        rows, cols = tensor.matrix_shape
        assert (tensor.shape, tensor.dtype) == (shape, np.dtype(dtype))
        assert np.array_equal(tensor.rows(0, rows).astype(np.float32), theirs.reshape(rows, cols))
        for first in range(0, rows, 3):
            part = tensor.rows(first, min(3, rows - first)).astype(np.float32)
            assert np.array_equal(part, theirs.reshape(rows, cols)[first : first + 3])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_llm_int8(tmp_path: Path, dtype: str) -> None:
    w = (torch.randn(70, 96) * 0.3).to(getattr(torch, dtype))
    codes, absmax, _ = functional.int8_vectorwise_quant(w.to(torch.float16))
    safetensors_torch.save_file({"a.weight": codes, "a.SCB": absmax}, tmp_path / "m.safetensors")
    theirs = functional.int8_vectorwise_dequant(codes, absmax).numpy()
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        assert tensor.rows(0, 70).tobytes() == theirs.tobytes()
