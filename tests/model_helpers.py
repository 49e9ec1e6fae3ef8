"""Checkpoints for the tests of `quantrim.model`, and what must come of them, computed from whole tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from files_helpers import write_index, write_tensors
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.files import encode_header, open_checkpoint
from quantrim.layouts import compressed_tensors as layout
from quantrim.layouts import memory
from quantrim.model import Settings
from quantrim.model.recipe.settings import Fraction, NofM

Arrays = dict[str, NDArray[Any]]


def weights(*shape: int, dtype: DTypeLike = np.float32, seed: int = 0) -> NDArray[Any]:
    """Normal weights with some outliers, ties and zeros."""
    rng = np.random.default_rng([seed, *shape])
    w = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
    w[rng.random(shape) < 0.01] *= 20
    w[rng.random(shape) < 0.05] = 0
    tied = rng.random(shape) < 0.2
    w[tied] = np.round(w[tied] * 32) / 32
    return w.astype(dtype)


def small_model(dtype: DTypeLike = np.float32) -> Arrays:
    """Matrices of several shapes with what is found beside them."""
    return {
        "model.embed_tokens.weight": weights(200, 64, dtype=dtype),
        "model.layers.0.up.weight": weights(96, 64, dtype=dtype, seed=1),
        "model.layers.0.down.weight": weights(64, 96, dtype=dtype, seed=2),
        "model.layers.0.norm.weight": weights(64, dtype=dtype),
        "model.layers.0.up.bias": weights(96, dtype=dtype),
        "model.layers.1.up.weight": weights(96, 64, dtype=dtype, seed=3),
        "model.layers.1.conv.weight": weights(4, 3, 5, 5, dtype=dtype),
        "model.positions": np.arange(7),
        "model.empty.weight": np.zeros((0, 8), dtype),
        "scalar": np.array(3.5, dtype),
    }


def save(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> Path:
    write_tensors(path, arrays, {"format": "pt"} if metadata is None else metadata)
    return path


def save_folder(folder: Path, arrays: Arrays, shards: int = 2, config: dict[str, Any] | None = None) -> Path:
    """A model folder with an index where there are several shards, and some files beside it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"for": "tests"} if config is None else config))
    (folder / "tokenizer.json").write_bytes(b'{"never": "parsed"}\r\n')
    names = [f"model-{k + 1:05}-of-{shards:05}.safetensors" for k in range(shards)]
    if shards == 1:
        names = ["model.safetensors"]
    for k, name in enumerate(names):
        save(folder / name, dict(list(arrays.items())[k::shards]), {"format": "pt", "shard": str(k)})
    if shards > 1:
        total = sum(a.nbytes for a in arrays.values())
        weight_map = {tensor: names[k % shards] for k, tensor in enumerate(arrays)}
        write_index(folder, weight_map, metadata={"total_size": total})
    return folder


def sparse_checkpoint(path: Path, entries: list[tuple[str, str, list[int]]]) -> Path:
    """A checkpoint of zeros that takes no room on the disk. entries: (name, dtype, shape)."""
    head, places = encode_header(entries, {"format": "pt"})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + max(end for _, end in places.values()))
    return path


def stored_tensors(path: Path) -> Arrays:
    """Every stored tensor of a checkpoint."""
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def usual_scale_dtype(w: NDArray[Any]) -> str:
    """What `compress` stores scales in where nothing is asked for."""
    return "bfloat16" if w.dtype == ml_dtypes.bfloat16 else "float16"


def pruned(w: NDArray[Any], settings: Settings) -> NDArray[Any]:
    """The whole matrix, pruned n:m or by a share of it or of each row."""
    wish = settings.prune
    if isinstance(wish, NofM):
        return qt.prune(w, pattern=wish.pattern)
    if not isinstance(wish, Fraction) or not wish.sparsity:
        return w
    return qt.prune(w, wish.sparsity, axis=1 if wish.among == "row" else None)


def expected_parts(w: NDArray[Any], settings: Settings, format: str = layout.PACKED) -> Arrays:
    """The parts that a matrix becomes, from the whole of it at once."""
    w = pruned(w, settings)
    scale_dtype = settings.scale_dtype or usual_scale_dtype(w)
    q = qt.quantize(
        w,
        settings.bits,
        group_size=settings.group,
        symmetric=settings.symmetric,
        **{"scale" if isinstance(settings.scale_rule, str) else "scales": settings.scale_rule},
        scale_dtype=scale_dtype,
        rounding=settings.rounding,
        seed=settings.seed,
    )
    return memory.encode(layout.layout_of(q, scale_dtype, format), q)


def assert_same_arrays(found: Arrays, expected: Arrays) -> None:
    """Equal names, dtypes, shapes and bits."""
    assert sorted(found) == sorted(expected)
    for name, want in expected.items():
        have = found[name]
        assert (have.dtype, have.shape) == (want.dtype, want.shape), name
        assert have.tobytes() == want.tobytes(), name


def float_dtypes() -> Sequence[DTypeLike]:
    return (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
