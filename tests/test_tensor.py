"""QuantizedTensor: what it insists on, what it counts, what it gives back."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functions import bits_of

import quantrim as qt


def parts(**changes: Any) -> dict[str, Any]:
    """A valid 4-bit tensor of (3, 5) in groups of 2, with some parts changed."""
    good = {
        "data": np.zeros((3, 3), np.uint8),
        "scales": np.ones((3, 3), np.float32),
        "zero_points": None,
        "bits": 4,
        "group_size": 2,
        "shape": (3, 5),
    }
    return good | changes


def test_valid_tensors() -> None:
    assert qt.QuantizedTensor(**parts()).codes().tolist() == [[-8] * 5] * 3
    for group_size, shape in (
        (5, (3, 1)),
        (99, (3, 1)),
        ("channel", (3, 1)),
        ("tensor", (1, 1)),
        (1, (3, 5)),
    ):
        q = qt.QuantizedTensor(**parts(scales=np.ones(shape, np.float32), group_size=group_size))
        assert (q.dequantize() == -8).all()


@pytest.mark.promise("A38")
@pytest.mark.parametrize(
    "changes,words",
    [
        (
            {"data": np.zeros((3, 2), np.uint8)},
            r"data must have shape \(3, 3\) \(9 bytes\), not \(3, 2\) \(6 bytes\)",
        ),
        (
            {"data": np.zeros((3, 4), np.uint8)},
            r"data must have shape \(3, 3\) \(9 bytes\), not \(3, 4\) \(12 bytes\)",
        ),
        ({"data": np.zeros(9, np.uint8)}, r"data must have shape \(3, 3\)"),
        (
            {"scales": np.ones((3, 2), np.float32)},
            r"scales must have shape \(3, 3\) \(36 bytes\), not \(3, 2\)",
        ),
        ({"zero_points": np.zeros((3, 1), np.uint8)}, r"zero_points must have shape \(3, 3\)"),
        ({"shape": ()}, "shape must have at least one axis"),
        ({"shape": (3, -5)}, "shape must be an integer of 0"),
        ({"bits": 0}, r"bits must be an integer of 1\.\.8, not 0"),
        ({"bits": 9}, r"bits must be an integer of 1\.\.8, not 9"),
        ({"group_size": 0}, "group_size must be"),
        ({"group_size": "row"}, "group_size must be"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_arrays_of_another_size(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        qt.QuantizedTensor(**parts(**changes))


@pytest.mark.promise("A33")
@pytest.mark.parametrize(
    "changes",
    [
        {"data": np.zeros((3, 3), np.int8)},
        {"data": [[0] * 3] * 3},
        {"scales": np.ones((3, 3))},
        {"scales": np.ones((3, 3), ">f4")},
        {"zero_points": np.zeros((3, 3), np.float32)},
        {"bits": True},
        {"bits": 4.0},
        {"shape": (3.0, 5)},
        {"group_size": 2.0},
    ],
    ids=lambda v: next(iter(v)),
)
def test_arrays_of_wrong_type(changes: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(changes))} must be"):
        qt.QuantizedTensor(**parts(**changes))


def test_shapes_of_codebooks() -> None:
    """One for all, or one for each scale; codes past its end stand for its last value."""
    data = np.array([[0x10, 0x32, 0x0F]] * 3, np.uint8)
    q = qt.QuantizedTensor(**parts(data=data, codebook=np.array([-1, 2, 5], np.float32)))
    assert q.codes().tolist() == [[0, 1, 2, 3, 15]] * 3
    assert q.codes().dtype == np.uint8
    assert q.dequantize().tolist() == [[-1, 2, 5, 5, 5]] * 3
    assert q.nbytes == 9 + 36 + 12
    own = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    q = qt.QuantizedTensor(**parts(data=data, codebook=own))
    assert q.dequantize().tolist() == [[9 * r, 9 * r + 1, 9 * r + 5, 9 * r + 5, 9 * r + 8] for r in range(3)]
    wide = np.repeat(own, 2, -1)[..., ::2]
    assert qt.QuantizedTensor(**parts(data=data, codebook=wide)).dequantize().tolist() == q.dequantize().tolist()


@pytest.mark.promise("A33", "A38")
@pytest.mark.parametrize(
    "book,error,words",
    [
        (np.zeros(17, np.float32), ValueError, r"codebook must have 1\.\.16 values for 4 bits, not 17"),
        (np.zeros(0, np.float32), ValueError, r"codebook must have 1\.\.16 values for 4 bits, not 0"),
        (np.zeros((3, 4), np.float32), ValueError, r"codebook must have shape \(3, 3, 4\)"),
        (np.zeros((1, 3, 3, 4), np.float32), ValueError, r"codebook must have shape \(3, 3, 4\)"),
        (np.zeros((), np.float32), ValueError, r"codebook must have shape \(1,\)"),
        (np.array([0, np.nan], np.float32), ValueError, "codebook must be finite"),
        (np.zeros(4), TypeError, "codebook must be float32, not float64"),
        ([0.0, 1.0], TypeError, "codebook must be float32, not list"),
    ],
    ids=str,
)
def test_codebooks_of_wrong_type_or_size(book: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        qt.QuantizedTensor(**parts(codebook=book))


def test_codebook_excludes_zero_points() -> None:
    with pytest.raises(ValueError, match="zero_points must be None where there is a codebook"):
        qt.QuantizedTensor(**parts(codebook=np.zeros(4, np.float32), zero_points=np.zeros((3, 3), np.uint8)))


@pytest.mark.promise("B44")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0])
def test_scales_must_be_finite_and_with_a_codebook_not_negative(bad: float) -> None:
    scales = np.ones((3, 3), np.float32)
    scales[1, 2] = bad
    with pytest.raises(ValueError, match=f"scales must be finite and not negative, not {bad} at flat index 5"):
        qt.QuantizedTensor(**parts(scales=scales, codebook=np.ones(4, np.float32)))
    if bad == -1:
        assert qt.QuantizedTensor(**parts(scales=scales)).dequantize()[1].tolist() == [-8, -8, -8, -8, 8]
        return
    with pytest.raises(ValueError, match=f"scales must be finite, not {bad} at flat index 5"):
        qt.QuantizedTensor(**parts(scales=scales))


@pytest.mark.promise("B44")
def test_zero_points_must_be_codes() -> None:
    zeros = np.full((3, 3), 15, np.uint8)
    assert not qt.QuantizedTensor(**parts(zero_points=zeros)).symmetric
    zeros[2, 0] = 16
    with pytest.raises(ValueError, match="zero_points must be codes of 4 bits, at most 15, not 16"):
        qt.QuantizedTensor(**parts(zero_points=zeros))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_sizes(bits: int, symmetric: bool) -> None:
    q = qt.quantize(np.ones((6, 50), np.float32), bits, group_size=16, symmetric=symmetric)
    data, groups = 6 * -(-50 * bits // 8), 6 * 4
    assert q.nbytes == data + 4 * groups + (0 if symmetric else groups)
    assert q.bits_per_weight == 8 * q.nbytes / 300
    assert q.symmetric is symmetric
    assert q.codes().dtype == (np.int8 if symmetric else np.uint8)


def test_frozen() -> None:
    q = qt.QuantizedTensor(**parts())
    with pytest.raises(dataclasses.FrozenInstanceError):
        q.bits = 8  # type: ignore[misc]


def test_strided_arrays_are_read_as_they_are() -> None:
    """A view of somebody's file need not be contiguous."""
    w = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    q = qt.quantize(w, 4, group_size=16, symmetric=False)
    assert q.zero_points is not None
    wide: dict[str, Any] = {
        name: np.repeat(getattr(q, name), 2, axis=-1)[:, ::2] for name in ("data", "scales", "zero_points")
    }
    view = dataclasses.replace(q, **wide)
    assert not view.data.flags.c_contiguous
    assert (view.dequantize() == q.dequantize()).all()
    assert (view.codes() == q.codes()).all()


# What a programmer expects of a container

W = np.random.default_rng(5).standard_normal((6, 50)).astype(np.float32)
CONTAINERS: dict[str, Any] = {
    "QuantizedTensor(int4 group 16, 6x50, 6.56 bits/weight)": qt.quantize(W, 4, group_size=16),
    "QuantizedTensor(uint3 per channel, 6x50, 3.84 bits/weight)": qt.quantize(W, 3, symmetric=False),
    "QuantizedTensor(16-value codebook per tensor, 300, 5.81 bits/weight)": qt.cluster(W.ravel(), 16),
    "SparseTensor(float16 csr, 6x50, sparsity 0.9, 4.69 bits/weight)": qt.sparse.from_dense(
        qt.prune(W, 0.9).astype(np.float16), "csr"
    ),
    "SparseTensor(int4 group 16 2:4, 6x48, sparsity 0.5, 5.0 bits/weight)": qt.sparse.from_dense(
        qt.quantize(qt.prune(W[:, :48], pattern="2:4"), 4, group_size=16), "2:4"
    ),
}
by_container = pytest.mark.parametrize("t", CONTAINERS.values(), ids=CONTAINERS)


@pytest.mark.parametrize("words", CONTAINERS)
def test_repr_is_one_line(words: str) -> None:
    assert repr(CONTAINERS[words]) == words


@by_container
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_hold_the_same_and_own_what_they_hold(t: Any, again: Callable[[Any], Any]) -> None:
    other = again(t)
    assert type(other) is type(t) and repr(other) == repr(t) and bits_of(other) == bits_of(t)
    shared = [np.shares_memory(a, b) for a, b in zip(t.arrays(), other.arrays(), strict=True)]
    assert shared == [again is copy.copy] * len(shared)
    assert other != t and t == t  # by identity


@by_container
def test_dictionaries_and_npz_files(t: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **t.to_dict())
    with np.load(tmp_path / "t.npz") as saved:
        for fields in (t.to_dict(), saved):
            other = type(t).from_dict(fields)
            assert bits_of(other) == bits_of(t) and repr(other) == repr(t)
    with pytest.raises(ValueError, match=r"(scales|values) must have shape|must be None"):
        type(t).from_dict(t.to_dict() | {"scales": np.ones(3, np.float32)})


@by_container
def test_numpy_reads_the_weights(t: Any) -> None:
    dense = t if isinstance(t, qt.QuantizedTensor) else t.to_dense()
    want = dense.dequantize() if isinstance(dense, qt.QuantizedTensor) else dense
    assert bits_of(np.asarray(t)) == bits_of(want)
    for dtype in ("float16", "float64"):
        assert bits_of(np.asarray(t, dtype)) == bits_of(want.astype(dtype))
    assert np.abs(t).shape == t.shape if isinstance(t, qt.QuantizedTensor) else True
    with pytest.raises(ValueError, match="copy must not be False"):
        t.__array__(copy=False)


def test_dequantize_into() -> None:
    q = qt.quantize(W, 4)
    out = np.empty(W.shape, np.float16)
    assert q.dequantize(out=out) is out and bits_of(out) == bits_of(q.dequantize(np.float16))


@pytest.mark.interop
def test_scipy_holds_the_same_matrix() -> None:
    scipy_sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    for t in CONTAINERS.values():
        if isinstance(t, qt.SparseTensor):
            s = t.to_scipy()
            assert isinstance(s, scipy_sparse.csr_array) and s.dtype == np.float32
            assert (s.toarray() == np.asarray(t)).all() and s.nnz == np.count_nonzero(np.asarray(t))


def test_scipy_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match=r"SparseTensor.to_scipy\(\) needs scipy: pip install scipy"):
        qt.sparse.from_dense(W).to_scipy()
