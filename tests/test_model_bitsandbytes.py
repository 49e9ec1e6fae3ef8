"""NF4 and FP4 in the layout of bitsandbytes: which tensors get it, their bytes, and states that are not trusted.

What bitsandbytes makes of them is in `interop/test_bitsandbytes.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files_helpers import nothing_written
from model_helpers import Arrays, save, save_folder, stored_tensors, weights

import quantrim as qt
from quantrim.files import FormatError, open_checkpoint
from quantrim.layouts import bitsandbytes
from quantrim.model import compress, logical_tensors
from quantrim.model.streaming import chunks

STATE = "a.weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_every_byte_of_the_tensors(tmp_path: Path, kind: str, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 9)
    w = weights(40, 384, dtype=np.float16)
    w[3, :128] = 0
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    compress(source, tmp_path / "t.safetensors", codebook=kind, group_size=group)
    q = qt.quantize_codebook(w, kind, group_size=group)
    found = stored_tensors(tmp_path / "t.safetensors")
    state = json.loads(found.pop(f"a.weight.quant_state.bitsandbytes__{kind}").tobytes())
    assert state == {"quant_type": kind, "blocksize": group, "dtype": "float16", "shape": [40, 384]}
    assert found.keys() == {"a.weight", "a.weight.absmax", "a.weight.quant_map"}
    assert q.codebook is not None and found["a.weight.quant_map"].tobytes() == q.codebook.tobytes()
    assert found["a.weight.absmax"].tobytes() == q.scales.tobytes()
    assert found["a.weight"].shape == (40 * 192, 1)
    assert found["a.weight"].tobytes() == (q.data >> 4 | q.data << 4).tobytes()
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        assert (tensor.name, tensor.shape, tensor.dtype) == ("a.weight", (40, 384), np.float16)
        assert tensor.rows(7, 9).tobytes() == q.dequantize(np.float16)[7:16].tobytes()


@pytest.mark.parametrize(
    "options,theirs",
    [
        ({"group_size": 64}, True),
        ({"group_size": 32, "scale_dtype": "float32"}, True),
        ({"group_size": 64, "scale_dtype": "bfloat16"}, False),
        ({"group_size": 48}, False),
        ({"group_size": 128}, False),  # 192 columns
        ({"group_size": 16}, False),
        ({"group_size": "channel"}, False),
    ],
    ids=str,
)
def test_where_the_blocks_fit(tmp_path: Path, options: dict[str, Any], theirs: bool) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 192)})
    compress(source, tmp_path / "t.safetensors", codebook="nf4", **options)
    assert (STATE in stored_tensors(tmp_path / "t.safetensors")) == theirs


def test_the_config_names_them_where_all_are_of_one_kind(tmp_path: Path) -> None:
    arrays = {f"{name}.weight": weights(64, 128, seed=k) for k, name in enumerate(("a", "b", "kept"))}
    source = save_folder(tmp_path / "source", arrays)
    compress(source, tmp_path / "one", codebook="nf4", exclude="kept*")
    config = json.loads((tmp_path / "one" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "bitsandbytes" and config["load_in_4bit"] is True
    assert (config["bnb_4bit_quant_type"], config["llm_int8_skip_modules"]) == ("nf4", ["kept"])
    with nothing_written(tmp_path / "again"), pytest.raises(ValueError, match="quantized already"):
        compress(tmp_path / "one", tmp_path / "again")
    mixed = {"codebook": "nf4", "rule": [{"match": "kept*", "codebook": "fp4"}]}
    compress(source, tmp_path / "mixed", recipe=mixed)
    assert "quantization_config" not in json.loads((tmp_path / "mixed" / "config.json").read_text())


def changed(**values: Any) -> Any:
    def change(tensors: Arrays) -> None:
        state = json.loads(tensors[STATE].tobytes()) | values
        tensors[STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)

    return change


def raw(data: bytes) -> Any:
    return lambda tensors: tensors.update({STATE: np.frombuffer(data, np.uint8)})


def absmax(value: float) -> Any:
    def change(tensors: Arrays) -> None:
        tensors["a.weight.absmax"] = tensors["a.weight.absmax"].copy()
        tensors["a.weight.absmax"][5] = value

    return change


BAD: list[tuple[str, Any, str]] = [
    ("no JSON", raw(b"{"), "is not JSON"),
    ("long", raw(b" " * 70_000), "at most 65536 bytes"),
    ("list", raw(b"[]"), "the state must be an object"),
    ("type", changed(quant_type="fp4"), "quant_type must be 'nf4'"),
    ("block", changed(blocksize=63), "blocksize must be a power of two"),
    ("block of none", changed(blocksize=True), "blocksize must be a power of two"),
    ("dtype", changed(dtype="int8"), "dtype must be one of"),
    ("rows", changed(shape=[63, 128]), "weight must be U8 of shape"),
    ("negative", changed(shape=[-64, 128]), "shape must be an integer of"),
    ("no absmax", lambda t: t.pop("a.weight.absmax"), "weight.absmax is missing"),
    ("no codes", lambda t: t.pop("a.weight"), "weight is missing"),
    ("map", lambda t: t.update({"a.weight.quant_map": np.zeros(15, np.float32)}), "quant_map must be F32"),
    ("NaN", lambda t: t.update({"a.weight.quant_map": np.full(16, np.nan, np.float32)}), "codebook must be finite"),
    ("infinite", absmax(np.inf), "scales must be finite"),
    ("negative scale", absmax(-1), "scales must be finite and not negative"),
]


@pytest.mark.promise("C51")
@pytest.mark.parametrize("change,words", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_tensors_that_are_wrong(tmp_path: Path, change: Any, words: str) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 128)})
    compress(source, tmp_path / "t.safetensors", codebook="nf4")
    tensors = stored_tensors(tmp_path / "t.safetensors")
    change(tensors)
    bad = save(tmp_path / "bad.safetensors", tensors)
    with open_checkpoint(bad) as checkpoint, pytest.raises(FormatError, match=words) as caught:
        for tensor in logical_tensors(checkpoint).values():
            tensor.rows(0, tensor.matrix_shape[0])
    assert "bad.safetensors" in str(caught.value) and "a.weight" in str(caught.value)


VARIANTS = [
    ({"nested_blocksize": 256}, "nested_dtype must be one of"),
    ({"nested_blocksize": 256, "nested_dtype": "float32"}, "nested_offset must be a number"),
    ({"nested_blocksize": 48}, "nested_blocksize must be a power of two"),
    ({"blocksize": 256}, "absmax must be 32 F32, not 128 F32"),
    ({"shape": [64, 127]}, "weight must be 4064 bytes of codes, not 4096"),
    ({"shape": [64, 64, 2, "x"]}, "shape must be an integer"),
    ({"shape": []}, "shape must be a list"),
]


@pytest.mark.promise("C51")
@pytest.mark.parametrize("values,words", VARIANTS, ids=str)
def test_variants_whose_tensors_are_wrong(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 128)})
    compress(source, tmp_path / "t.safetensors", codebook="nf4")
    tensors = stored_tensors(tmp_path / "t.safetensors")
    changed(**values)(tensors)
    other = save(tmp_path / "other.safetensors", tensors)
    with open_checkpoint(other) as checkpoint, pytest.raises(FormatError, match=words) as caught:
        logical_tensors(checkpoint)
    assert "other.safetensors" in str(caught.value) and "a.weight" in str(caught.value)


@pytest.mark.parametrize("shape", [[64 * 128], [2, 32, 128], [16, 4, 8, 16], [32, 256], [128, 64], [256, 32]], ids=str)
def test_blocks_of_the_flat_tensor(tmp_path: Path, shape: list[int]) -> None:
    """The same codes in another shape are the same weights, even where blocks are no groups of its rows."""
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 128, dtype=np.float16)})
    compress(source, tmp_path / "t.safetensors", codebook="nf4")
    tensors = stored_tensors(tmp_path / "t.safetensors")
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        expected = logical_tensors(checkpoint)["a.weight"].rows(0, 64).tobytes()
    changed(shape=shape)(tensors)
    tensors["a.weight"] = tensors["a.weight"].reshape(-1).view(np.float32)  # bnb_4bit_quant_storage
    with open_checkpoint(save(tmp_path / "other.safetensors", tensors)) as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        rows = tensor.matrix_shape[0]
        assert (tensor.name, tensor.shape, tensor.label) == ("a.weight", tuple(shape), "nf4 group 64, bitsandbytes")
        assert tensor.rows(0, rows).tobytes() == expected
        assert b"".join(tensor.rows(k, 1).tobytes() for k in range(rows)) == expected
        assert tensor.rows(rows, 0).shape == (0, tensor.matrix_shape[1])


def int8(**changes: Any) -> Arrays:
    """A matrix as LLM.int8() stores it."""
    rng = np.random.default_rng(8)
    codes = rng.integers(-127, 128, (6, 8)).astype(np.int8)
    tensors = {"a.weight": codes, "a.SCB": rng.random(6).astype(np.float32), "a.weight_format": np.zeros((), np.uint8)}
    return {name: a for name, a in (tensors | changes).items() if a is not None}


def test_rows_of_llm_int8(tmp_path: Path) -> None:
    tensors = int8()
    with open_checkpoint(save(tmp_path / "m.safetensors", tensors)) as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        assert (tensor.name, tensor.dtype, tensor.nbytes) == ("a.weight", np.float32, 48 + 24 + 1)
        share = np.float32(7.874015718698502e-3)
        expected = tensors["a.weight"].astype(np.float32) * tensors["a.SCB"][:, None] * share
        assert tensor.rows(0, 6).tobytes() == expected.tobytes()
        assert tensor.rows(2, 3).tobytes() == expected[2:5].tobytes()


@pytest.mark.promise("C51")
@pytest.mark.parametrize(
    "changes,words",
    [
        ({"a.SCB": np.ones(5, np.float32)}, "SCB must be 6 F32"),
        ({"a.SCB": np.ones(6, np.float16)}, "SCB must be 6 F32"),
        ({"a.SCB": np.full(6, np.inf, np.float32)}, "SCB must be finite"),
    ],
)
def test_llm_int8_that_is_wrong(tmp_path: Path, changes: Any, words: str) -> None:
    source = save(tmp_path / "m.safetensors", int8(**changes))
    with open_checkpoint(source) as checkpoint, pytest.raises(FormatError, match=words):
        logical_tensors(checkpoint)["a.weight"].rows(0, 6)


def test_tiles_of_llm_int8_appear_as_they_are_in_the_file(tmp_path: Path) -> None:
    tensors = int8(**{"a.weight_format": np.ones((), np.uint8)})
    with open_checkpoint(save(tmp_path / "m.safetensors", tensors)) as checkpoint:
        found = logical_tensors(checkpoint)
        assert found.keys() == tensors.keys() and not any(t.compressed for t in found.values())


def test_swapping_halves_is_its_own_inverse() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert bitsandbytes.swapped(np.array([0x1F], np.uint8)).tolist() == [0xF1]
    assert np.array_equal(bitsandbytes.swapped(bitsandbytes.swapped(every)), every)
