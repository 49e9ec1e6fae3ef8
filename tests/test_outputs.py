"""Arrays that callers bring for results: used as they are, in place where that works, or refused at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functions import FUNCTIONS, Array, Function, bits_of

import quantrim as qt

WITH_OUT = [f for f in FUNCTIONS if f.out]
IN_PLACE = [f for f in FUNCTIONS if f.in_place]
with_out = pytest.mark.parametrize("f", WITH_OUT, ids=lambda f: f.name)
in_place = pytest.mark.parametrize("f", IN_PLACE, ids=lambda f: f.name)
SHAPE = (6, 8)


def output_for(f: Function, a: Array) -> Array:
    assert f.out
    shape, dtype = f.out(a)
    return np.full(shape, 77, dtype)


def refused(f: Function, a: Array, out: Any, error: type[Exception], words: str) -> None:
    """The error names what is wrong, and no byte of `out` has changed."""
    before = np.asarray(out).tobytes()
    with pytest.raises(error, match=words):
        f.call(a, out=out)
    assert np.asarray(out).tobytes() == before


@with_out
def test_results_go_to_out(f: Function) -> None:
    for dtype in f.dtypes:
        a = f.values(1, SHAPE, dtype)
        out = output_for(f, a)
        assert f.call(a, out=out) is out
        assert bits_of(out) == bits_of(f.call(a))


@pytest.mark.promise("A33")
@with_out
def test_wrong_dtype(f: Function) -> None:
    a = f.values(1, SHAPE, f.dtypes[0])
    good = output_for(f, a)
    for dtype in {np.dtype(d) for d in ("f4", "f8", "f2", "i1", "u1", "i4", ">f4")} - {good.dtype}:
        refused(f, a, np.ones(good.shape, dtype), TypeError, f"must be .*not {dtype}")


@pytest.mark.promise("A33")
@with_out
def test_not_an_array(f: Function) -> None:
    a = f.values(1, SHAPE, f.dtypes[0])
    good = output_for(f, a)
    refused(f, a, good.tolist(), TypeError, "out must be a plain ndarray, not list")
    refused(f, a, np.ma.masked_array(good), TypeError, "out must be a plain ndarray, not MaskedArray")


@pytest.mark.promise("A33")
@with_out
def test_wrong_shape(f: Function) -> None:
    a = f.values(1, SHAPE, f.dtypes[0])
    good = output_for(f, a)
    for wrong in (good[:-1], good.reshape(1, *good.shape), good.reshape(-1, 2)):
        refused(f, a, wrong.copy(), ValueError, r"out must have shape \(.*\), not \(")


@pytest.mark.promise("A31")
@with_out
def test_read_only(f: Function) -> None:
    a = f.values(1, SHAPE, f.dtypes[0])
    out = output_for(f, a)
    out.flags.writeable = False
    refused(f, a, out, ValueError, "out must be writeable")


@pytest.mark.promise("A27", "A33")
@with_out
def test_strided_or_misaligned(f: Function) -> None:
    a = f.values(1, SHAPE, f.dtypes[0])
    good = output_for(f, a)
    wide = np.full((*good.shape, 2), 77, good.dtype)
    broadcast = np.lib.stride_tricks.as_strided(good, good.shape, (0,) * good.ndim)
    for strided in (wide[..., 0], good[::-1], broadcast):
        refused(f, a, strided, ValueError, "out must be C-contiguous and aligned")
    if good.itemsize > 1:
        shifted = np.zeros(good.nbytes + 1, np.uint8)[1:].view(good.dtype).reshape(good.shape)
        refused(f, a, shifted, ValueError, "out must be C-contiguous and aligned")


@pytest.mark.promise("A32")
@with_out
@pytest.mark.parametrize("shift", [-8, -1, 1, 8, 24])
def test_partial_overlap(f: Function, shift: int) -> None:
    """Input and output share memory, `shift` elements of the output apart."""
    sample = f.values(1, SHAPE, f.dtypes[0])
    good = output_for(f, sample)
    memory = np.zeros(4096, np.uint8)
    a = memory[1024 : 1024 + sample.nbytes].view(sample.dtype).reshape(SHAPE)
    a[...] = sample
    start = 1024 + shift * good.itemsize
    out = memory[start : start + good.nbytes].view(good.dtype).reshape(good.shape)
    if np.may_share_memory(a, out):
        refused(f, a, out, ValueError, "out must be (an input itself or )?apart from")


@pytest.mark.promise("A32")
@with_out
def test_output_of_another_layout_over_the_input(f: Function) -> None:
    """A reversed input is copied first, so that its own memory may receive the results."""
    a = f.values(1, SHAPE, np.float32 if f.kind == "floats" else f.dtypes[0])
    want = f.call(a[::-1].copy())
    if want.shape == a.shape and want.dtype == a.dtype:
        assert bits_of(f.call(a[::-1], out=a)) == bits_of(want)


@pytest.mark.promise("A32")
@in_place
def test_in_place(f: Function) -> None:
    for rows in (1, 6, 700):
        a = f.values(2, (rows, 120), np.float32)
        want = bits_of(f.call(a.copy()))
        assert f.call(a, out=a) is a
        assert bits_of(a) == want


@pytest.mark.promise("A1")
@in_place
@pytest.mark.parametrize("position", [0, 19, 47])
def test_nan_leaves_an_array_in_place_as_it_was(f: Function, position: int) -> None:
    a = f.values(3, SHAPE, np.float32)
    a.reshape(-1)[position] = np.nan
    before = a.tobytes()
    with pytest.raises(ValueError, match=f"1 NaN or infinite of 48 values, the first nan at flat index {position}"):
        f.call(a, out=a)
    assert a.tobytes() == before


@pytest.mark.promise("A1")
def test_nan_in_the_other_input_leaves_an_array_in_place_as_it_was() -> None:
    w = np.array([1, 2, 3, 4], np.float32)
    bad = np.array([9, 8, 7, np.nan], np.float32)
    before = w.tobytes(), bad.tobytes()
    with pytest.raises(ValueError, match="grad must be finite"):
        qt.importance.taylor(w, bad, out=w)
    for out in (w, bad):
        with pytest.raises(ValueError, match="scores must be finite"):
            qt.prune(w, 0.5, scores=bad, out=out)
        with pytest.raises(ValueError, match="w must be finite"):
            qt.prune(bad, 0.5, scores=w, out=out)
    assert (w.tobytes(), bad.tobytes()) == before


@pytest.mark.promise("A32")
def test_second_inputs_are_not_overwritten_partly() -> None:
    memory = np.ones(12, np.float32)
    w, norm = np.ones((2, 4), np.float32), memory[:4]
    with pytest.raises(ValueError, match="overlap"):
        qt.importance.wanda(w, norm, out=memory[:8].reshape(2, 4))
    mask = np.ones(16, np.bool_)
    with pytest.raises(ValueError, match="overlap"):
        qt.apply_mask(np.ones(4, np.float32), mask[:4], out=mask.view(np.float32))
    assert (memory == 1).all() and mask.all()


# A QuantizedTensor to be filled


def test_quantize_fills_a_tensor_again() -> None:
    w = np.random.default_rng(0).standard_normal((5, 70)).astype(np.float32)
    every: list[dict[str, Any]] = [{"group_size": "tensor", "symmetric": False}, {"bits": 3}, {"scale": "mse"}]
    for options in every:
        want = qt.quantize(w, **options)
        again = qt.quantize(-w[:, ::-1], **options)
        assert bits_of(again) != bits_of(want)
        assert qt.quantize(w, **options, out=again) is again
        assert bits_of(again) == bits_of(want)


def test_quantize_refuses_a_tensor_of_another_layout() -> None:
    w = np.ones((4, 8), np.float32)
    for other in (
        qt.quantize(w[:2]),
        qt.quantize(w, 4),
        qt.quantize(w, group_size=4),
        qt.quantize(w, symmetric=False),
    ):
        before = bits_of(other)
        with pytest.raises(ValueError, match=r"out must have \(shape, bits, group_size, symmetric\)"):
            qt.quantize(w, out=other)
        assert bits_of(other) == before
    with pytest.raises(ValueError, match=r"out must have a codebook of shape None, not \(16,\)"):
        qt.quantize(w, 4, group_size=64, out=qt.quantize_codebook(w, "nf4"))
    with pytest.raises(TypeError, match="out must be a QuantizedTensor, not ndarray"):
        qt.quantize(w, out=np.zeros((4, 8), np.uint8))  # type: ignore[arg-type]


@pytest.mark.promise("A31")
def test_quantize_refuses_read_only_arrays() -> None:
    w = np.ones((4, 8), np.float32)
    for part in ("data", "scales", "zero_points"):
        q = qt.quantize(w, symmetric=False)
        getattr(q, part).flags.writeable = False
        with pytest.raises(ValueError, match=f"out.{part} must be writeable"):
            qt.quantize(w, symmetric=False, out=q)


@pytest.mark.promise("A32")
def test_codes_and_weights_may_not_share_memory() -> None:
    w = np.ones((4, 1), np.float32)
    scales_over_w = qt.QuantizedTensor(np.zeros((4, 1), np.uint8), w, None, 8, "channel", (4, 1))
    data_over_w = qt.QuantizedTensor(w.view(np.uint8)[:, :1].reshape(4, 1).copy(), w.copy(), None, 8, "channel", (4, 1))
    with pytest.raises(ValueError, match=r"out\.scales must be apart"):
        qt.quantize(w, out=scales_over_w)
    with pytest.raises(ValueError, match="out must be apart"):
        qt.dequantize(data_over_w, out=data_over_w.scales)
    assert (w == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dequantize_to_out(dtype: str) -> None:
    w = np.random.default_rng(1).standard_normal((5, 70)).astype(np.float32)
    q = qt.quantize(w, 4, group_size=32)
    out = np.empty((5, 70), np.dtype(dtype))
    assert qt.dequantize(q, out=out) is out
    assert bits_of(out) == bits_of(q.dequantize(dtype=dtype)) == bits_of(q.dequantize().astype(out.dtype))


@pytest.mark.promise("A33")
def test_dequantize_refuses() -> None:
    q = qt.quantize(np.ones((4, 8), np.float32))
    for out, error in (
        (np.empty((4, 8), np.float64), TypeError),
        (np.empty((4, 8), ">f4"), TypeError),
        ([1.0], TypeError),
        (np.empty((8, 4), np.float32), ValueError),
        (np.empty((8, 4), np.float32).T, ValueError),
        (np.broadcast_to(np.float32(0), (4, 8)), ValueError),
    ):
        with pytest.raises(error, match="must"):
            qt.dequantize(q, out=out)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype must be float32, float16 or bfloat16, not float64"):
        qt.dequantize(q, dtype=np.float64)
    with pytest.raises(TypeError, match="q must be a QuantizedTensor, not ndarray"):
        qt.dequantize(np.zeros(3))  # type: ignore[arg-type]
