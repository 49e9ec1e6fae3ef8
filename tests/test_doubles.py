"""float64 is pruned as float64: what remains keeps its bits, and numbers that float32 has not are told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from functions import Array, bits_of

import quantrim as qt

T = 0.1
NEAR = np.array([T, np.nextafter(T, 0), -T, np.nextafter(-T, 0), 1e-300, -1e300, 0.0, -0.0, 0.7])  # one float32 at T
W = np.random.default_rng(0).standard_normal((24, 32))
CALLS: dict[str, Callable[..., Any]] = {
    "threshold": lambda w, **k: qt.threshold(w, T, **k),
    "threshold-signed": lambda w, **k: qt.threshold(w, T, mode="signed", **k),
    "threshold-soft": lambda w, **k: qt.threshold(w, T, mode="soft", **k),
    "prune": lambda w, **k: qt.prune(w, 0.5, **k),
    "prune-axis": lambda w, **k: qt.prune(w, 0.5, axis=0, **k),
    "prune-2:4": lambda w, **k: qt.prune(w, pattern="2:4", **k),
    "prune-block": lambda w, **k: qt.prune(w, 0.5, pattern=(2, 4), **k),
    "prune-scores": lambda w, **k: qt.prune(w, 0.5, scores=-W, **k),
    "apply_mask": lambda w, **k: qt.apply_mask(w, W > 0, **k),
    "shrink": lambda w, **k: qt.pruning.shrink(w, l1=T, l2=0.3, **k),
    "shrink-rows": lambda w, **k: qt.pruning.shrink(w, l1=5.5, axis=1, **k),
    "shrink-columns": lambda w, **k: qt.pruning.shrink(w, l1=4.9, l2=T, axis=0, **k),
}
by_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def test_thresholds_compare_in_float64() -> None:
    assert qt.threshold(NEAR, T).tolist() == [T, 0, -T, 0, 0, -1e300, 0, 0, 0.7]
    assert qt.threshold(NEAR, T, mode="signed").tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0.7]
    assert qt.threshold(NEAR, T, mode="soft").tolist() == [0, 0, 0, 0, 0, -1e300, 0, 0, 0.7 - T]
    assert qt.threshold(NEAR, 1e200).tolist() == [0, 0, 0, 0, 0, -1e300, 0, 0, 0]
    with pytest.raises(ValueError, match="t must be a number of"):
        qt.threshold(NEAR.clip(-1, 1).astype(np.float32), 1e200)


def test_the_smallest_and_largest_count() -> None:
    assert qt.sparsity(NEAR) == 2 / 9
    assert qt.sparsity(np.full(4, 5e-324)) == 0
    keep = np.arange(9) % 2 == 1
    assert bits_of(qt.apply_mask(NEAR, keep)) == bits_of(np.where(keep, NEAR, 0))


@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"pattern": "row"}, {"pattern": (4, 8)}], ids=str)
def test_pruning_keeps_bits_and_ranks_as_float32(options: dict[str, Any]) -> None:
    keep = qt.prune_mask(np.abs(W).astype(np.float32), 0.4, **options)
    assert bits_of(qt.prune(W, 0.4, **options)) == bits_of(np.where(keep, W, 0))
    keep = qt.prune_mask(np.abs(W).astype(np.float32), pattern="2:4")
    assert bits_of(qt.prune(W, pattern="2:4")) == bits_of(np.where(keep, W, 0))


def test_a_budget_for_a_model_keeps_bits() -> None:
    pruned = dict(qt.pruning.prune_model({"a": W, "b": W[:3].astype(np.float32)}, 0.5))
    keep = qt.pruning.global_masks({"a": np.abs(W), "b": np.abs(W[:3])}, 0.5)
    assert bits_of(pruned["a"]) == bits_of(np.where(keep["a"], W, 0))
    assert pruned["b"].dtype == np.float32


def test_shrinkage_in_float64() -> None:
    want = np.sign(W) * np.maximum(np.abs(W) - T, 0) / 1.3
    assert (qt.pruning.shrink(W, l1=T, l2=0.3) == want).all()
    for scale in (1.0, 2.0**700, 2.0**-700, 2.0**-1060):  # squares beyond float64, and weights with few bits left
        w = W * scale
        for axis in (0, 1):
            norm = np.linalg.norm(w / scale, axis=axis, keepdims=True)
            want = np.maximum(0, 1 - 6 * T / norm) * (w / scale)
            found = qt.pruning.shrink(w, l1=6 * T * scale, axis=axis) / scale
            assert np.allclose(found, want, rtol=1e-12, atol=2.0**-1074 / scale)
    assert not qt.pruning.shrink(np.zeros((2, 3)), l1=T, axis=1).any()
    assert qt.pruning.shrink(np.zeros((0, 3)), l1=T, axis=0).shape == (0, 3)


@by_call
def test_every_isa_layout_and_output(call: Callable[..., Any]) -> None:
    want = call(W)
    assert want.dtype == np.float64 and (want == 0).any() and (want != 0).any()
    for isa in qt.isas():
        with qt.use_isa(isa):
            for w in (W, W.astype(">f8"), np.asfortranarray(W), np.repeat(W, 2, axis=1)[:, ::2], W.tolist()):
                assert bits_of(call(w)) == bits_of(want)
            out = np.empty_like(W)
            assert call(W, out=out) is out and bits_of(out) == bits_of(want)
            own = W.copy()
            assert call(own, out=own) is own and bits_of(own) == bits_of(want)


@by_call
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_leaves_weights_as_they_were(call: Callable[..., Any], bad: float) -> None:
    w: Array = W.copy()
    w[3, 5] = bad
    before = w.tobytes()
    with pytest.raises(ValueError, match=f"w must be finite, but has 1 .* the first {bad} at flat index 101"):
        call(w, out=w)
    assert w.tobytes() == before


def test_integers_become_float32() -> None:
    assert qt.prune([3, -1, 2, 4], 0.5).dtype == qt.threshold(np.arange(4), 2).dtype == np.float32


def test_smaller_networks_keep_float64() -> None:
    layers = [(W, W[:, 0]), (W[:2, :24], None)]
    small = qt.splitting.remove_units(layers, [np.arange(24) % 2 == 0])
    assert bits_of(small[0][0]) == bits_of(W[::2]) and bits_of(small[0][1]) == bits_of(W[::2, 0])
    folded = qt.splitting.remove_units(layers, [np.arange(24) % 2 == 0], lambda b: b)
    assert folded[1][1].dtype == np.float64
