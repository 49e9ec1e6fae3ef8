"""compress with bits=None: weights set to zero in the dtype they had, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_helpers import assert_same_arrays, save, save_folder, small_model, stored_tensors, weights
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.files import FormatError, open_checkpoint
from quantrim.model import compress, plan
from quantrim.model.streaming import chunks

BIG = (
    "model.embed_tokens.weight",
    "model.layers.0.up.weight",
    "model.layers.0.down.weight",
    "model.layers.1.up.weight",
)
PRUNINGS: list[dict[str, Any]] = [{"prune": 0.4}, {"prune": 0.4, "prune_axis": 1}, {"prune": "2:4"}, {"prune": 1.0}]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("options", PRUNINGS, ids=str)
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_pruned_only(tmp_path: Path, dtype: DTypeLike, options: dict[str, Any], shards: int) -> None:
    """What `prune` gives, in the dtype it had; every other tensor and file byte for byte."""
    arrays = small_model(dtype)
    source, target = tmp_path / "source", tmp_path / "target"
    if shards:
        save_folder(source, arrays, shards)
    else:
        source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    wish = plan(source, bits=None, **options)
    report = compress(source, target, bits=None, **options)
    expected = {name: pruned(w, options) if name in BIG else w for name, w in arrays.items()}
    assert_same_arrays(stored_tensors(target), expected)
    if shards:
        for name in ("config.json", "tokenizer.json"):
            assert (target / name).read_bytes() == (source / name).read_bytes()
    with open_checkpoint(target) as checkpoint:
        assert "quantization_config" not in checkpoint.metadata and checkpoint.metadata["format"] == "pt"
    assert wish.stored_bytes == report.stored_bytes and wish.config == {}
    rows = {t.name: t for t in report.tensors}
    assert {name for name, t in rows.items() if t.sparsity is not None} == set(BIG)
    for name in BIG:
        assert rows[name].label.endswith(" pruned") and rows[name].bits is None
        assert rows[name].sparsity == qt.sparsity(expected[name])
    assert any("pruned and keep their dtype: zeros take as much room" in note for note in report.notes)
    again = tmp_path / f"again{target.suffix}"
    compress(target, again, bits=4)  # nothing says that it is quantized


def pruned(w: NDArray[Any], options: dict[str, Any]) -> NDArray[Any]:
    if isinstance(options["prune"], str):
        return qt.prune(w, pattern=options["prune"])
    return qt.prune(w, options["prune"], axis=options.get("prune_axis"))


@pytest.mark.promise("G18")
@pytest.mark.parametrize("options", PRUNINGS, ids=str)
def test_pruned_only_whatever_the_chunks_and_threads(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"a.weight": weights(40, 300), "b.weight": weights(3, 5000, seed=1)}
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    for chunk_bytes, threads in [(1, 1), (300, 3), (4096, 2), (1 << 30, 1)]:
        monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        with qt.use_threads(threads):
            compress(source, target, bits=None, overwrite=True, **options)
        assert_same_arrays(stored_tensors(target), {name: pruned(w, options) for name, w in arrays.items()})


def test_pruned_beside_compressed(tmp_path: Path) -> None:
    arrays = small_model()
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    rules = [{"match": "*embed*", "bits": "none"}, {"match": "*.down.*", "prune": "none"}]
    report = compress(source, target, recipe={"bits": 4, "prune": 0.5, "rule": rules})
    stored = {t.name: t.label for t in report.tensors}
    assert stored["model.embed_tokens.weight"] == "F32, 50% pruned"
    assert stored["model.layers.0.up.weight"] == "int4 group 32 symmetric, 50% pruned"
    assert stored["model.layers.0.down.weight"] == "int4 group 32 symmetric"
    found = stored_tensors(target)["model.embed_tokens.weight"]
    assert found.tobytes() == qt.prune(arrays["model.embed_tokens.weight"], 0.5).tobytes()
    with open_checkpoint(target) as checkpoint:
        config = json.loads(checkpoint.metadata["quantization_config"])
    assert any("embed_tokens" in name for name in config["ignore"])


def test_nothing_to_prune_and_nothing_to_round(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    for options in ({}, {"prune": 0.0}, {"prune": None}):
        with pytest.raises(ValueError, match=r"nothing to do: neither bits nor prune, threshold or shrink$"):
            compress(source, tmp_path / "t.safetensors", bits=None, **options)  # type: ignore[arg-type]
    doubles = save(tmp_path / "d.safetensors", small_model(np.float64))
    with pytest.raises(ValueError, match="F64: only F32, F16, BF16 are pruned"):
        compress(doubles, tmp_path / "t.safetensors", bits=None, prune=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.safetensors", "m.safetensors"]


@pytest.mark.promise("A1")
def test_pruned_only_is_finite_too(tmp_path: Path) -> None:
    w = weights(100, 64)
    w[7, 3] = np.nan
    source = save(tmp_path / "m.safetensors", {"a.weight": w})
    with pytest.raises(FormatError, match=r"tensor 'a\.weight', byte .* finite, not nan at flat index 451"):
        compress(source, tmp_path / "t.safetensors", bits=None, prune="2:4")
