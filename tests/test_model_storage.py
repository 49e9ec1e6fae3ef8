"""compress into our own forms: codebooks, shared values, sparse weights; every bit that of whole tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import nothing_written
from model_helpers import (
    Arrays,
    assert_same_arrays,
    float_dtypes,
    pruned,
    save,
    save_folder,
    small_model,
    stored_tensors,
    usual_scale_dtype,
    weights,
)
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.files import FormatError, open_checkpoint, read_header
from quantrim.layouts import codebook, memory
from quantrim.layouts.base import Grid
from quantrim.layouts.sparse_bitmask import Sparse
from quantrim.model import Recipe, compress, logical_tensors, plan
from quantrim.model.edit.split import merge_checkpoint, split_checkpoint
from quantrim.model.encode import tensor_writer
from quantrim.model.recipe import settings_of
from quantrim.model.report.compare import compare
from quantrim.model.streaming import chunks
from quantrim.model.streaming.tensors import KEY

TABLE = [-1.5, -0.25, 0.0, 0.5, 2.0]
CODED: list[dict[str, Any]] = [
    *({"codebook": name} for name in ("nf4", "fp4", "mxfp4", "mxint8", "binary", "ternary")),
    {"codebook": "nf4", "group_size": 40, "scale_dtype": "bfloat16"},  # ragged
    {"codebook": "binary", "group_size": "channel", "scale_dtype": "float32"},
    {"codebook": "ternary", "group_size": "tensor", "prune": 0.3},
    {"codebook": TABLE, "group_size": 24, "prune": "2:4"},
    {"clusters": 16},
    {"clusters": 5, "group_size": 40, "prune": 0.4},
    {"clusters": 2, "group_size": "channel"},
]
SPARSE: list[dict[str, Any]] = [
    {"bits": 4, "prune": 0.7, "storage": "sparse"},
    {"bits": 3, "group_size": 16, "prune": 0.8, "symmetric": False, "storage": "sparse"},
    {"bits": 5, "prune": 0.9, "group_size": "channel", "scale_dtype": "float32", "prune_axis": 1},
    {"bits": 8, "prune": 0.75},
    {"bits": 8, "prune": 0.75, "symmetric": False, "group_size": 32},
    {"bits": 7, "prune": "2:4", "storage": "sparse", "rounding": "stochastic", "seed": 3},
    {"bits": None, "prune": 0.7, "storage": "sparse"},
    {"bits": None, "storage": "sparse"},
    {"bits": 2, "prune": 1.0, "storage": "sparse"},
]
BIG = ("model.embed_tokens.weight", "model.layers.0.up.weight", "model.layers.0.down.weight")


def whole(w: NDArray[Any], options: dict[str, Any]) -> Any:
    """The QuantizedTensor, or the array, that a matrix becomes, from all of it at once."""
    s = settings_of(**options)
    scale_dtype = s.scale_dtype or ("float16" if s.codebook is not None else usual_scale_dtype(w))
    w = pruned(w, s)
    if s.clusters is not None:
        return qt.cluster(w, s.clusters, group_size=s.group)
    if s.codebook is not None:
        book = s.codebook if isinstance(s.codebook, str) else np.array(s.codebook, np.float32)
        theirs = s.group == 64 and w.shape[1] % 64 == 0 and str(book) in ("nf4", "fp4")  # as bitsandbytes has it
        dtype = "float32" if theirs or str(book).startswith("mx") else scale_dtype
        return qt.quantize_codebook(w, book, group_size=s.group, scale_dtype=dtype)
    if s.bits is None:
        return w
    group = next(g for g in (s.group, 64, 32, 16) if isinstance(g, str) or w.shape[1] % g == 0)
    return qt.quantize(
        w, s.bits, group_size=group, symmetric=s.symmetric, scale=s.scale_rule, scale_dtype=scale_dtype,
        rounding=s.rounding, seed=s.seed,
    )  # fmt: skip


def same_codes(a: qt.QuantizedTensor, b: qt.QuantizedTensor) -> bool:
    books = [np.zeros(0) if q.codebook is None else q.codebook for q in (a, b)]
    zeros = [np.zeros(0) if q.zero_points is None else q.zero_points for q in (a, b)]
    return (
        (a.bits, a.group_size, a.shape) == (b.bits, b.group_size, b.shape)
        and np.array_equal(a.codes(), b.codes())
        and a.scales.tobytes() == b.scales.tobytes()
        and np.array_equal(*books)
        and np.array_equal(*zeros)
    )


@pytest.mark.parametrize("dtype", float_dtypes(), ids=str)
@pytest.mark.parametrize("options", CODED + SPARSE, ids=str)
def test_decoded_bits_are_those_of_whole_tensors(
    tmp_path: Path, dtype: DTypeLike, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    arrays = {name: small_model(dtype)[name] for name in BIG} | {"other": weights(4, 4, dtype=dtype)}
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    keeps_dtype = not settings_of(**options).rounds
    if keeps_dtype and dtype == np.float64:
        with nothing_written(target), pytest.raises(ValueError, match="only F32, F16, BF16"):
            compress(source, target, **options)
        return
    report = compress(source, target, **options)
    assert report.stored_bytes == target.stat().st_size
    narrow = np.dtype(np.float32) if dtype == np.float64 else np.dtype(dtype)
    if options.get("bits"):  # as dense codes
        usual = usual_scale_dtype(np.empty(0, dtype))
        narrow = np.dtype(settings_of(**options).scale_dtype or usual)
    with open_checkpoint(target) as checkpoint:
        found = logical_tensors(checkpoint)
        assert set(found) == set(arrays)
        for name in BIG:
            tensor, expected = found[name], whole(arrays[name], options)
            assert (tensor.shape, tensor.dtype, tensor.compressed) == (arrays[name].shape, narrow, True)
            rows = tensor.shape[0]
            if keeps_dtype:
                assert tensor.rows(0, rows).tobytes() == expected.tobytes()
            else:
                assert same_codes(tensor.quantized_rows(0, rows), expected), name
                assert tensor.rows(0, rows).tobytes() == expected.dequantize(narrow).tobytes()
            some = tensor.rows(17, 20)
            assert some.tobytes() == tensor.rows(0, rows)[17:37].tobytes()
            assert tensor.rows(rows, 0).shape == (0, tensor.shape[1])


@pytest.mark.parametrize("options", [o for o in SPARSE if o.get("bits") != 8], ids=str)
def test_written_tensors_are_those_of_the_layout(tmp_path: Path, options: dict[str, Any]) -> None:
    w = weights(70, 96)
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    compress(source, tmp_path / "t.safetensors", **options)
    x = whole(w, options)
    grid = None
    if isinstance(x, qt.QuantizedTensor):
        grid = Grid(x.bits, x.group_size, x.symmetric, settings_of(**options).scale_dtype or usual_scale_dtype(w))
    expected = memory.encode(Sparse("F32", 0, grid), x)
    assert_same_arrays(stored_tensors(tmp_path / "t.safetensors"), {f"a.{n}": a for n, a in expected.items()})


@pytest.mark.promise("G18")
@pytest.mark.parametrize("options", CODED + SPARSE, ids=str)
def test_one_file_whatever_the_chunks_threads_and_isa(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: Arrays = {"a.weight": weights(33, 96, dtype=ml_dtypes.bfloat16), "long.weight": weights(2, 4096)}
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    compress(source, target, min_elements=0, **options)
    first = target.read_bytes()
    for chunk_bytes, threads, isa in [(1, 1, 0), (300, 3, 0), (1 << 12, 2, -1), (1 << 30, 1, 0)]:
        monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        with qt.use_threads(threads), qt.use_isa(qt.isas()[isa]):
            compress(source, target, overwrite=True, min_elements=0, **options)
        assert target.read_bytes() == first, (chunk_bytes, threads, isa)


@pytest.mark.parametrize("bug", ["bytes", "starts"])
def test_a_planted_bug_in_the_rows_is_found(tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights(50, 64)
    options: dict[str, Any] = {"bits": 3, "group_size": "channel", "scale": "absmax", "prune": 0.8, "storage": "sparse"}
    source, target = save(tmp_path / "m.safetensors", {"a.weight": w}), tmp_path / "t.safetensors"
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 9)
    if bug == "bytes":
        monkeypatch.setattr(Sparse, "_row_ends", lambda self, s: s.offsets)
    else:
        real = tensor_writer.TensorWriter.count
        monkeypatch.setattr(tensor_writer.TensorWriter, "count", lambda self, c: real(self, c) + (c.number == 1))
    try:
        compress(source, target, min_elements=0, **options)
        with open_checkpoint(target) as checkpoint:
            codes = logical_tensors(checkpoint)["a.weight"].quantized_rows(0, 50)
        found = not same_codes(codes, whole(w, options))
    except ValueError:
        found = True
    assert found


# Files and folders


@pytest.mark.parametrize(
    "options", [{"codebook": "fp4"}, {"codebook": "binary"}, {"clusters": 16}, {"bits": 4, "prune": 0.9}], ids=str
)
def test_folders_and_their_shards_read_back(tmp_path: Path, options: dict[str, Any]) -> None:
    source = save_folder(tmp_path / "source", small_model(), shards=3)
    small = tmp_path / "small"
    compress(source, small, **options)
    assert "quantization_config" not in json.loads((small / "config.json").read_text())
    for path in small.glob("*.safetensors"):  # a shard alone is readable too
        with open_checkpoint(path) as checkpoint:
            assert all(not name.endswith((".bitmask", ".weight_codes")) for name in logical_tensors(checkpoint))
    merge_checkpoint(small, tmp_path / "one.safetensors")
    split_checkpoint(tmp_path / "one.safetensors", tmp_path / "parts", max_size=20_000)
    for other in ("one.safetensors", "parts"):
        assert compare(small, tmp_path / other).equal
    comparison = compare(source, small)
    assert comparison.matching and not comparison.equal


def test_what_is_quantized_so_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 64)})
    for k, options in enumerate(({"codebook": "nf4"}, {"bits": 4, "prune": 0.9}, {"bits": None, "storage": "sparse"})):
        target = tmp_path / f"{k}.safetensors"
        compress(source, target, **options)  # type: ignore[arg-type]
        with nothing_written(tmp_path / "u.safetensors"), pytest.raises(ValueError, match="quantized already"):
            compress(target, tmp_path / "u.safetensors")


def test_without_zeros_is_what_it_would_be_with_them(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 96, dtype=np.float16)})
    for storage in ("dense", "sparse"):
        compress(source, tmp_path / f"{storage}.safetensors", prune=0.8, bits=5, storage=storage)
    comparison = compare(tmp_path / "dense.safetensors", tmp_path / "sparse.safetensors")
    assert comparison.matching and comparison.equal


# When storage is sparse


@pytest.mark.parametrize(
    "options,sparse",
    [
        ({"bits": 4, "prune": 0.5}, False),
        ({"bits": 4, "prune": 0.7}, True),
        ({"bits": 4, "prune": 0.7, "storage": "dense"}, False),
        ({"prune": 0.9, "bits": 2}, True),
        ({"prune": 0.5, "bits": 8}, True),
        ({"bits": 4, "prune": "2:4"}, False),
        ({"prune": "2:4", "bits": 8, "storage": "sparse"}, True),
        ({"prune": 0.9, "bits": None}, False),
        ({"prune": 0.9, "codebook": "nf4"}, False),
    ],
    ids=str,
)
def test_auto_takes_what_saves_a_quarter(tmp_path: Path, options: dict[str, Any], sparse: bool) -> None:
    w = weights(512, 512)
    source, target = save(tmp_path / "m.safetensors", {"a.weight": w}), tmp_path / "t.safetensors"
    wish = plan(source, **options)
    report = compress(source, target, **options)
    assert wish.at_most == sparse == ("a.bitmask" in stored_tensors(target))
    assert any("storage='dense'" in note for note in report.notes) == sparse
    assert ("at most" in "\n".join(wish.lines())) == sparse
    assert wish.stored_bytes >= report.stored_bytes if sparse else wish.stored_bytes == report.stored_bytes


def test_issue_pruned_and_quantized_is_smaller_than_either(tmp_path: Path) -> None:
    w = weights(512, 512)
    source = save(tmp_path / "m.safetensors", {"a.weight": w, "norm": weights(512)})
    report = compress(source, tmp_path / "both.safetensors", prune=0.7, bits=4)
    alone = [compress(source, tmp_path / "p.safetensors", prune=0.7, bits=None, storage="sparse")]
    alone.append(compress(source, tmp_path / "q.safetensors", bits=4))
    assert report.stored_bytes < min(other.stored_bytes for other in alone)
    steps = report.steps
    assert steps is not None
    sizes = [sum(t.stored_bytes for t in other.tensors) for other in (*alone, report)]
    assert (steps.original, steps.pruned, steps.quantized, steps.both) == (w.nbytes + 2048, *sizes)
    assert json.loads(report.to_json())["steps"]["both"] == steps.both
    for text in (report.to_markdown(), report.to_html()):
        assert f"{steps.pruned:,}" in text and f"{steps.quantized:,}" in text
    assert alone[0].steps is None and alone[1].steps is None


# A given scale


@pytest.mark.parametrize("symmetric", [True, False])
def test_fixed_point_by_a_given_scale(tmp_path: Path, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    w = weights(64, 64)
    source, target = save(tmp_path / "m.safetensors", {"a.weight": w}), tmp_path / "t.safetensors"
    compress(source, target, bits=6, scale=2**-6, symmetric=symmetric)
    with open_checkpoint(target) as checkpoint:
        found = logical_tensors(checkpoint)["a.weight"].quantized_rows(0, 64)
    assert (found.scales == 2**-6).all()
    assert same_codes(found, qt.quantize(w, 6, group_size=32, scales=2**-6, symmetric=symmetric))
    if symmetric:
        np.testing.assert_array_equal(found.dequantize(), np.clip(np.rint(w * 64), -31, 31) / 64)


# Grids that weights lie on already


def on_a_grid(dtype: DTypeLike) -> Arrays:
    """Matrices that were quantized before, and one that was not."""
    w = {name: weights(64, 96, seed=k) for k, name in enumerate(("int4", "uint3", "int8", "tensor", "book", "none"))}
    found = {
        "int4.weight": qt.quantize(w["int4"], 4, group_size=32, scale_dtype="float16").dequantize(),
        "uint3.weight": qt.quantize(w["uint3"], 3, group_size="channel", symmetric=False).dequantize(),
        "tensor.weight": qt.quantize(w["tensor"], 5, group_size="tensor").dequantize(),
        "book.weight": qt.cluster(w["book"], 11).dequantize(),
        "none.weight": w["none"],
    }
    return {name: a.astype(dtype) for name, a in found.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("others", [{"bits": 4, "prune": 0.9}, {"bits": None}], ids=str)
def test_weights_on_a_grid_keep_every_bit(tmp_path: Path, dtype: DTypeLike, others: dict[str, Any]) -> None:
    arrays = on_a_grid(dtype)
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    assert any("scanned first" in note for note in plan(source, recognize=True, **others).notes)
    report = compress(source, target, recognize=True, **others)
    by_name = {t.name: t for t in report.tensors}
    with open_checkpoint(target) as checkpoint:
        tensors = logical_tensors(checkpoint)
        for name, w in arrays.items():
            found = tensors[name]
            if name == "none.weight":
                assert found.compressed == (others["bits"] is not None)
                continue
            assert found.rows(0, 64).tobytes() == w.tobytes() and found.rows(5, 7).tobytes() == w[5:12].tobytes()
            assert found.nbytes < w.nbytes and "no bit is changed" in by_name[name].reason
    assert by_name["int4.weight"].label == "int4 group 32 symmetric"
    assert by_name["book.weight"].label == "11 exact values" and by_name["book.weight"].snr_db == np.inf
    assert ("nothing else is asked for" in by_name["none.weight"].reason) == (others["bits"] is None)


def test_one_scale_for_a_tensor_is_only_searched_for(tmp_path: Path) -> None:
    arrays = {name: on_a_grid(np.float32)[name] for name in ("tensor.weight", "none.weight")}
    source = save(tmp_path / "m.safetensors", arrays)
    report = compress(source, tmp_path / "t.safetensors", recognize=True, group_size="tensor")
    assert sorted(t.label for t in report.tensors) == ["int4 group 32 symmetric", "int5 tensor symmetric"]


def test_a_group_that_is_asked_for_is_the_only_one_tried(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"int4.weight": on_a_grid(np.float32)["int4.weight"]})
    for size, exact in ((32, True), (16, True), (96, False)):
        report = compress(source, tmp_path / f"{size}.safetensors", recognize=True, group_size=size, bits=2)
        assert (report.tensors[0].snr_db == np.inf) == exact


# Bad settings


@pytest.mark.promise("B47")
@pytest.mark.parametrize(
    "options,words",
    [
        ({"bits": 4, "codebook": "nf4"}, "codebook='nf4' must not be given with bits=4: each chooses"),
        ({"bits": None, "clusters": 4}, "clusters=4 must not be given with bits=None: each chooses"),
        ({"codebook": "nf4", "clusters": 4}, "clusters=4 must not be given with codebook='nf4': each chooses"),
        ({"codebook": "nf5"}, "codebook must be one of 'nf4', .* not 'nf5'"),
        ({"codebook": [0.0]}, "codebook must be a name or 2..256 values"),
        ({"codebook": [0.0, 1.0, 1.0]}, "codebook must be strictly increasing"),
        ({"codebook": [0.0, float("nan")]}, "codebook must be finite"),
        ({"clusters": 1}, "clusters must be an integer of 2..256, not 1"),
        ({"clusters": 257}, "clusters must be an integer of 2..256, not 257"),
        ({"codebook": "mxfp4", "group_size": 64}, "group_size must be 32 with codebook='mxfp4', not 64"),
        ({"codebook": "nf4", "symmetric": False}, "symmetric=False must not be given with codebook='nf4'"),
        ({"clusters": 4, "scale_dtype": "float32"}, "scale_dtype='float32' must not be given with clusters=4"),
        ({"group_size": "tensor"}, "without codebook, clusters or recognize"),
        ({"scale": 0.0}, "scale must be positive and finite in float16, not 0"),
        ({"scale": 1e-9}, "scale must be positive and finite in float16, not 1e-09"),
        ({"scale": -1.0}, "scale must be a number of"),
        ({"scale": 2.0, "codebook": "nf4"}, "scale=2.0 must not be given with codebook='nf4'"),
        ({"storage": "csr"}, "storage must be one of 'auto', 'dense', 'sparse', not 'csr'"),
        ({"storage": "sparse", "codebook": "nf4"}, "storage='sparse' must not be given with codebook"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 64)})
    with nothing_written(tmp_path / "t.safetensors"), pytest.raises(ValueError, match=words):
        compress(source, tmp_path / "t.safetensors", **options)
    with pytest.raises(ValueError, match=words):
        Recipe.from_dict({k: "none" if v is None else v for k, v in options.items()})


def test_a_rule_takes_another_method_than_the_defaults() -> None:
    recipe = Recipe.from_dict(
        {
            "codebook": TABLE,
            "rule": [
                {"match": "a", "bits": 4, "symmetric": False},
                {"match": "b", "clusters": 8},
                {"match": "c", "prune": 0.5, "bits": "none"},
                {"match": "d", "prune": 0.5},
            ],
        }
    )
    a, b, c, d = (rule.settings for rule in recipe.rules)
    assert (a.bits, a.codebook, a.clusters, a.symmetric) == (4, None, None, False)
    assert (b.bits, b.codebook, b.clusters, b.group) == (None, None, 8, "tensor")
    assert (c.rounds, d.codebook, d.group) == (False, tuple(TABLE), 64)
    assert Recipe.from_toml(recipe.to_toml()) == recipe


# Bad files


def tampered(path: Path, change: Any, arrays: Any = None) -> Path:
    """The file again, with another entry for its tensor, or other stored tensors."""
    tensors = stored_tensors(path)
    metadata = read_header(path)[1]
    if arrays is not None:
        arrays(tensors)
    content = json.loads(metadata[KEY])
    found = change(content)
    metadata[KEY] = found if isinstance(found, str) else json.dumps(content)
    return save(path.with_name("bad.safetensors"), tensors, metadata)


def refused(path: Path, words: str) -> None:
    with open_checkpoint(path) as checkpoint, pytest.raises(FormatError, match=words) as caught:
        for tensor in logical_tensors(checkpoint).values():
            tensor.rows(0, tensor.matrix_shape[0])
    assert "bad.safetensors" in str(caught.value)


ENTRY: list[tuple[str, Any, str]] = [
    ("text", lambda c: "{", "is not JSON"),
    ("twice", lambda c: '{"version":1,"version":1,"tensors":{}}', "twice"),
    ("deep", lambda c: "[" * 100_000, "nested too deeply|not JSON"),
    ("list", lambda c: "[]", "must be an object with version and tensors"),
    ("version", lambda c: c.update(version=2), "must have version 1"),
    ("tensors", lambda c: c.update(tensors=[]), "tensors of quantrim_storage must be an object"),
    ("entry", lambda c: c["tensors"].update({"a.weight": 3}), "must have an object for each tensor"),
    ("layout", lambda c: c["tensors"]["a.weight"].update(layout="csr"), "must have a layout among codes, sparse"),
    ("bits", lambda c: c["tensors"]["a.weight"].update(bits=64), "bits must be an integer of"),
    ("no bits", lambda c: c["tensors"]["a.weight"].update(bits=[]), "bits must be an integer of"),
    ("shape", lambda c: c["tensors"]["a.weight"].update(shape=[64, 2**62]), "must be|divide"),
    ("negative", lambda c: c["tensors"]["a.weight"].update(shape=[-1, 64]), "shape must be"),
    ("flat", lambda c: c["tensors"]["a.weight"].update(shape=[4096]), "shape must be two or more integers"),
    ("dtype", lambda c: c["tensors"]["a.weight"].update(dtype="I8"), "dtype must be one of"),
    ("group", lambda c: c["tensors"]["a.weight"].update(group_size=48), "group_size|weight_scale must be"),
    ("word", lambda c: c["tensors"]["a.weight"].update(group_size="row"), "group_size must be"),
]  # fmt: skip


@pytest.mark.promise("C50")
@pytest.mark.parametrize("options", [{"codebook": "binary"}, {"bits": 4, "prune": 0.9, "group_size": 32}], ids=str)
@pytest.mark.parametrize("change,words", [row[1:] for row in ENTRY], ids=[row[0] for row in ENTRY])
def test_entries_that_are_wrong(tmp_path: Path, options: dict[str, Any], change: Any, words: str) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 64)})
    compress(source, tmp_path / "t.safetensors", **options)
    refused(tampered(tmp_path / "t.safetensors", change), words)


def put(name: str, value: Any) -> Any:
    def change(tensors: Arrays) -> None:
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def filled(at: int, value: float) -> Any:
    def change(a: NDArray[Any]) -> NDArray[Any]:
        b = a.copy()
        b.reshape(-1)[at] = value
        return b

    return change


PARTS: list[tuple[str, dict[str, Any], Any, str]] = [
    ("no codes", {"codebook": "binary"}, lambda t: t.pop("a.weight_codes"), "weight_codes is missing"),
    ("no scale", {"codebook": "mxfp4"}, put("a.weight_scale", lambda a: a[:-1]), "weight_scale must be U8 of shape"),
    ("infinite power", {"codebook": "mxfp4"}, put("a.weight_scale", filled(5, 255)), "scales must be finite"),
    ("infinite", {"codebook": "binary"}, put("a.weight_scale", filled(5, np.inf)), "scales must be finite"),
    ("negative", {"codebook": "binary"}, put("a.weight_scale", filled(5, -1)), "must be finite and not negative"),
    ("book", {"clusters": 16}, put("a.weight_codebook", filled(5, np.nan)), "codebook must be finite"),
    ("no book", {"clusters": 16}, lambda t: t.pop("a.weight_codebook"), "weight_codebook is missing"),
    ("long book", {"clusters": 16}, put("a.weight_codebook", np.zeros(17, np.float32)), "values of weight_codebook"),
    ("extra", {"codebook": "binary"}, put("a.weight_zero_point", np.zeros((64, 1), np.uint8)), "must not be there"),
    ("both", {"codebook": "binary"}, put("a.weight", np.zeros((64, 64), np.float32)), "must not be there beside"),
    ("bits set", {"bits": 4, "prune": 0.9}, put("a.bitmask", filled(3, 255)), "values must have shape|bits set"),
    ("offsets fall", {"bits": 4, "prune": 0.9}, put("a.row_offsets", filled(5, 0)), "must be non-decreasing"),
    ("offsets rise", {"bits": 4, "prune": 0.9}, put("a.row_offsets", filled(63, 10**9)), "must be non-decreasing"),
    ("offsets start", {"bits": 4, "prune": 0.9}, put("a.row_offsets", filled(0, 1)), "must be non-decreasing"),
    ("shape", {"bits": 4, "prune": 0.9}, put("a.shape", filled(0, 63)), "shape must be"),
    ("short", {"bits": 4, "prune": 0.9}, put("a.compressed_packed", lambda a: a[:-1]), "bits set"),
    ("no mask", {"bits": 4, "prune": 0.9}, lambda t: t.pop("a.bitmask"), "bitmask is missing"),
    ("infinite value", {"bits": None, "storage": "sparse"}, put("a.compressed", filled(3, np.nan)), "finite"),
]


@pytest.mark.promise("C51")
@pytest.mark.parametrize("options,arrays,words", [r[1:] for r in PARTS], ids=[r[0] for r in PARTS])
def test_tensors_that_do_not_fit(tmp_path: Path, options: dict[str, Any], arrays: Any, words: str) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(64, 64)})
    compress(source, tmp_path / "t.safetensors", **options)
    refused(tampered(tmp_path / "t.safetensors", lambda c: None, arrays), words)


def test_of_the_grids_that_hold_the_weights_the_smallest_is_taken(tmp_path: Path) -> None:
    """One scale for all needs seven bits here, one for each row four."""
    codes = np.random.default_rng(0).integers(-7, 8, (8, 2048)).astype(np.float32)
    codes[:, :2] = 7, 1
    codes[4:] *= 8
    source = save(tmp_path / "m.safetensors", {"a.weight": codes})
    (tensor,) = compress(source, tmp_path / "t.safetensors", bits=None, recognize=True).tensors
    assert tensor.bits == 4 and "channel" in tensor.label


def test_powers_of_two_too_small_become_zeros_and_are_told_of(tmp_path: Path) -> None:
    w = weights(64, 64)
    w[3, 32:] = np.float32(1e-38)
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    report = compress(source, tmp_path / "t.safetensors", codebook="mxfp4")
    assert any("1 group of weights too small" in note for note in report.notes)
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        found = logical_tensors(checkpoint)["a.weight"].rows(0, 64)
    assert not found[3, 32:].any() and found[3, :32].any()


@pytest.mark.promise("fault-B2")
def test_not_finite_weights_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights(64, 64)
    w[40, 5] = np.inf
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    forms = [{"codebook": "binary"}, {"clusters": 4}, {"bits": 4, "prune": 0.9}, {"bits": None, "storage": "sparse"}]
    for options in forms:
        with nothing_written(tmp_path / "t.safetensors"), pytest.raises(FormatError, match=f"flat index {40 * 64 + 5}"):
            compress(source, tmp_path / "t.safetensors", **options)  # type: ignore[arg-type]


def test_scales_as_powers_of_two_take_a_byte() -> None:
    scales = np.array([[0, 2.0**-126, 1, 2.0**127]], np.float32)
    q = qt.QuantizedTensor(np.zeros((1, 64), np.uint8), scales, None, 4, 32, (1, 128), codebook.named_values("mxfp4"))
    layout = codebook.Codes("mxfp4", 4, 32, "F32", codebook.POWERS)
    arrays = memory.encode(layout, q)
    assert arrays["weight_scale"].tolist() == [[0, 1, 127, 254]]
    again = memory.decode(layout, arrays, (1, 128))
    assert isinstance(again, qt.QuantizedTensor) and again.scales.tobytes() == scales.tobytes()
