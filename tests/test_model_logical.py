"""Checkpoints under their own names: compressed tensors decode to the bits of `dequantize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import write_tensors
from model_helpers import Arrays, save, save_folder, small_model, weights

import quantrim as qt
from quantrim.files import FormatError, open_checkpoint
from quantrim.layouts import memory
from quantrim.layouts.compressed_tensors import layout_of
from quantrim.model import compress, logical_tensors
from quantrim.model.recipe import settings_of


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "group_size": 32},
        {"bits": 8, "symmetric": False},
        {"bits": 3, "group_size": 16, "symmetric": False, "scale_dtype": "bfloat16"},
        {"bits": 5, "group_size": "channel", "symmetric": False, "scale_dtype": "float32"},
    ],
    ids=str,
)
@pytest.mark.parametrize("folder", [False, True])
def test_rows_are_those_of_dequantize(tmp_path: Path, options: dict[str, Any], folder: bool) -> None:
    arrays = small_model()
    source, target = tmp_path / "s", tmp_path / "t"
    if folder:
        save_folder(source, arrays)
    else:
        source, target = save(tmp_path / "s.safetensors", arrays), tmp_path / "t.safetensors"
    compress(source, target, **options)
    dtype = np.dtype(options.get("scale_dtype", "float16"))
    with open_checkpoint(target) as checkpoint:
        found = logical_tensors(checkpoint)
        assert set(found) == set(arrays)
        assert sum(tensor.nbytes for tensor in found.values()) == checkpoint.total_size
        for name, tensor in found.items():
            assert tensor.shape == arrays[name].shape
            if not tensor.compressed:
                assert tensor.dtype == arrays[name].dtype
                everything = tensor.rows(0, tensor.matrix_shape[0])
                assert everything.tobytes() == arrays[name].tobytes()
                with pytest.raises(ValueError, match="must be compressed to have codes"):
                    tensor.quantized_rows(0, 0)
                continue
            group = tensor.layout.group_size  # type: ignore[attr-defined]
            rule = settings_of(**options).scale_rule
            q = qt.quantize(arrays[name], **{"scale_dtype": "float16", "scale": rule} | options | {"group_size": group})
            whole = q.dequantize(dtype)
            assert tensor.dtype == dtype
            rows = tensor.shape[0]
            for first, count in [(0, rows), (0, 0), (rows, 0), (1, 1), (31, 2), (33, 30), (rows - 1, 1)]:
                part = tensor.rows(first, count)
                assert part.dtype == dtype and part.tobytes() == whole[first : first + count].tobytes()
            for first, count in [(-1, 1), (0, rows + 1), (rows + 1, 0), (1, -1)]:
                with pytest.raises(ValueError, match="must have rows"):
                    tensor.rows(first, count)


def test_labels(tmp_path: Path) -> None:
    compress(save(tmp_path / "s.safetensors", small_model(ml_dtypes.bfloat16)), tmp_path / "t.safetensors", bits=8)
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        stored = {name: tensor.label for name, tensor in logical_tensors(checkpoint).items()}
    assert stored["model.embed_tokens.weight"] == stored["model.layers.0.up.weight"] == "int8 channel symmetric"
    assert (stored["scalar"], stored["model.positions"]) == ("BF16", "I64")


def parts(bits: int = 4, cols: int = 64, **changes: Any) -> Arrays:
    q = qt.quantize(weights(6, cols), bits, group_size="channel", symmetric=False, scale_dtype="float16")
    found = memory.encode(layout_of(q), q) | changes
    return {f"m.{name}": a for name, a in found.items() if a is not None}


def refused(path: Path, arrays: Arrays, message: str, metadata: dict[str, str] | None = None) -> None:
    write_tensors(path, arrays, metadata)
    with open_checkpoint(path) as checkpoint, pytest.raises(FormatError, match=message) as caught:
        for tensor in logical_tensors(checkpoint).values():
            tensor.rows(0, tensor.shape[0])
    assert caught.value.path == str(path) and (caught.value.tensor or "").startswith("m.weight")


@pytest.mark.promise("A38", "B44")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_scale": None}, "weight_scale is missing"),
        ({"weight_shape": None}, "weight_shape is missing"),
        ({"weight_shape": np.array([6, 56])}, "must have words for codes"),
        ({"weight_shape": np.arange(100_000)}, "weight_shape must be two I64"),
        ({"weight_scale": np.full((6, 1), np.nan, np.float16)}, "weight_scale must be finite"),
        ({"weight_scale": np.full((6, 1), -np.inf, np.float16)}, "weight_scale must be finite"),
        ({"weight_zero_point": np.zeros((9, 1), np.int32)}, "weight_zero_point .* must have shape"),
        ({"weight_g_idx": np.ones(64, np.int32)}, "weight_g_idx must be of 0..0"),
        ({"weight_g_idx": np.zeros(63, np.int32)}, "weight_g_idx must be int32, one for each of 64"),
        ({"weight": np.zeros((6, 64), np.float32)}, "must not both be there"),
    ],
)
def test_compressed_tensors_that_are_not_whole(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused(tmp_path / "m.safetensors", parts(**changes), message)


def test_few_columns_ask_the_config(tmp_path: Path) -> None:
    path, arrays = tmp_path / "m.safetensors", parts(3, 10)
    refused(path, arrays, r"may be codes of \[1, 2, 3\] bits")
    group = {"targets": ["Linear"], "weights": {"num_bits": 3}}
    config = {"config_groups": {"group_0": group}}
    write_tensors(path, arrays, {"quantization_config": json.dumps(config)})
    with open_checkpoint(path) as checkpoint:
        assert logical_tensors(checkpoint)["m.weight"].label == "int3 channel asymmetric"
    config["config_groups"]["group_1"] = {"targets": ["m"], "weights": {"num_bits": 2}}
    write_tensors(path, arrays, {"quantization_config": json.dumps(config)})
    with open_checkpoint(path) as checkpoint:
        assert logical_tensors(checkpoint)["m.weight"].label == "int2 channel asymmetric"
    refused(path, arrays, "may be codes", {"quantization_config": "{not json"})


def test_own_files_of_few_columns_are_read(tmp_path: Path) -> None:
    arrays = {f"layers.{k}.{name}.weight": weights(40, 9, seed=k) for k in range(3) for name in ("up", "down")}
    source, target = save(tmp_path / "s.safetensors", arrays), tmp_path / "t.safetensors"
    rules = [{"match": "*.up.*", "bits": 2}, {"match": "layers.1.down.*", "bits": 5}]
    compress(source, target, recipe={"bits": 3, "min_elements": 0, "rule": rules})
    with open_checkpoint(target) as checkpoint:
        found = {name: tensor.layout.bits for name, tensor in logical_tensors(checkpoint).items()}  # type: ignore[attr-defined]
    bits = {"up": 2, "down": 3}
    assert found == {name: 5 if name == "layers.1.down.weight" else bits[name.split(".")[2]] for name in arrays}


def test_other_formats_are_shown_as_they_are_in_the_file(tmp_path: Path) -> None:
    """ModelOpt's NVFP4 has its bytes under the weight's own name; scales of float8 codes that fit no block."""
    arrays: Arrays = {
        "a.weight": np.zeros((4, 8), np.uint8),
        "a.weight_scale": np.ones((4, 1), ml_dtypes.float8_e4m3fn),
        "a.weight_scale_2": np.ones(1, np.float32),
        "b.weight": np.ones((4, 8), ml_dtypes.float8_e4m3fn),
        "b.weight_scale": np.ones((3, 1), np.float32),
    }
    write_tensors(tmp_path / "m.safetensors", arrays)
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        found = logical_tensors(checkpoint)
        assert {name: t.label for name, t in found.items()} == {n: checkpoint.tensors[n].dtype for n in arrays}
        assert not any(t.compressed for t in found.values())


def test_codes_in_whole_words_are_not_taken_for_others(tmp_path: Path) -> None:
    """compressed-tensors 0.9 put 4 codes of 7 bits into a word: as many words as 8 bits need."""
    for bits in (3, 5, 6, 7):
        each = 32 // bits
        codes = np.arange(3 * 210, dtype=np.uint32).reshape(3, -1, 1) % 2**bits
        padded = np.zeros((3, -(-210 // each) * each), np.uint32)
        padded[:, :210] = codes[..., 0]
        shifts = np.arange(0, each * bits, bits, dtype=np.uint32)
        words = (padded.reshape(3, -1, each) << shifts).sum(-1, dtype=np.uint32)
        arrays: Arrays = {
            "m.weight_packed": words.view(np.int32),
            "m.weight_scale": np.ones((3, 1), np.float16),
            "m.weight_shape": np.array([3, 210]),
        }
        config = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits}}}}
        said = {"quantization_config": json.dumps(config)}
        refused(tmp_path / "m.safetensors", arrays, f"weight_packed of {bits} bits, {each} codes in each word", said)
