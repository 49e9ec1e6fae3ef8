"""Forms of compressed-tensors that only others write: made by the library itself, decoded to its own bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (numpy knows bfloat16 by it)
import numpy as np
import pytest
from files_helpers import write_index
from numpy.typing import NDArray

from quantrim.files import open_checkpoint
from quantrim.model import LogicalTensor, logical_tensors

REASON = "needs the extra 'interop': torch, compressed-tensors, safetensors"
torch: Any = pytest.importorskip("torch", reason=REASON)
library: Any = pytest.importorskip("compressed_tensors", reason=REASON)
safetensors_torch: Any = pytest.importorskip("safetensors.torch", reason=REASON)

pytestmark = pytest.mark.interop

INT, FLOAT = "int-quantized", "float-quantized"
PACK = "pack-quantized"
# format, weights of the scheme, shape of the weight, shape of its scales, what the label says
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], str]] = {
    "int8 tensor": (INT, {"strategy": "tensor"}, (70, 96), (1,), "int8 tensor symmetric"),
    "int8 tensor scalar": (INT, {"strategy": "tensor"}, (70, 96), (), "int8 tensor symmetric"),
    "int8 tensor zeros": (INT, {"strategy": "tensor", "symmetric": False}, (70, 96), (1,), "int8 tensor asymmetric"),
    "int8 channel": (INT, {"strategy": "channel"}, (70, 96), (70, 1), "int8 channel symmetric"),
    "int8 group": (INT, {"strategy": "group", "group_size": 32}, (70, 96), (70, 3), "int8 group 32 symmetric"),
    "int8 block": (INT, {"strategy": "block", "block_structure": [32, 48]}, (70, 100), (3, 3), "int8 block 32 x 48"),
    "int8 block zeros": (
        INT,
        {"strategy": "block", "block_structure": [32, 48], "symmetric": False},
        (70, 100),
        (3, 3),
        "int8 block 32 x 48 asymmetric",
    ),
    "int4 unpacked": (INT, {"num_bits": 4, "strategy": "tensor"}, (70, 40), (1,), "int8 tensor symmetric"),
    "pack tensor": (PACK, {"num_bits": 4, "strategy": "tensor"}, (70, 96), (1,), "int4 tensor symmetric"),
    "pack tensor zeros": (
        PACK,
        {"num_bits": 4, "strategy": "tensor", "symmetric": False},
        (70, 96),
        (1,),
        "int4 tensor asymmetric",
    ),
    "pack block zeros": (
        PACK,
        {"num_bits": 3, "strategy": "block", "block_structure": [16, 32], "symmetric": False},
        (70, 96),
        (5, 3),
        "int3 block 16 x 32 asymmetric",
    ),
    "pack experts": (
        PACK,
        {"num_bits": 4, "strategy": "group", "group_size": 32},
        (3, 70, 96),
        (3, 70, 3),
        "int4 group 32 symmetric",
    ),
    "pack experts zeros": (
        PACK,
        {"num_bits": 5, "strategy": "group", "group_size": 32, "symmetric": False},
        (3, 70, 96),
        (3, 70, 3),
        "int5 group 32 asymmetric",
    ),
    "pack experts channel": (
        PACK,
        {"num_bits": 8, "strategy": "channel", "symmetric": False},
        (3, 70, 96),
        (3, 70, 1),
        "int8 channel asymmetric",
    ),
    "fp8 tensor": (FLOAT, {"type": "float", "strategy": "tensor"}, (70, 96), (1,), "float8 tensor"),
    "fp8 channel": (FLOAT, {"type": "float", "strategy": "channel"}, (70, 96), (70, 1), "float8 channel"),
    "fp8 group": (
        FLOAT,
        {"type": "float", "strategy": "group", "group_size": 24},
        (70, 96),
        (70, 4),
        "float8 group 24",
    ),
    "fp8 narrow experts": (FLOAT, {"type": "float", "strategy": "channel"}, (3, 70, 24), (3, 70, 1), "float8 channel"),
    "fp8 block": (
        FLOAT,
        {"type": "float", "strategy": "block", "block_structure": [128, 128]},
        (300, 200),
        (3, 2),
        "float8 block 128 x 128",
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        (70, 96),
        (70, 6),
        "nvfp4 group 16",
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        (70, 96),
        (70, 3),
        "mxfp4 group 32",
    ),
    "mxfp6": (
        "mxfp6-pack-quantized",
        {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        (70, 96),
        (70, 3),
        "mxfp6 group 32",
    ),
    "mxfp8": (
        "mxfp8-quantized",
        {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        (70, 96),
        (70, 3),
        "mxfp8 group 32",
    ),
}
MX = ("mxfp4", "mxfp6", "mxfp8")


def made(case: str, dtype: Any) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The stored tensors of a module, what the library decodes them to, and the config."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    kind, weights, shape, of_scales, _ = CASES[case]
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(kind)
    torch.manual_seed(len(case))
    scale = (torch.rand(of_scales) + 0.5) * 0.02
    if case in MX:
        scale = torch.exp2(torch.randint(-20, 20, of_scales).float())
        scale.view(-1)[:2] = torch.tensor([2.0**-127, 2.0**120])
    module: dict[str, Any] = {"weight": torch.randn(shape) * 0.1, "weight_scale": scale.to(dtype)}
    if case == "nvfp4":
        module["weight_scale"] = torch.rand(of_scales) * 448
        module["weight_global_scale"] = torch.tensor([731.3])
    if not args.symmetric:
        top = 2 ** (args.num_bits - 1)
        module["weight_zero_point"] = torch.randint(-top, top, of_scales, dtype=torch.int8)
    stored = compressor.compress(module, scheme)
    if case in MX:  # every code, whatever the library would choose
        name = "weight" if case == "mxfp8" else "weight_packed"
        codes = torch.randint(0, 126 if case == "mxfp8" else 256, stored[name].shape, dtype=torch.uint8)
        stored[name] = codes.view(stored[name].dtype)
    decoded = compressor.decompress(stored, scheme)["weight"]
    group = {"weights": {**args.model_dump(mode="json")}, "targets": ["Linear"]}
    return stored, decoded, {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def opened(folder: Path, stored: dict[str, Any], config: dict[str, Any]) -> LogicalTensor:
    import json

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    tensors = {f"m.{name}": tensor.contiguous() for name, tensor in stored.items()}
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    write_index(folder, dict.fromkeys(tensors, "model.safetensors"))
    with open_checkpoint(folder) as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        return held(tensor)


def held(tensor: LogicalTensor) -> LogicalTensor:
    """Read it all, and in pieces, which must agree; the pieces are kept for the comparison."""
    rows, cols = tensor.matrix_shape
    whole = tensor.rows(0, rows)
    assert whole.dtype == tensor.dtype and whole.shape == (rows, cols)
    pieces = [(0, 0), (0, 1), (rows - 1, 1), (rows // 2, 1), (rows // 3, rows // 2), (rows, 0)]
    pieces += [(31, 2), (33, rows // 2)] if rows > 66 else []
    for first, count in pieces:
        assert tensor.rows(first, count).tobytes() == whole[first : first + count].tobytes(), (first, count)
    object.__setattr__(tensor, "whole", whole)
    return tensor


def bits_of(tensor: Any) -> NDArray[Any]:
    kind = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return np.asarray(tensor.contiguous().view(kind).numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_decoded_to_the_bits_of_the_library(tmp_path: Path, case: str, dtype: Any) -> None:
    if dtype == torch.float16 and case in MX:
        dtype = torch.float32  # beyond float16; the scales are stored as exponents anyhow
    stored, decoded, config = made(case, dtype)
    tensor = opened(tmp_path / "model", stored, config)
    assert tensor.label.startswith(CASES[case][4])
    assert (tensor.name, tensor.shape) == ("m.weight", tuple(decoded.shape))
    assert f"torch.{tensor.dtype}" == str(decoded.dtype)
    found: NDArray[Any] = tensor.whole  # type: ignore[attr-defined]
    want = bits_of(decoded).reshape(found.shape)
    assert np.array_equal(found.view(want.dtype), want)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("even", [True, False])
def test_columns_in_groups_by_g_idx(tmp_path: Path, symmetric: bool, even: bool) -> None:
    """The library gave actorder=group up: its group decoding of the columns in order, put back where they were."""
    case = "pack experts" if symmetric else "pack experts zeros"
    rows, cols, groups = 70, 96, 3
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    bits = 4 if symmetric else 5
    rng = np.random.default_rng(3)
    top = 2 ** (bits - 1)
    codes = rng.integers(-top, top, (rows, cols)).astype(np.int8)
    zeros = rng.integers(-top, top, (rows, groups)).astype(np.int8)
    scale = (torch.rand(rows, groups) * 0.1).to(torch.bfloat16)
    order = np.repeat(np.arange(groups), cols // groups) if even else rng.integers(0, groups, cols)
    g_idx = rng.permutation(order).astype(np.int32)
    stored = {
        "weight_packed": pack_to_int32(torch.from_numpy(codes), bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor([rows, cols]),
        "weight_g_idx": torch.from_numpy(g_idx),
    }
    if not symmetric:
        stored["weight_zero_point"] = pack_to_int32(torch.from_numpy(zeros), bits, packed_dim=0)
    tensor = opened(tmp_path / "model", stored, {})
    assert "3 groups by g_idx" in tensor.label
    shifted = torch.from_numpy(codes).to(torch.bfloat16)
    if not symmetric:
        shifted = shifted - torch.from_numpy(zeros).to(torch.bfloat16)[:, g_idx]
    want = bits_of(shifted * scale[:, g_idx])
    found: NDArray[Any] = tensor.whole  # type: ignore[attr-defined]
    assert np.array_equal(found.view(np.int16), want), case
    stored["weight_g_idx"] = torch.full((cols,), -1, dtype=torch.int32)  # as the library writes it where it has none
    found = opened(tmp_path / "other", stored, {}).whole  # type: ignore[attr-defined]
    by_order = np.repeat(np.arange(groups), cols // groups)
    shifted = torch.from_numpy(codes).to(torch.bfloat16)
    if not symmetric:
        shifted = shifted - torch.from_numpy(zeros).to(torch.bfloat16)[:, by_order]
    assert np.array_equal(found.view(np.int16), bits_of(shifted * scale[:, by_order]))


@pytest.mark.parametrize("block", [[128, 128], None, [64, 32]])
@pytest.mark.parametrize("experts", [False, True])
def test_scale_inv_of_blocks(tmp_path: Path, block: list[int] | None, experts: bool) -> None:
    """As transformers dequantizes FP8 checkpoints; blocks at the edges may be short."""
    down, along = block or [128, 128]
    rows, cols = 300, 200
    grid = (-(-rows // down), -(-cols // along))
    many = (3,) if experts else ()
    w = (torch.randn(*many, rows, cols) * 50).to(torch.float8_e4m3fn)
    scale = torch.rand(*many, *grid) * 0.01
    config = {"quant_method": "fp8"} | ({"weight_block_size": block} if block else {})
    found = opened(tmp_path / "model", {"weight": w, "weight_scale_inv": scale}, config)
    big = scale.repeat_interleave(down, -2)[..., :rows, :].repeat_interleave(along, -1)[..., :cols]
    want = bits_of(w.float() * big)
    assert found.dtype == np.float32 and found.label == f"float8 block {down} x {along}"
    assert np.array_equal(found.whole.view(np.int32), want.reshape(-1, cols))  # type: ignore[attr-defined]
