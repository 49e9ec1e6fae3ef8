"""compress: every stored byte beside that of whole tensors; deterministic; whole or not at all."""

from __future__ import annotations

import json
import math
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import leftovers, nothing_written, open_descriptors, snapshot
from model_helpers import (
    Arrays,
    assert_same_arrays,
    expected_parts,
    float_dtypes,
    save,
    save_folder,
    small_model,
    stored_tensors,
    weights,
)
from numpy.typing import DTypeLike

import quantrim as qt
from quantrim.files import FormatError, open_checkpoint, read_header
from quantrim.layouts import compressed_tensors as layout
from quantrim.layouts.base import Chunk
from quantrim.model import Recipe, compress, logical_tensors, plan
from quantrim.model.encode import coder, tensor_writer
from quantrim.model.prune import cut as score_cut
from quantrim.model.prune import methods as pruner
from quantrim.model.recipe import settings_of
from quantrim.model.streaming import chunks

BIG = (
    "model.embed_tokens.weight",
    "model.layers.0.up.weight",
    "model.layers.0.down.weight",
    "model.layers.1.up.weight",
)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"bits": 8},
    {"bits": 8, "symmetric": False},
    {"bits": 8, "group_size": 32},
    {"bits": 2, "group_size": 16, "scale": "mse"},
    {"bits": 3, "group_size": 32, "symmetric": False},
    {"bits": 5, "group_size": "channel", "scale_dtype": "bfloat16", "symmetric": False},
    {"bits": 6, "scale": "power_of_two", "scale_dtype": "float32"},
    {"bits": 7, "rounding": "stochastic", "seed": 2**64 - 5},
    {"bits": 4, "rounding": "away", "prune": 0.5},
    {"bits": 4, "prune": "2:4", "group_size": 32},
    {"bits": 4, "prune": 0.3, "prune_axis": 1},
    {"bits": 4, "prune": 0.9, "symmetric": False, "storage": "dense"},
    {"bits": 4, "prune": 1.0, "storage": "dense"},
    {"bits": 4, "prune": 0},
]


def expected_file(arrays: Arrays, options: dict[str, Any]) -> Arrays:
    """All stored tensors that compressing these arrays must give."""
    expected: Arrays = {}
    for name, w in arrays.items():
        if name not in BIG:
            expected[name] = w
            continue
        settings = settings_of(**options)
        groups = [g for g in (settings.group, 64, 32, 16) if isinstance(g, str) or w.shape[1] % g == 0]
        settings = settings_of(**options | {"group_size": groups[0]})
        parts = expected_parts(w, settings)
        expected |= {f"{name.removesuffix('.weight')}.{part}": a for part, a in parts.items()}
    return expected


@pytest.mark.parametrize("dtype", float_dtypes(), ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bytes_are_those_of_whole_tensors(tmp_path: Path, dtype: DTypeLike, options: dict[str, Any]) -> None:
    arrays = small_model(dtype)
    source = save(tmp_path / "m.safetensors", arrays)
    compress(source, tmp_path / "t.safetensors", **options)
    assert_same_arrays(stored_tensors(tmp_path / "t.safetensors"), expected_file(arrays, options))


@pytest.mark.promise("G18")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_file_whatever_the_chunks_threads_and_isa(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (
        save(tmp_path / "m.safetensors", small_model(ml_dtypes.bfloat16)),
        tmp_path / "t.safetensors",
    )
    compress(source, target, **options)
    first = target.read_bytes()
    for chunk_bytes, threads, isa in [
        (1, 1, 0),
        (300, 3, 0),
        (4096, 2, -1),
        (1 << 14, 8, -1),
        (1 << 30, 1, 0),
    ]:
        monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        with qt.use_threads(threads), qt.use_isa(qt.isas()[isa]):
            compress(source, target, overwrite=True, **options)
        assert target.read_bytes() == first, (chunk_bytes, threads, isa)


@pytest.mark.parametrize("bug", ["counter", "ties", "zero points", "columns"])
def test_a_planted_bug_in_the_streaming_is_found(tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"rounding": "stochastic", "prune": 0.4, "bits": 3, "symmetric": False}
    w = np.round(weights(3, 4096) * 64) / 64  # with many ties at the cut
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    expected = {f"a.{k}": a for k, a in expected_parts(w, settings_of(**options)).items()}
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 300)
    if bug == "counter":
        monkeypatch.setattr(coder, "_COUNTER_STEP", 1)
    elif bug == "ties":
        real = pruner.score_cuts
        monkeypatch.setattr(pruner, "score_cuts", lambda *a: [score_cut.ScoreCut(cut.key) for cut in real(*a)])
    elif bug == "zero points":
        monkeypatch.setattr(layout, "ZERO_POINT_ROWS", 1)
        monkeypatch.setattr(layout, "_ZERO_POINT_BLOCK", 1)
    else:
        monkeypatch.setattr(tensor_writer, "column_step", lambda *_: 8)
    with pytest.raises((AssertionError, ValueError)):
        compress(source, tmp_path / "t.safetensors", **options)
        assert_same_arrays(stored_tensors(tmp_path / "t.safetensors"), expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 3, "symmetric": False, "prune": 0.4}, {"bits": 4, "prune": "2:4"}, {"bits": 8, "prune": "2:4"}],
    ids=str,
)
def test_rows_longer_than_a_chunk(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut within a row, at whole groups and words."""
    w = weights(3, 4096)
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 300)
    compress(source, tmp_path / "t.safetensors", **options)
    expected = {f"a.{k}": a for k, a in expected_parts(w, settings_of(**options)).items()}
    assert_same_arrays(stored_tensors(tmp_path / "t.safetensors"), expected)


WHOLE_ROWS: list[dict[str, Any]] = [
    {"bits": 8},
    {"bits": 8, "symmetric": False, "scale_dtype": "float32"},
    {"bits": 3, "group_size": "channel", "symmetric": False},
    {"bits": 5, "group_size": "channel", "rounding": "stochastic", "seed": 2**64 - 5},
    {"bits": 7, "group_size": "channel", "rounding": "away", "scale_dtype": "bfloat16"},
    {"bits": 4, "group_size": "channel", "simulate": True},
    {"bits": 8, "prune": 0.4, "storage": "dense"},
    {"bits": 5, "group_size": "channel", "prune": 0.4, "storage": "sparse"},
    {"bits": 8, "prune": 0.4, "prune_axis": 1},
    {"bits": 8, "prune": 0.4, "prune_scope": "global"},
    {"bits": 8, "prune": 0.8, "symmetric": False, "storage": "sparse"},
    {"bits": 4, "group_size": "channel", "prune": 0.25, "prune_pattern": "row"},
    {"bits": 8, "scale": "mse"},
]


@pytest.mark.promise("fault-D23")
@pytest.mark.parametrize("dtype", float_dtypes(), ids=str)
@pytest.mark.parametrize("options", WHOLE_ROWS, ids=str)
def test_a_row_under_one_scale_is_cut_like_any_other(
    tmp_path: Path, options: dict[str, Any], dtype: DTypeLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a convolution, in a form of ours; the second row has no scale in float16, the third is of zeros."""
    w = weights(4, 8191, dtype=dtype)
    w[1:3] = np.array([[1e-7], [0]], dtype) * np.sign(w[1:3])
    w[3] = np.abs(w[3])
    source = save(tmp_path / "m.safetensors", {"a.weight": w, "b.weight": weights(2, 64, 9, 9, dtype=dtype)})
    found = []
    for nbytes, threads in ((1 << 30, 1), (4 * 300, 1), (4 * 300, 3)):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", nbytes)
        with qt.use_threads(threads):
            report = compress(source, tmp_path / f"{len(found)}.safetensors", **options)
        found.append((report, stored_tensors(tmp_path / f"{len(found)}.safetensors")))
    (whole, expected), *others = found
    for report, arrays in others:
        assert_same_arrays(arrays, expected)
        assert [n for n in report.notes if "too small" in n] == [n for n in whole.notes if "too small" in n]
        assert [t.snr_db for t in report.tensors] == pytest.approx([t.snr_db for t in whole.tensors])


@pytest.mark.promise("fault-D23")
def test_the_pieces_of_a_row_are_not_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not finite is named where it stands, whatever piece it is in."""
    w = weights(2, 5000, dtype=np.float16)
    w[1, 4321] = np.inf
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 300)
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    with nothing_written(tmp_path / "t.safetensors"), pytest.raises(FormatError, match="not inf at flat index 9321"):
        compress(source, tmp_path / "t.safetensors", bits=8)
    real, pieces = tensor_writer.TensorWriter.run, []

    def run(self: Any, chunk: Chunk) -> Any:
        pieces.append(chunk)
        return real(self, chunk)

    monkeypatch.setattr(tensor_writer.TensorWriter, "run", run)
    compress(save(tmp_path / "n.safetensors", {"a.weight": w[:1]}), tmp_path / "t.safetensors", bits=8)
    assert len(pieces) == 18 and max(chunk.cols for chunk in pieces) == 288


def test_chunks_cover_a_matrix_once() -> None:
    for rows, cols, step, nbytes in [
        (7, 5, None, 40),
        (3, 1000, 32, 400),
        (3, 1000, None, 400),
        (1, 1, 32, 1),
    ]:
        seen = np.zeros((rows, cols), int)
        for c in chunks.cut(rows, cols, step, nbytes):
            assert c.rows == 1 or c.cols == cols
            assert step is None or c.col % step == 0
            assert c.size * 4 <= nbytes or c.rows == 1
            seen[c.row : c.row + c.rows, c.col : c.col + c.cols] += 1
        assert (seen == 1).all()
    assert list(chunks.cut(0, 5, 1)) == list(chunks.cut(5, 0, 1)) == []


# Folders


@pytest.mark.parametrize("shards", [1, 3])
def test_folders_keep_their_shape(tmp_path: Path, shards: int) -> None:
    arrays = small_model()
    source = save_folder(tmp_path / "source", arrays, shards, config={"model_type": "x", "names": "é", "k": [1, 2]})
    target = tmp_path / "target"
    compress(source, target, bits=4, group_size=32, reader="any")
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    config = json.loads((target / "config.json").read_text("utf-8"))
    assert config.pop("quantization_config")["format"] == "pack-quantized"
    assert config == {"model_type": "x", "names": "é", "k": [1, 2]}
    assert_same_arrays(stored_tensors(target), expected_file(arrays, {"group_size": 32}))
    for shard in source.glob("*.safetensors"):
        metadata = read_header(target / shard.name)[1]
        assert metadata.items() >= read_header(shard)[1].items()
        assert metadata["quantrim_version"] == qt.__version__ and "quantization_config" not in metadata
        assert Recipe.from_toml(metadata["quantrim_recipe"]) == Recipe(settings_of(group_size=32, reader="any"))


def test_folder_and_file_give_the_same_tensors(tmp_path: Path) -> None:
    arrays = small_model()
    compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", bits=5)
    compress(save_folder(tmp_path / "s", arrays), tmp_path / "t", bits=5)
    assert_same_arrays(stored_tensors(tmp_path / "t"), stored_tensors(tmp_path / "t.safetensors"))


def test_a_folder_named_by_its_index(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "s", small_model())
    compress(source, tmp_path / "t")
    compress(source / "model.safetensors.index.json", tmp_path / "u")
    assert snapshot(tmp_path / "u") == snapshot(tmp_path / "t")


def test_a_folder_without_config_says_it_in_the_metadata(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "s", small_model(), 1)
    (source / "config.json").unlink()
    compress(source, tmp_path / "t")
    assert not (tmp_path / "t" / "config.json").exists()
    config = json.loads(read_header(tmp_path / "t" / "model.safetensors")[1]["quantization_config"])
    assert config == plan(source).config


def test_a_file_of_its_own_carries_its_config(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model(), {"format": "pt", "mine": "kept"})
    compress(source, tmp_path / "t.safetensors", bits=3)
    metadata = read_header(tmp_path / "t.safetensors")[1]
    assert metadata["format"] == "pt" and metadata["mine"] == "kept"
    assert json.loads(metadata["quantization_config"]) == plan(source, bits=3).config


# Refused


def bad_weights(value: float, at: int, dtype: DTypeLike = np.float32) -> Arrays:
    w = weights(200, 64).astype(dtype)
    w.reshape(-1)[at] = value
    return {"fine.weight": weights(200, 64), "model.bad.weight": w}


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5000, 200 * 64 - 1])
@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 4, "prune": 0.5}, {"bits": 4, "prune": 1.0}, {"bits": 4, "prune": "2:4"}, {"bits": 8}],
    ids=str,
)
@pytest.mark.parametrize("chunk_bytes", [1 << 10, 1 << 21])
def test_not_finite(
    tmp_path: Path,
    value: float,
    at: int,
    options: dict[str, Any],
    chunk_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    source = save(tmp_path / "m.safetensors", bad_weights(value, at))
    with open_checkpoint(source) as checkpoint:
        offset = checkpoint.tensors["model.bad.weight"].offset + 4 * at
    with (
        nothing_written(tmp_path / "t.safetensors"),
        pytest.raises(FormatError, match=f"must be finite, not {value} at flat index {at}$") as caught,
    ):
        compress(source, tmp_path / "t.safetensors", **options)
    error = caught.value
    assert (error.path, error.tensor, error.offset) == (str(source), "model.bad.weight", offset)


@pytest.mark.promise("A1")
@pytest.mark.parametrize("pattern", [0x7F81, 0xFF81, 0x7FC0, 0xFFFF])
@pytest.mark.parametrize("options", [{}, {"bits": 4, "prune": 0.5}], ids=str)
def test_every_kind_of_nan_in_bfloat16(tmp_path: Path, pattern: int, options: dict[str, Any]) -> None:
    arrays = bad_weights(0, 5, ml_dtypes.bfloat16)
    arrays["model.bad.weight"].view(np.uint16).reshape(-1)[5000] = pattern
    source = save(tmp_path / "m.safetensors", arrays)
    with pytest.raises(FormatError, match="must be finite, not nan at flat index 5000"):
        compress(source, tmp_path / "t.safetensors", **options)


@pytest.mark.promise("A1")
def test_the_first_is_named_whatever_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    arrays = bad_weights(np.nan, 7000)
    arrays["model.bad.weight"].reshape(-1)[7001::97] = np.nan
    source = save(tmp_path / "m.safetensors", arrays)
    for threads in (1, 2, 8):
        with qt.use_threads(threads), pytest.raises(FormatError, match=r"at flat index 7000$"):
            compress(source, tmp_path / "t.safetensors")


@pytest.mark.promise("A8")
def test_scales_beyond_float16(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", bad_weights(1e6, 77))
    with (
        nothing_written(tmp_path / "t.safetensors"),
        pytest.raises(
            ValueError, match=r"m\.safetensors', tensor 'model\.bad\.weight': .* overflows float16; use"
        ) as caught,
    ):
        compress(source, tmp_path / "t.safetensors")
    assert "scale_dtype='float32'" in str(caught.value)
    compress(source, tmp_path / "t.safetensors", scale_dtype="float32")


@pytest.mark.promise("A29")
def test_float64_that_does_not_fit(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", bad_weights(1e40, 77, np.float64))
    with (
        nothing_written(tmp_path / "t.safetensors"),
        pytest.raises(ValueError, match=r"'model\.bad\.weight': .*float32"),
    ):
        compress(source, tmp_path / "t.safetensors")


@pytest.mark.promise("A7")
def test_scales_below_float16_are_counted(tmp_path: Path) -> None:
    w = weights(200, 64)
    w[3, :32], w[5], w[7] = 1e-9, 0, 3e-7
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    report = compress(source, tmp_path / "t.safetensors", group_size=32)
    assert any("tensor 'a.weight': 1 group of weights too small" in note for note in report.notes)
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        decoded = logical_tensors(checkpoint)["a.weight"].rows(0, 200)
    assert not decoded[3, :32].any() and not decoded[5].any() and decoded[7].any()
    report = compress(source, tmp_path / "u.safetensors", group_size=32, scale_dtype="float32")
    assert not report.notes


@pytest.mark.promise("A19")
@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0, 0), (0,)])
def test_empty_tensors_are_copied(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = {"a.weight": np.zeros(shape, np.float32), "b.weight": weights(100, 64)}
    compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", min_elements=0)
    assert_same_arrays(
        {"a.weight": stored_tensors(tmp_path / "t.safetensors")["a.weight"]}, {"a.weight": arrays["a.weight"]}
    )


@pytest.mark.promise("A22")
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 5), (1, 4096)])
def test_small_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    for bits in (2, 3, 8):
        w = weights(*shape)
        source, target = save(tmp_path / "m.safetensors", {"a.weight": w}), tmp_path / "t.safetensors"
        compress(source, target, bits=bits, symmetric=False, min_elements=0, group_size="channel", overwrite=True)
        settings = settings_of(bits=bits, symmetric=False, group_size="channel")
        expected = {f"a.{k}": a for k, a in expected_parts(w, settings).items()}
        assert_same_arrays(stored_tensors(target), expected)


@pytest.mark.promise("C56")
def test_source_and_target_the_same(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    folder = save_folder(tmp_path / "s", small_model())
    os.link(source, tmp_path / "hard.safetensors")
    (tmp_path / "soft.safetensors").symlink_to(source)
    for target in (source, tmp_path / "hard.safetensors", tmp_path / "soft.safetensors"):
        with nothing_written(source), pytest.raises(ValueError, match="must not be"):
            compress(source, target, overwrite=True)
    for target in (folder, folder / "inside", tmp_path):
        with nothing_written(folder / "config.json"), pytest.raises(ValueError, match="must not be"):
            compress(folder, target, overwrite=True)


def test_targets_that_are_there_or_of_the_wrong_kind(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    folder = save_folder(tmp_path / "s", small_model())
    target = tmp_path / "t.safetensors"
    target.write_bytes(b"old")
    with nothing_written(target), pytest.raises(ValueError, match="absent unless overwrite=True"):
        compress(source, target)
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.npz or \.npy, not"):
        compress(source, tmp_path / "t.gguf")
    with pytest.raises(ValueError, match="must be a folder, since the source is one"):
        compress(folder, tmp_path / "u.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    with nothing_written(tmp_path / "full"), pytest.raises(ValueError, match="unless overwrite=True"):
        compress(folder, tmp_path / "full")
    compress(source, target, overwrite=True)
    compress(folder, tmp_path / "full", overwrite=True)
    assert not (tmp_path / "full" / "x").exists()


@pytest.mark.promise("C55")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_source_that_changes_meanwhile(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        source = changing = save(tmp_path / "m.safetensors", small_model())
        target = tmp_path / "t.safetensors"
    else:
        source, target = save_folder(tmp_path / "s", small_model()), tmp_path / "t"
        changing = next(source.glob("*.safetensors"))

    def change(done: int, total: int, name: str) -> None:
        if done == total:
            os.utime(changing, ns=(1, 1))

    with nothing_written(target), pytest.raises(FormatError, match="changed while it was being read"):
        compress(source, target, progress=change)


# Progress, threads, reports


@pytest.mark.promise("E115")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("stop"), SystemExit(3)])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("at", [1, 10, 40])
def test_what_progress_raises_ends_the_work(
    tmp_path: Path, error: Any, kind: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 10)
    source, target = save(tmp_path / "m.safetensors", small_model()), tmp_path / "t.safetensors"
    if kind == "folder":
        source, target = save_folder(tmp_path / "s", small_model()), tmp_path / "t"
    calls = 0

    def progress(done: int, total: int, name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error

    alive, threads = threading.active_count(), qt.backend.current_threads()
    with nothing_written(target), pytest.raises(error if isinstance(error, type) else type(error)):
        compress(source, target, progress=progress, prune=0.5)
    assert (calls, threading.active_count(), qt.backend.current_threads()) == (at, alive, threads)


def test_progress_counts_every_byte_in_the_calling_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 12)
    arrays = small_model()
    seen: list[tuple[int, int, str]] = []
    here = threading.get_ident()

    def progress(done: int, total: int, name: str) -> None:
        assert threading.get_ident() == here
        seen.append((done, total, name))

    compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", prune=0.5, progress=progress)
    total = sum(a.nbytes for a in arrays.values())
    assert seen[-1][:2] == (total, total) and {each[1] for each in seen} == {total}
    assert [each[0] for each in seen] == sorted(each[0] for each in seen)
    assert {each[2] for each in seen} == set(arrays)


@pytest.mark.promise("E110")
def test_two_at_once_leave_the_threads_as_they_were(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    with qt.use_threads(3):
        targets = [tmp_path / f"{k}.safetensors" for k in range(6)]
        running = [threading.Thread(target=compress, args=(source, target)) for target in targets]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert qt.backend.current_threads() == 3
    assert len({target.read_bytes() for target in targets}) == 1


@pytest.mark.promise("G24")
def test_nothing_stays_open(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "s", small_model())
    compress(source, tmp_path / "t")
    before = open_descriptors()
    for _ in range(20):
        compress(source, tmp_path / "t", overwrite=True)
    assert open_descriptors() == before and leftovers(tmp_path) == []


def test_errors_are_against_the_original_weights(tmp_path: Path) -> None:
    arrays = small_model()
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    report = compress(source, target, bits=4, prune=0.6)
    with open_checkpoint(target) as checkpoint:
        decoded = {name: t.rows(0, t.shape[0]) for name, t in logical_tensors(checkpoint).items() if t.compressed}
    assert [row.name for row in report.tensors if row.snr_db is not None] == list(decoded)
    for row in report.tensors:
        if row.name not in decoded:
            assert row.sparsity is row.snr_db is row.cosine is row.worst is None
            continue
        a = arrays[row.name].astype(np.float64)
        b = decoded[row.name].astype(np.float64)
        assert row.worst == np.abs(a - b).max()
        assert row.sparsity == np.mean(b == 0) >= 0.6
        noise = ((a - b) ** 2).sum()
        # the sums are taken in another order
        assert row.snr_db == pytest.approx(10 * math.log10((a * a).sum() / noise), rel=1e-12)
        assert row.cosine == pytest.approx((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()), rel=1e-12)
        assert (row.source_bytes, row.shape) == (arrays[row.name].nbytes, arrays[row.name].shape)


def test_figures_of_all_compressed_weights_together(tmp_path: Path) -> None:
    arrays = {"a.weight": weights(100, 64), "b.weight": 100 * weights(64, 128, seed=1), "kept": weights(5)}
    report = compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", bits=4, prune=0.25)
    with open_checkpoint(tmp_path / "t.safetensors") as checkpoint:
        logical = logical_tensors(checkpoint)
        decoded = [logical[n].rows(0, len(arrays[n])) for n in ("a.weight", "b.weight")]
    b = np.concatenate([each.reshape(-1) for each in decoded]).astype(np.float64)
    a = np.concatenate([arrays[n].reshape(-1) for n in ("a.weight", "b.weight")]).astype(np.float64)
    assert report.sparsity == np.mean(b == 0)
    # the sums are taken in another order
    assert report.snr_db == pytest.approx(10 * math.log10((a * a).sum() / ((a - b) ** 2).sum()), rel=1e-12)


def test_figures_without_signal_or_noise(tmp_path: Path) -> None:
    exact = np.tile(np.arange(-7, 9, dtype=np.float32), (300, 4)).clip(max=7)
    arrays = {"zero.weight": np.zeros((100, 64), np.float32), "exact.weight": exact}
    report = compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", group_size=64)
    rows = {row.name: row for row in report.tensors}
    assert (rows["zero.weight"].snr_db, rows["zero.weight"].cosine, rows["zero.weight"].sparsity) == (
        None,
        None,
        1.0,
    )
    assert (rows["exact.weight"].snr_db, rows["exact.weight"].worst) == (math.inf, 0.0)
    data = json.loads(report.to_json())
    assert {t["name"]: t["snr_db"] for t in data["tensors"]} == {"zero.weight": None, "exact.weight": None}
    assert "exact" in report.to_markdown()


def test_reports_can_be_read(tmp_path: Path) -> None:
    arrays = {"<b>|x.weight": weights(100, 64), "\x1b[31m": weights(3), "é": weights(2)}
    report = compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors")
    for suffix in (".json", ".md", ".html"):
        report.save(tmp_path / f"r{suffix}")
    data = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert data["stored_bytes"] == (tmp_path / "t.safetensors").stat().st_size
    assert data["ratio"] == report.ratio and len(data["tensors"]) == 3
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "&lt;b&gt;|x.weight" in page and "\x1b" not in page and "<b>|x" not in page
    text = (tmp_path / "r.md").read_text("utf-8")
    assert r"<b>\|x.weight" in text and "\x1b" not in text and report.summary() in text
    with pytest.raises(ValueError, match=r"report must end in \.html, \.json or \.md, not '.*r\.txt'"):
        report.save(tmp_path / "r.txt")


def test_nothing_is_said_on_the_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress(save(tmp_path / "m.safetensors", small_model()), tmp_path / "t.safetensors")
    assert capfd.readouterr() == ("", "")
