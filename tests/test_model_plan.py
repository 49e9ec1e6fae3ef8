"""The plan: which tensors, which groups, how many bytes; the same bytes that are written."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from model_helpers import save, save_folder, small_model, weights
from numpy.typing import DTypeLike

from quantrim.files import open_checkpoint
from quantrim.model import compress, plan


def stored(source: Path, **options: object) -> dict[str, str]:
    return {tensor.name: tensor.label for tensor in plan(source, **options).tensors}  # type: ignore[arg-type]


def test_only_matrices_of_floats_named_weight(tmp_path: Path) -> None:
    arrays = small_model() | {"pos_embed": weights(96, 64), "int.weight": np.ones((64, 64), np.int32)}
    arrays |= {"f8.weight": np.ones((64, 64), ml_dtypes.float8_e4m3fn), "tiny.weight": weights(63, 64)}
    found = plan(save(tmp_path / "m.safetensors", arrays))
    rounded = {t.name for t in found.tensors if t.runtime_layout}
    assert rounded == {n for n in arrays if "layers" in n and "p.weight" in n} | {
        "model.embed_tokens.weight",
        "model.layers.0.down.weight",
    }
    assert {t.name for t in found.tensors if t.layout.family == 'codes'} == {"pos_embed"}  # in a layout of our own
    reasons = {t.name: t.reason for t in found.tensors}
    assert reasons["model.layers.0.norm.weight"] == "1 dimension: only weights of two and more are compressed"
    assert reasons["int.weight"] == "I32: only F32, F16, BF16, F64 are compressed"
    assert reasons["tiny.weight"] == "fewer than min_elements=4096 weights"
    assert reasons["model.empty.weight"] == "empty"


@pytest.mark.parametrize(
    ("cols", "group", "label"),
    [
        (256, None, "group 32"),
        (256, 128, "group 128"),
        (192, 128, "group 64"),
        (96, 128, "group 32"),
        (48, None, "group 16"),
        (100, None, "channel"),
        (100, 50, "group 50"),
        (100, 64, "channel"),
        (96, 64, "group 32"),
        (96, 16, "group 16"),
        (40, 16, "channel"),
        (96, "channel", "channel"),
        (64, 64, "channel"),
    ],
)
def test_groups_that_do_not_divide(tmp_path: Path, cols: int, group: int | str | None, label: str) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(200, cols)})
    found = plan(source, group_size=group)
    assert found.tensors[0].label == f"int4 {label} symmetric"
    fell_back = label.split()[-1] != str(group or 32) and group != cols  # a group of all columns is the channel
    assert bool(found.tensors[0].reason) is fell_back
    assert bool(found.notes) is (fell_back and group is not None)
    if fell_back:
        assert f"{cols} columns are no multiple of {group or 32}" in found.tensors[0].reason


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("options", [{}, {"bits": 8}, {"bits": 3, "symmetric": False}, {"bits": 4, "prune": "2:4"}])
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_bytes_are_those_that_are_written(
    tmp_path: Path, dtype: DTypeLike, options: dict[str, object], shards: int
) -> None:
    arrays = small_model(dtype)
    source, target = tmp_path / "source", tmp_path / "target"
    if shards:
        save_folder(source, arrays, shards)
    else:
        source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    found = plan(source, **options)  # type: ignore[arg-type]
    report = compress(source, target, **options)  # type: ignore[arg-type]
    files = [target] if not shards else sorted(target.glob("*.safetensors"))
    assert {file.name: file.stat().st_size for file in files} == (
        {s.name: s.size for s in found.shards} if shards else {target.name: found.stored_bytes}
    )
    assert (report.source_bytes, report.stored_bytes) == (found.source_bytes, found.stored_bytes)
    assert [row.stored_bytes for row in report.tensors] == [t.stored_bytes for t in found.tensors]
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.total_size == sum(t.stored_bytes for t in found.tensors)
    assert found.ratio == report.ratio > 1


def test_lines_say_what_and_why(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    text = "\n".join(plan(source, bits=4, prune=0.5).lines())
    assert "int4 group 32 symmetric, 50% pruned" in text
    assert "only weights of two and more are compressed" in text and "times smaller" in text


def test_recipes_reach_their_tensors(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    rules = [{"match": "*embed*", "bits": 8}, {"match": "*.down.*", "bits": 2, "group_size": 32}]
    found = stored(source, recipe={"rule": rules})
    assert found["model.embed_tokens.weight"] == "int8 channel symmetric"
    assert found["model.layers.0.down.weight"] == "int2 group 32 symmetric"
    assert stored(source, exclude="*embed*")["model.embed_tokens.weight"] == "F32"
    with pytest.raises(ValueError, match="matched 0 tensors"):
        plan(source, recipe={"rule": [{"match": "*head*", "keep": True}]})


def test_a_pattern_that_does_not_divide_the_columns(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(100, 90)})
    with pytest.raises(ValueError, match=r"tensor 'a\.weight': prune='2:4' needs columns .* multiple of 4, not 90"):
        plan(source, prune="2:4", strict=True)


def test_nothing_to_compress(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"a": np.ones((100, 90), np.int32), "b": weights(3)})
    with pytest.raises(ValueError, match=r"no tensor can be compressed: I32: .*; 1 dimension: only weights of two"):
        plan(source)
    with pytest.raises(ValueError, match="no tensor can be compressed: it holds no tensors"):
        plan(save(tmp_path / "e.safetensors", {}))


def test_what_is_quantized_already(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    once = tmp_path / "once.safetensors"
    compress(source, once)
    with pytest.raises(ValueError, match=r"quantized already \(compressed-tensors.*_packed' \(I32\) is beside"):
        compress(once, tmp_path / "twice.safetensors")
    folder = save_folder(tmp_path / "f", small_model(), config={"quantization_config": {"bits": 4}})
    with pytest.raises(ValueError, match=r"quantized already .*: config\.json has a quantization_config"):
        plan(folder)
    parts = save(tmp_path / "p.safetensors", {"a.weight": weights(99, 90), "a.weight_scale": weights(99, 1)})
    with pytest.raises(ValueError, match=r"quantized already .*'a\.weight' \(F32\) is beside 'a\.weight_scale'"):
        plan(parts)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]


def test_what_does_not_fit_a_pattern_is_named_however_small(tmp_path: Path) -> None:
    """The first convolution of a ResNet has 3 * 7 * 7 columns, and few bytes of the whole."""
    arrays = {f"stem{k}.weight": weights(32, 3, 7, 7, seed=k) for k in range(7)}
    source = save(tmp_path / "m.safetensors", {"fc.weight": weights(2500, 2000), **arrays})
    (note,) = [n for n in plan(source, prune="2:4").notes if "columns" in n]
    names = ", ".join(f"'stem{k}.weight'" for k in range(5))
    assert note == (
        f"{7 * 18816:,} bytes (less than 1 %) stay in 7 tensors ({names} and 2 more): "
        "prune='2:4' needs columns that are a multiple of 4, not 147"
    )
    assert not any("stay" in n for n in plan(source, prune=0.5).notes)


def test_what_became_narrower_as_asked_is_no_note(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    assert not any("nothing to do" in n for n in plan(source, bits=None, dtype="float16").notes)
