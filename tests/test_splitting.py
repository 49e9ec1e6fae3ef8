"""Parts that are the whole again, and networks without their masked units that compute the same."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from functions import Array, bits_of

import quantrim as qt
from quantrim.demo.digits import LAYERS, held_out, model_file
from quantrim.splitting import merge, remove_units, split

Net = list[tuple[Array, Any]]
EPSILON = 2.0**-23  # a unit in the last place of a float32 near 1


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def run(layers: Net, x: Array, activation: Any = relu) -> Array:
    for i, (w, b) in enumerate(layers):
        x = x @ w.T + (0 if b is None else b)
        x = activation(x) if i < len(layers) - 1 else x
    return x


def network(seed: int, sizes: tuple[int, ...], bias: bool = True) -> Net:
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(sizes)
    return [
        (rng.standard_normal((o, i), np.float32), rng.standard_normal(o, np.float32) if bias else None)
        for i, o in pairs
    ]


def masked(layers: Net, keep: list[Array], biases: bool) -> Net:
    """Masked units lose their weights and, if `biases`, their bias."""
    whole = [*keep, np.ones(len(layers[-1][0]), np.bool_)]
    return [
        (np.where(k[:, None], w, 0), b if b is None or not biases else np.where(k, b, 0))
        for (w, b), k in zip(layers, whole, strict=True)
    ]


# split and merge

DTYPES: list[Any] = [
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    np.float64,
    np.int8,
    np.uint8,
    np.int64,
    np.bool_,
    "U3",
]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merge_undoes_split(dtype: Any, parts: int, axis: int) -> None:
    w = (np.arange(6 * 7 * 5).reshape(6, 7, 5) % 100).astype(dtype)
    cut = split(w, parts, axis)
    sizes = [p.shape[axis] for p in cut]
    assert len(cut) == parts and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    assert all(np.shares_memory(p, w) for p in cut)
    assert bits_of(merge(cut, axis)) == bits_of(w)
    uneven = [1, 0, w.shape[axis] - 1]
    assert [p.shape[axis] for p in split(w, uneven, axis)] == uneven
    assert bits_of(merge(split(w, uneven, axis), axis)) == bits_of(w)


def test_split_of_strided_arrays_and_of_nothing() -> None:
    w = np.arange(24, dtype=np.float32).reshape(4, 6)
    for a in (w.T, w[::-1, ::2], np.asfortranarray(w), np.broadcast_to(w[0], (4, 6)), w[:0], w[:, :0]):
        for axis in (0, 1):
            count = min(2, max(a.shape[axis], 1))
            assert bits_of(merge(split(a, count, axis), axis)) == bits_of(np.array(a, order="C"))


def test_layers_are_cut_between() -> None:
    layers = network(0, (3, 4, 5, 6, 7, 8))
    for parts in (1, 2, 3, 5, [2, 3], [0, 5]):
        cut = split(layers, parts)
        assert all(isinstance(part, list) for part in cut)
        merged = merge(cut)
        assert len(merged) == 5 and all(a is b for a, b in zip(merged, layers, strict=True))
    assert [len(part) for part in split(tuple(layers), 2)] == [3, 2]


def test_columns_and_rows_of_parts_compute_the_whole() -> None:
    """Tensor parallel: rows give parts of the result, columns give sums."""
    (w, b), x = network(1, (40, 30))[0], np.random.default_rng(2).standard_normal((5, 40), np.float32)
    rows = [x @ p.T for p in split(w, 4)]
    np.testing.assert_allclose(np.concatenate(rows, 1), x @ w.T, rtol=0, atol=100 * EPSILON)
    columns = [a @ p.T for a, p in zip(split(x, 3, 1), split(w, 3, 1), strict=True)]
    np.testing.assert_allclose(sum(columns) + b, x @ w.T + b, rtol=0, atol=100 * EPSILON)


@pytest.mark.promise("B41")
@pytest.mark.parametrize(
    "parts,error,words",
    [
        (0, ValueError, r"parts must be an integer of 1\.\.6, not 0"),
        (-1, ValueError, r"parts must be an integer of 1\.\.6"),
        (7, ValueError, r"parts must be an integer of 1\.\.6, not 7"),
        (2.0, TypeError, "parts must be an integer"),
        (True, TypeError, "parts must be an integer"),
        ("2", TypeError, "parts must be an integer"),
        ([3, 2], ValueError, r"parts must be sizes that add up to 6, not \[3, 2\]"),
        ([], ValueError, "parts must be sizes that add up to 6"),
        ([7, -1], ValueError, r"parts must be an integer of 0\.\.6"),
        ([3.0, 3.0], TypeError, "parts must be an integer"),
    ],
    ids=str,
)
def test_counts_of_parts_out_of_range(parts: Any, error: type[Exception], words: str) -> None:
    for whole in (np.zeros((6, 2)), list(range(6))):
        with pytest.raises(error, match=words):
            split(whole, parts)


@pytest.mark.promise("B45")
def test_axes_and_arrays_of_split_and_merge() -> None:
    w = np.zeros((6, 2), np.float32)
    for axis in (2, -3, 1.0, True):
        with pytest.raises((ValueError, TypeError), match=r"axis must be an integer of -2\.\.1"):
            split(w, 2, axis)  # type: ignore[arg-type]
        with pytest.raises((ValueError, TypeError), match=r"axis must be an integer of -2\.\.1"):
            merge([w], axis)  # type: ignore[arg-type]
    for axis in (1, True, "0"):
        with pytest.raises(ValueError, match="axis must be 0 for"):
            split([w, w], 2, axis)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="axis must be 0 for"):
            merge([[w], [w]], axis)  # type: ignore[arg-type]
    for hidden in (np.ma.masked_array(w), w.view(np.matrix)):
        with pytest.raises(TypeError, match="must be a plain array"):
            split(hidden, 2)
        with pytest.raises(TypeError, match=r"parts\[1\] must be a plain array"):
            merge([w, hidden])
    with pytest.raises(ValueError, match=r"w must have at least one axis, not shape \(\)"):
        split(np.float32(1), 1)


def test_parts_that_do_not_fit() -> None:
    w = np.zeros((6, 2), np.float32)
    with pytest.raises(TypeError, match=r"parts must have one dtype, not float32 and, in parts\[1\], float16"):
        merge([w, w.astype(np.float16)])
    with pytest.raises(
        ValueError, match=r"parts must be alike in all axes but 0, not \(6, 2\) and, in parts\[1\], \(6, 3\)"
    ):
        merge([w, np.zeros((6, 3), np.float32)])
    with pytest.raises(ValueError, match="parts must be alike in all axes but 1"):
        merge([w, w[0]], 1)
    with pytest.raises(ValueError, match="parts must not be empty"):
        merge([])
    for wrong in (w, 3, "w", {"a": w}):
        with pytest.raises(TypeError, match="parts must be a list of arrays or of lists, not"):
            merge(wrong)  # type: ignore[arg-type]


# remove_units


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, relu, np.tanh, np.cosh], ids=["silent", "relu", "tanh", "cosh"])
def test_the_smaller_network_computes_what_the_masked_one_did(activation: Any, bias: bool) -> None:
    """Units that are silent, or that put out activation(bias) forever; cosh does so even without a bias."""
    rng = np.random.default_rng(3)
    layers = network(4, (20, 30, 25, 7), bias)
    keep = [rng.random(30) < 0.5, rng.random(25) < 0.3]
    x = rng.standard_normal((50, 20), np.float32) * np.float32(0.1)
    small = remove_units(layers, keep, activation)
    assert [w.shape for w, _ in small] == [(keep[0].sum(), 20), (keep[1].sum(), keep[0].sum()), (7, keep[1].sum())]
    want = run(masked(layers, keep, biases=activation is None), x, activation or relu)
    scale = float(np.abs(want).max()) * 30
    np.testing.assert_allclose(run(small, x, activation or relu), want, rtol=0, atol=scale * EPSILON)
    assert all(w.flags.c_contiguous and w.dtype == np.float32 for w, _ in small)


def test_control_without_folding_the_result_is_another() -> None:
    layers, x = network(5, (8, 12, 4)), np.random.default_rng(6).standard_normal((9, 8), np.float32)
    keep = [np.arange(12) % 2 == 0]
    want = run(masked(layers, keep, biases=False), x)
    assert np.abs(run(remove_units(layers, keep), x) - want).max() > 0.1
    assert np.abs(run(remove_units(layers, keep, relu), x) - want).max() < 1e-5


def test_keep_as_a_mask_as_indices_and_none() -> None:
    layers = network(7, (5, 6, 4, 3))
    mask = np.array([True, False, True, True, False, True])
    by_mask = remove_units(layers, [mask, None])
    by_index = remove_units(layers, [np.flatnonzero(mask), [0, 1, 2, 3]])
    assert [bits_of(a) for pair in by_mask for a in pair] == [bits_of(a) for pair in by_index for a in pair]
    order = [5, 3, 2, 0]
    x = np.random.default_rng(8).standard_normal((4, 5), np.float32)
    np.testing.assert_allclose(
        run(remove_units(layers, [order, None]), x), run(by_mask, x), rtol=0, atol=50 * EPSILON
    )
    none = remove_units(layers, [None, None])
    assert [bits_of(a) for pair in none for a in pair] == [bits_of(a) for pair in layers for a in pair]
    assert not any(np.shares_memory(a, b) for p, q in zip(none, layers, strict=True) for a, b in zip(p, q, strict=True))


def test_no_unit_is_left() -> None:
    layers, x = network(9, (5, 6, 3)), np.ones((2, 5), np.float32)
    silent = run(remove_units(layers, [np.zeros(6, np.bool_)]), x)
    assert (silent == layers[1][1]).all()
    constant = run(remove_units(layers, [[]], relu), x)
    want = layers[1][1] + layers[1][0] @ relu(layers[0][1])
    np.testing.assert_allclose(constant, np.stack([want, want]), rtol=0, atol=20 * EPSILON)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_stays(dtype: Any) -> None:
    layers = [(w.astype(dtype), b.astype(dtype)) for w, b in network(10, (4, 6, 3))]
    small = remove_units(layers, [[1, 3]], relu)
    assert {a.dtype for pair in small for a in pair} == {np.dtype(dtype)}
    with pytest.raises(ValueError, match=r"layers\[1\] must have a folded bias within"):
        huge = layers[0][0], np.full(6, 60000 if dtype == np.float16 else 3e38, dtype)
        remove_units([huge, (np.ones((3, 6), dtype), None)], [[]], relu)


def test_channels_of_convolutions() -> None:
    """Filters of one layer and input channels of the next."""
    rng = np.random.default_rng(11)
    first, second = rng.standard_normal((8, 3, 3, 3), np.float32), rng.standard_normal((4, 8, 3, 3), np.float32)
    (a, b), (c, _) = remove_units([(first, np.ones(8, np.float32)), (second, None)], [[0, 5, 6]])
    assert bits_of(a) == bits_of(first[[0, 5, 6]]) and bits_of(c) == bits_of(second[:, [0, 5, 6]])
    assert b.tolist() == [1, 1, 1]  # type: ignore[union-attr]
    with pytest.raises(
        ValueError, match=r"layers\[1\] must have a weight of two axes to fold biases into it, not \(4, 8"
    ):
        remove_units([(first, np.ones(8, np.float32)), (second, None)], [[0, 5, 6]], relu)
    assert remove_units([(first, np.zeros(8)), (second, None)], [[0]], relu)[1][1] is None


@pytest.mark.promise("B46")
def test_what_remove_units_refuses() -> None:
    layers = network(12, (5, 6, 3))
    (w, b), last = layers
    bad: list[tuple[Any, Any, type[Exception], str]] = [
        ([], [], ValueError, r"layers must be a list of \(weight, bias\), one or more"),
        (w, [None], ValueError, "layers must be a list"),
        ([w, last], [None], ValueError, r"layers\[0\] must be \(weight, bias\), not ndarray"),
        ([(w, b, b), last], [None], ValueError, r"layers\[0\] must be \(weight, bias\), not tuple"),
        ([(w[0], None), last], [None], ValueError, r"layers\[0\] weight must be \(out, in, ...\), not of shape \(5,\)"),
        ([(w, b[:5]), last], [None], ValueError, r"layers\[0\] bias must have shape \(6,\), not \(5,\)"),
        ([(w.astype(bool), b), last], [None], TypeError, r"layers\[0\] weight must be float32.*not bool"),
        ([(w, b), (w, b)], [None], ValueError, r"layers\[1\] must have an input for each of 6 units before it, not 5"),
        (layers, [], ValueError, "keep must be a list of 1, one for each layer but the last, not 0"),
        (layers, [None, None], ValueError, "keep must be a list of 1, one for each layer but the last, not 2"),
        (layers, np.ones((1, 6), np.bool_), ValueError, "keep must be a list of 1"),
        (layers, [np.ones(5, np.bool_)], ValueError, r"keep\[0\] must mark each of 6 units, not be of shape \(5,\)"),
        (layers, [[0, 6]], ValueError, r"keep\[0\] must be units, 0\.\.5, not 6"),
        (layers, [[-1]], ValueError, r"keep\[0\] must be units, 0\.\.5, not -1"),
        (layers, [[1, 1]], ValueError, r"keep\[0\] must name each unit once"),
        (layers, [[1.0]], TypeError, r"keep\[0\] must be a bool mask, integers or None, not float64"),
        (layers, [3], TypeError, r"keep\[0\] must be a bool mask"),
        (layers, [np.ma.masked_array([0])], TypeError, r"keep\[0\] must be a plain array"),
    ]
    for given, keep, error, words in bad:
        with pytest.raises(error, match=words):
            remove_units(given, keep)
    for activation in (lambda x: x[:1], lambda x: x * np.nan, lambda x: 1.0):
        with pytest.raises(ValueError, match="activation must give a finite value for each of 4 biases"):
            remove_units(layers, [[0, 1]], activation)


# The network that reads digits


def digits() -> Net:
    with model_file() as path, qt.open_checkpoint(path) as model:
        return [(model[f"{name}.weight"].numpy(), model[f"{name}.bias"].numpy()) for name in LAYERS]


def halves(layers: Net) -> list[Array]:
    """Of each hidden layer the half of the units with the larger product of the norms of what goes in and out."""
    scores = [qt.importance.l2(w, 1) * qt.importance.l2(n, 0) for (w, _), (n, _) in itertools.pairwise(layers)]
    return [qt.prune_mask(s, 0.5) for s in scores]


def test_digits_without_half_of_their_units() -> None:
    """The same predictions as the masked network, on every held-out image, from a third of the weights."""
    layers, (images, labels) = digits(), held_out()
    keep = halves(layers)
    assert [int(k.sum()) for k in keep] == [128, 64]
    x = images.astype(np.float32) / 16
    for biases, activation in ((True, None), (False, relu)):
        small = remove_units(layers, keep, activation)
        whole = run(masked(layers, keep, biases), x)
        np.testing.assert_allclose(run(small, x), whole, rtol=0, atol=200 * EPSILON * float(np.abs(whole).max()))
        assert (run(small, x).argmax(1) == whole.argmax(1)).all()
    weights, fewer = (sum(w.size for w, _ in net) for net in (layers, small))
    assert fewer < weights / 2
    assert np.mean(run(small, x).argmax(1) == labels) > 0.8  # 0.986 whole; nothing was trained again
