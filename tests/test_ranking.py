"""One order for the scores of several arrays: ranks, masks and pruned models, exact to the weight."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim.demo.digits import model_file
from quantrim.pruning import global_masks, prune_model

SHAPES = [(7, 5), (3,), (1, 1), (0, 4), (40, 33), (2, 3, 4)]


def model(seed: int, dtypes: tuple[Any, ...] = (np.float32,)) -> dict[str, Array]:
    """Arrays of few values, so that ties lie across them; zeros of both signs and negatives among them."""
    rng = np.random.default_rng(seed)
    values = np.array([-2, -1, -0.0, 0.0, 0.5, 1], np.float32)
    return {f"layer {i}": rng.choice(values, s).astype(dtypes[i % len(dtypes)]) for i, s in enumerate(SHAPES)}


def flat(arrays: dict[str, Array]) -> Array:
    return np.concatenate([a.reshape(-1).astype(np.float64) for a in arrays.values()])


def lowest(scores: Array, count: int) -> Array:
    gone = np.zeros(scores.size, np.bool_)
    gone[np.argsort(scores, kind="stable")[:count]] = True
    return gone


@pytest.mark.promise("B43")
@pytest.mark.parametrize("seed", range(3))
def test_rank_is_the_stable_order_of_all(seed: int) -> None:
    arrays = model(seed, tuple(FLOATS.values()))
    ranks = qt.importance.rank(arrays)
    assert list(ranks) == list(arrays) and [r.shape for r in ranks.values()] == SHAPES
    assert flat(ranks)[np.argsort(flat(arrays), kind="stable")].tolist() == list(range(flat(arrays).size))
    listed = qt.importance.rank(list(arrays.values()))
    assert [bits_of(r) for r in listed] == [bits_of(r) for r in ranks.values()]
    assert qt.importance.rank([]) == [] and qt.importance.rank({}) == {}


@pytest.mark.promise("B42", "B43")
@pytest.mark.parametrize("sparsity", [0, 1e-6, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1])
@pytest.mark.parametrize("isa", qt.isas())
def test_global_masks(isa: str, sparsity: float) -> None:
    """Exactly so many of all, whatever each array's part; of equals those of the first arrays."""
    with qt.use_isa(isa):
        for seed in range(3):
            arrays = model(seed, tuple(FLOATS.values()))
            masks = global_masks(arrays, sparsity)
            count = round(sparsity * flat(arrays).size)
            assert [m.shape for m in masks.values()] == SHAPES
            assert (flat(masks) == ~lowest(flat(arrays), count)).all()
            ranks = qt.importance.rank(arrays)
            assert all((m == (r >= count)).all() for m, r in zip(masks.values(), ranks.values(), strict=True))


@pytest.mark.promise("B43")
@pytest.mark.parametrize("threads", [1, 3])
def test_global_masks_of_large_arrays(threads: int) -> None:
    """Ties across slices of one array and across arrays, and values that share the upper half of their bits."""
    rng = np.random.default_rng(1)
    n = 700_001
    close = (1 + rng.integers(0, 2**14, n) * 2.0**-23).astype(np.float32)
    sets = {
        "normal": [rng.standard_normal(n, np.float32), rng.standard_normal(9, np.float32)],
        "few values": [rng.integers(-1, 2, n).astype(np.float32), rng.integers(-1, 2, n).astype(np.float32)],
        "all equal": [np.full(n, -1.5, np.float32), np.full(n, -1.5, np.float32)],
        "close": [close, -close, close],
        "extremes": [rng.choice(np.float32([3.4e38, -3.4e38, 1e-45, -1e-45, 0, -0.0]), n)],
    }
    with qt.use_threads(threads):
        for name, arrays in sets.items():
            for sparsity in (0.2, 0.5, 0.7):
                masks = global_masks(arrays, sparsity)
                whole = flat(dict(enumerate(arrays)))
                gone = lowest(whole, round(sparsity * whole.size))
                assert (np.concatenate(masks) == ~gone).all(), (name, sparsity)


@pytest.mark.promise("B43")
@pytest.mark.parametrize("sparsity", [0, 0.2, 0.5, 0.83, 1])
@pytest.mark.parametrize("isa", qt.isas())
def test_prune_model(isa: str, sparsity: float) -> None:
    """By magnitude, by scores, by a function; each array in its dtype; none touched."""
    with qt.use_isa(isa):
        arrays, scores = model(4, tuple(FLOATS.values())), model(5)
        before = {k: v.tobytes() for k, v in arrays.items()}
        count = round(sparsity * flat(arrays).size)
        for by, order in ((None, np.abs(flat(arrays))), (scores, flat(scores))):
            pruned = dict(prune_model(arrays, sparsity, scores=by))
            want = np.where(lowest(order, count), 0, flat(arrays))
            assert list(pruned) == list(arrays)
            assert [p.dtype for p in pruned.values()] == [a.dtype for a in arrays.values()]
            assert (flat(pruned) == want).all()
        called = dict(prune_model(arrays, sparsity, scores=lambda name, w: scores[name]))
        assert [bits_of(p) for p in called.values()] == [bits_of(p) for p in pruned.values()]
        assert {k: v.tobytes() for k, v in arrays.items()} == before


def test_one_array_is_what_prune_makes_of_it() -> None:
    w = np.random.default_rng(2).standard_normal((300, 411)).astype(np.float32)
    for sparsity in (0.1, 0.5, 0.99):
        assert bits_of(dict(prune_model({"w": w}, sparsity))["w"]) == bits_of(qt.prune(w, sparsity))
        assert bits_of(global_masks([w], sparsity)[0]) == bits_of(qt.prune_mask(w, sparsity))


def test_a_checkpoint_is_asked_for_one_array_at_a_time() -> None:
    """Three times each, and the array before is no longer held when the next is asked for."""

    class Arrays:
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.alive: list[weakref.ref[Array]] = []

        def __iter__(self) -> Iterator[str]:
            return iter(("a", "b", "c"))

        def __getitem__(self, name: str) -> Array:
            held = sum(r() is not None for r in self.alive)
            assert held <= 1  # the caller's last one, until it takes the next
            self.asked.append(name)
            w = np.full((100, 100), ord(name), np.float32)
            self.alive.append(weakref.ref(w))
            return w

    arrays = Arrays()
    sums = {name: float(w.sum()) for name, w in prune_model(arrays, 1 / 3)}
    assert sums == {"a": 0.0, "b": 98e4, "c": 99e4}
    assert arrays.asked == ["a", "b", "c"] * 3


def test_prune_model_of_a_file() -> None:
    with model_file() as path, qt.open_checkpoint(path) as checkpoint:
        pruned = dict(prune_model(checkpoint, 0.75))
        arrays = {name: tensor.numpy() for name, tensor in checkpoint.items()}
    sizes = sum(w.size for w in arrays.values())
    assert sum(int(np.count_nonzero(w == 0)) for w in pruned.values()) == round(0.75 * sizes)
    kept = max(float(np.abs(w[p == 0]).max()) for w, p in zip(arrays.values(), pruned.values(), strict=True))
    assert all(np.abs(p[p != 0]).min(initial=kept) == kept for p in pruned.values())


@pytest.mark.promise("B42")
@pytest.mark.parametrize("sparsity", [math.nan, -0.1, 1.0000001, "0.5", None, True], ids=repr)
def test_sparsity_out_of_range(sparsity: Any) -> None:
    for call in (global_masks, prune_model):
        with pytest.raises((ValueError, TypeError), match=r"sparsity must be a number of 0\.0\.\.1\.0, not"):
            call({"w": np.ones(3, np.float32)}, sparsity)


@pytest.mark.promise("B46")
def test_what_is_no_model() -> None:
    w = np.ones(3, np.float32)
    for wrong in (w, 3, "w", None):
        with pytest.raises(TypeError, match="scores must be a mapping or a list of arrays, not"):
            global_masks(wrong, 0.5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="scores must be a mapping or a list of arrays, not"):
            qt.importance.rank(wrong)  # type: ignore[call-overload]
    for listed in ([w], (w,), w, "w"):
        with pytest.raises(TypeError, match="weights must be arrays by name, not"):
            prune_model(listed, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"weights\['b'\] must be float32, .*, or integers, not bool"):
        prune_model({"a": w, "b": np.ones(3, np.bool_)}, 0.5)
    with pytest.raises(TypeError, match=r"scores\[1\] must be .*not <U1"):
        qt.importance.rank([w, np.array("w")])


@pytest.mark.promise("A1", "B46")
def test_bad_values_are_named_at_once() -> None:
    w, bad = np.ones(3, np.float32), np.float32([1, math.nan, 2])
    with pytest.raises(ValueError, match=r"weights\['b'\] must be finite, but has 1 .* flat index 1"):
        prune_model({"a": w, "b": bad}, 0.5)
    with pytest.raises(ValueError, match=r"weights\['b'\] must be finite"):
        prune_model({"a": w, "b": bad}, 0.5, scores={"a": w, "b": w})
    with pytest.raises(ValueError, match=r"scores\['b'\] must be finite"):
        prune_model({"a": w, "b": w}, 0.5, scores={"a": w, "b": bad})
    with pytest.raises(ValueError, match=r"scores\['b'\] must have shape \(3,\), not \(2,\)"):
        prune_model({"a": w, "b": w}, 0.5, scores={"a": w, "b": w[:2]})
    with pytest.raises(ValueError, match=r"scores\[1\] must be finite"):
        global_masks([w, bad], 0.5)
