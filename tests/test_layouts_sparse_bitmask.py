"""Pruned weights as arrays of a checkpoint: beside what plain numpy says of the layout, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functions import FLOATS, Array, bits_of

import quantrim as qt
from quantrim.layouts import memory
from quantrim.layouts.base import Grid
from quantrim.layouts.sparse_bitmask import Sparse, from_entry

DTYPES = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
WORDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def pruned(rows: int = 9, cols: int = 44, dtype: Any = np.float32) -> Array:
    w = np.random.default_rng([rows, cols]).standard_normal((rows, cols)).astype(np.float32).astype(dtype)
    return np.asarray(qt.prune(w, 0.7))


def arrays_of(x: Array | qt.QuantizedTensor, scale_dtype: str = "float32") -> tuple[Sparse, dict[str, Array]]:
    """The layout of a tensor, and its arrays."""
    if isinstance(x, qt.QuantizedTensor):
        layout = Sparse("F32", 0, Grid(x.bits, x.group_size, x.symmetric, scale_dtype))
    else:
        layout = Sparse(WORDS[str(x.dtype)], 0)
    return layout.of_size(layout.count(x)), memory.encode(layout, x)


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
        layout, tensors = arrays_of(w)
        assert {n: (a.dtype, a.shape) for n, a in tensors.items()} == {
            "shape": (np.int64, (2,)),
            "bitmask": (np.uint8, (shape[0], -(-shape[1] // 8))),
            "row_offsets": (np.int64, (shape[0],)),
            "compressed": (np.dtype(dtype), (np.count_nonzero(w),)),
        }
        assert bits_of(restored(tensors)) == bits_of(w)
        assert bits_of(memory.decode(layout, tensors, shape)) == bits_of(w)


@pytest.mark.parametrize("group_size", [4, "channel"])
def test_int8_is_the_bitmask_of_the_signed_codes(group_size: int | str) -> None:
    q = qt.quantize(pruned(), 8, group_size=group_size)
    layout, tensors = arrays_of(q)
    assert tensors["compressed"].dtype == np.int8
    assert bits_of(restored(tensors)) == bits_of(q.codes())
    assert bits_of(memory.decode(layout, tensors, q.shape)) == bits_of(q)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_begin_each_row_on_a_byte(bits: int, symmetric: bool) -> None:
    q = qt.quantize(pruned(), bits, group_size=11, symmetric=symmetric, scale_dtype="float16")
    layout, tensors = arrays_of(q, "float16")
    assert ("compressed_packed" in tensors) is not (bits == 8 and symmetric)
    assert tensors["weight_scale"].dtype == np.float16
    assert bits_of(memory.decode(layout, tensors, q.shape)) == bits_of(q)
    if "compressed_packed" not in tensors:
        return
    zeros = np.full(q.scales.shape, 2 ** (bits - 1), np.uint8) if q.zero_points is None else q.zero_points
    codes = (qt.unpack(q.data, bits, 44).astype(np.int16) - np.repeat(zeros, 11, axis=1)) % 2**bits
    rows, begins = [], [0]
    for row in codes:
        kept = row[row != 0]
        stream = sum(int(code) << (k * bits) for k, code in enumerate(kept))
        rows.append(stream.to_bytes(-(-len(kept) * bits // 8), "little"))
        begins.append(begins[-1] + len(rows[-1]))
    assert tensors["compressed_packed"].tobytes() == b"".join(rows)
    assert tensors["row_offsets"].tolist() == begins[:-1]


def test_pruned_and_quantized_is_smaller_than_either() -> None:
    w = np.asarray(qt.prune(np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32), 0.7))
    q = qt.quantize(w, 4, group_size=128)
    both, pruned_only = (sum(a.nbytes for a in arrays_of(t)[1].values()) for t in (q, w))
    assert both < 0.6 * q.nbytes and both < 0.25 * pruned_only


@pytest.mark.promise("C64", "C66")
@pytest.mark.parametrize(
    "changes,words",
    [
        ({"shape": np.array([9, 43])}, r"shape must be \[9, 44\]"),
        ({"row_offsets": np.zeros(9, np.int64)}, "places of row 0 must have 0 bits set"),
        ({"row_offsets": np.arange(9)[::-1].copy()}, "row_offsets must be non-decreasing"),
        ({"row_offsets": np.full(9, 10**6)}, "row_offsets must be non-decreasing from 0 to at most"),
    ],
    ids=str,
)
def test_arrays_that_do_not_agree(changes: dict[str, Array], words: str) -> None:
    layout, tensors = arrays_of(pruned())
    with pytest.raises(ValueError, match=words):
        memory.decode(layout, tensors | changes, (9, 44))


ENTRY = {"layout": "sparse", "version": 2, "shape": [9, 44], "dtype": "F32"}


@pytest.mark.promise("C64", "C66")
@pytest.mark.parametrize(
    "changes,arrays,words",
    [
        ({}, {"bitmask": None}, "bitmask is missing"),
        ({}, {"compressed": None}, "compressed is missing"),
        ({}, {"weight_scale": ("F32", (9, 1))}, "weight_scale must not be there"),
        ({"bits": 4, "group_size": 4}, {}, "weight_scale is missing"),
        ({"bits": 4, "group_size": 4}, {"weight_scale": ("F32", (9, 11))}, "compressed_packed is missing"),
        ({"version": 1}, {}, "version must be 2, not 1"),
        ({"version": None}, {}, "version must be 2, not None"),
    ],
    ids=str,
)
def test_entries_that_do_not_agree(
    changes: dict[str, Any], arrays: dict[str, Any], words: str
) -> None:
    layout, tensors = arrays_of(pruned())
    infos = {name: info for name in tensors if (info := memory.InMemory(tensors).info(name))}
    assert from_entry(ENTRY, infos) == (layout, (9, 44))
    with pytest.raises(ValueError, match=words):
        from_entry(ENTRY | changes, {name: info for name, info in (infos | arrays).items() if info is not None})
