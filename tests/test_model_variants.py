"""Forms that only others write, made here by hand; what their libraries still write is made by them, in `interop`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import nothing_written
from model_helpers import Arrays, save, stored_tensors, weights

from quantrim.files import FormatError, open_checkpoint
from quantrim.model import LogicalTensor, decompress, logical_tensors
from quantrim.model.report.compare import compare
from quantrim.model.report.inspect import inspect
from quantrim.model.streaming import chunks

FLOAT8 = ml_dtypes.float8_e4m3fn


def only(path: Path, arrays: Arrays) -> tuple[LogicalTensor, np.ndarray[Any, Any]]:
    """The one tensor of a file of these, and its weights, whole and in pieces."""
    with open_checkpoint(save(path, arrays)) as checkpoint:
        (tensor,) = logical_tensors(checkpoint).values()
        rows = tensor.matrix_shape[0]
        whole = tensor.rows(0, rows)
        for first, count in [(0, 0), (1, rows - 2), (rows - 1, 1), (rows, 0)]:
            assert tensor.rows(first, count).tobytes() == whole[first : first + count].tobytes()
        assert tensor.nbytes == sum(a.nbytes for a in arrays.values())
        return tensor, whole


def masked(w: np.ndarray[Any, Any], half: bool = False) -> Arrays:
    """w as sparse-bitmask, or as sparse-24-bitmask."""
    mask = w.view(f"u{w.itemsize}") != 0
    if half:
        mask = np.tile([True, False, False, True], w.shape[1] // 4)[None].repeat(len(w), 0)
    counts = mask.sum(1)
    parts: Arrays = {
        "m.bitmask": np.packbits(mask, axis=1, bitorder="little"),
        "m.compressed": w[mask].reshape((len(w), -1) if half else -1),
        "m.shape": np.array(w.shape).reshape((2, 1) if half else 2),
    }
    return parts if half else parts | {"m.row_offsets": np.cumsum(counts) - counts}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64], ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_weights_without_zeros(tmp_path: Path, half: bool, dtype: Any) -> None:
    w = weights(37, 52, dtype=dtype)
    tensor, found = only(tmp_path / "m.safetensors", masked(w, half))
    if half:
        w = np.where(np.tile([True, False, False, True], 13), w, w.dtype.type(0))
    assert (tensor.name, tensor.shape, found.dtype) == ("m.weight", (37, 52), w.dtype)
    assert np.array_equal(found, w) and tensor.label.endswith(", sparse-bitmask")
    decompress(tmp_path / "m.safetensors", tmp_path / "t.safetensors")
    assert stored_tensors(tmp_path / "t.safetensors")["m.weight"].tobytes() == found.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
def test_vectors_without_zeros(tmp_path: Path, dtype: Any) -> None:
    """As compressed-tensors wrote norms where no targets were given: offsets of no axis."""
    w = weights(52, dtype=dtype)
    parts = {k: v[0] for k, v in masked(w[None]).items() if k in ("m.bitmask", "m.row_offsets")}
    parts |= {"m.compressed": w[w != 0], "m.shape": np.array([52]), "m.row_offsets": np.array(0)}
    save(tmp_path / "m.safetensors", parts)
    done = decompress(tmp_path / "m.safetensors", tmp_path / "t.safetensors")
    found = stored_tensors(tmp_path / "t.safetensors")["m.weight"]
    assert done.decoded == 1 and found.shape == (52,) and found.dtype == w.dtype and np.array_equal(found, w)


@pytest.mark.parametrize("dtype", [FLOAT8, np.int8], ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_codes_without_zeros(tmp_path: Path, half: bool, dtype: Any) -> None:
    w = (weights(37, 52) * 50).astype(dtype)
    scale = np.linspace(0.5, 2, 37, dtype=np.float16)[:, None]
    tensor, found = only(tmp_path / "m.safetensors", masked(w, half) | {"m.weight_scale": scale})
    if half:
        w = np.where(np.tile([True, False, False, True], 13), w, np.zeros(1, dtype))
    assert np.array_equal(found, (w.astype(np.float32) * scale.astype(np.float32)).astype(np.float16))
    assert tensor.label in ("float8 channel, sparse-bitmask", "int8 channel symmetric, sparse-bitmask")


@pytest.mark.promise("C51")
@pytest.mark.parametrize(
    "name,array,words",
    [
        ("m.row_offsets", np.zeros(37, np.int64), "bitmask must have the bits of [0-9]+ weights, as many in each row"),
        ("m.row_offsets", np.arange(37) * 10**6, "row_offsets must be non-decreasing from 0 to [0-9]+"),
        ("m.row_offsets", np.arange(37) * 10 + 1, "row_offsets must be non-decreasing from 0 to [0-9]+"),
        ("m.row_offsets", -np.arange(37), "row_offsets must be non-decreasing from 0 to [0-9]+"),
        ("m.compressed", np.zeros(7, np.float32), "row_offsets must be non-decreasing from 0 to 7"),
        ("m.compressed", np.zeros(1924, np.float32), "bitmask must have the bits of 1924 weights, as many in each"),
        ("m.bitmask", np.full((37, 7), 255, np.uint8), "bitmask must have the bits of [0-9]+ weights, as many in each"),
        ("m.bitmask", None, "bitmask must have the bits of 962 weights, half of each row"),
    ],
)
def test_masks_that_are_wrong(
    tmp_path: Path, name: str, array: np.ndarray[Any, Any] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    lie = np.tile(np.array([255, 0], np.uint8), 130)[:259].reshape(37, 7) if array is None else array
    bad = save(tmp_path / "m.safetensors", masked(weights(37, 52), half=array is None) | {name: lie})
    with nothing_written(tmp_path / "t.safetensors"), pytest.raises(FormatError, match=words):
        decompress(bad, tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "name,array",
    [
        ("m.shape", np.array([37, 57])),
        ("m.shape", np.array([38, 52])),
        ("m.shape", np.array([-37, 52])),
        ("m.shape", np.array([37, 52, 1])),
        ("m.shape", np.array([np.inf, 52])),
        ("m.bitmask", np.zeros((37, 6), np.uint8)),
        ("m.row_offsets", np.zeros(36, np.int64)),
        ("m.row_offsets", np.zeros(37, np.int32)),
        ("m.compressed", np.zeros(7, np.int8)),
        ("m.compressed", np.zeros((7, 1), np.float32)),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_decompress(
    tmp_path: Path, name: str, array: np.ndarray[Any, Any]
) -> None:
    bad = save(tmp_path / "m.safetensors", masked(weights(37, 52)) | {name: array})
    with open_checkpoint(bad) as checkpoint:
        assert not any(t.compressed for t in logical_tensors(checkpoint).values())
    with nothing_written(tmp_path / "t.safetensors"), pytest.raises(ValueError, match="sparse weights"):
        decompress(bad, tmp_path / "t.safetensors", dtype="float32")


def test_float8_in_blocks_with_short_ones_at_the_edges(tmp_path: Path) -> None:
    w = weights(300, 200).astype(FLOAT8)
    scale = np.random.default_rng(0).random((3, 2)).astype(np.float32)
    tensor, found = only(tmp_path / "m.safetensors", {"m.weight": w, "m.weight_scale_inv": scale})
    big = np.repeat(np.repeat(scale, 128, 0), 128, 1)[:300, :200]
    assert tensor.label == "float8 block 128 x 128"
    assert found.tobytes() == (w.astype(np.float32) * big).tobytes()


def test_compare_and_inspect_read_them(tmp_path: Path) -> None:
    w = weights(64, 96)
    codes = (w * 20).astype(FLOAT8)
    save(tmp_path / "a.safetensors", {"m.weight": w})
    save(tmp_path / "b.safetensors", {"m.weight": codes, "m.weight_scale": np.full(1, 0.05, np.float32)})
    comparison = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert comparison.matching and 25 < comparison.snr < 45
    (row,) = inspect(tmp_path / "b.safetensors").tensors
    assert row.label == "float8 tensor"
