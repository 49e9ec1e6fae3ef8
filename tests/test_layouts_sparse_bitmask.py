"""Pruned weights as tensors of a checkpoint: beside what plain numpy says of the format, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim.layouts import sparse_bitmask as layout

DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)


def pruned(rows: int = 9, cols: int = 44, dtype: Any = np.float32) -> Array:
    w = np.random.default_rng([rows, cols]).standard_normal((rows, cols)).astype(np.float32).astype(dtype)
    return np.asarray(qt.prune(w, 0.7))


def restored(tensors: dict[str, Array]) -> Array:
    """The dense matrix of `shape`, `bitmask` and `compressed`, row by row from `row_offsets`."""
    rows, cols = tensors["shape"].tolist()
    mask = np.unpackbits(tensors["bitmask"], axis=-1, count=cols, bitorder="little").astype(np.bool_)
    out = np.zeros((rows, cols), tensors["compressed"].dtype)
    for r in range(rows):
        first = tensors["row_offsets"][r]
        out[r, mask[r]] = tensors["compressed"][first : first + mask[r].sum()]
    return out


@DTYPES
def test_float_weights(dtype: Any) -> None:
    for shape in ((9, 44), (1, 1), (3, 8), (0, 5), (4, 0)):
        w = pruned(*shape, dtype)
        tensors = layout.encode(qt.sparse.encode(w))
        assert {n: (a.dtype, a.shape) for n, a in tensors.items()} == {
            "shape": (np.int64, (2,)),
            "bitmask": (np.uint8, (shape[0], -(-shape[1] // 8))),
            "row_offsets": (np.int64, (shape[0],)),
            "compressed": (np.dtype(dtype), (np.count_nonzero(w),)),
        }
        assert bits_of(restored(tensors)) == bits_of(w)
        assert bits_of(layout.decode(tensors).decode()) == bits_of(w)


@pytest.mark.parametrize("group_size", [4, "channel"])
def test_int8_is_the_bitmask_of_the_signed_codes(group_size: int | str) -> None:
    q = qt.quantize(pruned(), 8, group_size=group_size)
    tensors = layout.encode(qt.sparse.encode(q))
    assert tensors["compressed"].dtype == np.int8
    assert bits_of(restored(tensors)) == bits_of(q.codes())
    assert bits_of(layout.decode(tensors, bits=8, group_size=group_size).decode()) == bits_of(q)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes(bits: int, symmetric: bool) -> None:
    q = qt.quantize(pruned(), bits, group_size=11, symmetric=symmetric, scale_dtype="float16")
    tensors = layout.encode(qt.sparse.encode(q))
    assert ("compressed_packed" in tensors) is not (bits == 8 and symmetric)
    tensors["weight_scale"] = tensors["weight_scale"].astype(np.float16)
    back = layout.decode(tensors, bits=bits, group_size=11)
    assert bits_of(back.decode()) == bits_of(q)


def test_pruned_and_quantized_is_smaller_than_either() -> None:
    w = np.asarray(qt.prune(np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32), 0.7))
    q = qt.quantize(w, 4, group_size=128)
    both, pruned_only = (sum(a.nbytes for a in layout.encode(qt.sparse.encode(t)).values()) for t in (q, w))
    assert both < 0.6 * q.nbytes and both < 0.25 * pruned_only


@pytest.mark.parametrize(
    "changes,options,error,words",
    [
        ({"bitmask": None}, {}, ValueError, "bitmask is missing"),
        ({"weight_scale": np.ones((9, 1), np.float32)}, {}, ValueError, "weight_scale must not be there"),
        ({}, {"bits": 4, "group_size": 4}, ValueError, "compressed_packed is missing"),
        ({}, {"bits": 8, "group_size": 4}, ValueError, "weight_scale is missing"),
        ({"shape": np.array([9, 43])}, {}, ValueError, "places of row"),
        ({"shape": np.array([-9, 44])}, {}, ValueError, "shape must be an integer of 0"),
        ({"shape": np.array([9.0, 44])}, {}, TypeError, "shape must be int64"),
        ({"shape": np.array([9])}, {}, ValueError, r"shape must have shape \(2,\)"),
        ({"row_offsets": np.zeros(9, np.int64)}, {}, ValueError, "places of row 0 must have 0 bits set"),
        ({"row_offsets": np.zeros(8, np.int64)}, {}, ValueError, r"row_offsets must have shape \(9,\)"),
        ({"compressed": np.zeros(3, np.float32)}, {}, ValueError, "offsets must not fall"),
        ({"compressed": np.zeros(3, np.float64)}, {}, TypeError, "values must be float32"),
    ],
    ids=str,
)
def test_C64_C66_tensors_that_do_not_agree(
    changes: dict[str, Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    tensors = layout.encode(qt.sparse.encode(pruned())) | changes
    with pytest.raises(error, match=words):
        layout.decode({n: a for n, a in tensors.items() if a is not None}, **options)


def test_what_has_no_such_form_is_refused() -> None:
    with pytest.raises(ValueError, match="layout must be \"bitmask\" of a matrix, not 'csr'"):
        layout.encode(qt.sparse.encode(pruned(), "csr"))
    with pytest.raises(ValueError, match="group_size must be an integer or \"channel\", not 'tensor'"):
        layout.encode(qt.sparse.encode(qt.quantize(pruned(), group_size="tensor")))
    with pytest.raises(TypeError, match="s must be a SparseTensor, not ndarray"):
        layout.encode(pruned())  # type: ignore[arg-type]
