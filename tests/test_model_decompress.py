"""decompress: the values that logical_tensors decodes, as plain tensors, in the files that the source has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import nothing_written, write_tensors
from model_helpers import Arrays, float_dtypes, save, save_folder, small_model, stored_tensors, weights
from numpy.typing import DTypeLike
from test_model_storage import CODED, SPARSE

import quantrim as qt
from quantrim.files import FormatError, open_checkpoint, read_header
from quantrim.model import compress, compress_lossless, decompress, logical_tensors
from quantrim.model.report.compare import compare
from quantrim.model.streaming import chunks

DENSE: list[dict[str, Any]] = [
    {"bits": 4, "group_size": 32},
    {"bits": 8},
    {"bits": 8, "symmetric": False, "scale_dtype": "float32"},
    {"bits": 3, "group_size": 16, "symmetric": False, "scale_dtype": "bfloat16"},
    {"bits": 5, "group_size": "channel", "scale_dtype": "float32"},
    {"bits": 4, "recognize": True},
    {"recipe": {"bits": 4, "rule": [{"match": "*embed*", "codebook": "nf4"}, {"match": "*.1.up*", "clusters": 8}]}},
]
FORMS = [*DENSE, *CODED, *(o for o in SPARSE if o != {"bits": None, "storage": "sparse"})]


def logical(path: Path) -> Arrays:
    """What a reader of the compressed checkpoint sees."""
    with open_checkpoint(path) as checkpoint:
        tensors = logical_tensors(checkpoint)
        return {name: t.rows(0, t.matrix_shape[0]).reshape(t.shape) for name, t in tensors.items()}


def widened(arrays: Arrays, dtype: DTypeLike = np.float32) -> Arrays:
    """In the dtype of the floats beside them, where it holds their values."""
    narrow, wide = np.dtype(np.float16), np.dtype(dtype)
    if wide.itemsize <= narrow.itemsize:
        return arrays
    floats = {name for name, a in arrays.items() if a.dtype.kind not in "iub" and a.dtype.itemsize <= wide.itemsize}
    return {name: a.astype(wide) if name in floats else a for name, a in arrays.items()}


def same_tensors(found: Arrays, expected: Arrays, dtype: DTypeLike = None) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        want = array if dtype is None or array.dtype.kind in "iub" else array.astype(dtype)
        assert (found[name].dtype, found[name].shape) == (want.dtype, want.shape), name
        assert found[name].tobytes() == want.tobytes(), name


@pytest.mark.parametrize("dtype", float_dtypes(), ids=str)
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_every_layout_comes_back_as_it_decodes(
    tmp_path: Path, options: dict[str, Any], dtype: DTypeLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == np.float64 and (options.get("bits", 4) is None or options.get("recognize")):
        pytest.skip("float64 keeps its dtype in no form")
    source = save(tmp_path / "m.safetensors", small_model(dtype))
    compress(source, tmp_path / "small.safetensors", **options)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    done = decompress(tmp_path / "small.safetensors", tmp_path / "floats.safetensors")
    expected = widened(logical(tmp_path / "small.safetensors"), dtype)
    same_tensors(stored_tensors(tmp_path / "floats.safetensors"), expected)
    assert done.decoded == sum(t.decoded for t in done.tensors) > 0
    assert done.nbytes == (tmp_path / "floats.safetensors").stat().st_size and done.snr_db is None


@pytest.mark.promise("fault-A8")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_weights_of_several_dimensions_come_back_in_their_shapes(
    tmp_path: Path, options: dict[str, Any], dtype: DTypeLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {
        "conv1.weight": (32, 64, 3),
        "conv2.weight": (16, 32, 3, 5),
        "layers.1.up.weight": (32, 16, 4, 4),
        "conv3.weight": (4, 8, 3, 5, 9),
        "lstm.weight_ih_l0": (96, 64),
        "lstm.weight_hh_l0_reverse": (96, 64),
        "attention.in_proj_weight": (96, 64),
        "bilinear.weight": (5, 40, 40),
        "experts.gate_up_proj": (3, 32, 64),
        "embed.weight": (80, 64),
    }
    arrays = {name: weights(*shape, dtype=dtype) for name, shape in shapes.items()}
    source = save(tmp_path / "m.safetensors", {**arrays, "conv1.bias": weights(32, dtype=dtype)})
    compress(source, tmp_path / "small.safetensors", **options)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    done = decompress(tmp_path / "small.safetensors", tmp_path / "floats.safetensors", dtype=np.float32)
    assert done.decoded == len(arrays)
    found = stored_tensors(tmp_path / "floats.safetensors")
    assert {name: a.shape for name, a in found.items()} == {**shapes, "conv1.bias": (32,)}
    same_tensors(found, logical(tmp_path / "small.safetensors"), np.float32)
    assert compare(tmp_path / "small.safetensors", tmp_path / "floats.safetensors").equal
    beside = compare(source, tmp_path / "floats.safetensors")
    assert beside.matching and [d.name for d in beside.differences if d.equal][-1:] == ["conv1.bias"]


@pytest.mark.parametrize("options", [DENSE[0], {"codebook": "nf4"}, {"bits": 4, "prune": 0.8}], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_folders_keep_their_files(tmp_path: Path, options: dict[str, Any], shards: int) -> None:
    config = {"model_type": "test", "dtype": "float32", "text_config": {"torch_dtype": "float32"}}
    source = save_folder(tmp_path / "source", small_model(), shards, config)
    compress(source, tmp_path / "small", reader="any", **options)
    done = decompress(tmp_path / "small", tmp_path / "floats")
    found = stored_tensors(tmp_path / "floats")
    same_tensors(found, logical(tmp_path / "small"), np.float32)
    names = sorted(path.name for path in source.iterdir())
    assert sorted(path.name for path in (tmp_path / "floats").iterdir()) == names
    assert (tmp_path / "floats" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "floats" / "config.json").read_text()) == config
    for path in source.glob("*.safetensors"):
        before, after = read_header(path)[0], read_header(tmp_path / "floats" / path.name)[0]
        assert [(t.name, t.dtype, t.shape) for t in after.values()] == [
            (t.name, t.dtype, t.shape) for t in before.values()
        ]
        assert read_header(tmp_path / "floats" / path.name)[1]["format"] == "pt"
    if shards > 1:
        index = json.loads((tmp_path / "floats" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(a.nbytes for a in found.values())
    assert not done.notes


def test_arrays_in_several_files_are_one_tensor(tmp_path: Path) -> None:
    compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "small.safetensors", bits=4, group_size=16)
    qt.model.split_checkpoint(tmp_path / "small.safetensors", tmp_path / "parts", max_size=8_000)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 3
    decompress(tmp_path / "parts", tmp_path / "floats")
    same_tensors(stored_tensors(tmp_path / "floats"), widened(logical(tmp_path / "small.safetensors")))


def test_what_metadata_says_of_the_storage_goes(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model(), {"mine": "kept"})
    for options in ({"bits": 4}, {"clusters": 4}):
        compress(source, tmp_path / "small.safetensors", overwrite=True, **options)
        decompress(tmp_path / "small.safetensors", tmp_path / "floats.safetensors", overwrite=True)
        metadata = read_header(tmp_path / "floats.safetensors")[1]
        assert (metadata["mine"], metadata["format"]) == ("kept", "pt")
        assert not {"quantization_config", "quantrim_storage"} & set(metadata)
        compress(tmp_path / "floats.safetensors", tmp_path / "again.safetensors", overwrite=True, bits=4)


def test_byte_planes_over_codes(tmp_path: Path) -> None:
    compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "small.safetensors", bits=4)
    compress_lossless(tmp_path / "small.safetensors", tmp_path / "planes.safetensors")
    decompress(tmp_path / "planes.safetensors", tmp_path / "floats.safetensors")
    same_tensors(stored_tensors(tmp_path / "floats.safetensors"), widened(logical(tmp_path / "small.safetensors")))


# Which dtype


@pytest.mark.parametrize(
    "said,scales,written,says",
    [
        ("float32", "float16", np.float32, "float32"),
        ("torch.float32", "bfloat16", np.float32, "torch.float32"),
        ("float16", "float32", np.float32, "float32"),
        ("bfloat16", "float16", np.float16, "float16"),
        ("bfloat16", "bfloat16", ml_dtypes.bfloat16, "bfloat16"),
        ("float64", "float32", np.float64, "float64"),
        (None, "float16", np.float32, None),  # as the floats beside
        (8, "float16", np.float32, 8),
    ],
)
def test_the_dtype_of_the_config_where_it_holds_all_values(
    tmp_path: Path, said: object, scales: str, written: DTypeLike, says: object
) -> None:
    config = {} if said is None else {"torch_dtype": said, "parts": {"dtype": said}}
    source = save_folder(tmp_path / "source", {"a.weight": weights(64, 64), "b": weights(3)}, 1, config)
    compress(source, tmp_path / "small", bits=4, scale_dtype=scales)
    done = decompress(tmp_path / "small", tmp_path / "floats")
    found = stored_tensors(tmp_path / "floats")
    expected = logical(tmp_path / "small")
    same_tensors(found, {"a.weight": expected["a.weight"].astype(written), "b": expected["b"]})
    now = json.loads((tmp_path / "floats" / "config.json").read_text())
    assert now == ({} if said is None else {"torch_dtype": says, "parts": {"dtype": says}})
    assert bool(done.notes) == (said in ("float16", "bfloat16") and says != said)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("scales", ["float16", "float32", "bfloat16"])
def test_all_floats_in_the_dtype_that_was_asked_for(tmp_path: Path, dtype: DTypeLike, scales: str) -> None:
    arrays = small_model() | {
        "double": np.linspace(-2, 2, 99),
        "flags": np.arange(5) > 2,
        "small": np.arange(4, dtype="u1"),
    }
    source = save_folder(tmp_path / "source", arrays, 2, {"dtype": "bfloat16"})
    compress(source, tmp_path / "small", bits=4, scale_dtype=scales)
    done = decompress(tmp_path / "small", tmp_path / "floats", dtype=dtype)
    same_tensors(stored_tensors(tmp_path / "floats"), logical(tmp_path / "small"), dtype)
    word = np.dtype(dtype).name
    assert json.loads((tmp_path / "floats" / "config.json").read_text()) == {"dtype": word}
    cost = {t.name: t.snr_db for t in done.tensors}
    assert cost["model.positions"] is None
    narrow = word != "float32"
    assert (cost["double"] is not None) and (cost["model.layers.0.norm.weight"] is not None) == narrow
    if narrow:
        exact = scales == word
        assert cost["model.layers.0.up.weight"] is None if exact else (cost["model.layers.0.up.weight"] or 0) > 40
    assert done.snr_db is not None and done.snr_db > 40


def test_a_dtype_is_asked_for_where_config_says_none(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "source", small_model(), 1)
    decompress(source, tmp_path / "floats", dtype="bfloat16")
    assert json.loads((tmp_path / "floats" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="all floats are bfloat16 already"):
        decompress(tmp_path / "floats", tmp_path / "again", dtype="bfloat16")


def test_narrowing_rounds_once_and_to_even(tmp_path: Path) -> None:
    """float64 to bfloat16 by way of float32 would round ties away that are none."""
    tie = 1 + 2.0**-8
    values = np.array([tie, tie + 2.0**-40, tie - 2.0**-40, -tie - 2.0**-40, 3 * 2.0**-134, np.nan, np.inf, 1e-60])
    source = save(tmp_path / "m.safetensors", {"a": values})
    decompress(source, tmp_path / "t.safetensors", dtype="bfloat16")
    found = stored_tensors(tmp_path / "t.safetensors")["a"].astype(np.float64)
    up = 1 + 2.0**-7
    expected = [1.0, up, 1.0, -up, 2 * 2.0**-133, np.nan, np.inf, 0.0]
    assert np.array_equal(found, expected, equal_nan=True)


def test_narrowing_that_overflows_names_the_tensor(tmp_path: Path) -> None:
    w = weights(40, 64)
    w[21, 3] = 70000
    source = save(tmp_path / "m.safetensors", {"fine.weight": weights(8, 8), "big.weight": w})
    compress(source, tmp_path / "small.safetensors", bits=8, scale_dtype="float32", min_elements=0)
    for path in (source, tmp_path / "small.safetensors"):
        with (
            nothing_written(tmp_path / "t.safetensors"),
            pytest.raises(ValueError, match=r"'big.weight'.*must fit float16"),
        ):
            decompress(path, tmp_path / "t.safetensors", dtype="float16")
    decompress(tmp_path / "small.safetensors", tmp_path / "t.safetensors", dtype="bfloat16")


def test_it_is_a_function_of_the_package() -> None:
    assert qt.decompress is decompress and "decompress" in qt.__all__


# What is refused


def test_nothing_to_do(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    with (
        nothing_written(tmp_path / "t.safetensors"),
        pytest.raises(ValueError, match="no tensor is compressed; dtype"),
    ):
        decompress(source, tmp_path / "t.safetensors")
    compress_lossless(source, tmp_path / "planes.safetensors")
    with pytest.raises(ValueError, match="byte planes, which `restore` undoes"):
        decompress(tmp_path / "planes.safetensors", tmp_path / "t.safetensors")
    for wrong in ("int8", "float64", np.int32):
        with pytest.raises(ValueError, match="dtype must be one of 'float32', 'float16', 'bfloat16'"):
            decompress(source, tmp_path / "t.safetensors", dtype=wrong)


FLOAT8 = ml_dtypes.float8_e4m3fn
UNREAD: list[tuple[str, Arrays, dict[str, Any], str]] = [
    ("GPTQ", {"m.qweight": np.zeros((4, 8), "i4"), "m.scales": np.ones((1, 8), "f2")}, {}, "'m.qweight'.*GPTQ or AWQ"),
    (
        "MLX",
        {"m.weight": np.zeros((4, 8), "u4"), "m.scales": np.ones((4, 1), "f2"), "m.biases": np.ones((4, 1), "f2")},
        {},
        "'m.weight'.*MLX",
    ),
    ("integers", {"m.weight": np.zeros((4, 8), "i1")}, {}, "'m.weight'.*integers under the name of a weight"),
    ("ModelOpt", {"m.weight": np.zeros((4, 8), "u1"), "m.weight_scale": np.ones((4, 1), FLOAT8)}, {}, "'m.weight"),
    (
        "gpt-oss",
        {"m.up_blocks": np.zeros((4, 2, 16), "u1"), "m.up_scales": np.zeros((4, 2), "u1")},
        {},
        "MXFP4 of gpt-oss",
    ),
    (
        "shape",
        {"m.weight": np.ones((4, 8), FLOAT8), "m.weight_scale": np.ones((3, 1), "f4")},
        {},
        "does not fit a matrix",
    ),
    ("inverse", {"m.w": np.ones((4, 8), FLOAT8), "m.w_scale_inv": np.ones((3, 3), "f4")}, {}, "'m.w'.*does not fit"),
    ("no scales", {"m.weight": np.ones((4, 8), FLOAT8)}, {"quant_method": "fp8"}, "scales are not there.*'fp8'"),
    ("grid", {"m.weight": np.ones((4, 8), "f4"), "m.weight_scale": np.ones((4, 1), "f4")}, {}, "without their codes"),
    (
        "tiles",
        {"m.weight": np.ones((4, 8), "i1"), "m.SCB": np.ones(4, "f4"), "m.weight_format": np.ones((), "u1")},
        {},
        r"LLM.int8\(\)|integers with SCB",
    ),
    ("marlin", {"m.B": np.zeros((4, 8), "i4"), "m.s": np.ones((1, 8), "f2")}, {}, "Marlin"),
    (
        "rotated",
        {"m.w": np.ones(3, "f4")},
        {"transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}},
        "transform_config",
    ),
]


@pytest.mark.parametrize("tensors,config,words", [row[1:] for row in UNREAD], ids=[row[0] for row in UNREAD])
def test_what_is_not_read_is_refused_before_anything_is_written(
    tmp_path: Path, tensors: Arrays, config: dict[str, Any], words: str
) -> None:
    """Codes are never copied under the name of a weight, beside weights that are read or alone."""
    compress(save(tmp_path / "m.safetensors", {"a.weight": weights(64, 64)}), tmp_path / "small.safetensors", bits=4)
    others = stored_tensors(tmp_path / "small.safetensors")
    for beside in (others, {}):
        source = tmp_path / f"source{len(beside)}"
        source.mkdir()
        save(source / "model.safetensors", tensors | beside)
        (source / "config.json").write_text(json.dumps({"quantization_config": config} if config else {}))
        for dtype in (None, "float16"):
            if not beside and dtype is None and config.get("transform_config") is None and "m.w" not in tensors:
                continue
            with nothing_written(tmp_path / "t"), pytest.raises((ValueError, FormatError), match=words):
                decompress(source, tmp_path / "t", dtype=dtype)


def test_float8_without_quantization_are_floats(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"m.weight": np.linspace(-3, 3, 32).reshape(4, 8).astype(FLOAT8)})
    decompress(source, tmp_path / "t.safetensors", dtype="bfloat16")
    found = stored_tensors(tmp_path / "t.safetensors")["m.weight"]
    assert np.array_equal(found, stored_tensors(source)["m.weight"].astype(ml_dtypes.bfloat16))


def test_scales_of_activations_and_caches_are_left_out(tmp_path: Path) -> None:
    codes = np.arange(32, dtype=np.uint8).reshape(4, 8).view(FLOAT8)
    tensors = {"m.weight": codes, "m.weight_scale": np.full(1, 0.5, "f4"), "m.input_scale": np.ones(1, "f4")}
    tensors |= {"attn.k_scale": np.ones(1, "f4"), "other.input_scale": np.ones(1, "f4")}
    source = tmp_path / "source"
    source.mkdir()
    write_tensors(source / "model.safetensors", tensors)
    config = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
    (source / "config.json").write_text(json.dumps({"quantization_config": config}))
    done = decompress(source, tmp_path / "floats")
    found = stored_tensors(tmp_path / "floats")
    assert found.keys() == {"m.weight", "other.input_scale"}
    assert np.array_equal(found["m.weight"], codes.astype(np.float32) / 2)
    assert done.left_out == ("attn.k_scale", "m.input_scale")
    assert "2 tensors that say how activations were rounded (input_scale, k_scale): left out" in done.notes
    assert json.loads((tmp_path / "floats" / "config.json").read_text()) == {}


def test_targets_follow_the_rules_of_compress(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "source", small_model(), 2)
    compress(folder, tmp_path / "small", bits=4)
    compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "small.safetensors", bits=4)
    cases = [
        ("small", "small", "must not be the source"),
        ("small", "small/inside", "must not be inside the source"),
        ("small", "t.safetensors", "must be a folder"),
        ("small.safetensors", "small.safetensors", "must not be the source"),
        ("small.safetensors", "t", "must end in .safetensors, .npz or .npy, not"),
        ("small.safetensors", "m.safetensors", "must be absent unless overwrite=True"),
    ]
    for source, target, words in cases:
        with nothing_written(tmp_path / target), pytest.raises(ValueError, match=words):
            decompress(tmp_path / source, tmp_path / target)
    with pytest.raises((ValueError, OSError)):
        decompress(tmp_path / "small", folder)
    decompress(tmp_path / "small", folder, overwrite=True)
    same_tensors(stored_tensors(folder), widened(logical(tmp_path / "small")))


@pytest.mark.parametrize("threads", [1, 3])
def test_one_file_whatever_the_chunks_and_threads(
    tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "small.safetensors", clusters=16)
    decompress(tmp_path / "small.safetensors", tmp_path / "one.safetensors", dtype="float16")
    for nbytes in (1, 300, 1 << 12):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", nbytes)
        with qt.use_threads(threads), qt.use_isa(qt.isas()[-1]):
            decompress(tmp_path / "small.safetensors", tmp_path / "t.safetensors", dtype="float16", overwrite=True)
        assert (tmp_path / "t.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_a_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: chunks written one row late."""
    real = chunks.cut

    def late(*args: Any, **kwargs: Any) -> Any:
        for chunk in real(*args, **kwargs):
            yield chunk if chunk.row == 0 else chunks.Chunk(chunk.row - 1, chunk.rows, chunk.col, chunk.cols)

    import importlib

    compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "small.safetensors", bits=4)
    monkeypatch.setattr(importlib.import_module("quantrim.model.decompress"), "cut", late)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 12)
    decompress(tmp_path / "small.safetensors", tmp_path / "t.safetensors")
    with pytest.raises(AssertionError):
        same_tensors(stored_tensors(tmp_path / "t.safetensors"), logical(tmp_path / "small.safetensors"))


def test_progress_counts_what_is_written(tmp_path: Path) -> None:
    compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "small.safetensors", bits=4)
    seen: list[tuple[int, int, str]] = []
    decompress(tmp_path / "small.safetensors", tmp_path / "t.safetensors", progress=lambda *each: seen.append(each))
    total = sum(a.nbytes for a in stored_tensors(tmp_path / "t.safetensors").values())
    done = [each[0] for each in seen]
    assert done == sorted(done) and done[-1] == total and {each[1] for each in seen} == {total}
    assert {each[2] for each in seen} == {name for name, a in logical(tmp_path / "small.safetensors").items() if a.size}


@pytest.mark.parametrize("options", [{"prune": 0.5}, {"bits": 4, "scale_dtype": "float32", "simulate": True}], ids=str)
def test_what_overflows_the_dtype_of_floats_is_told_of_it(tmp_path: Path, options: dict[str, Any]) -> None:
    """Not of scales, which have nothing to do with it."""
    source = save(tmp_path / "m.safetensors", {"a.weight": np.full((64, 64), 1e6, np.float32)})
    wanted = r"tensor 'a\.weight': 1000000\.0 overflows float16; use dtype='bfloat16'"
    with pytest.raises(ValueError, match=wanted):
        compress(source, tmp_path / "t.safetensors", dtype="float16", **options)
