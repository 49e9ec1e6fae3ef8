"""Rows, columns and blocks pruned as a whole, streamed; recipes whose rules inherit how to prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_helpers import Arrays, assert_same_arrays, save, stored_tensors, weights
from numpy.typing import DTypeLike, NDArray

import quantrim as qt
from quantrim.model import Recipe, compress
from quantrim.model.prune import blocks as units
from quantrim.model.prune import cut as score_cut
from quantrim.model.streaming import chunks

Array = NDArray[Any]
SHAPES = {"a.weight": (48, 320), "b.weight": (4, 4096), "c.weight": (96, 64)}
CHUNKS = [(1200, 3), (1 << 14, 2), (1 << 30, 1)]  # bytes, threads
importance = qt.importance


def model(dtype: DTypeLike = np.float32) -> Arrays:
    arrays = {name: weights(*shape, dtype=dtype, seed=k) for k, (name, shape) in enumerate(SHAPES.items())}
    return arrays | {"a.bias": weights(48, dtype=dtype)}


def run_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: Arrays, expected: Arrays, options: dict[str, Any]
) -> None:
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    for chunk_bytes, threads in CHUNKS:
        monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        with qt.use_threads(threads):
            compress(source, target, bits=None, min_elements=0, overwrite=True, **options)
        assert_same_arrays(stored_tensors(target), {**arrays, **expected})


@pytest.mark.promise("B43")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("pattern", ["row", "column", (4, 32)], ids=str)
@pytest.mark.parametrize("score", ["l1", "l2"])
def test_norms_of_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: DTypeLike, pattern: Any, score: str
) -> None:
    arrays = model(dtype)
    expected = {}
    for name in SHAPES:
        w = arrays[name]
        if score == "l1":
            expected[name] = qt.prune(w, 0.5, pattern=pattern)
        elif isinstance(pattern, tuple):
            mask = qt.prune_mask(importance.l2(w, block=pattern), 0.5)
            expected[name] = qt.apply_mask(w, np.kron(mask, np.ones(pattern, bool)))
        else:
            mask = qt.prune_mask(importance.l2(w, axis=1 if pattern == "row" else 0), 0.5)
            mask = mask[:, None] if pattern == "row" else mask[None]
            expected[name] = qt.apply_mask(w, np.broadcast_to(mask, w.shape))
    run_all(tmp_path, monkeypatch, arrays, expected, {"prune": 0.5, "prune_pattern": pattern, "prune_score": score})


@pytest.mark.promise("fault-D14")
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("pattern", ["row", "column", (4, 16)], ids=str)
def test_norms_whose_squares_underflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: Any, dtype: DTypeLike
) -> None:
    """Streamed and in memory alike; every square is 0 in float32, and the lowest norms lie at the end."""
    arrays = {name: (w.astype(np.float32) * np.float32(1e-24)).astype(dtype) for name, w in model().items()}
    expected = {}
    for name, shape in SHAPES.items():
        arrays[name] = (arrays[name].astype(np.float32) * np.linspace(2, 1, shape[1], dtype=np.float32)).astype(dtype)
        w = arrays[name]
        axis = {"row": {"axis": 1}, "column": {"axis": 0}}.get(pattern, {"block": pattern})
        mask = qt.prune_mask(importance.l2(w, **axis), 0.5)
        mask = np.kron(mask, np.ones(pattern, bool)) if isinstance(pattern, tuple) else mask
        mask = mask[:, None] if pattern == "row" else mask
        expected[name] = qt.apply_mask(w, np.broadcast_to(mask, w.shape))
        assert importance.l2(w, **axis).all()
    run_all(tmp_path, monkeypatch, arrays, expected, {"prune": 0.5, "prune_pattern": pattern, "prune_score": "l2"})


@pytest.mark.promise("B43")
@pytest.mark.parametrize("pattern", ["row", "column", (4, 16)], ids=str)
def test_one_budget_for_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: Any) -> None:
    arrays = model()
    axis = {"row": {"axis": 1}, "column": {"axis": 0}}.get(pattern, {"block": pattern})
    masks = qt.pruning.global_masks({name: importance.l1(arrays[name], **axis) for name in SHAPES}, 0.5)
    expected = {}
    for name in SHAPES:
        w, mask = arrays[name], masks[name]
        if isinstance(pattern, tuple):
            mask = np.kron(mask, np.ones(pattern, bool))
        else:
            mask = mask[:, None] if pattern == "row" else mask[None]
        expected[name] = qt.apply_mask(w, np.broadcast_to(mask, w.shape))
    options = {"prune": 0.5, "prune_pattern": pattern, "prune_scope": "global"}
    run_all(tmp_path, monkeypatch, arrays, expected, options)


@pytest.mark.promise("B43")
def test_blocks_by_scores_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of scores that are negative, too, in one budget."""
    arrays = model()
    data = {name: np.round(weights(*shape, seed=9) * 16) / 16 for name, shape in SHAPES.items()}
    sums = {name: importance.reduce(importance.obd(arrays[name], data[name]), block=(4, 16)) for name in SHAPES}
    masks = qt.pruning.global_masks(sums, 0.4)
    expected = {n: qt.apply_mask(arrays[n], np.kron(masks[n], np.ones((4, 16), bool))) for n in SHAPES}
    options = {"prune": 0.4, "prune_pattern": (4, 16), "prune_scope": "global", "prune_score": "obd"}
    options["prune_data"] = save(tmp_path / "data.safetensors", data)
    run_all(tmp_path, monkeypatch, arrays, expected, options)


@pytest.mark.promise("B43")
@pytest.mark.parametrize("pattern", ["row", "column", (4, 16), (2, 1)], ids=str)
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_the_first_among_equals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: Any, scope: str) -> None:
    """Every unit scores the same."""
    arrays: Arrays = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    expected = {name: qt.prune(w, 0.3, pattern=pattern) for name, w in arrays.items()}
    if scope == "global":
        block = {"row": (1, 64), "column": (96, 1)}.get(pattern, pattern)
        arrays = {name: np.ones((96, 64), np.float32) for name in SHAPES}
        masks = qt.pruning.global_masks([np.ones((96 // block[0], 64 // block[1]), np.float32)] * 3, 0.3)
        expected = {name: np.kron(m, np.ones(block)).astype(np.float32) for name, m in zip(SHAPES, masks, strict=True)}
    options = {"prune": 0.3, "prune_pattern": pattern, "prune_scope": scope}
    run_all(tmp_path, monkeypatch, arrays, expected, options)


@pytest.mark.parametrize("pattern", ["row", "column", (1, 64)], ids=str)
def test_norms_are_compared_as_l2_rounds_them(tmp_path: Path, pattern: Any) -> None:
    """Two sums of squares, the first the larger one, that have the same root: the first goes."""
    w = np.zeros((64, 64), np.float32)
    w[:, 0] = 100
    w[0, :2], w[1, :2] = (1, 2.0**-11.5), (1, 0)
    assert qt.importance.l1(w * w, axis=1)[0] > qt.importance.l1(w * w, axis=1)[1]
    w = np.ascontiguousarray(w.T) if pattern == "column" else w
    source, target = save(tmp_path / "m.safetensors", {"a.weight": w}), tmp_path / "t.safetensors"
    compress(source, target, bits=None, prune=1 / 64, prune_pattern=pattern, prune_score="l2")
    found = stored_tensors(target)["a.weight"]
    assert [int(i) for i in np.argwhere((found != w).any(axis=0 if pattern == "column" else 1))[:, 0]] == [0]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 48])
def test_sums_of_columns_are_those_of_importance(rows: int) -> None:
    """Bit for bit, whatever the chunks; also of rows in pieces."""
    w = weights(131, 96, dtype=np.float16)

    class Pieces:
        def each(self, f: Any, step: int = 1) -> Any:
            for row in range(0, len(w), rows):
                for col, cols in ((0, 64), (64, 32)) if rows == 1 else ((0, 96),):
                    part = np.ascontiguousarray(w[row : row + rows, col : col + cols])
                    yield f(part, chunks.Chunk(row, len(part), col, cols))

    pieces: Any = Pieces()
    for power, norm in ((1, importance.l1), (2, importance.l2)):
        found = units.column_sums(pieces, w.shape, None, power)
        assert found.tobytes() == norm(w, axis=0).tobytes()
    found = units.column_sums(pieces, w.shape, lambda x, _: x.astype(np.float32), 0)
    assert found.tobytes() == importance.reduce(w, axis=0).tobytes()


@pytest.mark.promise("A1")
def test_sums_that_overflow(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": np.full((64, 64), 3e38, np.float32)})
    for pattern in ("row", "column", (4, 4)):
        for scope in ("tensor", "global"):
            with pytest.raises(ValueError, match=r"tensor 'a\.weight': (sums of )?scores .*overflow float32"):
                compress(
                    source, tmp_path / "t.safetensors", bits=None, prune=0.5, prune_pattern=pattern, prune_scope=scope
                )
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_data_is_found_beside_the_recipe(tmp_path: Path) -> None:
    """Its path is relative to the recipe's file, and no folder of this machine gets into the output."""
    arrays = model()
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    (tmp_path / "run").mkdir()
    norms = {name: np.abs(weights(shape[1], seed=4)) for name, shape in SHAPES.items()}
    save(tmp_path / "run" / "norms.safetensors", norms)
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(
        'bits = "none"\nprune = 0.5\nprune_axis = 1\nprune_score = "wanda"\nprune_data = "norms.safetensors"\n'
        '[[rule]]\nmatch = "b.*"\nprune = "none"\n[[rule]]\nmatch = "c.*"\nprune_score = "magnitude"\n'
    )
    report = compress(source, target, recipe=recipe)
    expected = {
        **arrays,
        "a.weight": qt.prune(
            arrays["a.weight"], 0.5, axis=1, scores=importance.wanda(arrays["a.weight"], norms["a.weight"])
        ),
        "c.weight": qt.prune(arrays["c.weight"], 0.5, axis=1),
    }
    assert_same_arrays(stored_tensors(target), expected)
    stored = {t.name: t.label for t in report.tensors}
    assert stored["a.weight"] == "F32, 50% per row pruned by wanda"
    assert tmp_path.name.encode() not in target.read_bytes()


def test_every_key_reads_back() -> None:
    text = (
        'prune = 0.5\nprune_score = "taylor"\nprune_data = "g"\nprune_pattern = [4, 8]\nprune_scope = "global"\n'
        '[[rule]]\nmatch = "a"\nprune = "none"\nthreshold = -0.1\nthreshold_mode = "signed"\n'
        '[[rule]]\nmatch = "b"\nprune = "none"\nshrink_l1 = 0.1\nshrink_l2 = 0.2\nshrink_axis = 1\n'
        '[[rule]]\nmatch = "c"\ndrop = true\n'
    )
    recipe = Recipe.from_toml(text)
    assert recipe.defaults.prune_pattern == (4, 8) and recipe.rules[2].settings.drop
    assert Recipe.from_toml(recipe.to_toml()) == recipe == Recipe.from_dict(recipe.as_dict())


@pytest.mark.parametrize(("bug", "pattern"), [("lanes", "column"), ("first", (4, 16)), ("ties", (4, 16))])
def test_a_planted_bug_in_the_streaming_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str, pattern: Any
) -> None:
    w = np.round(weights(64, 64) * 8) / np.float32(8)
    if bug == "lanes":  # sums that depend on their order
        w = np.repeat(np.random.default_rng(0).permutation(10.0 ** np.linspace(-6, 6, 64))[:, None], 64, 1)
        w = w.astype(np.float32)
        w[:, ::2] = np.roll(w[:, ::2], 5, axis=0)
        monkeypatch.setattr(units, "LANES", 1)
    elif bug == "first":
        w = np.ones_like(w)
        monkeypatch.setattr(units.RankedBlocks, "first", lambda *_: 0)
    else:
        w = np.ones_like(w)
        monkeypatch.setattr(score_cut, "_ties_end", lambda *_: (0, 0))
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1200)
    source, target = save(tmp_path / "m.safetensors", {"a.weight": w}), tmp_path / "t.safetensors"
    try:
        compress(source, target, bits=None, prune=0.5, prune_pattern=pattern)
    except (ValueError, IndexError):
        return  # found at once
    assert stored_tensors(target)["a.weight"].tobytes() != qt.prune(w, 0.5, pattern=pattern).tobytes()


@pytest.mark.parametrize("codes", [{"codebook": "nf4"}, {"clusters": 8}, {"bits": 4, "storage": "sparse"}], ids=str)
@pytest.mark.parametrize("pattern", ["row", "column", (4, 16)], ids=str)
def test_units_that_go_before_every_kind_of_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: dict[str, Any], pattern: Any
) -> None:
    """The same files as from weights that were pruned before, by scores of chance whose seed is told apart."""
    arrays, half = model(), {"prune": 0.5, "prune_pattern": pattern, "prune_score": "random", "seed": 5}
    pruned = {}
    for name in SHAPES:
        scores = importance.random(arrays[name].shape, 5)
        pruned[name] = qt.prune(arrays[name], 0.5, pattern=pattern, scores=scores)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    rest: dict[str, Any] = {"group_size": 16, "min_elements": 0, **codes}
    source, target = save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors"
    compress(source, target, **rest, **half)
    once = save(tmp_path / "o.safetensors", {**arrays, **pruned})
    compress(once, tmp_path / "u.safetensors", **rest)
    assert_same_arrays(stored_tensors(target), stored_tensors(tmp_path / "u.safetensors"))
