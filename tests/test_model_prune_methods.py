"""Every way to prune that a recipe has: streamed, it takes what the public functions take from whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_helpers import Arrays, assert_same_arrays, save, save_folder, stored_tensors, weights
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.model import Recipe, compress, plan
from quantrim.model.prune import cut as score_cut
from quantrim.model.prune import methods as pruner
from quantrim.model.streaming import chunks

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
NAME = "a.weight"
SMALL = 4 * 600  # bytes of a chunk: many for each tensor


def matrix(dtype: DTypeLike = np.float32, seed: int = 0) -> NDArray[Any]:
    return weights(96, 64, dtype=dtype, seed=seed)


def data_for(w: NDArray[Any], score: str, seed: int = 5) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    shape = (w.shape[1],) if score == "wanda" else w.shape
    made = rng.standard_normal(shape).astype(np.float32)
    made[rng.random(shape) < 0.2] = 0.5  # ties
    return np.abs(made) if score in ("wanda", "fisher") else made


def scores_of(score: str, w: NDArray[Any], data: NDArray[Any], seed: int) -> NDArray[Any] | None:
    if score == "magnitude":
        return None
    if score == "random":
        return qt.importance.random(w.shape, seed)
    return data if score == "given" else getattr(qt.importance, score)(w, data)


def pruned(tmp_path: Path, w: NDArray[Any], data: NDArray[Any] | None = None, **options: Any) -> NDArray[Any]:
    """What compress leaves of one matrix that keeps its dtype."""
    source = save(tmp_path / "m.safetensors", {NAME: w})
    if data is not None:
        options["prune_data"] = save(tmp_path / "data.safetensors", {NAME: data})
    compress(source, tmp_path / "t.safetensors", bits=None, overwrite=True, **options)
    return stored_tensors(tmp_path / "t.safetensors")[NAME]


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # options of compress, arguments of prune
    "tensor": ({"prune": 0.37}, {"sparsity": 0.37}),
    "rows": ({"prune": 0.37, "prune_axis": 1}, {"sparsity": 0.37, "axis": 1}),
    "2:4": ({"prune": "2:4"}, {"pattern": "2:4"}),
    "row": ({"prune": 0.4, "prune_pattern": "row"}, {"sparsity": 0.4, "pattern": "row"}),
    "column": ({"prune": 0.4, "prune_pattern": "column"}, {"sparsity": 0.4, "pattern": "column"}),
    "blocks": ({"prune": 0.4, "prune_pattern": (4, 8)}, {"sparsity": 0.4, "pattern": (4, 8)}),
    "all": ({"prune": 1.0}, {"sparsity": 1.0}),
}
SCORES = ("magnitude", "random", "wanda", "taylor", "fisher", "obd", "given")


@pytest.mark.parametrize("chunk_bytes", [SMALL, 1 << 20])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("score", SCORES)
def test_scores_and_sets_are_those_of_the_whole(
    tmp_path: Path, score: str, way: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    options, arguments = WAYS[way]
    for dtype in DTYPES:
        w = matrix(dtype)
        data = data_for(w, score)
        needs = score not in ("magnitude", "random")
        seed = {"seed": 9} if score == "random" else {}
        found = pruned(tmp_path, w, data if needs else None, prune_score=score, **seed, **options)
        want = qt.prune(w, scores=scores_of(score, w, data, 9), **arguments)
        assert same(found, want), (dtype, np.argwhere(found != want)[:3])


@pytest.mark.parametrize("score", SCORES)
def test_one_budget_for_all_tensors(tmp_path: Path, score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact over the model, ties by the order of the file; a tensor of another rule has no part in it."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", SMALL)
    arrays: Arrays = {f"{k}.weight": matrix(DTYPES[k % 3], seed=k) * np.asarray(1 + k, DTYPES[k % 3]) for k in range(4)}
    data = {name: data_for(w, score, seed=int(name[0])) for name, w in arrays.items()}
    source = save_folder(tmp_path / "m", arrays, shards=2)
    recipe: dict[str, Any] = {
        "bits": "none", "prune": 0.6, "prune_scope": "global", "prune_score": score,
        **({"seed": 3} if score == "random" else {}),
        "rule": [{"match": "1.*", "prune_scope": "tensor"}],
    }  # fmt: skip
    if score not in ("magnitude", "random"):
        recipe["prune_data"] = str(save(tmp_path / "data.safetensors", data))
    compress(source, tmp_path / "t", recipe=recipe)
    order = [t.name for t in plan(source, recipe=recipe).tensors if t.name != "1.weight"]
    shared = {name: arrays[name] for name in order}
    scores = {name: scores_of(score, w, data[name], 3) for name, w in shared.items()}
    want = dict(qt.pruning.prune_model(shared, 0.6, scores=None if score == "magnitude" else scores))
    alone = arrays["1.weight"]
    want["1.weight"] = qt.prune(alone, 0.6, scores=scores_of(score, alone, data["1.weight"], 3))
    assert_same_arrays(stored_tensors(tmp_path / "t"), want)
    zeros = sum(int((w == 0).sum()) for name, w in want.items() if name in shared)
    assert zeros >= round(0.6 * sum(w.size for w in shared.values()))


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({"threshold": 0.1}, lambda w: qt.threshold(w, 0.1)),
        ({"threshold": 0.1, "threshold_mode": "soft"}, lambda w: qt.threshold(w, 0.1, mode="soft")),
        ({"threshold": -0.05, "threshold_mode": "signed"}, lambda w: qt.threshold(w, -0.05, mode="signed")),
        ({"shrink_l1": 0.05, "shrink_l2": 0.5}, lambda w: qt.pruning.shrink(w, l1=0.05, l2=0.5)),
        ({"shrink_l1": 1.0, "shrink_axis": 1}, lambda w: qt.pruning.shrink(w, l1=1.0, axis=1)),
    ],
    ids=["magnitude", "soft", "signed", "elastic net", "group lasso"],
)
def test_thresholds_and_shrinkage(
    tmp_path: Path, options: dict[str, Any], function: Callable[[Any], NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", SMALL)
    for dtype in DTYPES:
        w = matrix(dtype)
        found = pruned(tmp_path, w, **options)
        assert same(found, function(w)) and (found != w).any()


def test_pruned_and_rounded(tmp_path: Path) -> None:
    w, data = matrix(), data_for(matrix(), "taylor")
    source = save(tmp_path / "m.safetensors", {NAME: w})
    grads = save(tmp_path / "g.safetensors", {NAME: data})
    report = compress(
        source, tmp_path / "t.safetensors", bits=4, group_size=32, prune=0.5, prune_score="taylor", prune_data=grads
    )
    kept = qt.prune(w, 0.5, scores=qt.importance.taylor(w, data))
    from quantrim.demo import decoded

    found = decoded(tmp_path / "t.safetensors")[NAME]
    q = qt.quantize(kept, 4, group_size=32, scale="mse", scale_dtype="float16")
    assert np.array_equal(found, q.dequantize(np.float16).astype(np.float32))
    assert report.tensors[0].label == "int4 group 32 symmetric, 50% pruned by taylor"


@pytest.mark.parametrize("pattern", ["row", "column"])
def test_scores_of_units_may_be_one_each(tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `entropy` gives, for example; negative ones too; also of a square matrix."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", SMALL)
    w = weights(64, 64)
    units = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    units[10:30] = units[10]
    found = pruned(tmp_path, w, units, prune=0.3, prune_pattern=pattern, prune_score="given")
    keep = qt.prune_mask(units, 0.3)
    want = qt.apply_mask(w, np.broadcast_to(keep[:, None] if pattern == "row" else keep, w.shape))
    assert same(found, want)


def test_tensors_are_left_out(tmp_path: Path) -> None:
    arrays = {"a.weight": matrix(), "b.weight": matrix(seed=1), "b.bias": np.zeros(4, np.float32)}
    source = save_folder(tmp_path / "m", arrays, shards=3)
    report = compress(source, tmp_path / "t", bits=8, drop="b.*")
    assert set(stored_tensors(tmp_path / "t")) == {"a.weight_packed", "a.weight_scale", "a.weight_shape"}
    assert "2 tensors are left out, 24,592 bytes; config.json stays as it is" in report.notes
    with pytest.raises(ValueError, match="no tensor can be compressed"):
        compress(source, tmp_path / "u", drop="*")
    assert not (tmp_path / "u").exists()


@pytest.mark.promise("fault-D7")
@pytest.mark.parametrize("drop", [None, "c.*"])
def test_folders_are_cut_anew(tmp_path: Path, drop: str | None) -> None:
    """The same bytes in files of a size, with an index over them that readers accept."""
    arrays = {f"{letter}.weight": matrix(seed=k) for k, letter in enumerate("abcdefg")}
    source = save_folder(tmp_path / "m", arrays, shards=2)
    compress(source, tmp_path / "whole", bits=8, drop=drop)
    for size in (13_000, "20KB", "1GiB"):
        target = tmp_path / f"t{size}"
        wish = plan(source, bits=8, max_shard_size=size, drop=drop)
        compress(source, target, bits=8, max_shard_size=size, drop=drop)
        assert_same_arrays(stored_tensors(target), stored_tensors(tmp_path / "whole"))
        files = {path.name: path.stat().st_size for path in target.glob("*.safetensors")}
        assert files == {shard.name: shard.size for shard in wish.shards}
        assert max(files.values()) <= {"20KB": 20_000, "1GiB": 2**30}.get(str(size), 13_000)
    assert [path.name for path in target.glob("*.safetensors*")] == ["model.safetensors"]
    report = compress(source, tmp_path / "alone", bits=8, max_shard_size=5000, drop=drop)
    said = f"{7 - bool(drop)} files of one tensor each are larger than max_shard_size 5,000, since tensors stay whole"
    assert [note for note in report.notes if note.startswith(said)]
    assert_same_arrays(stored_tensors(tmp_path / "alone"), stored_tensors(tmp_path / "whole"))
    with pytest.raises(ValueError, match=r"max_shard_size must be a number of bytes, such as 5GB, .* not 'much'"):
        compress(source, tmp_path / "u", bits=8, max_shard_size="much")
    single = save(tmp_path / "m.safetensors", arrays)
    with pytest.raises(ValueError, match="max_shard_size must not be given for one file"):
        compress(single, tmp_path / "u.safetensors", bits=8, max_shard_size="1GB")
    recipe = Recipe.from_toml('max_shard_size = "2GB"')
    assert recipe.max_shard_size == 2 * 10**9 and Recipe.from_toml(recipe.to_toml()) == recipe


# What cannot be asked for


@pytest.mark.promise("B42", "B46", "B48")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": 0.5, "threshold": 0.1}, r"threshold=0\.1 must not be given with prune=0\.5: each says"),
        ({"threshold": 0.1, "shrink_l1": 1.0}, r"shrink_l1=1\.0 must not be given with threshold=0\.1"),
        ({"threshold": -0.1}, r"threshold=-0\.1 must not be given with threshold_mode='magnitude', but .*'signed'"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"shrink_axis": 1}, "shrink_axis=1 must not be given without shrink_l1 or shrink_l2"),
        ({"prune": "2:4", "prune_pattern": "row"}, "prune_pattern='row' must not be given with prune='2:4'"),
        ({"prune": 0.5, "prune_pattern": "rows"}, r'prune_pattern must be "row", "column" or \(rows, cols\)'),
        ({"prune": 0.5, "prune_pattern": (0, 4)}, "prune_pattern must be an integer of 1"),
        ({"prune": 0.5, "prune_pattern": "row", "prune_axis": 1}, "prune_pattern='row' must not be given with"),
        ({"prune": "2:4", "prune_scope": "global"}, "prune_scope='global' must not be given with prune='2:4'"),
        ({"prune": 0.5, "prune_scope": "global", "prune_axis": 1}, "prune_scope='global' must not .* prune_axis=1"),
        ({"prune_axis": 1}, "prune_axis=1 must not be given without prune"),
        ({"prune_score": "random"}, "prune_score='random' must not be given without prune"),
        ({"threshold_mode": "soft"}, "threshold_mode='soft' must not be given without threshold"),
        ({"prune": 0.5, "prune_score": "l2"}, "prune_score='l2' must not be given without prune_pattern"),
        ({"prune": 0.5, "prune_score": "wanda"}, "prune_score='wanda' must not be given without prune_data"),
        ({"prune": 0.5, "prune_data": "x"}, "prune_data='x' must not be given with prune_score='magnitude'"),
        ({"prune": 0.5, "prune_score": "size"}, "prune_score must be one of 'magnitude', 'random', 'l1', 'l2'"),
        (
            {"prune": 0.5, "prune_pattern": (5, 4), "strict": True},
            r"tensor 'a\.weight': prune_pattern=\(5, 4\) needs rows and columns",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = save(tmp_path / "m.safetensors", {NAME: matrix()})
    with pytest.raises(ValueError, match=message):
        compress(source, tmp_path / "t.safetensors", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.promise("B46")
@pytest.mark.parametrize(
    ("score", "data", "message"),
    [
        ("taylor", {"b.weight": np.ones((96, 64), np.float32)}, r"must have a tensor 'a\.weight' for 'taylor'"),
        ("taylor", {NAME: np.ones((64, 96), np.float32)}, r"F32 or .* of shape \(96, 64\) for 'taylor', not F32"),
        ("wanda", {NAME: np.ones((96, 64), np.float32)}, r"of shape \(64,\) for 'wanda', not F32 of shape \(96, 64\)"),
        ("obd", {NAME: np.ones((96, 64), np.int32)}, "not I32 of shape"),
        ("wanda", {NAME: np.r_[np.ones(63), -1].astype(np.float32)}, "not negative for 'wanda', not -1.0 at"),
        ("wanda", {NAME: np.zeros(64, np.float32)}, r"byte \d+: prune_data must have a norm above 0 for 'wanda'"),
        ("given", {NAME: np.full((96, 64), np.nan, np.float32)}, "must be finite for 'given', not nan at flat index 0"),
        ("obd", {NAME: np.full((96, 64), 3e38, np.float32)}, "scores overflow float32"),
    ],
)
def test_data_that_does_not_fit(
    tmp_path: Path, score: str, data: Arrays, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", SMALL)
    source = save(tmp_path / "m.safetensors", {NAME: matrix() * np.float32(1e4)})
    file = save(tmp_path / "data.safetensors", data)
    for options in ({}, {"prune_scope": "global"}):
        with pytest.raises(ValueError, match=message) as caught:
            compress(source, tmp_path / "t.safetensors", prune=0.5, prune_score=score, prune_data=file, **options)  # type: ignore[arg-type]
        assert "safetensors" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.safetensors", "m.safetensors"]


@pytest.mark.promise("C56")
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_data_is_no_target(tmp_path: Path, overwrite: bool) -> None:
    source = save(tmp_path / "m.safetensors", {NAME: matrix()})
    data = save(tmp_path / "data.safetensors", {NAME: np.ones(64, np.float32)})
    before = data.read_bytes()
    rule = [{"match": NAME, "prune": 0.5, "prune_score": "wanda", "prune_data": str(data)}]
    with pytest.raises(ValueError, match=r"data\.safetensors' must not be the source"):
        compress(source, data, recipe={"rule": rule}, overwrite=overwrite)
    assert data.read_bytes() == before


WAYS_TO_LOOK = [{"prune_score": "random"}, {"prune_pattern": "row"}, {"prune_scope": "global"}]


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("options", WAYS_TO_LOOK, ids=str)
def test_weights_that_are_not_finite(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", SMALL)
    w = matrix()
    w[70, 3] = np.inf
    source = save(tmp_path / "m.safetensors", {NAME: w})
    with pytest.raises(ValueError, match=r"tensor 'a\.weight'.*must be finite, not inf at flat index 4483"):
        compress(source, tmp_path / "t.safetensors", prune=0.5, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("bug", ["ties", "counter", "first score"])
def test_a_planted_bug_in_the_streaming_is_found(tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", SMALL)
    w = np.round(weights(96, 64) * 8) / np.float32(8)
    score, data = "random", None
    if bug == "ties":
        score, data = "taylor", np.ones_like(w)
        monkeypatch.setattr(score_cut, "_ties_end", lambda *_: (0, 0))
    elif bug == "counter":
        from quantrim.model.prune import scores

        real = scores._Random.__call__
        monkeypatch.setattr(scores._Random, "__call__", lambda self, x, c: real(self, x, chunks.Chunk(0, 1, 0, x.size)))
    else:
        score, data = "taylor", np.ones_like(w)
        monkeypatch.setattr(pruner.Ranked, "first", lambda self, chunk: 0)
    found = pruned(tmp_path, w, data, prune=0.5, prune_score=score)
    want = qt.prune(w, 0.5, scores=qt.importance.random(w.shape, 0) if data is None else np.abs(w))
    assert not same(found, want)
